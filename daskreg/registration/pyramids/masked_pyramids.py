"""The pyramid of a pair, and the same pyramid without flat borders.

An image that was warped before often has a flat border (zeros) instead of content.
Matched as if it were content, the step at its edge biases the pose by about half a voxel, and on
coarse levels the initial pose by far more. But a flat border may also be true background, and the edge of an object
against it is then the best feature to match. So there are two pyramids: with all voxels, and without flat borders,
masked before anything is smoothed. `initial_pose.BestCandidate` follows both where they lead to different poses, and
`multiresolution` ends without flat borders where these contradict the other image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from daskreg.geometry import Grid
from daskreg.registration.pyramids.filters import dilated, mean_and_variance
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel, pyramid, standardised

# Voxels around a flat border into which the earlier interpolation spread it: the rings of cubic splines fall to a
# fiftieth in three voxels. The edge of a border that was found on block means is known less well.
_MARGIN, _NOISY_MARGIN = 3, 6
# The least variance without the flat border, of images with variance 1: the flat inside of a phantom cannot be matched.
_MIN_CONTRAST = 1e-5


@dataclass(frozen=True)
class MaskedPyramids:
    """The levels of a batch of pairs, coarse to fine, and the same without flat borders, where there are any.

    variance: (B or 1,) of the fixed images, by which the levels were scaled.
    grid: of the fixed images, as they were before the pyramid.
    """

    levels: Sequence[PyramidLevel]
    borderless: Sequence[PyramidLevel] | None
    variance: Tensor
    grid: Grid

    @property
    def count(self) -> int:
        """How many pairs there are."""
        finest = self.levels[-1]
        return max(len(finest.fixed.values), len(finest.moving.values))

    def part(self, levels: slice) -> MaskedPyramids:
        """Some of the levels."""
        return replace(
            self, levels=self.levels[levels], borderless=None if self.borderless is None else self.borderless[levels]
        )

    def take(self, index: Tensor) -> MaskedPyramids:
        """Some pairs of the batch, on all levels."""
        borderless = None if self.borderless is None else [level.take(index) for level in self.borderless]
        variance = self.variance if len(self.variance) == 1 else self.variance[index]
        return MaskedPyramids([level.take(index) for level in self.levels], borderless, variance, self.grid)


def masked_pyramids(
    fixed: ImageBatch, moving: ImageBatch, metric: str, *, levels: int | str, smoothing: float
) -> MaskedPyramids:
    """Both pyramids (see `pyramid`) of images that are scaled for a metric (see `standardised`)."""
    f, m, variance = standardised(fixed, moving, metric)
    full = pyramid(f, m, levels=levels, smoothing=smoothing)
    masked = [_without_border(image) for image in (f, m)]
    if masked == [None, None]:
        return MaskedPyramids(full, None, variance, fixed.grid)
    f, m = masked[0] or f, masked[1] or m
    if metric != "mse":
        f, m, _ = standardised(f, m, metric)
    borderless = pyramid(f, m, levels=levels, smoothing=smoothing)
    return MaskedPyramids(full, borderless, variance, fixed.grid)


def _without_border(image: ImageBatch) -> ImageBatch | None:
    """The image with its flat border masked; None where it has none, or is flat without it too."""
    if image.flat_border is None:
        return None
    one_value = (
        bool((values[border] == values[border][:1]).all())
        for values, border in zip(image.values, image.flat_border, strict=True)
    )
    inside = ~dilated(image.flat_border, _MARGIN if all(one_value) else _NOISY_MARGIN)
    weight, filled = inside.to(torch.float32), None if image.filled is None else image.filled & inside
    if image.weight is not None:
        weight = weight * image.weight
    _, variance = mean_and_variance(image.values, weight)
    return (
        replace(image, weight=weight, flat_border=None, filled=filled)
        if bool((variance > _MIN_CONTRAST).all())
        else None
    )
