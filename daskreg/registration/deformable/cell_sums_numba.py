"""The sums of a Gauss-Newton step for cubic B-splines, cell by cell; see `cell_sums`.

An image is a volume of one plane whose single control point along z has weight 1. In a row of cells, sums run along x,
then y, then z: the products of the splines along x, each with itself and the three after it, are summed voxel by voxel,
those sums times the ten products of the four splines along y row by row, and the results times those along z plane by
plane. Single precision within a row of cells, double beyond in the linear sums.

    g        (D, z, y, x) float32: slopes of the fixed image.
    wr, w    (z, y, x) float32: weights times residuals, and weights.
    tables   for z, y, x: (starts, first, weights, slopes); see `control_grid.AxisTable`.
    c        (D, z, y, x) nodes, float64: the coefficients of the layer, or none.
    square   (nodes z, pairs, mz, 7, 7, nodes of a plane) float32: of a control point with those of its own plane and of
             the planes behind it; those before have the same sums with it. Rows of a plane are GAP apart, so that what
             is beyond the end of a row is zero, and a plane is one long row. linear: (D, z, y, x) nodes, float64.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import inner, jit

GAP = 3
"""Zeros between the rows of a plane of control points."""
FOUR = 4
"""Splines along an axis that overlap: each with itself and the three after it."""


@inner(fastmath={"contract", "reassoc"})
def _bend(local: Any, v: Any) -> None:
    """The slopes v (D, n) of voxels, times the inverse transposed Jacobian of the layer, whose slopes are local."""
    ndim, one = len(v), np.float32(1)
    # Solve (1 + local)^T g = v by Cramer's rule.
    if ndim == 2:
        for x in range(v.shape[1]):
            l00, l01 = local[0, 0, x] + one, local[0, 1, x]
            l10, l11 = local[1, 0, x], local[1, 1, x] + one
            scale, v0, v1 = one / (l00 * l11 - l01 * l10), v[0, x], v[1, x]
            v[0, x] = (l11 * v0 - l10 * v1) * scale
            v[1, x] = (l00 * v1 - l01 * v0) * scale
    else:
        for x in range(v.shape[1]):
            l00, l01, l02 = local[0, 0, x] + one, local[0, 1, x], local[0, 2, x]
            l10, l11, l12 = local[1, 0, x], local[1, 1, x] + one, local[1, 2, x]
            l20, l21, l22 = local[2, 0, x], local[2, 1, x], local[2, 2, x] + one
            m00, m01, m02 = l11 * l22 - l12 * l21, l12 * l20 - l10 * l22, l10 * l21 - l11 * l20
            m10, m11, m12 = l02 * l21 - l01 * l22, l00 * l22 - l02 * l20, l01 * l20 - l00 * l21
            m20, m21, m22 = l01 * l12 - l02 * l11, l02 * l10 - l00 * l12, l00 * l11 - l01 * l10
            scale, v0, v1, v2 = one / (l00 * m00 + l01 * m01 + l02 * m02), v[0, x], v[1, x], v[2, x]
            v[0, x] = (m00 * v0 + m01 * v1 + m02 * v2) * scale
            v[1, x] = (m10 * v0 + m11 * v1 + m12 * v2) * scale
            v[2, x] = (m20 * v0 + m21 * v1 + m22 * v2) * scale


@inner
def _products(weights: Any, out: Any) -> None:
    """(n, m (m + 1) / 2) products of the m splines of each voxel with each other, i <= j."""
    m = weights.shape[1]
    for x in range(len(weights)):
        for i in range(m):
            for j in range(i, m):
                out[x, _place(i, j, m)] = weights[x, i] * weights[x, j]


@inner
def _following(weights: Any, out: Any) -> None:
    """(n, FOUR * FOUR) products of each spline of a voxel with itself and those after it, and zeros."""
    out[:] = 0
    for x in range(len(weights)):
        for i in range(FOUR):
            for j in range(i, FOUR):
                out[x, FOUR * i + j - i] = weights[x, i] * weights[x, j]


@inner
def _place(i: Any, j: Any, m: Any) -> Any:
    """Where the product of splines i and j is among those of m splines."""
    low, high = min(i, j), max(i, j)
    return low * m - low * (low - 1) // 2 + high - low


@inner(fastmath={"contract", "reassoc"})
def _add_scaled(total: Any, factor: Any, values: Any) -> None:
    for k in range(len(total)):
        total[k] += factor * values[k]


@inner
def _add(total: Any, values: Any) -> None:
    for k in range(len(total)):
        total[k] += values[k]


@inner
def _scatter(sums: Any, place: Any, stride: Any, square: Any) -> None:
    """Add the sums of a row of cells to the pairs of its control points.

    sums: (products along z, products along y, pairs, FOUR, nodes). place: of the first control point along z, y and x.
    """
    pz, _, pairs, _, nodes = sums.shape
    mz = 1 if pz == 1 else FOUR
    for q in range(pairs):
        for i in range(mz):
            for j in range(i, mz):
                for k in range(FOUR):
                    for other in range(FOUR):
                        values = sums[_place(i, j, mz), _place(k, other, FOUR), q]
                        out = square[place[0] + i, q, j - i, other - k + 3]
                        first = (place[1] + k) * stride + place[2]
                        _add(out[3, first : first + nodes], values[0])
                        for d in range(1, FOUR):
                            # The one with the one behind it, and that with the one before it, have the same product.
                            _add(out[3 + d, first : first + nodes - d], values[d, : nodes - d])
                            _add(out[3 - d, first + d : first + nodes], values[d, : nodes - d])


@inner(fastmath={"contract", "reassoc"})
def _lines_of_plane(c: Any, z: Any, cells: Any, tables: Any, planes: Any, lines: Any) -> None:
    """What the slopes of the layer in a plane of voxels of a row of cells are summed from, along y.

    lines: (D, D, 4, n) for each axis of the slopes and each component, the four lines of control points along y, at the
    voxels along x. planes: (2, nodes) for one of these lines, its coefficients and their slopes along z.
    """
    tz, ty, tx = tables
    ndim, starts = len(c), tx[0]
    for a in range(ndim):
        for k in range(4):
            planes[:] = 0
            for i in range(tz[2].shape[1]):
                nodes = c[a, tz[1] + cells[0] + i, ty[1] + cells[1] + k]
                _add_scaled(planes[0], tz[2][z, i], nodes)
                _add_scaled(planes[1], tz[3][z, i], nodes)
            for b in range(ndim):
                nodes, table = planes[1 if b == ndim - 3 else 0], tx[3] if b == ndim - 1 else tx[2]
                line = lines[b, a, k]
                for ix in range(len(starts) - 1):
                    first = tx[1] + ix
                    n0, n1, n2, n3 = nodes[first], nodes[first + 1], nodes[first + 2], nodes[first + 3]
                    for x in range(starts[ix], starts[ix + 1]):
                        line[x] = n0 * table[0, x] + n1 * table[1, x] + n2 * table[2, x] + n3 * table[3, x]


@inner(fastmath={"contract", "reassoc"})
def _slopes_of_cells(g: Any, c: Any, cells: Any, tables: Any, scratch: Any, out: Any) -> None:
    """The gradients of the voxels of a row of cells, (D, z, y, x) of `out`, bent by the layer.

    cells: numbers of the row along z and y. tables: those of x are (4, n).
    """
    tz, ty, _ = tables
    planes, lines, local = scratch
    z0, y0, ndim, bends = tz[0][cells[0]], ty[0][cells[1]], len(g), c.shape[0] > 0
    for z in range(z0, tz[0][cells[0] + 1]):
        if bends:
            _lines_of_plane(c, z, cells, tables, planes, lines)
        for y in range(y0, ty[0][cells[1] + 1]):
            found = out[:, z - z0, y - y0]
            for a in range(ndim):
                for x in range(g.shape[3]):
                    found[a, x] = g[a, z, y, x]
            if bends:
                for b in range(ndim):
                    along = ty[3][y] if b == ndim - 2 else ty[2][y]
                    for a in range(ndim):
                        four, one = lines[b, a], local[a, b]
                        for x in range(len(one)):
                            low = along[0] * four[0, x] + along[1] * four[1, x]
                            one[x] = low + along[2] * four[2, x] + along[3] * four[3, x]
                _bend(local, found)


@inner(fastmath={"contract", "reassoc"})
def _add_along_x(tx: Any, line: Any, out: Any) -> None:
    """Add a line of voxels to its control points."""
    starts = tx[0]
    for ix in range(len(starts) - 1):
        for m in range(4):
            total = np.float32(0)
            for x in range(starts[ix], starts[ix + 1]):
                total += line[x] * tx[2][m, x]
            out[tx[1] + ix + m] += total


@inner(fastmath={"contract", "reassoc"})
def _linear_of_cells(slopes: Any, wr: Any, cells: Any, tables: Any, scratch: Any, linear: Any) -> None:
    """Add the linear sums of a row of cells: along y, then z, for all x at once, and then along x."""
    tz, ty, tx = tables
    along_y, along_z = scratch
    z0, y0 = tz[0][cells[0]], ty[0][cells[1]]
    along_z[:] = 0
    for z in range(z0, tz[0][cells[0] + 1]):
        along_y[:] = 0
        for y in range(y0, ty[0][cells[1] + 1]):
            for a in range(len(slopes)):
                row, weights = slopes[a, z - z0, y - y0], ty[2][y]
                for x in range(len(row)):
                    one = row[x] * wr[z, y, x]
                    along_y[a, 0, x] += weights[0] * one
                    along_y[a, 1, x] += weights[1] * one
                    along_y[a, 2, x] += weights[2] * one
                    along_y[a, 3, x] += weights[3] * one
        for a in range(len(slopes)):
            for i in range(along_z.shape[1]):
                for k in range(4):
                    _add_scaled(along_z[a, i, k], tz[2][z, i], along_y[a, k])
    for a in range(len(slopes)):
        for i in range(along_z.shape[1]):
            for k in range(4):
                _add_along_x(tx, along_z[a, i, k], linear[a, tz[1] + cells[0] + i, ty[1] + cells[1] + k])


@inner(fastmath={"contract", "reassoc"})
def _squares_along_x(row: Any, w: Any, starts: Any, px: Any, scratch: Any, out: Any) -> None:
    """(pairs, FOUR, nodes) sums along a row of voxels, for each control point with itself and those after it."""
    band, total = scratch
    q = 0
    for a in range(len(row)):
        for b in range(a, len(row)):
            band[:] = 0
            for ix in range(len(starts) - 1):
                total[:] = np.float32(0)
                for x in range(starts[ix], starts[ix + 1]):
                    one = row[a, x] * row[b, x] * w[x]
                    for k in range(FOUR * FOUR):
                        total[k] += one * px[x, k]
                _add(band[FOUR * ix : FOUR * (ix + FOUR)], total)
            for d in range(FOUR):
                for n in range(out.shape[2]):
                    out[q, d, n] = band[FOUR * n + d]
            q += 1


@inner(fastmath={"contract", "reassoc"})
def _square_of_cells(slopes: Any, w: Any, cells: Any, tables: Any, products: Any, scratch: Any, square: Any) -> None:
    """Add the squares of a row of cells: along x, then y, then z."""
    tz, ty, tx = tables
    pz, py, px = products
    along_x, sums_x, sums_y, sums_z, stride = scratch
    z0, y0 = tz[0][cells[0]], ty[0][cells[1]]
    sums_z[:] = 0
    for z in range(z0, tz[0][cells[0] + 1]):
        sums_y[:] = 0
        for y in range(y0, ty[0][cells[1] + 1]):
            _squares_along_x(slopes[:, z - z0, y - y0], w[z, y], tx[0], px, along_x, sums_x)
            for k in range(len(sums_y)):
                _add_scaled(sums_y[k].reshape(-1), py[y, k], sums_x.reshape(-1))
        for i in range(len(sums_z)):
            _add_scaled(sums_z[i].reshape(-1), pz[z, i], sums_y.reshape(-1))
    _scatter(sums_z, (tz[1] + cells[0], ty[1] + cells[1], tx[1]), stride, square)


@jit(fastmath={"contract", "reassoc"})
def sum_cells(images: Any, tables: Any, c: Any, columns: Any, out: Any, with_square: Any) -> None:
    """Add the sums of rows of cells. columns: (N, 2) numbers of cells along z and y."""
    g, wr, w = images
    tz, ty, tx = tables
    square, linear = out
    ndim, mz, nodes, width, single = g.shape[0], tz[2].shape[1], linear.shape[3], g.shape[3], np.float32
    pairs = ndim * (ndim + 1) // 2
    pz, py = np.empty((len(tz[2]), mz * (mz + 1) // 2), single), np.empty((len(ty[2]), 10), single)
    px = np.empty((len(tx[2]), FOUR * FOUR), single)
    _products(tz[2], pz)
    _products(ty[2], py)
    _following(tx[2], px)
    deep, high = np.max(tz[0][1:] - tz[0][:-1]), np.max(ty[0][1:] - ty[0][:-1])
    slopes = np.zeros((ndim, deep, high, width), single)
    layer = np.zeros((2, nodes)), np.zeros((ndim, ndim, 4, width), single), np.zeros((ndim, ndim, width), single)
    lines = np.zeros((ndim, 4, width), single), np.zeros((ndim, mz, 4, width), single)
    beside = len(tx[0]) - 1 + FOUR - 1
    sums_x, sums_y = np.zeros((pairs, FOUR, beside), single), np.zeros((10, pairs, FOUR, beside), single)
    sums_z = np.zeros((pz.shape[1], 10, pairs, FOUR, beside), single)
    along_x = np.zeros(FOUR * (beside + 1), single), np.zeros(FOUR * FOUR, single)
    sums = along_x, sums_x, sums_y, sums_z, nodes + GAP
    turned = tz, ty, (tx[0], tx[1], tx[2].T.copy(), tx[3].T.copy())
    for number in range(len(columns)):
        cells = columns[number]
        _slopes_of_cells(g, c, cells, turned, layer, slopes)
        _linear_of_cells(slopes, wr, cells, turned, lines, linear)
        if with_square:
            _square_of_cells(slopes, w, cells, tables, (pz, py, px), sums, square)


@inner(fastmath={"contract", "reassoc"})
def _add_products(total: Any, bands: Any, v: Any) -> None:
    """total[n] += the sum over m of bands[m][n] v[n + m], m from 0 to 6."""
    b0, b1, b2, b3, b4, b5, b6 = bands
    for n in range(len(total)):
        left = b0[n] * v[n] + b1[n] * v[n + 1] + b2[n] * v[n + 2]
        right = b4[n] * v[n + 4] + b5[n] * v[n + 5] + b6[n] * v[n + 6]
        total[n] += left + b3[n] * v[n + 3] + right


@inner(fastmath={"contract", "reassoc"})
def _add_bands(total: Any, bands: Any, v: Any) -> None:
    """total[n + m] += bands[m][n] v[n], m from 0 to 6."""
    for m in range(7):
        band = bands[m]
        for n in range(len(v)):
            total[n + m] += band[n] * v[n]


@jit(fastmath={"contract", "reassoc"})
def multiply(square: Any, v: Any, out: Any, stride: Any, planes: Any, nodes: Any) -> None:
    """Add some control points of some planes, times v: their rows of the banded matrix, and what is theirs of the rows
    of planes behind.

    v: (D, z, nodes of a plane) float32, with planes of zeros behind, and in a plane 3 rows and 3 more before and after.
    out: the same of `planes` and those behind them. stride: of a row. planes, nodes: first and stop.
    """
    ndim, (first, stop) = v.shape[0], nodes
    middle, count = 3 * stride + 3, stop - first
    for z in range(planes[0], planes[1]):
        here, q = z - planes[0], 0
        for a in range(ndim):
            for b in range(a, ndim):
                for i in range(square.shape[2]):
                    for k in range(7):
                        s, start, own = square[z, q, i, k], first + k * stride, first + middle
                        # One by one these are contiguous for the compiler, which is four times as fast.
                        bands = (
                            s[0, first:stop],
                            s[1, first:stop],
                            s[2, first:stop],
                            s[3, first:stop],
                            s[4, first:stop],
                            s[5, first:stop],
                            s[6, first:stop],
                        )
                        _add_products(out[a, here, own : own + count], bands, v[b, z + i, start : start + count + 6])
                        if a != b:
                            _add_products(
                                out[b, here, own : own + count], bands, v[a, z + i, start : start + count + 6]
                            )
                        if i > 0:
                            _add_bands(out[b, here + i, start : start + count + 6], bands, v[a, z, own : own + count])
                            if a != b:
                                _add_bands(
                                    out[a, here + i, start : start + count + 6], bands, v[b, z, own : own + count]
                                )
                q += 1
