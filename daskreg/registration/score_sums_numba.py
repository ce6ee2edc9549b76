"""The sums of `score_sums` on CPUs: sample, weight and sum in one pass over each row of the fixed image.

A row is interpolated in the moving image by Lagrange's polynomials: along each axis six voxels are read, linear along
the others; what that adds to linear interpolation is summed over the axes. Values and slopes are float32.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import typeof

from daskreg.registration.normal_equations.equations_numba import sums_of_chunks
from daskreg.registration.pose_numba import motions
from daskreg.registration.pyramids import bad_voxels_numba, filters_numba, gaussian_numba
from daskreg.runtime.compiled import fragment, jit
from daskreg.runtime.intrinsics import empty, greatest, least, zeros

BEFORE, AFTER = 2, 3
"""Voxels before and after the lower neighbour that the interpolation along an axis reads."""
GOLDEN = (math.sqrt(5) - 1) / 2


@fragment(fastmath={"contract"})
def _positions(first: Any, step: Any, last: Any, width: Any, low: Any, fraction: Any, v: Any) -> None:
    """The lower neighbours and fractions along one axis; multiplies `v` by the weights of the edges."""
    top = np.float64(greatest(last - 1, 0))
    for x in range(len(low)):
        u = first + step * np.float64(x)
        edge = np.float32(least(u, last - u) + 0.5) / width
        v[x] *= least(greatest(edge, np.float32(0)), np.float32(1))
        inner = least(greatest(u, 0.0), np.float64(last))
        floor = least(np.floor(inner), top)
        low[x] = np.int32(floor)
        fraction[x] = np.float32(inner - floor)


@fragment(fastmath={"contract", "reassoc"})
def _taps(fraction: Any, out: Any) -> None:
    """Lagrange's weights of six voxels, less those of linear interpolation."""
    for x in range(len(fraction)):
        t = fraction[x]
        a, b, d, e, f = t + np.float32(2), t + np.float32(1), t - np.float32(1), t - np.float32(2), t - np.float32(3)
        ab, ef, td = a * b, e * f, t * d
        out[0, x] = -b * td * ef * np.float32(1 / 120)
        out[1, x] = a * td * ef * np.float32(1 / 24)
        out[2, x] = d - ab * d * ef * np.float32(1 / 12)
        out[3, x] = ab * t * ef * np.float32(1 / 12) - t
        out[4, x] = -ab * td * f * np.float32(1 / 24)
        out[5, x] = ab * td * e * np.float32(1 / 120)


@fragment(fastmath={"contract", "reassoc"})
def _slope_taps(fraction: Any, out: Any) -> None:
    """The derivatives of Lagrange's weights of four voxels; the outer two of six are zero."""
    for x in range(len(fraction)):
        t = fraction[x]
        tt = np.float32(0.5) * t * t
        out[0, x] = np.float32(0)
        out[1, x] = t - tt - np.float32(1 / 3)
        out[2, x] = np.float32(3) * tt - t - t - np.float32(0.5)
        out[3, x] = t - np.float32(3) * tt + np.float32(1)
        out[4, x] = tt - np.float32(1 / 6)
        out[5, x] = np.float32(0)


@fragment(fastmath={"contract", "reassoc"})
def _along(m: Any, p: Any, step: Any, taps: Any, x: Any) -> Any:
    """The sum of six voxels `step` apart along a line, times their taps."""
    value = taps[0, x] * m[p - 2 * step] + taps[1, x] * m[p - step] + taps[2, x] * m[p]
    return value + taps[3, x] * m[p + step] + taps[4, x] * m[p + 2 * step] + taps[5, x] * m[p + 3 * step]


