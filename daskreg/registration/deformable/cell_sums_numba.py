"""The sums of a Gauss-Newton step for cubic B-splines, cell by cell; see `cell_sums`.

An image is a volume of one plane whose single control point along z has weight 1. In a cell, sums run along x, then y,
then z: the ten products of its four splines along x are summed voxel by voxel, those sums times the products along y
row by row, and the results times those along z plane by plane. Single precision within a cell, double beyond in the
linear sums.

    g        (D, z, y, x) float32: slopes of the fixed image.
    wr, w    (z, y, x) float32: weights times residuals, and weights.
    tables   for z, y, x: (starts, first, weights, slopes); see `control_grid.AxisTable`.
    c        (D, z, y, x) nodes, float64: the coefficients of the layer, or none.
    square   (nodes z, pairs, 2 mz - 1, 7, 7, nodes of a plane) float32. Rows of a plane are GAP apart, so that what is
             beyond the end of a row is zero, and a plane is one long row. linear: (D, z, y, x) nodes, float64.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import inner, jit

GAP = 3
"""Zeros between the rows of a plane of control points."""
WIDE = 16
"""Products along x, of which ten are used: whole vectors of single precision."""
MANY = 16
"""Cells of a row whose sums are added to those of all at once."""


@inner(fastmath={"contract", "reassoc"})
def _bent(local: Any, wx: Any, sx: Any, rows: Any, v: Any) -> Any:
    """The slopes v of the fixed image at a voxel, times the inverse transposed Jacobian of the layer.

    rows: (3, D, 4) coefficients of a row: values, slopes along y, slopes along z; x follows.
    """
    ndim = len(v)
    for a in range(ndim):
        by_x = by_y = by_z = np.float32(0)
        for m in range(4):
            by_x += sx[m] * rows[0, a, m]
            by_y += wx[m] * rows[1, a, m]
            by_z += wx[m] * rows[2, a, m]
        local[a, ndim - 1], local[a, ndim - 2] = by_x, by_y
        if ndim == 3:
            local[a, 0] = by_z
    for a in range(ndim):
        local[a, a] += np.float32(1)
    # Solve local^T g = v by Cramer's rule.
    if ndim == 2:
        det = local[0, 0] * local[1, 1] - local[0, 1] * local[1, 0]
        g0 = (local[1, 1] * v[0] - local[1, 0] * v[1]) / det
        v[1] = (local[0, 0] * v[1] - local[0, 1] * v[0]) / det
        v[0] = g0
    else:
        m00 = local[1, 1] * local[2, 2] - local[1, 2] * local[2, 1]
        m01 = local[1, 2] * local[2, 0] - local[1, 0] * local[2, 2]
        m02 = local[1, 0] * local[2, 1] - local[1, 1] * local[2, 0]
        m10 = local[0, 2] * local[2, 1] - local[0, 1] * local[2, 2]
        m11 = local[0, 0] * local[2, 2] - local[0, 2] * local[2, 0]
        m12 = local[0, 1] * local[2, 0] - local[0, 0] * local[2, 1]
        m20 = local[0, 1] * local[1, 2] - local[0, 2] * local[1, 1]
        m21 = local[0, 2] * local[1, 0] - local[0, 0] * local[1, 2]
        m22 = local[0, 0] * local[1, 1] - local[0, 1] * local[1, 0]
        det = local[0, 0] * m00 + local[0, 1] * m01 + local[0, 2] * m02
        v0, v1, v2 = v[0], v[1], v[2]
        v[0] = (m00 * v0 + m01 * v1 + m02 * v2) / det
        v[1] = (m10 * v0 + m11 * v1 + m12 * v2) / det
        v[2] = (m20 * v0 + m21 * v1 + m22 * v2) / det


@inner
def _products(weights: Any, out: Any) -> None:
    """(n, WIDE) products of the splines of each voxel with each other, i <= j, and zeros."""
    m = weights.shape[1]
    for x in range(len(weights)):
        k = 0
        for i in range(m):
            for j in range(i, m):
                out[x, k] = weights[x, i] * weights[x, j]
                k += 1


@inner(fastmath={"contract", "reassoc"})
def _coefficients_of_row(c: Any, cell: Any, z: Any, y: Any, tz: Any, ty: Any, rows: Any) -> None:
    mz = tz[2].shape[1]
    for a in range(c.shape[0]):
        for m in range(4):
            value = by_y = by_z = np.float64(0)
            for i in range(mz):
                for k in range(4):
                    one = c[a, cell[0] + i, cell[1] + k, cell[2] + m]
                    value += tz[2][z, i] * ty[2][y, k] * one
                    by_y += tz[2][z, i] * ty[3][y, k] * one
                    by_z += tz[3][z, i] * ty[2][y, k] * one
            rows[0, a, m], rows[1, a, m], rows[2, a, m] = value, by_y, by_z


@inner(fastmath={"contract", "reassoc"})
def _add_scaled(total: Any, factor: Any, values: Any) -> None:
    for k in range(len(total)):
        total[k] += factor * values[k]


@inner
def _add(total: Any, values: Any) -> None:
    for k in range(len(total)):
        total[k] += values[k]


@inner
def _place(i: Any, j: Any, m: Any) -> Any:
    """Where the product of splines i and j is among those of m splines."""
    low, high = min(i, j), max(i, j)
    return low * m - low * (low - 1) // 2 + high - low


@inner
def _keep(sums: Any, kept: Any, k: Any) -> None:
    """The sums of a cell as the k-th of some."""
    pairs, pz = kept.shape[0], kept.shape[1]
    for q in range(pairs):
        for i in range(pz):
            for j in range(10):
                for m in range(10):
                    kept[q, i, j, m, k] = sums[q, i, j, m]


@inner
def _scatter(kept: Any, count: Any, cell: Any, mz: Any, stride: Any, square: Any) -> None:
    """Add the sums of neighbouring cells of a row, of which `cell` is the first, to the pairs of their control points.

    All cells at once, whose places are neighbours, too.
    """
    for q in range(kept.shape[0]):
        for i in range(mz):
            for j in range(mz):
                for k in range(4):
                    for other in range(4):
                        values = kept[q, _place(i, j, mz), _place(k, other, 4)]
                        out = square[cell[0] + i, q, j - i + mz - 1, other - k + 3]
                        first = (cell[1] + k) * stride + cell[2]
                        for m in range(4):
                            for n in range(4):
                                one = out[n - m + 3, first + m : first + m + count]
                                _add(one, values[_place(m, n, 4), :count])


@inner(fastmath={"contract", "reassoc"})
def _slopes_of_row(g: Any, c: Any, where: Any, columns: Any, tables: Any, scratch: Any, row: Any) -> None:
    """The gradients of the voxels of a cell in a row, (D, count), bent by the layer."""
    cell, z, y = where
    tz, ty, tx = tables
    rows, local, v = scratch
    if c.shape[0]:
        _coefficients_of_row(c, cell, z, y, tz, ty, rows)
    for j in range(columns[1] - columns[0]):
        x = columns[0] + j
        for a in range(len(v)):
            v[a] = g[a, z, y, x]
        if c.shape[0]:
            _bent(local, tx[2][x], tx[3][x], rows, v)
        for a in range(len(v)):
            row[a, j] = v[a]


@inner(fastmath={"contract", "reassoc"})
def _add_linear(row: Any, wr: Any, wx: Any, wy: Any, line_x: Any, line_y: Any) -> None:
    """Sums along a row, times the splines along y."""
    line_x[:] = np.float32(0)
    for a in range(len(row)):
        for j in range(len(wr)):
            one = row[a, j] * wr[j]
            for m in range(4):
                line_x[a, m] += one * wx[j, m]
        for k in range(4):
            for m in range(4):
                line_y[a, k, m] += wy[k] * line_x[a, m]


@inner(fastmath={"contract", "reassoc"})
def _add_square(row: Any, w: Any, px: Any, py: Any, total: Any, sums_y: Any) -> None:
    """Sums along a row, times the products of the splines along y."""
    q = 0
    for a in range(len(row)):
        for b in range(a, len(row)):
            total[:] = np.float32(0)
            for j in range(len(w)):
                one = row[a, j] * row[b, j] * w[j]
                for k in range(16):
                    total[k] += one * px[j, k]
            for k in range(10):
                _add_scaled(sums_y[q, k], py[k], total)
            q += 1


@inner(fastmath={"contract", "reassoc"})
def _add_plane(weights: Any, products: Any, lines: Any, sums: Any, with_square: Any) -> None:
    """The sums of a plane of a cell, times the splines along z and their products."""
    (line_y, line_z), (sums_y, sums_z) = lines, sums
    for a in range(len(line_y)):
        for i in range(len(weights)):
            _add_scaled(line_z[a, i].reshape(-1), weights[i], line_y[a].reshape(-1))
    if with_square:
        for q in range(len(sums_y)):
            for i in range(sums_z.shape[1]):
                _add_scaled(sums_z[q, i].reshape(-1), products[i], sums_y[q].reshape(-1))


@jit(fastmath={"contract", "reassoc"})
def sum_cells(images: Any, tables: Any, c: Any, columns: Any, out: Any, with_square: Any) -> None:
    """Add the sums of rows of cells. columns: (N, 2) numbers of cells along z and y."""
    g, wr, w = images
    tz, ty, tx = tables
    square, linear = out
    ndim, mz, single, zero = g.shape[0], tz[2].shape[1], np.float32, np.float32(0)
    pairs = ndim * (ndim + 1) // 2
    pz, py = np.zeros((len(tz[2]), WIDE), single), np.zeros((len(ty[2]), WIDE), single)
    px = np.zeros((len(tx[2]), WIDE), single)
    _products(tz[2], pz)
    _products(ty[2], py)
    _products(tx[2], px)
    row = np.zeros((ndim, np.max(tx[0][1:] - tx[0][:-1])), single)
    scratch = np.zeros((3, ndim, 4), single), np.zeros((ndim, ndim), single), np.zeros(ndim, single)
    total, sums_y = np.zeros(WIDE, single), np.zeros((pairs, 10, WIDE), single)
    sums_z = np.zeros((pairs, mz * (mz + 1) // 2, 10, WIDE), single)
    line_x, line_y = np.zeros((ndim, 4), single), np.zeros((ndim, 4, 4), single)
    line_z, cell = np.zeros((ndim, mz, 4, 4), single), np.zeros(3, np.int64)
    kept = np.zeros((pairs, mz * (mz + 1) // 2, 10, 10, MANY), single)
    for number in range(len(columns)):
        iz, iy = columns[number, 0], columns[number, 1]
        for ix in range(len(tx[0]) - 1):
            cell[0], cell[1], cell[2] = tz[1] + iz, ty[1] + iy, tx[1] + ix
            x0, x1 = tx[0][ix], tx[0][ix + 1]
            sums_z[:], line_z[:] = zero, zero
            for z in range(tz[0][iz], tz[0][iz + 1]):
                sums_y[:], line_y[:] = zero, zero
                for y in range(ty[0][iy], ty[0][iy + 1]):
                    _slopes_of_row(g, c, (cell, z, y), (x0, x1), tables, scratch, row)
                    _add_linear(row, wr[z, y, x0:x1], tx[2][x0:x1], ty[2][y], line_x, line_y)
                    if with_square:
                        _add_square(row, w[z, y, x0:x1], px[x0:x1], py[y], total, sums_y)
                _add_plane(tz[2][z], pz[z], (line_y, line_z), (sums_y, sums_z), with_square)
            linear[:, cell[0] : cell[0] + mz, cell[1] : cell[1] + 4, cell[2] : cell[2] + 4] += line_z
            if with_square:
                k = ix % MANY
                _keep(sums_z, kept, k)
                if k == MANY - 1 or ix == len(tx[0]) - 2:
                    cell[2] -= k
                    _scatter(kept, k + 1, cell, mz, linear.shape[3] + GAP, square)


@inner(fastmath={"contract", "reassoc"})
def _add_products(total: Any, bands: Any, v: Any) -> None:
    """total[n] += the sum over m of bands[m][n] v[n + m], m from 0 to 6."""
    b0, b1, b2, b3, b4, b5, b6 = bands
    for n in range(len(total)):
        left = b0[n] * v[n] + b1[n] * v[n + 1] + b2[n] * v[n + 2]
        right = b4[n] * v[n + 4] + b5[n] * v[n + 5] + b6[n] * v[n + 6]
        total[n] += left + b3[n] * v[n + 3] + right


@jit(fastmath={"contract", "reassoc"})
def multiply(square: Any, v: Any, out: Any, stride: Any, first: Any, stop: Any) -> None:
    """The control points `first` to `stop` of all planes, of the banded matrix times v.

    v: (D, z, nodes of a plane) float32, with planes of zeros around, and in a plane 3 rows and 3 more before and after.
    out: (D, z, nodes of a plane) float32, zeros. stride: of a row.
    """
    ndim, count = v.shape[0], stop - first
    for z in range(square.shape[0]):
        q = 0
        for a in range(ndim):
            for b in range(a, ndim):
                for i in range(square.shape[2]):
                    for k in range(7):
                        s, start = square[z, q, i, k], first + k * stride
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
                        _add_products(out[a, z, first:stop], bands, v[b, z + i, start : start + count + 6])
                        if a != b:
                            _add_products(out[b, z, first:stop], bands, v[a, z + i, start : start + count + 6])
                q += 1
