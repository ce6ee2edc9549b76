"""Iterative closest points (ICP): one pair of clouds, from an initial pose near enough, in any number of dimensions.

Each iteration pairs every source point with the nearest target point, weighs these correspondences (by trimming, a
robust kernel, or a limit on the distance) and moves the source. Three methods differ in the
cost of a correspondence:

- point_to_point: the distance; solved in closed form (Kabsch 1976; Umeyama 1991, with the
  sign that makes it a rotation).
- point_to_plane: the distance along the target's normal (Chen & Medioni 1992).
- generalized: the distance under both local covariances, plane to plane (Segal et al. 2009).

The last two take Gauss-Newton steps on SE(n), about the centroid of the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.clouds.cached_search import CachedSearch
from daskreg.clouds.cloud import Cloud, Floats, Ints
from daskreg.clouds.cloud_numba import bounding_box
from daskreg.clouds.icp_numba import PLANE_TO_PLANE, POINT_TO_PLANE, add_correspondences, tukey_weights
from daskreg.geometry import box_corners
from daskreg.runtime.threads import pool_threads, spread

Reals = NDArray[np.floating[Any]]

# Tukey's biweight keeps 95 % of the efficiency of least squares at this many sigmas.
_TUKEY = 4.685
_SIGMA_FROM_MEDIAN = 1.4826
# Iterations without a new smallest step, after which steps are taken as not shrinking any more.
_STALLED = 10
# Correspondences of one block; normal equations are the sum of those of the blocks.
_BLOCK = 30_000


@dataclass(frozen=True)
class IcpOptions:
    """How correspondences are weighed and solved: keywords of `clouds.register.icp`."""

    method: str = "point_to_point"
    with_scale: bool = False
    max_distance: float | None = None
    trim: float | None = None

    def reaching(self, distance: float) -> IcpOptions:
        """The same with a `max_distance` not below `distance`, for downsampled clouds with larger spacings."""
        if self.max_distance is None or self.max_distance >= distance:
            return self
        return replace(self, max_distance=distance)


@dataclass(frozen=True, eq=False)
class IcpResult:
    """The last iterate.

    Attributes:
        matrix: (D+1, D+1), target from source.
        distances: (N,) of every source point to its nearest target point.
        rows: (N,) of these target points.
        weights: (N,) of the correspondences, 0 for those left out.
        iterations: how many were used.
        converged: whether steps became small enough before the iterations ran out.
    """

    matrix: Floats
    distances: Floats
    rows: Ints
    weights: Floats
    iterations: int
    converged: bool


def homogeneous(linear: Floats, offset: Floats) -> Floats:
    """The (D+1, D+1) matrix of a linear part (D, D) and an offset (D,)."""
    m = np.eye(len(offset) + 1)
    m[:-1, :-1], m[:-1, -1] = linear, offset
    return m


def transform_points(matrix: Floats, points: Floats) -> Floats:
    """(N, D) points under a matrix (D+1, D+1)."""
    return np.asarray(points @ matrix[:-1, :-1].T + matrix[:-1, -1])


def fit_rigid(target: Reals, source: Reals, weights: Reals, *, with_scale: bool = False) -> Floats:
    """The motion of rows of `source` onto rows of `target` with the least weighted sum of squares.

    Args:
        target, source: (..., N, D); rows correspond.
        weights: (..., N).
        with_scale: with a common scale (Umeyama 1991, eq. 40-42).

    Returns: (..., D+1, D+1); always a proper rotation (determinant +1).
    """
    share = weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)
    centre_t, centre_s = share[..., None, :] @ target, share[..., None, :] @ source
    about_s = source - centre_s
    moments = np.swapaxes(target - centre_t, -1, -2) @ (share[..., None] * about_s)
    u, values, vt = np.linalg.svd(moments.astype(np.float64))  # float32 points, yet exact rotations
    # Where the best orthogonal matrix is a reflection, the axis of the smallest singular value is flipped.
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


def parameter_names(axes: Sequence[str], *, with_scale: bool = False) -> tuple[str, ...]:
    """Names of turns (2D: column 0 towards 1; 3D: about columns 0, 1, 2), shifts, logarithm of the scale.

    Args:
        axes: names of the columns.
    """
    turns = ["turn"] if len(axes) == 2 else [f"turn about {name}" for name in axes]
    shifts = [f"shift along {name}" for name in axes]
    return (*turns, *shifts, *(["scale"] if with_scale else []))


def generators(ndim: int, *, with_scale: bool = False) -> Floats:
    """(P, D, D+1): displacement of a point (p, 1), p relative to the centre, per unit of each of `parameter_names`."""
    planes = [(0, 1)] if ndim == 2 else [(1, 2), (2, 0), (0, 1)]
    turns = np.zeros((len(planes), ndim, ndim + 1))
    for turn, (i, j) in zip(turns, planes, strict=True):
        turn[i, j], turn[j, i] = -1.0, 1.0
    shifts = np.zeros((ndim, ndim, ndim + 1))
    shifts[np.arange(ndim), np.arange(ndim), -1] = 1.0
    scale = np.eye(ndim, ndim + 1)[None]
    return np.concatenate([turns, shifts, scale] if with_scale else [turns, shifts])


@dataclass(frozen=True, eq=False)
class Correspondences:
    """What a step is solved from; see `icp_numba.add_correspondences`.

    Attributes:
        source: (N, D) source points where they are now.
        target: (M, D) target points.
        rows: (N,) the row of `target` that each source point corresponds to.
        weights: (N,); 0 leaves a correspondence out.
        target_normals: (M, D); no rows where the kind needs none.
        source_normals: (N, D) before `rotation`; no rows where the kind needs none.
        rotation: (D, D) of the source normals.
    """

    source: Floats
    target: Floats
    rows: Ints
    weights: Floats
    target_normals: Floats
    source_normals: Floats
    rotation: Floats

    def normal_equations(
        self, kind: int, centre: Floats, extent: float, generators: Floats
    ) -> tuple[Floats, Floats, float]:
        """J^T W J, J^T W e and the cost of motions about the centre, in units of the extent.

        The sum is over blocks of one size, so that the result does not depend on the number of threads.
        """

        def part(first: int) -> Any:
            some = slice(first, first + _BLOCK)
            return add_correspondences(
                kind,
                self.source[some],
                self.target,
                self.rows[some],
                self.weights[some],
                self.target_normals,
                self.source_normals[some],
                self.rotation,
                centre,
                extent,
                generators,
            )

        firsts = range(0, len(self.source), _BLOCK)
        parts = spread(pool_threads(), part, firsts) if len(firsts) > 1 else [part(0)]
        hessian, gradient, cost = (sum(of) for of in zip(*parts, strict=True))
        return hessian, gradient, float(cost)


def gauss_newton_step(kind: int, pairs: Correspondences, *, with_scale: bool = False) -> tuple[Floats, float]:
    """(D+1, D+1) motion of the source points towards their target points, and its gain.

    The gain is the decrease of the cost in units of the variance of one correspondence: below one, the
    step is smaller than its own standard error.

    Lengths are divided by the extent, so that turns and shifts are alike in size. Directions that the
    correspondences do not determine (a sphere turns freely) are left unchanged.
    """
    total, ndim = float(np.sum(pairs.weights)), pairs.source.shape[1]
    centre = pairs.weights @ pairs.source / total
    about = pairs.source - centre
    extent = float(np.sqrt(np.einsum("n,nd,nd->", pairs.weights, about, about) / total)) or 1.0
    hessian, gradient, cost = pairs.normal_equations(kind, centre, extent, generators(ndim, with_scale=with_scale))
    values, vectors = np.linalg.eigh(hessian)
    determined = values > 1e-9 * values[-1]
    vectors, values = vectors[:, determined], values[determined]
    parameters = vectors @ ((vectors.T @ gradient) / values)
    gain = float(gradient @ parameters) * total / max(cost, 1e-300)
    scale = float(np.exp(parameters[-1])) if with_scale else 1.0
    rigid = len(parameters) - with_scale
    half = np.zeros((ndim + 1, ndim + 1))
    half[:-1] = np.tensordot(parameters[:rigid], generators(ndim), axes=1) / 2
    half[:-1, -1] *= extent
    # Cayley's map gives a proper rotation for any skew matrix, and agrees with the exponential to second order.
    identity = np.eye(len(half))
    step = np.linalg.solve(identity - half, identity + half)
    step[:-1, :-1] *= scale
    to_centre = homogeneous(np.eye(ndim), centre)
    return np.asarray(to_centre @ step @ np.linalg.inv(to_centre)), gain


def robust_weights(residuals: Floats, floor: float, limit: float = np.inf) -> Floats:
    """Tukey's biweights of absolute residuals, with a scale from the median of those up to `limit`; 0 beyond it."""
    within = residuals if limit == np.inf else residuals[residuals <= limit]
    weights = np.zeros_like(residuals)
    if len(within):
        reach = min(max(_TUKEY * _SIGMA_FROM_MEDIAN * float(np.median(within)), floor), 1e150)
        tukey_weights(residuals, reach, limit, weights)
    return weights


