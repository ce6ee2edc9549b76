"""Filters of whole images on CPUs: sums, scaling, block means, dilation.

Each reads a large image from memory once: what torch does in several operations, with an
array of the image's size for each, is one loop here, or done by NumPy piece by piece. Sums are float64 along
each row and added in a fixed order, so that the number of threads changes no bit.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.runtime.compiled import fragment, jit
from daskreg.runtime.intrinsics import empty, greatest
from daskreg.runtime.threads import shares

Singles = NDArray[np.float32]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Voxels that NumPy works on at a time, so that they stay in the cache.
_TOGETHER = 2**16


def planes(values: NDArray[Any]) -> NDArray[Any]:
    """(B, z, y, x) of (B, *shape), contiguous; z is 1 in 2D."""
    values = np.ascontiguousarray(values)
    return values if values.ndim == 4 else values[:, None]


def _rows(values: Singles) -> Singles:
    """(B, R, n) of (B, *shape), contiguous."""
    return np.ascontiguousarray(values).reshape(len(values), -1, values.shape[-1])


def no_weight() -> Singles:
    """An empty array in place of weights, for images without a mask."""
    return np.empty((1, 0, 0, 0), np.float32)


def mean_and_variance(values: Singles, weight: Singles | None) -> tuple[Floats, Floats]:
    """(B,) weighted, of (B, *shape) values and (B or 1, *shape) weights."""
    source, weights = _rows(values), np.empty((1, 0, 0), np.float32) if weight is None else _rows(weight)
    rows = source.shape[1]
    sums = np.empty((len(source), rows, 3))
    origin = np.ascontiguousarray(source[:, rows // 2, source.shape[2] // 2])
    shares(partial(_sum_rows, source, weights, origin, sums), len(source) * rows, values.size)
    count, first, second = sums.sum(1).T
    count = np.maximum(count, 1e-9)
    away = first / count
    return origin + away, np.maximum(second / count - away * away, 0.0)


@jit(fastmath={"reassoc", "contract", "nsz"})
def _sum_rows(source: Any, weights: Any, origin: Any, sums: Any, first: Any, stop: Any) -> None:
    _, rows, n = source.shape
    masked = weights.shape[1] > 0
    for part in range(first, stop):
        b, r = part // rows, part % rows
        shift = np.float64(origin[b])
        count = one = two = 0.0
        voxels = source[b, r]
        if masked:
            weight = weights[b if len(weights) > 1 else 0, r]
            for x in range(n):
                v, w = np.float64(voxels[x]) - shift, np.float64(weight[x])
                count += w
                one += w * v
                two += w * v * v
        else:
            count = np.float64(n)
            for x in range(n):
                v = np.float64(voxels[x]) - shift
                one += v
                two += v * v
        sums[b, r, 0], sums[b, r, 1], sums[b, r, 2] = count, one, two


def scaled(values: Singles, weight: Singles | None, mean: Floats, scale: Floats, *, in_place: bool = False) -> Singles:
    """(values - mean) * scale, of each of (B, *shape), zero where there is no weight."""
    source, weights = _rows(values), None if weight is None else _rows(weight)
    out = source if in_place else np.empty_like(source)
    numbers = mean.astype(np.float32), scale.astype(np.float32)
    bands = -(-source.shape[1] // max(1, _TOGETHER // source.shape[2]))
    shares(partial(_scale, source, weights, numbers, bands, out), len(source) * bands, values.size)
    return out.reshape(values.shape)


def _scale(
    source: Singles,
    weights: Singles | None,
    numbers: tuple[Singles, Singles],
    bands: int,
    out: Singles,
    first: int,
    stop: int,
) -> None:
    """The bands of rows `first` to `stop`, counted over (B, bands)."""
    rows = source.shape[1]
    for part in range(first, stop):
        b, band = divmod(part, bands)
        some = slice(rows * band // bands, rows * (band + 1) // bands)
        lines = out[b, some]
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(source[b, some], numbers[0][b], out=lines)
            lines *= numbers[1][b]
        if weights is not None:
            lines[~(weights[b if len(weights) > 1 else 0, some] > 0)] = 0


def block_means(values: Singles, weight: Singles | None, factors: Sequence[int]) -> tuple[Singles, Singles | None]:
    """Weighted means over whole blocks of `factors` voxels, and the mean weights.

    values: (B, *shape), 2D or 3D; voxels beyond the last block are out_weights out. weight: (B or 1, *shape) or None.
    """
    source = planes(values)
    weights = no_weight() if weight is None else planes(weight)
    three = (*(1 for _ in range(3 - len(factors))), *factors)
    size = tuple(n // f for n, f in zip(source.shape[1:], three, strict=True))
    out = np.empty((len(source), *size), np.float32)
    out_weights = np.empty((len(weights), *size) if weight is not None else (1, 0, 0, 0), np.float32)
    parts = len(source) * size[0] * size[1]
    shares(partial(_mean_rows, source, weights, three, out, out_weights), parts, source.size)
    shape = size[3 - len(factors) :]
    return out.reshape(-1, *shape), None if weight is None else out_weights.reshape(-1, *shape)


@jit(fastmath={"contract"})
def _mean_rows(source: Any, weights: Any, factors: Any, out: Any, out_weights: Any, first: Any, stop: Any) -> None:
    """The rows `first` to `stop` of `out`, counted over (B, z, y)."""
    fz, fy, fx = factors
    _, nz, ny, n = out.shape
    masked = weights.shape[1] > 0
    line, near = empty(n * fx, np.float32), empty(n * fx, np.float32)
    share = np.float32(1 / (fz * fy * fx))
    for part in range(first, stop):
        b, z, y = part // ny // nz, part // ny % nz, part % ny
        c = b if len(weights) > 1 else 0
        line[:] = np.float32(0)
        near[:] = np.float32(0)
        for k in range(fz * fy):
            voxels = source[b, z * fz + k // fy, y * fy + k % fy]
            if masked:
                weight = weights[c, z * fz + k // fy, y * fy + k % fy]
                for x in range(n * fx):
                    line[x] += voxels[x] * weight[x]
                    near[x] += weight[x]
            else:
                for x in range(n * fx):
                    line[x] += voxels[x]
        for x in range(n):
            total = below = np.float32(0)
            for k in range(fx):
                total += line[x * fx + k]
                below += near[x * fx + k]
            if masked:
                out[b, z, y, x] = (total * share) / greatest(below * share, np.float32(1e-6))
                out_weights[c, z, y, x] = below * share
            else:
                out[b, z, y, x] = total * share


def mean_square_gradient(values: Singles, weight: Singles | None, every: int) -> Floats:
    """(B,) weighted means of the squares of the central differences, summed over the axes.

    every: use only every so many planes along the first axis.
    """
    source = planes(values)
    weights = no_weight() if weight is None else planes(weight)
    _, nz, ny, _ = source.shape
    # In 2D the first axis is y.
    steps = (every, 1) if values.ndim == 4 else (1, every)
    sums = np.zeros((len(source), nz, ny, 3, 2))
    shares(partial(_square_rows, source, weights, steps, sums), len(source) * nz, values.size)
    total = sums.sum((1, 2))
    return np.asarray((total[..., 0] / np.maximum(total[..., 1], 1e-6)).sum(1))


@jit
def _square_rows(source: Any, weights: Any, steps: Any, sums: Any, first: Any, stop: Any) -> None:
    """Sums of squares and of weights, for each axis, of the planes `first` to `stop`, counted over (B, z)."""
    _, nz, ny, nx = source.shape
    masked = weights.shape[1] > 0
    ones = empty(nx, np.float32)
    for x in range(nx):
        ones[x] = 1
    for part in range(first, stop):
        b, z = part // nz, part % nz
        c = b if len(weights) > 1 else 0
        for y in range(ny):
            weight = weights[c, z, y] if masked else ones
            found = sums[b, z, y]
            if 0 < z < nz - 1 and (z - 1) % steps[0] == 0:
                _square_row(source[b, z - 1, y], source[b, z + 1, y], weight, found[0])
            if z % steps[0] == 0 and 0 < y < ny - 1 and (y - 1) % steps[1] == 0:
                _square_row(source[b, z, y - 1], source[b, z, y + 1], weight, found[1])
            if z % steps[0] == 0 and y % steps[1] == 0 and nx > 2:
                row = source[b, z, y]
                _square_row(row[:-2], row[2:], weight[1:-1], found[2])


@fragment(fastmath={"reassoc", "contract", "nsz"})
def _square_row(before: Any, after: Any, weight: Any, out: Any) -> None:
    total = count = np.float32(0)
    for x in range(len(before)):
        half = np.float32(0.5) * (after[x] - before[x])
        total += weight[x] * half * half
        count += weight[x]
    out[0] += total
    out[1] += count


def dilated(mask: Bools, radius: int) -> Bools:
    """(B, *shape) dilated by a cube of half width `radius`, axis by axis."""
    out = np.ascontiguousarray(mask)
    for axis in range(1, mask.ndim):
        outer = int(np.prod(mask.shape[:axis], dtype=np.int64))
        last = axis == mask.ndim - 1
        source = out.reshape((1, outer, -1) if last else (outer, mask.shape[axis], -1))
        out, along = np.empty_like(source), 2 if last else 1
        width = max(1, _TOGETHER // source.shape[along])
        parts = len(source) * -(-source.shape[3 - along] // width)
        shares(partial(_dilate, source, radius, along, width, out), parts, source.size)
    return out.reshape(mask.shape)


def _dilate(source: Bools, radius: int, along: int, width: int, out: Bools, first: int, stop: int) -> None:
    """Along one of the last two axes, the parts `first` to `stop`, which are pieces of `width` of the other one."""
    pieces = -(-source.shape[3 - along] // width)
    for part in range(first, stop):
        piece = slice(part % pieces * width, (part % pieces + 1) * width)
        some = (part // pieces, slice(None), piece) if along == 1 else (part // pieces, piece)
        _dilate_piece(source[some], radius, along - 1, out[some])


def _dilate_piece(source: Bools, radius: int, axis: int, out: Bools) -> None:
    """Along one of two axes."""
    n = source.shape[axis]
    shape = tuple(size + 2 * radius * (k == axis) for k, size in enumerate(source.shape))
    # Of each voxel, whether it or one of the `reach - 1` that follow is true.
    near, further = (np.zeros(shape, np.bool_).swapaxes(0, axis) for _ in range(2))
    near[radius : radius + n] = source.swapaxes(0, axis)
    reach, wanted = 1, 2 * radius + 1
    while 2 * reach < wanted:
        np.logical_or(near[:-reach], near[reach:], out=further[:-reach])
        further[-reach:] = near[-reach:]
        near, further, reach = further, near, 2 * reach
    np.logical_or(near[:n], near[wanted - reach : wanted - reach + n], out=out.swapaxes(0, axis))


def calls() -> list[tuple[Any, tuple[Any, ...]]]:
    """The kernels here that `register` needs, with arguments of the types that it calls them with."""
    images, rows, axis = (np.empty((0,) * n, np.float32) for n in (4, 3, 1))
    return [
        (_square_rows, (images, images, (1, 1), np.empty((0,) * 5), 0, 1)),
        (_mean_rows, (images, images, (1, 1, 1), images, images, 0, 1)),
        (_sum_rows, (rows, rows, axis, np.empty((0,) * 3), 0, 1)),
    ]
