"""Whether an ICP result is told by its pairs: how close they are, and which motions they leave free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from daskreg.kernels.icp import Pairs, generators, parameter_names
from daskreg.kernels.icp_numba import PLANE, POINT
from daskreg.kernels.points import Cloud, Floats, neighbourhood, planes_of
from daskreg.kernels.thinning import thinned, voxel_size_for

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


def judge(
    target: Cloud, moved: Floats, *, surface: bool, max_distance: float | None = None, with_scale: bool = False
) -> Evidence:
    """Weigh the nearest pairs of `target` and the source moved onto it.

    Where points have met their own partners, the pairs hold the motion point by point.
    Otherwise two samples of one surface may slide along each other, and only its normals
    hold them: a plane slides, a cylinder turns, a sphere turns freely.

    Args:
        moved: (N, D) source points in the target's frame.
        surface: whether the clouds are locally surfaces (in 2D, curves).
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
    ends, near = moved[inside], target.points[indices[inside]]
    extent = float(np.sqrt(np.sum(np.var(ends, axis=0)))) or 1.0
    kind, normals = POINT, np.zeros((1, target.ndim))
    floor = 1e-6 + 9 * (rmse / extent) ** 2
    if surface and rmse > PAIRED * target.spacing:
        # A shape that holds has several times as much to say as noise does.
        normals, tilt = wide_normals(ends)
        kind, floor = PLANE, max(1e-3, 3 * tilt)
    moves = generators(target.ndim, with_scale=with_scale)
    pairs = Pairs(ends, near, np.arange(len(ends)), np.ones(len(ends)), normals, normals[:0], np.eye(target.ndim))
    hessian, _, cost = pairs.sums(kind, ends.mean(axis=0), extent, moves)
    values, vectors = np.linalg.eigh(hessian / len(ends))
    measured = len(ends) * (target.ndim if kind == POINT else 1)
    variance = cost / max(1, measured - len(names))
    covariance = (vectors / np.maximum(values, 1e-12)) @ vectors.T * variance / len(ends)
    units = np.array([extent if name.startswith("shift") else 1.0 for name in names])
    free = vectors[:, values < floor].T
    return Evidence(rmse, fitness, target.spacing, covariance * np.outer(units, units), kind == PLANE, free)


def wide_normals(points: Floats) -> tuple[Floats, float]:
    """(N, D) normals at the points, and how far noise tilts them (squared radians).

    A plane fitted to k points with variances l0 < l1 is tilted by about l0 / (k l1). The ratio
    of the variances falls with the size of the neighbourhoods while they are thinner than the noise,
    and rises once they see the curvature: of three sizes the flattest is taken.
    """
    found, coarse = list[tuple[float, float, Floats, Floats]](), Cloud(points, near=neighbourhood(points.shape[1]))
    for centres in (1000, 500, 250) if points.shape[1] == 3 else (200, 100, 50):
        if len(coarse) > centres:
            coarse = thinned(coarse, voxel_size_for(coarse, centres)[0], near=neighbourhood(coarse.ndim))
        few = coarse.around[1]
        planes = planes_of(coarse, few)
        flat = planes.values[:, 0] / np.maximum(planes.values[:, 1], 1e-300)
        number = coarse.counts[few].sum(axis=1) if len(coarse.counts) else few.shape[1]
        found.append((float(np.median(flat)), float(np.median(flat / number)), coarse.points, planes.vectors[:, :, 0]))
    _, tilt, centres_of, normals = min(found, key=lambda f: f[0])
    _, nearest = Cloud(centres_of).nearest(points)
    return normals[nearest], tilt
