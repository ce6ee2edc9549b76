"""Compiled loops of ICP: rotations in closed form, normal equations, trimmed ICP of many trial poses.

The code runs without the GIL and has no threads of its own; callers divide the rows among a small pool. No result
depends on how they are divided. The number of dimensions D is 2 or 3 where a rotation is solved for,
and any elsewhere.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position, and their loops are written out)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import inner, jit

# The cost of a correspondence: the distance, its part along the target's normal, or under both local covariances.
POINT_TO_POINT, POINT_TO_PLANE, PLANE_TO_PLANE = 0, 1, 2
# Variance across a local plane, as a share of the variance within it (Segal et al. 2009 use 1e-3).
PLANE_VARIANCE = 1e-3
# Sums may be taken in any order, so that they use full vector registers; of so many correspondences at a time.
_SUMS = {"reassoc", "contract", "nsz"}
_BATCH = 64
# Positions of the entries of a symmetric (3, 3), and of the products of (x, y, z, 1), in a row.
_PACKED = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])
_PRODUCTS = np.array([[4, 5, 6, 0], [5, 7, 8, 1], [6, 8, 9, 2], [0, 1, 2, 3]])


# Loops, since expressions of arrays take longer to compile.
@inner
def _norm(k: Any) -> Any:
    total = 0.0
    for i in range(k.shape[0]):
        for j in range(k.shape[1]):
            total += k[i, j] * k[i, j]
    return np.sqrt(total)


@inner
def _divide(k: Any, divisor: Any, diagonal: Any, out: Any) -> None:
    """k divided, plus a number on the diagonal."""
    for i in range(k.shape[0]):
        for j in range(k.shape[1]):
            out[i, j] = k[i, j] / divisor + (diagonal if i == j else 0.0)


@inner
def _square(k: Any, out: Any) -> None:
    """k k of a symmetric k."""
    for i in range(len(k)):
        for j in range(i, len(k)):
            s = 0.0
            for n in range(len(k)):
                s += k[i, n] * k[n, j]
            out[i, j] = out[j, i] = s


@inner(allocates=True)
def rotation_from_moments(moments: Any, out: Any) -> None:
    """Fill `out` with the rotation R of largest trace(R^T M), M = sum of t s^T, which turns s onto t (Horn 1987).

    In 3D the quaternion is the leading eigenvector of a 4x4 matrix, found by squaring the matrix. The result is
    always a proper rotation, and exact where it is unique.
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
    size = _norm(k)
    if not size > 0:
        for i in range(3):
            for j in range(3):
                out[i, j] = 1.0 if i == j else 0.0
        return
    _divide(k, size, 1.0, k)  # so that no eigenvalue is below zero
    squared = np.empty((4, 4))
    for _ in range(10):
        _square(k, squared)
        _divide(squared, squared[0, 0] + squared[1, 1] + squared[2, 2] + squared[3, 3], 0.0, k)
    best = 0
    for i in range(1, 4):
        if k[i, i] > k[best, best]:
            best = i
    w, x, y, z = k[best, 0], k[best, 1], k[best, 2], k[best, 3]
    length = np.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w / length, x / length, y / length, z / length
    out[0, 0], out[0, 1], out[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)
    out[1, 0], out[1, 1], out[1, 2] = 2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)
    out[2, 0], out[2, 1], out[2, 2] = 2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)


@jit
def table_row(low: Any, cell: Any, shape: Any, point: Any) -> Any:
    """The row of a `NearestTable` for a point; for a point outside, that of the nearest cell at the border."""
    index = 0
    for d in range(shape.shape[0]):
        at = min(max((point[d] - low[d]) / cell, 0.0), shape[d] - 1.0)
        index = index * shape[d] + np.int64(at)
    return index


