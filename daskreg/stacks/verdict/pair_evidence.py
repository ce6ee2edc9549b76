"""Whether two slices that were aligned agree more than what does not belong together, outlines left out.

Both slices are divided into small tiles, and every tile of one is correlated with every tile of the other. Tiles at
one place belong together, all others do not: what these have in common gives each tile a known scale of chance, so
that tiles of noise weigh no more than they tell, and a specimen that agrees here and not there is not taken for noise.
The scaled correlations are limited, so that no single tile decides. Their sum is compared with the sums that the tiles
give when all are shifted against each other alike, which also have what is common to many tiles, such as stripes.

A surround that is flat is left out with a margin: unrelated sections of one outline agree where it ends. So are plane
changes within tiles, as of shading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

TILE = 8
"""Voxels along each axis of a tile, of small levels."""

LEAST_TILES = 16
"""Tiles that count, from which on they are compared: unrelated noise in few may agree by chance."""

# Share of a tile that counts, at least, and its least variance (that of an image is one).
_LEAST_SHARE, _LEAST_VARIANCE = 0.4, 1e-5
# Limit of a tile's correlation, in its standard deviations by chance; and how far these go towards their mean.
_LIMIT, _SHRINK = 3.0, 0.3
# The border of an image, in voxels; the largest spread of a flat one, and the least that is told from it.
_BORDER, _FLAT, _LEAST_SPREAD = 2, 0.15, 0.1
# Side of a box that a surround fills to this share, and the margin within which outlines lie.
_BOX, _FILLED, _MARGIN = 9, 0.9, 4
_ROUNDED = 1e-3  # a mean of zeros, less than that of a single one
# Voxels that are compared at once, by device, so that all tiles with all others fit the caches.
_VOXELS = {"cpu": 1 << 17, "cuda": 1 << 22}


def tile_evidence(fixed: Tensor, moving: Tensor, weight: Tensor, borders: tuple[Tensor, Tensor]) -> Tensor:
    """(B,) log-likelihood ratios of "related" against "unrelated", in nats (see `registration.verdict.evidence`).

    Args:
        fixed, moving: (B, Y, X), standardised, the moving ones as sampled at their poses.
        weight: of voxels, from 0 to 1.
        borders: (B, 2) those of the fixed and of the moving images (see `border_levels`).

    Returns: NaN where too few tiles count.
    """
    if fixed.ndim != 3 or math.prod(n // TILE for n in fixed.shape[1:]) < LEAST_TILES:
        return fixed.new_full((len(fixed),), math.nan)
    step = max(1, _VOXELS.get(fixed.device.type, 1 << 17) // math.prod(fixed.shape[1:]))
    parts = zip(*(values.split(step) for values in (fixed, moving, weight, *borders)), strict=True)
    return torch.cat([_of_tiles(f, m, w, (one, other)) for f, m, w, one, other in parts])


def _of_tiles(fixed: Tensor, moving: Tensor, weight: Tensor, borders: tuple[Tensor, Tensor]) -> Tensor:
    rows, columns = (n // TILE for n in fixed.shape[1:])
    counted = weight > 0.5
    for images, border in zip((fixed, moving), borders, strict=True):
        if (border[:, 1] < _FLAT).any():
            counted = counted & ~_surround(images, border)
    share = _tiles(counted.to(fixed.dtype), rows, columns)
    planes = _planes(share)
    one, other = (_normalised(_tiles(image, rows, columns), share, planes) for image in (fixed, moving))
    # Constant tiles have the norm zero, others one.
    varied = torch.linalg.vecdot(one, one) * torch.linalg.vecdot(other, other) > 0.5
    valid = (share.mean(2) >= _LEAST_SHARE) & varied
    one, other = one * valid[..., None], other * valid[..., None]
    return _evidence(one, other, valid, rows, columns)


def border_levels(images: Tensor, weight: Tensor | None) -> Tensor:
    """(B, 2) median and robust standard deviation of the smoothed border of (B, Y, X) images; NaN if masked."""
    if images.ndim != 3:
        return images.new_full((len(images), 2), math.nan)
    wide, border = _BORDER + 1, []
    for axis in (1, 2):
        for strip in (slice(0, wide), slice(-wide, None)):
            at = (slice(None),) * axis + (strip,)
            smooth = _mean(images[at], 3)
            if weight is not None:
                smooth = torch.where(weight[at] > 0.5, smooth, torch.nan)
            start = 0 if strip.start == 0 else 1
            border.append(smooth.narrow(axis, start, min(_BORDER, smooth.shape[axis] - start)).flatten(1))
    values = torch.cat(border, 1)
    level = values.nanmedian(1).values
    spread = 1.4826 * (values - level[:, None]).abs().nanmedian(1).values
    return torch.stack([level, spread], 1)


def _evidence(one: Tensor, other: Tensor, valid: Tensor, rows: int, columns: int) -> Tensor:
    """From (B, T, TILE^2) tiles of norm one, of which (B, T) are valid and the others zero."""
    count = valid.sum(1).to(one.dtype)
    own = torch.linalg.vecdot(one, other)
    # Sums of the squared correlations of each tile with all of the other image.
    squares = sum(torch.linalg.vecdot(a @ (b.transpose(1, 2) @ b), a) for a, b in ((one, other), (other, one)))
    chance = (squares - 2 * own.square()) / (2 * (count - 1).clamp_min(1))[:, None]
    usual = chance.sum(1) / count.clamp_min(1)
    chance = ((1 - _SHRINK) * chance + _SHRINK * usual[:, None]).clamp_min(1e-9)
    scaled = ((one * chance.rsqrt()[..., None]) @ other.transpose(1, 2)).clamp_(-_LIMIT, _LIMIT)
    agreeing = scaled.diagonal(dim1=1, dim2=2)
    sums = one.new_zeros(len(one), rows * columns).index_add(
        1, _shifts(rows, columns).to(one.device), scaled.flatten(1)
    )
    spectrum = torch.fft.rfft2(valid.reshape(-1, rows, columns).to(one.dtype)).abs().square()
    counts = torch.fft.irfft2(spectrum, (rows, columns)).flatten(1).round()
    # Variance of one tile: as if all were independent, or from sums over all that are shifted alike.
    whole = torch.linalg.vecdot(scaled.flatten(1), scaled.flatten(1))
    single = (whole - agreeing.square().sum(1)) / (count * (count - 1)).clamp_min(1)
    many = counts >= (count / 4).clamp_min(4)[:, None]
    many[:, 0] = False
    together = (sums.square() / counts.clamp_min(1) * many).sum(1) / many.sum(1).clamp_min(1)
    variance = count * torch.maximum(single, together)
    found: Tensor = agreeing.sum(1).clamp_min(0).square() / variance.clamp_min(1e-9) / 2
    return found


@lru_cache(maxsize=4)
def _shifts(rows: int, columns: int) -> Tensor:
    """(T * T,) by how much each of two tiles is shifted from the other, around the ends, as a number of a tile."""
    y, x = torch.arange(rows * columns) // columns, torch.arange(rows * columns) % columns
    return ((y[None] - y[:, None]) % rows * columns + (x[None] - x[:, None]) % columns).flatten()


def _tiles(images: Tensor, rows: int, columns: int) -> Tensor:
    """(B, rows * columns, TILE^2) of the middle of (B, Y, X) images."""
    y, x = ((n - k * TILE) // 2 for n, k in zip(images.shape[1:], (rows, columns), strict=True))
    middle = images[:, y : y + rows * TILE, x : x + columns * TILE]
    return middle.reshape(-1, rows, TILE, columns, TILE).transpose(2, 3).reshape(-1, rows * columns, TILE**2)


def _centred(tiles: Tensor, share: Tensor) -> Tensor:
    return (tiles - (tiles * share).sum(2, keepdim=True) / share.sum(2, keepdim=True).clamp_min(1)) * share


def _planes(share: Tensor) -> list[Tensor]:
    """Changes along either axis within tiles, of norm one."""
    along = torch.arange(TILE, dtype=share.dtype, device=share.device)
    ramps = (along.repeat_interleave(TILE), along.repeat(TILE))
    return [functional.normalize(_centred(ramp.expand_as(share), share), dim=2) for ramp in ramps]


def _normalised(tiles: Tensor, share: Tensor, planes: Sequence[Tensor]) -> Tensor:
    """Tiles without mean and plane changes, of norm one; zero where they are constant."""
    values = _centred(tiles, share)
    for plane in planes:
        values = values - (values * plane).sum(2, keepdim=True) * plane
    square = values.square().sum(2, keepdim=True)
    varied = square > _LEAST_VARIANCE * share.sum(2, keepdim=True).clamp_min(1)
    return values * torch.where(varied, square.clamp_min(1e-12).rsqrt(), 0)


def _surround(images: Tensor, border: Tensor) -> Tensor:
    """(B, Y, X) where images are as their border, if that is flat, over more than a few voxels, with a margin."""
    level, spread = border[:, 0, None, None], border[:, 1, None, None]
    near = ((_mean(images, 3) - level).abs() < spread.clamp_min(_LEAST_SPREAD)) & (spread < _FLAT)
    return _mean(_mean(near, _BOX) > _FILLED, _BOX + 2 * _MARGIN) > _ROUNDED


def _mean(images: Tensor, side: int) -> Tensor:
    """Means over boxes, of what is within the images."""
    values = images.to(torch.float32)
    for axis in (1, 2):
        at = torch.arange(values.shape[axis], device=values.device)
        first, last = (at - side // 2).clamp_min(0), (at + side // 2 + 1).clamp_max(len(at))
        total = functional.pad(values.cumsum(axis), (1, 0) if axis == 2 else (0, 0, 1, 0))
        size = (last - first).reshape((-1, 1) if axis == 1 else (-1,))
        values = (total.index_select(axis, last) - total.index_select(axis, first)) / size
    return values
