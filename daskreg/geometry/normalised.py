"""torch's normalised coordinates: [-1, 1], x first, `align_corners`. No other module knows them.

`torch.nn.functional.affine_grid` and `grid_sample` count positions in an image of n voxels
along an axis from -1 to 1, with x before y before z. With `align_corners=False`, -1 and 1
are the outer faces of the first and the last voxel, and the centre of voxel i is at
`(2 i + 1) / n - 1`. With `align_corners=True`, -1 and 1 are the centres of those voxels, and
the centre of voxel i is at `2 i / (n - 1) - 1`. numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import ShapeMismatchError

Floats = NDArray[np.float64]


def scale_and_offset(n: int, *, align_corners: bool = False) -> tuple[float, float]:
    """Along an axis of n voxels: normalised coordinate = scale * index + offset.

    A single voxel with `align_corners=True` is at 0, as in torch; its scale, which torch does
    not define, is one.
    """
    if not align_corners:
        return 2 / n, 1 / n - 1
    return (2 / (n - 1), -1.0) if n > 1 else (1.0, 0.0)


def normalised_from_index(shape: Sequence[int], *, align_corners: bool = False) -> Floats:
    """(D+1, D+1) matrix from indices in array order (z, y, x) to normalised x, y, z."""
    ndim = len(shape)
    m = np.zeros((ndim + 1, ndim + 1))
    m[-1, -1] = 1
    for k, n in enumerate(shape):
        m[ndim - 1 - k, k], m[ndim - 1 - k, -1] = scale_and_offset(n, align_corners=align_corners)
    return m


def index_from_normalised(shape: Sequence[int], *, align_corners: bool = False) -> Floats:
    """(D+1, D+1) matrix from normalised x, y, z to indices in array order (z, y, x)."""
    ndim = len(shape)
    m = np.zeros((ndim + 1, ndim + 1))
    m[-1, -1] = 1
    for k, n in enumerate(shape):
        scale, offset = scale_and_offset(n, align_corners=align_corners)
        m[k, ndim - 1 - k], m[k, -1] = 1 / scale, -offset / scale
    return m


def index_from_theta(
    theta: ArrayLike, fixed_shape: Sequence[int], moving_shape: Sequence[int], *, align_corners: bool = False
) -> Floats:
    """Index matrices (..., D+1, D+1), array order, of a theta for `affine_grid`.

    Args:
        theta: (..., D, D+1), from normalised output to normalised input, x first.
        fixed_shape: of the output, (z, y, x), as in the `size` of `affine_grid`.
        moving_shape: of the input image of `grid_sample`.
        align_corners: the argument of both functions.

    Returns: from indices of the output to fractional indices of the input.
    Raises: ShapeMismatchError where theta and the shapes differ in dimensions.
    """
    values = np.asarray(theta, dtype=np.float64)
    ndim = _common_ndim(fixed_shape, moving_shape)
    if values.shape[-2:] != (ndim, ndim + 1):
        raise ShapeMismatchError(f"theta of shape (..., {ndim}, {ndim + 1}) is needed, not {values.shape}")
    full = np.zeros((*values.shape[:-2], ndim + 1, ndim + 1))
    full[..., :-1, :] = values
    full[..., -1, -1] = 1
    after = index_from_normalised(moving_shape, align_corners=align_corners)
    return np.asarray(after @ full @ normalised_from_index(fixed_shape, align_corners=align_corners))


def theta_from_index(
    matrix: ArrayLike, fixed_shape: Sequence[int], moving_shape: Sequence[int], *, align_corners: bool = False
) -> Floats:
    """Theta (..., D, D+1) for `affine_grid` of index matrices (..., D+1, D+1) in array order.

    The inverse of `index_from_theta`, with its arguments.
    """
    values = np.asarray(matrix, dtype=np.float64)
    ndim = _common_ndim(fixed_shape, moving_shape)
    if values.shape[-2:] != (ndim + 1, ndim + 1):
        raise ShapeMismatchError(f"matrices of shape (..., {ndim + 1}, {ndim + 1}) are needed, not {values.shape}")
    after = normalised_from_index(moving_shape, align_corners=align_corners)
    full = after @ values @ index_from_normalised(fixed_shape, align_corners=align_corners)
    return np.asarray(full[..., :-1, :])


def _common_ndim(fixed_shape: Sequence[int], moving_shape: Sequence[int]) -> int:
    if len(fixed_shape) != len(moving_shape):
        raise ShapeMismatchError(f"shapes {tuple(fixed_shape)} and {tuple(moving_shape)} differ in dimensions")
    return len(fixed_shape)
