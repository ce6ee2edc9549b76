"""What the formats of neuroimaging share: the RAS world of NIfTI, x, y, z order, millimetres.

daskreg's world of NIfTI, NRRD and MetaImage is LPS in z, y, x order: x and y have the other sign.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError, UnitError
from daskreg.geometry import PIXEL, Grid, Transform
from daskreg.geometry.transform import reversed_axes

Floats = NDArray[np.float64]

MILLIMETRES = "millimeter"

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


def lps_matrices(transform: Transform, tool: str) -> Floats:
    """(..., 4, 4) in LPS and x, y, z order.

    Raises: InvalidTransformError for a 2D map; UnitError for another unit than millimetres.
    """
    if transform.ndim != 3:
        raise InvalidTransformError(f"a file of {tool} holds a map of volumes, not of {transform.ndim}D images")
    if transform.unit not in (None, PIXEL, MILLIMETRES):
        raise UnitError(f"a file of {tool} is in millimetres, the transform in {transform.unit}")
    return reversed_axes(transform.to_matrices())


def from_lps(matrices: Floats) -> Floats:
    """(..., 4, 4) in array order (z, y, x)."""
    return reversed_axes(matrices)


def ras_matrices(transform: Transform, tool: str) -> Floats:
    """(..., 4, 4) in RAS and x, y, z order; errors are those of `lps_matrices`."""
    return np.asarray(_FLIP @ lps_matrices(transform, tool) @ _FLIP)


def from_ras(matrices: Floats) -> Floats:
    """(..., 4, 4) in array order (z, y, x), LPS."""
    return from_lps(_FLIP @ matrices @ _FLIP)


def ras_from_index(grid: Grid) -> Floats:
    """(4, 4) from indices i, j, k, as NIfTI counts voxels, to RAS: the affine of nibabel.

    Raises: InvalidTransformError for an image; UnitError for another unit than millimetres.
    """
    if grid.ndim != 3:
        raise InvalidTransformError(f"the grid of a volume is needed, not of a {grid.ndim}D image")
    if grid.unit not in (PIXEL, MILLIMETRES):
        raise UnitError(f"grids in millimetres are needed, not in {grid.unit}")
    return np.asarray(_FLIP @ reversed_axes(grid.matrix))
