"""Planes of volumes, small enough to be looked at: the image of a pair, or a slice and both side views.

A plane is (rows, columns) with NaN where there is no data. Rows of side views run along the first axis of the volume,
z, which points up when they are drawn; rows of a slice point down, as in the files of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ShapeMismatchError
from daskreg.geometry import Box, Grid, index_matrix
from daskreg.sampling.sample import sample

Singles = NDArray[np.float32]
Floats = NDArray[np.float64]

MOST = 640
"""Voxels along each side of a plane, at most: of more, every k-th is drawn."""


@dataclass(frozen=True)
class Place:
    """A plane of a grid.

    Args:
        rows, columns: names of its axes.
        spacing: of its pixels along rows and columns, in `unit`.
        upward: whether the first row is drawn at the bottom.
        at: where along the third axis, in words; empty for an image.
    """

    rows: str
    columns: str
    spacing: tuple[float, float]
    unit: str
    upward: bool = False
    at: str = ""

    @property
    def name(self) -> str:
        return self.columns + self.rows

    def drawn(self, plane: NDArray[Any]) -> NDArray[Any]:
        """The plane with its first row at the top of the picture."""
        return plane[::-1] if self.upward else plane


@dataclass(frozen=True)
class PairPlane:
    """The same plane of the fixed image, and of the moving one before and after; NaN where there is no data."""

    place: Place
    fixed: Singles
    before: Singles
    after: Singles


def places(grid: Grid, steps: Sequence[int] | None = None) -> list[tuple[Place, int | None]]:
    """The planes of a grid that are shown, and the axis that each leaves out: one of an image, three of a volume.

    Args:
        steps: how many voxels of the grid one pixel stands for, along each axis.
    """
    if grid.ndim == 2:
        axes: list[int | None] = [None]
    elif grid.ndim == 3:
        axes = [0, 1, 2]
    else:
        raise ShapeMismatchError(f"images and volumes can be drawn, not arrays of {grid.ndim} axes")
    spacing = [s * k for s, k in zip(grid.spacing, steps or steps_of(grid.shape), strict=True)]
    found = []
    for axis in axes:
        rows, columns = (k for k in range(grid.ndim) if k != axis)
        at = "" if axis is None else f"{grid.names[axis]} = {grid.shape[axis] // 2}"
        upward = grid.ndim == 3 and rows == 0
        sides = (spacing[rows], spacing[columns])
        found.append((Place(grid.names[rows], grid.names[columns], sides, grid.unit, upward, at), axis))
    return found


def steps_of(shape: Sequence[int], most: int = MOST) -> tuple[int, ...]:
    """Every how many voxels one is drawn, along each axis."""
    return tuple(max(1, -(-n // most)) for n in shape)


def middle(volume: Any, axis: int | None, steps: Sequence[int]) -> Singles:
    """The middle plane across an axis, or the image itself: every k-th pixel. Lazy arrays are read only there."""
    index: list[int | slice] = [slice(None, None, step) for step in steps]
    if axis is not None:
        index[axis] = volume.shape[axis] // 2
    return np.asarray(volume[tuple(index)], dtype=np.float32)


def pair_planes(fixed: Any, moving: Any, pull: Floats, fixed_grid: Grid, moving_grid: Grid) -> list[PairPlane]:
    """The planes of two images in memory.

    Args:
        pull: (D+1, D+1) moving_from_fixed, world.
    """
    source = np.asarray(moving, dtype=np.float32)
    steps = steps_of(fixed_grid.shape)
    planes = []
    for place, axis in places(fixed_grid, steps):
        before, after = (
            _sampled(source, index_matrix(m, fixed_grid, moving_grid), fixed_grid.shape, axis, steps)
            for m in (np.eye(fixed_grid.ndim + 1), pull)
        )
        planes.append(PairPlane(place, middle(fixed, axis, steps), before, after))
    return planes


def _sampled(image: Singles, matrix: Floats, shape: Sequence[int], axis: int | None, steps: Sequence[int]) -> Singles:
    """An image in memory where an index matrix maps the pixels of a plane; NaN outside."""
    ndim = len(shape)
    pixels = np.eye(ndim + 1)  # indices of the grid from those of the pixels
    pixels[range(ndim), range(ndim)] = steps
    size = [-(-n // k) for n, k in zip(shape, steps, strict=True)]
    if axis is not None:
        pixels[axis, axis], pixels[axis, -1], size[axis] = 1, shape[axis] // 2, 1
    found = sample(image, Box.of(image.shape), matrix @ pixels, Box.of(size), fill=np.nan, edge="clamp")
    return np.asarray(found if axis is None else found.squeeze(axis))
