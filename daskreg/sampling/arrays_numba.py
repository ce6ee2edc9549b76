"""The sampling kernels for CPUs: index, weight and gather in one pass over each output row.

Nothing here knows boxes or errors; `sampling.arrays` prepares the arguments and calls. Everything
is flat: blocks are (B, n), one contiguous block after the other, the output is
(B, rows, width), and the three kernels take the same four tuples:

    source   (shape, strides, first, bounds): of one block. `first` (D,) is the absolute
             index of its first neighbour, `bounds` (4, D) the coordinates from and below
             which a voxel touches the block, and needs no bounds check.
    rows     see `row_number`.
    target   (matrix, origin, steps): from absolute output indices to coordinates, the
             first index of the output, and the rows from one index to the next along
             each axis but the last.
    scratch  (lines, offsets, weights, near): of one thread; `near` are the neighbours, two
             along the last axis in one number, which one load fetches.
    consts   (fill, fill_out, unit, limits, gaps, clamp): the fill to interpolate with, and to store; the numbers
             1, 1 - eps, 0, 1/2, 1/6, 2/3 in the type of the weights; the range of the output's integers, or None;
             whether coefficients may be NaN (1), which counts where its weight is not zero, or are not (None);
             whether voxels beyond the outermost centres take the outermost voxel, rather than a mix with the fill.

A row of the output is a straight line through the source, along which every coordinate is
monotone, in floating point too. So the voxels of a row that need no bounds check are one
run, and those that touch the block at all are another; both ends are found exactly. Inside
the run, offsets and weights of as many voxels as the scratch holds are computed once, in
vectors, and then used for every block of the batch: its neighbours are gathered, one load for
two of them, and then interpolated, in vectors again.

Coordinates are `((m0 * i0 + m1 * i1) + m3) + m2 * i2` in float64 from absolute indices,
in this order and without fastmath, so that no cut of the output into blocks changes a bit.

All compiled code that calls each other is in this one file, because numba's cache on disk
only notices a change in the file of the function that was called.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic, overload

from daskreg.runtime.compiled import inner, jit
from daskreg.runtime.intrinsics import greatest, least, prefetch

_BAND = 32  # rows of a plane that are computed before those of the next plane: what they touch stays in the cache
_ROWS_AHEAD = 2  # which row is fetched into the cache while one is computed


def as_like(value: Any, like: Any) -> Any:
    """`value` in the floating type of `like`."""
    return type(like)(value)


@overload(as_like, strict=False)
def _as_typed(value: Any, like: Any) -> Any:
    if like == numba.types.float32:
        return lambda value, like: np.float32(value)
    return lambda value, like: np.float64(value)


@intrinsic
def _load_pair(typing_context: Any, block: Any, index: Any) -> Any:
    """`block[index]` in the low half of an unsigned integer and `block[index + 1]` in the high half."""
    bits = 2 * block.dtype.bitwidth

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(bits).as_pointer())
        return builder.load(pointer, align=bits // 16)

    return numba.types.Integer.from_bitwidth(bits, signed=False)(block, index), generate


def _gather(block: Any, offset: Any, near: Any, n: Any) -> None:
    """Put the voxels at `offset` and `offset + 1` of the block into column `n` of `near`."""


@overload(_gather, strict=False)
def _gather_typed(block: Any, offset: Any, near: Any, n: Any) -> Any:
    if block.dtype.bitwidth < 64:

        def gather(block: Any, offset: Any, near: Any, n: Any) -> None:
            near[0, n] = _load_pair(block, offset)  # type: ignore[call-arg]
    else:

        def gather(block: Any, offset: Any, near: Any, n: Any) -> None:
            near[0, n] = block[offset]
            near[1, n] = block[offset + np.uint64(1)]

    return gather


def put_pair(a: Any, b: Any, near: Any, n: Any) -> None:
    """Put two voxels into column `n` of `near`, as `_gather` does."""


@overload(put_pair, strict=False)
def _put_typed(a: Any, b: Any, near: Any, n: Any) -> Any:
    if a.bitwidth == 64:

        def put(a: Any, b: Any, near: Any, n: Any) -> None:
            near[0, n], near[1, n] = a, b

        return put
    bits = a.bitwidth
    mask = (1 << bits) - 1
    if a == numba.types.float32:

        def put(a: Any, b: Any, near: Any, n: Any) -> None:
            near[0, n] = np.uint64(np.float32(a).view(np.uint32)) | np.uint64(
                np.float32(b).view(np.uint32)
            ) << np.uint64(bits)
    else:

        def put(a: Any, b: Any, near: Any, n: Any) -> None:
            near[0, n] = np.uint64(a) & np.uint64(mask) | np.uint64(b) << np.uint64(bits)

    return put


def _pair(near: Any, n: Any, like: Any) -> Any:
    """Two neighbours, of the type of `like`, out of column `n` of `near`."""


@overload(_pair, strict=False)
def _pair_typed(near: Any, n: Any, like: Any) -> Any:
    if like.bitwidth == 64:
        return lambda near, n, like: (near[0, n], near[1, n])
    bits = like.bitwidth
    if like == numba.types.float32:

        def pair(near: Any, n: Any, like: Any) -> Any:
            both = near[0, n]
            return np.uint32(both).view(np.float32), np.uint32(both >> np.uint64(32)).view(np.float32)
    else:

        def pair(near: Any, n: Any, like: Any) -> Any:
            both = near[0, n]
            return type(like)(both), type(like)(both >> type(both)(bits))

    return pair


@inner
def _position(line: Any, j: Any) -> Any:
    """Source coordinate of column `j`; `line` is (row constant, slope, rounding)."""
    return (line[0] + line[1] * np.float64(j)) + line[2]


@inner
def _first(line: Any, bound: Any, columns: Any) -> Any:
    """First column from which on the coordinate is beyond `bound`: estimated, then corrected."""
    start, stop = columns
    falling = line[1] < 0
    guess = (bound - line[2] - line[0]) / line[1]
    j = start if not guess > start else stop if guess > stop else np.int64(guess)
    while j > start and (_position(line, j - 1) < bound) == falling:
        j -= 1
    while j < stop and (_position(line, j) < bound) != falling:
        j += 1
    return j


@inner
def columns_within(lines: Any, lower: Any, upper: Any, columns: Any) -> Any:
    """Columns [start, stop) whose coordinates lie in lower <= x < upper along every axis."""
    start, stop = columns
    for k in range(len(lines)):
        line = (lines[k, 0], lines[k, 1], lines[k, 2])
        ends = _position(line, columns[0]), _position(line, columns[1] - 1)
        low, high = least(ends[0], ends[1]), greatest(ends[0], ends[1])
        if low >= lower[k] and high < upper[k]:
            continue
        if high < lower[k] or low >= upper[k]:
            return columns[0], columns[0]
        passed = _first(line, lower[k], columns), _first(line, upper[k], columns)
        start = greatest(start, least(passed[0], passed[1]))
        stop = least(stop, greatest(passed[0], passed[1]))
    return start, greatest(start, stop)


@inner
def _set_lines(lines: Any, target: Any, row: Any, rounding: Any) -> None:
    """The coordinates along one row of the output."""
    matrix, origin, steps = target
    ndim = len(lines)
    for k in range(ndim):
        constant, rest = 0.0, row
        for i in range(ndim - 1):
            part = matrix[k, i] * np.float64(origin[i] + rest // steps[i])
            constant = part if i == 0 else constant + part
            rest = rest % steps[i]
        lines[k, 0] = constant + matrix[k, ndim]
        lines[k, 1] = matrix[k, ndim - 1]
        lines[k, 2] = rounding


def whole(value: Any, like: Any) -> Any:
    """A whole number that a float64 holds, as an integer of the size of `like`."""


@overload(whole, strict=False)
def _whole_typed(value: Any, like: Any) -> Any:
    if like.bitwidth == 32:  # signed: every processor converts to it in vectors; blocks are smaller than 2^31
        return lambda value, like: np.int32(value)
    return lambda value, like: np.int64(value)


@inner
def _lay_down(lines: Any, source: Any, column: Any, count: Any, offsets: Any, weights: Any, unit: Any) -> None:
    """Offsets into the block, and the weights of the next neighbours, of `count` columns from `column` on.

    Offsets are added up in float64, in which they are exact.
    """
    strides, first, like, last = source[1], source[2], offsets[0], len(source[1]) - 1
    base = 0.0
    for k in range(last + 1):
        base += first[k] * np.float64(strides[k])
    by, sy, ry = lines[last - 1, 0], lines[last - 1, 1], lines[last - 1, 2]
    bx, sx, rx = lines[last, 0], lines[last, 1], lines[last, 2]
    wy, wx, y_step = weights[last - 1], weights[last], np.float64(strides[last - 1])
    if last == 1:
        for n in range(count):
            j = np.float64(column + n)
            y, x = (by + sy * j) + ry, (bx + sx * j) + rx
            fy, fx = np.floor(y), np.floor(x)
            offsets[n] = whole((fy * y_step + fx) - base, like)
            wy[n] = least(as_like(y - fy, unit[0]), unit[1])
            wx[n] = least(as_like(x - fx, unit[0]), unit[1])
    else:
        bz, sz, rz = lines[0, 0], lines[0, 1], lines[0, 2]
        wz, z_step = weights[0], np.float64(strides[0])
        for n in range(count):
            j = np.float64(column + n)
            z, y, x = (bz + sz * j) + rz, (by + sy * j) + ry, (bx + sx * j) + rx
            fz, fy, fx = np.floor(z), np.floor(y), np.floor(x)
            offsets[n] = whole((fz * z_step + (fy * y_step + fx)) - base, like)
            wz[n] = least(as_like(z - fz, unit[0]), unit[1])
            wy[n] = least(as_like(y - fy, unit[0]), unit[1])
            wx[n] = least(as_like(x - fx, unit[0]), unit[1])


@inner
def _fill_ends(out: Any, row: Any, start: Any, stop: Any, fill: Any) -> None:
    for b in range(len(out)):
        out[b, row, :start] = fill
        out[b, row, stop:] = fill


@inner
def _mix(a: Any, b: Any, w: Any, unit: Any) -> Any:
    """Interpolate between two neighbours; the second is left out where its weight is zero (NaN * 0 is NaN)."""
    return a * (unit[0] - w) + (b * w if w != unit[2] else unit[2])


@inner
def _mix4(a: Any, b: Any, c: Any, d: Any, wy: Any, wx: Any, unit: Any) -> Any:
    return _mix(_mix(a, b, wx, unit), _mix(c, d, wx, unit), wy, unit)


@inner
def row_number(number: Any, rows: Any) -> Any:
    """The row with this number in the order of computing: band by band, each band in all planes.

    `rows` is (first, last, planes, rows of a plane), with the first two counted in this order.
    """
    planes, height = rows[2], rows[3]
    band = number // (planes * _BAND)
    start = band * _BAND
    thick = least(_BAND, height - start)
    rest = number - start * planes
    return rest // thick * height + start + rest % thick


def _stored(value: Any, limits: Any) -> Any:
    """As it is stored in the output: for integers (with `limits`) rounded half to even and clamped."""


@overload(_stored, strict=False)
def _stored_typed(value: Any, limits: Any) -> Any:
    if limits == numba.types.none:
        return lambda value, limits: value
    if value == numba.types.float32:  # of 8 or 16 bits: by way of 32 it goes in vectors
        return lambda value, limits: np.int32(least(greatest(np.rint(value), limits[0]), limits[1]))
    return lambda value, limits: least(greatest(np.rint(value), limits[0]), limits[1])


@jit
def nearest(blocks: Any, source: Any, target: Any, out: Any, scratch: Any, consts: Any, rows: Any) -> None:
    bounds, origin = source[3], target[1]
    lines, offsets, weights, _ = scratch
    j0 = origin[-1]
    for number in range(rows[0], rows[1]):
        row = row_number(number, rows)
        _set_lines(lines, target, row, 0.5)
        inside = columns_within(lines, bounds[2], bounds[3], (j0, j0 + out.shape[2]))
        _fill_ends(out, row, inside[0] - j0, inside[1] - j0, consts[1])
        for start in range(inside[0], inside[1], len(offsets)):
            count = least(len(offsets), inside[1] - start)
            _lay_down(lines, source, start, count, offsets, weights, consts[2])
            for b in range(len(blocks)):
                block, part = blocks[b], out[b, row, start - j0 : start - j0 + count]
                for n in range(count):
                    part[n] = block[np.uint64(offsets[n])]


@inner
def gather_run(block: Any, offsets: Any, near: Any, strides: Any, count: Any, ahead: Any) -> None:
    """The neighbours of voxels that lie inside the block; those of a later row are prefetched into the cache.

    Rows that are a little oblique touch a new cache line every few voxels, which processors
    do not predict: without the prefetch they take three times as long.
    """
    for n in range(0, count, 8):
        prefetch(block, np.int64(offsets[n]) + ahead)
        if len(strides) == 3:
            prefetch(block, np.int64(offsets[n]) + ahead + strides[0])
    # Unsigned offsets spare a test for negative ones.
    y = np.uint64(strides[-2])
    low, high = near[0], near[1]
    if len(strides) == 2:
        for n in range(count):
            o = np.uint64(offsets[n])
            _gather(block, o, low, n)
            _gather(block, o + y, high, n)
    else:
        z, far_low, far_high = np.uint64(strides[0]), near[2], near[3]
        for n in range(count):
            o = np.uint64(offsets[n])
            _gather(block, o, low, n)
            _gather(block, o + y, high, n)
            _gather(block, o + z, far_low, n)
            _gather(block, o + z + y, far_high, n)


@inner
def _index(line: Any, first: Any, j: Any) -> Any:
    """Index in the block of the lower neighbour of column `j`."""
    return np.int64(np.floor((line[0] + line[1] * np.float64(j)) + line[2]) - first)


@inner
def gather_at_border(block: Any, source: Any, index: Any, near: Any, n: Any, fill: Any) -> None:
    """Put the neighbours of one voxel, of which some are fill, into column `n` of `near`.

    `index` (z, y, x) in the block of the lower neighbour; z has no meaning in an image.
    """
    shape, strides = source[0], source[1]
    last = len(shape) - 1
    height, width = shape[last - 1], shape[last]
    z, y, x = index
    for r in range(len(near)):
        dz, dy = r >> 1, r & 1
        inside = 0 <= y + dy < height and (last == 1 or 0 <= z + dz < shape[0])
        base = (y + dy) * width + x
        if last == 2:
            base += (z + dz) * strides[0]
        a = block[np.uint64(base)] if inside and 0 <= x < width else fill
        b = block[np.uint64(base + 1)] if inside and -1 <= x < width - 1 else fill
        put_pair(a, b, near[r], n)


@inner
def clamped(index: Any, length: Any, weights: Any, n: Any) -> Any:
    """The lower neighbour of column `n` along an axis where it lies between the outermost centres, else the outermost
    voxel, and the next one then has no weight."""
    if index < 0:
        weights[n] = 0
        return np.int64(0)
    if index >= length - 1:
        weights[n] = 0
        return np.int64(length - 1)
    return index


@inner
def _gather_edge(
    block: Any, source: Any, lines: Any, column: Any, count: Any, near: Any, weights: Any, consts: Any
) -> None:
    """The neighbours of voxels at the border, of which some are fill."""
    first, shape, last = source[2], source[0], len(source[0]) - 1
    for n in range(count):
        y = _index(lines[last - 1], first[last - 1], column + n)
        x = _index(lines[last], first[last], column + n)
        z = _index(lines[0], first[0], column + n) if last == 2 else np.int64(0)
        if consts[5]:
            y = clamped(y, shape[last - 1], weights[last - 1], n)
            x = clamped(x, shape[last], weights[last], n)
            if last == 2:
                z = clamped(z, shape[0], weights[0], n)
        gather_at_border(block, source, (z, y, x), near, n, consts[1])


@inner
def _mix_pairs(low: Any, high: Any, n: Any, like: Any, w: Any, unit: Any) -> Any:
    """Interpolate between four neighbours, those of the lower row of voxels in `low`."""
    a, b = _pair(low, n, like)
    c, d = _pair(high, n, like)
    one = unit[0]
    return _mix4(as_like(a, one), as_like(b, one), as_like(c, one), as_like(d, one), w[0], w[1], unit)


@inner
def mix_run(near: Any, weights: Any, strides: Any, part: Any, consts: Any) -> None:
    """Interpolate between the neighbours that were gathered, in vectors."""
    like, unit, limits = consts[1], consts[2], consts[3]
    low, high = near[0], near[1]
    if len(strides) == 2:
        wy, wx = weights[0], weights[1]
        for n in range(len(part)):
            part[n] = _stored(_mix_pairs(low, high, n, like, (wy[n], wx[n]), unit), limits)
    else:
        wz, wy, wx = weights[0], weights[1], weights[2]
        far_low, far_high = near[2], near[3]
        for n in range(len(part)):
            w = wy[n], wx[n]
            value = _mix_pairs(low, high, n, like, w, unit)
            far = _mix_pairs(far_low, far_high, n, like, w, unit)
            part[n] = _stored(_mix(value, far, wz[n], unit), limits)


@jit
def linear(blocks: Any, source: Any, target: Any, out: Any, scratch: Any, consts: Any, rows: Any) -> None:
    bounds, origin = source[3], target[1]
    lines, offsets, weights, near = scratch
    j0 = origin[-1]
    step = 0.0  # from one row to the next, in the block
    for k in range(len(source[1])):
        step += target[0][k, len(source[1]) - 2] * source[1][k]
    ahead = np.int64(_ROWS_AHEAD * step)
    for number in range(rows[0], rows[1]):
        row = row_number(number, rows)
        _set_lines(lines, target, row, 0.0)
        touched = columns_within(lines, bounds[0], bounds[1], (j0, j0 + out.shape[2]))
        inside = columns_within(lines, bounds[2], bounds[3], touched)
        _fill_ends(out, row, touched[0] - j0, touched[1] - j0, consts[1])
        for edge, first, stop in ((True, touched[0], inside[0]), (False, *inside), (True, inside[1], touched[1])):
            for start in range(first, stop, len(offsets)):
                count = least(len(offsets), stop - start)
                _lay_down(lines, source, start, count, offsets, weights, consts[2])
                for b in range(len(blocks)):
                    if edge:
                        _gather_edge(blocks[b], source, lines, start, count, near, weights, consts)
                    else:
                        gather_run(blocks[b], offsets, near, source[1], count, ahead)
                    mix_run(near, weights, source[1], out[b, row, start - j0 : start - j0 + count], consts)


@inner
def _cubic_weights(t: Any, unit: Any) -> Any:
    """Weights of the cubic B-spline at the four nodes around a point that lies `t` beyond the second of them."""
    one, half, sixth, two_thirds = unit[0], unit[3], unit[4], unit[5]
    u = one - t
    w0, w3 = u * u * u * sixth, t * t * t * sixth
    w1 = two_thirds - t * t * (one - t * half)
    return w0, w1, one - w0 - w1 - w3, w3


def _times(value: Any, weight: Any, gaps: Any) -> Any:
    """The product; with gaps, zero where the weight is zero (NaN * 0 is NaN)."""


@overload(_times, strict=False)
def _times_typed(value: Any, weight: Any, gaps: Any) -> Any:
    if gaps == numba.types.none:
        return lambda value, weight, gaps: value * weight
    return lambda value, weight, gaps: value * weight if weight != 0 else weight


@inner
def _cubic_line(block: Any, o: Any, w: Any, gaps: Any) -> Any:
    x = np.uint64(1)
    return block[o] * w[0] + block[o + x] * w[1] + block[o + x + x] * w[2] + _times(block[o + x + x + x], w[3], gaps)


@inner
def _cubic_square(block: Any, o: Any, y: Any, wy: Any, wx: Any, gaps: Any) -> Any:
    near = _cubic_line(block, o, wx, gaps) * wy[0] + _cubic_line(block, o + y, wx, gaps) * wy[1]
    o += y + y
    far = _times(_cubic_line(block, o + y, wx, gaps), wy[3], gaps)
    return near + _cubic_line(block, o, wx, gaps) * wy[2] + far


@inner
def cubic_run(block: Any, offsets: Any, weights: Any, strides: Any, part: Any, consts: Any) -> None:
    unit, limits, gaps, last = consts[2], consts[3], consts[4], len(strides) - 1
    y, z = np.uint64(strides[last - 1]), np.uint64(strides[0])
    for n in range(len(part)):
        o = np.uint64(offsets[n])
        wy, wx = _cubic_weights(weights[last - 1, n], unit), _cubic_weights(weights[last, n], unit)
        if last == 1:
            value = _cubic_square(block, o, y, wy, wx, gaps)
        else:
            wz = _cubic_weights(weights[0, n], unit)
            value = _cubic_square(block, o, y, wy, wx, gaps) * wz[0]
            value += _cubic_square(block, o + z, y, wy, wx, gaps) * wz[1]
            o += z + z
            value += _cubic_square(block, o, y, wy, wx, gaps) * wz[2]
            value += _times(_cubic_square(block, o + z, y, wy, wx, gaps), wz[3], gaps)
        part[n] = _stored(value, limits)


@jit
def cubic(blocks: Any, source: Any, target: Any, out: Any, scratch: Any, consts: Any, rows: Any) -> None:
    """Samples of spline coefficients, which reach so far around the block that voxels without them are fill."""
    bounds, origin = source[3], target[1]
    lines, offsets, weights, _ = scratch
    j0 = origin[-1]
    for number in range(rows[0], rows[1]):
        row = row_number(number, rows)
        _set_lines(lines, target, row, 0.0)
        inside = columns_within(lines, bounds[2], bounds[3], (j0, j0 + out.shape[2]))
        _fill_ends(out, row, inside[0] - j0, inside[1] - j0, consts[1])
        for start in range(inside[0], inside[1], len(offsets)):
            count = least(len(offsets), inside[1] - start)
            _lay_down(lines, source, start, count, offsets, weights, consts[2])
            for b in range(len(blocks)):
                part = out[b, row, start - j0 : start - j0 + count]
                cubic_run(blocks[b], offsets, weights, source[1], part, consts)


def kernels(ndim: int, dtype: str, order: int) -> list[tuple[Any, tuple[Any, ...]]]:
    """The kernel for images of `ndim` axes and voxels of a type, and the types that `sampling.arrays` calls it with.

    See `runtime.compile_ahead`.
    """
    voxel = numba.typeof(np.dtype(dtype).type(0))
    real = numba.float32 if voxel.bitwidth <= 16 or voxel == numba.float32 else numba.float64
    f64, whole, planes = numba.float64, numba.types.UniTuple(numba.intp, ndim), max(1, ndim - 1)
    blocks = numba.types.Array(voxel, 2, "C", readonly=True)
    near = voxel if voxel.bitwidth == 64 else numba.types.Integer.from_bitwidth(2 * voxel.bitwidth, signed=False)
    source = numba.types.Tuple((whole, whole, f64[::1], f64[:, ::1]))
    target = numba.types.Tuple((f64[:, ::1], whole, numba.types.UniTuple(numba.intp, planes)))
    scratch = numba.types.Tuple((f64[:, ::1], numba.uint32[::1], real[:, ::1], near[:, :, ::1]))
    limits = numba.none if isinstance(voxel, numba.types.Float) else numba.types.UniTuple(real, 2)
    unit = numba.types.UniTuple(real, 6)
    consts = numba.types.Tuple((real, voxel, unit, limits, numba.none, numba.boolean))
    rows = numba.types.UniTuple(numba.intp, 4)
    types = (blocks, source, target, voxel[:, :, ::1], scratch, consts, rows)
    return [(linear if order else nearest, types)]
