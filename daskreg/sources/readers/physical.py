"""The Grid of a file header's matrix from indices to the world: x, y, z becomes z, y, x, and shear is split off.

The world is ITK's, LPS (x to the left, y to the back, z to the head of a patient), written
z, y, x. A Grid's direction is orthonormal, so a header whose axes are not perpendicular is
split: the Grid has the nearest rotation (by the polar decomposition, as in ITK and in NIfTI's
own library), and what is left is an affine map of the world, which the array has as
`attrs["header_from_world"]`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import GridError, InvalidSpacingError, MetadataWarning
from daskreg.geometry import Grid, box_corners
from daskreg.geometry.transform import reversed_axes
from daskreg.sources.coordinates import HEADER_FROM_WORLD, SPACE

Floats = NDArray[np.float64]

# Headers are rounded to single precision. A direction that is this near to whole numbers is meant to be whole.
_WHOLE = 1e-6
# An angle that moves no corner by more than this many voxels is taken as rounding, not as shear.
_SHEAR = 0.01


def lps_from_ras(matrix: ArrayLike) -> Floats:
    """An x, y, z matrix into NIfTI's world (x to the right, y to the front) as one into ITK's."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(matrix, dtype=np.float64)


def grid_of_header(
    world_from_index: Floats, shape: Sequence[int], unit: str | None, *, what: str
) -> tuple[Grid, dict[str, Any]]:
    """The Grid of a header, and the attributes that hold what a Grid cannot hold.

    Args:
        world_from_index: (D+1, D+1) in x, y, z order, of 2 or 3 dimensions.
        shape: array order (z, y, x).

    Raises: GridError for a matrix that is singular or not finite.
    """
    m = reversed_axes(np.asarray(world_from_index, dtype=np.float64))
    linear, ndim = m[:-1, :-1], len(shape)
    if not np.all(np.isfinite(m)):
        raise GridError(f"{what}: the matrix from voxels to the world is not finite")
    spacing = np.linalg.norm(linear, axis=0)
    if not np.all(spacing > 0):
        axes = ", ".join(SPACE[k - ndim] for k in np.flatnonzero(~(spacing > 0)))
        raise InvalidSpacingError(f"{what}: the spacing along {axes} is 0; pass spacing=")
    axes_ = linear / spacing
    if abs(np.linalg.det(axes_)) < 1e-3:
        raise GridError(f"{what}: the axes of the matrix from voxels to the world lie in a plane")
    u, _, vt = np.linalg.svd(axes_)
    direction = u @ vt
    if np.abs(direction - np.rint(direction)).max() <= _WHOLE:
        direction = np.rint(direction)
    grid = Grid(shape, spacing, m[:-1, -1], direction, unit, SPACE[-ndim:])
    corners = box_corners(np.zeros(ndim), np.asarray(shape) - 1.0)
    off = np.abs(grid.index(corners @ linear.T + m[:-1, -1]) - corners).max()
    if off <= _SHEAR:
        return grid, {}
    header_from_world = m @ grid.inverse_matrix
    warnings.warn(
        f"{what}: the header shears the volume (by up to {off:.3g} voxels), which a grid cannot represent; "
        f"the voxels lie where the nearest rotation puts them, and attrs[{HEADER_FROM_WORLD!r}] maps that world to "
        "the header's",
        MetadataWarning,
        stacklevel=2,
    )
    return grid, {HEADER_FROM_WORLD: header_from_world.tolist()}


def plane_of(world_from_index: Floats) -> Floats | None:
    """The x, y part of a 3D matrix that does not mix x and y with z; None for a matrix that does."""
    m = np.asarray(world_from_index, dtype=np.float64)
    size = np.linalg.norm(m[:3, :3], axis=0)
    mixed = max(np.abs(m[2, :2] / size[:2]).max(), np.abs(m[:2, 2]).max() / size[2])
    return m[np.ix_([0, 1, 3], [0, 1, 3])] if mixed <= _WHOLE else None
