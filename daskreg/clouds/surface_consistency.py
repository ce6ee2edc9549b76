"""How two samples of a surface agree under a motion: what tells a right pose from one that is only snug.

Near points alone do not: a plane lies on any other plane. Three things are looked at, from
either side, each against what the clouds show of themselves:

- how much of a cloud has the other near it;
- strain: the distances across the other's surface, against those of a cloud's own points
  across the surface of their neighbours, which noise and curvature make;
- conflicts: points a little off the other cloud, though it goes on all around that place. Where
  the other ends, it was not seen further; where it goes on, it should have met.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from daskreg.clouds.cloud import Cloud, Floats, Ints, lengths
from daskreg.clouds.icp import apply

# In spacings: what is near, and the distances between which a point conflicts.
NEAR, _OFF, _FAR = 2.5, 3.0, 10.0
# A point belongs to the rim of its cloud where its neighbours' middle is this share of their radius away.
_RIM = 0.25
# Share of the distance from a curve that is across it.
_BESIDE = 0.7
# So many of them, itself included.
_AROUND = 20
# At most so many points are asked on either side.
_ASKED = 6000
# What a conflict costs, in inliers.
_COST = 4.0


@dataclass(frozen=True)
class Agreement:
    """Means of both sides.

    Attributes:
        inliers: share of the points that have the other cloud near.
        strain: 1 where the clouds are as far across each other as across themselves.
        conflicts: points that should have met the other cloud, as a share of the inliers.
    """

    inliers: float
    strain: float
    conflicts: float

    @property
    def score(self) -> float:
        """About the share of inliers where all is well."""
        if not np.isfinite(self.strain):  # one has nothing near the other
            return -_COST
        return self.inliers * (1.5 - 0.5 * max(self.strain, 0.9) ** 2) - _COST * self.conflicts

    def within(self, *, strain: float, conflicts: float) -> bool:
        return self.strain <= strain and self.conflicts <= conflicts


def agreement(target: Cloud, source: Cloud, matrix: Floats) -> Agreement:
    """Of two surfaces thinned alike, with `matrix` (D+1, D+1) from source to target."""
    scale = abs(float(np.linalg.det(matrix[:-1, :-1]))) ** (1 / target.ndim)
    spacing = max(target.spacing, scale * source.spacing)
    own = np.hypot(roughness(target), scale * roughness(source)) / np.sqrt(2)
    forth = _one_side(target, apply(matrix, _some(source)), spacing)
    back = _one_side(source, apply(np.asarray(np.linalg.inv(matrix)), _some(target)), spacing / scale)
    across = np.hypot(forth[1], scale * back[1]) / np.sqrt(2)
    floor = 1e-6 * target.radius
    return Agreement((forth[0] + back[0]) / 2, float((across + floor) / (own + floor)), (forth[2] + back[2]) / 2)


def _some(cloud: Cloud) -> Floats:
    """Points enough for shares and means, evenly from among the rows."""
    return cloud.points[:: max(1, -(-len(cloud) // _ASKED))]


def _one_side(cloud: Cloud, points: Floats, spacing: float) -> tuple[float, float, float]:
    """Share of inliers, root mean square distance across, and conflicts of `points` with the cloud."""
    distances, indices = cloud.nearest(points)
    inside = distances < NEAR * spacing
    number = np.count_nonzero(inside)
    if not number:
        return 0.0, np.inf, 1.0
    rows = indices[inside]
    across = np.einsum("ij,ij->i", points[inside] - cloud.points[rows], cloud.normals[rows])
    off = (distances > _OFF * spacing) & (distances < _FAR * spacing)
    if cloud.ndim == 2:  # gaps along a curve are as wide as that
        beside = np.einsum("ij,ij->i", points - cloud.points[indices], cloud.normals[indices])
        off &= np.abs(beside) > _BESIDE * distances
    conflicts = np.count_nonzero(rims(cloud, indices[off]) < _RIM)
    return number / len(points), float(np.sqrt(np.mean(across**2))), float(conflicts / number)


def roughness(cloud: Cloud) -> float:
    """Root mean square distance of points across the surface of their nearest neighbours."""
    return float(cloud.kept("roughness", _roughness))


def _roughness(cloud: Cloud) -> float:
    distances, other = (part[:, 1] for part in cloud.around)
    across = np.einsum("ij,ij->i", cloud.points - cloud.points[other], cloud.normals[other])
    near = distances < NEAR * cloud.spacing
    return float(np.sqrt(np.mean(across[near] ** 2))) if near.any() else 0.0


def rims(cloud: Cloud, rows: Ints) -> Floats:
    """How far to one side the neighbours of points lie, along the surface, in their radii."""
    distances, indices = (part[rows, :_AROUND] for part in cloud.around)
    if distances.shape[1] < min(_AROUND, len(cloud)):
        distances, indices = cloud.tree.query(cloud.points[rows], min(_AROUND, len(cloud)))
    middle, normals = cloud.points[indices].mean(axis=1) - cloud.points[rows], cloud.normals[rows]
    along = middle - np.einsum("ij,ij->i", middle, normals)[:, None] * normals
    return np.asarray(lengths(along) / np.maximum(distances[:, -1], 1e-300))
