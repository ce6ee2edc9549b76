"""The loops over the points of a cloud on CPUs: moments of voxels, and the shape of neighbourhoods.

Compiled without the GIL and without threads of its own; callers share rows among a small pool,
and every result is independent of how they were shared. Any number of dimensions D.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position, and their loops are written out)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.kernels.sample_numba import jit


@jit
def principal(points: Any, counts: Any, spreads: Any, indices: Any, values: Any, vectors: Any, means: Any) -> None:
    """Variances (N, D), ascending, axes (N, D, D; columns) and means (N, D) of the points in each row of `indices`.

    Args:
        points: (M, D), of one measured point each, or means of many.
        counts, spreads: (M,) how many, and (M, D, D) their covariances; none where they have no rows.
        indices: (N, K) rows of points; len(points) is no neighbour.

    Jacobi's rotations: exact for repeated values too.
    """
    ndim = points.shape[1]
    mean, c, v = np.empty(ndim), np.empty((ndim, ndim)), np.empty((ndim, ndim))
    many = len(counts) > 0
    for i in range(len(indices)):
        number = 0.0
        mean[:] = 0.0
        c[:] = 0.0
        for k in indices[i]:
            if k < len(points):
                weight = counts[k] if many else 1.0
                number += weight
                for d in range(ndim):
                    mean[d] += weight * points[k, d]
        mean /= max(number, 1.0)
        for k in indices[i]:
            if k < len(points):
                weight = counts[k] if many else 1.0
                for d in range(ndim):
                    for j in range(d, ndim):
                        product = (points[k, d] - mean[d]) * (points[k, j] - mean[j])
                        c[d, j] += weight * (product + spreads[k, d, j] if many else product)
        for d in range(ndim):
            means[i, d] = mean[d]
            for j in range(d, ndim):
                c[d, j] /= max(number, 1.0)
                c[j, d] = c[d, j]
        axes_of(c, v, values[i], vectors[i])


@jit
def axes_of(c: Any, v: Any, values: Any, vectors: Any) -> None:
    """Fill the variances (D,), ascending, and axes (D, D; columns) of a covariance; c and v (D, D) are overwritten."""
    ndim = c.shape[0]
    _jacobi(c, v)
    for d in range(ndim):  # a selection sort of D numbers
        low = d
        for j in range(d + 1, ndim):
            if c[j, j] < c[low, low]:
                low = j
        values[d] = max(c[low, low], 0.0)
        c[low, low] = c[d, d]
        for j in range(ndim):
            vectors[j, d] = v[j, low]
            v[j, low] = v[j, d]


@jit
def _jacobi(c: Any, v: Any) -> None:
    """Diagonalise the symmetric c in place; the columns of v are its axes."""
    ndim = c.shape[0]
    v[:] = 0.0
    for d in range(ndim):
        v[d, d] = 1.0
    for _ in range(12):
        off, size = 0.0, 0.0
        for i in range(ndim):
            size += c[i, i] * c[i, i]
            for j in range(i + 1, ndim):
                off += c[i, j] * c[i, j]
        if off <= 1e-30 * size:
            return
        for i in range(ndim):
            for j in range(i + 1, ndim):
                if c[i, j] == 0.0:
                    continue
                ratio = (c[j, j] - c[i, i]) / (2 * c[i, j])
                t = (1.0 if ratio >= 0 else -1.0) / (abs(ratio) + np.sqrt(ratio * ratio + 1))
                cosine = 1 / np.sqrt(t * t + 1)
                sine = t * cosine
                c[i, i] -= t * c[i, j]
                c[j, j] += t * c[i, j]
                c[i, j] = c[j, i] = 0.0
                for k in range(ndim):
                    a, b = v[k, i], v[k, j]
                    v[k, i], v[k, j] = cosine * a - sine * b, sine * a + cosine * b
                    if k != i and k != j:  # noqa: PLR1714 (compiled)
                        a, b = c[k, i], c[k, j]
                        c[k, i] = c[i, k] = cosine * a - sine * b
                        c[k, j] = c[j, k] = sine * a + cosine * b


@jit
def bounds(points: Any, low: Any, high: Any) -> None:
    """Fill the least and the greatest coordinates (D,) of (N, D) points, N > 0."""
    low[:], high[:] = points[0], points[0]
    for i in range(1, len(points)):
        for d in range(points.shape[1]):
            low[d] = min(low[d], points[i, d])
            high[d] = max(high[d], points[i, d])


@jit
def voxel_rows(points: Any, size: Any, rows: Any) -> Any:
    """The number of occupied cubes; `rows` (N,) to fill: which of them each point is in, as they are met.

    Cubes start at the least coordinates, and are kept in a table with open addresses.
    """
    ndim = points.shape[1]
    low, high = np.empty(ndim), np.empty(ndim)
    bounds(points, low, high)
    bits = 4
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
            cell[d] = np.int64(np.floor((points[i, d] - low[d]) / size))
            key = (key ^ np.uint64(cell[d])) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        slot = np.int64(key & np.uint64(mask))
        while True:
            row = slots[slot]
            if row < 0:
                row = number
                slots[slot] = row
                cells[row] = cell
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
def moments(points: Any, rows: Any, counts: Any, spreads: Any, means: Any, numbers: Any, pooled: Any) -> None:
    """Fill the means (M, D), numbers (M,) and covariances `pooled` (M, D, D) of the points with each of `rows`.

    `counts` and `spreads` as in `principal`.
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
                pooled[row, d, j] += weight * (product + spreads[i, d, j] if many else product)
    for row in range(len(numbers)):
        for d in range(ndim):
            for j in range(d, ndim):
                pooled[row, d, j] /= numbers[row]
                pooled[row, j, d] = pooled[row, d, j]


@jit
def followed(points: Any, anchors: Any, slack: Any, others: Any, indices: Any, distances: Any, stale: Any) -> None:
    """Fill distances (N,) to the rows `indices` of `others`, and stale (N,): moved by the slack or more."""
    for i in range(len(points)):
        distance, moved = 0.0, 0.0
        for d in range(points.shape[1]):
            distance += (points[i, d] - others[indices[i], d]) ** 2
            moved += (points[i, d] - anchors[i, d]) ** 2
        distances[i] = np.sqrt(distance)
        stale[i] = np.sqrt(moved) >= slack[i]
