"""Sampling on CPUs: index, weight and gather in one pass over each output row.

Nothing here knows boxes or errors; `kernels.sampling` checks, prepares and calls. The
layout is flat: a batch of blocks is (B, n), one row of a contiguous block after the
other, and the output is (B, rows, width).

A row of the output is a straight line through the source, along which every source
coordinate is monotone, in floating point too. So the voxels of a row that need no bounds
check are one run, and those that touch the block at all are another; the ends of both
are found exactly. Inside the run, offsets and weights of up to SEGMENT voxels are laid
down once and then serve every block of the batch.

Coordinates are `((m0 * i0 + m1 * i1) + m2 * i2) + m3` in float64 from absolute indices,
in this order and without fastmath, so that no cut of the output into blocks changes a bit.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from daskreg.errors import ShapeMismatchError
from daskreg.geometry import Box

Floats = NDArray[np.float64]

SEGMENT = 512


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`numba.njit`, nogil, kept on disk between processes where a place for that exists."""
    if function is None:
        return lambda f: jit(f, **options)
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # a read-only installation without a home directory
        return numba.njit(nogil=True, **options)(function)


def _as(value: Any, like: Any) -> Any:
    """`value` in the floating type of `like`."""
    return type(like)(value)


@overload(_as, strict=False)
def _as_typed(value: Any, like: Any) -> Any:
    if like == numba.types.float32:
        return lambda value, like: np.float32(value)
    return lambda value, like: np.float64(value)


@jit
def _position(line: Any, j: Any) -> Any:
    """Source coordinate of column `j`; `line` is (row constant, slope, offset, rounding)."""
    return ((line[0] + line[1] * j) + line[2]) + line[3]


@jit
def _first(line: Any, bound: float, columns: Any) -> Any:
    """First column from which the coordinate has passed `bound`: a guess, then corrected."""
    start, stop = columns
    falling = line[1] < 0
    guess = (bound - line[3] - line[2] - line[0]) / line[1]
    j = start if not guess > start else stop if guess > stop else np.int64(guess)
    while j > start and (_position(line, j - 1.0) < bound) == falling:
        j -= 1
    while j < stop and (_position(line, j) < bound) != falling:
        j += 1
    return j


@jit
def _run(lines: Any, lower: Any, upper: Any, columns: Any) -> Any:
    """Columns [start, stop) whose coordinates lie in lower <= x < upper along every axis."""
    start, stop = columns
    for k in range(len(lines)):
        line = (lines[k, 0], lines[k, 1], lines[k, 2], lines[k, 3])
        if line[1] == 0:
            x = _position(line, columns[0])
            if not (x >= lower[k] and x < upper[k]):
                return start, start
        else:
            ends = _first(line, lower[k], columns), _first(line, upper[k], columns)
            start = max(start, min(ends))
            stop = min(stop, max(ends))
    return start, max(start, stop)


