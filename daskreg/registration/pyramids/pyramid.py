"""Coarse-to-fine pyramids of image pairs, each level on grids of its own.

A level is made by means over whole blocks (voxels at the far end that fill no block are
left out, so that the voxels of a level stay centred on what they average) and a small Gaussian. Both images of
a pair are reduced together, by the size of their voxels in the world: an axis is halved
only where it is not coarser already, and the finer image is first brought to about the
resolution of the coarser one. Masks are reduced with the voxels: a mean counts valid voxels
only, and smoothing is a normalised convolution, so that no masked value has an effect.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor

from daskreg.geometry import Box, Grid
from daskreg.registration.pyramids import filters
from daskreg.registration.pyramids.flat_borders import SMALLEST, flat_borders
from daskreg.registration.pyramids.missing_lines import fill_missing_lines, mostly_filled

COARSEST = 32
_COARSE_SIGMA = 0.7
# Voxels by which an image is smoothed of which nearly half of the lines are filled: what these lack of the highest
# frequencies would move a pose by up to 0.2 voxels.
_FILLED_SIGMA = 1.0
# A mean of ones above this is that of ones only.
_ALL = 1 - 1e-5


@dataclass(frozen=True)
class ImageBatch:
    """A batch of images at one level.

    values: (B, *shape) float32; finite everywhere, also where weight is zero.
    weight: (B or 1, *shape) float32 in 0..1, or None where every voxel counts.
    flat_border: (B, *shape) bool (see `flat_borders`), or None where there is none that is not masked. It is either
        background, or what an earlier warp filled (see `masked_pyramids`).
    filled: (B, *shape) bool, voxels of weight zero whose values take part in smoothing (see `missing_lines`), or None.
    """

    values: Tensor
    weight: Tensor | None
    grid: Grid
    flat_border: Tensor | None = None
    filled: Tensor | None = None

    def take(self, index: Tensor) -> ImageBatch:
        """Some pairs of the batch; an image shared by all pairs stays shared."""
        others = (self.weight, self.flat_border, self.filled)
        weight, border, filled = (None if t is None else take(t, index) for t in others)
        return ImageBatch(take(self.values, index), weight, self.grid, border, filled)

    @property
    def smoothed_weight(self) -> Tensor | None:
        """With which voxels take part in smoothing."""
        return self.weight if self.weight is None or self.filled is None else torch.maximum(self.weight, self.filled)

    @property
    def with_filled(self) -> ImageBatch:
        """The same images, of which filled voxels count as others do."""
        return self if self.filled is None else replace(self, weight=self.smoothed_weight, filled=None)


@dataclass(frozen=True)
class PyramidLevel:
    """Both images of the pairs at one level.

    step: size of its voxels in the world. sigmas: of the Gaussian that smoothed (fixed,
    moving), in voxels along each axis; None where there was none.
    """

    fixed: ImageBatch
    moving: ImageBatch
    step: float
    sigmas: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def take(self, index: Tensor) -> PyramidLevel:
        """Some pairs of the batch; an image shared by all pairs stays shared."""
        return replace(self, fixed=self.fixed.take(index), moving=self.moving.take(index))


class Pyramid(Sequence[PyramidLevel]):
    """Levels, from the coarsest to the finest, each smoothed when it is first used."""

    def __init__(self, levels: Iterable[_LazyLevel]) -> None:
        self._levels = tuple(levels)

    def __len__(self) -> int:
        return len(self._levels)

    def __iter__(self) -> Iterator[PyramidLevel]:
        return (level.smoothed() for level in self._levels)

    @overload
    def __getitem__(self, index: int) -> PyramidLevel: ...

    @overload
    def __getitem__(self, index: slice) -> Pyramid: ...

    def __getitem__(self, index: int | slice) -> PyramidLevel | Pyramid:
        return Pyramid(self._levels[index]) if isinstance(index, slice) else self._levels[index].smoothed()


class _LazyLevel:
    """A level that is smoothed by its `sigmas` when it is first used; slices of a pyramid share it."""

    def __init__(self, level: PyramidLevel) -> None:
        self._level = level
        self._ready = False

    def smoothed(self) -> PyramidLevel:
        if not self._ready and self._level.sigmas is not None:
            pair = (self._level.fixed, self._level.moving)
            fixed, moving = (smooth(p, s) for p, s in zip(pair, self._level.sigmas, strict=True))
            self._level = replace(self._level, fixed=fixed, moving=moving)
        self._ready = True
        return self._level


def image_batch(values: Tensor, grid: Grid, mask: Tensor | None = None, *, find_borders: bool = True) -> ImageBatch:
    """An ImageBatch of (B, *shape) values; NaN and infinity become masked zeros.

    Args:
        mask: (B or 1, *shape), true or positive where voxels count; None: everywhere.
        find_borders: look for flat borders.
    """
    values = values.to(torch.float32)
    weight = None if mask is None else (mask > 0 if mask.dtype != torch.float32 else mask.clamp(0, 1)).to(torch.float32)
    filled = None
    if not all_finite(values):
        finite = torch.isfinite(values)
        values = torch.where(finite, values, values.new_zeros(()))
        filled = fill_missing_lines(values, ~finite, None if weight is None else weight == 0)
        weight = finite.to(torch.float32) if weight is None else weight * finite
    border = flat_borders(values) if find_borders else None
    if filled is not None and weight is not None:
        values, weight, filled = _counting_filled(values, weight, filled)
    if border is not None and weight is not None:
        border = border & (weight > 0)
        border = border if bool(border.any()) else None
    return ImageBatch(values, weight, grid, border, filled)


def _counting_filled(values: Tensor, weight: Tensor, filled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The images of which so many lines were filled that these have to count, smoothed; other images as they are.

    Of every second line, none may coincide with one of the other image.
    """
    many = mostly_filled(filled).reshape(-1, *[1] * (filled.ndim - 1))
    if not bool(many.any()):
        return values, weight, filled
    weight = torch.maximum(weight, (filled & many).to(torch.float32))
    blurred, _ = filters.smoothed(values, weight, [_FILLED_SIGMA] * (values.ndim - 1))
    return torch.where(many, blurred, values), weight, filled & ~many


