"""Sampling of voxels whose coordinates are given, on CPUs: those that `displacements_numba` makes of fields.

What gathers and interpolates is that of `arrays_numba`, and so are the arguments that are not named here.

    xs       (R, D, W + LANES): coordinates of R rows of W columns.
    scratch  (offsets, weights, near, touched, ahead) of one thread: `touched`, whether a voxel touches the block;
             `ahead`, how far in the block the row lies that is fetched into the cache while one is computed.
    safe     whether all voxels are known to lie in the block with all neighbours.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import inner, jit
from daskreg.sampling.arrays_numba import (
    as_like,
    clamped,
    cubic_run,
    gather_at_border,
    gather_run,
    mix_run,
    put_pair,
    row_number,
    whole,
)

# Columns of a row that are looked at together, whether they touch the block: at first many, and few where only some do.
_LONG, _UNIT = 64, 16


@inner
def _count_within(x: Any, columns: Any, lower: Any, upper: Any) -> Any:
    some, count = x[columns[0] : columns[1]], 0
    for j in range(len(some)):
        count += (some[j] >= lower) & (some[j] < upper)
    return count


@inner
def _touches(x: Any, columns: Any, bounds: Any) -> Any:
    """2 where all columns of a row lie in the block with all neighbours, 0 where one axis keeps all off it, else 1."""
    every, n = True, columns[1] - columns[0]
    for k in range(len(x)):
        if every and _count_within(x[k], columns, bounds[2, k], bounds[3, k]) == n:
            continue
        every = False
        if _count_within(x[k], columns, bounds[0, k], bounds[1, k]) == 0:
            return 0
    return 2 if every else 1


@inner
def _run(x: Any, width: Any, start: Any, longest: Any, bounds: Any, safe: Any) -> Any:
    """The columns from `start` on that touch the block alike, at most `longest`: (how, stop).

    With `safe`, all are known to lie in the block with all neighbours.
    """
    if safe:
        return 2, min(start + longest, width)
    size = longest  # most rows are alike from end to end
    stop = min(start + size, width)
    how = _touches(x, (start, stop), bounds)
    if how == 1:
        size = _LONG
        stop = min(start + size, width)
        how = _touches(x, (start, stop), bounds)
    if how == 1:
        size = _UNIT
        stop = min(start + size, width)
        how = _touches(x, (start, stop), bounds)
    while stop < width and stop - start < longest:
        end = min(stop + size, width, start + longest)
        if _touches(x, (stop, end), bounds) != how:
            if size == _UNIT:
                break
            size = _UNIT
            continue
        stop = end
    return how, stop


@inner
def _lay_down(x: Any, columns: Any, source: Any, offsets: Any, weights: Any, unit: Any) -> None:
    """Offsets into the block, and the weights of the next neighbours."""
    strides, first, like = source[1], source[2], offsets[0]
    last = len(strides) - 1
    # Slices, whose indices are known not to be negative: so the loops are done in vectors.
    xy, xx = x[last - 1, columns[0] : columns[1]], x[last, columns[0] : columns[1]]
    base, y_step = first[last] + first[last - 1] * np.float64(strides[last - 1]), np.float64(strides[last - 1])
    wy, wx = weights[last - 1], weights[last]
    if last == 1:
        for j in range(len(xx)):
            at_y, at_x = xy[j], xx[j]
            fy, fx = np.floor(at_y), np.floor(at_x)
            offsets[j] = whole((fy * y_step + fx) - base, like)
            wy[j] = min(as_like(at_y - fy, unit[0]), unit[1])
            wx[j] = min(as_like(at_x - fx, unit[0]), unit[1])
    else:
        wz, z_step = weights[0], np.float64(strides[0])
        xz = x[0, columns[0] : columns[1]]
        base += first[0] * z_step
        for j in range(len(xx)):
            at_z, at_y, at_x = xz[j], xy[j], xx[j]
            fz, fy, fx = np.floor(at_z), np.floor(at_y), np.floor(at_x)
            offsets[j] = whole((fz * z_step + (fy * y_step + fx)) - base, like)
            wz[j] = min(as_like(at_z - fz, unit[0]), unit[1])
            wy[j] = min(as_like(at_y - fy, unit[0]), unit[1])
            wx[j] = min(as_like(at_x - fx, unit[0]), unit[1])


@inner
def _lay_down_near(x: Any, columns: Any, bounds: Any, weights: Any, unit: Any, touched: Any) -> None:
    """Weights alone; whether each voxel touches the block."""
    for j in range(columns[1] - columns[0]):
        here = True
        for k in range(len(x)):
            at = x[k, columns[0] + j]
            here = here and at >= bounds[0, k] and at < bounds[1, k]
        touched[j] = here
        for k in range(len(x)):
            at = x[k, columns[0] + j]
            weights[k, j] = min(as_like(at - np.floor(at), unit[0]), unit[1]) if here else unit[2]


@inner
def _gather_edge(
    block: Any, source: Any, x: Any, columns: Any, near: Any, weights: Any, consts: Any, touched: Any
) -> None:
    """The neighbours of voxels at the border, of which some are fill."""
    first, shape, last, fill, start = source[2], source[0], len(source[0]) - 1, consts[1], columns[0]
    for j in range(columns[1] - start):
        if not touched[j]:
            for r in range(len(near)):
                put_pair(fill, fill, near[r], j)
            continue
        at_y = np.int64(np.floor(x[last - 1, start + j]) - first[last - 1])
        at_x = np.int64(np.floor(x[last, start + j]) - first[last])
        at_z = np.int64(np.floor(x[0, start + j]) - first[0]) if last == 2 else np.int64(0)
        if consts[5]:
            at_y = clamped(at_y, shape[last - 1], weights[last - 1], j)
            at_x = clamped(at_x, shape[last], weights[last], j)
            if last == 2:
                at_z = clamped(at_z, shape[0], weights[0], j)
        gather_at_border(block, source, (at_z, at_y, at_x), near, j, fill)


@jit
def nearest(blocks: Any, source: Any, xs: Any, out: Any, scratch: Any, consts: Any, rows: Any, safe: Any) -> None:
    bounds = source[3]
    offsets, weights, _, _, _ = scratch
    width = out.shape[2]
    for number in range(rows[0], rows[1]):
        row, x, start = row_number(number, rows), xs[number - rows[0]], 0
        for k in range(len(x)):
            for j in range(width):
                x[k, j] = np.floor(x[k, j] + 0.5)
        while start < width:
            how, stop = _run(x, width, start, len(offsets), bounds, safe)
            if how == 2:
                _lay_down(x, (start, stop), source, offsets, weights, consts[2])
            for b in range(len(blocks)):
                block, part = blocks[b], out[b, row, start:stop]
                for j in range(stop - start):
                    if how == 2:
                        part[j] = block[np.uint64(offsets[j])]
                        continue
                    offset, here = 0.0, how == 1
                    for k in range(len(x)):
                        here = here and x[k, start + j] >= bounds[2, k] and x[k, start + j] < bounds[3, k]
                        offset += (x[k, start + j] - source[2][k]) * np.float64(source[1][k])
                    part[j] = block[np.uint64(np.int64(offset))] if here else consts[1]
            start = stop


@jit
def linear(blocks: Any, source: Any, xs: Any, out: Any, scratch: Any, consts: Any, rows: Any, safe: Any) -> None:
    bounds = source[3]
    offsets, weights, near, touched, ahead = scratch
    width = out.shape[2]
    for number in range(rows[0], rows[1]):
        row, x, start = row_number(number, rows), xs[number - rows[0]], 0
        while start < width:
            how, stop = _run(x, width, start, len(offsets), bounds, safe)
            if how == 2:
                _lay_down(x, (start, stop), source, offsets, weights, consts[2])
            elif how == 1:
                _lay_down_near(x, (start, stop), bounds, weights, consts[2], touched)
            for b in range(len(blocks)):
                part = out[b, row, start:stop]
                if how == 0:
                    part[:] = consts[1]
                    continue
                if how == 2:
                    gather_run(blocks[b], offsets, near, source[1], stop - start, ahead)
                else:
                    _gather_edge(blocks[b], source, x, (start, stop), near, weights, consts, touched)
                mix_run(near, weights, source[1], part, consts)
                if how == 1:
                    for j in range(stop - start):
                        if not touched[j]:
                            part[j] = consts[1]
            start = stop


@jit
def cubic(blocks: Any, source: Any, xs: Any, out: Any, scratch: Any, consts: Any, rows: Any, safe: Any) -> None:
    """Samples of spline coefficients, which reach so far around the block that voxels without them are fill."""
    bounds = source[3]
    offsets, weights, _, touched, _ = scratch
    width = out.shape[2]
    for number in range(rows[0], rows[1]):
        row, x = row_number(number, rows), xs[number - rows[0]]
        for start in range(0, width, len(offsets)):
            stop = min(start + len(offsets), width)
            for j in range(stop - start):
                here = True
                for k in range(len(x)):
                    here = here and x[k, start + j] >= bounds[2, k] and x[k, start + j] < bounds[3, k]
                touched[j] = here
                if not here:
                    for k in range(len(x)):
                        x[k, start + j] = bounds[2, k]
            _lay_down(x, (start, stop), source, offsets, weights, consts[2])
            for b in range(len(blocks)):
                part = out[b, row, start:stop]
                cubic_run(blocks[b], offsets, weights, source[1], part, consts)
                for j in range(stop - start):
                    if not touched[j]:
                        part[j] = consts[1]
