"""The affine map, or the transform, that layers begin from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from daskreg.errors import ShapeMismatchError
from daskreg.fields.transform import FieldTransform
from daskreg.geometry import Affine, Grid, Transform, as_affine, shared_unit
from daskreg.registration.fit import PairFit
from daskreg.registration.images import Image
from daskreg.registration.local_contrast.normalised import normalised
from daskreg.registration.verdicts import FitStatus

AffineStage = Callable[[tuple[Image, Image], str], PairFit]

# The affine map for "lncc" is that of images normalised in windows of so many sigmas along the longest side.
_WINDOWS = 16


def affine_of(images: tuple[Image, Image], affine_stage: AffineStage, metric: str | None) -> PairFit:
    """The affine map that the layers begin from.

    Args:
        metric: None where it is not known yet. Then gain and offset may vary so much that "ncc" finds no map.
    """

    def evened() -> PairFit:
        return affine_stage((_evened(images[0]), _evened(images[1])), "ncc")

    if metric is not None:
        return evened() if metric == "lncc" else affine_stage(images, metric)
    found = affine_stage(images, "ncc")
    if found.ok:
        return found
    other, chance = evened(), FitStatus.CHANCE
    return other if other.ok or (found.status is chance and other.status is not chance) else found


def _evened(image: Image) -> Image:
    """The image with the same brightness and contrast all over it; NaN where it was masked or not finite."""
    values = image.values.numpy()
    known = np.isfinite(values) if image.mask is None else np.isfinite(values) & image.mask.numpy()
    sigma = max(values.shape) / _WINDOWS
    found = normalised(np.where(known, values, np.float32(0)), known.astype(np.float32), sigma)
    return replace(image, values=torch.from_numpy(np.where(known, found, np.float32(np.nan))))


def checked_base(base: Any, fixed: Grid, moving: Grid) -> Transform:
    """The transform that the layers begin from, in the unit of the images.

    Raises: ShapeMismatchError, UnitError; InvalidTransformError for what is no transform.
    """
    unit = shared_unit(fixed.unit, moving.unit, "fixed and moving")
    if isinstance(base, FieldTransform):
        if base.ndim != fixed.ndim or base.slices is not None:
            raise ShapeMismatchError(
                f"init is a map of {base.ndim} dimensions, or of slices; the images have {fixed.ndim}"
            )
    else:
        base = as_affine(base, fixed.ndim, "init")
    shared_unit(base.unit, unit, "init and the images")
    return Affine(base.matrix, unit=unit) if isinstance(base, Affine) else base
