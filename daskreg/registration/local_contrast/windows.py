"""The windows in which gain and offset are fitted: the cubic B-splines of the nodes of a grid.

Sums over the voxels around each node are weighted by its spline, and what is known at nodes is interpolated by their
splines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.local_contrast.windows_numba import share, subtract, sum_moments, sum_residual
from daskreg.runtime.threads import pool_threads, spread
from daskreg.sampling.spline_weights import cubic_weights, in_rows

Singles = NDArray[np.float32]
T = TypeVar("T")

_APART = {2: (8, 8), 3: (5, 10)}
"""Voxels between nodes, at least and at most, by number of dimensions."""
_ROWS = 256
"""Of an image, that one thread takes at once."""


def cells_for_control(shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
    """How many distances of nodes fit along each axis, if control points are so many voxels apart.

    The nodes are as far apart, within limits: small windows take for gain and offset what the field can still align,
    and large ones average these.
    """
    least, most = _APART[len(shape)]
    return _cells(shape, [min(max(least, s), most) for s in spacing])


def _cells(shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
    return tuple(max(1, round(n / apart)) for n, apart in zip(shape, spacing, strict=True))


@dataclass(frozen=True)
class _Axis:
    """cells: how many distances of nodes fit along the axis. first: (n,) the first of the four nodes of each voxel.
    weights: (4, n) the values of their splines."""

    cells: int
    first: NDArray[np.int64]
    weights: Singles

    @classmethod
    def at(cls, places: NDArray[np.float64], cells: int) -> _Axis:
        first = np.clip(np.floor(places).astype(np.int64), 0, cells - 1)
        weights = cubic_weights(places - first)[0].T
        return cls(cells, first, np.ascontiguousarray(weights, np.float32))

    @cached_property
    def splines(self) -> Singles:
        """(n, nodes) of all nodes."""
        return in_rows(self.weights.T, self.first, self.cells + 3)

    def part(self, start: int, stop: int) -> _Axis:
        return _Axis(self.cells, self.first[start:stop], np.ascontiguousarray(self.weights[:, start:stop]))


@dataclass(frozen=True)
class _Rows:
    """Rows `start` to `stop` of the plane `plane`, with the tables of y and x that the compiled code has.

    nodes: the rows of nodes around them, from which the table of y counts.
    """

    plane: int
    start: int
    stop: int
    nodes: slice
    windows: tuple[tuple[NDArray[np.int64], Singles], tuple[NDArray[np.int64], Singles]]

    def of(self, *images: Singles) -> tuple[Singles, ...]:
        return tuple(image[self.plane, self.start : self.stop] for image in images)

    def around(self, between: Singles) -> Singles:
        """Of values of nodes for each plane, see `Windows._along_z`, those that these rows need."""
        return np.ascontiguousarray(between[self.plane, :, self.nodes])


@dataclass(frozen=True)
class Windows:
    """The splines of the nodes at the voxels of an image, along each axis."""

    axes: tuple[_Axis, ...]

    @classmethod
    def of(cls, shape: Sequence[int], spacing: Sequence[float]) -> Windows:
        """Of an image of this shape, with nodes about so many voxels apart along each axis."""
        return cls._of_cells(shape, _cells(shape, spacing))

    @classmethod
    def for_control(cls, shape: Sequence[int], spacing: Sequence[float]) -> Windows:
        """Of an image of this shape, in which control points are so many voxels apart along each axis."""
        return cls._of_cells(shape, cells_for_control(shape, spacing))

    @classmethod
    def _of_cells(cls, shape: Sequence[int], cells: Sequence[int]) -> Windows:
        return cls.at([(np.arange(n) + 0.5) * m / n for n, m in zip(shape, cells, strict=True)], cells)

    @classmethod
    def at(cls, places: Sequence[NDArray[np.float64]], cells: Sequence[int]) -> Windows:
        """Of voxels at these places along each axis, in distances of nodes from the border of an image of so many;
        these increase."""
        return cls(tuple(_Axis.at(place, m) for place, m in zip(places, cells, strict=True)))

    @property
    def cells(self) -> tuple[int, ...]:
        """How many distances of nodes fit along each axis of the image."""
        return tuple(axis.cells for axis in self.axes)

    def part(self, box: Sequence[slice]) -> Windows:
        """The same for the voxels of a box, given by slices with a start and a stop."""
        return Windows(tuple(axis.part(s.start, s.stop) for axis, s in zip(self.axes, box, strict=True)))

    def at_voxels(self, values: NDArray[Any]) -> Singles:
        """(*shape) values of nodes between these."""
        for axis, one in enumerate(self.axes):
            values = np.moveaxis(np.tensordot(one.splines, values, (1, axis)), 0, axis)
        return np.asarray(values, np.float32)

    def moments(self, fixed: Singles, warped: Singles, weight: Singles) -> Singles:
        """(6, *nodes) sums over the voxels around each node: of the weight, and of the weight times fixed, warped and
        the products of these, ff, fw and ww."""
        images = self._planes(fixed, warped, weight)
        return self._sums(6, lambda rows, out: sum_moments(rows.of(*images), rows.windows, out))

    def residual_moments(self, fixed: Singles, warped: Singles, weight: Singles, nodes: Singles) -> Singles:
        """(2, *nodes) sums of weight times residual, and of that times warped.

        Args:
            nodes: (2, *nodes) gain and offset.
        """
        images, between = self._planes(fixed, warped, weight), self._along_z(nodes)
        return self._sums(2, lambda rows, out: sum_residual(rows.of(*images), rows.windows, rows.around(between), out))

    def residual(self, fixed: Singles, warped: Singles, weight: Singles, nodes: Singles) -> tuple[Singles, float]:
        """(*shape) fixed - (gain warped + offset), and the sum of its squares times weight and precision.

        Args:
            nodes: (3, *nodes) gain, offset, precision.
        """
        found, between = np.empty(fixed.shape, np.float32), self._along_z(nodes)
        images = self._planes(fixed, warped, weight, found)

        def part(rows: _Rows) -> float:
            *given, out = rows.of(*images)
            return float(subtract(tuple(given), rows.windows, rows.around(between), out))

        return found, math.fsum(self._each(part))

    def shared(self, residual: Singles, weight: Singles, nodes: Singles) -> tuple[Singles, Singles]:
        """(*shape) each: residual / common, and weight precision common^2.

        Args:
            nodes: (2, *nodes) precision and common.
        """
        found = np.empty(residual.shape, np.float32), np.empty(residual.shape, np.float32)
        between, images = self._along_z(nodes), self._planes(residual, weight, *found)
        self._each(lambda rows: share(rows.of(*images), rows.windows, rows.around(between)))
        return found

    @staticmethod
    def _planes(*images: Singles) -> list[Singles]:
        """The images as volumes, of one plane where they have two dimensions."""
        return [np.ascontiguousarray(image).reshape(-1, *image.shape[-2:]) for image in images]

    def _along_z(self, nodes: Singles) -> Singles:
        """(z, k, nodes y, nodes x) of each plane, from (k, *nodes)."""
        if len(self.axes) == 2:
            return np.ascontiguousarray(nodes, np.float32)[None]
        return np.asarray(np.tensordot(self.axes[0].splines, nodes, (1, 1)), np.float32)

    def _sums(self, count: int, function: Callable[[_Rows, Singles], None]) -> Singles:
        """(count, *nodes) what `function` adds to (count, nodes y, nodes x) for rows, along z as well."""
        sides = [axis.cells + 3 for axis in self.axes[-2:]]
        planes = np.zeros((len(self.axes[0].first) if len(self.axes) == 3 else 1, count, *sides), np.float32)

        def part(rows: _Rows) -> tuple[_Rows, Singles]:
            out = np.zeros((count, rows.nodes.stop - rows.nodes.start, sides[1]), np.float32)
            function(rows, out)
            return rows, out

        for rows, out in self._each(part):
            planes[rows.plane, :, rows.nodes] += out
        if len(self.axes) == 2:
            return np.asarray(planes[0])
        return np.ascontiguousarray(np.moveaxis(np.tensordot(self.axes[0].splines, planes, (0, 0)), 1, 0))

    def _each(self, function: Callable[[_Rows], T]) -> list[T]:
        """`function` of all rows; in volumes, those of a plane are together."""
        return spread(pool_threads(), function, self._rows())

    def _rows(self) -> Iterator[_Rows]:
        *along_z, along_y, along_x = self.axes
        rows, x = len(along_y.first), (along_x.first, along_x.weights)
        ends = [*range(0, rows, rows if along_z else _ROWS), rows]
        for plane in range(len(along_z[0].first) if along_z else 1):
            for start, stop in pairwise(ends):
                y = along_y.part(start, stop)
                nodes = slice(int(y.first[0]), int(y.first[-1]) + 4)
                yield _Rows(plane, start, stop, nodes, ((y.first - nodes.start, y.weights), x))