@jit
def trimmed_icp(
    table: Any, low: Any, cell: Any, shape: Any, points: Any, matrices: Any, iterations: Any, used: Any
) -> Any:
    """Iterations of trimmed point-to-point ICP from each of `matrices` (S, D+1, D+1), in place.

    Args:
        table, low, cell, shape: of a `NearestTable`.
        points: (N, D) of the source.
        used: how many of the N correspondences count, the nearest ones.

    Returns: (S,) mean squared distances of the correspondences that count, at the end.
    """
    count, ndim = points.shape
    scores = np.empty(len(matrices))
    moved, found = np.empty((count, ndim)), np.empty((count, ndim))
    squares, sorting, rotation = np.empty(count), np.empty(count), np.empty((ndim, ndim))
    for s in range(len(matrices)):
        m = matrices[s]
        for left in range(iterations, -1, -1):
            for i in range(count):
                for d in range(ndim):
                    at = m[d, ndim]
                    for j in range(ndim):
                        at += m[d, j] * points[i, j]
                    moved[i, d] = at
                row = table_row(low, cell, shape, moved[i])
                square = 0.0
                for d in range(ndim):
                    found[i, d] = table[row, d]
                    square += (found[i, d] - moved[i, d]) ** 2
                squares[i] = square
            worst = _of_rank(squares, used - 1, sorting)
            if left:
                _move(m, moved, found, squares, worst, rotation)
        total, number = 0.0, 0
        for i in range(count):
            if squares[i] <= worst:
                total += squares[i]
                number += 1
        scores[s] = total / number
    return scores


