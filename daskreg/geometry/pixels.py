"""Between maps of array indices and maps of the world, for tools that count in pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import OptionError, ShapeMismatchError
from daskreg.geometry.affine import Affine
from daskreg.geometry.grid import Grid
from daskreg.geometry.slices import SliceAffines
from daskreg.geometry.transform import Transform
from daskreg.geometry.units import PIXEL, common_unit

Floats = NDArray[np.float64]


def world_matrices(matrices: Floats, fixed: Grid | None, moving: Grid | None) -> tuple[Floats, str | None]:
    """World matrices and their unit from index matrices (moving from fixed), (..., D+1, D+1) in array order.

    A Grid of None has pixels of spacing one.
    """
    ndim = matrices.shape[-1] - 1
    check_grids(fixed, moving, ndim)
    inner = np.eye(ndim + 1) if fixed is None else fixed.inverse_matrix
    outer = np.eye(ndim + 1) if moving is None else moving.matrix
    unit = common_unit(
        PIXEL if fixed is None else fixed.unit, PIXEL if moving is None else moving.unit, "fixed, moving"
    )
    return outer @ matrices @ inner, unit


def from_index(matrices: Floats, fixed: Grid | None, moving: Grid | None) -> Affine | SliceAffines:
    """A map of the world from one of array indices (moving from fixed), or SliceAffines from many."""
    world, unit = world_matrices(matrices, fixed, moving)
    return SliceAffines(world, unit=unit) if world.ndim == 3 else Affine(world, unit=unit)


def to_index(t: Transform, fixed: Grid | None, moving: Grid | None) -> Floats:
    """Matrices of array indices (moving from fixed) from a map of the world."""
    check_grids(fixed, moving, t.ndim)
    for grid in (fixed, moving):
        common_unit(t.unit, PIXEL if grid is None else grid.unit, "transform and Grid")
    inner = np.eye(t.ndim + 1) if fixed is None else fixed.matrix
    outer = np.eye(t.ndim + 1) if moving is None else moving.inverse_matrix
    return np.asarray(outer @ t.to_matrices() @ inner)


def check_grids(fixed: Grid | None, moving: Grid | None, ndim: int) -> None:
    """Raise OptionError where one is no Grid, ShapeMismatchError where it is not of `ndim` dimensions."""
    for name, grid in (("fixed", fixed), ("moving", moving)):
        if grid is None:
            continue
        if not isinstance(grid, Grid):
            raise OptionError(f"{name} must be a Grid, not {type(grid).__name__}: `daskreg.grid(array)` gives it")
        if grid.ndim != ndim:
            raise ShapeMismatchError(f"the {name} Grid is {grid.ndim}D, the transform {ndim}D")


def plane(grid: Grid | None) -> Grid | None:
    """The grid of one slice, of a volume whose slices lie along the first axis."""
    return grid.take((1, 2)) if isinstance(grid, Grid) and grid.ndim == 3 else grid
