"""The sums of `score_sums` on CPUs: sample, weight and sum in one pass over each row of the fixed image."""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import typeof

from daskreg.registration.lagrange_numba import AFTER, BEFORE, locate, multiply_linear, sample, sample_slopes
from daskreg.registration.pyramids import filters_numba
from daskreg.runtime.compiled import fragment, jit
from daskreg.runtime.intrinsics import empty, greatest, least, zeros

GOLDEN = (math.sqrt(5) - 1) / 2


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
    v, w, d = buffer
    ndim = len(g)
    vd, vw = scratch
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
    sums = empty(3, np.float64)
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
            sums[0], sums[1], sums[2] = t0, t1, t2
            for e in range(ndim + 1):
                for f in range(ndim + 1):
                    degree = (1 if e == last else 0) + (1 if f == last else 0)
                    factor = (1.0 if e == last else lead[e]) * (1.0 if f == last else lead[f])
                    cross[a, e, b, f] += factor * sums[degree]


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


@jit
def score_sums(
    moving: Any, fixed: Any, maps: Any, axes: Any, widths: Any, grid: Any, share: Any, tasks: Any, out: Any
) -> None:
    """Fill `out`, of the cells of the tasks.

    moving: (values (B, *shape), repeated beyond their edges by BEFORE and AFTER voxels; weight (B, *shape), and
    likewise repeated, 0 where a masked voxel is near, or both (1, 0, ..) without a mask; their first voxel in the
    whole image, and its shape). fixed: (values (B, R, n), weight likewise, or (1, R, 0) without a mask). A batch of one
    is for all pairs. maps: (B, D, D+1) from indices of the fixed array to those of the moving image. axes: (xi of every
    axis, weight along every axis of the fixed image). widths: of the edges of the moving image. grid: (6, D) voxels
    along a cell; voxels of the first cell before the array; first and end of what is summed; first voxel of the array
    in the whole image; shape of the whole. share: of the rows that are summed in cross and slopes. tasks: (T, 4) of
    pair, first and end along the first axis, those of one plane of cells, and number. out: cells (B, planes, rows of
    cells, columns of cells, 6 + 3 D), cross (T, D, D+1, D, D+1), slopes (T, 2, D, D+1).
    """
    images, cover, near, place = moving
    cell, phase, begin, end, corner, extent = grid
    values, weight = fixed
    cells, cross, slopes = out
    scaled = axes[0]
    ndim, columns = maps.shape[1], values.shape[2]
    last = ndim - 1
    buffer, scratch = empty((3, columns), np.float32), empty((2, columns), np.float32)
    g, h = empty((ndim, columns), np.float32), empty((ndim, columns), np.float32)
    fractions, start = empty((ndim, columns), np.float32), empty(columns, np.int64)
    places = empty((ndim, columns), np.int32), fractions, start
    taps, sums = empty((BEFORE + 1 + AFTER, columns), np.float32), empty((6 + 3 * ndim, columns), np.float32)
    lead, index, steps = empty(ndim + 1, np.float64), zeros(ndim, np.int64), empty(ndim, np.int64)
    lead[ndim] = 1
    for k in range(ndim):
        lead[k] = steps[k] = 1
    v, w, d = buffer
    middle, thick = (len(scaled[1]), cell[1]) if ndim == 3 else (1, 1)
    upper, lower = (begin[1], end[1]) if ndim == 3 else (0, 1)
    skipped = phase[1] if ndim == 3 else 0
    for number in range(len(tasks)):
        pair, first, stop, target = tasks[number]
        image, mask = images[pair if len(images) > 1 else 0], cover[pair if len(cover) > 1 else 0]
        one, its_weight = values[pair if len(values) > 1 else 0], weight[pair if len(weight) > 1 else 0]
        flat, trusted = image.reshape(-1), near[pair if len(near) > 1 else 0].reshape(-1)
        for k in range(last - 1, -1, -1):
            steps[k] = steps[k + 1] * image.shape[k + 1]
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
                sample(flat, trusted, steps, places, taps, w)
                if mask.size > 0:
                    multiply_linear(mask.reshape(-1), mask.shape, place[0], places[0], fractions, v)
                for x in range(columns):
                    d[x] = one[r, x] - w[x]
                _gradients(one, r, index, scaled, g)
                _add_row(buffer, g, scratch, sums)
                if (number_of_row * GOLDEN) % 1 < share:
                    sample_slopes(flat, trusted, steps, places, taps, h)
                    _add_cross(buffer, g, h, scaled[last], lead, cross[target], slopes[target])
            _to_cells(sums, cell[last], phase[last], cells[pair, (first + phase[0]) // cell[0], plane])
            above = below


def late_kernels(ndim: int) -> list[tuple[Any, tuple[Any, ...]]]:
    """The kernels that `register` needs late, of images of `ndim` axes, and the types that it calls them with.

    They are the same with and without masks (see `runtime.compile_ahead`).
    """

    def of(axes: int, dtype: Any = np.float64) -> Any:
        return np.empty((0,) * axes, dtype)

    moving, fixed, axis = of(ndim + 1, np.float32), of(3, np.float32), of(1, np.float32)
    images = moving, moving, of(ndim + 1, np.bool_), (of(1, np.int64), (1,) * ndim)
    table, out = of(2, np.int64), (of(5), of(5), of(4))
    arguments = (images, (fixed, fixed), of(3), ((axis,) * ndim,) * 2, axis, table, 0.5, table, out)
    return [(score_sums, tuple(map(typeof, arguments))), *filters_numba.late_kernels()]
