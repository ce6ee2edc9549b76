"""Transforms with fields in a Zarr group: the numbers in its attributes, each field's vectors in an array.

    {"daskreg": {"schema": "daskreg/transform", "version": 1, "transform": {..., "vectors": {"array": "0"}}}}

The vectors of a loaded transform stay in the store, and are read where they are needed.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from daskreg.errors import InvalidTransformError, OutputExistsError
from daskreg.fields.composite import Composite
from daskreg.fields.field import DisplacementField, grid_dict
from daskreg.fields.slices import SliceDisplacements
from daskreg.formats.transforms.own import SCHEMA, VERSION, transform_from_file
from daskreg.geometry import Box, Transform
from daskreg.runtime.paths import local_path

_ATTRIBUTE = "daskreg"
_CHUNK = {2: 256, 3: 64}
_READ_BYTES = 32 * 2**20


def save_store(transform: Transform, path: Path) -> None:
    """Write a group that appears whole or not at all.

    Raises: OutputExistsError where the path is there and holds no transform.
    """
    if path.exists() and not is_store(path):
        raise OutputExistsError(f"{path} exists and holds no transform: remove it, or choose another name")
    with whole_group(path) as group:
        names: list[str] = []

        def store(field: DisplacementField | SliceDisplacements) -> dict[str, Any]:
            name = str(len(names))
            names.append(name)
            copy_vectors(field, group, name)
            return {"array": name}

        data: Any = {"schema": SCHEMA, "version": VERSION, "transform": _described(transform, store)}
        group.attrs[_ATTRIBUTE] = data


@contextmanager
def whole_group(path: Path) -> Iterator[zarr.Group]:
    """A new group beside `path`, which replaces it when the block ends; where the block raises, it is removed."""
    local_path(path, room=len(".0123456789abcdef.partial"))
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}.partial")
    try:
        yield zarr.open_group(partial, mode="w")
        if path.exists():
            old = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}.old")
            path.replace(old)
            partial.replace(path)
            shutil.rmtree(old)
        else:
            partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_store(path: Path) -> bool:
    """Whether a path is a Zarr group with a transform."""
    if not (path / "zarr.json").is_file():
        return False
    try:
        return _ATTRIBUTE in zarr.open_group(path, mode="r").attrs
    except Exception:  # what is damaged is no store of ours
        return False


def load_store(path: Path) -> Transform:
    """The transform in a group, with the vectors left where they are.

    Raises: InvalidTransformError where it is damaged.
    """
    group = zarr.open_group(path, mode="r")

    def filled(value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"array"}:
            array = group.get(str(value["array"]))
            if not isinstance(array, zarr.Array):
                raise InvalidTransformError(f"{path} lacks the array {value['array']!r} of a field")
            return array
        if isinstance(value, dict):
            return {key: filled(entry) for key, entry in value.items()}
        return [filled(entry) for entry in value] if isinstance(value, list) else value

    return transform_from_file(filled(dict(group.attrs)[_ATTRIBUTE]), str(path))


def _described(transform: Transform, store: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    if isinstance(transform, Composite):
        return {"type": transform.kind, "parts": [_described(part, store) for part in transform.parts]}
    if not isinstance(transform, DisplacementField | SliceDisplacements):
        return transform.to_dict()
    facts: dict[str, Any] = {"type": transform.kind, "grid": grid_dict(transform.grid), "order": transform.order}
    if isinstance(transform, SliceDisplacements):
        facts["axis"] = transform.axis
    return {**facts, "inverted": transform.inverted, "any_unit": transform.unit is None, "vectors": store(transform)}


def copy_vectors(field: DisplacementField | SliceDisplacements, group: zarr.Group, name: str) -> None:
    """The vectors into an array, in parts."""
    source, lead = field.vectors.source, field.vectors.lead
    side = _CHUNK[field.grid.ndim]
    chunks = (*(1 for _ in range(lead)), field.grid.ndim, *(min(side, n) for n in field.grid.shape))
    array = group.create_array(name, shape=source.shape, chunks=chunks, dtype=source.dtype)
    rows = max(
        1, _READ_BYTES // max(1, source.dtype.itemsize * int(np.prod(source.shape[lead + 2 :])) * field.grid.ndim)
    )
    step = -(-rows // chunks[lead + 1]) * chunks[lead + 1]
    for number in range(source.shape[0]) if lead else (None,):
        for start in range(0, source.shape[lead + 1], step):
            first = () if number is None else (number,)
            stop = min(start + step, source.shape[lead + 1])
            rest = (0,) * (len(source.shape) - lead - 2)
            box = Box(
                (*first, 0, start, *rest), (*(n + 1 for n in first), field.grid.ndim, stop, *source.shape[lead + 2 :])
            )
            array[box.slices] = field.vectors.read(box)
