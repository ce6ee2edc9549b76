"""Point clouds in memory: nearest points, local shape, thinning. Any number of dimensions.

Columns are coordinates in the order given. Distances are in the unit of the points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Smallest over next variance of neighbourhoods, below which a cloud counts as a surface (a
# cloud that fills a volume: about 0.5).
SURFACE = 0.3
# Below this, starting threads costs more than they save.
_MANY = 20_000


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points with what matching needs; each part is computed when first asked for.

    Args:
        points: (N, D).
        device: "cpu" searches a k-d tree, a CUDA device compares all pairs in tiles.
    """

    points: Floats
    device: str = "cpu"

    @property
    def ndim(self) -> int:
        return int(self.points.shape[1])

    def __len__(self) -> int:
        return len(self.points)

    @cached_property
    def tree(self) -> cKDTree:
        return cKDTree(self.points)

    @cached_property
    def spacing(self) -> float:
        """Median distance from a point to its nearest neighbour (at most 2000 points asked)."""
        asked = self.points[:: max(1, len(self) // 2000)]
        distances, _ = self.tree.query(asked, k=2)
        apart = float(np.median(np.asarray(distances)[:, 1]))
        # Where most points are there twice, the copies do not count.
        return apart or (Cloud(np.unique(self.points, axis=0)).spacing if len(self) > 1 else 0.0)

    @cached_property
    def radius(self) -> float:
        return radius(self.points)

    @cached_property
    def shapes(self) -> tuple[Floats, Floats]:
        """Eigenvalues (N, D), ascending, and eigenvectors (N, D, D) of the neighbourhoods."""
        return local_shapes(self.points, self.tree, self.points)

    @property
    def normals(self) -> Floats:
        """(N, D) unit normals, sign arbitrary."""
        return self.shapes[1][:, :, 0]

    def nearest(self, points: Floats) -> tuple[Floats, Ints]:
        """Distance to, and index of, the nearest point of the cloud for each of `points`."""
        if self.device == "cpu":
            distances, indices = self.tree.query(points, workers=-1 if len(points) >= _MANY else 1)
            return np.asarray(distances), np.asarray(indices)
        return nearest_in_tiles(self._tensor, points)

    @cached_property
    def _tensor(self) -> Any:
        import torch

        return torch.as_tensor(self.points, dtype=torch.float64, device=self.device)


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


def core(points: Floats, *, reach: float = 8.0) -> Floats:
    """The points that are not further out than `reach` median distances from the median point."""
    distances = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    limit = reach * float(np.median(distances))
    return np.asarray(points[distances <= limit]) if limit > 0 else points  # 0: most are one point


def radius(points: Floats) -> float:
    """Root mean square distance from the centroid, of the core: one stray point must not tell."""
    return float(np.sqrt(np.sum(np.var(core(points), axis=0))))


def neighbourhood(ndim: int) -> int:
    """How many points, itself included, make the neighbourhood of a point."""
    return 8 if ndim == 2 else 14


def local_shapes(asked: Floats, tree: cKDTree, points: Floats) -> tuple[Floats, Floats]:
    """Principal axes of the nearest `points` around each of `asked`, smallest variance first."""
    k = min(neighbourhood(points.shape[1]), len(points))
    _, indices = tree.query(asked, k=k, workers=-1 if len(asked) >= _MANY // 4 else 1)
    around = points[indices]
    around = around - around.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.swapaxes(around, 1, 2) @ around / k)
    return np.maximum(values, 0.0), vectors


def voxel_means(points: Floats, size: float) -> Floats:
    """The mean of the points in each occupied cube of side `size`."""
    cells = np.floor((points - points.min(axis=0)) / size).astype(np.int64)
    flat = np.ravel_multi_index(tuple(cells.T), tuple(cells.max(axis=0) + 1))
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(inverse, column) for column in points.T], axis=1)
    return np.asarray(sums / counts[:, None])


def voxel_size_for(points: Floats, count: int) -> float:
    """A side of cubes that leaves about `count` of the points.

    The number of occupied cubes goes as a power of their side between 1 (a line) and D (a
    volume); the power is learned on the way (secant steps on logarithms).
    """
    extent = float(np.max(np.ptp(points, axis=0)))
    size, power = extent / np.sqrt(count), 2.0
    left = len(voxel_means(points, size))
    for _ in range(6):
        if 0.8 * count <= left <= 1.2 * count:
            break
        step = (left / count) ** (1 / power)
        size = max(size * step, extent * 2.0**-16)  # cells are counted in 64 bits
        before, left = left, len(voxel_means(points, size))
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


def flatness(points: Floats) -> float:
    """Median ratio of the smallest to the next variance of neighbourhoods.

    About 0.5 for a cloud that fills a volume, towards 0 where it is locally a surface
    (in 2D, a curve). Density is evened out first, since scanners sample along lines.
    """
    even = thin(thin(points, 100_000, "sample"), 4000, "voxels")
    if len(even) < 3 * neighbourhood(points.shape[1]):
        return 1.0
    values, _ = local_shapes(even[:: max(1, len(even) // 1000)], cKDTree(even), even)
    return float(np.median(values[:, 0] / np.maximum(values[:, 1], 1e-300)))
