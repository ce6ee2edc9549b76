"""Leave out what an earlier warp had to fill.

An image that was moved before often comes with a flat border (zeros) instead of content.
Matched as if it were content, the step at its edge pulls the pose by half a voxel or so, and on
coarse levels the start by far more. A flat border may also be true background, whose edge is the
best there is to match. So there are two ways down: with everything, and with the content alone,
masked before anything is smoothed. `search.views` follows both where they lead apart, and
`descend` keeps the second where the borders turn out to be at odds with the other image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from daskreg.kernels.pyramid import Level, Picture, convolve, pyramid, standardised

# As far, in voxels, as smoothing and the earlier interpolation carry the edge of a fill.
_MARGIN = 6
# Variance that must be left, of images with variance 1: a phantom's flat inside is nothing to match.
_LEAST_CONTRAST = 1e-5


@dataclass(frozen=True)
class Ways:
    """The levels of a pair, coarse to fine, and the same without flat borders, where there are any.

    variance: (B or 1,) of the fixed images, by which the levels were scaled.
    """

    whole: list[Level]
    content: list[Level] | None
    variance: Tensor


def ways(fixed: Picture, moving: Picture, metric: str, *, levels: int | str, smoothing: float) -> Ways:
    """Both ways down the pyramid (see `pyramid`), of images scaled for a metric (see `standardised`)."""
    f, m, variance = standardised(fixed, moving, metric)
    whole = pyramid(f, m, levels=levels, smoothing=smoothing)
    inner = [_masked(p, _MARGIN) for p in (f, m)]
    if inner == [None, None]:
        return Ways(whole, None, variance)
    f, m = inner[0] or f, inner[1] or m
    if metric == "ncc":
        f, m, _ = standardised(f, m, metric)
    return Ways(whole, pyramid(f, m, levels=levels, smoothing=smoothing), variance)


def _masked(image: Picture, margin: int) -> Picture | None:
    if image.fill is None:
        return None
    content = ~grown(image.fill, margin)
    if bool(content.all()):
        return None
    told = [values[counts] for values, counts in zip(image.values, content, strict=True)]
    if not all(len(t) > 1 and float(t.var()) > _LEAST_CONTRAST for t in told):
        return None
    weight = content.to(torch.float32)
    return replace(image, weight=weight if image.weight is None else weight * image.weight)


def grown(mask: Tensor, radius: int) -> Tensor:
    """Dilated by a cube of half width `radius`."""
    out = mask.to(torch.float32)
    taps = np.ones(2 * radius + 1, dtype=np.float32)
    for axis in range(1, mask.ndim):
        out = (convolve(out, taps, axis) > 0.5).to(torch.float32)
    return out > 0.5
