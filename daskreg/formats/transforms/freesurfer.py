"""Linear transforms of FreeSurfer (`.lta`), of types 0 (voxel to voxel) and 1 (RAS to RAS).

They map points of `src` (moving) to points of `dst` (fixed), so `moving_from_fixed` is the inverse. The geometry of
both volumes is in the file: `cras` is the RAS position of index (width, height, depth) / 2.

Other programs write the inverse into files of the same form, which nothing in them tells: nitransforms' files
`affine-*.fs.lta` are such.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError
from daskreg.formats.transforms.files import TransformFile, write_text
from daskreg.formats.transforms.neuro import MILLIMETRES, from_ras, ras_from_index, ras_matrices
from daskreg.geometry import Affine, Grid
from daskreg.geometry.registry import FileReader, FileWriter, register_reader, register_writer

Floats = NDArray[np.float64]

_VOXEL_TO_VOXEL, _RAS_TO_RAS = 0, 1
_GRIDS = ("fixed", "moving")
_KEY = re.compile(r"^\s*(\w+)\s*=\s*([^#]*)")


def _read(file: TransformFile) -> Affine:
    head, *parts = re.split(r"^(src|dst) volume info.*$", file.text, flags=re.MULTILINE)
    volumes = {name: _fields(part) for name, part in zip(parts[::2], parts[1::2], strict=True)}
    words = [line.split() for line in head.splitlines()]
    rows = [[float(w) for w in line] for line in words if len(line) == 4 and all(map(_is_number, line))]
    fields = _fields(head)
    kind, count = int(fields["type"][0]), int(fields["nxforms"][0])
    if count != 1 or len(rows) != 4:
        raise InvalidTransformError(f"{file.path} holds {count} transforms in {len(rows)} rows; one in four is read")
    matrix = np.array(rows)
    if kind == _VOXEL_TO_VOXEL:
        moving, fixed = (_ras_from_voxel(volumes.get(name, {}), name, file.path) for name in ("src", "dst"))
        matrix = fixed @ matrix @ np.linalg.inv(moving)
    elif kind != _RAS_TO_RAS:
        raise InvalidTransformError(
            f"{file.path} is of type {kind}; types 0 and 1 are read: convert it with lta_convert --outlta"
        )
    return Affine(from_ras(np.linalg.inv(matrix)), unit=MILLIMETRES)


def _fields(text: str) -> dict[str, list[float]]:
    """The numbers of the lines `key = 1 2 3 # comment`."""
    found = (_KEY.match(line) for line in text.splitlines())
    return {m[1]: [float(w) for w in m[2].split()] for m in found if m and all(map(_is_number, m[2].split()))}


def _ras_from_voxel(fields: dict[str, list[float]], name: str, path: Path) -> Floats:
    if not fields.get("valid", [0])[0]:
        raise InvalidTransformError(f"{path} maps voxels to voxels, and the geometry of its {name} volume is not valid")
    affine = np.eye(4)
    axes = np.array([fields[key] for key in ("xras", "yras", "zras")]).T
    affine[:3, :3] = axes * fields["voxelsize"]
    affine[:3, 3] = np.array(fields["cras"]) - affine[:3, :3] @ (np.array(fields["volume"]) / 2)
    return affine


def _write(transform: Affine, path: Path, *, fixed: Grid, moving: Grid) -> None:
    matrix = np.linalg.inv(ras_matrices(transform, "FreeSurfer"))
    lines = [
        f"type      = {_RAS_TO_RAS} # LINEAR_RAS_TO_RAS",
        "nxforms   = 1",
        "mean      = 0.0 0.0 0.0",
        "sigma     = 1.0",
        "1 4 4",
        *(_precise(row) for row in matrix),
    ]
    for name, grid in (("src", moving), ("dst", fixed)):
        affine, size = ras_from_index(grid), np.array(grid.shape[::-1])
        centre = affine[:3, :3] @ (size / 2) + affine[:3, 3]
        axes = affine[:3, :3] / np.array(grid.spacing[::-1])
        lines += [
            f"{name} volume info",
            "valid = 1  # volume info valid",
            "filename = unknown",
            f"volume = {' '.join(map(str, size))}",
            f"voxelsize = {_precise(grid.spacing[::-1])}",
            *(f"{axis}ras   = {_precise(axes[:, k])}" for k, axis in enumerate("xyz")),
            f"cras   = {_precise(centre)}",
        ]
    write_text("\n".join([*lines, ""]), path)


def _precise(values: Floats | tuple[float, ...]) -> str:
    return " ".join(f"{value:.17e}" for value in values)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


register_reader(
    FileReader(
        "FreeSurfer",
        lambda file: bool(re.search(r"^type\s*=\s*\d+", file.text, re.MULTILINE) and "nxforms" in file.text),
        _read,
    )
)
register_writer(
    (".lta",),
    FileWriter("FreeSurfer", Affine, "an LTA file holds one affine map", _write, takes=_GRIDS, needs=_GRIDS),
)
