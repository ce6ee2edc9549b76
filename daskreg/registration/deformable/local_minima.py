"""Regions that ended in another minimum are estimated again, from what surrounds them.

Where a motion is larger than the structures, steps align one structure with its neighbour, and no later level moves it
back. The images contradict each other there, and beside it they do not. So the region is left out until the prior has
continued the motion of its surroundings into it, and takes part again from there. What is right by then is the
surroundings of what is left, until nothing is, or nothing gets better: the region shows other things in both images.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from daskreg.registration.deformable.agreement import agreement_of
from daskreg.registration.deformable.contradictions import inliers_of
from daskreg.registration.deformable.level_images import LevelImages
from daskreg.registration.deformable.solve_level import LevelEstimate
from daskreg.registration.deformable.splines.layers import Layers
from daskreg.registration.deformable.splines.one_layer import next_start
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.rejection import with_inliers

# Distances of control points by which a region is larger than what contradicts, one after the other where less does not
# help: beside it, voxels agree by chance, and keep it where it is.
_MARGINS = (0.0, 0.5, 1.0)
_MOST_ROUNDS = 10
# Shares of the overlap: less is not worth another solution, and with more there are no surroundings.
_FEW, _MUCH = 0.0005, 0.4
# By how much the misfit of all voxels has to fall: as a share of it, and of what the region adds to that of the others.
_BETTER, _PART = 0.01, 0.05


class Solve(Protocol):
    """`solve_level` with its options."""

    def __call__(self, images: LevelImages, layers: Layers, weight: float) -> LevelEstimate: ...


def out_of_local_minima(
    level: PyramidLevel, metric: str, images: LevelImages, state: LevelEstimate, solve: Solve
) -> tuple[LevelEstimate, Tensor]:
    """Solve a level again, if it has regions that get better from their surroundings; else it stays the same state.

    Args:
        level: of which `images` are. state: of the solver on all of these. solve: goes on from layers.

    Returns: the state, and the `inliers_of` it.
    """
    iterations, margins = state.iterations, iter(_MARGINS)
    margin, spacing, inliers = next(margins), state.layers.control.spacing, inliers_of(images, state.found)
    region = _contradicting(images, state, inliers)
    for _ in range(_MOST_ROUNDS):
        if not _FEW < _share(region, state) < _MUCH:
            break
        left_out = _dilated(region, state, images, margin)
        rest = LevelImages.of(with_inliers(level, torch.from_numpy(~left_out[None])), metric, spacing)
        continued = solve(rest, next_start(state.layers, level.step, unknown=left_out), state.weight)
        iterations += continued.iterations
        start = next_start(continued.layers, level.step, unknown=left_out)
        if continued.layers.finished and not start.finished:
            # One layer moves the region as smoothly as the prior wants it; several only seemed to.
            continued = solve(rest, start, continued.weight)
            iterations, start = iterations + continued.iterations, continued.layers
        again = solve(images, start, continued.weight)
        iterations += again.iterations
        misfit = state.found.misfit
        least = max(_BETTER * misfit, _PART * (misfit - continued.found.misfit))
        if again.converged and again.found.misfit < misfit - least:
            state, inliers = again, inliers_of(images, again.found)
            region = _contradicting(images, state, inliers)
        elif (wider := next(margins, None)) is not None:
            margin = wider
        else:
            break
    state.iterations = iterations
    return state, inliers


def _contradicting(images: LevelImages, state: LevelEstimate, inliers: Tensor) -> NDArray[np.bool_]:
    """(*shape) where the images contradict each other, or their gradients have little in common.

    With gain and offset of windows the values of any images are alike.
    """
    control = state.layers.control
    different = agreement_of(images, state.found, control).different[np.ix_(*control.nearest(images.fixed_grid))]
    return np.asarray(~inliers[0].numpy() | different)


def _share(region: NDArray[np.bool_], state: LevelEstimate) -> float:
    """Of the overlap."""
    return float((state.found.weight * region).sum(dtype=np.float64)) / max(state.found.total, 1e-9)


def _dilated(region: NDArray[np.bool_], state: LevelEstimate, images: LevelImages, margin: float) -> NDArray[np.bool_]:
    """The region and what is no farther from it than so many distances of control points along each axis."""
    spacing = zip(state.layers.control.spacing, images.fixed_grid.spacing, strict=True)
    size = [2 * round(margin * distance / voxel) + 1 for distance, voxel in spacing]
    return np.asarray(ndimage.maximum_filter(region, size=size))