@inner
def _of_rank(values: Any, n: Any, scratch: Any) -> Any:
    """The value that `n` others are not above, as `np.partition(values, n)[n]`, which takes longer to compile."""
    for k in range(len(values)):
        scratch[k] = values[k]
    low, high = 0, len(values) - 1
    while low < high:
        a, b, c = scratch[low], scratch[(low + high) // 2], scratch[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while scratch[i] < pivot:
                i += 1
            while scratch[j] > pivot:
                j -= 1
            if i <= j:
                scratch[i], scratch[j] = scratch[j], scratch[i]
                i, j = i + 1, j - 1
        if n <= j:
            high = j
        elif n >= i:
            low = i
        else:
            break
    return scratch[n]


@inner
def _add_means(points: Any, squares: Any, worst: Any, means: Any) -> None:
    """Add the means of the points whose squares are not above `worst`."""
    number = 0
    for i in range(len(points)):
        if squares[i] <= worst:
            number += 1
            for d in range(len(means)):
                means[d] += points[i, d]
    for d in range(len(means)):
        means[d] /= number


@inner(allocates=True)
def _move(m: Any, moved: Any, found: Any, squares: Any, worst: Any, rotation: Any) -> None:
    """Apply to m the rigid motion that fits the correspondences whose squares are not above `worst`."""
    count, ndim = moved.shape
    mean_t, mean_s, moments = np.zeros(ndim), np.zeros(ndim), np.zeros((ndim, ndim))
    _add_means(found, squares, worst, mean_t)
    _add_means(moved, squares, worst, mean_s)
    for i in range(count):
        if squares[i] <= worst:
            for d in range(ndim):
                for j in range(ndim):
                    moments[d, j] += (found[i, d] - mean_t[d]) * (moved[i, j] - mean_s[j])
    rotation_from_moments(moments, rotation)
    turned = np.empty((ndim, ndim + 1))
    for d in range(ndim):
        for j in range(ndim + 1):
            s = 0.0
            for n in range(ndim):
                s += rotation[d, n] * (m[n, j] - (mean_s[n] if j == ndim else 0.0))
            turned[d, j] = s + (mean_t[d] if j == ndim else 0.0)
    for d in range(ndim):
        for j in range(ndim + 1):
            m[d, j] = turned[d, j]


@jit(fastmath=_SUMS, error_model="numpy")
def add_correspondences(
    kind: Any,
    source: Any,
    target: Any,
    rows: Any,
    weights: Any,
    target_normals: Any,
    source_normals: Any,
    rotation: Any,
    centre: Any,
    extent: Any,
    generators: Any,
) -> Any:
    """Normal equations of small motions of the source about the centre, in units of the extent.

    Args:
        kind: POINT_TO_POINT, POINT_TO_PLANE or PLANE_TO_PLANE.
        source: (N, D), D in 2, 3, where the points are now.
        target: (M, D), of which `rows` (N,) correspond to the source points.
        weights: (N,).
        target_normals, source_normals: (M, D) unit normals at `target`, and (N, D) at the source before `rotation`
            (D, D), of either sign; no rows where the kind needs none.
        generators: (P, D, D+1), the displacement of a point (p, 1) per unit of each parameter: `icp.generators`.

    Returns: J^T W J (P, P), J^T W e (P,) and the cost, the sum of w e^T W e.

    A parameter moves a point by G (p, 1), which is linear in the point. So the result follows from the sums of
    products of W's entries and those of (p, 1) (p, 1)^T, whatever the parameters are.
    """
    ndim, count, short = source.shape[1], len(source), 1 / extent
    solid = ndim == 3
    products, informations, weighted_errors = np.empty((10, _BATCH)), np.empty((6, _BATCH)), np.empty((3, _BATCH))
    second, first, cost = np.zeros((10, 6)), np.zeros((4, 3)), 0.0
    filled = 0
    ez = z = a0 = a1 = a2 = b0 = b1 = b2 = 0.0
    for i in range(count):
        w = weights[i]
        if w != 0.0:
            j, n = rows[i], filled
            x, y = (source[i, 0] - centre[0]) * short, (source[i, 1] - centre[1]) * short
            ex, ey = (target[j, 0] - source[i, 0]) * short, (target[j, 1] - source[i, 1]) * short
            if solid:
                z, ez = (source[i, 2] - centre[2]) * short, (target[j, 2] - source[i, 2]) * short
            if kind != POINT_TO_POINT:
                a0, a1 = target_normals[j, 0], target_normals[j, 1]
                if solid:
                    a2 = target_normals[j, 2]
            if kind == PLANE_TO_PLANE:
                b0 = rotation[0, 0] * source_normals[i, 0] + rotation[0, 1] * source_normals[i, 1]
                b1 = rotation[1, 0] * source_normals[i, 0] + rotation[1, 1] * source_normals[i, 1]
                if solid:
                    b0 += rotation[0, 2] * source_normals[i, 2]
                    b1 += rotation[1, 2] * source_normals[i, 2]
                    b2 = (
                        rotation[2, 0] * source_normals[i, 0]
                        + rotation[2, 1] * source_normals[i, 1]
                        + rotation[2, 2] * source_normals[i, 2]
                    )
            xx, xy, xz, yy, yz, zz = _information(kind, w, (a0, a1, a2), (b0, b1, b2))
            fx, fy, fz = xx * ex + xy * ey + xz * ez, xy * ex + yy * ey + yz * ez, xz * ex + yz * ey + zz * ez
            cost += fx * ex + fy * ey + fz * ez
            informations[0, n], informations[1, n], informations[2, n] = xx, xy, xz
            informations[3, n], informations[4, n], informations[5, n] = yy, yz, zz
            weighted_errors[0, n], weighted_errors[1, n], weighted_errors[2, n] = fx, fy, fz
            products[0, n], products[1, n], products[2, n], products[3, n] = x, y, z, 1.0
            products[4, n], products[5, n], products[6, n] = x * x, x * y, x * z
            products[7, n], products[8, n], products[9, n] = y * y, y * z, z * z
            filled += 1
        if filled == _BATCH or (i == count - 1 and filled):
            _add_products(products, informations, filled, second)
            _add_products(products, weighted_errors, filled, first)
            filled = 0
    return _in_parameters(second, first, generators, ndim, cost)


@inner(error_model="numpy")
def _information(kind: Any, w: Any, a: Any, b: Any) -> Any:
    """The information matrix W of a correspondence, times its weight, as (xx, xy, xz, yy, yz, zz).

    For plane to plane, the covariance 2 I - (1 - PLANE_VARIANCE) (a a^T + b b^T) has the eigenvectors a + b and a - b,
    so that its inverse needs no solver: W is a multiple of the identity plus two outer products. It is scaled so that
    the cost is a squared distance across the planes.

    Args:
        a, b: unit normals of target and source, of either sign.
    """
    if kind == POINT_TO_POINT:
        return w, 0.0, 0.0, w, 0.0, w
    if kind == POINT_TO_PLANE:
        return w * a[0] * a[0], w * a[0] * a[1], w * a[0] * a[2], w * a[1] * a[1], w * a[1] * a[2], w * a[2] * a[2]
    c = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    sign = 1.0 if c >= 0 else -1.0
    c = min(abs(c), 1.0)
    even = PLANE_VARIANCE * w
    plus = w * (2 * PLANE_VARIANCE / (2 - (1 - PLANE_VARIANCE) * (1 + c)) - PLANE_VARIANCE) / (2 + 2 * c)
    minus = w * (2 * PLANE_VARIANCE / (2 - (1 - PLANE_VARIANCE) * (1 - c)) - PLANE_VARIANCE) / max(2 - 2 * c, 1e-12)
    p0, p1, p2 = a[0] + sign * b[0], a[1] + sign * b[1], a[2] + sign * b[2]
    q0, q1, q2 = a[0] - sign * b[0], a[1] - sign * b[1], a[2] - sign * b[2]
    xx, xy = even + plus * p0 * p0 + minus * q0 * q0, plus * p0 * p1 + minus * q0 * q1
    xz, yy = plus * p0 * p2 + minus * q0 * q2, even + plus * p1 * p1 + minus * q1 * q1
    return xx, xy, xz, yy, plus * p1 * p2 + minus * q1 * q2, even + plus * p2 * p2 + minus * q2 * q2


@jit(error_model="numpy")
def tukey_weights(residuals: Any, reach: Any, limit: Any, weights: Any) -> None:
    """Fill Tukey's biweights (N,) of residuals: zero from `reach` on, and beyond the limit."""
    for i in range(len(residuals)):
        share = residuals[i] / reach
        left = 1 - share * share
        weights[i] = left * left if share <= 1 and residuals[i] <= limit else 0.0


@inner(fastmath=_SUMS, error_model="numpy")
def _add_products(a: Any, b: Any, count: Any, sums: Any) -> None:
    """Add the inner products of the rows of a and of b, over the first `count` columns, to `sums` (rows, rows)."""
    for k in range(sums.shape[0]):
        for t in range(sums.shape[1]):
            total = 0.0
            for n in range(count):
                total += a[k, n] * b[t, n]
            sums[k, t] += total


@inner(allocates=True)
def _in_parameters(second: Any, first: Any, generators: Any, ndim: Any, cost: Any) -> Any:
    """The result of `add_correspondences`, from sums: products (10) x information (6), point (4) x error (3)."""
    number = len(generators)
    hessian, gradient = np.zeros((number, number)), np.zeros(number)
    for p in range(number):
        for d in range(ndim):
            for k in range(ndim + 1):
                gradient[p] += generators[p, d, k] * first[k if k < ndim else 3, d]
        for q in range(p, number):
            total = 0.0
            for d in range(ndim):
                for e in range(ndim):
                    entry = _PACKED[d, e]
                    for k in range(ndim + 1):
                        along = generators[p, d, k]
                        if along != 0.0:
                            for m in range(ndim + 1):
                                row = _PRODUCTS[k if k < ndim else 3, m if m < ndim else 3]
                                total += along * second[row, entry] * generators[q, e, m]
            hessian[p, q] = hessian[q, p] = total
    return hessian, gradient, cost
