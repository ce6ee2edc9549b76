"""The loops of point clouds on CPUs: closed forms, sums over pairs, local shape, batches of trial motions.

Compiled without the GIL and without threads of its own; callers share rows among a small pool,
and every result is independent of how they were shared. The number of dimensions D is 2 or
3 where a rotation is solved for, and any elsewhere.
"""

# ruff: noqa: PLR0917, PLR0912 (compiled functions call each other by position, and their loops are written out)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.kernels.sample_numba import jit

# What a pair measures of its error: all of it, the part along one normal, or plane to plane.
POINT, PLANE, PLANES = 0, 1, 2
# Variance across a local plane, as a share of the variance within it (Segal et al. 2009 use 1e-3).
FLAT = 1e-3


@jit
def rotation_of(moments: Any, out: Any) -> None:
    """The rotation R with the largest trace(R^T M), M = sum of t s^T: turns s onto t (Horn 1987).

    In 3D the quaternion is the leading eigenvector of a 4x4 matrix, found by squaring it:
    always a proper rotation, exact where the answer is not ambiguous.
    """
    m = moments
    if m.shape[0] == 2:
        angle = np.arctan2(m[1, 0] - m[0, 1], m[0, 0] + m[1, 1])
        out[0, 0] = out[1, 1] = np.cos(angle)
        out[1, 0], out[0, 1] = np.sin(angle), -np.sin(angle)
        return
    k = np.empty((4, 4))
    k[0, 0] = m[0, 0] + m[1, 1] + m[2, 2]
    k[1, 1] = m[0, 0] - m[1, 1] - m[2, 2]
    k[2, 2] = m[1, 1] - m[0, 0] - m[2, 2]
    k[3, 3] = m[2, 2] - m[0, 0] - m[1, 1]
    k[0, 1] = k[1, 0] = m[2, 1] - m[1, 2]
    k[0, 2] = k[2, 0] = m[0, 2] - m[2, 0]
    k[0, 3] = k[3, 0] = m[1, 0] - m[0, 1]
    k[1, 2] = k[2, 1] = m[1, 0] + m[0, 1]
    k[1, 3] = k[3, 1] = m[0, 2] + m[2, 0]
    k[2, 3] = k[3, 2] = m[2, 1] + m[1, 2]
    size = np.sqrt(np.sum(k * k))
    if not size > 0:
        out[:] = np.eye(3)
        return
    k = k / size + np.eye(4)  # no eigenvalue below zero
    for _ in range(10):
        squared = np.zeros((4, 4))
        for i in range(4):
            for j in range(i, 4):
                s = 0.0
                for n in range(4):
                    s += k[i, n] * k[n, j]
                squared[i, j] = squared[j, i] = s
        k = squared / (squared[0, 0] + squared[1, 1] + squared[2, 2] + squared[3, 3])
    best = 0
    for i in range(1, 4):
        if k[i, i] > k[best, best]:
            best = i
    length = np.sqrt(np.sum(k[best] * k[best]))
    w, x, y, z = k[best, 0] / length, k[best, 1] / length, k[best, 2] / length, k[best, 3] / length
    out[0, 0], out[0, 1], out[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)
    out[1, 0], out[1, 1], out[1, 2] = 2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)
    out[2, 0], out[2, 1], out[2, 2] = 2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)


@jit
def look_up(near: Any, low: Any, cell: Any, shape: Any, point: Any) -> Any:
    """The row of the table for a point; outside, that of the border."""
    index = 0
    for d in range(shape.shape[0]):
        at = min(max((point[d] - low[d]) / cell, 0.0), shape[d] - 1.0)
        index = index * shape[d] + np.int64(at)
    return index


