"""Whether an ICP result is told by its pairs: how close they are, and which motions they leave free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from daskreg.kernels.icp import normal_equations, parameter_names
from daskreg.kernels.points import SURFACE, Cloud, Floats, local_shapes, neighbourhood, thin

# Where pairs are closer than this share of the target's spacing, points have met their own partners.
PAIRED = 0.5
# Points strewn at random meet at about the spacing; what is nearer than this is no chance.
CHANCE = 0.75


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the pairs say about the motion.

    Attributes:
        rmse: root mean square distance of the inliers.
        fitness: share of the source points that are inliers.
        spacing: of the target's points.
        covariance: (P, P) of a motion about the centroid of the inliers, in the order of
            `kernels.icp.parameter_names`: radians, the points' unit, logarithm of the scale.
        surface: whether the pairs are two samples of a surface (in 2D, a curve), so that
            distances along it mean nothing.
        free: (K, P) unit directions (turns in radians, shifts in units of the extent) along
            which the pairs do not hold the source.
    """

    rmse: float
    fitness: float
    spacing: float
    covariance: Floats
    surface: bool
    free: Floats


def judge(target: Cloud, moved: Floats, *, max_distance: float | None = None, with_scale: bool = False) -> Evidence:
    """Weigh the nearest pairs of `target` and the source moved onto it.

    Where points have met their own partners, the pairs hold the motion point by point.
    Otherwise two samples of one surface may slide along each other, and only its normals
    hold them: a plane slides, a cylinder turns, a sphere turns freely.

    Args:
        moved: (N, D) source points in the target's frame.
        max_distance: of an inlier; None: five times the lower quartile of the distances.
    """
    names = parameter_names(target.ndim, with_scale=with_scale)
    distances, indices = target.nearest(moved)
    reach = max(5 * float(np.percentile(distances, 25)), 1e-6 * target.radius) if max_distance is None else max_distance
    inside = np.flatnonzero(distances <= reach)
    fitness = len(inside) / len(moved)
    if len(inside) < target.ndim:
        unknown = np.full((len(names), len(names)), np.inf)
        return Evidence(np.inf, fitness, target.spacing, unknown, False, np.eye(len(names)))
    rmse = float(np.sqrt(np.mean(distances[inside] ** 2)))
    ends, errors = moved[inside], target.points[indices[inside]] - moved[inside]
    extent = float(np.sqrt(np.sum(np.var(ends, axis=0)))) or 1.0
    metrics = np.broadcast_to(np.eye(target.ndim), (len(ends), target.ndim, target.ndim))
    surface, floor = False, 1e-6 + 9 * (rmse / extent) ** 2
    if rmse > PAIRED * target.spacing:
        normals, ratio = wide_normals(ends)
        surface = ratio < SURFACE
        if surface:
            # A plane fitted to k points with variances l0 < l1 is tilted by about l0 / (k l1),
            # squared radians; a shape that holds has several times as much to say.
            metrics, floor = normals[:, None, :], max(1e-3, 3 * ratio / neighbourhood(target.ndim))
    hessian, _ = normal_equations(
        (ends - ends.mean(axis=0)) / extent, errors, metrics, np.ones(len(ends)), with_scale=with_scale
    )
    values, vectors = np.linalg.eigh(hessian / len(ends))
    seen = np.matmul(metrics, errors[:, :, None])
    variance = float(np.sum(seen**2)) / max(1, seen.size - len(names)) / extent**2
    covariance = (vectors / np.maximum(values, 1e-12)) @ vectors.T * variance / len(ends)
    units = np.array([extent if name.startswith("shift") else 1.0 for name in names])
    free = vectors[:, values < floor].T
    return Evidence(rmse, fitness, target.spacing, covariance * np.outer(units, units), surface, free)


def wide_normals(points: Floats) -> tuple[Floats, float]:
    """(N, D) normals at the points, and how flat the neighbourhoods are that they come from.

    Flatness is the median ratio of the smallest to the next variance. It falls with the size
    of the neighbourhoods while they are thinner than the noise, and rises once they see
    the curvature: of three sizes the flattest is taken.
    """
    most = 1000 if points.shape[1] == 3 else 200
    found: list[tuple[float, Floats, Floats]] = []
    for count in (most, most // 2, most // 4):
        coarse = thin(points, count, "voxels")
        values, vectors = local_shapes(coarse, cKDTree(coarse), coarse)
        found.append((float(np.median(values[:, 0] / np.maximum(values[:, 1], 1e-300))), coarse, vectors[:, :, 0]))
    ratio, coarse, normals = min(found, key=lambda f: f[0])
    _, nearest = cKDTree(coarse).query(points)
    return normals[nearest], ratio
