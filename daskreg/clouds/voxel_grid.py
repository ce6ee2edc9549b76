"""Downsampling of clouds by a voxel grid, in memory and in parts; whether a cloud is a surface.

Columns are coordinates in the order of the inputs. Distances are in the unit of the points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from daskreg.clouds.cloud import Cloud, Floats, Ints, default_neighbours, every_nth, local_shapes
from daskreg.clouds.cloud_numba import bounding_box, voxel_moments, voxel_rows

# A cloud counts as a surface where the number of neighbours grows with a power of the radius that is this much below
# that of a filled volume, and the smallest variance of neighbourhoods is less than this share of the next (of a filled
# volume about 0.5). With few points the first measure says little, so the second is stricter; of wires the second
# says little.
_LESS_GROWTH, _FLATNESS, _FLATNESS_OF_FEW, _FEW = 0.6, 0.6, 0.45, 600
# Points of the evened cloud that `is_surface` needs, and how many of them it tests.
SURFACE_TEST_POINTS, _TESTED = 1400, 500
# A cloud of so many times the requested number of points is downsampled in two steps while a voxel size is searched.
_MANY = 8


def voxel_downsample(cloud: Cloud, size: float, *, neighbours: int = 0) -> Cloud:
    """The mean of the points in each occupied voxel of side `size`, with their number and covariance.

    Args:
        neighbours: of the new cloud, see `Cloud`.
    """
    points, ndim = np.ascontiguousarray(cloud.points), cloud.ndim
    rows = np.empty(len(points), dtype=np.int32)
    number = voxel_rows(points, size, rows)
    means, counts, covariances = np.zeros((number, ndim)), np.zeros(number), np.zeros((number, ndim, ndim))
    voxel_moments(points, rows, cloud.counts, cloud.covariances, means, counts, covariances)
    return Cloud(means, cloud.device, counts, covariances, neighbours)


def count_voxels(points: Floats, size: float) -> int:
    """How many voxels of side `size` hold points."""
    return int(voxel_rows(points, size, np.empty(len(points), dtype=np.int32)))


def voxel_size_for(cloud: Cloud, count: int) -> tuple[float, Cloud]:
    """A side of voxels that leaves about `count` points of a cloud, and a smaller cloud to downsample instead.

    The number of occupied voxels goes as a power of their side between 1 (a line) and D (a volume); the power is
    estimated on the way (secant steps on logarithms). For a cloud of many more points, the means of voxels of half the
    side are used instead.
    """
    points = np.ascontiguousarray(cloud.points)
    low, high = np.empty((2, cloud.ndim))
    bounding_box(points, low, high)
    extent = float(np.max(high - low)) or 1.0  # all points may be at one place, where outliers were removed
    # `reduced` is a good substitute for the cloud down to voxels of side `smallest`.
    size, power, reduced, smallest = extent / np.sqrt(count), 2.0, cloud, 0.0
    if len(points) > _MANY * count:
        reduced, smallest = voxel_downsample(cloud, size / 2), size
    number = count_voxels(reduced.points, size)
    for _ in range(6):
        if 0.85 * count <= number <= 1.15 * count:
            break
        step = (number / count) ** (1 / power)
        size = max(size * step, extent * 2.0**-40)  # voxels are numbered along an axis in 64 bits
        if size < smallest:
            reduced, smallest = cloud, 0.0
        before, number = number, count_voxels(reduced.points, size)
        power = float(np.clip(np.log(before / number) / np.log(step), 0.5, cloud.ndim))
    return float(size), reduced


def random_sample(points: Floats, count: int, seed: int = 0) -> Floats:
    """`count` of the rows, drawn at random without replacement; all rows where there are no more."""
    if len(points) <= count:
        return points
    return points[np.random.default_rng(seed).choice(len(points), count, replace=False)]


def is_surface(even: Cloud, *, closely: bool = False) -> bool:
    """Whether a cloud is locally a surface (in 2D, a curve), and not filled; a wire counts as a surface too.

    Two measures at a scale above the noise: the number of neighbours grows with the square of the radius, not the
    cube, and neighbourhoods are thinner across than along.

    Args:
        even: about `SURFACE_TEST_POINTS` points, of even density (`voxel_downsample`), since scanners sample along
            lines.
        closely: by the fewest neighbours, so that a thin wall counts as two surfaces; noise must be less.
    """
    if len(even) < 3 * default_neighbours(even.ndim):
        return False
    queries = every_nth(even.points, _TESTED)
    count = 12 if closely else int(np.clip(len(even) // 10, 12, 32))
    distances, rows = even.tree.query(queries, count + 1)
    ratio = distances[:, -1] / np.maximum(distances[:, count // 4], 1e-300)
    growth = np.log(4) / np.log(np.maximum(ratio, 1 + 1e-9))
    # Without the covariances of the points that each mean stands for: means have less noise across the surface.
    variances = local_shapes(Cloud(even.points), rows[:, : default_neighbours(even.ndim)]).variances
    flatness = np.median(variances[:, 0] / np.maximum(variances[:, 1], 1e-300))
    limit = _FLATNESS_OF_FEW if len(even) < _FEW else _FLATNESS
    return bool(np.median(growth) < even.ndim - _LESS_GROWTH and flatness < limit)


@dataclass(frozen=True, eq=False)
class VoxelSums:
    """Occupied voxels with the sums of their points, so that a cloud can be downsampled in parts.

    Attributes:
        voxels: (N, D) integer positions in the grid.
        sums: (N, D) of the coordinates of the points.
        counts: (N,) numbers of points.
        level: the side of a voxel is `size` times two to the power of `level`.
    """

    voxels: Ints
    sums: Floats
    counts: Floats
    level: int = 0

    @classmethod
    def of(cls, points: Floats, low: Floats, size: float, most: int) -> VoxelSums:
        """At most `most` voxels with the points; `low` is a corner of the grid."""
        voxels = np.floor((points - low) / size).astype(np.int64)
        return cls(voxels, points, np.ones(len(points)))._grouped(most)

    @classmethod
    def merged(cls, parts: Sequence[VoxelSums], most: int) -> VoxelSums:
        """The voxels of several parts on one grid, at most `most` of them."""
        level = max(part.level for part in parts)
        joined = zip(*[(p.voxels >> (level - p.level), p.sums, p.counts) for p in parts], strict=True)
        voxels, sums, counts = (np.concatenate(arrays) for arrays in joined)
        return cls(voxels, sums, counts, level)._grouped(most)

    @property
    def means(self) -> Floats:
        return np.asarray(self.sums / self.counts[:, None])

    def _grouped(self, most: int) -> VoxelSums:
        """One row for each voxel; while there are more than `most`, voxels of twice the side."""
        voxels, level = self.voxels, self.level
        while True:
            # Each row as one number: 20 bits along an axis are more than the grid ever has.
            keys = voxels @ (1 << 20) ** np.arange(voxels.shape[1])
            unique, first, rows = np.unique(keys, return_index=True, return_inverse=True)
            if len(unique) <= most:
                break
            voxels, level = voxels >> 1, level + 1
        sums = np.stack([np.bincount(rows, column, minlength=len(unique)) for column in self.sums.T], axis=1)
        counts = np.bincount(rows, self.counts, minlength=len(unique))
        return VoxelSums(voxels[first], np.asarray(sums, np.float64), np.asarray(counts, np.float64), level)