@jit
def advance(near: Any, low: Any, cell: Any, shape: Any, points: Any, matrices: Any, rounds: Any, kept: Any) -> Any:
    """`rounds` of trimmed point-to-point ICP of each of `matrices` (S, D+1, D+1), in place.

    Returns: the mean squares of the `kept` best pairs of each at its end.
    """
    count, ndim = points.shape
    scores = np.empty(len(matrices))
    moved, found = np.empty((count, ndim)), np.empty((count, ndim))
    squares, rotation = np.empty(count), np.empty((ndim, ndim))
    for s in range(len(matrices)):
        m = matrices[s]
        for left in range(rounds, -1, -1):
            for i in range(count):
                for d in range(ndim):
                    at = m[d, ndim]
                    for j in range(ndim):
                        at += m[d, j] * points[i, j]
                    moved[i, d] = at
                row = look_up(near, low, cell, shape, moved[i])
                square = 0.0
                for d in range(ndim):
                    found[i, d] = near[row, d]
                    square += (found[i, d] - moved[i, d]) ** 2
                squares[i] = square
            worst = np.partition(squares, kept - 1)[kept - 1]
            if left:
                _move(m, moved, found, squares, worst, rotation)
        total, number = 0.0, 0
        for i in range(count):
            if squares[i] <= worst:
                total += squares[i]
                number += 1
        scores[s] = total / number
    return scores


@jit
def _move(m: Any, moved: Any, found: Any, squares: Any, worst: Any, rotation: Any) -> None:
    """The rigid motion that brings the pairs up to the worst together, applied to m."""
    count, ndim = moved.shape
    mean_t, mean_s, moments = np.zeros(ndim), np.zeros(ndim), np.zeros((ndim, ndim))
    number = 0
    for i in range(count):
        if squares[i] <= worst:
            number += 1
            for d in range(ndim):
                mean_t[d] += found[i, d]
                mean_s[d] += moved[i, d]
    mean_t /= number
    mean_s /= number
    for i in range(count):
        if squares[i] <= worst:
            for d in range(ndim):
                for j in range(ndim):
                    moments[d, j] += (found[i, d] - mean_t[d]) * (moved[i, j] - mean_s[j])
    rotation_of(moments, rotation)
    turned = np.empty((ndim, ndim + 1))
    for d in range(ndim):
        for j in range(ndim + 1):
            s = 0.0
            for n in range(ndim):
                s += rotation[d, n] * (m[n, j] - (mean_s[n] if j == ndim else 0.0))
            turned[d, j] = s + (mean_t[d] if j == ndim else 0.0)
    m[:ndim] = turned


@jit
def _metric(kind: Any, a: Any, b: Any, out: Any) -> None:
    """(D, D) W such that e^T W e is what a pair costs; a and b are the unit normals of its two ends.

    Plane to plane, the covariance 2 I - (1 - FLAT) (a a^T + b b^T) has the eigenvectors a + b
    and a - b, so that its inverse needs no solver; it is scaled to cost lengths across.
    """
    ndim = out.shape[0]
    out[:] = 0.0
    if kind != PLANE:
        for d in range(ndim):
            out[d, d] = 1.0 if kind == POINT else FLAT
    if kind == PLANE:
        for d in range(ndim):
            for j in range(ndim):
                out[d, j] = a[d] * a[j]
    if kind == PLANES:
        c = 0.0
        for d in range(ndim):
            c += a[d] * b[d]
        sign = 1.0 if c >= 0 else -1.0
        c = min(abs(c), 1.0)
        plus = (2 * FLAT / (2 - (1 - FLAT) * (1 + c)) - FLAT) / (2 + 2 * c)
        minus = (2 * FLAT / (2 - (1 - FLAT) * (1 - c)) - FLAT) / max(2 - 2 * c, 1e-12)
        for d in range(ndim):
            for j in range(ndim):
                out[d, j] += plus * (a[d] + sign * b[d]) * (a[j] + sign * b[j])
                out[d, j] += minus * (a[d] - sign * b[d]) * (a[j] - sign * b[j])


