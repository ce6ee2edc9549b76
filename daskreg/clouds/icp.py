"""Iterative closest points: one pair of clouds, from a start near enough, in any number of dimensions.

Each round pairs every source point with the nearest target point, weighs the pairs (trimming,
a robust kernel, a limit on the distance that shrinks as the pairs come closer) and moves the
source. Three methods differ in what a pair costs:

- point_to_point: the distance; solved in closed form (Kabsch 1976; Umeyama 1991 with the
  sign that keeps it a rotation).
- point_to_plane: the distance along the target's normal (Chen & Medioni 1992).
- generalized: the distance under both local covariances, plane to plane (Segal et al. 2009).

The last two take Gauss-Newton steps on SE(n), about the centroid of the source.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.clouds.cloud import Cloud, Floats, Follower, Ints
from daskreg.clouds.cloud_numba import bounds
from daskreg.clouds.icp_numba import PLANE, PLANES, biweight, pair_sums
from daskreg.geometry import box_corners
from daskreg.runtime.threads import pool_threads, spread

Reals = NDArray[np.floating[Any]]

# Tukey's biweight keeps 95 % of the efficiency of least squares at this many sigmas.
_TUKEY = 4.685
_SIGMA_FROM_MEDIAN = 1.4826
# Rounds without a smaller step after which steps are said to have stopped shrinking.
_IDLE = 10
# Pairs that are summed up at a time.
_BLOCK = 30_000


@dataclass(frozen=True, eq=False)
class Matched:
    """Where the iteration ended.

    Attributes:
        matrix: (D+1, D+1), target from source.
        distances: of every source point to its nearest target point.
        indices: of those target points.
        weights: of the pairs, 0 where a pair was left out.
        iterations: rounds used.
        settled: whether the motion died out before the rounds did.
    """

    matrix: Floats
    distances: Floats
    indices: NDArray[np.int64]
    weights: Floats
    iterations: int
    settled: bool


def homogeneous(linear: Floats, offset: Floats) -> Floats:
    m = np.eye(len(offset) + 1)
    m[:-1, :-1], m[:-1, -1] = linear, offset
    return m


def apply(matrix: Floats, points: Floats) -> Floats:
    return np.asarray(points @ matrix[:-1, :-1].T + matrix[:-1, -1])


def closest_rigid(target: Reals, source: Reals, weights: Reals, *, with_scale: bool = False) -> Floats:
    """The motion of rows of `source` onto rows of `target` of least weighted squares.

    Args:
        target, source: (..., N, D), corresponding rows.
        weights: (..., N).
        with_scale: also a common scale (Umeyama 1991, eq. 40-42).

    Returns: (..., D+1, D+1); always a proper rotation (determinant +1).
    """
    share = weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)
    centre_t, centre_s = share[..., None, :] @ target, share[..., None, :] @ source
    about_s = source - centre_s
    moments = np.swapaxes(target - centre_t, -1, -2) @ (share[..., None] * about_s)
    u, values, vt = np.linalg.svd(moments.astype(np.float64))  # float32 points, yet exact rotations
    # Where the best orthogonal matrix is a reflection, the weakest axis is turned back.
    signs = np.ones_like(values)
    signs[..., -1] = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)
    linear = (u * signs[..., None, :]) @ vt
    if with_scale:
        spread = np.einsum("...n,...ni,...ni->...", share, about_s, about_s)
        linear = linear * (np.sum(values * signs, axis=-1) / np.maximum(spread, 1e-300))[..., None, None]
    matrix = np.zeros((*linear.shape[:-2], linear.shape[-1] + 1, linear.shape[-1] + 1))
    matrix[..., :-1, :-1] = linear
    matrix[..., :-1, -1] = (centre_t - centre_s @ np.swapaxes(linear, -1, -2))[..., 0, :]
    matrix[..., -1, -1] = 1.0
    return matrix


def parameter_names(ndim: int, *, with_scale: bool = False) -> tuple[str, ...]:
    """Turns (2D: column 0 towards 1; 3D: about columns 0, 1, 2), shifts, logarithm of the scale."""
    turns = ["turn"] if ndim == 2 else [f"turn about {i}" for i in range(ndim)]
    shifts = [f"shift along {i}" for i in range(ndim)]
    return (*turns, *shifts, *(["scale"] if with_scale else []))


def generators(ndim: int, *, with_scale: bool = False) -> Floats:
    """(P, D, D+1): what each of `parameter_names` adds to a point (p, 1), p about the centre."""
    planes = [(0, 1)] if ndim == 2 else [(1, 2), (2, 0), (0, 1)]
    turns = np.zeros((len(planes), ndim, ndim + 1))
    for turn, (i, j) in zip(turns, planes, strict=True):
        turn[i, j], turn[j, i] = -1.0, 1.0
    shifts = np.zeros((ndim, ndim, ndim + 1))
    shifts[np.arange(ndim), np.arange(ndim), -1] = 1.0
    scale = np.eye(ndim, ndim + 1)[None]
    return np.concatenate([turns, shifts, scale] if with_scale else [turns, shifts])


@dataclass(frozen=True, eq=False)
class Pairs:
    """What a step is solved from; see `icp_numba.pair_sums`.

    Attributes:
        ends: (N, D) source points where they are now.
        near, partners, weights: (M, D), (N,) rows of it that the ends are to meet, and (N,); 0 leaves a pair out.
        fixed: (M, D) normals at `near`, no rows where the kind needs none.
        turned, rotation: (N, D) normals at the ends before (D, D), no rows where the kind needs none.
    """

    ends: Floats
    near: Floats
    partners: Ints
    weights: Floats
    fixed: Floats
    turned: Floats
    rotation: Floats

    def sums(self, kind: int, centre: Floats, extent: float, moves: Floats) -> tuple[Floats, Floats, float]:
        """Of motions about the centre, in extents; in fixed shares, so that threads do not tell in the result."""

        def part(first: int) -> Any:
            rows = slice(first, first + _BLOCK)
            own = self.ends[rows], self.near, self.partners[rows], self.weights[rows], self.fixed, self.turned[rows]
            return pair_sums(kind, *own, self.rotation, centre, extent, moves)

        firsts = range(0, len(self.ends), _BLOCK)
        parts = spread(pool_threads(), part, firsts) if len(firsts) > 1 else [part(0)]
        hessian, gradient, cost = (sum(of) for of in zip(*parts, strict=True))
        return hessian, gradient, float(cost)


def gauss_newton_step(kind: int, pairs: Pairs, *, with_scale: bool = False) -> tuple[Floats, float]:
    """(D+1, D+1) motion that takes the ends towards what is near them, and what it gains.

    The gain is the decrease of the cost in units of the variance of one pair: below one, the
    step is smaller than its own standard error.

    Lengths are scaled by the extent, so that turns and shifts weigh alike, and directions
    in which the pairs say nothing (a sphere turns freely) are left where they are.
    """
    total, ndim = float(np.sum(pairs.weights)), pairs.ends.shape[1]
    centre = pairs.weights @ pairs.ends / total
    about = pairs.ends - centre
    extent = float(np.sqrt(np.einsum("n,nd,nd->", pairs.weights, about, about) / total)) or 1.0
    hessian, gradient, cost = pairs.sums(kind, centre, extent, generators(ndim, with_scale=with_scale))
    values, vectors = np.linalg.eigh(hessian)
    told = values > 1e-9 * values[-1]
    parameters = vectors[:, told] @ ((vectors[:, told].T @ gradient) / values[told])
    gain = float(gradient @ parameters) * total / max(cost, 1e-300)
    scale = float(np.exp(parameters[-1])) if with_scale else 1.0
    motions = len(parameters) - with_scale
    half = np.zeros((ndim + 1, ndim + 1))
    half[:-1] = np.tensordot(parameters[:motions], generators(ndim), axes=1) / 2
    half[:-1, -1] *= extent
    # Cayley's map: a proper rotation of any skew matrix, and the exponential to second order.
    identity = np.eye(len(half))
    step = np.linalg.solve(identity - half, identity + half)
    step[:-1, :-1] *= scale
    about = homogeneous(np.eye(ndim), centre)
    return np.asarray(about @ step @ np.linalg.inv(about)), gain


def robust_weights(residuals: Floats, floor: float, limit: float = np.inf) -> Floats:
    """Tukey's biweight of absolute residuals, with a scale from their median, capped at `limit`."""
    within = residuals if limit == np.inf else residuals[residuals <= limit]
    weights = np.zeros_like(residuals)
    if len(within):
        reach = min(max(_TUKEY * _SIGMA_FROM_MEDIAN * float(np.median(within)), floor), 1e150)
        biweight(residuals, reach, limit, weights)
    return weights


