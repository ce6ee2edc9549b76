"""Point clouds in memory: nearest points, local shape, thinning. Any number of dimensions.

Columns are coordinates in the order given. Distances are in the unit of the points.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from daskreg.kernels.icp_numba import principal, voxel_sums
from daskreg.kernels.threads import spread

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A cloud counts as a surface where its neighbours grow with a power of the radius this much below that of a
# filled volume, and its neighbourhoods' smallest variance is this share of the next (filled: about 0.5).
# Of few points the first says little, of wires the second.
_BETWEEN, _THIN, _THIN_OF_FEW, _FEW = 0.6, 0.6, 0.45, 600
# Below this, starting threads costs more than they save.
_MANY, _LARGE = 40_000, 20_000
# Neighbours of a point that tell where it lies in its cloud.
_AROUND = 20


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points with what matching needs; each part is computed when first asked for.

    Args:
        points: (N, D).
        device: "cpu" searches a k-d tree, a CUDA device compares all pairs in tiles.
        finer: more points of the same, around which the local shape is taken.
    """

    points: Floats
    device: str = "cpu"
    finer: Cloud | None = None

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

    @cached_property
    def tree(self) -> cKDTree:
        # Balancing costs more than it saves where a large tree is asked few questions.
        return cKDTree(self.points, balanced_tree=len(self) < _LARGE, compact_nodes=len(self) < _LARGE)

    @cached_property
    def around(self) -> tuple[Floats, Ints]:
        """Distances and rows of the nearest points of each, itself first."""
        return neighbours(self.tree, self.points, min(_AROUND, len(self)))

    @cached_property
    def spacing(self) -> float:
        """Median distance from a point to its nearest neighbour (at most 2000 points asked)."""
        step = max(1, len(self) // 2000)
        known = self.around if "around" in self.__dict__ else neighbours(self.tree, self.points[::step], 2)
        apart = float(np.median(known[0][:, 1]))
        # Where most points are there twice, the copies do not count.
        return apart or (Cloud(np.unique(self.points, axis=0)).spacing if len(self) > 1 else 0.0)

    @cached_property
    def radius(self) -> float:
        return radius(self.points)

    @cached_property
    def shapes(self) -> tuple[Floats, Floats]:
        """Eigenvalues (N, D), ascending, and eigenvectors (N, D, D) of the neighbourhoods."""
        if self.finer is None:
            return shapes_of(self.points, self.around[1][:, : neighbourhood(self.ndim)])
        # As many of the finer points as cover what the neighbourhood of a coarser one covers, which smooths noise.
        few = neighbourhood(self.ndim)
        count = int(np.clip(few * len(self.finer) / len(self), few, 3 * few))
        return local_shapes(self.points, self.finer.tree, self.finer.points, count)

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

    @property
    def normals(self) -> Floats:
        """(N, D) unit normals, sign arbitrary."""
        return self.shapes[1][:, :, 0]

    def nearest(self, points: Floats) -> tuple[Floats, Ints]:
        """Distance to, and index of, the nearest point of the cloud for each of `points`."""
        if self.device == "cpu":
            distances, indices = self.tree.query(points, workers=workers(len(points)))
            return np.asarray(distances), np.asarray(indices)
        return nearest_in_tiles(self._tensor, points)

    @cached_property
    def _tensor(self) -> Any:
        import torch

        return torch.as_tensor(self.points, dtype=torch.float64, device=self.device)


class Follower:
    """Nearest points of a cloud for points that move little from one time to the next.

    A point is asked for again once it has moved by half of what its nearest is nearer than the
    next: before, the nearest cannot have changed (Nuchter et al., "Cached k-d tree search", 2007).
    """

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.anchors: Floats | None = None

    def __call__(self, points: Floats) -> tuple[Floats, Ints]:
        """As `Cloud.nearest`, for the same rows each time."""
        cloud = self.cloud
        if cloud.device != "cpu" or len(cloud) < 2:
            return cloud.nearest(points)
        if self.anchors is None:
            stale = np.arange(len(points))
            self.anchors, self.slack = points.copy(), np.empty(len(points))
            self.indices = np.empty(len(points), dtype=np.int64)
        else:
            stale = np.flatnonzero(lengths(points - self.anchors) >= self.slack)
        if len(stale):
            found, indices = neighbours(cloud.tree, points[stale], 2)
            self.anchors[stale], self.indices[stale] = points[stale], indices[:, 0]
            self.slack[stale] = (found[:, 1] - found[:, 0]) / 2
        return lengths(points - cloud.points[self.indices]), self.indices.copy()


def lengths(vectors: Floats) -> Floats:
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", vectors, vectors)))


def workers(found: int) -> int:
    """Threads for questions to a tree with `found` answers in all."""
    return -1 if found >= _MANY else 1


def nearest_in_tiles(cloud: Any, points: Floats, *, tile: int = 4096) -> tuple[Floats, Ints]:
    """Nearest points by comparing all pairs, on the device of the tensor `cloud` (N, D)."""
    import torch

    asked = torch.as_tensor(np.ascontiguousarray(points), dtype=cloud.dtype, device=cloud.device)
    # The exact mode: the product form loses half of the digits where points nearly meet.
    found = [
        torch.cdist(part, cloud, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1) for part in asked.split(tile)
    ]
    distances = torch.cat([f.values for f in found]).cpu().numpy()
    return distances, torch.cat([f.indices for f in found]).cpu().numpy()


def in_shares(function: Callable[[int, int], Any], count: int) -> None:
    """Call compiled `function(first, stop)` on shares of `count` rows, in a small pool."""
    threads = min(cores(), count)
    bounds = [count * k // threads for k in range(threads + 1)] if threads else []
    spread(max(threads, 1), lambda b: function(*b), list(pairwise(bounds)))


@cache
def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core(points: Floats, *, reach: float = 8.0) -> Floats:
    """The points that are not further out than `reach` median distances from the median point."""
    some = points[:: max(1, len(points) // 10_000)]
    middle = np.median(some, axis=0)
    limit = reach * float(np.median(lengths(some - middle)))
    return np.asarray(points[lengths(points - middle) <= limit]) if limit > 0 else points  # 0: most are one point


def radius(points: Floats) -> float:
    """Root mean square distance from the centroid, of the core: one stray point must not tell."""
    return float(np.sqrt(np.sum(np.var(core(points), axis=0))))


def neighbourhood(ndim: int) -> int:
    """How many points, itself included, make the neighbourhood of a point."""
    return 8 if ndim == 2 else 14


def neighbours(tree: cKDTree, asked: Floats, count: int) -> tuple[Floats, Ints]:
    """(N, count) distances and rows of the nearest, one row for each of `asked`."""
    distances, indices = tree.query(asked, k=[*range(1, count + 1)], workers=workers(count * len(asked)))
    return np.asarray(distances), np.asarray(indices, dtype=np.int64)


def local_shapes(asked: Floats, tree: cKDTree, points: Floats, count: int = 0) -> tuple[Floats, Floats]:
    """Variances (N, D), ascending, and principal axes (N, D, D; columns) of the nearest `points` around `asked`.

    `count`: of neighbours, by default those of `neighbourhood`.
    """
    ndim = points.shape[1]
    k = min(count or neighbourhood(ndim), len(points))
    return shapes_of(points, neighbours(tree, asked, k)[1])


def shapes_of(points: Floats, indices: Ints) -> tuple[Floats, Floats]:
    """Variances, ascending, and principal axes of the points in each row of `indices`."""
    number, ndim = len(indices), points.shape[1]
    values, vectors = np.empty((number, ndim)), np.empty((number, ndim, ndim))
    in_shares(lambda a, b: principal(points, indices[a:b], values[a:b], vectors[a:b]), number)
    return values, vectors


def voxel_means(points: Floats, size: float) -> Floats:
    """The mean of the points in each occupied cube of side `size`."""
    sums, counts = np.zeros(points.shape), np.zeros(len(points))
    number = voxel_sums(points, points.min(axis=0), size, sums, counts)
    return np.asarray(sums[:number] / counts[:number, None])


@dataclass(frozen=True, eq=False)
class Cells:
    """Occupied cubes of a grid, so that clouds can be thinned in parts: (N, D) cells and sums, (N,) counts.

    The side of a cube is `size` times two to the power of `level`.
    """

    cells: Ints
    sums: Floats
    counts: Floats
    level: int = 0

    @classmethod
    def of(cls, points: Floats, low: Floats, size: float, most: int) -> Cells:
        """At most `most` cubes with the points; `low` is a corner of the grid."""
        cells = np.floor((points - low) / size).astype(np.int64)
        return cls(cells, points, np.ones(len(points)))._grouped(most)

    @classmethod
    def merged(cls, parts: Sequence[Cells], most: int) -> Cells:
        level = max(part.level for part in parts)
        joined = zip(*[(p.cells >> (level - p.level), p.sums, p.counts) for p in parts], strict=True)
        cells, sums, counts = (np.concatenate(arrays) for arrays in joined)
        return cls(cells, sums, counts, level)._grouped(most)

    @property
    def means(self) -> Floats:
        return np.asarray(self.sums / self.counts[:, None])

    def _grouped(self, most: int) -> Cells:
        """One row for each cube; while there are more than `most`, cubes of twice the side."""
        cells, level = self.cells, self.level
        while True:
            # Rows in one number each: 20 bits along an axis are more than the grid ever has.
            keys = cells @ (1 << 20) ** np.arange(cells.shape[1])
            unique, first, rows = np.unique(keys, return_index=True, return_inverse=True)
            if len(unique) <= most:
                break
            cells, level = cells >> 1, level + 1
        sums = np.stack([np.bincount(rows, column, minlength=len(unique)) for column in self.sums.T], axis=1)
        counts = np.bincount(rows, self.counts, minlength=len(unique))
        return Cells(cells[first], np.asarray(sums, np.float64), np.asarray(counts, np.float64), level)


def voxel_size_for(points: Floats, count: int) -> float:
    """A side of cubes that leaves about `count` of the points.

    The number of occupied cubes goes as a power of their side between 1 (a line) and D (a
    volume); the power is learned on the way (secant steps on logarithms).
    """
    low, none = points.min(axis=0), np.zeros((0, points.shape[1]))
    extent = float(np.max(np.ptp(points, axis=0)))
    size, power = extent / np.sqrt(count), 2.0
    left = voxel_sums(points, low, size, none, none[:, 0])
    for _ in range(6):
        if 0.9 * count <= left <= 1.1 * count:
            break
        step = (left / count) ** (1 / power)
        size = max(size * step, extent * 2.0**-40)  # cells are counted in 64 bits
        before, left = left, voxel_sums(points, low, size, none, none[:, 0])
        power = float(np.clip(np.log(before / left) / np.log(step), 0.5, points.shape[1]))
    return float(size)


def thin(points: Floats, count: int, how: Literal["voxels", "sample"], seed: int = 0) -> Floats:
    """About `count` of the points: means of cubes (without strays), or a random sample of the rows."""
    if len(points) <= count:
        return points
    if how == "voxels":
        inner = core(points, reach=100.0)
        return voxel_means(inner, voxel_size_for(core(points), count))
    return points[np.random.default_rng(seed).choice(len(points), count, replace=False)]


def is_surface(points: Floats) -> bool:
    """Whether a cloud is locally a surface (in 2D, a curve), not filled: a wire counts as a surface too.

    Two measures at a scale above noise: neighbours grow with the square of the radius, not the cube,
    and neighbourhoods are thinner across than along. Density is evened out first, since
    scanners sample along lines.
    """
    even = thin(thin(points, 100_000, "sample"), 1400, "voxels")
    count = int(np.clip(len(even) // 10, 12, 32))
    if len(even) < 3 * neighbourhood(points.shape[1]):
        return False
    distances, indices = neighbours(cKDTree(even), even, count + 1)
    growth = np.log(4) / np.log(np.maximum(distances[:, -1] / np.maximum(distances[:, count // 4], 1e-300), 1 + 1e-9))
    values, _ = shapes_of(even, indices[:, : neighbourhood(points.shape[1])])
    thinness = np.median(values[:, 0] / np.maximum(values[:, 1], 1e-300))
    return bool(
        np.median(growth) < points.shape[1] - _BETWEEN and thinness < (_THIN_OF_FEW if len(even) < _FEW else _THIN)
    )
