"""Point clouds from files: `.npy`, `.ply`, `.pcd`, and text with or without a line of names."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InputError
from daskreg.formats.pcd import read_pcd

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

    Columns after the third (normals, intensities) are left out; a file of two columns is 2D.

    Args:
        path: NumPy `.npy`, `.ply` (ascii or binary), `.pcd` (ascii, binary, binary_compressed), or text
            (`.csv`, `.xyz`, `.txt`, ...)
            separated by commas, semicolons or blanks, with at most one line of names.
        ndim: columns to take where there are as many.

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
        elif magic.startswith(b"ply"):
            points = _ply(file)
        elif _is_pcd(file):
            points = read_pcd(file.read_bytes())
        else:
            points = _text(file)
        points = np.asarray(points, dtype=np.float64)
    except (ValueError, KeyError, IndexError, UnicodeDecodeError, EOFError) as error:
        raise InputError(
            f"{file} holds no points that can be read (.npy, .ply, .pcd, or rows of numbers): {error}"
        ) from error
    if points.ndim != 2 or points.shape[0] == 0 or points.shape[1] < 2:
        raise InputError(f"{file} holds an array of shape {points.shape}; points are rows of 2 or 3 numbers")
    return np.ascontiguousarray(points[:, :ndim])


def _is_pcd(file: Path) -> bool:
    """By its first line, or, where comments come first, by its name."""
    with file.open("rb") as head:
        start = head.read(200).lstrip()
    return start.startswith((b"VERSION", b"# .PCD")) or (file.suffix.lower() == ".pcd" and b"VERSION" in start)


def _text(file: Path) -> NDArray[np.float64]:
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    rows = [re.split(r"[,;\s]+", line.strip(" ,;\t")) for line in lines if line.strip() and line.strip()[0] not in "#%"]
    if rows and not _is_number(rows[0][0]):
        rows = rows[1:]
    return np.array([[float(word) for word in row] for row in rows], dtype=np.float64)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _ply(file: Path) -> NDArray[np.float64]:
    """The x, y, z of the vertices, which have to be the first element."""
    content = file.read_bytes()
    header, end, body = content.partition(b"end_header")
    if not end:
        raise ValueError("its header does not end")
    body = body[body.index(b"\n") + 1 :]
    kind, count, names = "", 0, list[tuple[str, str]]()
    in_vertex = False
    for words in (line.split() for line in header.decode("ascii").splitlines()):
        if words[:1] == ["format"]:
            kind = words[1]
        elif words[:1] == ["element"]:
            if words[1] != "vertex" and not count:
                raise ValueError(f"its first element is {words[1]}, not vertex")
            in_vertex = words[1] == "vertex"
            count = int(words[2]) if in_vertex else count
        elif words[:1] == ["property"] and in_vertex:
            if words[1] not in _PLY_TYPES:
                raise ValueError(f"property {words[-1]} of type {words[1]}")
            names.append((words[2], _PLY_TYPES[words[1]]))
    axes = [name for name in ("x", "y", "z") if name in dict(names)]
    if kind == "ascii":
        rows = body.decode("ascii").split("\n")[:count]
        table = np.array([[float(word) for word in row.split()[: len(names)]] for row in rows])
        return table[:, [list(dict(names)).index(axis) for axis in axes]]
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}[kind]
    records = np.frombuffer(body, dtype=[(name, order + code) for name, code in names], count=count)
    return np.stack([records[axis].astype(np.float64) for axis in axes], axis=1)