@jit
def _set_lines(lines: Any, matrix: Any, origin: Any, steps: Any, row: int, rounding: float) -> None:
    """The coordinates along row number `row` of the output, whose first index is `origin`.

    `steps[i]` is the number of rows from one index of axis i to the next.
    """
    ndim = len(lines)
    for k in range(ndim):
        constant, rest = 0.0, row
        for i in range(ndim - 1):
            part = matrix[k, i] * np.float64(origin[i] + rest // steps[i])
            constant = part if i == 0 else constant + part
            rest = rest % steps[i]
        lines[k, 0] = constant
        lines[k, 1] = matrix[k, ndim - 1]
        lines[k, 2] = matrix[k, ndim]
        lines[k, 3] = rounding


@jit
def _lay_down(lines: Any, first: Any, strides: Any, column: int, offsets: Any, weights: Any, unit: Any) -> None:
    """Offsets into the block, and weights of the far neighbours, of the columns from `column` on."""
    offsets[:] = 0
    for k in range(len(lines)):
        constant, slope, shift, rounding = lines[k, 0], lines[k, 1], lines[k, 2], lines[k, 3]
        origin, stride, w = first[k], strides[k], weights[k]
        for n in range(len(offsets)):
            x = ((constant + slope * np.float64(column + n)) + shift) + rounding
            f = np.floor(x)
            offsets[n] += np.int32(f - origin) * stride
            w[n] = min(_as(x - f, unit[0]), unit[1])


@jit
def _mix(a: Any, b: Any, w: Any, unit: Any) -> Any:
    """Between two neighbours; the far one is left out where its weight is zero (NaN * 0 is NaN)."""
    return a * (unit[0] - w) + (b * w if w != unit[2] else unit[2])


@jit
def _mix4(a: Any, b: Any, c: Any, d: Any, wy: Any, wx: Any, unit: Any) -> Any:
    return _mix(_mix(a, b, wx, unit), _mix(c, d, wx, unit), wy, unit)


@jit
def _stored(value: Any, limits: Any) -> Any:
    """As it goes into the output: for integers rounded half to even and clamped."""
    if limits is None:
        return value
    return min(max(np.rint(value), limits[0]), limits[1])


@jit
def _linear_run(block: Any, offsets: Any, weights: Any, strides: Any, row: Any, unit: Any, limits: Any) -> None:
    one, x = unit[0], np.uint64(1)
    if len(strides) == 2:
        wy, wx = weights[0], weights[1]
        y = np.uint64(strides[0])
        for n in range(len(row)):
            o = np.uint64(offsets[n])
            a, b = _as(block[o], one), _as(block[o + x], one)
            c, d = _as(block[o + y], one), _as(block[o + y + x], one)
            row[n] = _stored(_mix4(a, b, c, d, wy[n], wx[n], unit), limits)
    else:
        wz, wy, wx = weights[0], weights[1], weights[2]
        z, y = np.uint64(strides[0]), np.uint64(strides[1])
        for n in range(len(row)):
            o = np.uint64(offsets[n])
            a, b = _as(block[o], one), _as(block[o + x], one)
            c, d = _as(block[o + y], one), _as(block[o + y + x], one)
            near = _mix4(a, b, c, d, wy[n], wx[n], unit)
            o += z
            a, b = _as(block[o], one), _as(block[o + x], one)
            c, d = _as(block[o + y], one), _as(block[o + y + x], one)
            far = _mix4(a, b, c, d, wy[n], wx[n], unit)
            row[n] = _stored(_mix(near, far, wz[n], unit), limits)


@jit
def _corner(block: Any, shape: Any, strides: Any, index: Any, corner: int, fill: Any) -> Any:
    """One of the 2**D neighbours of `index`, bit k of `corner` is the step along axis D-1-k."""
    ndim = len(shape)
    offset = 0
    for k in range(ndim):
        i = index[k] + (corner >> (ndim - 1 - k)) % 2
        if i < 0 or i >= shape[k]:
            return fill
        offset += i * strides[k]
    return _as(block[offset], fill)


@jit
def _linear_edge(block: Any, shape: Any, strides: Any, index: Any, w: Any, fill: Any, unit: Any) -> Any:
    """One voxel at the border of the block, where some neighbours are fill."""
    a = _corner(block, shape, strides, index, 0, fill)
    b = _corner(block, shape, strides, index, 1, fill)
    c = _corner(block, shape, strides, index, 2, fill)
    d = _corner(block, shape, strides, index, 3, fill)
    if len(shape) == 2:
        return _mix4(a, b, c, d, w[0], w[1], unit)
    near = _mix4(a, b, c, d, w[1], w[2], unit)
    a = _corner(block, shape, strides, index, 4, fill)
    b = _corner(block, shape, strides, index, 5, fill)
    c = _corner(block, shape, strides, index, 6, fill)
    d = _corner(block, shape, strides, index, 7, fill)
    return _mix(near, _mix4(a, b, c, d, w[1], w[2], unit), w[0], unit)


@jit
def _linear_rows(blocks: Any, source: Any, target: Any, out: Any, scratch: Any, consts: Any, rows: Any) -> None:
    shape, strides, first, bounds = source
    matrix, origin, steps = target
    lines, offsets, weights, index = scratch
    fill, fill_out, unit, limits = consts
    j0 = origin[-1]
    columns = (j0, j0 + out.shape[2])
    for row in range(rows[0], rows[1]):
        _set_lines(lines, matrix, origin, steps, row, 0.0)
        touched = _run(lines, bounds[0], bounds[1], columns)
        inside = _run(lines, bounds[2], bounds[3], touched)
        for b in range(len(blocks)):
            out[b, row, : touched[0] - j0] = fill_out
            out[b, row, touched[1] - j0 :] = fill_out
        for start, stop in ((touched[0], inside[0]), (inside[1], touched[1])):
            for j in range(start, stop):
                _lay_down_one(lines, first, j, index, weights, unit)
                for b in range(len(blocks)):
                    value = _linear_edge(blocks[b], shape, strides, index, weights[:, 0], fill, unit)
                    out[b, row, j - j0] = _stored(value, limits)
        for start in range(inside[0], inside[1], SEGMENT):
            n = min(SEGMENT, inside[1] - start)
            _lay_down(lines, first, strides, start, offsets[:n], weights[:, :n], unit)
            for b in range(len(blocks)):
                part = out[b, row, start - j0 : start - j0 + n]
                _linear_run(blocks[b], offsets[:n], weights, strides, part, unit, limits)


@jit
def _lay_down_one(lines: Any, first: Any, j: int, index: Any, weights: Any, unit: Any) -> None:
    for k in range(len(lines)):
        x = ((lines[k, 0] + lines[k, 1] * np.float64(j)) + lines[k, 2]) + lines[k, 3]
        f = np.floor(x)
        index[k] = np.int64(f - first[k])
        weights[k, 0] = min(_as(x - f, unit[0]), unit[1])


@jit
def linear(blocks: Any, source: Any, target: Any, out: Any, scratch: Any, consts: Any) -> None:
    _linear_rows(blocks, source, target, out, scratch, consts, (0, out.shape[1]))


@jit
def _nearest_rows(blocks: Any, source: Any, target: Any, out: Any, scratch: Any, consts: Any, rows: Any) -> None:
    _, strides, first, bounds = source
    matrix, origin, steps = target
    lines, offsets, weights, _ = scratch
    _, fill_out, unit, _ = consts
    j0 = origin[-1]
    columns = (j0, j0 + out.shape[2])
    for row in range(rows[0], rows[1]):
        _set_lines(lines, matrix, origin, steps, row, 0.5)
        inside = _run(lines, bounds[0], bounds[1], columns)
        for b in range(len(blocks)):
            out[b, row, : inside[0] - j0] = fill_out
            out[b, row, inside[1] - j0 :] = fill_out
        for start in range(inside[0], inside[1], SEGMENT):
            n = min(SEGMENT, inside[1] - start)
            _lay_down(lines, first, strides, start, offsets[:n], weights[:, :n], unit)
            for b in range(len(blocks)):
                part, block = out[b, row, start - j0 : start - j0 + n], blocks[b]
                for i in range(n):
                    part[i] = block[np.uint64(offsets[i])]


@jit
def nearest(blocks: Any, source: Any, target: Any, out: Any, scratch: Any, consts: Any) -> None:
    _nearest_rows(blocks, source, target, out, scratch, consts, (0, out.shape[1]))


def sample_rows(
    block: NDArray[Any],
    read_box: Box,
    matrix: Floats,
    out_box: Box,
    out: NDArray[Any],
    *,
    order: int,
    fill: Any,
    parallel: bool,
) -> None:
    """`sampling.sample` of a C-contiguous native block into a C-contiguous `out` of its type."""
    ndim = read_box.ndim
    if ndim == 1:
        sample_rows(
            block[..., None, :], _lifted(read_box), _lifted_matrix(matrix), _lifted(out_box), out[..., None, :],
            order=order, fill=fill, parallel=parallel,
        )  # fmt: skip
        return
    if ndim > 3:
        raise ShapeMismatchError(f"{ndim} dimensions cannot be sampled at once; the kernel knows up to 3")
    real = np.float32 if out.dtype.itemsize <= 2 or out.dtype == np.float32 else np.float64
    shape = read_box.shape
    reach = (0, 1) if order else (0, 0)
    start, stop = np.array(read_box.start, np.float64), np.array(read_box.stop, np.float64)
    bounds = np.stack([start - reach[1], stop - reach[0], start - reach[0], stop - reach[1]])
    strides = tuple(math.prod(shape[k + 1 :]) for k in range(ndim))
    steps = tuple(math.prod(out_box.shape[k + 1 : -1]) for k in range(ndim - 1))
    blocks = block.reshape(-1, math.prod(shape))
    scratch = (
        np.empty((ndim, 4)),
        np.empty(SEGMENT, np.uint32 if blocks.shape[1] < 2**32 else np.uint64),
        np.empty((ndim, SEGMENT), real),
        np.empty(ndim, np.int64),
    )
    limits = None
    if out.dtype.kind != "f":
        limits = (real(np.iinfo(out.dtype).min), _below(np.iinfo(out.dtype).max, real))
    consts = (real(fill), fill, (real(1), real(1 - np.finfo(real).epsneg), real(0)), limits)
    target = (np.ascontiguousarray(matrix), out_box.start, steps)
    rows = out.reshape(len(blocks), -1, out_box.shape[-1])
    (linear if order else nearest)(blocks, (shape, strides, start, bounds), target, rows, scratch, consts)


def _below(value: int, real: Any) -> Any:
    """The largest number of the type that is not above an integer."""
    nearest_one = real(value)
    return nearest_one if int(nearest_one) <= value else np.nextafter(nearest_one, real(0))


def _lifted(box: Box) -> Box:
    return Box((0, *box.start), (1, *box.stop))


def _lifted_matrix(matrix: Floats) -> Floats:
    m = np.eye(len(matrix) + 1)
    m[1:, 1:] = matrix
    return m
