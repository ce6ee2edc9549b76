"""Leave out what an earlier warp had to fill.

An image that was moved before often comes with a flat border (zeros) instead of content.
Matched as if it were content, the step at its edge pulls the pose by half a voxel or so, and on
coarse levels the start by far more. A flat border may also be true background, whose edge is the
best there is to match. So there are two ways down: with everything, and with the content alone,
masked before anything is smoothed. `search.views` follows both where they lead apart, and
`descend` keeps the second where the borders turn out to be at odds with the other image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from daskreg.registration.filters import dilated, mean_and_variance
from daskreg.registration.pyramid import Level, Picture, pyramid, standardised

# As far, in voxels, as smoothing and the earlier interpolation carry the edge of a fill.
_MARGIN = 6
# Variance that must be left, of images with variance 1: a phantom's flat inside is nothing to match.
_LEAST_CONTRAST = 1e-5


@dataclass(frozen=True)
class Ways:
    """The levels of a pair, coarse to fine, and the same without flat borders, where there are any.

    variance: (B or 1,) of the fixed images, by which the levels were scaled.
    """

    whole: Sequence[Level]
    content: Sequence[Level] | None
    variance: Tensor


def ways(fixed: Picture, moving: Picture, metric: str, *, levels: int | str, smoothing: float) -> Ways:
    """Both ways down the pyramid (see `pyramid`), of images scaled for a metric (see `standardised`)."""
    f, m, variance = standardised(fixed, moving, metric)
    whole = pyramid(f, m, levels=levels, smoothing=smoothing)
    inner = [_masked(p) for p in (f, m)]
    if inner == [None, None]:
        return Ways(whole, None, variance)
    f, m = inner[0] or f, inner[1] or m
    if metric == "ncc":
        f, m, _ = standardised(f, m, metric)
    return Ways(whole, pyramid(f, m, levels=levels, smoothing=smoothing), variance)


def _masked(image: Picture) -> Picture | None:
    """Without its flat border; None where there is none, or nothing but a flat inside."""
    if image.fill is None:
        return None
    weight = (~dilated(image.fill, _MARGIN)).to(torch.float32)
    if image.weight is not None:
        weight = weight * image.weight
    _, variance = mean_and_variance(image.values, weight)
    return replace(image, weight=weight) if bool((variance > _LEAST_CONTRAST).all()) else None