@fragment(fastmath={"contract", "reassoc"})
def _add_line(m: Any, start: Any, steps: Any, axis: Any, fractions: Any, taps: Any, out: Any) -> None:
    """Add the sums along one axis, interpolated linearly along the others, to a row.

    start: (n,) the lower neighbours in memory. steps: (D,) of memory along each axis.
    """
    one, step = np.float32(1), steps[axis]
    u = steps[1 if axis == 0 else 0]
    t = fractions[1 if axis == 0 else 0]
    if len(steps) == 2:
        for x in range(len(out)):
            p = start[x]
            out[x] += (one - t[x]) * _along(m, p, step, taps, x) + t[x] * _along(m, p + u, step, taps, x)
    else:
        other = 1 if axis == 2 else 2
        v, s = steps[other], fractions[other]
        for x in range(len(out)):
            p, q = start[x], start[x] + u
            low = (one - s[x]) * _along(m, p, step, taps, x) + s[x] * _along(m, p + v, step, taps, x)
            high = (one - s[x]) * _along(m, q, step, taps, x) + s[x] * _along(m, q + v, step, taps, x)
            out[x] += low + t[x] * (high - low)


@fragment(fastmath={"contract", "reassoc"})
def _linear(m: Any, start: Any, steps: Any, fractions: Any, w: Any) -> None:
    """Linear interpolation."""
    ndim, one = len(steps), np.float32(1)
    sy, sx = steps[ndim - 2], steps[ndim - 1]
    ty, tx = fractions[ndim - 2], fractions[ndim - 1]
    for x in range(len(w)):
        p = start[x]
        near = (one - ty[x]) * (m[p] + tx[x] * (m[p + sx] - m[p]))
        w[x] = near + ty[x] * (m[p + sy] + tx[x] * (m[p + sy + sx] - m[p + sy]))
    if ndim == 3:
        for x in range(len(w)):
            p = start[x] + steps[0]
            far = (one - ty[x]) * (m[p] + tx[x] * (m[p + sx] - m[p]))
            far += ty[x] * (m[p + sy] + tx[x] * (m[p + sy + sx] - m[p + sy]))
            w[x] += fractions[0, x] * (far - w[x])


@fragment
def _add_offsets(low: Any, before: Any, step: Any, start: Any) -> None:
    for x in range(len(start)):
        start[x] += (np.int64(low[x]) + before) * step


@fragment
def locate(matrix: Any, index: Any, place: Any, widths: Any, steps: Any, places: Any, v: Any) -> None:
    """Where a row lies in the moving image: lower neighbours and fractions along each axis, and in memory.

    place: the first voxel of the array, without what it is widened by, in the whole image, and the shape of that.
    """
    low, fractions, start = places
    origin, whole = place
    ndim = len(whole)
    start[:] = 0
    for k in range(ndim):
        first = matrix[k, ndim]
        for axis in range(ndim - 1):
            first += matrix[k, axis] * index[axis]
        _positions(first, matrix[k, ndim - 1], whole[k] - 1, widths[k], low[k], fractions[k], v)
        _add_offsets(low[k], BEFORE - origin[k], steps[k], start)


@fragment
def sample(m: Any, near: Any, steps: Any, places: Any, taps: Any, w: Any) -> None:
    """Values of the moving image; linear where a voxel that is read is masked, so that `near` is 0."""
    _, fractions, start = places
    _linear(m, start, steps, fractions, w)
    for k in range(len(steps)):
        _taps(fractions[k], taps)
        _replace(near, start, np.float32(0), taps)
        _add_line(m, start, steps, k, fractions, taps, w)


@fragment
def sample_slopes(m: Any, near: Any, steps: Any, places: Any, taps: Any, slopes: Any) -> None:
    """Slopes of the moving image along each axis; linear where a voxel that is read is masked."""
    _, fractions, start = places
    slopes[:] = np.float32(0)
    for k in range(len(steps)):
        _slope_taps(fractions[k], taps)
        _replace(near, start, np.float32(1), taps)
        _add_line(m, start, steps, k, fractions, taps, slopes[k])


@fragment
def _replace(near: Any, start: Any, slope: Any, taps: Any) -> None:
    """Linear taps where `near` is 0: of a slope (1), or none of what is added to linear interpolation (0)."""
    if len(near) > 0:
        for x in range(len(start)):
            if near[start[x]] == 0:
                taps[:, x] = np.float32(0)
                taps[BEFORE, x] = -slope
                taps[BEFORE + 1, x] = slope


