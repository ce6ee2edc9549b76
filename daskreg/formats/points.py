"""Point clouds from files: `.npy`, `.ply`, `.pcd`, `.las`, `.laz`, and text with or without a line of names."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import DaskregError, InputError, OptionError
from daskreg.formats.las import read_las
from daskreg.formats.pcd import read_pcd
from daskreg.formats.point_tables import read_table
from daskreg.geometry import default_axes
from daskreg.runtime.messages import reason
from daskreg.runtime.paths import local_path

_PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}


def read_points(path: str | PathLike[str], *, ndim: int = 3, axes: str | None = None) -> NDArray[np.float64]:
    """(N, D) float64 points, whose columns are x, y, z, or as `axes` says.

    Columns after the third (normals, intensities) are left out; a file of two columns is 2D. In text with a
    line of names, the columns of coordinates are taken, wherever they are: x, y, z, or as napari, scikit-image,
    TrackMate, CellProfiler and SMAP name them. Without names, columns stay in the file's order. Empty cells are NaN.

    Args:
        path: NumPy `.npy`, `.ply` (ascii or binary), `.pcd` (ascii, binary, binary_compressed), LAS and LAZ, a
            `.swc` skeleton, a `.fcsv` or `.mrk.json` of 3D Slicer (as LPS), points of elastix, or text (`.csv`, ...)
            separated by semicolons, commas, tabs or blanks, with at most one line of names, or of the number of points.
            Where commas do not separate columns, they are decimal commas.
        ndim: the largest number of columns to take.
        axes: order of the columns that are returned, such as "zyx", and of those of a file without names.

    Raises: InputError where there is no such file, or it holds no points.
    """
    file = local_path(path)
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    try:
        with file.open("rb") as head:
            magic = head.read(6)
        if magic == b"\x93NUMPY":
            points = np.load(file, allow_pickle=False)
            if points.dtype.kind not in "fiub":
                raise ValueError(f"an array of {points.dtype}")
        elif magic.startswith(b"LASF"):
            points = read_las(file)
        elif magic.startswith(b"ply"):
            points = _ply(file)
        elif _is_pcd(file):
            points = read_pcd(file.read_bytes())
        else:
            points = _text(file, axes)
        points = np.asarray(points, dtype=np.float64)
    except (DaskregError, Warning):
        raise
    except Exception as error:
        raise InputError(
            f"{file} holds no points that can be read (.npy, .ply, .pcd, or rows of numbers): {reason(error)}"
        ) from error
    if points.ndim != 2 or points.shape[0] == 0 or points.shape[1] < 2:
        raise InputError(f"{file} holds an array of shape {points.shape}; points are rows of 2 or 3 numbers")
    return np.ascontiguousarray(points[:, :ndim])


def _is_pcd(file: Path) -> bool:
    """Whether it is a PCD file: by its first line, or, where comments come first, by its name."""
    with file.open("rb") as head:
        start = head.read(200).lstrip()
    return start.startswith((b"VERSION", b"# .PCD")) or (file.suffix.lower() == ".pcd" and b"VERSION" in start)


def _text(file: Path, axes: str | None) -> NDArray[np.float64]:
    """The points of a table. Raises: InputError where they are voxel indices."""
    table = read_table(file, axes=axes)
    if table.in_voxels:
        raise InputError(f"{file}: its points are indices of voxels, and their image is not known here")
    ndim = table.points.shape[1]
    if axes is not None and sorted(axes) != sorted(default_axes(ndim)):
        raise OptionError(f"{file}: axes={axes!r} do not name {ndim} columns")
    order = [default_axes(ndim).index(axis) for axis in axes or default_axes(ndim)[::-1]]
    return table.points[:, order]


def _ply(file: Path) -> NDArray[np.float64]:
    """The x, y, z of the vertices. Elements before them are skipped; binary lists there are an error."""
    content = file.read_bytes()
    header, end, body = content.partition(b"end_header")
    if not end:
        raise ValueError("its header does not end")
    body = body[body.index(b"\n") + 1 :]
    kind, elements = "", list[tuple[str, int, list[list[str]]]]()
    for words in (line.split() for line in header.decode("ascii", errors="replace").splitlines()):
        if words[:1] == ["format"]:
            kind = words[1]
        elif words[:1] == ["element"]:
            elements.append((words[1], int(words[2]), []))
        elif words[:1] == ["property"]:
            elements[-1][2].append(words[1:])
    names = [name for name, _, _ in elements]
    if "vertex" not in names:
        raise ValueError("it has no vertices")
    before, (_, count, properties) = elements[: names.index("vertex")], elements[names.index("vertex")]
    columns = [words[-1] for words in properties]
    axes = [columns.index(axis) for axis in ("x", "y", "z") if axis in columns]
    if count < 1 or not {"x", "y"} <= set(columns):
        raise ValueError(f"it has {count} vertices with {', '.join(columns)}")
    if kind == "ascii":
        lines = [line for line in body.decode("ascii").splitlines() if line.strip()]
        rows = lines[sum(number for _, number, _ in before) :][:count]
        if len(rows) < count:
            raise ValueError(f"it ends after {len(rows)} of {count} vertices")
        if "list" in [words[0] for words in properties[: max(axes)]]:
            raise ValueError("a list comes before the coordinates")
        table = [row.split() for row in rows]
        return np.array([[float(row[axis]) for axis in axes] for row in table])
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}[kind]
    start = sum(number * _record(what, order).itemsize for _, number, what in before)
    records = np.frombuffer(body, dtype=_record(properties, order), count=count, offset=start)
    return np.stack([records[f"f{axis}"].astype(np.float64) for axis in axes], axis=1)


def _record(properties: list[list[str]], order: str) -> np.dtype[np.void]:
    for words in properties:
        if words[0] not in _PLY_TYPES:
            raise ValueError(f"property {words[-1]} of type {words[0]}, with the vertices or before them")
    return np.dtype([(f"f{i}", order + _PLY_TYPES[words[0]]) for i, words in enumerate(properties)])
