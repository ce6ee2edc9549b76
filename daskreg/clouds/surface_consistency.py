"""How consistent two samples of a surface are under a motion, which tells a right pose from one with near points only.

Near points alone do not show that a pose is right: a plane lies on any other plane. Three measures are taken from
either side, each relative to what the clouds show of themselves:

- inliers: how much of a cloud has the other cloud near it;
- residual ratio: the distances across the other cloud's surface, divided by those of a cloud's own points
  across the surface of their neighbours, which noise and curvature cause;
- conflicts: points at a small distance from the other cloud, in a place that its points surround. Where the other
  cloud ends, the surface was not measured further. Where it continues, the point should lie on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from daskreg.clouds.cloud import NEAR, Cloud, Floats, Ints, norms
from daskreg.clouds.icp import transform_points

# In spacings: the distances between which a point may conflict.
_OFF, _FAR = 3.0, 10.0
# A point is at the boundary of its cloud where the mean of its neighbours is this share of their radius away.
_BOUNDARY = 0.25
# Neighbours that this is measured with, the point itself included.
_BOUNDARY_NEIGHBOURS = 20
# A point conflicts with a curve only where this share of its distance is across the curve.
_ACROSS = 0.7
# At most about so many points are tested on either side.
_TESTED = 6000
# What a conflict costs in the score, in inliers.
_COST = 4.0


@dataclass(frozen=True)
class ConsistencyLimits:
    """The largest residual ratio and the largest share of conflicts of surfaces that are taken as consistent."""

    residual_ratio: float
    conflicts: float


@dataclass(frozen=True)
class SurfaceConsistency:
    """Means of both sides.

    Attributes:
        inliers: share of the points that have the other cloud near.
        residual_ratio: 1 where the clouds are as far across each other as across themselves.
        conflicts: points that should have met the other cloud, as a share of the inliers.
    """

    inliers: float
    residual_ratio: float
    conflicts: float

    @property
    def score(self) -> float:
        """About the share of inliers where the surfaces are consistent; less where they are not."""
        if not np.isfinite(self.residual_ratio):  # one cloud has no point near the other
            return -_COST
        return self.inliers * (1.5 - 0.5 * max(self.residual_ratio, 0.9) ** 2) - _COST * self.conflicts

    def within(self, limits: ConsistencyLimits) -> bool:
        return self.residual_ratio <= limits.residual_ratio and self.conflicts <= limits.conflicts


def surface_consistency(target: Cloud, source: Cloud, matrix: Floats) -> SurfaceConsistency:
    """Of two surfaces downsampled alike, under `matrix` (D+1, D+1), target from source."""
    scale = abs(float(np.linalg.det(matrix[:-1, :-1]))) ** (1 / target.ndim)
    spacing = max(target.spacing, scale * source.spacing)
    own = np.hypot(target.roughness, scale * source.roughness) / np.sqrt(2)
    forward = _one_side(target, transform_points(matrix, _sample(source)), spacing)
    back = _one_side(source, transform_points(np.asarray(np.linalg.inv(matrix)), _sample(target)), spacing / scale)
    across = np.hypot(forward[1], scale * back[1]) / np.sqrt(2)
    floor = 1e-6 * target.radius
    ratio = float((across + floor) / (own + floor))
    return SurfaceConsistency((forward[0] + back[0]) / 2, ratio, (forward[2] + back[2]) / 2)


def _sample(cloud: Cloud) -> Floats:
    """Points enough for shares and means, evenly from among the rows."""
    return cloud.points[:: max(1, -(-len(cloud) // _TESTED))]


def _one_side(cloud: Cloud, points: Floats, spacing: float) -> tuple[float, float, float]:
    """Share of inliers, root mean square distance across, and conflicts of `points` with the cloud."""
    distances, rows = cloud.nearest(points)
    inside = distances < NEAR * spacing
    number = np.count_nonzero(inside)
    if not number:
        return 0.0, np.inf, 1.0
    near = rows[inside]
    across = np.einsum("ij,ij->i", points[inside] - cloud.points[near], cloud.normals[near])
    off = (distances > _OFF * spacing) & (distances < _FAR * spacing)
    if cloud.ndim == 2:  # gaps along a curve are as wide as these distances
        beside = np.einsum("ij,ij->i", points - cloud.points[rows], cloud.normals[rows])
        off &= np.abs(beside) > _ACROSS * distances
    conflicts = np.count_nonzero(boundary_offsets(cloud, rows[off]) < _BOUNDARY)
    return number / len(points), float(np.sqrt(np.mean(across**2))), float(conflicts / number)


def boundary_offsets(cloud: Cloud, rows: Ints) -> Floats:
    """Distance of each of `rows` from the mean of its neighbours, along the surface, in radii of the neighbourhood."""
    distances, near = (part[rows, :_BOUNDARY_NEIGHBOURS] for part in cloud.neighbourhoods)
    count = min(_BOUNDARY_NEIGHBOURS, len(cloud))
    if distances.shape[1] < count:
        distances, near = cloud.tree.query(cloud.points[rows], count)
    offsets, normals = cloud.points[near].mean(axis=1) - cloud.points[rows], cloud.normals[rows]
    along = offsets - np.einsum("ij,ij->i", offsets, normals)[:, None] * normals
    return np.asarray(norms(along) / np.maximum(distances[:, -1], 1e-300))