@jit
def pair_sums(kind: Any, moved: Any, errors: Any, weights: Any, a: Any, b: Any, generators: Any) -> Any:
    """J^T W J (P, P), J^T W e (P,) and sum of w e^T W e of small motions of `moved` about the origin.

    Args:
        kind: POINT, PLANE or PLANES.
        moved, errors: (N, D) ends of the pairs, and what is left to their partners.
        weights: (N,).
        a, b: (N, D) unit normals at either end, of any sign, those that the kind needs.
        generators: (P, D, D+1), what each parameter adds to a point (p, 1).
    """
    count, ndim = moved.shape
    number = len(generators)
    hessian, gradient, cost = np.zeros((number, number)), np.zeros(number), 0.0
    metric, jacobian, seen = np.empty((ndim, ndim)), np.empty((ndim, number)), np.empty((ndim, number))
    for i in range(count):
        if weights[i] == 0.0:
            continue
        _metric(kind, a[i if kind != POINT else 0], b[i if kind == PLANES else 0], metric)
        for d in range(ndim):
            for p in range(number):
                v = generators[p, d, ndim]
                for j in range(ndim):
                    v += generators[p, d, j] * moved[i, j]
                jacobian[d, p] = v
        for d in range(ndim):
            for p in range(number):
                v = 0.0
                for j in range(ndim):
                    v += metric[d, j] * jacobian[j, p]
                seen[d, p] = weights[i] * v
        for p in range(number):
            for d in range(ndim):
                gradient[p] += seen[d, p] * errors[i, d]
                for q in range(p, number):
                    hessian[p, q] += seen[d, p] * jacobian[d, q]
        for d in range(ndim):
            for j in range(ndim):
                cost += weights[i] * errors[i, d] * metric[d, j] * errors[i, j]
    for p in range(number):
        for q in range(p):
            hessian[p, q] = hessian[q, p]
    return hessian, gradient, cost


@jit
def principal(points: Any, indices: Any, values: Any, vectors: Any) -> None:
    """Variances (N, D), ascending, and axes (N, D, D; columns) of the rows of `points` in each row of `indices`.

    An index of len(points) is no neighbour. Jacobi's rotations: exact for repeated values too.
    """
    ndim = points.shape[1]
    mean, c, v = np.empty(ndim), np.empty((ndim, ndim)), np.empty((ndim, ndim))
    for i in range(len(indices)):
        number = 0
        mean[:] = 0.0
        c[:] = 0.0
        for k in indices[i]:
            if k < len(points):
                number += 1
                for d in range(ndim):
                    mean[d] += points[k, d]
        mean /= max(number, 1)
        for k in indices[i]:
            if k < len(points):
                for d in range(ndim):
                    for j in range(d, ndim):
                        c[d, j] += (points[k, d] - mean[d]) * (points[k, j] - mean[j])
        for d in range(ndim):
            for j in range(d, ndim):
                c[d, j] /= max(number, 1)
                c[j, d] = c[d, j]
        _jacobi(c, v)
        for d in range(ndim):  # a selection sort of D numbers
            low = d
            for j in range(d + 1, ndim):
                if c[j, j] < c[low, low]:
                    low = j
            values[i, d] = max(c[low, low], 0.0)
            c[low, low] = c[d, d]
            for j in range(ndim):
                vectors[i, j, d] = v[j, low]
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
                for k in range(ndim):
                    a, b = c[k, i], c[k, j]
                    c[k, i], c[k, j] = cosine * a - sine * b, sine * a + cosine * b
                for k in range(ndim):
                    a, b = c[i, k], c[j, k]
                    c[i, k], c[j, k] = cosine * a - sine * b, sine * a + cosine * b
                    a, b = v[k, i], v[k, j]
                    v[k, i], v[k, j] = cosine * a - sine * b, sine * a + cosine * b


@jit
def voxel_sums(points: Any, low: Any, size: Any, sums: Any, counts: Any) -> Any:
    """Sums and counts of the points in each occupied cube, in the order in which cubes are met.

    Args:
        sums, counts: (N, D) and (N,) zeros to fill, N the number of points; no sums where it has no rows.

    Returns: the number of occupied cubes. Cubes are kept in a table with open addresses.
    """
    ndim = points.shape[1]
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
        if len(sums):
            counts[row] += 1
            for d in range(ndim):
                sums[row, d] += points[i, d]
    return number
