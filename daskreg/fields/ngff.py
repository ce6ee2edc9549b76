"""Displacement fields of OME-NGFF (0.6, RFC-5): `displacements` and `coordinates`, also in a sequence, in a Zarr group.

    {"ome": {"coordinateTransformations": [{"type": "sequence", "transformations": [
        {"type": "affine", "affine": [...]}, {"type": "displacements", "path": "displacements/0"}]}]}}

Each path is a multiscale group, of which the first level is used: an array with one axis of vectors, of type
"displacement" or "coordinate", and a scale and translation from its nodes to the input space. The vectors stay in the
store and are read where they are needed. Transformations map forward: what is read is `output_from_input`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import matmul
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr

from daskreg.errors import InvalidTransformError, OutputExistsError
from daskreg.fields.composite import Composite
from daskreg.fields.field import ANY_UNIT, DisplacementField
from daskreg.fields.store import copy_vectors
from daskreg.formats.ngff import forward_matrix
from daskreg.geometry import Affine, Grid, Transform

FIELDS = ("displacements", "coordinates")
_VECTOR_AXES = ("displacement", "coordinate")
_VERSION = "0.6"


def is_ngff(path: Path) -> bool:
    """Whether a path is a Zarr group with a transformation that has a field."""
    if not (path / "zarr.json").is_file():
        return False
    try:
        found = _transformations(zarr.open_group(path, mode="r"))
    except Exception:  # what is damaged is none
        return False
    return any(_has_field(entry) for entry in found)


def load_ngff(path: Path) -> Transform:
    """`output_from_input` of the transformation with fields in a group.

    Raises: InvalidTransformError where it is damaged, or there are several.
    """
    group = zarr.open_group(path, mode="r")
    found = [entry for entry in _transformations(group) if _has_field(entry)]
    if len(found) != 1:
        names = ", ".join(str(entry.get("name")) for entry in found)
        raise InvalidTransformError(f"{path} holds {len(found)} transformations with fields ({names}): leave one")
    return _made(found[0], group, path)


def save_ngff(transform: Transform, path: Path) -> None:
    """A chain of affine maps and linear fields as a group.

    Raises: OutputExistsError where the path exists; InvalidTransformError for B-splines, inverses, maps of
        single slices, and nodes that are oblique to the world.
    """
    if path.exists():
        raise OutputExistsError(f"{path} exists: remove it, or choose another name")
    parts = transform.parts if isinstance(transform, Composite) else (transform,)
    for part in parts:
        _check(part)
    group = zarr.open_group(path, mode="w")
    entries: list[dict[str, Any]] = []
    for part in reversed(parts):
        if isinstance(part, DisplacementField):
            name = f"displacements/{len(entries)}"
            _write(part, group, name)
            entries.append({"type": "displacements", "path": name, "interpolation": "linear"})
        else:
            entries.append({"type": "affine", "affine": part.to_matrices()[:-1].tolist()})
    whole: Any = entries[0] if len(entries) == 1 else {"type": "sequence", "transformations": entries}
    whole |= {"name": "output_from_input", "input": "input", "output": "output"}
    axes = _axes(next(part.grid for part in parts if isinstance(part, DisplacementField)), transform.unit)
    systems: Any = [{"name": name, "axes": axes} for name in ("input", "output")]
    group.attrs["ome"] = {
        "version": _VERSION,
        "coordinateSystems": systems,
        "coordinateTransformations": [whole],
    }


def _transformations(group: zarr.Group) -> list[Mapping[str, Any]]:
    ome: Any = group.attrs.get("ome", {})
    return [entry for entry in ome.get("coordinateTransformations", ()) if isinstance(entry, Mapping)]


def _has_field(entry: Mapping[str, Any]) -> bool:
    if entry.get("type") == "sequence":
        return any(_has_field(part) for part in entry.get("transformations", ()))
    return entry.get("type") in FIELDS


def _made(entry: Mapping[str, Any], group: zarr.Group, path: Path) -> Transform:
    if entry.get("type") == "sequence" and _has_field(entry):
        made = [_made(part, group, path) for part in entry["transformations"] if part.get("type") != "identity"]
        return reduce(matmul, reversed(made))
    if entry.get("type") in FIELDS:
        return _field(entry, group, path)
    matrix = forward_matrix(entry, parameters=lambda name: np.asarray(_array(group, name, path)[...]))
    if matrix is None:
        raise InvalidTransformError(f"{path} holds an identity of unknown dimension")
    return Affine(matrix)


def _field(entry: Mapping[str, Any], group: zarr.Group, path: Path) -> DisplacementField:
    if entry.get("interpolation", "linear") != "linear":
        raise InvalidTransformError(f"{path}: only linear interpolation of vectors is known, not {entry!r}")
    levels: Any = group.get(str(entry["path"]))
    if not isinstance(levels, zarr.Group):
        raise InvalidTransformError(f"{path} lacks the field {entry['path']!r}")
    scales: Any = levels.attrs.get("ome", {})
    scale = scales["multiscales"][0]
    level = scale["datasets"][0]
    axes = scale["axes"] if "axes" in scale else scale["coordinateSystems"][-1]["axes"]
    vector = [k for k, axis in enumerate(axes) if axis.get("type") in _VECTOR_AXES]
    array = _array(levels, level["path"], path)
    if len(vector) != 1 or array.ndim != len(axes):
        raise InvalidTransformError(f"{path}: the field {entry['path']!r} needs one axis of vectors among {axes}")
    spatial = [k for k in range(len(axes)) if k != vector[0]]
    matrix = forward_matrix(level["coordinateTransformations"], len(axes))
    if matrix is None or len(matrix) != len(axes) + 1:
        raise InvalidTransformError(f"{path}: the scale of {entry['path']!r} is not that of its axes")
    linear = matrix[np.ix_(spatial, spatial)]
    if np.any(linear != np.diag(np.diag(linear))):
        raise InvalidTransformError(f"{path}: the nodes of {entry['path']!r} must be along the axes of the world")
    unit = axes[spatial[0]].get("unit")
    shape = [array.shape[k] for k in spatial]
    grid = Grid(shape, np.diag(linear), matrix[spatial, -1], unit=unit)
    vectors = da.moveaxis(da.from_zarr(array), vector[0], 0)
    if entry["type"] == "coordinates":
        vectors = vectors - _positions(grid)
    return DisplacementField(vectors, grid, unit=None if unit else ANY_UNIT)


def _positions(grid: Grid) -> Any:
    """(D, *shape) of the nodes in the world, lazy."""
    steps = [origin + spacing * da.arange(n) for origin, spacing, n in
             zip(grid.origin, grid.spacing, grid.shape, strict=True)]  # fmt: skip
    return da.stack(da.meshgrid(*steps, indexing="ij"))


def _array(group: zarr.Group, name: str, path: Path) -> zarr.Array[Any]:
    array = group.get(str(name))
    if not isinstance(array, zarr.Array):
        raise InvalidTransformError(f"{path} lacks the array {name!r}")
    return array


def _check(part: Transform) -> None:
    plain = isinstance(part, Affine) or (
        isinstance(part, DisplacementField) and part.order == 1 and not part.inverted and part.grid.direction is None
    )
    if not plain:
        raise InvalidTransformError(
            f"NGFF holds affine maps and linear fields with nodes along the axes, not {part!r}: save it as .zarr"
        )


def _write(field: DisplacementField, group: zarr.Group, name: str) -> None:
    levels = group.create_group(name)
    copy_vectors(field, levels, "0")
    grid = field.grid
    axes = [{"name": "d", "type": "displacement", "discrete": True}, *_axes(grid, field.unit)]
    parts = [
        {"type": "scale", "scale": [1.0, *grid.spacing]},
        {"type": "translation", "translation": [0.0, *grid.origin]},
    ]
    step = {"type": "sequence", "input": "0", "output": "physical", "transformations": parts}
    scale: Any = {
        "name": name,
        "coordinateSystems": [{"name": "physical", "axes": axes}],
        "datasets": [{"path": "0", "coordinateTransformations": [step]}],
    }
    levels.attrs["ome"] = {"version": _VERSION, "multiscales": [scale]}


def _axes(grid: Grid, unit: str | None) -> list[dict[str, Any]]:
    known = {} if unit is None else {"unit": unit}
    return [{"name": axis, "type": "space", **known} for axis in grid.names]
