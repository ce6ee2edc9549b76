"""Coarse-to-fine pyramids of image pairs, each level on grids of its own.

A level is made by means over whole blocks (voxels that fill no block at the far end are
left out, so no voxel of a level is off its centre) and a small Gaussian. Both images of
a pair go down together, by what their voxels measure in the world: an axis is halved
only where it is not coarser already, and the finer image is first brought to about the
resolution of the coarser one. Masks go down with the voxels: a mean counts valid ones
only, smoothing is a normalised convolution, so that nothing leaks out of a mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from daskreg.geometry import Box, Grid
from daskreg.kernels.flat import SMALLEST, flat_borders
from daskreg.kernels.smooth_numba import convolve_axis, tap_sums
from daskreg.kernels.threads import pool_threads

Singles = NDArray[np.float32]

COARSEST = 32
_COARSE_SIGMA = 0.7


@dataclass(frozen=True)
class Picture:
    """A batch of images at one level.

    values: (B, *shape) float32; finite everywhere, also where weight is zero.
    weight: (B or 1, *shape) float32 in 0..1, or None where every voxel counts.
    fill: (B, *shape) bool, the flat border (see `kernels.flat`), or None where there is none:
        background, or what an earlier warp had to fill (see `kernels.fill`).
    """

    values: Tensor
    weight: Tensor | None
    grid: Grid
    fill: Tensor | None = None

    def take(self, index: Tensor) -> Picture:
        """Some pairs of the batch; an image shared by all pairs stays shared."""
        weight, fill = (None if t is None else take(t, index) for t in (self.weight, self.fill))
        return Picture(take(self.values, index), weight, self.grid, fill)


@dataclass(frozen=True)
class Level:
    """One step of the pyramid.

    step: size of its voxels in the world. sigmas: of the Gaussian that smoothed (fixed,
    moving), in voxels along each axis; None where there was none.
    """

    fixed: Picture
    moving: Picture
    step: float
    sigmas: tuple[tuple[float, ...], tuple[float, ...]] | None = None


def picture(values: Tensor, grid: Grid, mask: Tensor | None = None, *, borders: bool = True) -> Picture:
    """A Picture of (B, *shape) values; NaN and infinity become masked zeros.

    Args:
        mask: (B or 1, *shape), true or positive where voxels count; None: everywhere.
        borders: look for flat ones.
    """
    values = values.to(torch.float32)
    finite = torch.isfinite(values)
    whole = bool(finite.all())
    if not whole:
        values = torch.where(finite, values, values.new_zeros(()))
    weight = None if mask is None else (mask > 0 if mask.dtype != torch.float32 else mask.clamp(0, 1)).to(torch.float32)
    if not whole:
        weight = finite.to(torch.float32) if weight is None else weight * finite
    return Picture(values, weight, grid, flat_borders(values) if borders else None)


def pyramid(
    fixed: Picture, moving: Picture, *, levels: int | str = "auto", smoothing: float = 0.7, coarsest: int = COARSEST
) -> list[Level]:
    """Levels from the coarsest to the finest.

    Args:
        levels: how many; "auto" goes down to about `coarsest` voxels along the longest side.
        smoothing: sigma of the finest level, in voxels of the coarser of the two images;
            coarser levels, which are means already, get 0.7 of their own.
    """
    base = max(min(fixed.grid.spacing), min(moving.grid.spacing))
    if levels == "auto":
        longest = max(max(_extent(p.grid)) for p in (fixed, moving))
        count = 1 + max(0, math.ceil(math.log2(longest / base / coarsest) - 0.1))
    else:
        count = max(1, int(levels))
    result: list[Level] = []
    current = [fixed, moving]
    for level in range(count):
        step = base * 2**level
        current = [shrink(p, _factors(p.grid, step)) for p in current]
        sigma = smoothing if level == 0 else _COARSE_SIGMA
        sigmas = [_sigmas(p.grid, step, sigma) for p in current]
        f, m = (smooth(p, s) for p, s in zip(current, sigmas, strict=True))
        result.append(Level(f, m, step, (tuple(sigmas[0]), tuple(sigmas[1]))))
    return result[::-1]


def shrink(image: Picture, factors: Sequence[int]) -> Picture:
    """Means over whole blocks of `factors` voxels, valid voxels only."""
    if all(f == 1 for f in factors):
        return image
    counts = [n // f for n, f in zip(image.grid.shape, factors, strict=True)]
    used = Box.of([n * f for n, f in zip(counts, factors, strict=True)])
    grid = image.grid.crop(used).downsample(factors)
    inside: Any = (..., *used.slices)
    if image.weight is None:
        return Picture(_block_mean(image.values[inside], factors), None, grid)
    weight = image.weight[inside]
    total = _block_mean(weight, factors)
    values = _block_mean(image.values[inside] * weight, factors) / total.clamp_min(1e-6)
    return Picture(values, total, grid)


def smooth(image: Picture, sigmas: Sequence[float]) -> Picture:
    """A Gaussian of `sigmas` voxels along each axis, as a normalised convolution.

    Normalising also at the borders means that nothing is assumed about what lies outside.
    """
    if all(s <= 0 for s in sigmas):
        return image
    if image.weight is None:
        return replace(image, values=_gaussian(image.values, sigmas, normalised=True))
    norm = _gaussian(image.weight, sigmas)
    values = _gaussian(image.values * image.weight, sigmas) / norm.clamp_min(1e-6)
    return replace(image, values=values, weight=image.weight * (norm > 1e-3))


def standardised(fixed: Picture, moving: Picture, metric: str) -> tuple[Picture, Picture, Tensor]:
    """Both images with mean 0 and variance 1 (mse: on one common scale), and the (B,) variance of fixed.

    Sums of squares then lose no digits to a large offset.
    """
    mean, variance = _mean_and_variance(fixed)
    other_mean, other_variance = _mean_and_variance(moving)
    if metric == "mse":
        other_mean, other_variance = mean, variance
        if len(mean) < len(moving.values):
            other_mean, other_variance = (t.expand(len(moving.values)) for t in (mean, variance))
        elif len(moving.values) < len(mean):
            moving = replace(moving, values=moving.values.expand(len(mean), *moving.values.shape[1:]))
    return _scaled(fixed, mean, variance), _scaled(moving, other_mean, other_variance), variance.cpu()


def _mean_and_variance(image: Picture) -> tuple[Tensor, Tensor]:
    if image.weight is None:
        # In float64, so that the number of threads that share a sum does not show in the float32 that follows.
        values = image.values.flatten(1)
        mean = values.mean(1, dtype=torch.float64)
        return mean, (values - mean[:, None].to(torch.float32)).square_().mean(1, dtype=torch.float64)
    values, weight = image.values.flatten(1), image.weight.flatten(1)
    total = weight.sum(1, dtype=torch.float64).clamp_min(1e-9)
    mean = (values * weight).sum(1, dtype=torch.float64) / total
    away = (values - mean[:, None].to(torch.float32)).square_()
    return mean, (away * weight).sum(1, dtype=torch.float64) / total


def _scaled(image: Picture, mean: Tensor, variance: Tensor) -> Picture:
    one = (-1, *[1] * image.grid.ndim)
    sd = variance.sqrt()
    sd = torch.where(sd > 0, sd, torch.ones_like(sd))
    values = (image.values - mean.to(torch.float32).reshape(one)) / sd.to(torch.float32).reshape(one)
    if image.weight is not None:
        values = values * (image.weight > 0)
    return replace(image, values=values)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of a batch; a batch of one is shared by all and stays."""
    return values if len(values) == 1 else values[index.to(values.device)]