@fragment(fastmath={"contract", "reassoc"})
def multiply_linear(c: Any, shape: Any, origin: Any, low: Any, fractions: Any, v: Any) -> None:
    """Multiply by the weight of the moving image, whose first voxel is `origin`, interpolated linearly."""
    ndim = len(shape)
    for x in range(len(v)):
        total = np.float32(0)
        for corner in range(1 << ndim):
            at, share, stride, bits = 0, np.float32(1), 1, corner
            for k in range(ndim - 1, -1, -1):
                upper = bits & 1
                bits >>= 1
                at += least(low[k, x] - origin[k] + upper, shape[k] - 1) * stride
                stride *= shape[k]
                share *= fractions[k, x] if upper else np.float32(1) - fractions[k, x]
            total += share * c[at]
        v[x] *= total


@fragment(fastmath={"contract"})
def _gradient(fixed: Any, r: Any, stride: Any, index: Any, n: Any, out: Any) -> None:
    """The fixed image's central differences along one axis (`stride` 0: the last), one-sided at the ends."""
    row, count = fixed[r], fixed.shape[1]
    if stride:
        before, after = r - stride * least(index, 1), r + stride * least(n - 1 - index, 1)
        scale = np.float32(stride / greatest(after - before, 1))
        for x in range(count):
            out[x] = scale * (fixed[after, x] - fixed[before, x])
        return
    for x in range(1, count - 1):
        out[x] = np.float32(0.5) * (row[x + 1] - row[x - 1])
    out[0] = row[least(1, count - 1)] - row[0]
    out[count - 1] = row[count - 1] - row[greatest(count - 2, 0)]


@fragment
def _scale(values: Any, factor: Any, out: Any) -> None:
    for x in range(len(out)):
        out[x] = values[x] * factor


@fragment
def _multiply(factors: Any, values: Any) -> None:
    for x in range(len(values)):
        values[x] *= factors[x]


@fragment(fastmath={"contract"})
def _product(a: Any, b: Any, out: Any) -> None:
    for x in range(len(out)):
        out[x] = a[x] * b[x]


@fragment(fastmath={"contract"})
def _add(a: Any, out: Any) -> None:
    for x in range(len(out)):
        out[x] += a[x]


@fragment(fastmath={"contract"})
def _add_product(a: Any, b: Any, out: Any) -> None:
    for x in range(len(out)):
        out[x] += a[x] * b[x]


@fragment
def _add_row(buffer: Any, g: Any, scratch: Any, columns: Any) -> None:
    """Add a row to the (6 + 3 D, n) sums over rows of v times 1, d, w, dd, dw, ww, and of v g times 1, w, d."""
    v, w, d = buffer[0], buffer[1], buffer[2]
    ndim = len(g)
    vd, vw = scratch[0], scratch[1]
    _product(v, d, vd)
    _product(v, w, vw)
    _add(v, columns[0])
    _add(vd, columns[1])
    _add(vw, columns[2])
    _add_product(vd, d, columns[3])
    _add_product(vd, w, columns[4])
    _add_product(vw, w, columns[5])
    for a in range(ndim):
        _add_product(v, g[a], columns[6 + a])
        _add_product(vw, g[a], columns[6 + ndim + a])
        _add_product(vd, g[a], columns[6 + 2 * ndim + a])


@fragment(fastmath={"contract", "reassoc", "nsz"})
def _to_cells(columns: Any, width: Any, phase: Any, cells: Any) -> None:
    """Add the sums over rows to the (cells of a row, 6 + 3 D) sums of the cells.

    phase: voxels of the first cell that lie before the first column.
    """
    for k in range(len(columns)):
        for cell in range(len(cells)):
            total = np.float32(0)
            for x in range(greatest(0, cell * width - phase), least((cell + 1) * width - phase, columns.shape[1])):
                total += columns[k, x]
            cells[cell, k] += total


