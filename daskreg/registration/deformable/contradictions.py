"""Where the aligned images of a level contradict each other, and whether these regions are left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from daskreg.registration.deformable.level_images import Evaluated, LevelImages, Singles
from daskreg.registration.deformable.solve_level import LevelEstimate
from daskreg.registration.rejection import contradictions

_MOST_REJECTED = 0.1
"""Of the overlap. More are no exceptions, but differences with a wide distribution, as of sparse bright structures, or
what finer control points may still align."""
_MOST_STRUCTURE = 0.5
"""Of the variance of both images. A region that holds more is what the images show, as a specimen in empty space."""
_BY_CHANCE = 2.0
"""Standard deviations of the correlation of unrelated images."""


@dataclass(frozen=True)
class Contradictions:
    """Where aligned images contradict each other.

    inliers: (1, *shape) bool, false there; None where that is nowhere, or much of the images. share: of the overlap.
    unrelated: whether that is much of the images, and these agree there by no more than chance.
    """

    inliers: Tensor | None
    share: float
    unrelated: bool


def contradictions_of(images: LevelImages, state: LevelEstimate, inliers: Tensor | None = None) -> Contradictions:
    """After the images of a level are aligned.

    Args:
        inliers: `inliers_of` these, where they are known.
    """
    found = state.found
    inliers = inliers_of(images, found) if inliers is None else inliers
    outside = found.weight * ~inliers[0].numpy()
    share = float(outside.sum(dtype=np.float64)) / max(found.total, 1e-6)
    if not share > 0:
        return Contradictions(None, share, unrelated=False)
    if share < _MOST_REJECTED and _structure_share(images, found, outside) < _MOST_STRUCTURE:
        return Contradictions(inliers, share, unrelated=False)
    total = float(outside.sum(dtype=np.float64))
    f, w = (x - float((outside * x).sum(dtype=np.float64)) / total for x in (images.fixed, found.predicted))
    ff, fw, ww = (float((outside * a * b).sum(dtype=np.float64)) for a, b in ((f, f), (f, w), (w, w)))
    # Structures that differ in brightness are similar all the same; the correlation of unrelated ones deviates by this.
    deviation = np.sqrt(state.noise.correlated / total)
    correlation = fw / max(np.sqrt(ff * ww), 1e-12)
    return Contradictions(None, share, unrelated=bool(correlation < _BY_CHANCE * deviation))


def inliers_of(images: LevelImages, found: Evaluated) -> Tensor:
    """(1, *shape) false where the aligned images of a level contradict each other, however much that is, but not more
    than half of the overlap."""
    fixed, other, weight = (torch.from_numpy(x[None]) for x in (images.fixed, found.predicted, found.weight))
    return contradictions(fixed, other, weight, matched=images.matched)


def _structure_share(images: LevelImages, found: Evaluated, region: Singles) -> float:
    """How much of the variance of both images is in a region with this weight: of dirt in one image, not much."""
    shares = []
    for image in (images.fixed, found.warped):
        mean = float((found.weight * image).sum(dtype=np.float64)) / max(found.total, 1e-9)
        square = (image - np.float32(mean)) ** 2
        inside, whole = (float((weight * square).sum(dtype=np.float64)) for weight in (region, found.weight))
        shares.append(inside / max(whole, 1e-30))
    return min(shares)