def kept_after(trim: float, count: int, ndim: int) -> int:
    """How many of `count` pairs a trim leaves; never fewer than tell a motion."""
    return min(count, max(ndim, round((1 - trim) * count)))


def pair_weights(distances: Floats, floor: float, max_distance: float | None, trim: float | None, ndim: int) -> Floats:
    """Weights of pairs by their distance; a trim drops that share of the worst outright."""
    limit = np.inf if max_distance is None else max_distance
    if trim is None:
        return robust_weights(distances, floor, limit)
    kept = kept_after(trim, len(distances), ndim)
    limit = min(limit, float(np.partition(distances, kept - 1)[kept - 1]))
    return np.asarray(np.where(distances <= limit, 1.0, 0.0))


def corners_of(points: Floats) -> Floats:
    """(2^D, D) corners of the box around the points; under a linear map none of them moves further."""
    low, high = np.empty((2, points.shape[1]))
    bounds(points, low, high)
    return box_corners(low, high)


@dataclass(frozen=True)
class Options:
    """How pairs are weighed and moved: the keywords of `clouds.icp`."""

    method: str = "point_to_point"
    with_scale: bool = False
    max_distance: float | None = None
    trim: float | None = None

    def beyond(self, distance: float) -> Options:
        """The same with a limit not below `distance`, for thinned clouds that are further apart."""
        if self.max_distance is None or self.max_distance >= distance:
            return self
        return replace(self, max_distance=distance)


