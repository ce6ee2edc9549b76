"""Point clouds in memory: nearest points and local shape. Any number of dimensions.

Columns are coordinates in the order given. Distances are in the unit of the points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.clouds.cloud_numba import followed, principal
from daskreg.clouds.kdtree import KDTree
from daskreg.runtime.cached import lazy
from daskreg.runtime.threads import shares

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Nearest points that are remembered where points are followed.
_FOLLOWED = 4
# Points that tell the middle of a cloud, and its radius.
_SOME, _FEW = 10_000, 2000


@dataclass(frozen=True, eq=False)
class Planes:
    """Neighbourhoods: variances (N, D), ascending, axes (N, D, D; columns) and means (N, D)."""

    values: Floats
    vectors: Floats
    means: Floats


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points with what matching needs; each part is computed when first asked for.

    Args:
        points: (N, D).
        device: "cpu" searches a k-d tree, a CUDA device compares all pairs in tiles.
        counts, spreads: (N,) how many measured points each stands for, and their (N, D, D) covariances; no rows
            where points are measured themselves.
        near: neighbours, itself included, that make the local shape (0: `neighbourhood`).
    """

    points: Floats
    device: str = "cpu"
    counts: Floats = field(default_factory=lambda: np.zeros(0))
    spreads: Floats = field(default_factory=lambda: np.zeros((0, 0, 0)))
    near: int = 0

    @property
    def ndim(self) -> int:
        return int(self.points.shape[1])

    def __len__(self) -> int:
        return len(self.points)

    def kept(self, name: str, function: Callable[[Cloud], Any]) -> Any:
        """`function` of the cloud, computed once."""
        if name not in self.__dict__:
            self.__dict__[name] = function(self)
        return self.__dict__[name]

    @lazy
    def tree(self) -> KDTree:
        return KDTree.of(self.points)

    def in_order(self) -> Cloud:
        """The same points in the order of the tree's leaves: what is asked for one after the other lies near."""
        tree, order = self.tree, self.tree.order
        counts, spreads = (part[order] if len(part) else part for part in (self.counts, self.spreads))
        points = np.ascontiguousarray(tree.points[:, : self.ndim])
        sorted_ = Cloud(points, self.device, counts, spreads, self.near)
        sorted_.__dict__["tree"] = tree.sorted()
        return sorted_

    @lazy
    def around(self) -> tuple[Floats, Ints]:
        """Distances and rows of the points that make the local shape of each, itself first."""
        return self.tree.query_self(min(self.near or neighbourhood(self.ndim), len(self)))

    @lazy
    def spacing(self) -> float:
        """Median distance from a point to its nearest neighbour (at most 2000 points asked)."""
        step = max(1, len(self) // 2000)
        known = self.around if "around" in self.__dict__ else self.tree.query(self.points[::step], min(2, len(self)))
        apart = float(np.median(known[0][:, 1]))
        # Where most points are there twice, the copies do not count.
        return apart or (Cloud(np.unique(self.points, axis=0)).spacing if len(self) > 1 else 0.0)

    def like(self, other: Cloud) -> Cloud:
        """The same points with the local shapes of the nearest of another's."""
        alike = Cloud(self.points, self.device, self.counts, self.spreads, self.near)
        alike.__dict__["tree"] = self.tree
        _, rows = other.nearest(self.points)
        alike.__dict__["shapes"] = tuple(part[rows] for part in other.shapes)
        return alike

    @lazy
    def radius(self) -> float:
        return radius(self.points)

    @lazy
    def shapes(self) -> tuple[Floats, Floats]:
        """Eigenvalues (N, D), ascending, and eigenvectors (N, D, D) of the neighbourhoods."""
        return self.planes.values, self.planes.vectors

    @lazy
    def planes(self) -> Planes:
        """Through the neighbourhood of each point, of all that its points stand for."""
        return planes_of(self, self.around[1])

    def part(self, count: int) -> Cloud:
        """About `count` of the points, evenly from among the rows, with their normals."""
        rows = slice(None, None, max(1, len(self) // count))
        some = Cloud(self.points[rows], self.device)
        if "shapes" in self.__dict__:
            some.__dict__["shapes"] = tuple(part[rows] for part in self.shapes)
        return some

    def scaled(self, scale: float) -> Cloud:
        if scale == 1.0:
            return self
        larger = Cloud(scale * self.points, self.device)
        larger.__dict__["shapes"] = (scale**2 * self.shapes[0], self.shapes[1])
        return larger

    @lazy
    def normals(self) -> Floats:
        """(N, D) unit normals, sign arbitrary."""
        return np.ascontiguousarray(self.shapes[1][:, :, 0])

    def nearest(self, points: Floats) -> tuple[Floats, Ints]:
        """Distance to, and index of, the nearest point of the cloud for each of `points`."""
        if self.device == "cpu":
            distances, indices = self.tree.query(points, 1)
            return distances[:, 0], indices[:, 0]
        return nearest_in_tiles(self._tensor, points)

    @lazy
    def _tensor(self) -> Any:
        import torch

        # Columns side by side; it stays there from one round to the next.
        return torch.as_tensor(np.ascontiguousarray(self.points.T), dtype=torch.float64, device=self.device).T


class Follower:
    """Nearest points of a cloud for points that move little from one time to the next.

    Of the few nearest from the last time that a point was asked for, one still is the nearest as long as it is
    nearer than the last of them can have become (after Nuchter et al., "Cached k-d tree search", 2007).
    """

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.anchors: Floats | None = None

    def __call__(self, points: Floats) -> tuple[Floats, Ints]:
        """As `Cloud.nearest`, for the same rows each time."""
        cloud = self.cloud
        if cloud.device != "cpu" or len(cloud) <= _FOLLOWED:
            return cloud.nearest(points)
        if self.anchors is None:
            self.anchors = points.copy()
            self.around = cloud.tree.query(points, _FOLLOWED)
            distances, indices = self.around
            return distances[:, 0].copy(), indices[:, 0].copy()
        distances, indices = np.empty(len(points)), np.empty(len(points), dtype=np.int64)
        moved = np.empty(len(points), dtype=np.bool_)
        followed(points, self.anchors, *self.around, cloud.points, indices, distances, moved)
        stale = np.flatnonzero(moved)
        if len(stale):
            found, rows = cloud.tree.query(points[stale], _FOLLOWED)
            self.anchors[stale], self.around[0][stale], self.around[1][stale] = points[stale], found, rows
            distances[stale], indices[stale] = found[:, 0], rows[:, 0]
        return distances, indices


def lengths(vectors: Floats) -> Floats:
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", vectors, vectors)))


def nearest_in_tiles(cloud: Any, points: Floats, *, tile: int = 4096) -> tuple[Floats, Ints]:
    """Nearest points by comparing all pairs, on the device of the tensor `cloud` (N, D)."""
    import torch

    from daskreg.clouds import brute_force_triton

    asked = torch.as_tensor(np.ascontiguousarray(points), dtype=cloud.dtype, device=cloud.device)
    if brute_force_triton.ready(cloud.device):
        squared, rows = brute_force_triton.nearest(cloud, asked)
        both = torch.stack([squared, rows.double()]).cpu().numpy()  # home in one go
        return np.sqrt(both[0]), both[1].astype(np.int64)
    # The exact mode: the product form loses half of the digits where points nearly meet.
    found = [
        torch.cdist(part, cloud, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1) for part in asked.split(tile)
    ]
    distances = torch.cat([f.values for f in found]).cpu().numpy()
    return distances, torch.cat([f.indices for f in found]).cpu().numpy()


def some_of(points: Floats, count: int = _SOME) -> Floats:
    """About `count` of the points (N, D) or more, evenly from among the rows."""
    return points[:: max(1, len(points) // count)]


def core(points: Floats, *, reach: float = 8.0) -> Floats:
    """The points that are not further out than `reach` median distances from the median point."""
    some = some_of(points)
    middle = np.median(some, axis=0)
    limit = reach * float(np.median(lengths(some - middle)))
    if not limit > 0:  # most are one point
        return points
    inside = lengths(points - middle) <= limit
    return points if inside.all() else np.asarray(points[inside])


def radius(points: Floats) -> float:
    """Root mean square distance from the centroid, of the core: one stray point must not tell."""
    return float(np.sqrt(np.sum(np.var(core(some_of(points, _FEW)), axis=0))))


def neighbourhood(ndim: int) -> int:
    """How many points, itself included, make the neighbourhood of a point."""
    return 8 if ndim == 2 else 14


def planes_of(cloud: Cloud, indices: Ints) -> Planes:
    """The planes through the points of a cloud in each row of `indices`."""
    number, ndim = len(indices), cloud.ndim
    found = Planes(np.empty((number, ndim)), np.empty((number, ndim, ndim)), np.empty((number, ndim)))
    inside = cloud.points, cloud.counts, cloud.spreads

    def part(a: int, b: int) -> None:
        principal(*inside, indices[a:b], found.values[a:b], found.vectors[a:b], found.means[a:b])

    shares(part, number)
    return found
