"""The Gauss-Newton sums on CPUs: sample, weight and sum in one pass over each row.

Same meaning as the torch sums of `kernels.normal`, which its test holds; several times
faster. Sums are float32 along a row and float64 beyond, chunk by chunk in a fixed order,
so the number of threads changes no bit.

A row of the fixed image is a straight line through the moving one. The part of it that meets
the moving image is sampled into buffers that stay in the cache, which are then summed in
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
def _run(line: Any, shape: Any, n: Any) -> Any:
    """Columns [start, stop) of a row outside of which every weight is zero."""
    start, stop = 0.0, float(n)
    for k in range(len(shape)):
        low, high = -0.5 - line[k, 0], shape[k] - 0.5 - line[k, 0]
        slope = line[k, 1]
        if slope == 0:
            if low >= 0 or high <= 0:
                return 0, 0
        elif slope > 0:
            start, stop = max(start, low / slope), min(stop, high / slope + 1)
        else:
            start, stop = max(start, high / slope), min(stop, low / slope + 1)
    if not start < stop:
        return 0, 0
    first = min(np.int64(start), n)
    return first, max(first, min(np.int64(stop) + 1, n))


@jit
def _ramp(u: Any, last: Any, width: Any) -> Any:
    """The weight of a coordinate for the edges of an axis, as `normal.edge_weight`."""
    edge = np.float32(min(u, last - u) + 0.5) / width
    return min(max(edge, np.float32(0.0)), np.float32(1.0))


@jit
def _cell(u: Any, n: Any) -> Any:
    """Lower neighbour and fraction of a coordinate, clamped to the axis."""
    clamped = min(max(u, 0.0), n - 1.0)
    low = max(min(np.int64(clamped), n - 2), 0)
    return low, np.float32(clamped - low)


@jit(fastmath={"contract"})
def _sample_row_2d(moving: Any, cover: Any, widths: Any, line: Any, row: Any, run: Any, buffer: Any) -> None:
    """Sample the columns `run` of one row of the fixed grid into the first places of the buffer."""
    fixed, weight, edge, lead = row
    ny, nx = moving.shape
    m, c = moving.reshape(-1), cover.reshape(-1)
    dy, dx = (nx if ny > 1 else 0), (1 if nx > 1 else 0)
    masked, counts = len(c) > 0, len(weight) > 0
    y0, y1, x0, x1 = line[0, 0], line[0, 1], line[1, 0], line[1, 1]
    for j in range(run[0], run[1]):
        at = j - run[0]
        uy, ux = y0 + y1 * j, x0 + x1 * j
        v = lead * edge[j] * _ramp(uy, ny - 1.0, widths[0]) * _ramp(ux, nx - 1.0, widths[1])
        if counts:
            v *= weight[j]
        iy, fy = _cell(uy, ny)
        ix, fx = _cell(ux, nx)
        p = iy * nx + ix
        low = m[p] + fx * (m[p + dx] - m[p])
        high = m[p + dy] + fx * (m[p + dy + dx] - m[p + dy])
        w = low + fy * (high - low)
        buffer[_W, at] = w
        buffer[_D, at] = fixed[j] - w
        if masked:
            low, high = c[p] + fx * (c[p + dx] - c[p]), c[p + dy] + fx * (c[p + dy + dx] - c[p + dy])
            v *= low + fy * (high - low)
        buffer[_V, at] = v


@jit(fastmath={"contract"})
def _sample_row_3d(moving: Any, cover: Any, widths: Any, line: Any, row: Any, run: Any, buffer: Any) -> None:
    """Sample the columns `run` of one row of the fixed grid into the first places of the buffer."""
    fixed, weight, edge, lead = row
    nz, ny, nx = moving.shape
    m, c = moving.reshape(-1), cover.reshape(-1)
    dz, dy, dx = (ny * nx if nz > 1 else 0), (nx if ny > 1 else 0), (1 if nx > 1 else 0)
    masked, counts = len(c) > 0, len(weight) > 0
    z0, z1, y0, y1, x0, x1 = line[0, 0], line[0, 1], line[1, 0], line[1, 1], line[2, 0], line[2, 1]
    for j in range(run[0], run[1]):
        at = j - run[0]
        uz, uy, ux = z0 + z1 * j, y0 + y1 * j, x0 + x1 * j
        v = lead * edge[j] * _ramp(uz, nz - 1.0, widths[0]) * _ramp(uy, ny - 1.0, widths[1])
        v *= _ramp(ux, nx - 1.0, widths[2])
        if counts:
            v *= weight[j]
        iz, fz = _cell(uz, nz)
        iy, fy = _cell(uy, ny)
        ix, fx = _cell(ux, nx)
        p = (iz * ny + iy) * nx + ix
        q = p + dz
        a, e = m[p] + fx * (m[p + dx] - m[p]), m[p + dy] + fx * (m[p + dy + dx] - m[p + dy])
        g, k = m[q] + fx * (m[q + dx] - m[q]), m[q + dy] + fx * (m[q + dy + dx] - m[q + dy])
        low, high = a + fy * (e - a), g + fy * (k - g)
        w = low + fz * (high - low)
        buffer[_W, at] = w
        buffer[_D, at] = fixed[j] - w
        if masked:
            a, e = c[p] + fx * (c[p + dx] - c[p]), c[p + dy] + fx * (c[p + dy + dx] - c[p + dy])
            g, k = c[q] + fx * (c[q + dx] - c[q]), c[q + dy] + fx * (c[q + dy + dx] - c[q + dy])
            low, high = a + fy * (e - a), g + fy * (k - g)
            v *= low + fz * (high - low)
        buffer[_V, at] = v


def _sample_row(moving: Any, cover: Any, widths: Any, line: Any, row: Any, run: Any, buffer: Any) -> None:
    """The row sampler for as many dimensions as the arrays have."""


@overload(_sample_row, strict=False)
def _sample_row_typed(moving: Any, cover: Any, widths: Any, line: Any, row: Any, run: Any, buffer: Any) -> Any:
    chosen = _sample_row_2d if moving.ndim == 2 else _sample_row_3d
    return lambda moving, cover, widths, line, row, run, buffer: chosen(  # noqa: PLW0108 (numba wants a function)
        moving, cover, widths, line, row, run, buffer
    )


@jit(fastmath={"reassoc", "contract", "nsz"})
def _sum_scalars(buffer: Any, n: Any, out: Any) -> None:
    total = sd = sw = sdd = sdw = sww = np.float32(0.0)
    for j in range(n):
        v, w, d = buffer[_V, j], buffer[_W, j], buffer[_D, j]
        total += v
        sd += v * d
        sw += v * w
        sdd += v * d * d
        sdw += v * d * w
        sww += v * w * w
    for k, value in enumerate((total, sd, sw, sdd, sdw, sww)):
        out[k] += value


@jit(fastmath={"reassoc", "contract", "nsz"})
def _sum_linear(buffer: Any, xi: Any, g: Any, sums: Any) -> None:
    """Sums of v g, v g w, v g d, each times 1 and xi."""
    s0 = s1 = w0 = w1 = d0 = d1 = np.float32(0.0)
    for j in range(len(xi)):
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
    for j in range(len(xi)):
        t = buffer[_V, j] * buffer[g, j] * buffer[h, j]
        s0 += t
        s1 += t * xi[j]
        s2 += t * xi[j] * xi[j]
    sums[0], sums[1], sums[2] = s0, s1, s2


@jit
def _add_row(buffer: Any, xi: Any, lead: Any, scalars: Any, linear: Any, square: Any) -> None:
    """Add a sampled row to the sums; `lead` (D+1) is its scaled index, 1 for the last axis and 1."""
    _sum_scalars(buffer, len(xi), scalars)
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


@jit(fastmath={"contract"})
def _slope(fixed: Any, r: Any, stride: Any, place: Any, n: Any, turn: Any, run: Any, buffer: Any) -> None:
    """Add the fixed image's central differences along one axis, turned, to the gradients in the buffer.

    Along a leading axis they are differences of rows, `stride` apart, of which row `r` is number `place` of `n`.
    """
    start, stop = run
    ndim = len(turn)
    if stride:
        before, after = r - stride * min(place, 1), r + stride * min(n - 1 - place, 1)
        scale = np.float32(stride / max(after - before, 1))
        low, high = fixed[before], fixed[after]
        for a in range(ndim):
            factor = turn[a] * scale
            for j in range(start, stop):
                buffer[_G + a, j - start] += factor * (high[j] - low[j])
        return
    row, last = fixed[r], fixed.shape[1] - 1
    for a in range(ndim):
        factor = turn[a] * np.float32(0.5)
        for j in range(max(start, 1), min(stop, last)):
            buffer[_G + a, j - start] += factor * (row[j + 1] - row[j - 1])
        if last > 0 and start == 0:
            buffer[_G + a, 0] += turn[a] * (row[1] - row[0])
        if last > 0 and stop == last + 1:
            buffer[_G + a, last - start] += turn[a] * (row[last] - row[last - 1])


@jit
def sums_of_chunks(
    moving: Any, fixed: Any, maps: Any, turns: Any, axes: Any, widths: Any, chunks: Any, out: Any
) -> None:
    """Fill the rows of `out` that belong to the chunks.

    moving: (values (B, *shape), cover (B, *shape), or (1, 0, ..) without a mask); a batch of one serves all.
    fixed: (values (B, R, n), weight (B, R, n), or (1, R, 0) without a mask), likewise. maps: (B, D, D+1) from xi to
    moving indices. turns: (B, D, D) float32, from gradients of the fixed image to those of the moving one.
    axes: (xi of every axis, weight along every axis of the fixed image).
    chunks: (rows, (N, 4) of pair, first and end in rows, place in `out`), rows being the numbers, out of R, of
    those that count. out: scalars (M, 6), linear (M, 3, D, D+1), square (M, D (D+1) / 2, (D+1) (D+2) / 2).
    """
    images, cover = moving
    values, weight = fixed
    rows, parts = chunks
    scalars, linear, square = out
    ndim = maps.shape[1]
    scaled, edges = axes
    xi = scaled[ndim - 1]
    buffer = np.empty((_G + ndim, len(xi)), np.float32)
    lead = np.ones(ndim + 1)
    place = np.zeros(ndim, np.int64)
    line = np.empty((ndim, 2))
    slope = np.float64(xi[1] - xi[0]) if len(xi) > 1 else 0.0
    for c in range(len(parts)):
        pair, first, stop, target = parts[c]
        of_moving = pair if len(images) > 1 else 0
        of_cover = pair if len(cover) > 1 else 0
        of_fixed = pair if len(values) > 1 else 0
        of_weight = pair if len(weight) > 1 else 0
        for number in range(first, stop):
            r = rest = rows[number]
            edge = np.float32(1)
            for axis in range(ndim - 2, -1, -1):
                place[axis] = rest % len(scaled[axis])
                lead[axis] = scaled[axis][place[axis]]
                edge *= edges[axis][place[axis]]
                rest //= len(scaled[axis])
            for k in range(ndim):
                start = maps[pair, k, ndim]
                for axis in range(ndim - 1):
                    start += maps[pair, k, axis] * lead[axis]
                line[k, 0] = start + maps[pair, k, ndim - 1] * np.float64(xi[0])
                line[k, 1] = maps[pair, k, ndim - 1] * slope
            run = _run(line, images[of_moving].shape, len(xi))
            if run[0] < run[1]:
                row = (values[of_fixed, r], weight[of_weight, r], edges[ndim - 1], edge)
                _sample_row(images[of_moving], cover[of_cover], widths, line, row, run, buffer)
                buffer[_G:, : run[1] - run[0]] = np.float32(0)
                stride = 0
                for axis in range(ndim - 1, -1, -1):
                    n = len(scaled[axis])
                    _slope(values[of_fixed], r, stride, place[axis], n, turns[pair, :, axis], run, buffer)
                    stride = max(1, stride * n) if axis < ndim - 1 else 1
                _add_row(buffer, xi[run[0] : run[1]], lead, scalars[target], linear[target], square[target])
