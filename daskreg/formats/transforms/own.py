"""daskreg's own transform files: JSON, which holds nothing but numbers and names.

    {"schema": "daskreg/transform", "version": 1, "transform": {"type": "affine", ...}}

A fit's file (schema "daskreg/fit") holds the same "transform" entry and loads as its transform.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from daskreg.errors import InputError, InvalidTransformError
from daskreg.formats.transforms.files import TransformFile, read_bytes, write_text
from daskreg.geometry import Transform
from daskreg.geometry.registry import FileReader, FileWriter, kinds, register_reader, register_writer
from daskreg.runtime.messages import reason

SCHEMA = "daskreg/transform"
SCHEMAS = (SCHEMA, "daskreg/fit")
VERSION = 1
PARSED_CAP = 256 * 2**20
"""Bytes of memory of what a JSON file holds: the matrices of 200,000 slices."""

# What a list, a dict and one more value in either take in CPython, at most.
_PARSED_SIZES = {b"[": 64, b"{": 240, b",": 40}


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
    if isinstance(kind, str) and kind not in known:
        importlib.import_module("daskreg.fields")  # kinds that are built on this module
        known = kinds()
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
    return parsed_json(read_bytes(path), path)


def parsed_json(text: str | bytes, path: str | PathLike[str]) -> Any:
    """What a JSON text holds, up to a cap of memory; `path` is for messages."""
    data = text.encode() if isinstance(text, str) else text
    parsed = sum(size * data.count(mark) for mark, size in _PARSED_SIZES.items())
    if parsed > PARSED_CAP:
        raise InputError(f"{path} would take {parsed} bytes of memory, and a transform file takes at most {PARSED_CAP}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidTransformError(f"{path} is not JSON: {reason(error)}") from error


def _read(file: TransformFile) -> Transform:
    return transform_from_file(parsed_json(file.text, file.path), str(file.path))


def _write(transform: Transform, path: Path) -> None:
    write_json({"schema": SCHEMA, "version": VERSION, "transform": transform.to_dict()}, path)


register_reader(FileReader("daskreg", lambda file: file.text.lstrip().startswith("{"), _read), last=True)
register_writer((".json",), FileWriter("daskreg", Transform, "", _write))
