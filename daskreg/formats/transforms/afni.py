"""Matrices of AFNI (`.aff12.1D`): rows of twelve numbers, one for each volume of a series.

3dAllineate and 3dvolreg map points of the base (fixed) to the source (moving), in DICOM order, which is LPS. AFNI
drops the obliquity of an image: its voxels lie along the nearest axes of the world, and the first voxel keeps its
place. So an image whose axes are oblique in the world has to be known (`fixed=`, `moving=`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError
from daskreg.formats.transforms.files import TransformFile, numbers, write_text
from daskreg.formats.transforms.itk_types import series
from daskreg.formats.transforms.neuro import MILLIMETRES, from_lps, lps_matrices
from daskreg.geometry import Affine, Grid, SliceAffines, Transform
from daskreg.geometry.registry import FileReader, FileWriter, register_reader, register_writer
from daskreg.geometry.transform import reversed_axes

Floats = NDArray[np.float64]

# Angles below this, in degrees, are no obliquity for AFNI.
_OBLIQUE = 0.01


def _cardinal_from_world(grid: Grid | None) -> Floats:
    """(4, 4), LPS, from the world of an image to the one in which AFNI puts its voxels."""
    if grid is None or grid.ndim != 3:
        return np.eye(4)
    affine = reversed_axes(grid.matrix)
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    nearest = np.abs(cosines).argmax(axis=0)
    if np.degrees(np.arccos(np.minimum(np.abs(cosines).max(axis=0), 1))).max() <= _OBLIQUE:
        return np.eye(4)
    if len(set(nearest.tolist())) < 3:
        raise InvalidTransformError("AFNI cannot tell which axes of the world are nearest to those of this image")
    cardinal = affine.copy()
    cardinal[:3, :3] = 0
    for column, row in enumerate(nearest):
        cardinal[row, column] = np.sign(cosines[row, column]) * grid.spacing[::-1][column]
    return np.asarray(cardinal @ np.linalg.inv(affine))


def _read(file: TransformFile, *, fixed: Grid | None = None, moving: Grid | None = None) -> Affine | SliceAffines:
    rows = np.array(file.rows).reshape(-1, 3, 4)
    matrices = np.concatenate([rows, np.broadcast_to([[[0.0, 0, 0, 1]]], (len(rows), 1, 4))], axis=1)
    matrices = np.linalg.inv(_cardinal_from_world(moving)) @ matrices @ _cardinal_from_world(fixed)
    matrices = from_lps(matrices)
    return Affine(matrices[0], unit=MILLIMETRES) if len(matrices) == 1 else series(matrices, MILLIMETRES)


def _write(transform: Transform, path: Path, *, fixed: Grid | None = None, moving: Grid | None = None) -> None:
    matrices = lps_matrices(transform, "AFNI").reshape(-1, 4, 4)
    matrices = _cardinal_from_world(moving) @ matrices @ np.linalg.inv(_cardinal_from_world(fixed))
    lines = ["# 3dvolreg matrices (DICOM-to-DICOM, row-by-row):"]
    write_text("\n".join([*lines, *(numbers(m[:3].ravel()) for m in matrices), ""]), path)


def _claims(file: TransformFile) -> bool:
    named = file.name.endswith(".1d") or "dicom-to-dicom" in file.comments.lower()
    return named and (file.widths == {12} or (file.widths == {4} and len(file.rows) == 3))


_GRIDS = ("fixed", "moving")

register_reader(FileReader("AFNI", _claims, _read, takes=_GRIDS))
register_writer(
    (".1d",),
    FileWriter("AFNI", (Affine, SliceAffines), "a file of AFNI holds affine maps, not a field", _write, takes=_GRIDS),
)
