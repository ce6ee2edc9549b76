"""The images that an estimate reads: one image of numbers in memory, its Grid and its mask.

Volumes that are larger than the memory budget are read as block means, streamed.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.errors import (
    DaskregWarning,
    DegenerateImageError,
    EmptyArrayError,
    EmptyMaskError,
    MemoryBudgetError,
    ShapeMismatchError,
)
from daskreg.geometry import Box, Grid
from daskreg.volumes import mask_array, volume_of

# Bytes of memory for each voxel that is read: levels, gradients and samples.
_BYTES_PER_VOXEL = 64


@dataclass(frozen=True)
class Image:
    """values: (*shape) float32 tensor, mask: (*shape) bool tensor or None, grid: of both.

    dropped: names of axes of length one that were removed; factors: of the block means.
    """

    values: torch.Tensor
    grid: Grid
    mask: torch.Tensor | None
    dropped: tuple[str, ...] = ()
    factors: tuple[int, ...] = ()


def read_image(
    value: Any,
    *,
    what: str,
    mask: Any = None,
    channel: int | str | None = None,
    device: str | torch.device = "cpu",
    budget: int | None = None,
) -> Image:
    """One image from an array, tensor or DataArray.

    Args:
        what: "fixed" or "moving", for messages.
        mask: array of the same spatial shape, true or positive where voxels count.
        channel: index or label along the channel axis, where there is one.
        budget: the most voxels that are read; by default what a quarter of the memory holds.

    Raises: ChannelError, UnsupportedDTypeError, EmptyArrayError, MemoryBudgetError,
        EmptyMaskError, DegenerateImageError, ShapeMismatchError.
    """
    volume = volume_of(value, colour_ndim=3)
    array = volume.array.isel(volume.only_entries(channel, owner=what))
    where = volume.grid
    if where.ndim not in (2, 3):
        raise ShapeMismatchError(f"{what} has {where.ndim} spatial axes; 2 or 3 are needed")
    keep = [k for k, n in enumerate(where.shape) if n > 1]
    dropped = tuple(where.names[k] for k in range(where.ndim) if k not in keep)
    if len(keep) < 2:
        raise DegenerateImageError(f"{what} of shape {where.shape} is a line or a point, not an image")
    data, flat = array.data, where.take(keep)
    cover = None if mask is None else _mask_data(mask, where, what)
    if dropped:
        warnings.warn(
            f"{what} has length 1 along {', '.join(dropped)} and is registered in {len(keep)}D",
            DaskregWarning,
            stacklevel=4,
        )
        data, cover = data.reshape(flat.shape), None if cover is None else cover.reshape(flat.shape)
    data, cover, flat, factors = _within(data, cover, flat, budget or _voxel_budget(), what)
    read = np.asarray(data)
    # A fit keeps its images: never the caller's own memory, which a GPU's copy is not.
    own = torch.device(device).type == "cpu" or not (read.flags.c_contiguous and read.flags.writeable)
    values = torch.as_tensor(read.astype(np.float32, copy=own)).to(device)
    found = None if cover is None else torch.as_tensor(np.array(cover)).to(device)
    _check_content(values, found, what)
    return Image(values, flat, found, dropped, factors)


def read_alike(value: NDArray[Any], like: Image, *, what: str) -> Image:
    """Another image of a plain stack of arrays, of which `like` was the first: on the same grid, unmasked.

    Raises: EmptyMaskError, DegenerateImageError.
    """
    values = torch.as_tensor(value.astype(np.float32)).to(like.values.device)
    _check_content(values, None, what)
    return replace(like, values=values)


def _mask_data(mask: Any, grid: Grid, what: str) -> Any:
    data = mask_array(mask)
    if data.shape != grid.shape:
        raise ShapeMismatchError(f"{what}_mask has shape {data.shape}, but {what} has {grid.shape}")
    return data


def _voxel_budget() -> int:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        free = 4 * 2**30
    return max(int(free / 4 / _BYTES_PER_VOXEL), 64**3)


def _within(data: Any, mask: Any, grid: Grid, budget: int, what: str) -> tuple[Any, Any, Grid, tuple[int, ...]]:
    """The data as it is, or its block means where it has more voxels than the budget.

    Raises: MemoryBudgetError where not even one chunk fits.
    """
    factors = [1] * grid.ndim
    while math.prod(-(-n // f) for n, f in zip(grid.shape, factors, strict=True)) > budget:
        spacing = [s * f for s, f in zip(grid.spacing, factors, strict=True)]
        step = 1.5 * min(spacing)
        factors = [2 * f if s <= step else f for s, f in zip(spacing, factors, strict=True)]
    if all(f == 1 for f in factors):
        return data, mask, grid, ()
    if isinstance(data, da.Array) and math.prod(data.chunksize) > budget:
        raise MemoryBudgetError(
            f"{what} has {math.prod(grid.shape):.3g} voxels, in chunks of {data.chunksize}, and {budget:.3g} fit in "
            "memory: open a coarser level with level=, or smaller chunks"
        )
    used = Box.of([n // f * f for n, f in zip(grid.shape, factors, strict=True)])
    axes = dict(enumerate(factors))
    lazy = da.asarray(data)[used.slices]
    mean = da.coarsen(np.mean, lazy.astype(np.float32), axes)
    cover = None if mask is None else da.coarsen(np.mean, da.asarray(mask)[used.slices].astype(np.float32), axes)
    return mean, None if cover is None else cover > 0.5, grid.crop(used).downsample(factors), tuple(factors)


def _check_content(values: torch.Tensor, mask: torch.Tensor | None, what: str) -> None:
    if values.numel() == 0:
        raise EmptyArrayError(f"{what} has no voxels")
    low, high = torch.aminmax(values)
    if mask is None and bool(torch.isfinite(low)) and bool(torch.isfinite(high)):
        _check_contrast(low, high, what)
        return
    valid = torch.isfinite(values)
    if not bool(valid.any()):
        raise EmptyMaskError(f"{what} holds no finite voxel")
    if mask is not None:
        if not bool(mask.any()):
            raise EmptyMaskError(f"{what}_mask leaves no voxel")
        valid = valid & mask
        if not bool(valid.any()):
            raise EmptyMaskError(f"{what}_mask leaves no finite voxel")
    _check_contrast(*torch.aminmax(values[valid]), what)


def _check_contrast(low: torch.Tensor, high: torch.Tensor, what: str) -> None:
    if not bool(high > low):
        raise DegenerateImageError(f"{what} is constant ({float(low):.6g}) where it counts; there is nothing to match")
