"""One point cloud in memory, with what registration asks of it: nearest points, normals, spacing, roughness.

Any number of dimensions. Columns are coordinates in the order of the inputs. Distances are in the unit of the points.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.clouds.brute_force import nearest_brute_force, on_device
from daskreg.clouds.cloud_numba import principal_axes
from daskreg.clouds.kdtree import KDTree
from daskreg.runtime.lazy import Lazy
from daskreg.runtime.threads import shares

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Points nearer than this many spacings count as near.
NEAR = 2.5
# Points from which the centre of a cloud is estimated, and its radius.
_CENTRE_SAMPLE, _RADIUS_SAMPLE = 10_000, 2000


@dataclass(frozen=True, eq=False)
class LocalShape:
    """Of neighbourhoods: variances (N, D), ascending, principal axes (N, D, D; columns) and means (N, D)."""

    variances: Floats
    axes: Floats
    means: Floats


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points, and what is derived from them; each derived part is computed when it is first asked for.

    Args:
        points: (N, D).
        device: "cpu" searches a k-d tree, a CUDA device compares all pairs in tiles.
        counts, covariances: (N,) how many measured points each point is the mean of, and their (N, D, D) covariances;
            no rows where the points are measured themselves.
        neighbours: how many points, itself included, make the neighbourhood of each point (0: `default_neighbours`).
    """

    points: Floats
    device: str = "cpu"
    counts: Floats = field(default_factory=lambda: np.zeros(0))
    covariances: Floats = field(default_factory=lambda: np.zeros((0, 0, 0)))
    neighbours: int = 0
    _tree: Lazy[KDTree] = field(default_factory=Lazy, repr=False)
    _neighbourhoods: Lazy[tuple[Floats, Ints]] = field(default_factory=Lazy, repr=False)
    _local_shape: Lazy[LocalShape] = field(default_factory=Lazy, repr=False)
    _normals: Lazy[Floats] = field(default_factory=Lazy, repr=False)
    _spacing: Lazy[float] = field(default_factory=Lazy, repr=False)
    _radius: Lazy[float] = field(default_factory=Lazy, repr=False)
    _roughness: Lazy[float] = field(default_factory=Lazy, repr=False)
    _on_device: Lazy[Any] = field(default_factory=Lazy, repr=False)

    @property
    def ndim(self) -> int:
        return int(self.points.shape[1])

    def __len__(self) -> int:
        return len(self.points)

    @property
    def tree(self) -> KDTree:
        return self._tree.get(lambda: KDTree.of(self.points))

    @property
    def neighbourhoods(self) -> tuple[Floats, Ints]:
        """Distances and rows (N, K) of the points in the neighbourhood of each point, itself first."""
        count = self.neighbours or default_neighbours(self.ndim)
        return self._neighbourhoods.get(lambda: self.tree.query_self(min(count, len(self))))

    @property
    def local_shape(self) -> LocalShape:
        """Of the neighbourhood of each point; a point that is a mean counts with all points that it stands for."""
        return self._local_shape.get(lambda: local_shapes(self, self.neighbourhoods[1]))

    @property
    def normals(self) -> Floats:
        """(N, D) unit normals of either sign: the axes of the smallest variance."""
        return self._normals.get(lambda: np.ascontiguousarray(self.local_shape.axes[:, :, 0]))

    @property
    def spacing(self) -> float:
        """Median distance from a point to its nearest neighbour.

        Of all points where the neighbourhoods are known already, else of at most about 2000 of them.
        """
        return self._spacing.get(self._median_spacing)

    def _median_spacing(self) -> float:
        step = max(1, len(self) // 2000)
        known = self._neighbourhoods.known
        distances = (self.neighbourhoods if known else self.tree.query(self.points[::step], min(2, len(self))))[0]
        median = float(np.median(distances[:, 1]))
        # Where most points are there twice, duplicates do not count.
        return median or (Cloud(np.unique(self.points, axis=0)).spacing if len(self) > 1 else 0.0)

    @property
    def radius(self) -> float:
        return self._radius.get(lambda: robust_radius(self.points))

    @property
    def roughness(self) -> float:
        """Root mean square distance of points across the surface of their nearest neighbours."""
        return self._roughness.get(self._distance_across)

    def _distance_across(self) -> float:
        distances, other = (part[:, 1] for part in self.neighbourhoods)
        across = np.einsum("ij,ij->i", self.points - self.points[other], self.normals[other])
        near = distances < NEAR * self.spacing
        return float(np.sqrt(np.mean(across[near] ** 2))) if near.any() else 0.0

    def in_leaf_order(self) -> Cloud:
        """The same points in the order of the tree's leaves, so that points of consecutive rows are near each other."""
        tree, order = self.tree, self.tree.order
        counts, covariances = (part[order] if len(part) else part for part in (self.counts, self.covariances))
        points = np.ascontiguousarray(tree.points[:, : self.ndim])
        return Cloud(points, self.device, counts, covariances, self.neighbours, _tree=Lazy(tree.sorted()))

    def with_normals_of(self, other: Cloud) -> Cloud:
        """The same points; the normal of each is that of the nearest point of another cloud."""
        tree = Lazy(self.tree)
        _, rows = other.nearest(self.points)
        normals = Lazy(other.normals[rows])
        return Cloud(
            self.points, self.device, self.counts, self.covariances, self.neighbours, _tree=tree, _normals=normals
        )

    def subsample(self, count: int) -> Cloud:
        """About `count` of the points, evenly from among the rows, with their normals."""
        rows = slice(None, None, max(1, len(self) // count))
        return Cloud(self.points[rows], self.device, _normals=Lazy(np.ascontiguousarray(self.normals[rows])))

    def scaled(self, scale: float) -> Cloud:
        """The points times `scale`, with the same normals."""
        if scale == 1.0:
            return self
        return Cloud(scale * self.points, self.device, _normals=Lazy(self.normals))

    def moved_onto_planes(self) -> Cloud:
        """The points projected onto the plane through the neighbourhood of each, with the normals of these planes.

        Noise across the surface falls with the root of the number of neighbours (a step of moving least squares).
        """
        shape = self.local_shape
        normals = shape.axes[:, :, 0]
        off = np.einsum("ij,ij->i", self.points - shape.means, normals)
        projected = self.points - off[:, None] * normals
        return Cloud(projected, self.device, _normals=Lazy(np.ascontiguousarray(normals)))

    def nearest(self, points: Floats) -> tuple[Floats, Ints]:
        """Distance to, and row of, the nearest point of the cloud for each of `points`."""
        if self.device == "cpu":
            distances, rows = self.tree.query(points, 1)
            return distances[:, 0], rows[:, 0]
        return nearest_brute_force(self.on_device, points)

    @property
    def on_device(self) -> Any:
        """The points as a tensor on the device; it stays there from one search to the next."""
        return self._on_device.get(lambda: on_device(self.points, self.device))


def local_shapes(cloud: Cloud, rows: Ints) -> LocalShape:
    """The local shape of the points of a cloud in each row of `rows` (N, K)."""
    number, ndim = len(rows), cloud.ndim
    shape = LocalShape(np.empty((number, ndim)), np.empty((number, ndim, ndim)), np.empty((number, ndim)))

    def part(a: int, b: int) -> None:
        out = shape.variances[a:b], shape.axes[a:b], shape.means[a:b]
        principal_axes(cloud.points, cloud.counts, cloud.covariances, rows[a:b], *out)

    shares(part, number)
    return shape


def default_neighbours(ndim: int) -> int:
    """How many points, itself included, make the neighbourhood of a point."""
    return 8 if ndim == 2 else 14


def norms(vectors: Floats) -> Floats:
    """(N,) lengths of (N, D) vectors."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", vectors, vectors)))


def every_nth(points: Floats, count: int = _CENTRE_SAMPLE) -> Floats:
    """About `count` of the points (N, D) or more, evenly from among the rows."""
    return points[:: max(1, len(points) // count)]


def without_far_points(points: Floats, *, limit: float = 8.0) -> Floats:
    """The points that are within `limit` median distances of the median point."""
    sample = every_nth(points)
    centre = np.median(sample, axis=0)
    radius = limit * float(np.median(norms(sample - centre)))
    if not radius > 0:  # most points are at one place
        return points
    inside = norms(points - centre) <= radius
    return points if inside.all() else np.asarray(points[inside])


def robust_radius(points: Floats) -> float:
    """Root mean square distance from the centroid, without far points, so that one outlier does not change it."""
    return float(np.sqrt(np.sum(np.var(without_far_points(every_nth(points, _RADIUS_SAMPLE)), axis=0))))
