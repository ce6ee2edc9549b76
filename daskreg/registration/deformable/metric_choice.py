"""`metric="auto"`: whether gain and offset vary over the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Transform
from daskreg.registration.deformable.coarse_to_fine import LEAST_TOLERANCE, coarse_to_fine, schedule
from daskreg.registration.deformable.level_images import Evaluated, LevelImages
from daskreg.registration.deformable.multimodal.displacement_search import checkerboard
from daskreg.registration.deformable.splines.control_grid import ControlGrid
from daskreg.registration.deformable.splines.layers import Layers
from daskreg.registration.local_contrast.match import local_match
from daskreg.registration.local_contrast.windows import Windows
from daskreg.registration.pyramids.pyramid import PyramidLevel

_ROUNDING = 1e-6
"""What rounding leaves of images of variance 1."""
_ENOUGH = 2048
"""Voxels of a level that are compared."""
_BLOCK = 6
"""Voxels along a block of the checkerboard, and between the windows of gain and offset."""
_UNEVEN = 0.87
"""Gain and offset vary if those of the other blocks leave less than this part of the residual."""
_STEPS = 4
"""By which the images are brought near enough to each other."""
_COMMON = 0.7
"""The least correlation around the voxels that are compared: contradictions are no gains."""
_SEEN = 0.1
"""The least part of the overlap that is compared: of images that are not aligned nothing is known."""


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
    steps = min(max_iterations, _STEPS)
    solved = coarse_to_fine(levels, plan, start, metric="ncc", tolerance=LEAST_TOLERANCE, max_iterations=steps)
    images = LevelImages.of(levels[solved.number], "ncc")
    return "lncc" if left_by_other_blocks(images, solved.state.found) < _UNEVEN else "ncc"


def left_by_other_blocks(images: LevelImages, found: Evaluated) -> float:
    """The mean square of the residual with the gain and offset around each voxel, as a part of that with one of each.

    Those around a voxel are of the blocks of a checkerboard that do not hold it, so that they explain nothing by
    chance, and little of what is not aligned. Squares count as their window has less contrast. The one gain and offset
    are those of the same voxels, so that places that contradict each other have no part in them, either. 1 where there
    are too few of these, or nothing is left.
    """
    shape = images.fixed.shape
    windows, colour = Windows.of(shape, [_BLOCK] * len(shape)), checkerboard(shape, _BLOCK)
    around, weight = 0.0, np.zeros_like(found.weight)
    for own in (colour, ~colour):
        local = local_match(images.fixed, found.warped, found.weight * ~own, windows, repeats=0)
        counts = found.weight * own * local.precision * (local.common > _COMMON)
        around += float((counts * local.residual**2).sum(dtype=np.float64))
        weight += counts
    if float(found.weight[weight > 0].sum(dtype=np.float64)) < _SEEN * found.total:
        return 1.0
    total = float(weight.sum(dtype=np.float64))

    def mean(values: NDArray[np.float32]) -> float:
        return float((weight * values).sum(dtype=np.float64)) / total

    f, w = (x - np.float32(mean(x)) for x in (images.fixed, found.warped))
    one, variance = mean(f * f) - mean(f * w) ** 2 / max(mean(w * w), 1e-30), mean(f * f)
    # Of images that are equal but for rounding nothing is left to explain.
    return around / (one * total) if one > _ROUNDING * variance else 1.0
