"""Compiled loops over the points of a cloud: principal axes of neighbourhoods, voxels and their moments.

The code runs without the GIL and has no threads of its own; callers divide the rows among a small pool. Results do
not depend on how they are divided, except for rounding of principal axes: matrices that are diagonalised in one
batch get the same number of sweeps.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position, and their loops are written out)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import inner, jit

# Sums may be taken in any order, so that they use full vector registers.
_FAST = {"reassoc", "contract", "nsz"}
# Matrices that are diagonalised at a time, each in a lane of vector registers.
_LANES = 64
_TINY = 1e-300


@jit(fastmath=_FAST, error_model="numpy")
def principal_axes(
    points: Any, counts: Any, covariances: Any, rows: Any, variances: Any, axes: Any, means: Any
) -> None:
    """Fill variances (N, D), ascending, axes (N, D, D; columns) and means (N, D) of the points in each row of `rows`.

    Args:
        points: (M, D), each one measured point or the mean of several; D in 2, 3.
        counts, covariances: (M,) how many measured points, and their (M, D, D) covariances; no rows where points are
            measured themselves.
        rows: (N, K) rows of points, the first near the others; an entry of len(points) is no point.
    """
    ndim, many = points.shape[1], len(counts) > 0
    solid = ndim == 3
    c, v = np.zeros((ndim, ndim, _LANES)), np.empty((ndim, ndim, _LANES))
    cosines, sines = np.empty(_LANES), np.empty(_LANES)
    z0 = z = 0.0
    for begin in range(0, len(rows), _LANES):
        number = min(_LANES, len(rows) - begin)
        for n in range(number):
            i = begin + n
            # Relative to one of the points, so that no digits are lost far from the origin.
            k = rows[i, 0]
            x0, y0 = points[k, 0], points[k, 1]
            if solid:
                z0 = points[k, 2]
            total = x1 = y1 = z1 = xx = xy = xz = yy = yz = zz = 0.0
            for k in rows[i]:
                if k < len(points):
                    w = counts[k] if many else 1.0
                    x, y = points[k, 0] - x0, points[k, 1] - y0
                    if solid:
                        z = points[k, 2] - z0
                    wx, wy, wz = w * x, w * y, w * z
                    total, x1, y1, z1 = total + w, x1 + wx, y1 + wy, z1 + wz
                    xx, xy, yy = xx + wx * x, xy + wx * y, yy + wy * y
                    xz, yz, zz = xz + wx * z, yz + wy * z, zz + wz * z
                    if many:
                        xx, xy, yy = (
                            xx + w * covariances[k, 0, 0],
                            xy + w * covariances[k, 0, 1],
                            yy + w * covariances[k, 1, 1],
                        )
                        if solid:
                            xz, yz, zz = (
                                xz + w * covariances[k, 0, 2],
                                yz + w * covariances[k, 1, 2],
                                zz + w * covariances[k, 2, 2],
                            )
            x1, y1, z1 = x1 / total, y1 / total, z1 / total
            means[i, 0], means[i, 1] = x0 + x1, y0 + y1
            c[0, 0, n], c[0, 1, n], c[1, 1, n] = xx / total - x1 * x1, xy / total - x1 * y1, yy / total - y1 * y1
            if solid:
                means[i, 2] = z0 + z1
                c[0, 2, n], c[1, 2, n], c[2, 2, n] = xz / total - x1 * z1, yz / total - y1 * z1, zz / total - z1 * z1
        _diagonalise(c, v, cosines, sines)
        _sorted_axes(c, v, variances[begin : begin + number], axes[begin : begin + number])


@inner
def _sorted_axes(c: Any, v: Any, variances: Any, axes: Any) -> None:
    """Fill variances (N, D), ascending, and axes (N, D, D; columns) from the first lanes of c and v, (D, D, lanes)."""
    ndim = variances.shape[1]
    for n in range(len(variances)):
        for d in range(ndim):  # a selection sort of D numbers
            low = d
            for j in range(d + 1, ndim):
                if c[j, j, n] < c[low, low, n]:
                    low = j
            variances[n, d] = max(c[low, low, n], 0.0)
            c[low, low, n] = c[d, d, n]
            for j in range(ndim):
                axes[n, j, d] = v[j, low, n]
                v[j, low, n] = v[j, d, n]


@inner
def _diagonalise(c: Any, v: Any, cosines: Any, sines: Any) -> None:
    """Diagonalise symmetric matrices in place by Jacobi rotations, which are exact for repeated eigenvalues too.

    Args:
        c: (D, D, lanes), of which the upper triangles are used; the diagonals become the eigenvalues.
        v: (D, D, lanes), filled with the eigenvectors, in columns.
        cosines, sines: (lanes,) scratch buffers.
    """
    ndim = len(c)
    v[:] = 0.0
    for d in range(ndim):
        v[d, d] = 1.0
    for _ in range(12):
        if _is_diagonal(c):
            return
        for i in range(ndim):
            for j in range(i + 1, ndim):
                _jacobi_angles(c[i, i], c[j, j], c[i, j], cosines, sines)
                for k in range(ndim):
                    _rotate(v[k, i], v[k, j], cosines, sines)
                    if i != k != j:
                        _rotate(c[min(i, k), max(i, k)], c[min(j, k), max(j, k)], cosines, sines)


@inner(fastmath=_FAST, error_model="numpy")
def _is_diagonal(c: Any) -> Any:
    """Whether all matrices (D, D, lanes) are."""
    ndim, lanes = c.shape[1:]
    left = 0
    for n in range(lanes):
        size = off = 0.0
        for i in range(ndim):
            size += c[i, i, n] * c[i, i, n]
            for j in range(i + 1, ndim):
                off += c[i, j, n] * c[i, j, n]
        left += off > 1e-30 * size
    return left == 0


@inner(fastmath=_FAST, error_model="numpy")
def _jacobi_angles(first: Any, second: Any, between: Any, cosines: Any, sines: Any) -> None:
    """Fill cosines and sines (lanes,) of the rotations that make `between` zero, and rotate the two variances."""
    for n in range(len(cosines)):
        apart = second[n] - first[n]
        root = np.sqrt(apart * apart + 4 * between[n] * between[n]) + _TINY
        tangent = 2 * between[n] / (apart + (root if apart >= 0 else -root))
        cosines[n] = 1 / np.sqrt(tangent * tangent + 1)
        sines[n] = tangent * cosines[n]
        first[n] -= tangent * between[n]
        second[n] += tangent * between[n]
        between[n] = 0.0


@inner(fastmath=_FAST, error_model="numpy")
def _rotate(a: Any, b: Any, cosines: Any, sines: Any) -> None:
    for n in range(len(cosines)):
        p, q = a[n], b[n]
        a[n], b[n] = cosines[n] * p - sines[n] * q, sines[n] * p + cosines[n] * q


@jit
def bounding_box(points: Any, low: Any, high: Any) -> None:
    """Fill the lowest and the highest coordinates (D,) of (N, D) points, N > 0."""
    # To assign arrays takes more than a second to compile, for the error of their shapes.
    for d in range(points.shape[1]):
        low[d] = high[d] = points[0, d]
    for i in range(1, len(points)):
        for d in range(points.shape[1]):
            low[d] = min(low[d], points[i, d])
            high[d] = max(high[d], points[i, d])


@jit
def voxel_rows(points: Any, size: Any, rows: Any) -> Any:
    """Fill `rows` (N,) with the voxel that each point is in; voxels are numbered in the order of their first points.

    The grid of voxels of side `size` starts at the lowest coordinates. Occupied voxels are in a hash table with
    open addressing.

    Returns: the number of occupied voxels.
    """
    ndim = points.shape[1]
    low, high = np.empty(ndim), np.empty(ndim)
    bounding_box(points, low, high)
    short, bits = 1 / size, 4
    while (1 << bits) < 2 * len(points):
        bits += 1
    mask = (1 << bits) - 1
    slots = np.full(1 << bits, -1, dtype=np.int32)
    cells = np.empty((len(points), ndim), dtype=np.int64)
    cell = np.empty(ndim, dtype=np.int64)
    number = 0
    for i in range(len(points)):
        key = np.uint64(0)
        for d in range(ndim):
            cell[d] = np.int64((points[i, d] - low[d]) * short)
            key = (key ^ np.uint64(cell[d])) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        slot = np.int64(key & np.uint64(mask))
        while True:
            row = slots[slot]
            if row < 0:
                row = number
                slots[slot] = row
                for d in range(ndim):
                    cells[row, d] = cell[d]
                number += 1
                break
            same = True
            for d in range(ndim):
                same = same and cells[row, d] == cell[d]
            if same:
                break
            slot = (slot + 1) & mask
        rows[i] = row
    return number


@jit
def voxel_moments(points: Any, rows: Any, counts: Any, covariances: Any, means: Any, numbers: Any, pooled: Any) -> None:
    """Fill the means (M, D), numbers (M,) and pooled covariances (M, D, D) of the points in each voxel.

    Args:
        rows: (N,) voxel of each point, as `voxel_rows` fills it; the arrays to fill hold zeros.
        counts, covariances: as in `principal_axes`.
    """
    ndim = points.shape[1]
    many = len(counts) > 0
    for i in range(len(points)):
        weight, row = counts[i] if many else 1.0, rows[i]
        numbers[row] += weight
        for d in range(ndim):
            means[row, d] += weight * points[i, d]
    for row in range(len(numbers)):
        for d in range(ndim):
            means[row, d] /= numbers[row]
    for i in range(len(points)):
        weight, row = counts[i] if many else 1.0, rows[i]
        for d in range(ndim):
            for j in range(d, ndim):
                product = (points[i, d] - means[row, d]) * (points[i, j] - means[row, j])
                pooled[row, d, j] += weight * (product + covariances[i, d, j] if many else product)
    for row in range(len(numbers)):
        for d in range(ndim):
            for j in range(d, ndim):
                pooled[row, d, j] /= numbers[row]
                pooled[row, j, d] = pooled[row, d, j]


@jit
def nearest_of_cached(
    points: Any, searched: Any, stored: Any, stored_rows: Any, cloud: Any, rows: Any, distances: Any, unsure: Any
) -> None:
    """Fill the nearest of a few stored rows of `cloud`, its distance (N,), and unsure (N,): another may be nearer.

    Args:
        points, searched: (N, D) queries now, and when they were searched for.
        stored, stored_rows: (N, K) distances, ascending, and rows of the K nearest that were found then.
    """
    last = stored_rows.shape[1] - 1
    for i in range(len(points)):
        moved, best, row_of_best = 0.0, np.inf, stored_rows[i, 0]
        for d in range(points.shape[1]):
            moved += (points[i, d] - searched[i, d]) ** 2
        moved = np.sqrt(moved)
        # Where it moved by less than half of the difference of the two least distances, the nearest is the same.
        number = 1 if 2 * moved < stored[i, 1] - stored[i, 0] else last + 1
        for k in range(number):
            square, row = 0.0, stored_rows[i, k]
            for d in range(points.shape[1]):
                square += (points[i, d] - cloud[row, d]) ** 2
            if square < best:
                best, row_of_best = square, row
        distances[i], rows[i] = np.sqrt(best), row_of_best
        unsure[i] = number > 1 and distances[i] + moved > stored[i, last]
