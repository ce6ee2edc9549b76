"""What callers pass as a transform: a transform, a fit, or a matrix."""

from __future__ import annotations

import numpy as np

from daskreg.errors import InvalidTransformError
from daskreg.geometry.affine import Affine
from daskreg.geometry.slices import SliceAffines
from daskreg.geometry.transform import Transform


def as_transform(value: object) -> Transform:
    """The transform that was passed: itself, that of a fit, or one made of a matrix.

    A matrix of shape (N, D+1, D+1) is one for each slice.

    Raises: InvalidTransformError where it is none of these.
    """
    transform = _transform_of(value)
    if isinstance(transform, Transform):
        return transform
    try:
        matrix = np.asarray(transform, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidTransformError(
            f"{value!r} is no transform: give an Affine, SliceAffines, a fit, a matrix, or a list of them; "
            "a file is read by daskreg.load(path)"
        ) from error
    return SliceAffines(matrix) if matrix.ndim == 3 else Affine(matrix)


def as_affine(value: object, ndim: int | None = None, what: str = "transform") -> Affine:
    """The Affine that was passed: itself, that of a fit, or one made of a matrix.

    Raises: InvalidTransformError where it is none of these, or not of `ndim` dimensions (None: any).
    """
    transform = _transform_of(value)
    if isinstance(transform, Transform) and not isinstance(transform, Affine):
        raise InvalidTransformError(f"{what} must be one Affine, not {type(transform).__name__}")
    affine = transform if isinstance(transform, Affine) else Affine(transform)  # type: ignore[arg-type]
    if ndim is not None and affine.ndim != ndim:
        raise InvalidTransformError(f"{what} is {affine.ndim}D where {ndim}D is needed")
    return affine


def _transform_of(value: object) -> object:
    """The transform of a fit; anything else as it is."""
    transform = getattr(value, "transform", None)
    return transform if isinstance(transform, Transform) else value
