"""Transform files: what `transform.save(path)` writes, and `load(path)`.

daskreg's own file is JSON, which holds nothing but numbers and names:

    {"schema": "daskreg/transform", "version": 1, "transform": {"type": "affine", ...}}

A fit's file (schema "daskreg/fit") holds the same "transform" entry and loads as its
transform. Files of ITK (`.tfm`, `.txt`, `.h5`) and of elastix store the same direction
as daskreg's `moving_from_fixed`, on the world, in x, y, z order, without a unit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from daskreg.errors import DaskregError, InputError, InvalidTransformError
from daskreg.formats.transforms import elastix, itk
from daskreg.geometry import Affine, Transform
from daskreg.geometry.registry import FileWriter, kinds, register_writer
from daskreg.runtime.atomic import replace_text, replacing
from daskreg.runtime.messages import reason
from daskreg.runtime.paths import shown, unusable

SCHEMA = "daskreg/transform"
SCHEMAS = (SCHEMA, "daskreg/fit")
VERSION = 1
SIZE_CAP = 256 * 2**20
PARSED_CAP = 256 * 2**20
"""Bytes of memory of what a JSON file holds: the matrices of 200,000 slices."""

# What a list, a dict and one more value in either take in CPython, at most.
_PARSED_SIZES = {b"[": 64, b"{": 240, b",": 40}

_READABLE = "daskreg reads its own JSON, ITK (.tfm, .txt, .h5) and elastix parameter files"


def load(path: str | PathLike[str]) -> Transform:
    """Read a transform file, recognised by its content: JSON (also of a fit), ITK text or HDF5, elastix.

    Maps of other tools are that tool's pull, `moving_from_fixed`, in array order and
    without a unit.

    Raises: InputError where there is no such file or it is larger than any transform;
        InvalidTransformError where it holds no affine map that can be read;
        MissingExtraError for HDF5 without h5py.
    """
    if why := unusable(path):
        raise InputError(f"{shown(path)} cannot be read: {why}")
    try:
        return _load(Path(path), ())
    except (DaskregError, Warning):
        raise
    except Exception as error:
        # Numbers that are missing, too large or no numbers, in whatever format.
        message = f"{path} is damaged, or no transform ({type(error).__name__}: {reason(error)})"
        raise InvalidTransformError(message) from error


def _load(path: Path, parents: tuple[Path, ...]) -> Transform:
    """`parents` are the elastix files that named this one."""
    resolved = path.resolve()
    if resolved in parents:
        raise InvalidTransformError(f"{path} refers to itself")
    if _is_hdf5(path):
        return itk.read_hdf5(path)
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidTransformError(f"{path} is not a transform file: {_READABLE}") from error
    if text.startswith("#Insight Transform File"):
        return itk.read_text(text, str(path))
    if elastix.is_parameter_file(text):
        return elastix.read(text, path, lambda linked: _load(linked, (*parents, resolved)))
    if text.lstrip().startswith("{"):
        return transform_from_file(_parsed(text, path), str(path))
    raise InvalidTransformError(f"{path} is not a transform file: {_READABLE}")


def _is_hdf5(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def transform_from_file(data: Any, name: str = "the file") -> Transform:
    """The transform in the parsed JSON of a transform or of a fit."""
    if not isinstance(data, Mapping) or data.get("schema") not in SCHEMAS:
        raise InvalidTransformError(f"{name} is not a daskreg transform: its schema is none of {', '.join(SCHEMAS)}")
    version = data.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InvalidTransformError(f"{name} has version {version!r}; this daskreg reads up to {VERSION}: upgrade it")
    return transform_from_dict(data.get("transform"), name)


def transform_from_dict(data: Any, name: str = "the entry") -> Transform:
    """The transform of what its `to_dict()` gave."""
    known = kinds()
    kind = data.get("type") if isinstance(data, Mapping) else None
    if not isinstance(kind, str) or kind not in known:
        raise InvalidTransformError(f"{name}: transform type {kind!r} is none of {', '.join(known)}")
    try:
        return known[kind].from_dict(data)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidTransformError(f"{name}: the {kind} entry is damaged ({error!r})") from error


def write_json(data: Mapping[str, Any], path: str | PathLike[str]) -> None:
    """Write JSON atomically; NaN and infinity are an error, since JSON does not have them."""
    write_text(json.dumps(data, allow_nan=False, indent=1) + "\n", path)


def read_json(path: str | PathLike[str]) -> Any:
    """Read JSON up to the size cap.

    Raises: InputError where there is no file, it is too large, or it is not JSON.
    """
    return _parsed(read_bytes(path), path)


def _parsed(text: str | bytes, path: str | PathLike[str]) -> Any:
    data = text.encode() if isinstance(text, str) else text
    parsed = sum(size * data.count(mark) for mark, size in _PARSED_SIZES.items())
    if parsed > PARSED_CAP:
        raise InputError(f"{path} would take {parsed} bytes of memory, and a transform file takes at most {PARSED_CAP}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidTransformError(f"{path} is not JSON: {reason(error)}") from error


def write_text(text: str, path: str | PathLike[str]) -> None:
    """Write a text file that appears whole or not at all."""
    replace_text(Path(path), text, sync=True)


def read_bytes(path: str | PathLike[str]) -> bytes:
    """The content of a file up to the size cap."""
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    size = file.stat().st_size
    if size > SIZE_CAP:
        raise InputError(f"{file} has {size} bytes; a transform file has at most {SIZE_CAP}")
    return file.read_bytes()


def _write_own(transform: Transform, path: Path) -> None:
    write_json({"schema": SCHEMA, "version": VERSION, "transform": transform.to_dict()}, path)


def _write_itk_text(transform: Affine, path: Path) -> None:
    write_text(itk.write_text(transform), path)


def _write_itk_hdf5(transform: Affine, path: Path) -> None:
    with replacing(path) as partial:
        itk.write_hdf5(transform, partial)


_ITK_LIMIT = "an ITK file holds one affine map, not a field, and not a map for each slice"

register_writer((".json",), FileWriter("daskreg", Transform, "", _write_own))
register_writer((".tfm", ".txt"), FileWriter("ITK", Affine, _ITK_LIMIT, _write_itk_text))
register_writer((".h5",), FileWriter("ITK", Affine, _ITK_LIMIT, _write_itk_hdf5))
