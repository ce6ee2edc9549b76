"""The loops of ICP on CPUs: closed forms, sums over pairs, batches of trial motions.

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
def pair_sums(kind: Any, moved: Any, errors: Any, weights: Any, a: Any, b: Any, generators: Any) -> Any:
    """J^T W J (P, P), J^T W e (P,) and sum of w e^T W e of small motions of `moved` about the origin.

    Args:
        kind: POINT, PLANE or PLANES.
        moved, errors: (N, D) ends of the pairs, and what is left to their partners.
        weights: (N,).
        a, b: (N, D) unit normals at either end, of any sign, those that the kind needs.
        generators: (P, D, D+1), what each parameter adds to a point (p, 1): `kernels.icp.generators`.

    Plane to plane, the covariance 2 I - (1 - FLAT) (a a^T + b b^T) has the eigenvectors a + b
    and a - b, so that its inverse needs no solver: W is a multiple of the identity and two squares
    of directions. It is scaled to cost lengths across.
    """
    count, ndim = moved.shape
    number = len(generators)
    hessian, gradient, cost = np.zeros((number, number)), np.zeros(number), 0.0
    second, first = np.zeros((ndim + 1, ndim + 1)), np.zeros((ndim, ndim + 1))
    effect, normal, point = np.empty(number), np.empty(ndim), np.ones(ndim + 1)
    even = 1.0 if kind == POINT else FLAT
    for i in range(count):
        w = weights[i]
        if w == 0.0:
            continue
        point[:ndim] = moved[i]
        if kind == PLANE:
            cost += _across(a[i], w, point, errors[i], effect, hessian, gradient)
            continue
        for d in range(ndim):
            cost += even * w * errors[i, d] ** 2
            for j in range(ndim + 1):
                first[d, j] += even * w * errors[i, d] * point[j]
                second[d, j] += even * w * point[d] * point[j]
        second[ndim, ndim] += even * w
        if kind == PLANES:
            c = 0.0
            for d in range(ndim):
                c += a[i, d] * b[i, d]
            sign = 1.0 if c >= 0 else -1.0
            c = min(abs(c), 1.0)
            plus = (2 * FLAT / (2 - (1 - FLAT) * (1 + c)) - FLAT) / (2 + 2 * c)
            minus = (2 * FLAT / (2 - (1 - FLAT) * (1 - c)) - FLAT) / max(2 - 2 * c, 1e-12)
            for d in range(ndim):
                normal[d] = a[i, d] + sign * b[i, d]
            cost += _across(normal, w * plus, point, errors[i], effect, hessian, gradient)
            for d in range(ndim):
                normal[d] = a[i, d] - sign * b[i, d]
            cost += _across(normal, w * minus, point, errors[i], effect, hessian, gradient)
    second[ndim, :ndim] = second[:ndim, ndim]
    for p in range(number):
        for d in range(ndim):
            for j in range(ndim + 1):
                gradient[p] += generators[p, d, j] * first[d, j]
                for q in range(p, number):
                    for k in range(ndim + 1):
                        hessian[p, q] += generators[p, d, j] * second[j, k] * generators[q, d, k]
        for q in range(p):
            hessian[p, q] = hessian[q, p]
    return hessian, gradient, cost


@jit
def _across(n: Any, weight: Any, point: Any, error: Any, effect: Any, hessian: Any, gradient: Any) -> Any:
    """Add what a pair costs along n, and return it; `effect` (P,) is overwritten by how the parameters move n . p."""
    ndim = len(n)
    if ndim == 3:
        effect[0] = point[1] * n[2] - point[2] * n[1]
        effect[1] = point[2] * n[0] - point[0] * n[2]
        effect[2] = point[0] * n[1] - point[1] * n[0]
    else:
        effect[0] = point[0] * n[1] - point[1] * n[0]
    turns = ndim * (ndim - 1) // 2
    left, along = 0.0, 0.0
    for d in range(ndim):
        effect[turns + d] = n[d]
        left += n[d] * error[d]
        along += n[d] * point[d]
    number = len(effect)
    if number > turns + ndim:
        effect[turns + ndim] = along
    for p in range(number):
        seen = weight * effect[p]
        gradient[p] += seen * left
        for q in range(p, number):
            hessian[p, q] += seen * effect[q]
    return weight * left * left
