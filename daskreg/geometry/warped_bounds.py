"""`WarpedBounds`: where a pull brings the voxels of a grid, so that an output can hold all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry.grid import Grid

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WarpedBounds:
    """Bounds of warped voxels, each (D,) in fractional indices of the grid that they come from.

    Args:
        lower, upper: of all voxels, wherever they are brought.
        inner_lower, inner_upper: of the box that the voxels of every slice cover.
    """

    lower: Floats
    upper: Floats
    inner_lower: Floats
    inner_upper: Floats

    @classmethod
    def of_corners(cls, grid: Grid, axes: Sequence[int], corners: Floats) -> WarpedBounds:
        """Of warped corners, which bound affine images of the grid.

        The inner box is right for rotations of less than 45 degrees, where half of the corners
        lie on each side.

        Args:
            axes: of the grid on which the corners are; the voxels stay in place along the others.
            corners: (N, 2**d, d) of N maps, in fractional indices along `axes`.
        """
        ranked, moved = np.sort(corners, axis=1), list(axes)
        half = corners.shape[1] // 2
        stays = np.zeros(grid.ndim), np.asarray(grid.shape) - 1.0
        bounds = [end.copy() for end in (*stays, *stays)]
        bounds[0][moved] = ranked[:, 0].min(axis=0)
        bounds[1][moved] = ranked[:, -1].max(axis=0)
        bounds[2][moved] = ranked[:, half - 1].max(axis=0)
        bounds[3][moved] = ranked[:, half].min(axis=0)
        return cls(*bounds)

    @classmethod
    def of_matrices(cls, grid: Grid, axes: Sequence[int], matrices: Floats) -> WarpedBounds:
        """Under N world maps (N, d+1, d+1) of the voxels: the inverses of the pulls."""
        plane = grid.take(axes)
        world = plane.corners()
        corners = np.stack([plane.index(world @ m[:-1, :-1].T + m[:-1, -1]) for m in matrices])
        return cls.of_corners(grid, axes, corners)