def refine(
    target: Cloud,
    source: Cloud,
    start: Floats,
    options: Options = Options(),
    *,
    max_iterations: int = 50,
    tolerance: float = 1e-5,
    least_gain: float = 0.1,
) -> Matched:
    """Iterate from `start` (D+1, D+1) until points move less than `tolerance` of the extent.

    Gauss-Newton steps also end where their gain is below `least_gain`, the square of a share of the
    motion's standard error.
    Where a few pairs go on swapping partners the steps stop shrinking instead, or lead back to where the
    points were; that counts as settled too, below a hundred tolerances, and the latter whatever the steps.
    """
    floor, least = 1e-9 * target.radius, np.inf
    matrix, settled, rounds, idle = start, False, 0, 0
    nearest, corners = Follower(target), corners_of(source.points)
    now, passed = apply(start, corners), list[Floats]()
    while True:
        moved = apply(matrix, source.points)
        distances, indices = nearest(moved)
        weights = pair_weights(distances, floor, options.max_distance, options.trim, source.ndim)
        if settled or rounds == max_iterations or np.count_nonzero(weights) < source.ndim:
            return Matched(matrix, distances, indices, weights, rounds, settled)
        step, gain = _step((target, source), matrix, (moved, indices, weights), options)
        matrix = step @ matrix
        before, now = now, apply(matrix, corners)
        rounds += 1
        motion = float(np.max(np.abs(now - before))) / target.radius
        least, idle = (motion, 0) if motion < least else (least, idle + 1)
        settled = motion < tolerance or gain < least_gain or (idle == _IDLE and least < 100 * tolerance)
        settled = settled or any(np.abs(now - then).max() < tolerance * target.radius for then in passed)
        passed = [*passed[-_IDLE:], before]


def _step(
    clouds: tuple[Cloud, Cloud], matrix: Floats, pairs: tuple[Floats, Ints, Floats], options: Options
) -> tuple[Floats, float]:
    """The motion of the ends (N, D) of pairs towards their partners (N,), weighed (N,), and its gain."""
    target, source = clouds
    ends, partners, weights = pairs
    if options.method == "point_to_point":
        return closest_rigid(target.points[partners], ends, weights, with_scale=options.with_scale), np.inf
    rotation, none = matrix[:-1, :-1].copy(), np.zeros((0, source.ndim))
    if options.method == "point_to_plane":
        # Edges, where the normal means little; plane to plane discounts them by itself.
        off = np.abs(np.einsum("ij,ij->i", target.points[partners] - ends, target.normals[partners]))
        used = weights > 0
        weights[used] *= robust_weights(off[used], 1e-9 * target.radius)
        kind, turned = PLANE, none
    else:
        kind, turned = PLANES, source.normals
        rotation /= abs(np.linalg.det(rotation)) ** (1 / source.ndim)
    step = Pairs(ends, target.points, partners, weights, target.normals, turned, rotation)
    return gauss_newton_step(kind, step, with_scale=options.with_scale)
