"""The Gauss-Newton sums on CPUs: sample, weight and sum in one pass over each row.

Same meaning as the torch sums of `kernels.normal`, which its test holds; a few times
faster, and indifferent to other libraries' threads, since it brings none: compiled
code without the GIL is called from a small pool. Sums are float32 along a row and
float64 beyond, chunk by chunk in a fixed order, so the number of threads changes no bit.

The moving image comes with its gradient, channels last, so that a neighbour is one place in
memory. A row is sampled into buffers that stay in the cache and is then summed in
vectors.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from daskreg.kernels.sample_numba import jit

# Rows of the buffer: weight, warped, difference, gradient along each axis.
_V, _W, _D, _G = 0, 1, 2, 3


@jit
def _ramp(u: Any, n: Any, width: Any) -> Any:
    """The weight of a coordinate for the edges of an axis, as `normal.edge_weight`."""
    edge = (min(u, np.float32(n - 1) - u) + np.float32(0.5)) / width
    return min(max(edge, np.float32(0.0)), np.float32(1.0))


@jit
def _cell(u: Any, n: Any) -> Any:
    """Lower neighbour and fraction of a coordinate, clamped to the axis."""
    clamped = min(max(u, np.float32(0.0)), np.float32(n - 1))
    low = min(np.int64(clamped), max(n - 2, 0))
    return low, clamped - np.float32(low)


@jit(fastmath={"contract"})
def _sample_row_2d(channels: Any, cover: Any, widths: Any, line: Any, row: Any, buffer: Any) -> None:
    """Sample one row of the fixed grid: fills the buffer."""
    fixed, weight = row
    ny, nx = channels.shape[:2]
    dy, dx = (1 if ny > 1 else 0), (1 if nx > 1 else 0)
    masked = cover.shape[0] > 0
    for j in range(len(fixed)):
        uy = np.float32(line[0, 0] + line[0, 1] * j)
        ux = np.float32(line[1, 0] + line[1, 1] * j)
        v = weight[j] * _ramp(uy, ny, widths[0]) * _ramp(ux, nx, widths[1])
        if not v > 0:
            for k in range(5):
                buffer[k, j] = 0
            continue
        iy, fy = _cell(uy, ny)
        ix, fx = _cell(ux, nx)
        gy, gx = np.float32(1.0) - fy, np.float32(1.0) - fx
        a, b, c, d = gy * gx, gy * fx, fy * gx, fy * fx
        jy, jx = iy + dy, ix + dx
        for k in range(3):
            buffer[_W if k == 0 else _G - 1 + k, j] = (
                a * channels[iy, ix, k] + b * channels[iy, jx, k] + c * channels[jy, ix, k] + d * channels[jy, jx, k]
            )
        if masked:
            v *= a * cover[iy, ix] + b * cover[iy, jx] + c * cover[jy, ix] + d * cover[jy, jx]
        buffer[_V, j] = v
        buffer[_D, j] = fixed[j] - buffer[_W, j]


@jit(fastmath={"contract"})
def _sample_row_3d(channels: Any, cover: Any, widths: Any, line: Any, row: Any, buffer: Any) -> None:
    """Sample one row of the fixed grid: fills the buffer."""
    fixed, weight = row
    nz, ny, nx = channels.shape[:3]
    dz, dy, dx = (1 if nz > 1 else 0), (1 if ny > 1 else 0), (1 if nx > 1 else 0)
    masked = cover.shape[0] > 0
    for j in range(len(fixed)):
        uz = np.float32(line[0, 0] + line[0, 1] * j)
        uy = np.float32(line[1, 0] + line[1, 1] * j)
        ux = np.float32(line[2, 0] + line[2, 1] * j)
        v = weight[j] * _ramp(uz, nz, widths[0]) * _ramp(uy, ny, widths[1]) * _ramp(ux, nx, widths[2])
        if not v > 0:
            for k in range(6):
                buffer[k, j] = 0
            continue
        iz, fz = _cell(uz, nz)
        iy, fy = _cell(uy, ny)
        ix, fx = _cell(ux, nx)
        jz, jy, jx = iz + dz, iy + dy, ix + dx
        gz, gy, gx = np.float32(1.0) - fz, np.float32(1.0) - fy, np.float32(1.0) - fx
        a, b, c, d = gy * gx, gy * fx, fy * gx, fy * fx
        for k in range(4):
            low = a * channels[iz, iy, ix, k] + b * channels[iz, iy, jx, k]
            low += c * channels[iz, jy, ix, k] + d * channels[iz, jy, jx, k]
            high = a * channels[jz, iy, ix, k] + b * channels[jz, iy, jx, k]
            high += c * channels[jz, jy, ix, k] + d * channels[jz, jy, jx, k]
            buffer[_W if k == 0 else _G - 1 + k, j] = gz * low + fz * high
        if masked:
            low = a * cover[iz, iy, ix] + b * cover[iz, iy, jx] + c * cover[iz, jy, ix] + d * cover[iz, jy, jx]
            high = a * cover[jz, iy, ix] + b * cover[jz, iy, jx] + c * cover[jz, jy, ix] + d * cover[jz, jy, jx]
            v *= gz * low + fz * high
        buffer[_V, j] = v
        buffer[_D, j] = fixed[j] - buffer[_W, j]


def _sample_row(channels: Any, cover: Any, widths: Any, line: Any, row: Any, buffer: Any) -> None:
    """The row sampler for as many dimensions as the arrays have."""


@overload(_sample_row, strict=False)
def _sample_row_typed(channels: Any, cover: Any, widths: Any, line: Any, row: Any, buffer: Any) -> Any:
    chosen = _sample_row_2d if channels.ndim == 3 else _sample_row_3d
    return lambda channels, cover, widths, line, row, buffer: chosen(  # noqa: PLW0108 (numba wants a function)
        channels, cover, widths, line, row, buffer
    )


@jit(fastmath={"reassoc", "contract", "nsz"})
def _sum_scalars(buffer: Any, out: Any) -> None:
    n = sd = sw = sdd = sdw = sww = np.float32(0.0)
    for j in range(buffer.shape[1]):
        v, w, d = buffer[_V, j], buffer[_W, j], buffer[_D, j]
        n += v
        sd += v * d
        sw += v * w
        sdd += v * d * d
        sdw += v * d * w
        sww += v * w * w
    for k, value in enumerate((n, sd, sw, sdd, sdw, sww)):
        out[k] += value


@jit(fastmath={"reassoc", "contract", "nsz"})
def _sum_linear(buffer: Any, xi: Any, g: Any, sums: Any) -> None:
    """Sums of v g, v g w, v g d, each times 1 and xi."""
    s0 = s1 = w0 = w1 = d0 = d1 = np.float32(0.0)
    for j in range(buffer.shape[1]):
        vg = buffer[_V, j] * buffer[g, j]
        vgw, vgd = vg * buffer[_W, j], vg * buffer[_D, j]
        s0 += vg
        s1 += vg * xi[j]
        w0 += vgw
        w1 += vgw * xi[j]
        d0 += vgd
        d1 += vgd * xi[j]
    sums[0, 0], sums[0, 1], sums[1, 0], sums[1, 1], sums[2, 0], sums[2, 1] = s0, s1, w0, w1, d0, d1


@jit(fastmath={"reassoc", "contract", "nsz"})
def _sum_square(buffer: Any, xi: Any, g: Any, h: Any, sums: Any) -> None:
    """Sums of v g h times 1, xi and xi squared."""
    s0 = s1 = s2 = np.float32(0.0)
    for j in range(buffer.shape[1]):
        t = buffer[_V, j] * buffer[g, j] * buffer[h, j]
        s0 += t
        s1 += t * xi[j]
        s2 += t * xi[j] * xi[j]
    sums[0], sums[1], sums[2] = s0, s1, s2


@jit
def _add_row(buffer: Any, xi: Any, lead: Any, scalars: Any, linear: Any, square: Any) -> None:
    """Add a sampled row to the sums; `lead` (D+1) is its scaled index, 1 for the last axis and 1."""
    _sum_scalars(buffer, scalars)
    ndim = len(lead) - 1
    last = ndim - 1
    sums = np.empty((3, 2), np.float32)
    powers = np.empty(3, np.float32)
    pair = 0
    for a in range(ndim):
        _sum_linear(buffer, xi, _G + a, sums)
        for kind in range(3):
            for e in range(ndim + 1):
                linear[kind, a, e] += lead[e] * np.float64(sums[kind, 1 if e == last else 0])
        for b in range(a, ndim):
            _sum_square(buffer, xi, _G + a, _G + b, powers)
            entry = 0
            for e in range(ndim + 1):
                for f in range(e, ndim + 1):
                    degree = (1 if e == last else 0) + (1 if f == last else 0)
                    square[pair, entry] += lead[e] * lead[f] * np.float64(powers[degree])
                    entry += 1
            pair += 1


@jit
def sums_of_chunks(moving: Any, fixed: Any, maps: Any, axes: Any, widths: Any, chunks: Any, out: Any) -> None:
    """Fill the rows of `out` that belong to the chunks.

    moving: (channels (B, *shape, D+1), cover (B, *shape), or (1, 0, ..) without a mask); a
    batch of one serves all. fixed: (values (B, rows, n), weight (B, rows, n)), likewise. maps: (B, D, D+1) from xi
    to moving indices. axes: xi of every axis. chunks: (N, 4) pair, first row, end, place in
    `out`. out: scalars (M, 6), linear (M, 3, D, D+1), square (M, D (D+1) / 2, (D+1) (D+2) / 2).
    """
    channels, cover = moving
    values, weight = fixed
    scalars, linear, square = out
    ndim = maps.shape[1]
    xi = axes[ndim - 1]
    buffer = np.empty((_G + ndim, values.shape[2]), np.float32)
    lead = np.ones(ndim + 1)
    line = np.empty((ndim, 2))
    for c in range(len(chunks)):
        pair, first, stop, place = chunks[c]
        of_moving = pair if len(channels) > 1 else 0
        of_cover = pair if len(cover) > 1 else 0
        of_fixed = pair if len(values) > 1 else 0
        of_weight = pair if len(weight) > 1 else 0
        for r in range(first, stop):
            rest = r
            for axis in range(ndim - 2, -1, -1):
                lead[axis] = axes[axis][rest % len(axes[axis])]
                rest //= len(axes[axis])
            for k in range(ndim):
                start = maps[pair, k, ndim]
                for axis in range(ndim - 1):
                    start += maps[pair, k, axis] * lead[axis]
                slope = np.float64(xi[1] - xi[0]) if len(xi) > 1 else 0.0
                line[k, 0] = start + maps[pair, k, ndim - 1] * np.float64(xi[0])
                line[k, 1] = maps[pair, k, ndim - 1] * slope
            row = (values[of_fixed, r], weight[of_weight, r])
            _sample_row(channels[of_moving], cover[of_cover], widths, line, row, buffer)
            _add_row(buffer, xi, lead, scalars[place], linear[place], square[place])
