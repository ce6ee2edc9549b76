"""Transforms of IMOD (`.xf`, `.xg`): a row `A11 A12 A21 A22 DX DY` for each section.

They map points of a raw section to the aligned one, in pixels from the centres of both images:
x' = A11 (x - xc) + A12 (y - yc) + DX + xc'. So `raw_from_aligned` is the inverse. The rows of an image
are counted as in its MRC file, from the first stored one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError
from daskreg.formats.transforms.files import TransformFile, write_text
from daskreg.geometry import Affine, Grid, SliceAffines, Transform
from daskreg.geometry.pixels import from_index, plane, to_index
from daskreg.geometry.registry import FileReader, FileWriter, register_reader, register_writer
from daskreg.geometry.transform import reversed_axes

Floats = NDArray[np.float64]

_SUFFIXES = (".xf", ".xg", ".prexf", ".prexg")


def _centred(grid: Grid) -> Floats:
    """(3, 3) from indices x, y of an image to pixels from its centre."""
    m = np.eye(3)
    m[:2, 2] = [-(n - 1) / 2 for n in grid.shape[:-3:-1]]
    return m


def _grids(fixed: Grid | None, moving: Grid | None) -> tuple[Grid, Grid]:
    """The grids of an aligned and of a raw section; one that is not given is like the other."""
    output, source = plane(fixed or moving), plane(moving or fixed)
    if output is None or source is None:
        raise InvalidTransformError("the grid of the stack is needed: IMOD counts from the centres of the images")
    return output, source


def _read(file: TransformFile, *, moving: Grid, fixed: Grid | None = None) -> Affine | SliceAffines:
    output, source = _grids(fixed, moving)
    matrices = np.zeros((len(file.rows), 3, 3))
    rows = np.array(file.rows)
    matrices[:, :2, :2], matrices[:, :2, 2], matrices[:, 2, 2] = rows[:, :4].reshape(-1, 2, 2), rows[:, 4:], 1
    pull = reversed_axes(np.asarray(np.linalg.inv(_centred(source)) @ np.linalg.inv(matrices) @ _centred(output)))
    return from_index(pull[0] if len(pull) == 1 else pull, output, source)


def _write(transform: Transform, path: Path, *, moving: Grid, fixed: Grid | None = None) -> None:
    if transform.ndim != 2:
        raise InvalidTransformError(f"IMOD moves 2D sections, not {transform.ndim}D volumes")
    output, source = _grids(fixed, moving)
    pull = reversed_axes(to_index(transform, output, source)).reshape(-1, 3, 3)
    matrices = _centred(output) @ np.linalg.inv(pull) @ np.linalg.inv(_centred(source))
    rows = ([*m[:2, :2].ravel(), *m[:2, 2]] for m in matrices)
    write_text("\n".join([*(" ".join(f"{value:.12f}" for value in row) for row in rows), ""]), path)


register_reader(
    FileReader(
        "IMOD",
        lambda file: file.name.endswith(_SUFFIXES) and file.widths == {6},
        _read,
        takes=("fixed", "moving"),
        needs=("moving",),
    )
)
register_writer(
    _SUFFIXES,
    FileWriter(
        "IMOD",
        (Affine, SliceAffines),
        "a file of IMOD holds affine maps of sections",
        _write,
        takes=("fixed", "moving"),
        needs=("moving",),
    ),
)
