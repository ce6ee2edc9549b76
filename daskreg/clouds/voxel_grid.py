"""Clouds thinned by voxels, in memory and in parts, and what thinning shows: whether a cloud is a surface.

Columns are coordinates in the order given. Distances are in the unit of the points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from daskreg.clouds.cloud import Cloud, Floats, Ints, core, neighbourhood, planes_of, some_of
from daskreg.clouds.cloud_numba import bounds, moments, voxel_rows

# A cloud counts as a surface where its neighbours grow with a power of the radius this much below that of a
# filled volume, and its neighbourhoods' smallest variance is this share of the next (filled: about 0.5).
# Of few points the first says little, of wires the second.
_BETWEEN, _THIN, _THIN_OF_FEW, _FEW = 0.6, 0.6, 0.45, 600
# Points at which that is looked at.
LOOKED, _ASKED = 1400, 500
# A cloud of so many times the points that are wanted is thinned in two steps while a size is sought.
_MANY = 8


def thinned(cloud: Cloud, size: float, *, near: int = 0) -> Cloud:
    """The mean of the points in each occupied cube of side `size`, with their number and covariance."""
    points, ndim = np.ascontiguousarray(cloud.points), cloud.ndim
    rows = np.empty(len(points), dtype=np.int32)
    number = voxel_rows(points, size, rows)
    means, numbers, spreads = np.zeros((number, ndim)), np.zeros(number), np.zeros((number, ndim, ndim))
    moments(points, rows, cloud.counts, cloud.spreads, means, numbers, spreads)
    return Cloud(means, cloud.device, numbers, spreads, near)


def occupied(points: Floats, size: float) -> int:
    """How many cubes of side `size` hold points."""
    return int(voxel_rows(points, size, np.empty(len(points), dtype=np.int32)))


def voxel_size_for(cloud: Cloud, count: int) -> tuple[float, Cloud]:
    """A side of cubes that leaves about `count` points of a cloud, and what may be thinned in its place.

    The number of occupied cubes goes as a power of their side between 1 (a line) and D (a
    volume); the power is learned on the way (secant steps on logarithms). Means of cubes of half the
    side stand in for a cloud of many more points.
    """
    points = np.ascontiguousarray(cloud.points)
    low, high = np.empty((2, cloud.ndim))
    bounds(points, low, high)
    extent = float(np.max(high - low))
    size, power, few, coarsest = extent / np.sqrt(count), 2.0, cloud, 0.0
    if len(points) > _MANY * count:
        few, coarsest = thinned(cloud, size / 2), size
    left = occupied(few.points, size)
    for _ in range(6):
        if 0.85 * count <= left <= 1.15 * count:
            break
        step = (left / count) ** (1 / power)
        size = max(size * step, extent * 2.0**-40)  # cells are counted in 64 bits
        if size < coarsest:
            few, coarsest = cloud, 0.0
        before, left = left, occupied(few.points, size)
        power = float(np.clip(np.log(before / left) / np.log(step), 0.5, cloud.ndim))
    return float(size), few


def thin(points: Floats, count: int, how: Literal["voxels", "sample"], seed: int = 0) -> Floats:
    """About `count` of the points: means of cubes (without strays), or a random sample of the rows."""
    if len(points) <= count:
        return points
    if how == "voxels":
        inner = core(points, reach=100.0)
        return thinned(Cloud(inner), voxel_size_for(Cloud(core(points)), count)[0]).points
    return points[np.random.default_rng(seed).choice(len(points), count, replace=False)]


def is_surface(points: Floats) -> bool:
    """Whether a cloud is locally a surface (in 2D, a curve), not filled: a wire counts as a surface too."""
    return looks_flat(Cloud(thin(thin(points, 100_000, "sample"), LOOKED, "voxels")))


def looks_flat(even: Cloud) -> bool:
    """`is_surface` of a cloud of about `LOOKED` points whose density was evened out, since scanners sample along lines.

    Two measures at a scale above noise: neighbours grow with the square of the radius, not the cube,
    and neighbourhoods are thinner across than along.
    """
    if len(even) < 3 * neighbourhood(even.ndim):
        return False
    asked = some_of(even.points, _ASKED)
    count = int(np.clip(len(even) // 10, 12, 32))
    distances, indices = even.tree.query(asked, count + 1)
    farther = distances[:, -1] / np.maximum(distances[:, count // 4], 1e-300)
    growth = np.log(4) / np.log(np.maximum(farther, 1 + 1e-9))
    # Of the points, not of what they stand for: means have less noise across.
    values = planes_of(Cloud(even.points), indices[:, : neighbourhood(even.ndim)]).values
    thinness = np.median(values[:, 0] / np.maximum(values[:, 1], 1e-300))
    return bool(np.median(growth) < even.ndim - _BETWEEN and thinness < (_THIN_OF_FEW if len(even) < _FEW else _THIN))


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
