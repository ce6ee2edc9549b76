"""Leave out what an earlier warp had to fill.

An image that was moved before often comes with a flat border (zeros) instead of content.
Matched as if it were content, the step at its edge pulls the pose by half a voxel or so.
A flat border may also be true background, whose edge is the best there is to match. So
`descend` tries the finest level without flat borders, with a margin, and keeps that only
where they turn out to be at odds with the other image.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from daskreg.kernels.pyramid import Level, Picture

# As far, in voxels, as smoothing and the earlier interpolation carry the edge of a fill.
_MARGIN = 6
# Variance that must be left, of images with variance 1: a phantom's flat inside is nothing to match.
_LEAST_CONTRAST = 1e-5


def without_fill(level: Level, *, margin: int = _MARGIN) -> Level | None:
    """The level with flat borders and a margin masked, in both images (with variance 1).

    None where there are no such borders, or nothing but flat voxels is left.
    """
    fixed, moving = _masked(level.fixed, margin), _masked(level.moving, margin)
    if fixed is None and moving is None:
        return None
    return replace(level, fixed=fixed or level.fixed, moving=moving or level.moving)


def _masked(image: Picture, margin: int) -> Picture | None:
    if image.fill is None:
        return None
    content = ~_grown(image.fill, margin)
    if bool(content.all()):
        return None
    weight = content.to(torch.float32)
    if not float(_contrast(image.values, weight).min()) > _LEAST_CONTRAST:
        return None
    return replace(image, weight=weight if image.weight is None else weight * image.weight)


def _contrast(values: Tensor, weight: Tensor) -> Tensor:
    """(B,) variance of the values that count."""
    v, w = (t.flatten(1).to(torch.float64) for t in (values, weight.expand_as(values)))
    total = w.sum(1).clamp_min(1e-9)
    mean = (v * w).sum(1) / total
    return ((v - mean[:, None]).square() * w).sum(1) / total


def _grown(mask: Tensor, radius: int) -> Tensor:
    """Dilated by a cube of half width `radius`."""
    ndim = mask.ndim - 1
    pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[ndim - 1]
    out = mask.to(torch.float32)[:, None]
    for axis in range(ndim):
        size, padding = [1] * ndim, [0] * ndim
        size[axis], padding[axis] = 2 * radius + 1, radius
        out = pool(out, tuple(size), stride=1, padding=tuple(padding))
    return out[:, 0] > 0.5