def count_after_trim(trim: float, count: int, ndim: int) -> int:
    """How many of `count` correspondences a trim leaves; never fewer than determine a motion."""
    return min(count, max(ndim, round((1 - trim) * count)))


def correspondence_weights(
    distances: Floats, floor: float, max_distance: float | None, trim: float | None, ndim: int
) -> Floats:
    """Weights of correspondences by their distance: robust ones, or with a trim 0 for that share of the largest."""
    limit = np.inf if max_distance is None else max_distance
    if trim is None:
        return robust_weights(distances, floor, limit)
    count = count_after_trim(trim, len(distances), ndim)
    limit = min(limit, float(np.partition(distances, count - 1)[count - 1]))
    return np.asarray(np.where(distances <= limit, 1.0, 0.0))


def bounding_box_corners(points: Floats) -> Floats:
    """(2^D, D) corners of the box around the points; a linear map moves no point further than the furthest corner."""
    low, high = np.empty((2, points.shape[1]))
    bounding_box(points, low, high)
    return box_corners(low, high)


def refine(
    target: Cloud,
    source: Cloud,
    initial: Floats,
    options: IcpOptions = IcpOptions(),
    *,
    max_iterations: int = 50,
    tolerance: float = 1e-5,
    least_gain: float = 0.1,
) -> IcpResult:
    """Iterate from the pose `initial` (D+1, D+1) until points move less than `tolerance` of the target's radius.

    Gauss-Newton steps also end where their gain is below `least_gain`, the square of a share of the
    motion's standard error.

    Where a few points keep changing between two target points, steps stop shrinking, or lead back to earlier
    positions. Both count as converged too: the first below a hundred tolerances, the second whatever the steps.
    """
    floor, least = 1e-9 * target.radius, np.inf
    matrix, converged, iterations, stalled = initial, False, 0, 0
    nearest, corners = CachedSearch(target), bounding_box_corners(source.points)
    now, earlier = transform_points(initial, corners), list[Floats]()
    while True:
        moved = transform_points(matrix, source.points)
        distances, rows = nearest(moved)
        weights = correspondence_weights(distances, floor, options.max_distance, options.trim, source.ndim)
        if converged or iterations == max_iterations or np.count_nonzero(weights) < source.ndim:
            return IcpResult(matrix, distances, rows, weights, iterations, converged)
        step, gain = _step(target, source, matrix, (moved, rows, weights), options)
        matrix = step @ matrix
        before, now = now, transform_points(matrix, corners)
        iterations += 1
        motion = float(np.max(np.abs(now - before))) / target.radius
        least, stalled = (motion, 0) if motion < least else (least, stalled + 1)
        converged = motion < tolerance or gain < least_gain or (stalled == _STALLED and least < 100 * tolerance)
        converged = converged or any(np.abs(now - then).max() < tolerance * target.radius for then in earlier)
        earlier = [*earlier[-_STALLED:], before]


