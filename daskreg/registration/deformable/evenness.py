"""What the images say of the metric, where the user does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Transform
from daskreg.registration.deformable.coarse_to_fine import coarse_to_fine, schedule
from daskreg.registration.deformable.control_grid import ControlGrid
from daskreg.registration.deformable.layers import Layers
from daskreg.registration.deformable.level_images import Evaluated, LevelImages
from daskreg.registration.deformable.local_match import Windows, local_match
from daskreg.registration.pyramids.pyramid import PyramidLevel

_ENOUGH = 2048
"""Voxels of a level that are compared."""
_BLOCK = 6
"""Voxels along a block of the checkerboard, and between the windows of gain and offset."""
_UNEVEN = 0.87
"""Gain and offset vary if those of the other blocks leave less than this part of the residual."""
_TOLERANCE = 0.05


def metric_of(
    levels: Sequence[PyramidLevel], grids: Sequence[ControlGrid], base: Transform, *, max_iterations: int
) -> str:
    """ "lncc" where gain and offset vary over a coarse level that was aligned by "ncc", else "ncc"."""
    plan = schedule(grids, levels)
    enough = [k for k, (_, number) in enumerate(plan) if levels[number].fixed.values[0].numel() >= _ENOUGH]
    if not enough:
        return "ncc"
    plan = plan[: enough[0] + 1]
    start = Layers.start(base, grids[0])
    solved = coarse_to_fine(levels, plan, start, metric="ncc", tolerance=_TOLERANCE, max_iterations=max_iterations)
    images = LevelImages.of(levels[solved.number], "ncc")
    return "lncc" if left_by_other_blocks(images, solved.state.found) < _UNEVEN else "ncc"


def left_by_other_blocks(images: LevelImages, found: Evaluated) -> float:
    """The mean square of the residual with the gain and offset around each voxel, as a part of that with one of each.

    Those around a voxel are of the blocks of a checkerboard that do not hold it, so that they explain nothing by
    chance, and little of what is not aligned. Squares count as their window has less contrast.
    """
    windows, colour = Windows.of(images.fixed.shape, _BLOCK), _checkerboard(images.fixed.shape)
    around, one = 0.0, 0.0
    for own in (colour, ~colour):
        local = local_match(images.fixed, found.warped, found.weight * ~own, windows)
        weight = found.weight * own * local.precision
        around += float((weight * local.residual**2).sum(dtype=np.float64))
        one += float((weight * found.residual**2).sum(dtype=np.float64))
    return around / max(one, 1e-30)


def _checkerboard(shape: Sequence[int]) -> NDArray[np.bool_]:
    total = np.zeros(shape, np.int64)
    for axis, n in enumerate(shape):
        total += (np.arange(n) // _BLOCK).reshape(-1, *[1] * (len(shape) - axis - 1))
    return np.asarray(total % 2 == 1)
