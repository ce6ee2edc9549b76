"""The sums over voxels from which the normal equations of a layer of cubic B-splines are made.

With g the gradient of the fixed image at a voxel, v its weight, r its residual and B_i the value there of the cubic
B-spline of control point i, a step needs

    square  sum of v g_a g_b B_i B_j    for components a, b and control points i, j that share a cell,
    linear  sum of v r g_a B_i.

A voxel counts for the control points of its own cell only, so that sums over disjoint parts of an image add up to those
of the image.

The gradient is that of the fixed image at the voxel p, times the inverse transposed Jacobian of p + u(p). This is that
of the moving image where the images match, and its noise is not that of the residual (see `normal_equations.sums`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box, Grid
from daskreg.registration.deformable.cell_sums_numba import GAP, multiply, sum_cells
from daskreg.registration.deformable.splines.control_grid import REACH, ControlGrid
from daskreg.runtime.threads import pool_threads, shares, spread

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

_BUNDLE = 4
"""Neighbouring rows of cells that one thread sums: no less than `REACH`, so that the next but one is independent."""
_PLANES = 2
"""Of control points, that one thread multiplies at once: the order of additions does not depend on the threads."""


@dataclass(frozen=True)
class ControlSums:
    """Sums of a part of an image for the control points; those of disjoint parts are added.

    square: (z, pairs, R + 1, 7, 7, nodes of a plane) float32, for each control point and each pair of components
    a <= b, the control points around it, of its plane and of the R behind; images have one plane and R = 0 (see
    `cell_sums_numba`). Empty where it was not asked for. linear: (D, *nodes).
    """

    square: Singles
    linear: Floats

    def __add__(self, other: ControlSums) -> ControlSums:
        return ControlSums(self.square + other.square, self.linear + other.linear)


@dataclass(frozen=True)
class Residuals:
    """A box of voxels of the fixed image.

    gradient: (D, *shape) of the fixed image, by world units along the axes of the image. residual: (*shape) fixed
    less warped, finite. weight: (*shape), zero where a voxel does not count.
    """

    gradient: Singles
    residual: Singles
    weight: Singles


def cell_sums(
    voxels: Residuals,
    control: ControlGrid,
    level: Grid,
    box: Box,
    *,
    coefficients: Floats | None = None,
    with_square: bool = True,
    held: Box | None = None,
) -> ControlSums:
    """The sums of a box of voxels.

    Args:
        level: grid of the whole image. box: where the voxels are in it.
        coefficients: of the layer at which the residuals were taken; None: zero.
        held: the control points that coefficients and sums hold, those of the box among them; None: all.
    """
    ndim, lift = control.ndim, 3 - control.ndim
    held = Box.of(control.shape) if held is None else held
    tables: list[Any] = [_PLANE] if lift else []
    for axis, (start, stop) in enumerate(zip(box.start, box.stop, strict=True)):
        table = control.table(axis, level, start, stop)
        tables.append((table.starts, table.first - held.start[axis], table.weights, table.slopes))
    nodes = (*(1,) * lift, *held.shape)
    c = np.zeros((0, 1, 1, 1)) if coefficients is None else np.ascontiguousarray(coefficients.reshape(ndim, *nodes))
    shape = (*(1,) * lift, *box.shape)
    images = (
        np.ascontiguousarray(voxels.gradient).reshape(ndim, *shape),
        np.ascontiguousarray(voxels.weight * voxels.residual).reshape(shape),
        np.ascontiguousarray(voxels.weight).reshape(shape),
    )
    linear = np.zeros((ndim, *nodes))
    square = no_square(held.shape) if with_square else np.zeros((0,) * 6, np.float32)
    for some in _apart(len(tables[0][0]) - 1, len(tables[1][0]) - 1):
        spread(
            min(pool_threads(), len(some)),
            lambda part: sum_cells(images, tuple(tables), c, part, (square, linear), with_square),
            some,
        )
    return ControlSums(square, linear.reshape(ndim, *held.shape))


def _apart(planes: int, rows: int) -> Iterator[list[NDArray[np.int64]]]:
    """Bundles of rows of cells, (N, 2) numbers along z and y, of which those of one list share no control point.

    So sums do not depend on the threads. Neighbouring rows, whose control points are nearly the same, are in one
    bundle.
    """
    bundles = [(z, y) for z in range(planes) for y in range(0, rows, _BUNDLE)]
    for z0, y0 in ((z, y) for z in range(REACH + 1) for y in (0, _BUNDLE)):
        some = [(z, y) for z, y in bundles if z % (REACH + 1) == z0 and y % (2 * _BUNDLE) == y0]
        if some:
            yield [np.array([(z, k) for k in range(y, min(y + _BUNDLE, rows))]) for z, y in some]


def nodes_of(control: ControlGrid, level: Grid, box: Box) -> Box:
    """The control points of the cells in which the voxels of a box of a level lie."""
    ends = zip(range(box.ndim), box.start, box.stop, strict=True)
    tables = [control.table(axis, level, start, stop) for axis, start, stop in ends]
    return Box(
        tuple(table.first for table in tables),
        tuple(table.first + len(table.starts) - 1 + REACH for table in tables),
    )


def add_part(total: Singles, shape: tuple[int, ...], square: Singles, nodes: Box) -> None:
    """Add the sums `square` of a part, which hold the control points `nodes`, to those of all, of which there are
    `shape`."""
    lift = 3 - nodes.ndim
    planes = slice(0, 1) if lift else nodes.slices[0]
    rows, columns = nodes.slices[-2:]
    part = square.reshape(*square.shape[:-1], nodes.shape[-2], nodes.shape[-1] + GAP)[..., :-GAP]
    total.reshape(*total.shape[:-1], -1, shape[-1] + GAP)[planes, ..., rows, columns] += part


def no_square(shape: tuple[int, ...]) -> Singles:
    """The sums `square` of so many control points over no voxel."""
    return np.zeros(_square_shape(shape), np.float32)


def square_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of the sums `square` of so many control points."""
    return math.prod(_square_shape(shape)) * np.dtype(np.float32).itemsize


