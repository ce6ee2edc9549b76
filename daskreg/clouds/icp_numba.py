"""The loops of ICP on CPUs: closed forms, sums over pairs, batches of trial motions.

Compiled without the GIL and without threads of its own; callers share rows among a small pool,
and every result is independent of how they were shared. The number of dimensions D is 2 or
3 where a rotation is solved for, and any elsewhere.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position, and their loops are written out)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import jit

# What a pair measures of its error: all of it, the part along one normal, or plane to plane.
POINT, PLANE, PLANES = 0, 1, 2
# Variance across a local plane, as a share of the variance within it (Segal et al. 2009 use 1e-3).
FLAT = 1e-3
# Sums may be made in any order, so that they go in full vectors; of so many pairs at a time.
_SUMS = {"reassoc", "contract", "nsz"}
_LANE = 64
# Where the entries of a symmetric (3, 3) and the products of (x, y, z, 1) lie in a row.
_PACKED = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])
_PRODUCTS = np.array([[4, 5, 6, 0], [5, 7, 8, 1], [6, 8, 9, 2], [0, 1, 2, 3]])


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


@jit(fastmath=_SUMS, error_model="numpy")
def pair_sums(
    kind: Any,
    ends: Any,
    near: Any,
    partners: Any,
    weights: Any,
    fixed: Any,
    turned: Any,
    rotation: Any,
    centre: Any,
    extent: Any,
    generators: Any,
) -> Any:
    """J^T W J (P, P), J^T W e (P,) and sum of w e^T W e of small motions of `ends` about the centre, in extents.

    Args:
        kind: POINT, PLANE or PLANES.
        ends: (N, D), D in 2, 3.
        near: (M, D), of which `partners` (N,) are the rows that the ends are to meet.
        weights: (N,).
        fixed, turned: (M, D) unit normals at `near`, and (N, D) at the ends before `rotation` (D, D), of any
            sign, those that the kind needs.
        generators: (P, D, D+1), what each parameter adds to a point (p, 1): `kernels.icp.generators`.

    A parameter moves a point by G (p, 1), which is linear in the point, so that all is told by the sums of
    products of W's entries and those of (p, 1) (p, 1)^T, whatever the parameters are.
    """
    ndim, count, short = ends.shape[1], len(ends), 1 / extent
    solid = ndim == 3
    products, metrics, pulls = np.empty((10, _LANE)), np.empty((6, _LANE)), np.empty((3, _LANE))
    second, first, cost = np.zeros((10, 6)), np.zeros((4, 3)), 0.0
    filled = 0
    ez = z = a0 = a1 = a2 = b0 = b1 = b2 = 0.0
    for i in range(count):
        w = weights[i]
        if w != 0.0:
            j, n = partners[i], filled
            x, y = (ends[i, 0] - centre[0]) * short, (ends[i, 1] - centre[1]) * short
            ex, ey = (near[j, 0] - ends[i, 0]) * short, (near[j, 1] - ends[i, 1]) * short
            if solid:
                z, ez = (ends[i, 2] - centre[2]) * short, (near[j, 2] - ends[i, 2]) * short
            if kind != POINT:
                a0, a1 = fixed[j, 0], fixed[j, 1]
                if solid:
                    a2 = fixed[j, 2]
            if kind == PLANES:
                b0 = rotation[0, 0] * turned[i, 0] + rotation[0, 1] * turned[i, 1]
                b1 = rotation[1, 0] * turned[i, 0] + rotation[1, 1] * turned[i, 1]
                if solid:
                    b0 += rotation[0, 2] * turned[i, 2]
                    b1 += rotation[1, 2] * turned[i, 2]
                    b2 = rotation[2, 0] * turned[i, 0] + rotation[2, 1] * turned[i, 1] + rotation[2, 2] * turned[i, 2]
            xx, xy, xz, yy, yz, zz = _metric(kind, w, (a0, a1, a2), (b0, b1, b2))
            fx, fy, fz = xx * ex + xy * ey + xz * ez, xy * ex + yy * ey + yz * ez, xz * ex + yz * ey + zz * ez
            cost += fx * ex + fy * ey + fz * ez
            metrics[0, n], metrics[1, n], metrics[2, n] = xx, xy, xz
            metrics[3, n], metrics[4, n], metrics[5, n] = yy, yz, zz
            pulls[0, n], pulls[1, n], pulls[2, n] = fx, fy, fz
            products[0, n], products[1, n], products[2, n], products[3, n] = x, y, z, 1.0
            products[4, n], products[5, n], products[6, n] = x * x, x * y, x * z
            products[7, n], products[8, n], products[9, n] = y * y, y * z, z * z
            filled += 1
        if filled == _LANE or (i == count - 1 and filled):
            _add_products(products, metrics, filled, second)
            _add_products(products, pulls, filled, first)
            filled = 0
    return _in_parameters(second, first, generators, ndim, cost)


@jit(error_model="numpy")
def _metric(kind: Any, w: Any, a: Any, b: Any) -> Any:
    """W of a pair with the unit normals a and b, of any sign, as (xx, xy, xz, yy, yz, zz).

    Plane to plane, the covariance 2 I - (1 - FLAT) (a a^T + b b^T) has the eigenvectors a + b and a - b, so that
    its inverse needs no solver: W is a multiple of the identity and two squares of directions. It is scaled to
    cost lengths across.
    """
    if kind == POINT:
        return w, 0.0, 0.0, w, 0.0, w
    if kind == PLANE:
        return w * a[0] * a[0], w * a[0] * a[1], w * a[0] * a[2], w * a[1] * a[1], w * a[1] * a[2], w * a[2] * a[2]
    c = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    sign = 1.0 if c >= 0 else -1.0
    c = min(abs(c), 1.0)
    even = FLAT * w
    plus = w * (2 * FLAT / (2 - (1 - FLAT) * (1 + c)) - FLAT) / (2 + 2 * c)
    minus = w * (2 * FLAT / (2 - (1 - FLAT) * (1 - c)) - FLAT) / max(2 - 2 * c, 1e-12)
    p0, p1, p2 = a[0] + sign * b[0], a[1] + sign * b[1], a[2] + sign * b[2]
    q0, q1, q2 = a[0] - sign * b[0], a[1] - sign * b[1], a[2] - sign * b[2]
    xx, xy = even + plus * p0 * p0 + minus * q0 * q0, plus * p0 * p1 + minus * q0 * q1
    xz, yy = plus * p0 * p2 + minus * q0 * q2, even + plus * p1 * p1 + minus * q1 * q1
    return xx, xy, xz, yy, plus * p1 * p2 + minus * q1 * q2, even + plus * p2 * p2 + minus * q2 * q2


@jit(error_model="numpy")
def biweight(residuals: Any, reach: Any, limit: Any, weights: Any) -> None:
    """Fill Tukey's weights (N,) of residuals: zero from `reach` on, and beyond the limit."""
    for i in range(len(residuals)):
        share = residuals[i] / reach
        left = 1 - share * share
        weights[i] = left * left if share <= 1 and residuals[i] <= limit else 0.0


@jit(fastmath=_SUMS, error_model="numpy")
def _add_products(a: Any, b: Any, count: Any, sums: Any) -> None:
    """Add the products of rows of a and b, of the first `count` columns, to `sums` (rows, rows)."""
    for k in range(sums.shape[0]):
        for t in range(sums.shape[1]):
            total = 0.0
            for n in range(count):
                total += a[k, n] * b[t, n]
            sums[k, t] += total


@jit
def _in_parameters(second: Any, first: Any, generators: Any, ndim: Any, cost: Any) -> Any:
    """What `pair_sums` returns, of its sums: products (10,) x metric (6,), and point (x, y, z, 1) x pull (3,)."""
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
                    metric = _PACKED[d, e]
                    for k in range(ndim + 1):
                        along = generators[p, d, k]
                        if along != 0.0:
                            for m in range(ndim + 1):
                                row = _PRODUCTS[k if k < ndim else 3, m if m < ndim else 3]
                                total += along * second[row, metric] * generators[q, e, m]
            hessian[p, q] = hessian[q, p] = total
    return hessian, gradient, cost
