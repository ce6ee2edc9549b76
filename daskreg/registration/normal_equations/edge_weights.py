"""Weights of voxels near the edges of an image, and the scaled index xi of the fixed image.

A voxel has weight 1 inside an image, and the weight falls to 0 at the outer faces, so that an overlap grows
and shrinks smoothly as an image moves.

xi is the index of the fixed image, scaled to [-1, 1] along each axis, with a trailing 1.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daskreg.registration.pyramids.pyramid import PyramidLevel

Floats = NDArray[np.float64]


def scaling(shape: tuple[int, ...]) -> Floats:
    """(D+1, D+1) from xi to fixed indices."""
    half = np.array([(n - 1) / 2 for n in shape])
    m = np.diag([*np.maximum(half, 0.5), 1.0])
    m[:-1, -1] = half
    return m


def scaled_axis(n: int) -> Floats:
    """(n,) xi along an axis of n voxels.

    It is float64 wherever positions are computed from it: a voxel of a long axis is few units of the last place of
    float32.
    """
    half = max((n - 1) / 2, 0.5)
    return np.asarray((np.arange(n) - (n - 1) / 2) / half)


def scaled_step(n: int) -> float:
    """The difference of neighbours in `scaled_axis`, without its rounding, which would grow along a long row."""
    return 1 / max((n - 1) / 2, 0.5)


def edge_weight(index: Tensor, last: Tensor | float, width: Tensor | float) -> Tensor:
    """The weight at an index along an axis whose last index is `last`; `width` is that of `edge_width`."""
    inside: Tensor = torch.minimum(index, last - index) + 0.5
    return (inside / width).clamp(0, 1)


def edge_width(n: int) -> float:
    """Voxels over which the weight rises from 0 to 1, along an axis of n voxels.

    Near an edge, smoothing knows one side only. An axis of few voxels gets a width of one voxel.
    """
    return 2.0 if n >= 48 else 1.0


def axis_weights(n: int, device: torch.device) -> Tensor:
    """(n,) float32 weights along an axis of n voxels."""
    return edge_weight(torch.arange(n, dtype=torch.float32), n - 1, edge_width(n)).to(device)


def fixed_weight(level: PyramidLevel) -> Tensor:
    """(1 or B, *shape) the mask weight of the fixed image times its edge weights."""
    shape = level.fixed.grid.shape
    device = level.fixed.values.device
    weight = torch.ones((1,) * (len(shape) + 1), device=device)
    for axis, n in enumerate(shape):
        one = [1] * (len(shape) + 1)
        one[axis + 1] = -1
        weight = weight * axis_weights(n, device).reshape(one)
    return weight if level.fixed.weight is None else weight * level.fixed.weight


def possible_overlap(level: PyramidLevel) -> Floats:
    """(B or 1,) the total weight of the smaller of the two images, in voxels of the fixed image."""
    shape = level.fixed.grid.shape
    if level.fixed.weight is None:
        fixed = np.array([math.prod(float(axis_weights(n, torch.device("cpu")).sum()) for n in shape)])
    else:
        fixed = fixed_weight(level).flatten(1).sum(1, dtype=torch.float64).cpu().numpy()
    ratio = math.prod(level.moving.grid.spacing) / math.prod(level.fixed.grid.spacing)
    if level.moving.weight is None:
        moving = np.array([float(math.prod(level.moving.grid.shape))])
    else:
        moving = level.moving.weight.flatten(1).sum(1, dtype=torch.float64).cpu().numpy()
    return np.asarray(np.maximum(np.minimum(fixed, moving * ratio), 1e-9))