def _step(
    target: Cloud, source: Cloud, matrix: Floats, pairs: tuple[Floats, Ints, Floats], options: IcpOptions
) -> tuple[Floats, float]:
    """The next motion and its gain.

    Args:
        matrix: (D+1, D+1), the motion so far.
        pairs: (N, D) source points where they are now, (N,) rows of their target points, and (N,) weights.
    """
    moved, rows, weights = pairs
    if options.method == "point_to_point":
        return fit_rigid(target.points[rows], moved, weights, with_scale=options.with_scale), np.inf
    rotation, none = matrix[:-1, :-1].copy(), np.zeros((0, source.ndim))
    if options.method == "point_to_plane":
        # Robust weights of the distances along normals: at edges normals mean little. Plane to plane needs no
        # such weights, since its cost is low there.
        off = np.abs(np.einsum("ij,ij->i", target.points[rows] - moved, target.normals[rows]))
        used = weights > 0
        weights[used] *= robust_weights(off[used], 1e-9 * target.radius)
        kind, source_normals = POINT_TO_PLANE, none
    else:
        kind, source_normals = PLANE_TO_PLANE, source.normals
        rotation /= abs(np.linalg.det(rotation)) ** (1 / source.ndim)
    step = Correspondences(moved, target.points, rows, weights, target.normals, source_normals, rotation)
    return gauss_newton_step(kind, step, with_scale=options.with_scale)
