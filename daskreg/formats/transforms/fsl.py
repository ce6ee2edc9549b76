"""FLIRT matrices of FSL (`.mat`): four rows of four numbers.

They map points of the moving image (`-in`) to points of the fixed image (`-ref`), in FSL's scaled millimetres: indices
i, j, k times the voxel size, where i counts from the other end if the determinant of the image's affine is positive.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daskreg.formats.transforms.files import TransformFile, numbers, write_text
from daskreg.formats.transforms.neuro import MILLIMETRES, from_ras, ras_from_index, ras_matrices
from daskreg.geometry import Affine, Grid
from daskreg.geometry.registry import FileReader, FileWriter, register_reader, register_writer

Floats = NDArray[np.float64]

GRIDS = ("fixed", "moving")


def _scaled_from_ras(grid: Grid) -> Floats:
    """(4, 4) from RAS to FSL's scaled millimetres of an image."""
    affine = ras_from_index(grid)
    scaled = np.diag([*grid.spacing[::-1], 1.0])
    if np.linalg.det(affine) > 0:
        scaled[0] = [-scaled[0, 0], 0, 0, scaled[0, 0] * (grid.shape[-1] - 1)]
    return np.asarray(scaled @ np.linalg.inv(affine))


def _read(file: TransformFile, *, fixed: Grid, moving: Grid) -> Affine:
    fixed_from_moving = np.linalg.inv(_scaled_from_ras(fixed)) @ np.array(file.rows) @ _scaled_from_ras(moving)
    return Affine(from_ras(np.linalg.inv(fixed_from_moving)), unit=MILLIMETRES)


def _write(transform: Affine, path: Path, *, fixed: Grid, moving: Grid) -> None:
    moving_from_fixed = ras_matrices(transform, "FSL")
    matrix = _scaled_from_ras(fixed) @ np.linalg.inv(_scaled_from_ras(moving) @ moving_from_fixed)
    write_text("\n".join([*map(numbers, matrix), ""]), path)


register_reader(
    FileReader(
        "FSL",
        lambda file: file.name.endswith((".mat", ".fsl")) and len(file.rows) == 4 and file.widths == {4},
        _read,
        takes=GRIDS,
        needs=GRIDS,
    )
)
register_writer(
    (".mat", ".fsl"),
    FileWriter("FSL", Affine, "a file of FSL holds one affine map", _write, takes=GRIDS, needs=GRIDS),
)
