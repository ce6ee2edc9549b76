"""Find flat borders: background, or what an earlier warp filled.

A border is flat where a corner of the image has one value, exactly or apart from the noise of
the image; it consists of the voxels of that value that are connected with the border. With noise it is
found on block means, in which the noise is small. Whether a flat border is background or fill is
decided later (`border_choice`).
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
from daskreg.registration.pyramids.flat_borders_numba import connected_with_border

SMALLEST = 8
"""Voxels along an axis below which an image is not reduced, and has no flat border."""
# Voxels along the longest side of the block means.
_SIDE = 128
# Voxels along a side of a corner.
_EXACT_CORNER, _NOISY_CORNER = 3, 6
# Voxels along the shortest side that block means need.
_MIN_SIDE = 32
# Standard deviations of the noise: the largest variation of a flat corner and of the border, the largest
# difference of a border voxel from the corner, and the least step from there to the voxels beyond; without
# a step the region is a smooth part of the image.
_MAX_CORNER, _MAX_BORDER, _MAX_DIFFERENCE, _MIN_STEP = 1.5, 1.3, 4.0, 8.0


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
    """Where the image has exactly the value of its flat corners."""
    corners = _corners(image, _EXACT_CORNER)
    flat = (corners == corners[:, :1]).all(-1)
    if not bool(flat.any()):
        return None
    value = corners[flat, 0].median()
    return torch.from_numpy(connected_with_border((image == value).cpu().numpy()))


def _noisy(image: Tensor) -> Tensor | None:
    """Where the image has the value of its flat corners apart from white noise."""
    if min(image.shape) < _MIN_SIDE:
        return None
    factor = max(1, math.ceil(max(image.shape) / _SIDE))
    size = tuple(factor if n >= _MIN_SIDE * factor else 1 for n in image.shape)
    means = block_means(image[None], None, size)[0][0]
    noise = _noise(image) / math.sqrt(math.prod(size))
    corners = _corners(means, _NOISY_CORNER)
    steady = corners.std(1) < _MAX_CORNER * noise
    if not bool(steady.any()):
        return None
    value = corners[steady].median(1).values.median()
    deviation = ((means - value) / noise).cpu().numpy()
    border = connected_with_border(np.abs(deviation) < _MAX_DIFFERENCE)
    beyond = ndimage.binary_dilation(border, iterations=3) & ~ndimage.binary_dilation(border)
    if not beyond.any() or deviation[border].std() > _MAX_BORDER or np.median(np.abs(deviation[beyond])) < _MIN_STEP:
        return None
    whole = torch.from_numpy(border)[None, None].to(torch.float32)
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
