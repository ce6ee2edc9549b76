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
_LOOKED_AT = (1 / 2, 3 / 8, 5 / 8, 1 / 4, 3 / 4, 1 / 8, 7 / 8)
"""Where along an axis a plane is looked for that is not blank, in this order."""
_ENOUGH = 0.1
"""Share of the middle plane that differs from its median where no other one is looked for."""


@dataclass(frozen=True)
class Place:
    """A plane of a grid.

    Args:
        rows, columns: names of its axes.
        spacing: of its pixels along rows and columns, in `unit`.
        upward: whether the first row is drawn at the bottom.
        at: where along the third axis, in words; empty for an image.
        axis, index: the third axis of the volume, and where along it, in voxels; None and 0 for an image.
    """

    rows: str
    columns: str
    spacing: tuple[float, float]
    unit: str
    upward: bool = False
    at: str = ""
    axis: int | None = None
    index: int = 0

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


def places(grid: Grid, steps: Sequence[int] | None = None, indices: Sequence[int] | None = None) -> list[Place]:
    """The planes of a grid that are shown: one of an image, three of a volume.

    Args:
        steps: how many voxels of the grid one pixel stands for, along each axis.
        indices: along each axis, where the plane across it lies; by default in the middle.
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
        index = 0 if axis is None else grid.shape[axis] // 2 if indices is None else indices[axis]
        at = "" if axis is None else f"{grid.names[axis]} = {index}"
        upward = grid.ndim == 3 and rows == 0
        sides = (spacing[rows], spacing[columns])
        found.append(Place(grid.names[rows], grid.names[columns], sides, grid.unit, upward, at, axis, index))
    return found


def steps_of(shape: Sequence[int], most: int = MOST) -> tuple[int, ...]:
    """Every how many voxels one is drawn, along each axis."""
    return tuple(max(1, -(-n // most)) for n in shape)


def cut(volume: Any, place: Place, steps: Sequence[int]) -> Singles:
    """A plane of a volume, or the image itself: every k-th pixel. Lazy arrays are read only there."""
    return _plane_across(volume, place.axis, place.index, steps)


def _plane_across(volume: Any, axis: int | None, index: int, steps: Sequence[int]) -> Singles:
    taken: list[int | slice] = [slice(None, None, step) for step in steps]
    if axis is not None:
        taken[axis] = index
    return np.asarray(volume[tuple(taken)], dtype=np.float32)


def indices_with_content(volume: Any, steps: Sequence[int]) -> tuple[int, ...]:
    """Along each axis of a volume, the index of the plane that is shown: the middle one, unless nothing is on it.

    Of padding and lost slices nothing would be seen. Lazy arrays are read only where the middle plane is blank.
    """
    if len(volume.shape) != 3:
        return tuple(n // 2 for n in volume.shape)
    return tuple(_with_content(volume, axis, steps) for axis in range(3))


def _with_content(volume: Any, axis: int, steps: Sequence[int]) -> int:
    """Of the planes that have at least half of the content of the fullest one, that which is nearest to the middle."""
    found: dict[int, float] = {}
    for index in dict.fromkeys(int(volume.shape[axis] * share) for share in _LOOKED_AT):
        plane = _plane_across(volume, axis, index, steps)
        known = plane[np.isfinite(plane)]
        found[index] = float(np.count_nonzero(known != np.median(known)) / plane.size) if known.size else 0.0
        if len(found) == 1 and found[index] >= _ENOUGH:
            return index
    most = max(found.values())
    return next(index for index, content in found.items() if content >= most / 2)


def pair_planes(fixed: Any, moving: Any, pull: Floats, fixed_grid: Grid, moving_grid: Grid) -> list[PairPlane]:
    """The planes of two images in memory.

    Args:
        pull: (D+1, D+1) moving_from_fixed, world.
    """
    source = np.asarray(moving, dtype=np.float32)
    steps = steps_of(fixed_grid.shape)
    planes = []
    for place in places(fixed_grid, steps, indices_with_content(fixed, steps)):
        before, after = (
            _sampled(source, index_matrix(m, fixed_grid, moving_grid), fixed_grid.shape, place, steps)
            for m in (np.eye(fixed_grid.ndim + 1), pull)
        )
        planes.append(PairPlane(place, cut(fixed, place, steps), before, after))
    return planes


def warped_planes(fixed: Any, before: Any, after: Any, grid: Grid) -> list[PairPlane]:
    """The planes of volumes on one grid, NumPy or lazy, which are read only there."""
    steps = steps_of(grid.shape)
    return [
        PairPlane(place, *(cut(volume, place, steps) for volume in (fixed, before, after)))
        for place in places(grid, steps, indices_with_content(fixed, steps))
    ]


def _sampled(image: Singles, matrix: Floats, shape: Sequence[int], place: Place, steps: Sequence[int]) -> Singles:
    """An image in memory where an index matrix maps the pixels of a plane; NaN outside."""
    ndim, axis = len(shape), place.axis
    pixels = np.eye(ndim + 1)  # indices of the grid from those of the pixels
    pixels[range(ndim), range(ndim)] = steps
    size = [-(-n // k) for n, k in zip(shape, steps, strict=True)]
    if axis is not None:
        pixels[axis, axis], pixels[axis, -1], size[axis] = 1, place.index, 1
    found = sample(image, Box.of(image.shape), matrix @ pixels, Box.of(size), fill=np.nan, edge="clamp")
    return np.asarray(found if axis is None else found.squeeze(axis))
