"""The Gauss-Newton sums on CPUs: sample, weight and sum in one pass over each row.

The same sums as those of `equations_torch`, as a test shows, several times
faster. Sums are float32 along a row and float64 beyond, chunk by chunk in a fixed order,
so the number of threads changes no bit.

A row of the fixed image is a straight line through the moving one. The part of it that lies inside
the moving image is sampled into buffers that stay in the cache, which are then summed in
vectors. The voxels that the next row needs are prefetched.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from daskreg.runtime.compiled import fragment, jit
from daskreg.runtime.intrinsics import empty, greatest, least, prefetch, zeros

# Rows of the buffer: weight, warped, difference, gradient along each axis.
_V, _W, _D, _G = 0, 1, 2, 3
# Voxels that the sums take at a time.
_WIDE = 64
# Voxels of a moving image that fit into a core's own cache: nothing is prefetched.
_CACHED = 1 << 17


@fragment
def _columns_inside(line: Any, shape: Any, n: Any) -> Any:
    """Columns [start, stop) of a row outside of which every weight is zero."""
    start, stop = 0.0, float(n)
    for k in range(len(shape)):
        low, high = -0.5 - line[k, 0], shape[k] - 0.5 - line[k, 0]
        slope = line[k, 1]
        if slope == 0:
            if low >= 0 or high <= 0:
                return 0, 0
        elif slope > 0:
            start, stop = greatest(start, low / slope), least(stop, high / slope + 1)
        else:
            start, stop = greatest(start, high / slope), least(stop, low / slope + 1)
    if not start < stop:
        return 0, 0
    first = least(np.int64(start), n)
    return first, greatest(first, least(np.int64(stop) + 1, n))


@fragment(fastmath={"contract"})
def _sample_positions(line: Any, place: Any, widths: Any, run: Any, offsets: Any, fractions: Any, v: Any) -> None:
    """Offset of the lower neighbour and fractions of the columns `run`; multiplies `v` by the edge weights.

    place: shape of the array, its first voxel in the whole image, and the shape of that. Coordinates are clamped to
    the whole image. The weights are those of `edge_weights.edge_weight`.
    """
    shape, origin, whole = place
    first, count = run[0], run[1] - run[0]
    stride, before = 1, 0
    for k in range(len(shape) - 1, -1, -1):
        before += origin[k] * stride
        stride *= shape[k]
    offsets[:count] = -before
    stride = 1
    for k in range(len(shape) - 1, -1, -1):
        start, slope, width = line[k, 0], line[k, 1], widths[k]
        last, top = np.float64(whole[k] - 1), np.float64(greatest(whole[k] - 2, 0))
        for at in range(count):
            u = start + slope * np.float64(at + first)
            edge = np.float32(least(u, last - u) + 0.5) / width
            v[at] *= least(greatest(edge, np.float32(0.0)), np.float32(1.0))
            inner = least(greatest(u, 0.0), last)
            low = least(np.floor(inner), top)
            offsets[at] += np.int64(np.int32(low)) * stride
            fractions[k, at] = np.float32(inner - low)
        stride *= shape[k]


@fragment(fastmath={"contract"})
def _interpolate_2d(m: Any, steps: Any, offsets: Any, fractions: Any, out: Any) -> None:
    dy, dx = steps
    for at in range(len(out)):
        p, fy, fx = offsets[at], fractions[0, at], fractions[1, at]
        low = m[p] + fx * (m[p + dx] - m[p])
        high = m[p + dy] + fx * (m[p + dy + dx] - m[p + dy])
        out[at] = low + fy * (high - low)


@fragment(fastmath={"contract"})
def _interpolate_3d(m: Any, steps: Any, offsets: Any, fractions: Any, out: Any) -> None:
    dz, dy, dx = steps
    for at in range(len(out)):
        p, fz, fy, fx = offsets[at], fractions[0, at], fractions[1, at], fractions[2, at]
        q = p + dz
        a, e = m[p] + fx * (m[p + dx] - m[p]), m[p + dy] + fx * (m[p + dy + dx] - m[p + dy])
        g, k = m[q] + fx * (m[q + dx] - m[q]), m[q + dy] + fx * (m[q + dy + dx] - m[q + dy])
        low, high = a + fy * (e - a), g + fy * (k - g)
        out[at] = low + fz * (high - low)


def _interpolate(m: Any, steps: Any, offsets: Any, fractions: Any, out: Any) -> None:
    """Interpolate linearly between the neighbours, `steps` of memory apart along each axis."""


@overload(_interpolate, strict=False)
def _interpolate_typed(m: Any, steps: Any, offsets: Any, fractions: Any, out: Any) -> Any:
    chosen = _interpolate_2d if len(steps) == 2 else _interpolate_3d
    return lambda m, steps, offsets, fractions, out: chosen(m, steps, offsets, fractions, out)  # noqa: PLW0108


def _steps(shape: Any) -> Any:
    """Voxels of memory to the next neighbour along each axis; none along an axis of one."""


@overload(_steps, strict=False)
def _steps_typed(shape: Any) -> Any:
    if len(shape) == 2:
        return lambda shape: (shape[1] if shape[0] > 1 else 0, 1 if shape[1] > 1 else 0)
    return lambda shape: (
        shape[1] * shape[2] if shape[0] > 1 else 0,
        shape[2] if shape[1] > 1 else 0,
        1 if shape[2] > 1 else 0,
    )


@fragment(fastmath={"contract"})
def _sample_row(moving: Any, widths: Any, line: Any, row: Any, run: Any, ahead: Any, scratch: Any, buffer: Any) -> None:
    """Sample the columns `run` of one row of the fixed grid into the first columns of the buffer."""
    m, c, place = moving
    fixed, weight, edge, lead = row
    offsets, fractions, near = scratch
    count = run[1] - run[0]
    # Slices need no test for negative indices; without such tests the loops are vectorised.
    here = slice(run[0], run[1])
    v, w, d = buffer[_V, :count], buffer[_W, :count], buffer[_D, :count]
    _scale(edge[here], lead, v)
    if len(weight) > 0:
        _multiply(v, weight[here])
    _sample_positions(line, place, widths, run, offsets, fractions, v)
    steps = _steps(place[0])
    for at in range(0, count if ahead != 0 else 0, 8):
        prefetch(m, offsets[at] + ahead)
        if len(steps) == 3:
            prefetch(m, offsets[at] + ahead + steps[0])
    _interpolate(m, steps, offsets, fractions, w)
    _subtract(fixed[here], w, np.float32(1), d)
    if len(c) > 0:
        _interpolate(c, steps, offsets, fractions, near[:count])
        _multiply(v, near[:count])


@fragment
def _scale(values: Any, factor: Any, out: Any) -> None:
    for at in range(len(out)):
        out[at] = values[at] * factor


@fragment
def _multiply(values: Any, factors: Any) -> None:
    for at in range(len(values)):
        values[at] *= factors[at]


@fragment(fastmath={"contract"})
def _subtract(high: Any, low: Any, scale: Any, out: Any) -> None:
    for at in range(len(out)):
        out[at] = scale * (high[at] - low[at])


@fragment(fastmath={"reassoc", "contract", "nsz"})
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


@fragment(fastmath={"reassoc", "contract", "nsz"})
def _sum_linear(buffer: Any, xi: Any, g: Any, out: Any, index: Any) -> None:
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
    out[0, index], out[0, index + 1], out[0, index + 2] = s0, w0, d0
    out[1, index], out[1, index + 1], out[1, index + 2] = s1, w1, d1


@fragment(fastmath={"reassoc", "contract", "nsz"})
def _sum_square(buffer: Any, xi: Any, g: Any, h: Any, out: Any, index: Any) -> None:
    """Sums of v g h times 1, xi and xi squared."""
    s0 = s1 = s2 = np.float32(0.0)
    for j in range(len(xi)):
        t = buffer[_V, j] * buffer[g, j] * buffer[h, j]
        s0 += t
        s1 += t * xi[j]
        s2 += t * xi[j] * xi[j]
    out[0, index], out[1, index], out[2, index] = s0, s1, s2


@fragment(fastmath={"contract"})
def _add_row(buffer: Any, xi: Any, lead: Any, sums: Any, scalars: Any, linear: Any, square: Any) -> None:
    """Add a sampled row to the sums; `lead` (D+1) is its scaled index, 1 for the last axis and 1."""
    ones, twos = sums
    _sum_scalars(buffer, len(xi), scalars)
    ndim = len(lead) - 1
    last = ndim - 1
    pair = np.int64(0)
    for a in range(ndim):
        _sum_linear(buffer, xi, _G + a, ones, 3 * a)
        for b in range(a, ndim):
            _sum_square(buffer, xi, _G + a, _G + b, twos, pair)
            pair += 1
    entry = 0
    for e in range(ndim + 1):
        degree = 1 if e == last else 0
        _add(lead[e], ones[degree], linear[e])
        for f in range(e, ndim + 1):
            _add(lead[e] * lead[f], twos[degree + (1 if f == last else 0)], square[entry])
            entry += 1


@fragment(fastmath={"contract"})
def _add(factor: Any, values: Any, out: Any) -> None:
    for k in range(len(out)):
        out[k] += factor * np.float64(values[k])


@fragment(fastmath={"contract"})
def _gradient(fixed: Any, r: Any, stride: Any, index: Any, n: Any, run: Any, out: Any) -> None:
    """The fixed image's central differences along one axis, of the columns `run`.

    Along a leading axis they are differences of rows, `stride` apart, of which row `r` is number `index` of `n`.
    """
    start, stop = run
    if stride:
        before, after = r - stride * least(index, 1), r + stride * least(n - 1 - index, 1)
        scale = np.float32(stride / greatest(after - before, 1))
        _subtract(fixed[after, start:stop], fixed[before, start:stop], scale, out[: stop - start])
        return
    row, last = fixed[r], fixed.shape[1] - 1
    inner = greatest(start, 1), greatest(greatest(least(stop, last), start), 1)
    before, after = row[inner[0] - 1 : inner[1] - 1], row[inner[0] + 1 : inner[1] + 1]
    _subtract(after, before, np.float32(0.5), out[inner[0] - start : inner[1] - start])
    if start == 0:
        out[0] = row[least(last, 1)] - row[0]
    if stop == last + 1:
        out[last - start] = row[last] - row[greatest(last - 1, 0)]


@fragment
def _lines(maps: Any, lead: Any, xi: Any, slope: Any, line: Any) -> None:
    """Moving indices along a row: at its first column, and from one to the next."""
    ndim = len(line)
    for k in range(ndim):
        start = maps[k, ndim]
        for axis in range(ndim - 1):
            start += maps[k, axis] * lead[axis]
        line[k, 0] = start + maps[k, ndim - 1] * xi[0]
        line[k, 1] = maps[k, ndim - 1] * slope


@fragment
def _row_position(r: Any, scaled: Any, edges: Any, index: Any, lead: Any) -> Any:
    """Fills in index and scaled index of a row along the leading axes; returns the product of their edge weights."""
    edge = np.float32(1)
    for axis in range(len(index) - 2, -1, -1):
        index[axis] = r % len(scaled[axis])
        lead[axis] = scaled[axis][index[axis]]
        edge *= edges[axis][index[axis]]
        r //= len(scaled[axis])
    return edge


@fragment
def _memory_distance(line: Any, other: Any, shape: Any) -> Any:
    """Voxels of memory between the first samples of two rows."""
    distance, stride = 0, 1
    for k in range(len(shape) - 1, -1, -1):
        distance += round(other[k, 0] - line[k, 0]) * stride
        stride *= shape[k]
    return distance


@fragment
def _sum_chunks(
    moving: Any, fixed: Any, maps: Any, axes: Any, widths: Any, chunks: Any, out: Any, rows_of: Any, numbers: Any
) -> None:
    """`sums_of_chunks`; rows_of: buffers as long as a row. numbers: small ones."""
    images, cover, place = moving
    shape, _, whole = place
    values, weight = fixed
    rows, parts = chunks
    scalars, linear, square = out
    buffer, wide, offsets, fractions, near = rows_of
    ones, twos, lead, far, index, line, other = numbers
    ndim = len(shape)
    scaled, edges, slope = axes
    xi = scaled[ndim - 1]
    columns = len(xi)
    for at in range(columns):  # a slice would take seconds to compile
        wide[at] = xi[at]
    for at in range(columns, columns + _WIDE):
        wide[at] = 0
    for k in range(ndim + 1):
        lead[k] = far[k] = 1
    for c in range(len(parts)):
        pair, first, stop, target = parts[c]
        image, mask = images[pair if len(images) > 1 else 0], cover[pair if len(cover) > 1 else 0]
        of_fixed = pair if len(values) > 1 else 0
        of_weight = pair if len(weight) > 1 else 0
        for number in range(first, stop):
            r = rows[number]
            edge = _row_position(r, scaled, edges, index, lead)
            _lines(maps[pair], lead, xi, slope, line)
            run = _columns_inside(line, whole, columns)
            if run[0] < run[1]:
                row = (values[of_fixed, r], weight[of_weight, r], edges[ndim - 1], edge)
                ahead = 0
                if len(image) > _CACHED and number + 1 < stop:
                    _row_position(rows[number + 1], scaled, edges, index, far)
                    _lines(maps[pair], far, xi, slope, other)
                    ahead = _memory_distance(line, other, shape)
                    _row_position(r, scaled, edges, index, lead)
                _sample_row((image, mask, place), widths, line, row, run, ahead, (offsets, fractions, near), buffer)
                stride: Any = np.int64(0)  # not a literal, for which `_gradient` would be compiled again
                for axis in range(ndim - 1, -1, -1):
                    n = len(scaled[axis])
                    _gradient(values[of_fixed], r, stride, index[axis], n, run, buffer[_G + axis])
                    stride = greatest(1, stride * n) if axis < ndim - 1 else 1
                # Voxels of weight zero fill the last vector, so that no voxel is summed on its own.
                count = run[1] - run[0]
                full = -(-count // _WIDE) * _WIDE
                buffer[:, count:full] = np.float32(0)
                part = wide[run[0] : run[0] + full]
                _add_row(buffer, part, lead, (ones, twos), scalars[target], linear[target], square[target])


@jit
def sums_of_chunks(moving: Any, fixed: Any, maps: Any, axes: Any, widths: Any, chunks: Any, out: Any) -> None:
    """Fill the rows of `out` that belong to the chunks, with the gradient as it is in the fixed image.

    moving: (values (B, voxels), weight (B, voxels), or (1, 0) without a mask, (shape of these arrays, their first voxel
    in the whole image, shape of the whole image)); a batch of one is for all pairs.
    fixed: (values (B, R, n), weight (B, R, n), or (1, R, 0) without a mask), likewise. maps: (B, D, D+1) from xi to
    moving indices. axes: (float64 xi of every axis, weight along every axis of the fixed image, xi from one column to
    the next). chunks: (rows, (N, 4) of pair, first and end in rows, position in `out`), rows being the numbers, out of
    R, of the rows that are summed. out: scalars (M, 6), linear (M, D+1, 3 D) with 1, w, d for each gradient,
    square (M, (D+1) (D+2) / 2, D (D+1) / 2), with pairs of gradients last.
    """
    ndim, columns = len(widths), fixed[0].shape[2]
    rows_of = (
        empty((_G + ndim, columns + _WIDE), np.float32),
        empty(columns + _WIDE, np.float32),
        empty(columns, np.int64),
        empty((ndim, columns), np.float32),
        empty(columns, np.float32),
    )
    numbers = (
        empty((2, 3 * ndim), np.float32),
        empty((3, ndim * (ndim + 1) // 2), np.float32),
        empty(ndim + 1, np.float64),
        empty(ndim + 1, np.float64),
        zeros(ndim, np.int64),
        empty((ndim, 2), np.float64),
        empty((ndim, 2), np.float64),
    )
    _sum_chunks(moving, fixed, maps, axes, widths, chunks, out, rows_of, numbers)
