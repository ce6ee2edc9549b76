"""Find flat borders: background, or what an earlier warp had to fill.

A border is flat where a corner of the image holds one value, exactly or but for the noise of
the image, and as far as voxels of that value are connected with the border. With noise that is
told on block means, in which the noise is small. Whether a flat border is background or fill is
not decided here (see `kernels.fill`).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from daskreg.registration.pyramids.filters import block_means
from daskreg.registration.pyramids.flat_borders_numba import from_border

SMALLEST = 8
# Voxels along the longest side of the block means, and of a corner of them, at most and at least.
_SIDE, _CORNER, _LEAST = 128, 6, 32
# Standard deviations of the noise: what a flat corner and its border vary, what belongs to the border, and
# the step from there to what lies beyond, without which it is a smooth part of the image.
_STEADY, _EVEN, _ALIKE, _STEP = 1.5, 1.3, 4.0, 8.0


def flat_borders(values: Tensor) -> Tensor | None:
    """(B, *shape) bool, true on the flat border of each of (B, *shape) finite images; None if there is none."""
    if min(values.shape[1:]) < SMALLEST:
        return None
    found = [_exact(one) for one in values]
    found = [_noisy(one) if exact is None else exact for one, exact in zip(values, found, strict=True)]
    if all(one is None for one in found):
        return None
    blank = torch.zeros(values.shape[1:], dtype=torch.bool, device=values.device)
    return torch.stack([blank if one is None else one.to(values.device) for one in found])


def _exact(image: Tensor) -> Tensor | None:
    """Where it holds exactly the value of its flat corners."""
    corners = _corners(image, 3)
    flat = (corners == corners[:, :1]).all(-1)
    if not bool(flat.any()):
        return None
    level = corners[flat, 0].median()
    return torch.from_numpy(from_border((image == level).cpu().numpy()))


def _noisy(image: Tensor) -> Tensor | None:
    """The same but for noise that is white."""
    if min(image.shape) < _LEAST:
        return None
    factor = max(1, math.ceil(max(image.shape) / _SIDE))
    size = tuple(factor if n >= _LEAST * factor else 1 for n in image.shape)
    means = block_means(image[None], None, size)[0][0]
    noise = _noise(image) / math.sqrt(math.prod(size))
    corners = _corners(means, _CORNER)
    steady = corners.std(1) < _STEADY * noise
    if not bool(steady.any()):
        return None
    level = corners[steady].median(1).values.median()
    away = ((means - level) / noise).cpu().numpy()
    alike = from_border(np.abs(away) < _ALIKE)
    beyond = ndimage.binary_dilation(alike, iterations=3) & ~ndimage.binary_dilation(alike)
    if not beyond.any() or away[alike].std() > _EVEN or np.median(np.abs(away[beyond])) < _STEP:
        return None
    whole = torch.from_numpy(alike)[None, None].to(torch.float32)
    for axis, (n, f) in enumerate(zip(image.shape, size, strict=True)):
        index = torch.arange(n).div(f, rounding_mode="floor").clamp_max(whole.shape[axis + 2] - 1)
        whole = whole.index_select(axis + 2, index)
    return whole[0, 0] > 0


def _noise(image: Tensor) -> float:
    """Standard deviation of white noise, from second differences along the last axis (an upper bound)."""
    every: Any = tuple(slice(None, None, max(1, n // 64)) for n in image.shape[:-1])
    lines = image[every]
    second = (lines[..., 2:] - 2 * lines[..., 1:-1] + lines[..., :-2]).abs()
    return float(second.median()) / (0.6745 * math.sqrt(6))


def _corners(image: Tensor, side: int) -> Tensor:
    """(2**D, side**D) the voxels at each corner."""
    ends = [slice(0, side), slice(-side, None)]
    return torch.stack([image[c].flatten() for c in itertools.product(ends, repeat=image.ndim)])
