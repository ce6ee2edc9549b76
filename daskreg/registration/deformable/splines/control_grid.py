"""The control points of a layer of cubic B-splines over the fixed image, and the weights of its voxels.

Control points lie along the axes of the fixed image. A cell is what lies between neighbouring control points; four of
them along each axis carry a point inside. There is a cell more on each side than the image needs, for points that
another layer moves over its border.

Coefficients are (D, *nodes) float64: displacements along the axes of the image, in world units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.fields import DisplacementField
from daskreg.geometry import Grid
from daskreg.sampling.spline_weights import cubic_weights

Floats = NDArray[np.float64]

REACH = 3
"""Control points that share a cell are at most so far apart along an axis."""
LARGEST = {2: 0.485, 3: 0.400}
"""The largest component of a coefficient, as a share of the distance of the control points, by number of dimensions.

Below 1 / 2.046 (2D) and 1 / 2.480 (3D) a displacement by cubic B-splines is one to one (Choi & Lee 2000, theorem 1).
"""
_AROUND = 1
"""Cells beyond those of the image, on each side."""
BEYOND = 3 + 2 * _AROUND
"""Control points along an axis, less its cells over the image."""
_COARSEST = 3
"""The least cells along an axis of the coarsest grid, where the finest one has as many."""


@dataclass(frozen=True)
class AxisTable:
    """What an axis of an image needs of an axis of control points.

    starts: (cells + 1,) the first voxel of each cell that holds one, from `first` on. first: the first of these cells;
    cell k has the control points k to k + 3. weights, slopes: (n, 4) float32, slopes by world units.
    """

    starts: NDArray[np.int64]
    first: int
    weights: NDArray[np.float32]
    slopes: NDArray[np.float32]


@dataclass(frozen=True)
class ControlGrid:
    """Control points over an image.

    image: its grid. spacing: (D,) of the control points, world units. cells: along each axis, over the image alone.
    """

    image: Grid
    spacing: tuple[float, ...]
    cells: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return self.image.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of control points along each axis."""
        return tuple(n + BEYOND for n in self.cells)

    @cached_property
    def grid(self) -> Grid:
        """Of the control points in the world; their middle is that of the image."""
        half = [(n - 1) / 2 * h for n, h in zip(self.shape, self.spacing, strict=True)]
        origin = self.image.centre - self.image.direction_matrix @ np.asarray(half)
        return Grid(self.shape, self.spacing, origin, self.image.direction, self.image.unit, self.image.axes)

    @property
    def inner(self) -> tuple[Any, ...]:
        """The index, of coefficients (..., *nodes), of those but beside the image, which hardly reach into it."""
        return (..., *(slice(2, -2),) * self.ndim)

    def length(self, step: Floats) -> float:
        """The root mean square of coefficients (..., *nodes) over the image, world units."""
        return float(np.sqrt(np.mean(step[self.inner] ** 2)))

    @property
    def limits(self) -> Floats:
        """(D,) the largest component of a coefficient along each axis, world units."""
        return LARGEST[self.ndim] * np.asarray(self.spacing)

    def field(self, coefficients: Floats) -> DisplacementField:
        """The layer as a transform."""
        vectors = np.tensordot(self.image.direction_matrix, coefficients, axes=1)
        return DisplacementField(vectors, self.grid, order=3)

    def table(self, axis: int, level: Grid, start: int, stop: int) -> AxisTable:
        """Of voxels `start` to `stop` along an axis of a level, whose grid has the directions of the image."""
        away = (np.asarray(level.origin) - np.asarray(self.grid.origin)) @ self.image.direction_matrix[:, axis]
        h = self.spacing[axis]
        place = (away + level.spacing[axis] * np.arange(start, stop)) / h
        cell = np.clip(np.floor(place).astype(np.int64), 1, self.shape[axis] - 3)
        weights, slopes = cubic_weights(place - cell)
        first, last = int(cell[0]), int(cell[-1])
        starts = np.searchsorted(cell, np.arange(first, last + 2))
        return AxisTable(starts, first - 1, weights.astype(np.float32), (slopes / h).astype(np.float32))

    def nearest(self, level: Grid) -> list[NDArray[np.int64]]:
        """(n,) for each axis, the control points that the voxels of a level are nearest to."""
        away = self.image.direction_matrix.T @ (np.asarray(level.origin) - np.asarray(self.grid.origin))
        axes = zip(away, level.shape, level.spacing, self.spacing, strict=True)
        return [np.rint((start + step * np.arange(n)) / h).astype(np.int64) for start, n, step, h in axes]

    def refined(self, coarser: ControlGrid, coefficients: Floats) -> Floats:
        """(..., *nodes) the coefficients of a coarser grid of `control_grids` on this one: the same displacements."""
        found, lead = coefficients, coefficients.ndim - self.ndim
        for axis, (n, m) in enumerate(zip(self.cells, coarser.cells, strict=True), start=lead):
            for _ in range(round(math.log2(n / m))):
                matrix = subdivision(found.shape[axis])
                found = np.moveaxis(np.tensordot(matrix, found, axes=(1, axis)), 0, axis)
        return np.ascontiguousarray(found)


def control_grids(image: Grid, spacing: Sequence[float]) -> list[ControlGrid]:
    """Grids of control points from coarse to fine, each of twice the cells of the one before.

    The coarsest has about `_COARSEST` cells along each axis. An axis with no more than that on the finest grid is the
    same on all. Whole cells cover the image, so the distance of control points is the nearest one to `spacing` that
    allows this.
    """
    extent = [n * s for n, s in zip(image.shape, image.spacing, strict=True)]
    pairs = list(zip(extent, spacing, strict=True))
    doublings = [max(0, math.floor(math.log2(e / h / _COARSEST))) for e, h in pairs]
    coarsest = [max(1, round(e / (h * 2**k))) for (e, h), k in zip(pairs, doublings, strict=True)]
    found, most = [], max(doublings)
    for number in range(most + 1):
        cells = tuple(n * 2 ** max(0, number - (most - k)) for n, k in zip(coarsest, doublings, strict=True))
        found.append(ControlGrid(image, tuple(e / n for e, n in zip(extent, cells, strict=True)), cells))
    return found


def subdivided(coefficients: Floats, axis: int) -> Floats:
    """The same field with coefficients at half the distance along an axis, as many as its cells need: the two-scale
    relation of cubic B-splines."""
    c = np.moveaxis(coefficients, axis, 0)
    found = np.empty((2 * len(c) - 3, *c.shape[1:]))
    found[0::2] = (c[:-1] + c[1:]) / 2
    found[1::2] = (c[:-2] + 6 * c[1:-1] + c[2:]) / 8
    return np.moveaxis(found, 0, axis)


def subdivision(n: int) -> Floats:
    """(m, n) the same for the n coefficients of an axis of a `ControlGrid`, and the m of that with twice the cells."""
    return subdivided(np.eye(n), 0)[_AROUND:-_AROUND]


def coarser_axis(n: int) -> Floats:
    """(n, m) of an axis with n control points, the coefficients of the m splines of twice their distance.

    The identity where there is no such grid, or few cells.
    """
    cells = n - BEYOND
    return subdivision(cells // 2 + BEYOND) if cells % 2 == 0 and cells > 2 else np.eye(n)