def _square_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    ndim, lift = len(shape), 3 - len(shape)
    planes, rows, columns = (*(1,) * lift, *shape)
    around = (1 if lift else REACH + 1, 2 * REACH + 1, 2 * REACH + 1)
    return (planes, math.comb(ndim + 1, 2), *around, rows * (columns + GAP))


_PLANE: Any = (np.array([0, 1]), 0, np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32))
"""The table of the single plane of an image."""


def product(square: Singles, vector: Floats) -> Floats:
    """The sums `square` as a matrix, times a vector (D, *nodes); single precision."""
    ndim, planes, reach = len(vector), len(square), square.shape[2] - 1
    rows, n = vector.shape[-2:]
    stride, count = n + GAP, rows * (n + GAP)
    inside = slice(REACH * (stride + 1), REACH * (stride + 1) + count)

    def padded(planes: int) -> Singles:
        return np.zeros((ndim, planes + reach, count + 2 * REACH * (stride + 1)), np.float32)

    v = padded(planes)
    v[:, :planes, inside].reshape(ndim, planes, rows, stride)[..., :n] = vector.reshape(ndim, planes, rows, n)
    if not reach:
        out = padded(1)
        shares(lambda first, stop: multiply(square, v, out, stride, (0, 1), (first, stop)), count, square.size)
        return out[:, :1, inside].reshape(ndim, rows, stride)[..., :n].astype(np.float64)

    def part(first: int) -> Singles:
        stop = min(first + _PLANES, planes)
        found = padded(stop - first)
        multiply(square, v, found, stride, (first, stop), (0, count))
        return found

    total, starts = padded(planes + _PLANES), range(0, planes, _PLANES)
    for first, found in zip(starts, spread(pool_threads(), part, starts), strict=True):
        total[:, first : first + found.shape[1]] += found
    return total[:, :planes, inside].reshape(ndim, planes, rows, stride)[..., :n].astype(np.float64)


def diagonal_blocks(square: Singles, shape: tuple[int, ...]) -> Floats:
    """(D, D, *shape) the blocks of each control point with itself.

    Args:
        shape: of the control points.
    """
    ndim = len(shape)
    middle = square[:, :, 0, REACH, REACH].reshape(len(square), -1, shape[-2], shape[-1] + GAP)[..., : shape[-1]]
    rows, columns = np.triu_indices(ndim)
    blocks = np.empty((ndim, ndim, *shape))
    blocks[rows, columns] = blocks[columns, rows] = np.moveaxis(middle, 1, 0).reshape(-1, *shape)
    return blocks
