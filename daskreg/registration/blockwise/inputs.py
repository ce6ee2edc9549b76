"""The images that are registered in blocks: described, not read."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from daskreg.blocks.source_state import identity
from daskreg.errors import DaskregWarning, DegenerateImageError, EmptyMaskError, ShapeMismatchError
from daskreg.geometry import Box
from daskreg.registration.blockwise.image import LazyImage
from daskreg.registration.images import middle_box
from daskreg.registration.pyramids.bad_voxels import far_gap_code
from daskreg.sources.level import level_of
from daskreg.sources.source import Source
from daskreg.volumes import volume_of


def lazy_images(
    fixed: Any, moving: Any, *, masks: tuple[Any, Any], channel: int | str | None
) -> tuple[LazyImage, LazyImage]:
    """Both images, with their masks.

    Raises: as `images.read_image`; ShapeMismatchError where their dimensions differ.
    """
    f, m = (
        lazy_image(value, what=what, mask=mask, channel=channel)
        for value, what, mask in zip((fixed, moving), ("fixed", "moving"), masks, strict=True)
    )
    if f.grid.ndim != m.grid.ndim:
        raise ShapeMismatchError(f"fixed is {f.grid.ndim}D and moving {m.grid.ndim}D")
    return f, m


def lazy_image(value: Any, *, what: str, mask: Any, channel: int | str | None) -> LazyImage:
    """One image at its full resolution, with the level that is subtracted and the code of its gaps.

    Of its voxels a few small windows and the middle are read.

    Raises: as `images.read_image`.
    """
    volume = volume_of(value, colour_ndim=3)
    source = volume.source
    for lead, entry in volume.only_entries(channel, owner=what).items():
        source = source.pick(lead, entry)
    where = source.grid
    if where.ndim not in (2, 3):
        raise ShapeMismatchError(f"{what} has {where.ndim} spatial axes; 2 or 3 are needed")
    keep = tuple(k for k, n in enumerate(where.shape) if n > 1)
    if len(keep) < 2:
        raise DegenerateImageError(f"{what} of shape {where.shape} is a line or a point, not an image")
    if len(keep) < where.ndim:
        dropped = ", ".join(where.names[k] for k in range(where.ndim) if k not in keep)
        message = f"{what} has length 1 along {dropped} and is registered in {len(keep)}D"
        warnings.warn(message, DaskregWarning, stacklevel=5)
    grid = where.take(keep)
    image = LazyImage(source, keep, _mask_source(mask, source, what), grid, (1,) * grid.ndim)
    offset = level_of(lambda box: image.read(box).values, Box.of(grid.shape), source.dtype)
    return replace(image, offset=offset, code=far_gap_code(image.read(middle_box(grid.shape)).values))


def _mask_source(mask: Any, source: Source, what: str) -> Source | None:
    if mask is None:
        return None
    found = volume_of(mask).source
    if found.shape != source.shape:
        raise ShapeMismatchError(f"{what}_mask has shape {found.shape}, but {what} has {source.shape}")
    if found.in_memory and not np.any(found.read(Box.of(found.shape)) > 0):
        raise EmptyMaskError(f"{what}_mask leaves no voxel")
    return found


def key_of(fixed: LazyImage, moving: LazyImage, options: tuple[Any, ...]) -> str:
    """A hash of what an estimate depends on: the identity of the voxels and the masks, as they are stored now, and the
    options.

    Raises: SourceLostError.
    """
    sources = [identity(image.source) for image in (fixed, moving)]
    masks = [None if image.mask is None else identity(image.mask) for image in (fixed, moving)]
    return hashlib.sha256(repr((sources, masks, options)).encode()).hexdigest()[:32]
