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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor

from daskreg.geometry import Box, Grid
from daskreg.registration import filters
from daskreg.registration.flat_borders import SMALLEST, flat_borders

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


class Pyramid(Sequence[Level]):
    """Levels, from the coarsest to the finest, each smoothed when it is first asked for."""

    def __init__(self, steps: Iterable[_Step]) -> None:
        self._steps = tuple(steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Level]:
        return (step.level() for step in self._steps)

    @overload
    def __getitem__(self, index: int) -> Level: ...

    @overload
    def __getitem__(self, index: slice) -> Pyramid: ...

    def __getitem__(self, index: int | slice) -> Level | Pyramid:
        return Pyramid(self._steps[index]) if isinstance(index, slice) else self._steps[index].level()


class _Step:
    """A level that is still to be smoothed by its `sigmas`; shared by the parts of a pyramid."""

    def __init__(self, plain: Level) -> None:
        self.plain = plain
        self.ready = False

    def level(self) -> Level:
        if not self.ready and self.plain.sigmas is not None:
            pair = (self.plain.fixed, self.plain.moving)
            fixed, moving = (smooth(p, s) for p, s in zip(pair, self.plain.sigmas, strict=True))
            self.plain = replace(self.plain, fixed=fixed, moving=moving)
        self.ready = True
        return self.plain


def picture(values: Tensor, grid: Grid, mask: Tensor | None = None, *, borders: bool = True) -> Picture:
    """A Picture of (B, *shape) values; NaN and infinity become masked zeros.

    Args:
        mask: (B or 1, *shape), true or positive where voxels count; None: everywhere.
        borders: look for flat ones.
    """
    values = values.to(torch.float32)
    weight = None if mask is None else (mask > 0 if mask.dtype != torch.float32 else mask.clamp(0, 1)).to(torch.float32)
    if not all_finite(values):
        finite = torch.isfinite(values)
        values = torch.where(finite, values, values.new_zeros(()))
        weight = finite.to(torch.float32) if weight is None else weight * finite
    return Picture(values, weight, grid, flat_borders(values) if borders else None)


def all_finite(values: Tensor) -> bool:
    """Whether nothing is NaN or infinite; a sum tells in one pass where it is finite itself."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def pyramid(
    fixed: Picture, moving: Picture, *, levels: int | str = "auto", smoothing: float = 0.7, coarsest: int = COARSEST
) -> Pyramid:
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
    result: list[_Step] = []
    f, m = fixed, moving
    for level in range(count):
        step = base * 2**level
        f, m = (shrink(p, _factors(p.grid, step)) for p in (f, m))
        sigma = smoothing if level == 0 else _COARSE_SIGMA
        sigmas = tuple(_sigmas(f.grid, step, sigma)), tuple(_sigmas(m.grid, step, sigma))
        result.append(_Step(Level(f, m, step, sigmas)))
    return Pyramid(result[::-1])


def shrink(image: Picture, factors: Sequence[int]) -> Picture:
    """Means over whole blocks of `factors` voxels, valid voxels only."""
    if all(f == 1 for f in factors):
        return image
    used = Box.of([n // f * f for n, f in zip(image.grid.shape, factors, strict=True)])
    values, weight = filters.block_means(image.values, image.weight, factors)
    return Picture(values, weight, image.grid.crop(used).downsample(factors))


def smooth(image: Picture, sigmas: Sequence[float]) -> Picture:
    """A Gaussian of `sigmas` voxels along each axis, as a normalised convolution.

    Normalising also at the borders means that nothing is assumed about what lies outside.
    """
    if all(s <= 0 for s in sigmas):
        return image
    values, weight = filters.smoothed(image.values, image.weight, sigmas)
    return replace(image, values=values, weight=weight)


def standardised(fixed: Picture, moving: Picture, metric: str) -> tuple[Picture, Picture, Tensor]:
    """Both images with mean 0 and variance 1 (mse: on one common scale), and the (B,) variance of fixed.

    Sums of squares then lose no digits to a large offset.
    """
    mean, variance = filters.mean_and_variance(fixed.values, fixed.weight)
    other_mean, other_variance = filters.mean_and_variance(moving.values, moving.weight)
    if metric == "mse":
        other_mean, other_variance = mean, variance
        if len(mean) < len(moving.values):
            other_mean, other_variance = (t.expand(len(moving.values)) for t in (mean, variance))
        elif len(moving.values) < len(mean):
            moving = replace(moving, values=moving.values.expand(len(mean), *moving.values.shape[1:]))
    return _scaled(fixed, mean, variance), _scaled(moving, other_mean, other_variance), variance.cpu()


def _scaled(image: Picture, mean: Tensor, variance: Tensor) -> Picture:
    scale = torch.where(variance > 0, variance.rsqrt(), torch.ones_like(variance))
    return replace(image, values=filters.scaled(image.values, image.weight, mean, scale))


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