@fragment(fastmath={"contract", "reassoc", "nsz"})
def _add_cross(buffer: Any, g: Any, h: Any, xi: Any, lead: Any, cross: Any, slopes: Any) -> None:
    """Add a row to the sums of products of both gradients, and of the moving one."""
    ndim, columns = len(g), len(xi)
    v, w = buffer[0], buffer[1]
    last = ndim - 1
    for b in range(ndim):
        h0 = h1 = w0 = w1 = np.float32(0)
        for x in range(columns):
            vh = v[x] * h[b, x]
            h0 += vh
            h1 += vh * xi[x]
            w0 += vh * w[x]
            w1 += vh * w[x] * xi[x]
        for f in range(ndim + 1):
            slopes[0, b, f] += h1 if f == last else h0 * lead[f]
            slopes[1, b, f] += w1 if f == last else w0 * lead[f]
        for a in range(ndim):
            t0 = t1 = t2 = np.float32(0)
            for x in range(columns):
                t = v[x] * g[a, x] * h[b, x]
                t0 += t
                t1 += t * xi[x]
                t2 += t * xi[x] * xi[x]
            for e in range(ndim + 1):
                for f in range(ndim + 1):
                    degree = (1 if e == last else 0) + (1 if f == last else 0)
                    factor = (1.0 if e == last else lead[e]) * (1.0 if f == last else lead[f])
                    cross[a, e, b, f] += factor * np.float64(t0 if degree == 0 else t1 if degree == 1 else t2)


@fragment
def _weights_of_row(index: Any, axes: Any, mask: Any, lead: Any, v: Any) -> None:
    """The weights of a row by edges and mask, and its leading xi."""
    scaled, edges = axes
    edge, last = np.float32(1), len(scaled) - 1
    for k in range(last):
        lead[k] = scaled[k][index[k]]
        edge *= edges[k][index[k]]
    _scale(edges[last], edge, v)
    if len(mask) > 0:
        _multiply(mask, v)


@fragment
def _gradients(fixed: Any, r: Any, index: Any, scaled: Any, g: Any) -> None:
    """The gradient of the fixed image along a row."""
    stride: Any = np.int64(0)  # not a literal, for which `_gradient` would be compiled again
    last = len(scaled) - 1
    for k in range(last, -1, -1):
        n = len(scaled[k])
        _gradient(fixed, r, stride, index[k], n, g[k])
        stride = greatest(1, stride * n) if k < last else 1