def all_finite(values: Tensor) -> bool:
    """Whether nothing is NaN or infinite; where the sum is finite, one pass is enough."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def pyramid(
    fixed: ImageBatch,
    moving: ImageBatch,
    *,
    levels: int | str = "auto",
    smoothing: float = 0.7,
    coarsest: int = COARSEST,
) -> Pyramid:
    """Levels from the coarsest to the finest.

    Args:
        levels: how many; "auto": until about `coarsest` voxels are left along the longest side.
        smoothing: sigma of the finest level, in voxels of the coarser of the two images;
            coarser levels, which are means already, get 0.7 of their own voxels.
    """
    base = _base(fixed.grid, moving.grid)
    if levels == "auto":
        longest = max(max(_extent(p.grid)) for p in (fixed, moving))
        count = 1 + max(0, math.ceil(math.log2(longest / base / coarsest) - 0.1))
    else:
        count = max(1, int(levels))
    result: list[_LazyLevel] = []
    f, m = fixed, moving
    for level in range(count):
        step = base * 2**level
        f, m = (shrink(p, _factors(p.grid, step)) for p in (f, m))
        sigma = smoothing if level == 0 else _COARSE_SIGMA
        sigmas = _sigmas(f.grid, step, sigma), _sigmas(m.grid, step, sigma)
        result.append(_LazyLevel(PyramidLevel(f, m, step, sigmas)))
    return Pyramid(result[::-1])


@dataclass(frozen=True)
class FinestLevel:
    """What the finest level of a pyramid is made of, from the grids of both images alone; tuples of (fixed, moving).

    factors: voxels of the image along each axis of which one of the level is the mean. grids: of the level. step: size
    of its voxels in the world. sigmas: of the Gaussian, in voxels of the level.
    """

    factors: tuple[tuple[int, ...], tuple[int, ...]]
    grids: tuple[Grid, Grid]
    step: float
    sigmas: tuple[tuple[float, ...], tuple[float, ...]]

    @classmethod
    def of(cls, fixed: Grid, moving: Grid, smoothing: float) -> FinestLevel:
        """As `pyramid` makes it."""
        step = _base(fixed, moving)
        factors = tuple(_factors(fixed, step)), tuple(_factors(moving, step))
        grids = _shrunk(fixed, factors[0]), _shrunk(moving, factors[1])
        return cls(factors, grids, step, (_sigmas(grids[0], step, smoothing), _sigmas(grids[1], step, smoothing)))


def shrink(image: ImageBatch, factors: Sequence[int]) -> ImageBatch:
    """Means over whole blocks of `factors` voxels, valid voxels only."""
    if all(f == 1 for f in factors):
        return image
    values, weight = filters.block_means(image.values, image.smoothed_weight, factors)
    border = image.flat_border
    if border is not None:
        border = filters.block_means(border.to(torch.float32), None, factors)[0] > _ALL
    return ImageBatch(values, weight, _shrunk(image.grid, factors), border)


def _shrunk(grid: Grid, factors: Sequence[int]) -> Grid:
    used = Box.of([n // f * f for n, f in zip(grid.shape, factors, strict=True)])
    return grid.crop(used).downsample(factors)


def smooth(image: ImageBatch, sigmas: Sequence[float]) -> ImageBatch:
    """A Gaussian of `sigmas` voxels along each axis, as a normalised convolution.

    Normalising also at the borders means that nothing is assumed about what lies outside.
    """
    if all(s <= 0 for s in sigmas):
        return image
    values, weight = filters.smoothed(image.values, image.smoothed_weight, sigmas)
    if weight is not None and image.filled is not None:
        weight = weight * ~image.filled
    return replace(image, values=values, weight=weight)


def standardised(fixed: ImageBatch, moving: ImageBatch, metric: str) -> tuple[ImageBatch, ImageBatch, Tensor]:
    """Both images with mean 0 and variance 1 (mse: on one common scale), and the (B,) variance of fixed.

    So sums of squares lose no digits to a large offset.
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


def _scaled(image: ImageBatch, mean: Tensor, variance: Tensor) -> ImageBatch:
    scale = torch.where(variance > 0, variance.rsqrt(), torch.ones_like(variance))
    return replace(image, values=filters.scaled(image.values, image.smoothed_weight, mean, scale))


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of a batch; a batch of one is shared by all and stays."""
    return values if len(values) == 1 else values[index.to(values.device)]


def _base(fixed: Grid, moving: Grid) -> float:
    """The size of the voxels of the finest level."""
    return max(min(fixed.spacing), min(moving.spacing))


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


def _sigmas(grid: Grid, step: float, sigma: float) -> tuple[float, ...]:
    """In voxels: `sigma` steps of the level, at most two voxels per step, and 0 along a thin axis."""
    ratio = [step / s for s in grid.spacing]
    return tuple(
        sigma * min(2.0, max(0.7, r)) if n >= SMALLEST else 0.0 for n, r in zip(grid.shape, ratio, strict=True)
    )
