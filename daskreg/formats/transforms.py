"""Transform files: `save(transform, path)` and `load(path)`.

daskreg's own file is JSON, so that it holds nothing but numbers and names:

    {"schema": "daskreg/transform", "version": 1, "transform": {"type": "affine", ...}}

A fit's file (schema "daskreg/fit") holds the same "transform" entry and loads as its
transform. Files of ITK (`.tfm`, `.txt`, `.h5`) and of elastix store the same direction
as daskreg's `moving_from_fixed`, on the world, in x, y, z order; they know no unit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from daskreg.errors import InputError, InvalidTransformError, OptionError
from daskreg.formats import elastix, itk
from daskreg.geometry import Affine, SliceAffines, Transform
from daskreg.runtime.atomic import replace_text, replacing

SCHEMA = "daskreg/transform"
SCHEMAS = (SCHEMA, "daskreg/fit")
VERSION = 1
SIZE_CAP = 256 * 2**20

_READABLE = "daskreg reads its own JSON, ITK (.tfm, .txt, .h5) and elastix parameter files"

_TYPES: dict[str, type[Affine] | type[SliceAffines]] = {"affine": Affine, "slice-affines": SliceAffines}


def save(transform: Transform, path: str | PathLike[str]) -> None:
    """Write a transform: JSON, or by suffix ITK text (`.tfm`, `.txt`) or ITK HDF5 (`.h5`).

    The file appears whole or not at all, and replaces what was there. Only JSON keeps the
    unit, the axes and maps of single slices.

    Raises: OptionError for a suffix that is not known or a format that cannot hold it.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix == ".json":
        write_json({"schema": SCHEMA, "version": VERSION, "transform": transform.to_dict()}, target)
        return
    if suffix not in (".tfm", ".txt", ".h5"):
        raise OptionError(f"{target.name}: transforms are saved as .json, or for ITK as .tfm, .txt or .h5")
    if not isinstance(transform, Affine):
        raise OptionError(f"{target.name}: an ITK file holds one map, not a map for each slice: save as .json")
    if suffix == ".h5":
        with replacing(target) as partial:
            itk.write_hdf5(transform, partial)
    else:
        write_text(itk.write_text(transform), target)


def load(path: str | PathLike[str]) -> Affine | SliceAffines:
    """Read a transform file, told by its content: JSON (also of a fit), ITK text or HDF5, elastix.

    Maps of other tools come as that tool's pull, `moving_from_fixed`, in array order and
    without a unit.

    Raises: InputError where there is no such file or it is larger than any transform;
        InvalidTransformError where it holds no affine map that can be read;
        MissingExtraError for HDF5 without h5py.
    """
    return _load(Path(path), ())


def _load(path: Path, seen: tuple[Path, ...]) -> Affine | SliceAffines:
    """`seen` are the files that led here, by elastix's links."""
    here = path.resolve()
    if here in seen:
        raise InvalidTransformError(f"{path} builds on itself")
    if _is_hdf5(path):
        return itk.read_hdf5(path)
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidTransformError(f"{path} is not a transform file: {_READABLE}") from error
    if text.startswith("#Insight Transform File"):
        return itk.read_text(text, str(path))
    if elastix.looks_like(text):
        return elastix.read(text, path, lambda linked: _load(linked, (*seen, here)))
    if text.lstrip().startswith("{"):
        return transform_from_file(_parsed(text, path), str(path))
    raise InvalidTransformError(f"{path} is not a transform file: {_READABLE}")


def _is_hdf5(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def transform_from_file(data: Any, name: str = "the file") -> Affine | SliceAffines:
    """The transform in the parsed JSON of a transform or of a fit."""
    if not isinstance(data, Mapping) or data.get("schema") not in SCHEMAS:
        raise InvalidTransformError(f"{name} is not a daskreg transform: its schema is none of {', '.join(SCHEMAS)}")
    version = data.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InvalidTransformError(f"{name} has version {version!r}; this daskreg reads up to {VERSION}: upgrade it")
    return transform_from_dict(data.get("transform"), name)


def transform_from_dict(data: Any, name: str = "the entry") -> Affine | SliceAffines:
    """What `transform.to_dict()` wrote."""
    kind = data.get("type") if isinstance(data, Mapping) else None
    if not isinstance(kind, str) or kind not in _TYPES:
        raise InvalidTransformError(f"{name}: transform type {kind!r} is none of {', '.join(_TYPES)}")
    try:
        return _TYPES[kind].from_dict(data)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidTransformError(f"{name}: the {kind} entry is damaged ({error!r})") from error


def write_json(data: Mapping[str, Any], path: str | PathLike[str]) -> None:
    """Write JSON atomically; NaN and infinity are refused, since JSON has no word for them."""
    write_text(json.dumps(data, allow_nan=False, indent=1) + "\n", path)


def read_json(path: str | PathLike[str]) -> Any:
    """Read JSON up to the size cap.

    Raises: InputError where there is no file, it is too large, or it is not JSON.
    """
    return _parsed(read_bytes(path), path)


def _parsed(text: str | bytes, path: str | PathLike[str]) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidTransformError(f"{path} is not JSON: {error}") from error


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
