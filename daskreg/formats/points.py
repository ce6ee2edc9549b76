"""Point clouds from files: `.npy`, `.ply`, `.pcd`, and text with or without a line of names."""

from __future__ import annotations

import re
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


def read_points(path: str | PathLike[str], *, ndim: int = 3) -> NDArray[np.float64]:
    """(N, D) float64 points, columns in the file's own order (in most files x, y, z).

    Columns after the third (normals, intensities) are left out; a file of two columns is 2D. In text with a
    line of names, the columns named x, y, z are taken, wherever they are. Empty cells are NaN.

    Args:
        path: NumPy `.npy`, `.ply` (ascii or binary), `.pcd` (ascii, binary, binary_compressed), or text
            (`.csv`, `.xyz`, `.txt`, ...) separated by semicolons, commas or blanks, with at most one line of
            names, or of the number of points. Where commas do not separate columns, they are decimal commas.
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
    """Rows of numbers: the columns named x, y, z where there is a line of names, else the first three."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith(("#", "%", "//"))]
    rows = [_words(line, _separator(lines[-1])) for line in lines]
    if len(rows) > 1 and lines[0] == str(len(rows) - 1):  # the number of points comes first
        rows = rows[1:]
    columns = None
    if rows and not any(_is_number(word) for word in rows[0]):
        columns, rows = _named(rows[0]), rows[1:]
    if not rows:
        raise ValueError("it has no rows")
    if len({len(row) for row in rows}) > 1:
        number = next(i for i, row in enumerate(rows) if len(row) != len(rows[0]))
        raise ValueError(f"row {number + 1} has {len(rows[number])} columns, the first {len(rows[0])}")
    chosen = columns or range(min(len(rows[0]), 3))
    return np.array([[float(row[k]) if row[k] else np.nan for k in chosen] for row in rows], dtype=np.float64)


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


def _named(names: list[str]) -> list[int] | None:
    """Columns named x, y and maybe z (in ParaView Points:0, :1, :2), in the file's order; None without x and y."""
    columns = dict[str, int]()
    for column, name in enumerate(names):
        match = re.fullmatch(r"(?:points?[:_ ]?)?([xyz012])(?:[\W_].*)?", name.lower())
        if match:
            columns.setdefault({"0": "x", "1": "y", "2": "z"}.get(match[1], match[1]), column)
    return sorted(columns.values()) if {"x", "y"} <= columns.keys() else None


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
