"""Points that are moved with an image, as annotations are when the image is warped."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import InvalidTransformError, OptionError, ShapeMismatchError, check_flags
from daskreg.geometry import Grid, as_transform, default_axes

Floats = NDArray[np.float64]

# Slices: a coordinate may be this far from a whole number, as a table rounds it.
_WHOLE = 1e-3


def move_points(
    points: ArrayLike,
    *,
    pull: Any = None,
    push: Any = None,
    source: Grid | None = None,
    like: Grid | None = None,
    pixels: bool = False,
) -> Floats:
    """Where points of an image lie after `warp(image, pull=..., push=...)`: the same transform, the same way.

    Args:
        points: (N, D) in array order (z, y, x), in the world of the image.
        pull: the transform (or fit) that samples the image: points go through its inverse.
        push: the transform that moves the content: points go through it.
        source: grid of the image. With slices that have maps of their own, it says in which slice a point
            lies; without it, the coordinate along their axis is the number of the slice.
        like: grid of the warped image, by default `source`.
        pixels: whether the points are voxel indices of `source`, and the result those of `like`.

    Returns: (N, D), array order.
    Raises: OptionError where not exactly one of `pull` and `push` is given, or a Grid is missing;
        ShapeMismatchError or InvalidTransformError where the transform does not fit the points.
    """
    check_flags(pixels=pixels)
    if (pull is None) == (push is None):
        raise OptionError("give either pull= or push=, as to warp")
    transform = as_transform(push if pull is None else pull)
    where = np.asarray(points, dtype=np.float64)
    if where.ndim != 2 or where.shape[1] not in (2, 3):
        raise ShapeMismatchError(f"points of shape (N, 2) or (N, 3) are needed, not {where.shape}")
    if pixels and source is None:
        raise OptionError("points in voxels need source=, the Grid of the image (--source)")
    if pixels and source is not None:
        where = source.world(where)
    if pull is not None:
        transform = transform.inverse()
    moved = _moved(transform, where, source)
    return (like or source).index(moved) if pixels and source is not None else moved


def _moved(transform: Any, where: Floats, source: Grid | None) -> Floats:
    ndim = where.shape[1]
    if transform.array_ndim > transform.ndim:  # maps of slices, affine or fields
        axis = _axis(transform, ndim)
        inside = [k for k in range(ndim) if k != axis]
        number = _slice_of(where[:, axis], axis, source)
        if np.any((number < transform.start) | (number >= transform.stop)):
            raise ShapeMismatchError(
                f"points lie in slices {number.min()}..{number.max()}, and the transform has "
                f"{transform.start}..{transform.stop - 1}"
            )
        moved = where.copy()
        moved[:, inside] = transform(where[:, inside], number)
        return moved
    if transform.ndim == ndim:
        return np.asarray(transform(where))
    if (transform.ndim, ndim) == (2, 3):  # in the plane of the last two axes, as `warp` does
        return np.column_stack([where[:, :1], transform(where[:, 1:])])
    raise InvalidTransformError(f"a {transform.ndim}D transform does not apply to {ndim}D points")


def _axis(transform: Any, ndim: int) -> int:
    """The column along which the slices run."""
    names = default_axes(ndim)
    axis = names.index(transform.axis) if transform.axis in names else transform.axis
    if transform.ndim != ndim - 1 or isinstance(axis, str) or not -ndim <= axis < ndim:
        raise InvalidTransformError(
            f"maps of {transform.ndim}D slices along {transform.axis!r} do not apply to {ndim}D points"
        )
    return int(axis) % ndim


def _slice_of(values: Floats, axis: int, source: Grid | None) -> NDArray[np.intp]:
    numbers = values if source is None else source.take((axis,)).index(values[:, None])[:, 0]
    whole = np.rint(numbers)
    if source is None and np.abs(numbers - whole).max(initial=0) > _WHOLE:
        raise OptionError(
            f"{default_axes(3)[axis]} does not count slices: give source=, the Grid of the image (--source)"
        )
    return whole.astype(np.intp)
