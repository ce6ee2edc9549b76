"""Whether an ICP result is told by its pairs: how close they are, and which motions they leave free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from daskreg.clouds.cloud import Cloud, Floats, Ints, neighbourhood, planes_of
from daskreg.clouds.icp import Pairs, generators, parameter_names
from daskreg.clouds.icp_numba import POINT
from daskreg.clouds.voxel_grid import thinned, voxel_size_for
from daskreg.runtime.threads import pool_threads, spread

# Where pairs are closer than this share of the target's spacing, points have met their own partners.
PAIRED = 0.5
# Points strewn at random meet at about the spacing; what is nearer than this is no chance, but where the points are
# fewer: of many poses, one brings few points together.
_CHANCE, _MANY = 0.75, 90
# Least information of a pair on a motion that the shape holds, and how many times what chance leaves.
_HELD, _SURE = 1e-3, 4.0


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the pairs say about the motion.

    Attributes:
        rmse: root mean square distance of the inliers.
        fitness: share of the source points that are inliers.
        pairs: their number.
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
    pairs: int
    spacing: float
    covariance: Floats
    surface: bool
    free: Floats


def by_chance(pairs: int) -> float:
    """In spacings: what unrelated clouds of so many pairs stay above, in the best pose of all."""
    return float(_CHANCE * min(1.0, pairs / _MANY) ** 0.75)


def judge(
    target: Cloud,
    moved: Floats,
    *,
    surface: bool,
    pointwise: bool,
    nearest: tuple[Floats, Ints] | None = None,
    max_distance: float | None = None,
    with_scale: bool = False,
) -> Evidence:
    """Weigh the nearest pairs of `target` and the source moved onto it.

    Where points have met their own partners, the pairs hold the motion point by point.
    Otherwise two samples of one surface may slide along each other, and only its normals
    hold them: a plane slides, a cylinder turns, a sphere turns freely.

    Args:
        moved: (N, D) source points in the target's frame.
        surface: whether the clouds are locally surfaces (in 2D, curves).
        pointwise: whether the motion was found from distances of points, not from those across surfaces.
        nearest: distances (N,) of the points to their nearest, and rows (N,) of the target, where they are known.
        max_distance: of an inlier; None: five times the lower quartile of the distances.
    """
    names = parameter_names(target.ndim, with_scale=with_scale)
    distances, indices = nearest or target.nearest(moved)
    reach = max(5 * float(np.percentile(distances, 25)), 1e-6 * target.radius) if max_distance is None else max_distance
    inside = np.flatnonzero(distances <= reach)
    fitness = len(inside) / len(moved)
    if len(inside) < target.ndim:
        unknown = np.full((len(names), len(names)), np.inf)
        return Evidence(np.inf, fitness, len(inside), target.spacing, unknown, False, np.eye(len(names)))
    rmse = float(np.sqrt(np.mean(distances[inside] ** 2)))
    ends, near = moved[inside], target.points[indices[inside]]
    extent = float(np.sqrt(np.sum(np.var(ends, axis=0)))) or 1.0
    moves, centre = generators(target.ndim, with_scale=with_scale), ends.mean(axis=0)
    paired = not surface or rmse <= PAIRED * target.spacing
    if paired:
        # In 3D a point says three things.
        none = np.zeros((0, target.ndim))
        pairs = Pairs(ends, near, np.arange(len(ends)), np.ones(len(ends)), none, none, np.eye(target.ndim))
        hessian, _, cost = pairs.sums(POINT, centre, extent, moves)
        values, vectors = np.linalg.eigh(hessian / len(ends))
        variance = cost / max(1, len(ends) * target.ndim - len(names))
        free = vectors[:, values < 1e-6 + 9 * (rmse / extent) ** 2].T
    if surface and not (paired and pointwise):
        rows, own = np.unique(indices[inside], return_inverse=True)
        fixed, turned = spread(pool_threads(), wide_normals, (target.points[rows], ends))
        scaled, errors = (ends - centre) / extent, (near - ends) / extent
        hessian, cost = across(fixed.normals[own], turned.normals, errors, scaled, moves)
        values, vectors = np.linalg.eigh(hessian / len(ends))
        variance = cost / max(1, len(ends) - len(names))
        if not paired:
            # What chance may leave of the product of both tilts, and of a tilt and the shape.
            chance = np.sqrt(fixed.tilt * turned.tilt / min(fixed.number, turned.number))
            free = vectors[:, values < max(_HELD, _SURE * float(chance))].T
    # The noise of a target point is in all pairs that it has.
    _, times = np.unique(indices[inside], return_counts=True)
    variance *= (1 + float(np.mean(times**2) / np.mean(times))) / 2
    covariance = (vectors / np.maximum(values, 1e-12)) @ vectors.T * variance / len(ends)
    units = np.array([extent if name.startswith("shift") else 1.0 for name in names])
    return Evidence(rmse, fitness, len(inside), target.spacing, covariance * np.outer(units, units), not paired, free)


def across(fixed: Floats, turned: Floats, errors: Floats, scaled: Floats, moves: Floats) -> tuple[Floats, float]:
    """(P, P) information on the motions that pairs have across a surface, and their sum of squared errors.

    Noise tilts normals, and tilted normals seem to hold what slides. In the two clouds it does so independently, so
    that in products of the one's normals (N, D) with the other's it cancels out.
    """
    turned = turned * np.where(np.einsum("ij,ij->i", fixed, turned) < 0, -1.0, 1.0)[:, None]
    velocities = moves[:, :, :-1] @ scaled.T + moves[:, :, -1:]  # (P, D, N)
    first, second = (np.einsum("nd,pdn->pn", normals, velocities) for normals in (fixed, turned))
    hessian = first @ second.T
    off = np.einsum("ij,ij->i", errors, turned)
    return (hessian + hessian.T) / 2, float(off @ off)


@dataclass(frozen=True, eq=False)
class Normals:
    """(N, D) normals at points, how far noise tilts them (squared radians), and how many of them are independent."""

    normals: Floats
    tilt: float
    number: int


def wide_normals(points: Floats) -> Normals:
    """Normals at (N, D) points of a surface.

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
    return Normals(normals[nearest], tilt, len(centres_of))
