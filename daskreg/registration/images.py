"""The images that an estimate reads: one image of numbers in memory, its Grid and its mask.

Volumes that are larger than the memory budget are read as block means, streamed, with a warning. The level of an image
(`sources.level`) is subtracted in float64, before the voxels become float32.

dask, xarray and zarr are imported only for what is not a NumPy array, with `daskreg.volumes`, and for means of blocks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from daskreg.registration.pyramids.bad_voxels import (
    constant_gaps,
    dead_lines,
    far_gap_code,
    hot_voxels,
    on_one_level,
)
from daskreg.registration.pyramids.pyramid import ImageBatch, all_finite, image_batch, shrink
from daskreg.runtime.memory import available_memory
from daskreg.sources.channels import only_entry
from daskreg.sources.in_memory import source_of_numpy
from daskreg.sources.level import level_of

# Bytes of memory for each voxel that is read: levels, gradients and samples.
_BYTES_PER_VOXEL = 64
# Voxels of the middle of an image, along each axis, in which a code of gaps is looked for, by number of dimensions.
_CODE_SIDE = {2: 2048, 3: 160}
# The least part of a block of voxels that must count for it to have a mean.
_LEAST_PART = 0.5
# Voxels along an axis of which there are no means.
_FEW = 16


@dataclass(frozen=True)
class Image:
    """values: (*shape) float32 tensor, mask: (*shape) bool tensor or None, grid: of both.

    dropped: names of axes of length one that were removed; factors: of the block means, () where the image was read
    in full. offset: what was subtracted from the voxels. bad: how many voxels hold nothing of the specimen and are NaN.
    """

    values: torch.Tensor
    grid: Grid
    mask: torch.Tensor | None
    dropped: tuple[str, ...] = ()
    factors: tuple[int, ...] = ()
    offset: float = 0.0
    bad: int = 0

    @property
    def reduced(self) -> tuple[int, ...]:
        """How many voxels of the source one voxel is the mean of, along each axis."""
        return self.factors or (1,) * self.grid.ndim


def read_image(
    value: Any,
    *,
    what: str,
    mask: Any = None,
    channel: int | str | None = None,
    device: str | torch.device = "cpu",
    budget: int | None = None,
    without_gaps: bool = False,
) -> Image:
    """One image from an array, tensor or DataArray.

    Args:
        what: "fixed" or "moving", for messages.
        mask: array of the same spatial shape, true or positive where voxels count.
        channel: index or label along the channel axis, where there is one.
        budget: the most voxels that are read; by default what a quarter of the available memory holds.
        without_gaps: voxels of the value that codes gaps, and dead lines, become NaN (see `pyramids.bad_voxels`).

    Raises: ChannelError, UnsupportedDTypeError, EmptyArrayError, MemoryBudgetError,
        EmptyMaskError, DegenerateImageError, ShapeMismatchError.
    """
    data, where = one_image(value, channel, what)
    if where.ndim not in (2, 3):
        raise ShapeMismatchError(f"{what} has {where.ndim} spatial axes; 2 or 3 are needed")
    keep = [k for k, n in enumerate(where.shape) if n > 1]
    dropped = tuple(where.names[k] for k in range(where.ndim) if k not in keep)
    if len(keep) < 2:
        raise DegenerateImageError(f"{what} of shape {where.shape} is a line or a point, not an image")
    flat = where.take(keep)
    cover = None if mask is None else _mask_data(mask, where, what)
    if dropped:
        warnings.warn(
            f"{what} has length 1 along {', '.join(dropped)} and is registered in {len(keep)}D",
            DaskregWarning,
            stacklevel=5,
        )
        data, cover = data.reshape(flat.shape), None if cover is None else cover.reshape(flat.shape)
    factors = _factors_within(budget or _voxel_budget(), flat, data, what)
    if not factors:
        data = np.asarray(data)
    offset = level_of(lambda box: np.asarray(data[box.slices]), Box.of(data.shape), data.dtype)
    code = far_gap_code(np.asarray(data[middle_box(data.shape).slices])) if without_gaps else None
    if factors:
        data, cover, flat = _block_means(data, cover, flat, factors, offset=offset, code=code)
        code = None
    read = np.asarray(data)
    # A fit keeps its images: never the caller's own memory, which a GPU's copy is not.
    own = torch.device(device).type == "cpu" or not (read.flags.c_contiguous and read.flags.writeable)
    own = own or code is not None
    numbers, bad = as_float32(read, 0.0 if factors else offset, code, copy=own)
    if without_gaps:
        numbers, dead = _without_dead_lines(numbers)
        bad += dead
    values = torch.as_tensor(numbers).to(device)
    found = None if cover is None else torch.as_tensor(np.array(cover)).to(device)
    check_content(values, found, what, offset)
    return Image(values, flat, found, dropped, factors, offset, bad)


def one_image(value: Any, channel: int | str | None, what: str) -> tuple[Any, Grid]:
    """The voxels of the one channel and time that are meant, NumPy or dask, and their grid."""
    if isinstance(value, np.ndarray):
        source, _ = source_of_numpy(value, colour_ndim=3)
        for dim, count in zip(source.lead, source.shape, strict=False):
            source = source.pick(dim, only_entry(dim, count, (), channel, what))
        return source.view(), source.grid
    from daskreg.volumes import volume_of

    volume = volume_of(value, colour_ndim=3)
    return volume.array.isel(volume.only_entries(channel, owner=what)).data, volume.grid


def read_alike(value: NDArray[Any], like: Image, *, what: str) -> Image:
    """Another image of a plain stack of arrays, of which `like` was the first: on the same grid, without a mask.

    Raises: EmptyMaskError, DegenerateImageError.
    """
    offset = level_of(lambda box: value[box.slices], Box.of(value.shape), value.dtype)
    code = far_gap_code(value[middle_box(value.shape).slices])
    numbers, bad = as_float32(value, offset, code)
    numbers, dead = _without_dead_lines(numbers)
    bad += dead
    values = torch.as_tensor(numbers).to(like.values.device)
    check_content(values, None, what, offset)
    return replace(like, values=values, offset=offset, bad=bad)


def _without_dead_lines(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """The values with NaN in dead lines, as a copy, and how many voxels these have."""
    dead = dead_lines(values)
    if dead is None:
        return values, 0
    return np.where(dead, np.float32(np.nan), values), int((dead & np.isfinite(values)).sum())


def without_bad_voxels(fixed: Sequence[Image], moving: Sequence[Image]) -> tuple[list[Image], list[Image]]:
    """The images with NaN in the voxels that are hot, dead or a gap of the detector in both images of a pair.

    Args:
        fixed: as many as `moving`, or one that all pairs share, which loses those of all pairs.
    """
    fixeds, movings = list(fixed), list(moving)
    for k, image in enumerate(moving):
        row = k if len(fixed) > 1 else 0
        bad = _bad_voxels(fixed[row], image)
        if bad is not None:
            fixeds[row], movings[k] = _without(fixeds[row], bad), _without(image, bad)
    return fixeds, movings


def _bad_voxels(fixed: Image, moving: Image) -> torch.Tensor | None:
    """(*shape) bool; None where there are none, or nothing is left without them."""
    if fixed.values.shape != moving.values.shape:
        return None
    pair = on_one_level([image.values.cpu().numpy() for image in (fixed, moving)], (fixed.offset, moving.offset))
    bad = constant_gaps(pair)
    bad |= hot_voxels(np.where(bad, np.float32(np.nan), pair) if bad.any() else pair)
    if not bad.any():
        return None
    left = [image[~bad & np.isfinite(image)] for image in pair]
    return None if any(not len(v) or v.min() == v.max() for v in left) else torch.from_numpy(bad)


def _without(image: Image, bad: torch.Tensor) -> Image:
    bad = bad.to(image.values.device)
    count = int((bad & torch.isfinite(image.values)).sum())
    return replace(image, values=torch.where(bad, torch.nan, image.values), bad=image.bad + count)


def at_level(image: Image, offset: float) -> Image:
    """The image with another offset subtracted, so that its values can be compared with those of another image."""
    difference = image.offset - offset
    return replace(image, values=image.values + difference, offset=offset) if difference else image


def as_float32(
    values: NDArray[Any], offset: float, code: float | None = None, *, copy: bool = True
) -> tuple[NDArray[np.float32], int]:
    """Values less the offset, with NaN where they are the code of a gap, and how many of these there are.

    Infinity, and what is too large for float32, becomes NaN too: a voxel without a measurement.
    """
    with np.errstate(over="ignore"):
        if offset:
            numbers = np.empty(values.shape, np.float32)
            # In float64, piece by piece, without an array of these.
            np.subtract(values, offset, out=numbers, dtype=np.float64, casting="same_kind")
        else:
            numbers = values.astype(np.float32, copy=copy)
    if values.dtype.kind == "f" and (infinite := np.isinf(numbers)).any():
        numbers = np.where(infinite, np.float32(np.nan), numbers)
    if code is None:
        return numbers, 0
    gaps = values == code
    numbers[gaps] = np.nan
    return numbers, int(gaps.sum())


def middle_box(shape: tuple[int, ...]) -> Box:
    """Where a code of gaps is looked for."""
    sides = [min(n, _CODE_SIDE[len(shape)]) for n in shape]
    lower = [(n - side) // 2 for n, side in zip(shape, sides, strict=True)]
    return Box(tuple(lower), tuple(a + side for a, side in zip(lower, sides, strict=True)))


def _mask_data(mask: Any, grid: Grid, what: str) -> Any:
    if isinstance(mask, np.ndarray):
        data = mask if mask.dtype == bool else mask > 0
    else:
        from daskreg.volumes import mask_array

        data = mask_array(mask)
    if data.shape != grid.shape:
        raise ShapeMismatchError(f"{what}_mask has shape {data.shape}, but {what} has {grid.shape}")
    return data


def fits_in_memory(shape: Sequence[int]) -> bool:
    """Whether an image of this shape is read in full."""
    return math.prod(shape) <= _voxel_budget()


def _voxel_budget() -> int:
    return max(available_memory() // 4 // _BYTES_PER_VOXEL, 64**3)


def _factors_within(budget: int, grid: Grid, data: Any, what: str) -> tuple[int, ...]:
    """The blocks of which means are read, with a warning, where there are more voxels than the budget; () elsewhere.

    Raises: MemoryBudgetError where not even one chunk fits.
    """
    factors = factors_within(budget, grid)
    if all(f == 1 for f in factors):
        return ()
    chunk = getattr(data, "chunksize", ())  # of a dask array
    if math.prod(chunk) > budget:
        raise MemoryBudgetError(
            f"{what} has {math.prod(grid.shape):.3g} voxels, in chunks of {chunk}, and {budget:.3g} fit in "
            "memory: open a coarser level with level=, or smaller chunks"
        )
    from dask.utils import format_bytes

    needed, usable = (format_bytes(n * _BYTES_PER_VOXEL) for n in (math.prod(grid.shape), budget))
    warnings.warn(
        f"{what} is read as means of {' x '.join(map(str, factors))} voxels: in full it needs {needed} of memory, and "
        f"{usable} may be used, a quarter of what is available",
        DaskregWarning,
        stacklevel=6,
    )
    return factors


def factors_within(budget: int, grid: Grid) -> tuple[int, ...]:
    """The blocks of voxels of which the means are no more than the budget, and about as long along each axis; but of
    no more than `_FEW` voxels along an axis there are no means, as long as another one has more."""
    factors = np.ones(grid.ndim, int)
    while math.prod(counts := -(-np.asarray(grid.shape) // factors)) > budget:
        many = counts > _FEW if np.any(counts > _FEW) else np.ones(grid.ndim, bool)
        spacing = np.asarray(grid.spacing) * factors
        factors = np.where(many & (spacing <= 1.5 * spacing[many].min()), 2 * factors, factors)
    return tuple(factors.tolist())


def means_within(budget: int, image: Image) -> Image:
    """An image that was read, or means of blocks of its voxels where these are more than the budget.

    A block of which less than half counts does not count.
    """
    factors = factors_within(budget, image.grid)
    if all(f == 1 for f in factors):
        return image
    means = shrink(batch_of(image), factors)
    values, known = means.values[0], None if means.weight is None else means.weight[0] >= _LEAST_PART
    if known is not None:
        values = torch.where(known, values, torch.nan)
    reduced = tuple(a * b for a, b in zip(image.reduced, factors, strict=True))
    return replace(image, values=values, mask=None, grid=means.grid, factors=reduced)


def _block_means(
    data: Any, mask: Any, grid: Grid, factors: tuple[int, ...], *, offset: float, code: float | None
) -> tuple[Any, Any, Grid]:
    """Lazy means over blocks, less the offset, of the data and the mask, and their grid; NaN where a gap is."""
    import dask.array as da

    used = Box.of([n // f * f for n, f in zip(grid.shape, factors, strict=True)])
    axes = dict(enumerate(factors))
    lazy = da.asarray(data)[used.slices]
    if code is not None:
        lazy = da.where(lazy == code, np.nan, lazy.astype(np.float64))
    if lazy.dtype.kind == "f":
        lazy = da.where(da.isinf(lazy), np.nan, lazy)
    lazy = (lazy.astype(np.float64) - offset if offset else lazy).astype(np.float32)
    mean = da.coarsen(np.mean, lazy, axes)
    cover = None if mask is None else da.coarsen(np.mean, da.asarray(mask)[used.slices].astype(np.float32), axes) > 0.5
    return mean, cover, grid.crop(used).downsample(factors)


def check_content(values: torch.Tensor, mask: torch.Tensor | None, what: str, offset: float) -> None:
    if values.numel() == 0:
        raise EmptyArrayError(f"{what} has no voxels")
    low, high = torch.aminmax(values)
    if mask is None and bool(torch.isfinite(low)) and bool(torch.isfinite(high)):
        _check_contrast(low, high, what, offset)
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
    _check_contrast(*torch.aminmax(values[valid]), what, offset)


def _check_contrast(low: torch.Tensor, high: torch.Tensor, what: str, offset: float) -> None:
    if not bool(high > low):
        value = float(low) + offset
        raise DegenerateImageError(f"{what} is constant ({value:.6g}) where it counts; there is nothing to match")


def batch_of(image: Image) -> ImageBatch:
    return image_batch(image.values[None], image.grid, None if image.mask is None else image.mask[None])


def masked_fraction(image: Image) -> float:
    """The fraction of the voxels that do not count: masked, or not finite."""
    if image.mask is None and all_finite(image.values):
        return 0.0
    valid = torch.isfinite(image.values)
    if image.mask is not None:
        valid = valid & image.mask
    return 1 - float(valid.to(torch.float64).mean())
