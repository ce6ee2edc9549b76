"""Which motions the correspondences of an ICP result determine, how well, and how close the points are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskreg.clouds.cloud import NEAR, Cloud, Floats, Ints, default_neighbours, local_shapes, norms
from daskreg.clouds.icp import Correspondences, generators
from daskreg.clouds.icp_numba import POINT_TO_POINT
from daskreg.clouds.voxel_grid import voxel_downsample, voxel_size_for
from daskreg.runtime.threads import pool_threads, spread

# Where points are nearer than this share of the target's spacing, the same points were measured in both clouds.
SAME_POINTS = 0.5
# The nearest of random points is at about the spacing. A smaller distance is not chance, except where the points are
# fewer than _MANY: in the best of many poses, a few points are near by chance.
_CHANCE, _MANY = 0.75, 90
# Least information of a correspondence on a motion that the shape determines, and a factor above the information
# that noise alone leaves.
_LEAST_INFORMATION, _ABOVE_NOISE = 1e-3, 4.0
# Motions with less information are tried: the shape determines them where the squared distances across the surface grow
# by more than this share of what the information says. (Of motions that edges alone seem to determine, they grow by at
# most 0.27, of those that a shape determines, by at least 0.5.)
_WEAK_INFORMATION, _LEAST_GROWTH = 0.03, 0.37
# In spacings: the root mean square motion that is tried. Each point then has another nearest point, and those beyond
# the border have none that is near.
_TRIED = 5.0
# Points whose noise is estimated, neighbours of each, and the standard deviation for a median absolute value of 1.
_NOISE_POINTS, _NOISE_NEIGHBOURS, _DEVIATION_OF_MEDIAN = 400, 7, 1.4826
# Points where both normals agree by this cosine: neighbourhoods across an edge have normals of any direction.
_COSINE = 0.9


@dataclass(frozen=True, eq=False)
class Observability:
    """What the correspondences of a pose determine.

    Attributes:
        rmse: root mean square distance of the inliers.
        fitness: share of the source points that are inliers.
        inliers: their number.
        spacing: of the target's points.
        covariance: (P, P) of a motion about the centroid of the inliers, in the order of
            `icp.parameter_names`: radians, the points' unit, logarithm of the scale; large for free motions.
        across_surface: whether the clouds are two samples of a surface (in 2D, a curve) without common points, so that
            distances along the surface mean nothing.
        free: (K, P) unit directions (turns in radians, shifts in units of the extent) in which the
            correspondences do not determine the motion.
        centre: (D,) the centroid of the inliers, in the target's frame.
    """

    rmse: float
    fitness: float
    inliers: int
    spacing: float
    covariance: Floats
    across_surface: bool
    free: Floats
    centre: Floats


def chance_rmse(inliers: int) -> float:
    """In spacings: the rmse of unrelated clouds with so many inliers is larger, in the best of all poses."""
    return float(_CHANCE * min(1.0, inliers / _MANY) ** 0.75)


def observability(
    target: Cloud,
    moved: Floats,
    *,
    surface: bool,
    point_to_point: bool,
    nearest: tuple[Floats, Ints] | None = None,
    max_distance: float | None = None,
    with_scale: bool = False,
    even: Cloud | None = None,
) -> Observability:
    """Of the nearest points of `target` and the source moved onto it.

    Where the same points were measured in both clouds, correspondences determine the motion point by point.
    Otherwise two samples of one surface may slide along each other, and only its normals
    determine the motion: a plane slides, a cylinder turns, a sphere turns freely.

    Args:
        moved: (N, D) source points in the target's frame.
        surface: whether the clouds are locally surfaces (in 2D, curves).
        point_to_point: whether distances between points were minimised, and not those across surfaces.
        nearest: distances (N,) and rows (N,) of the nearest target points, where they are known.
        max_distance: of an inlier; None: five times the lower quartile of the distances.
        even: the target, of even density, where that is known.
    """
    moves = generators(target.ndim, with_scale=with_scale)
    distances, rows = nearest or target.nearest(moved)
    limit = max(5 * float(np.percentile(distances, 25)), 1e-6 * target.radius) if max_distance is None else max_distance
    inside = np.flatnonzero(distances <= limit)
    fitness = len(inside) / len(moved)
    if len(inside) < target.ndim:
        unknown = np.full((len(moves), len(moves)), np.inf)
        return Observability(
            np.inf, fitness, len(inside), target.spacing, unknown, False, np.eye(len(moves)), moved.mean(axis=0)
        )
    rmse = float(np.sqrt(np.mean(distances[inside] ** 2)))
    source, near = moved[inside], target.points[rows[inside]]
    extent = float(np.sqrt(np.sum(np.var(source, axis=0)))) or 1.0
    centre = source.mean(axis=0)
    same_points = not surface or rmse <= SAME_POINTS * target.spacing
    if same_points:
        none = np.zeros((0, target.ndim))
        order, weights = np.arange(len(source)), np.ones(len(source))
        pairs = Correspondences(source, near, order, weights, none, none, np.eye(target.ndim))
        hessian, _, cost = pairs.normal_equations(POINT_TO_POINT, centre, extent, moves)
        values, vectors = np.linalg.eigh(hessian / len(source))
        # Each point gives D residuals.
        variance = cost / max(1, len(source) * target.ndim - len(moves))
        unknown = values < 1e-6 + 9 * (rmse / extent) ** 2
        free = vectors[:, unknown].T
    if surface and not (same_points and point_to_point):
        unique, own = np.unique(rows[inside], return_inverse=True)
        fixed, moving = spread(pool_threads(), robust_normals, (target.points[unique], source))
        relative, errors = (source - centre) / extent, (near - source) / extent
        hessian, cost = across_surfaces(fixed.normals[own], moving.normals, errors, relative, moves)
        values, vectors = np.linalg.eigh(hessian / len(source))
        variance = max(
            cost / max(1, len(source) - len(moves)), (fixed.noise**2 + moving.noise**2) / extent**2 * (not same_points)
        )
        if not same_points:
            # What noise may leave of the product of both tilts, and of a tilt and the shape.
            noise = np.sqrt(fixed.tilt * moving.tilt / min(fixed.number, moving.number))
            unknown = values < max(_LEAST_INFORMATION, _ABOVE_NOISE * float(noise))
            weak = np.flatnonzero(~unknown & (values < _WEAK_INFORMATION))
            if len(weak):
                smooth = np.abs(np.einsum("ij,ij->i", fixed.normals[own], moving.normals)) > _COSINE
                some = source[smooth], moving.normals[smooth], (centre, extent)
                for k in weak:
                    growth = _growth(even or target, *some, np.tensordot(vectors[:, k], moves, axes=1))
                    unknown[k] = growth * np.mean(smooth) < _LEAST_GROWTH * values[k]
            free = vectors[:, unknown].T
    # The noise of a target point is in all correspondences that it is part of.
    _, times = np.unique(rows[inside], return_counts=True)
    variance *= (1 + float(np.mean(times**2) / np.mean(times))) / 2
    variances = variance / len(source) / np.maximum(values, 1e-12)
    # Of a free motion the deviation is at least a radian, or the extent.
    variances[unknown] = np.maximum(variances[unknown], 1.0)
    covariance = (vectors * variances) @ vectors.T
    units = np.where(moves[:, :, :-1].any(axis=(1, 2)), 1.0, extent)
    covariance *= np.outer(units, units)
    return Observability(rmse, fitness, len(inside), target.spacing, covariance, not same_points, free, centre)


def across_surfaces(
    target_normals: Floats, source_normals: Floats, errors: Floats, points: Floats, generators: Floats
) -> tuple[Floats, float]:
    """(P, P) information on motions from distances across a surface, and the sum of squared errors.

    Noise tilts normals, and tilted normals seem to determine motions that are free. It tilts those of the two clouds
    independently, so it cancels out in products of a normal of the one and a normal of the other.

    Args:
        target_normals, source_normals: (N, D).
        errors, points: (N, D) target minus source, and source relative to the centre, both divided by the extent.
        generators: (P, D, D+1), see `icp.generators`.
    """
    signs = np.where(np.einsum("ij,ij->i", target_normals, source_normals) < 0, -1.0, 1.0)
    source_normals = source_normals * signs[:, None]
    velocities = generators[:, :, :-1] @ points.T + generators[:, :, -1:]  # (P, D, N)
    first, second = (np.einsum("nd,pdn->pn", normals, velocities) for normals in (target_normals, source_normals))
    hessian = first @ second.T
    across = np.einsum("ij,ij->i", errors, source_normals)
    return (hessian + hessian.T) / 2, float(across @ across)


def _growth(even: Cloud, points: Floats, normals: Floats, frame: tuple[Floats, float], motion: Floats) -> float:
    """How fast mean squared distances across the surface grow with a motion either way, as the information predicts it.

    Where neighbourhoods lie across an edge and end at the border of the clouds, normals are tilted alike in both and
    seem to determine a motion along the edge. Other points become the nearest there, at the same distance across.

    Args:
        even: the target, of even density.
        points, normals: (N, D) of the source, on the target.
        frame: the centre (D,), and the extent that lengths are divided by.
        motion: (D, D+1), see `icp.generators`.
    """
    centre, extent = frame
    velocities = (points - centre) / extent @ motion[:, :-1].T + motion[:, -1]
    step = _TRIED * even.spacing / extent / (float(np.sqrt(np.mean(np.sum(velocities**2, axis=1)))) or 1.0)

    def across(amount: float) -> tuple[Floats, NDArray[np.bool_]]:
        """Distances across the surface after a motion, and which are not those beyond a border."""
        moved = points + amount * extent * velocities
        turned = normals + amount * normals @ motion[:, :-1].T
        off = even.points[even.nearest(moved)[1]] - moved
        distance = np.einsum("ij,ij->i", off, turned)
        return distance, norms(off - distance[:, None] * turned) < NEAR * even.spacing

    (before, near), *after = map(across, (0.0, step, -step))
    growths = [np.mean(np.where(near & still, moved**2 - before**2, 0.0)) for moved, still in after]
    return float(np.mean(growths)) / (step * extent) ** 2


@dataclass(frozen=True, eq=False)
class RobustNormals:
    """(N, D) normals, how far noise tilts them (squared radians), and how many of them are independent.

    noise: the standard deviation of points across the surface. Distances to nearest points say too little of it: of
    several points, the one whose noise is alike is the nearest.
    """

    normals: Floats
    tilt: float
    number: int
    noise: float


def robust_normals(points: Floats) -> RobustNormals:
    """Normals at (N, D) points of a surface, from neighbourhoods so wide that noise tilts them little.

    A plane fitted to k points with variances l0 < l1 is tilted by about l0 / (k l1). The ratio
    of the variances falls with the size of the neighbourhoods while they are thinner than the noise,
    and rises where they are so large that the surface is curved within them: of three sizes the flattest is taken.
    """
    neighbours = default_neighbours(points.shape[1])
    cloud = Cloud(points, neighbours=neighbours)
    found, coarse = list[tuple[float, float, Floats, Floats]](), cloud
    for count in (1000, 500, 250) if points.shape[1] == 3 else (200, 100, 50):
        if len(coarse) > count:
            coarse = voxel_downsample(coarse, voxel_size_for(coarse, count)[0], neighbours=neighbours)
        rows = coarse.neighbourhoods[1]
        shape = local_shapes(coarse, rows)
        ratio = shape.variances[:, 0] / np.maximum(shape.variances[:, 1], 1e-300)
        number = coarse.counts[rows].sum(axis=1) if len(coarse.counts) else rows.shape[1]
        found.append((float(np.median(ratio)), float(np.median(ratio / number)), coarse.points, shape.axes[:, :, 0]))
    _, tilt, centres, normals = min(found, key=lambda f: f[0])
    _, nearest = Cloud(centres).nearest(points)
    normals = normals[nearest]
    return RobustNormals(normals, tilt, len(centres), _noise_across(cloud, normals))


def _noise_across(cloud: Cloud, normals: Floats) -> float:
    """The standard deviation of points across the surface, from their distances to the mean of their neighbours."""
    rows = np.arange(0, len(cloud), max(1, len(cloud) // _NOISE_POINTS))
    near = cloud.tree.query(cloud.points[rows], min(_NOISE_NEIGHBOURS + 1, len(cloud)))[1][:, 1:]
    off = np.einsum("ij,ij->i", cloud.points[near].mean(axis=1) - cloud.points[rows], normals[rows])
    # The median leaves out edges. The mean of k neighbours has the k-th part of the variance of a point.
    return float(_DEVIATION_OF_MEDIAN * np.median(np.abs(off)) / np.sqrt(1 + 1 / near.shape[1]))