@fragment
def _sum_tasks(
    moving: Any,
    fixed: Any,
    maps: Any,
    axes: Any,
    widths: Any,
    grid: Any,
    share: Any,
    tasks: Any,
    out: Any,
    rows_of: Any,
    numbers: Any,
) -> None:
    """`score_sums`; rows_of: buffers as long as a row. numbers: small ones."""
    images, cover, near, place, (padded, covered) = moving
    cell, phase, begin, end, corner, extent = grid[0], grid[1], grid[2], grid[3], grid[4], grid[5]
    values, weight = fixed
    cells, cross, slopes = out
    scaled = axes[0]
    buffer, scratch, g, h, fractions, start, low, taps, sums = rows_of
    lead, index, steps = numbers
    places = low, fractions, start
    ndim, columns = len(padded), values.shape[2]
    last = ndim - 1
    lead[ndim] = 1
    for k in range(ndim):
        lead[k] = steps[k] = 1
    for k in range(last - 1, -1, -1):
        steps[k] = steps[k + 1] * padded[k + 1]
    v, w, d = buffer[0], buffer[1], buffer[2]  # `= buffer` gives rows that numba takes to have a stride
    middle, thick = (len(scaled[1]), cell[1]) if ndim == 3 else (1, 1)
    upper, lower = (begin[1], end[1]) if ndim == 3 else (0, 1)
    skipped = phase[1] if ndim == 3 else 0
    for number in range(len(tasks)):
        pair, first, stop, target = tasks[number]
        image, mask = images[pair if len(images) > 1 else 0], cover[pair if len(cover) > 1 else 0]
        one, its_weight = values[pair if len(values) > 1 else 0], weight[pair if len(weight) > 1 else 0]
        trusted = near[pair if len(near) > 1 else 0]
        above = upper
        while above < lower:
            sums[:] = np.float32(0)
            plane = (above + skipped) // thick
            below = least((plane + 1) * thick - skipped, lower)
            for row in range((stop - first) * (below - above)):
                index[0] = first + row // (below - above)
                r = index[0] * middle + above + row % (below - above)
                number_of_row = index[0] + corner[0]
                if ndim == 3:
                    index[1] = r % middle
                    number_of_row = number_of_row * extent[1] + index[1] + corner[1]
                _weights_of_row(index, axes, its_weight[r], lead, v)
                locate(maps[pair], index, place, widths, steps, places, v)
                sample(image, trusted, steps, places, taps, w)
                if len(mask) > 0:
                    multiply_linear(mask, covered, place[0], low, fractions, v)
                for x in range(columns):
                    d[x] = one[r, x] - w[x]
                _gradients(one, r, index, scaled, g)
                _add_row(buffer, g, scratch, sums)
                if (number_of_row * GOLDEN) % 1 < share:
                    sample_slopes(image, trusted, steps, places, taps, h)
                    _add_cross(buffer, g, h, scaled[last], lead, cross[target], slopes[target])
            _to_cells(sums, cell[last], phase[last], cells[pair, (first + phase[0]) // cell[0], plane])
            above = below


@jit
def score_sums(
    moving: Any, fixed: Any, maps: Any, axes: Any, widths: Any, grid: Any, share: Any, tasks: Any, out: Any
) -> None:
    """Fill `out`, of the cells of the tasks.

    moving: (values (B, voxels), repeated beyond their edges by BEFORE and AFTER voxels; weight (B, voxels), and (B,
    voxels) likewise repeated, 0 where a masked voxel is near, or both (1, 0) without a mask; (their first voxel in the
    whole image, and its shape); shapes of values and weight). fixed: (values (B, R, n), weight likewise, or (1, R, 0)
    without a mask). A batch of one is for all pairs. maps: (B, D, D+1) from indices of the fixed array to those of the
    moving image. axes: (xi of every axis, weight along every axis of the fixed image). widths: of the edges of the
    moving image. grid: (6, D) voxels along a cell; voxels of the first cell before the array; first and end of what is
    summed; first voxel of the array in the whole image; shape of the whole. share: of the rows that are summed in cross
    and slopes. tasks: (T, 4) of pair, first and end along the first axis, those of one plane of cells, and number.
    out: cells (B, planes, rows of cells, columns of cells, 6 + 3 D), cross (T, D, D+1, D, D+1), slopes (T, 2, D, D+1).
    """
    ndim, columns = len(widths), fixed[0].shape[2]
    rows_of = (
        empty((3, columns), np.float32),
        empty((2, columns), np.float32),
        empty((ndim, columns), np.float32),
        empty((ndim, columns), np.float32),
        empty((ndim, columns), np.float32),
        empty(columns, np.int64),
        empty((ndim, columns), np.int32),
        empty((BEFORE + 1 + AFTER, columns), np.float32),
        empty((6 + 3 * ndim, columns), np.float32),
    )
    numbers = empty(ndim + 1, np.float64), zeros(ndim, np.int64), empty(ndim, np.int64)
    _sum_tasks(moving, fixed, maps, axes, widths, grid, share, tasks, out, rows_of, numbers)


def kernels(ndim: int) -> list[tuple[Any, tuple[Any, ...]]]:
    """The kernels that `register` needs of images of `ndim` axes, and the types that it calls them with.

    Those that take longest to compile are first (see `runtime.compile_ahead`). With masks they are the same.
    """

    def of(axes: int, dtype: Any = np.float32) -> Any:
        return np.empty((0,) * axes, dtype)

    f64, i64 = np.float64, np.int64
    flat, rows, axis, table, shape = of(2), of(3), of(1), of(2, i64), (1,) * ndim
    place, chunks = (of(1, i64), shape), (of(1, i64), table)
    axes = ((of(1, f64),) * ndim, (axis,) * ndim, 1.0)
    images = flat, flat, of(2, np.bool_), place, (shape, shape)
    sums, score = (of(2, f64), of(3, f64), of(3, f64)), (of(5, f64), of(5, f64), of(4, f64))
    calls = (
        (score_sums, (images, (rows, rows), of(3, f64), ((axis,) * ndim,) * 2, axis, table, 0.5, table, score)),
        (
            sums_of_chunks,
            ((flat, flat, (shape, *place)), (rows, rows), of(3, f64), axes, axis, chunks, sums),
        ),
        (motions, (of(2, f64), of(2, f64), table, of(1, f64), of(3, f64), of(4, f64))),
        *gaussian_numba.calls(),
        *filters_numba.calls(),
        *bad_voxels_numba.calls(),
    )
    return [(kernel, tuple(map(typeof, arguments))) for kernel, arguments in calls]
