"""Filters of whole images: sums, scaling, block means, dilation, Gaussians.

On CPUs compiled code (`filters_numba`, `gaussian_numba`) or NumPy (`filters_numpy`), torch on other devices and where
nothing is compiled yet; a test compares them. Values are (B, *shape) float32, weights (B or 1, *shape) or None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from daskreg.registration.pyramids import filters_numba, filters_numpy, gaussian_numba
from daskreg.runtime.torch_instead import uses_compiled

Singles = NDArray[np.float32]
Weighted = tuple[Tensor, Tensor | None]


def gaussian_taps(sigma: float, most: int = 1 << 30) -> Singles:
    """The weights of a Gaussian, up to `most` voxels from its centre; for sigma 0 a single one."""
    radius = min(math.ceil(3.5 * sigma), most)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-6)) ** 2)
    return np.asarray(taps / taps.sum(), dtype=np.float32)


def mean_and_variance(values: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B,) float64 weighted means and variances of each image."""
    if uses_compiled(values):
        found = filters_numba.mean_and_variance(values.numpy(), _numpy(weight))
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])
    flat = values.flatten(1)
    weights = torch.ones_like(flat[:1]) if weight is None else weight.flatten(1)
    total = weights.expand_as(flat).sum(1, dtype=torch.float64).clamp_min(1e-9)
    mean = (flat * weights).sum(1, dtype=torch.float64) / total
    away = (flat - mean[:, None].to(torch.float32)).square_()
    return mean, (away * weights).sum(1, dtype=torch.float64) / total


def scaled(values: Tensor, weight: Tensor | None, mean: Tensor, scale: Tensor, *, in_place: bool = False) -> Tensor:
    """(values - mean) * scale, with (B,) means and scales; zero where there is no weight.

    Args:
        in_place: whether the values may be overwritten.
    """
    if uses_compiled(values):
        numbers = mean.numpy(), scale.numpy()
        return torch.from_numpy(filters_numpy.scaled(values.numpy(), _numpy(weight), *numbers, in_place=in_place))
    one = (-1, *[1] * (values.ndim - 1))
    found = (values - mean.to(torch.float32).reshape(one)) * scale.to(torch.float32).reshape(one)
    return found if weight is None else found * (weight > 0)


def block_means(values: Tensor, weight: Tensor | None, factors: Sequence[int]) -> Weighted:
    """Weighted means over whole blocks of `factors` voxels, and the mean weights; an incomplete block is left out."""
    if uses_compiled(values):
        return _tensors(filters_numba.block_means(values.numpy(), _numpy(weight), factors))
    inside: Any = (..., *(slice(n // f * f) for n, f in zip(values.shape[1:], factors, strict=True)))
    if weight is None:
        return _pooled(values[inside], factors), None
    total = _pooled(weight[inside], factors)
    return _pooled(values[inside] * weight[inside], factors) / total.clamp_min(1e-6), total


def smoothed(values: Tensor, weight: Tensor | None, sigmas: Sequence[float]) -> Weighted:
    """A Gaussian of `sigmas` voxels along each axis, as a normalised convolution.

    Returns: the values, and the weight, set to 0 where no weight is near.
    """
    taps = [gaussian_taps(s, n - 1) for s, n in zip(sigmas, values.shape[1:], strict=True)]
    if uses_compiled(values):
        return _tensors(gaussian_numba.smoothed(values.numpy(), _numpy(weight), taps))
    if weight is None:
        return _convolved(values, taps, normal=True), None
    norm = _convolved(weight, taps)
    return _convolved(values * weight, taps) / norm.clamp_min(1e-6), weight * (norm > 1e-3)


def dilated(mask: Tensor, radius: int) -> Tensor:
    """(B, *shape) bool, dilated by a cube of half width `radius`."""
    if uses_compiled(mask):
        return torch.from_numpy(filters_numpy.dilated(mask.numpy(), radius))
    taps = [np.ones(2 * radius + 1, dtype=np.float32)] * (mask.ndim - 1)
    return _convolved(mask.to(torch.float32), taps) > 0.5


def mean_square_gradient(values: Tensor, weight: Tensor | None, every: int = 1) -> Tensor:
    """(B,) float64 weighted means of the squares of the central differences, summed over the axes.

    every: use only every so many planes along the first axis.
    """
    if uses_compiled(values):
        return torch.from_numpy(filters_numba.mean_square_gradient(values.numpy(), _numpy(weight), every))
    total = values.new_zeros(len(values), dtype=torch.float64)
    for axis, n in enumerate(values.shape[1:], start=1):
        if n < 3:
            continue
        before, after = (values.narrow(axis, start, n - 2)[:, ::every] for start in (0, 2))
        squares = ((after - before) / 2).square()
        weights = torch.ones_like(squares) if weight is None else weight.narrow(axis, 1, n - 2)[:, ::every]
        weights = weights.expand_as(squares).flatten(1)
        count = weights.sum(1, dtype=torch.float64).clamp_min(1e-6)
        total += (squares.flatten(1) * weights).sum(1, dtype=torch.float64) / count
    return total


def local_means(values: Tensor, radius: int) -> Tensor:
    """Means over cubes of half width `radius` about each voxel, zero outside."""
    pool = functional.avg_pool2d if values.ndim == 3 else functional.avg_pool3d
    # Padded here: torch's own padding refuses volumes of fewer voxels than the cube along an axis.
    around = functional.pad(values, [radius] * (2 * (values.ndim - 1)))
    return pool(around[:, None], 2 * radius + 1, stride=1)[:, 0]


def _numpy(weight: Tensor | None) -> Any:
    return None if weight is None else weight.numpy()


def _tensors(found: tuple[Singles, Singles | None]) -> Weighted:
    return torch.from_numpy(found[0]), None if found[1] is None else torch.from_numpy(found[1])


def _pooled(values: Tensor, factors: Sequence[int]) -> Tensor:
    pool = functional.avg_pool2d if len(factors) == 2 else functional.avg_pool3d
    return pool(values[:, None], tuple(factors))[:, 0]


def _convolved(values: Tensor, taps: Sequence[Singles], *, normal: bool = False) -> Tensor:
    """Convolved axis by axis, zero outside; `normal`: divided by the sum of the taps that are inside.

    By sums of shifted images: a GPU's convolutions round to ten bits of mantissa (TF32) by default.
    """
    for axis, some in enumerate(taps, start=1):
        n, middle = values.shape[axis], len(some) // 2
        if len(some) == 1:
            continue
        out = values * float(some[middle])
        for reach in range(1, min(middle, n - 1) + 1):
            for tap, start, from_ in ((some[middle + reach], 0, reach), (some[middle - reach], reach, 0)):
                part = values.narrow(axis, from_, n - reach)
                out.narrow(axis, start, n - reach).add_(part, alpha=float(tap))
        if normal:
            inside = np.convolve(np.ones(n), some)[middle : middle + n]
            one = [1] * values.ndim
            one[axis] = -1
            out *= torch.as_tensor(1 / inside, dtype=out.dtype, device=out.device).reshape(one)
        values = out
    return values
