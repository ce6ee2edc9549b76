"""The voxels of a pair that hold nothing of the specimen: they are masked in both images, and counted.

Codes of gaps are masked when an image is read (`images`). What two images of one detector have in common at the same
place is seen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from daskreg.registration.images import Image
from daskreg.registration.pyramids.bad_voxels import constant_gaps, hot_voxels


def without_bad_voxels(fixed: Sequence[Image], moving: Sequence[Image]) -> tuple[list[Image], list[Image]]:
    """The images with NaN in the voxels that are hot, dead or a gap of the detector in both images of a pair.

    Args:
        fixed: as many as `moving`, or one that all pairs share, which loses those of all pairs.
    """
    fixeds, movings = list(fixed), list(moving)
    for k, image in enumerate(moving):
        row = k if len(fixed) > 1 else 0
        bad = _bad_voxels(fixed[row], image)
        if bad is not None:
            fixeds[row], movings[k] = _without(fixeds[row], bad), _without(image, bad)
    return fixeds, movings


def _bad_voxels(fixed: Image, moving: Image) -> torch.Tensor | None:
    """(*shape) bool; None where there are none, or nothing is left without them."""
    if fixed.values.shape != moving.values.shape:
        return None
    pair = np.stack([image.values.cpu().numpy() for image in (fixed, moving)])
    bad = constant_gaps(pair)
    bad |= hot_voxels(np.where(bad, np.float32(np.nan), pair) if bad.any() else pair)
    if not bad.any():
        return None
    left = [image[~bad & np.isfinite(image)] for image in pair]
    return None if any(not len(v) or v.min() == v.max() for v in left) else torch.from_numpy(bad)


def _without(image: Image, bad: torch.Tensor) -> Image:
    bad = bad.to(image.values.device)
    count = int((bad & torch.isfinite(image.values)).sum())
    return replace(image, values=torch.where(bad, torch.nan, image.values), bad=image.bad + count)
