"""Point clouds from files: `.npy`, `.ply`, `.pcd`, and text with or without a line of names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import DaskregError, InputError
from daskreg.formats.pcd import read_pcd
from daskreg.runtime.messages import reason

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


_COORDINATES = (
    r"(?:points?[:_ ]?)?([xyz012])(?:[\W_].*)?",
    r"([xyz])(?:nm|um|µm|mm)",
    r"(?:axis|centroid)[-_ ]([012])",
    r"(?:position|pos|location|centroid|center|centre|coord)[-_ .]([xyz])",
    r".*[-_ ](?:center|location|position)[-_ ]([xyz])",
)
"""How columns of coordinates are named, in the order in which the ways are tried."""

_AXES = {"0": "x", "1": "y", "2": "z"}


def read_points(path: str | PathLike[str], *, ndim: int = 3) -> NDArray[np.float64]:
    """(N, D) float64 points, columns in the file's own order (in most files x, y, z).

    Columns after the third (normals, intensities) are left out; a file of two columns is 2D. In text with a
    line of names, the columns of coordinates are taken, wherever they are: x, y, z, or as napari, scikit-image,
    TrackMate, CellProfiler and SMAP name them. Empty cells are NaN.

    Args:
        path: NumPy `.npy`, `.ply` (ascii or binary), `.pcd` (ascii, binary, binary_compressed), a `.swc` skeleton, a
            `.fcsv` of 3D Slicer (as LPS), points of elastix, or text (`.csv`, `.xyz`, `.txt`, ...) separated by
            semicolons, commas or blanks, with at most one line of names, or of the number of points. Where commas do
            not separate columns, they are decimal commas.
        ndim: the largest number of columns to take.

    Raises: InputError where there is no such file, or it holds no points.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    try:
        with file.open("rb") as head:
            magic = head.read(6)
        if magic == b"\x93NUMPY":
            points = np.load(file, allow_pickle=False)
            if points.dtype.kind not in "fiub":
                raise ValueError(f"an array of {points.dtype}")
        elif magic.startswith(b"ply"):
            points = _ply(file)
        elif _is_pcd(file):
            points = read_pcd(file.read_bytes())
        else:
            points = _text(file)
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


def _text(file: Path) -> NDArray[np.float64]:
    """Rows of numbers: the columns named as coordinates where there is a line of names, else the first three."""
    everything = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    lines = [line for line in map(str.strip, everything) if line and not line.startswith(("#", "%", "//"))]
    if any(line.startswith("# Markups fiducial file") for line in everything[:3]):
        return _slicer(everything, lines)
    if lines and lines[0].lower() in ("point", "index") and len(lines) > 2 and lines[1].isdigit():  # elastix
        if lines[0].lower() == "index":
            raise ValueError("its points are indices of voxels, and the image that they belong to is not known here")
        lines = lines[2:]
    rows = [_words(line, _separator(lines[-1])) for line in lines]
    if len(rows) > 1 and lines[0] == str(len(rows) - 1):  # the number of points comes first
        rows = rows[1:]
    columns = None
    if rows and not any(_is_number(word) for word in rows[0]):
        columns, rows = _named(rows[0]), rows[1:]
        while rows and not _is_number(rows[0][columns[0]]):  # TrackMate's other names and units of the columns
            rows = rows[1:]
    if not rows:
        raise ValueError("it has no rows")
    if len({len(row) for row in rows}) > 1:
        number = next(i for i, row in enumerate(rows) if len(row) != len(rows[0]))
        raise ValueError(f"row {number + 1} has {len(rows[number])} columns, the first {len(rows[0])}")
    if columns is None and not _is_number(rows[0][0]) and len(rows[0]) > 3:
        raise ValueError(f"its rows begin with {rows[0][0]!r}, and no line names the columns of the coordinates")
    if file.suffix.lower() == ".swc":  # number, type, x, y, z, radius, number of the parent
        columns = [2, 3, 4]
    return _columns(rows, columns or range(min(len(rows[0]), 3)))


def _columns(rows: list[list[str]], chosen: Iterable[int]) -> NDArray[np.float64]:
    """Columns of the rows; empty cells are NaN."""
    wanted = list(chosen)
    return np.array([[float(row[k]) if row[k] else np.nan for k in wanted] for row in rows], dtype=np.float64)


def _slicer(everything: list[str], lines: list[str]) -> NDArray[np.float64]:
    """The points of a .fcsv of 3D Slicer, x, y, z, in LPS as the volumes that daskreg opens."""
    stated = dict(line.lstrip("# ").split("=", 1) for line in everything if line.startswith("#") and "=" in line)
    fields = {key.strip().lower(): value.strip() for key, value in stated.items()}
    names = fields.get("columns", "id,x,y,z").split(",")
    points = _columns([line.split(",") for line in lines], [names.index(axis) for axis in "xyz"])
    if fields.get("coordinatesystem", "RAS") in ("RAS", "0"):
        points[:, :2] *= -1
    elif fields["coordinatesystem"] not in ("LPS", "1"):
        raise ValueError(f"its coordinate system is {fields['coordinatesystem']}, not RAS or LPS")
    return points


def _separator(line: str) -> str | None:
    """Semicolon, comma, or None for blanks; where blanks are between numbers, "1,5" is one and a half."""
    if ";" in line:
        return ";"
    return "," if "," in line and not re.search(r"[\d.]\s+[-+.\d]", line) else None


def _words(line: str, separator: str | None) -> list[str]:
    if separator != ",":
        line = line.replace(",", ".")
    words = [word.strip(' \t"') for word in line.split(separator)]
    return words[:-1] if len(words) > 1 and not words[-1] else words


def _named(names: list[str]) -> list[int]:
    """The columns of coordinates, in the file's order.

    They are named x, y and maybe z, with a unit (`x [nm]`, `xnm`) or what they are of (`POSITION_X` of TrackMate,
    `Location_Center_X` of CellProfiler, `Points:0` of ParaView), or numbered (`axis-0` of napari and `centroid-0` of
    scikit-image, which are in array order). Two or three columns with other names are the coordinates.

    Raises: ValueError where there are more, none of which is known.
    """
    for pattern in _COORDINATES:
        columns = dict[str, int]()
        for column, name in enumerate(names):
            match = re.fullmatch(pattern, name.strip().lower())
            if match:
                columns.setdefault(_AXES.get(match[1], match[1]), column)
        if {"x", "y"} <= columns.keys():
            return sorted(columns[axis] for axis in ("x", "y", "z") if axis in columns)
    if len(names) > 3:
        raise ValueError(f"its columns {', '.join(names)[:200]} name no coordinates (x, y, z, or axis-0, axis-1, ...)")
    return list(range(len(names)))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


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