def _extent(grid: Grid) -> list[float]:
    return [n * s for n, s in zip(grid.shape, grid.spacing, strict=True)]


def _factors(grid: Grid, step: float) -> list[int]:
    """Powers of two that bring the spacing near `step`, never below SMALLEST voxels."""
    factors = []
    for n, s in zip(grid.shape, grid.spacing, strict=True):
        power = max(0, round(math.log2(step / s)))
        while power > 0 and n // 2**power < SMALLEST:
            power -= 1
        factors.append(2**power)
    return factors


def _sigmas(grid: Grid, step: float, sigma: float) -> list[float]:
    """In voxels: `sigma` steps of the level, no more than two voxels, none across a thin axis."""
    ratio = [step / s for s in grid.spacing]
    return [sigma * min(2.0, max(0.7, r)) if n >= SMALLEST else 0.0 for n, r in zip(grid.shape, ratio, strict=True)]


def _block_mean(values: Tensor, factors: Sequence[int]) -> Tensor:
    ndim = len(factors)
    pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[ndim - 1]
    return pool(values[:, None], tuple(factors))[:, 0]


def _gaussian(values: Tensor, sigmas: Sequence[float], *, normalised: bool = False) -> Tensor:
    """Separable; zero outside, or `normalised` by the part of the kernel that is inside."""
    out = values
    for axis, sigma in enumerate(sigmas, start=1):
        if sigma <= 0:
            continue
        taps = gaussian_taps(sigma, values.shape[axis] - 1)
        out = convolve(out, taps, axis, normalised=normalised)
    return out


def gaussian_taps(sigma: float, most: int = 1 << 30) -> Singles:
    """The weights of a Gaussian, one for sigma 0, that reach no more than `most` voxels."""
    radius = min(math.ceil(3.5 * sigma), most)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-6)) ** 2)
    return np.asarray(taps / taps.sum(), dtype=np.float32)


def convolve(values: Tensor, taps: Singles, axis: int, *, normalised: bool = False) -> Tensor:
    """(B, *shape) float32 convolved along one axis with an odd number of taps; see `convolve_axis`."""
    if values.device.type == "cpu":
        return torch.as_tensor(convolve_axis(values.numpy(), taps, axis, normalised=normalised, threads=pool_threads()))
    ndim, n = values.ndim - 1, values.shape[axis]
    conv = (functional.conv1d, functional.conv2d, functional.conv3d)[ndim - 1]
    shape, padding = [1] * (ndim + 2), [0] * ndim
    shape[axis + 1], padding[axis - 1] = len(taps), len(taps) // 2
    out: Tensor = conv(values[:, None], torch.as_tensor(taps, device=values.device).reshape(shape), padding=padding)
    if normalised:
        shape[axis + 1] = n
        out = out / torch.as_tensor(tap_sums(n, taps), device=values.device).reshape(shape)
    return out[:, 0]
