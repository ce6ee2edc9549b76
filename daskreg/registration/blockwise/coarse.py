"""The coarse images from which an estimate in blocks starts: means over blocks of voxels, made where these are read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.errors import EmptyMaskError
from daskreg.geometry import Box
from daskreg.registration.blockwise.image import LazyImage
from daskreg.registration.blockwise.pair import divided, tiles
from daskreg.registration.blockwise.slabs import SLAB_BYTES
from daskreg.registration.blockwise.work import Work
from daskreg.registration.images import Image, at_level, check_content, factors_within, without_bad_voxels
from daskreg.runtime.device import library_threads, limit_threads
from daskreg.runtime.threads import use_threads

Singles = NDArray[np.float32]

COARSE_VOXELS = 1 << 21
"""Voxels of a coarse image at most."""
LAYER_VOXELS = 1 << 22
"""The same for layers of B-splines, of which the coarse images determine more."""
# Voxels of the source whose numbers are computed at a time.
_TILE = 1 << 20
# The least part of the voxels of a block that must count for it to have a mean.
_MOST = 0.5


@dataclass(frozen=True)
class MeansTask:
    """A box of the coarse image, of which one voxel is the mean of several of the source."""

    number: int
    image: LazyImage
    box: Box

    def carrying_little(self) -> MeansTask:
        """The same task with what it needs of arrays in memory, and no more."""
        return replace(self, image=self.image.restrict(self.box))


@dataclass(frozen=True)
class Means:
    """The means in a box; NaN where half of the voxels or more do not count."""

    number: int
    values: Singles


def coarse_images(
    images: tuple[LazyImage, LazyImage], work: Work, *, voxels: int, metric: str, most_bytes: int
) -> tuple[Image, Image]:
    """Both images as means of blocks of voxels, of which there are `voxels` at most, without bad voxels.

    Raises: EmptyMaskError, DegenerateImageError.
    """
    fixed, moving = (
        coarse_image(image, work, what=what, voxels=voxels, most_bytes=min(most_bytes, SLAB_BYTES))
        for image, what in zip(images, ("fixed", "moving"), strict=True)
    )
    [fixed], [moving] = without_bad_voxels([fixed], [moving])
    return fixed, at_level(moving, fixed.offset) if metric == "mse" else moving


def coarse_image(image: LazyImage, work: Work, *, what: str, voxels: int, most_bytes: int) -> Image:
    """The image as means of blocks of voxels.

    Args:
        most_bytes: of the voxels that are read at once, as stored.

    Raises: EmptyMaskError, DegenerateImageError.
    """
    factors = factors_within(voxels, image.grid)
    used = Box.of([n // f * f for n, f in zip(image.shape, factors, strict=True)])
    coarse = replace(image, grid=image.grid.crop(used).downsample(factors), factors=factors)

    def fits(size: Sequence[int]) -> bool:
        return math.prod(size) * coarse.bytes_per_voxel <= most_bytes

    tasks = [MeansTask(k, coarse, box) for k, box in enumerate(divided(coarse.shape, coarse.chunks, fits))]
    label = f"coarse {what}"
    values = np.empty(coarse.shape, np.float32)

    def take(means: Means) -> None:
        values[tasks[means.number].box.slices] = means.values

    name = f"means-{what}-{factors}"
    work.each(name, block_means, tasks, take=take, label=label, store=_stored, restore=_restored)
    if image.mask is not None and not np.isfinite(values).any():
        raise EmptyMaskError(f"{what}_mask leaves no finite voxel, or less than half of every block that is read")
    check_content(torch.from_numpy(values), None, what, image.offset)
    return Image(torch.from_numpy(values), coarse.grid, None, (), factors, image.offset)


def block_means(task: MeansTask) -> Means:
    """Read a block and reduce it, tile by tile."""
    image, box = task.image, task.box
    stored = image.read(box)
    out = np.empty(box.shape, np.float32)
    with limit_threads(), use_threads(library_threads()):
        for tile in tiles(box, _TILE // math.prod(image.factors)):
            level = image.level(stored, tile)
            values = level.values[0].numpy()
            if level.weight is not None:
                values = np.where(level.weight[0].numpy() > _MOST, values, np.float32(np.nan))
            out[tile.within(box).slices] = values
    return Means(task.number, out)


def _stored(means: Means) -> Mapping[str, NDArray[Any]]:
    return {"values": means.values}


def _restored(number: int, arrays: Mapping[str, NDArray[Any]]) -> Means:
    return Means(number, arrays["values"])
