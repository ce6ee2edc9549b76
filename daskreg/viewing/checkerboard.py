"""`Checkerboard`: two images on one grid, as squares that show one and the other in turn, computed chunk by chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ShapeMismatchError
from daskreg.geometry import Box
from daskreg.viewing.pyramid import Pyramid
from daskreg.viewing.zarr_form import ZarrForm

SQUARES = 12
"""Squares along the longest axis."""

BYTES = np.dtype(np.uint8)


class Checkerboard(Pyramid):
    """Cubes of one image and the other in turn, each in its own contrast, as bytes.

    The cubes are as long along each axis of the world, and lie at the same places on each level.

    Args:
        one, other: images with the same axes, grid, levels and chunks.

    Raises: ShapeMismatchError.
    """

    def __init__(self, one: ZarrForm, other: ZarrForm) -> None:
        a, b = one.pyramid, other.pyramid
        if not (
            [(p.dims, p.shape, p.chunks) for p in a.layouts] == [(p.dims, p.shape, p.chunks) for p in b.layouts]
            and a.grids[0].same(b.grids[0])
        ):
            sizes = [dict(zip(p.layouts[0].dims, p.layouts[0].shape, strict=True)) for p in (a, b)]
            raise ShapeMismatchError(
                f"a checkerboard needs two images on one grid with the same axes, not {sizes[0]} on {a.grids[0]} and "
                f"{sizes[1]} on {b.grids[0]}: pick a channel, and warp(moving, pull=..., like=fixed)"
            )
        layouts = [type(p)(p.dims, p.shape, BYTES, p.chunks, None) for p in a.layouts]
        super().__init__(layouts, a.grids, a.factors, a.method, a.cache)
        self._images = one, other
        grid = a.grids[0]
        edge = max(n * s for n, s in zip(grid.shape, grid.spacing, strict=True)) / SQUARES
        self._cells = (0,) * (len(layouts[0].shape) - grid.ndim) + tuple(max(1, round(edge / s)) for s in grid.spacing)

    def _made(self, level: int, box: Box) -> NDArray[Any]:
        one, other = (in_bytes(image.pyramid.read(level, box), image.window) for image in self._images)
        return np.where(self._shows_other(level, box), other, one)

    def _shows_other(self, level: int, box: Box) -> NDArray[np.bool_]:
        """Whether each voxel of a box is one of the second image."""
        number = np.zeros((1,) * box.ndim, np.int64)
        for axis, cell in enumerate(self._cells):
            if cell:
                factor = int(np.prod([f[axis] for f in self.factors[: level + 1]]))
                places = np.arange(box.start[axis], box.stop[axis]) * factor // cell
                number = number + np.expand_dims(places, [k for k in range(box.ndim) if k != axis])
        return np.asarray(number % 2 == 1)


def in_bytes(voxels: NDArray[Any], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Voxels as bytes, of which 0 and 255 are the ends of a window; NaN is 0."""
    low, high = window
    scaled = (voxels.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.asarray(np.nan_to_num(np.clip(scaled, 0, 255)), np.uint8)
