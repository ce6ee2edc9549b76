"""One field of OME-NGFF: a multiscale group, of which the first level is used.

The array of a level has one axis of vectors, of type "displacement" or "coordinate", and a scale and translation from
its nodes to the world. The vectors stay in the store and are read where they are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError, UnitError
from daskreg.fields.field import ANY_UNIT, DisplacementField
from daskreg.fields.store import copy_vectors
from daskreg.fields.vectors import Vectors
from daskreg.formats.ngff import end_name, forward_matrix
from daskreg.geometry import Grid, canonical_unit
from daskreg.geometry.units import PIXEL
from daskreg.sources import Source
from daskreg.sources.describe import location_of
from daskreg.sources.dtypes import image_dtype
from daskreg.sources.file_formats import ZARR
from daskreg.sources.reader import reader_of
from daskreg.sources.stored import stored_source

FIELDS = ("displacements", "coordinates")
VERSION = "0.6"
_VECTOR_AXES = ("displacement", "coordinate")

Axes = Sequence[Mapping[str, Any]]
Floats = NDArray[np.float64]


def axis_names(entry: Mapping[str, Any], group: zarr.Group, path: Path) -> tuple[str, ...]:
    """Names of the axes of the nodes, in the order of the file, which is that of the components."""
    axes = _axes(*_first_level(entry, group, path))
    return tuple(str(axis.get("name")) for axis in axes if axis.get("type") not in _VECTOR_AXES)


def read_field(entry: Mapping[str, Any], group: zarr.Group, path: Path) -> DisplacementField:
    """The field that an entry of type displacements or coordinates names, with axes in the order of the file.

    Raises: InvalidTransformError where it is damaged, not linear, or its nodes are not along the axes; UnitError
        where the axes have different units.
    """
    if entry.get("interpolation", "linear") != "linear":
        raise InvalidTransformError(f"{path}: only linear interpolation of vectors is known, not {entry!r}")
    scale, level = _first_level(entry, group, path)
    axes = _axes(scale, level)
    array = array_at(group, f"{entry['path']}/{level['path']}", path)
    vector = [k for k, axis in enumerate(axes) if axis.get("type") in _VECTOR_AXES]
    if len(vector) != 1 or array.ndim != len(axes):
        raise InvalidTransformError(f"{path}: the field {entry['path']!r} needs one axis of vectors among {axes}")
    if array.dtype.kind != "f":
        raise InvalidTransformError(f"{path}: vectors must be float32 or float64, not {array.dtype}: convert them")
    spatial = [k for k in range(len(axes)) if k != vector[0]]
    what = f"{path}: the field {entry['path']!r}"
    matrix = _matrix(scale, level, len(axes), what)
    linear = matrix[np.ix_(spatial, spatial)]
    if np.any(linear != np.diag(np.diag(linear))):
        raise InvalidTransformError(f"{what} must have its nodes along the axes of the world")
    if not np.array_equal(matrix[vector[0]], np.eye(len(matrix))[vector[0]]):
        raise InvalidTransformError(
            f"{what} has a scale or translation along its axis of vectors, {matrix[vector[0]].tolist()}, and it is not "
            "known whether their lengths are meant: state the scale 1 there, and multiply the vectors if so"
        )
    unit = _unit([axes[k] for k in spatial], what)
    grid = Grid([array.shape[k] for k in spatial], np.diag(linear), matrix[spatial, -1], unit=unit)
    if entry["type"] == "coordinates":
        vectors = _displacements(array, vector[0], grid)
    else:
        vectors = Vectors(_source(array, vector[0]))
    return DisplacementField(vectors, grid, unit=None if unit else ANY_UNIT)


def write_field(field: DisplacementField, group: zarr.Group, name: str) -> None:
    """A linear field whose nodes are along the axes, as a new group."""
    levels = group.create_group(name)
    copy_vectors(field, levels, "0")
    grid = field.grid
    axes = [{"name": "d", "type": "displacement", "discrete": True}, *space_axes(grid.names, field.unit)]
    parts = [
        {"type": "scale", "scale": [1.0, *grid.spacing]},
        {"type": "translation", "translation": [0.0, *grid.origin]},
    ]
    ends = {"input": {"path": "0"}, "output": {"name": "physical"}}
    step = {"type": "sequence", **ends, "transformations": parts}
    scale: Any = {
        "name": name,
        "coordinateSystems": [{"name": "physical", "axes": axes}],
        "datasets": [{"path": "0", "coordinateTransformations": [step]}],
    }
    levels.attrs["ome"] = {"version": VERSION, "multiscales": [scale]}


def space_axes(names: Sequence[str], unit: str | None) -> list[dict[str, Any]]:
    """Axes of a world by their names; pixels are no unit of NGFF, and are left out."""
    known = {} if unit in {None, PIXEL} else {"unit": unit}
    return [{"name": axis, "type": "space", **known} for axis in names]


def array_at(group: zarr.Group, name: str, path: Path) -> zarr.Array[Any]:
    """An array of a group. Raises: InvalidTransformError where there is none."""
    array = group.get(str(name))
    if not isinstance(array, zarr.Array):
        raise InvalidTransformError(f"{path} lacks the array {name!r}")
    return array


def _first_level(entry: Mapping[str, Any], group: zarr.Group, path: Path) -> tuple[Any, Any]:
    """The multiscale of a field, and its first dataset."""
    levels: Any = group.get(str(entry["path"]))
    if not isinstance(levels, zarr.Group):
        raise InvalidTransformError(f"{path} lacks the field {entry['path']!r}")
    ome: Any = levels.attrs.get("ome", {})
    scale = ome["multiscales"][0]
    return scale, scale["datasets"][0]


def _axes(scale: Mapping[str, Any], level: Mapping[str, Any]) -> Axes:
    """The axes of the array: of versions 0.4 and 0.5, or of the coordinate system to which the level leads."""
    if "axes" in scale:
        axes: Axes = scale["axes"]
        return axes
    systems = {system.get("name"): system["axes"] for system in scale["coordinateSystems"]}
    output = end_name(level["coordinateTransformations"][-1].get("output"))
    found: Axes = systems.get(output, scale["coordinateSystems"][-1]["axes"])
    return found


def _matrix(scale: Mapping[str, Any], level: Mapping[str, Any], ndim: int, what: str) -> Floats:
    """(D+1, D+1) from indices of the array to the world, the axis of vectors included.

    Up to version 0.5 the transformations of the multiscale follow those of each level. Those of 0.6 lead to further
    coordinate systems, and only the first is known here.
    """
    above = scale.get("coordinateTransformations") or []
    if "axes" in scale:
        return _checked(forward_matrix([*level["coordinateTransformations"], *above], ndim), ndim, what)
    for entry in above:
        if not np.array_equal(_checked(forward_matrix(entry, ndim), ndim, what), np.eye(ndim + 1)):
            raise InvalidTransformError(
                f"{what} has a {entry.get('type')} transformation of its multiscale to the system "
                f"{entry.get('output')!r}: only the system to which its levels lead is read"
            )
    return _checked(forward_matrix(level["coordinateTransformations"], ndim), ndim, what)


def _checked(matrix: Floats | None, ndim: int, what: str) -> Floats:
    if matrix is None or len(matrix) != ndim + 1:
        raise InvalidTransformError(f"{what} has a scale that is not that of its axes")
    return matrix


def _unit(axes: Axes, what: str) -> str | None:
    """The one unit of all axes; None where they state none. Raises: UnitError where they differ."""
    units = {str(axis.get("name")): canonical_unit(axis.get("unit")) for axis in axes}
    if len(set(units.values())) > 1:
        listed = ", ".join(f"{name} in {unit}" for name, unit in units.items())
        raise UnitError(f"{what} has axes of different units ({listed}): convert it to one")
    unit: str | None = axes[0].get("unit")
    return unit


def _source(array: zarr.Array[Any], vector: int) -> Source:
    """Reads stored vectors with the axis of vectors in front, whatever the array and the groups around it name it."""
    names = ["vectors" if k == vector else f"axis {k}" for k in range(array.ndim)]
    nodes = [k for k in range(array.ndim) if k != vector]
    path = location_of(array).path
    return stored_source(
        names,
        array.shape,
        format=ZARR.name,
        path=path,
        dtype=image_dtype(array.dtype, path),
        chunks=array.chunks,
        lead=("vectors",),
        grid=Grid([array.shape[k] for k in nodes], axes=[names[k] for k in nodes]),
        stamp=reader_of(ZARR.name).stamp(path),
    )


def _displacements(array: zarr.Array[Any], vector: int, grid: Grid) -> Any:
    """Stored coordinates of where the nodes go as displacements, lazy.

    The name of a dask array is all that tells whether it is the same as before, so that it holds what tells this of
    the stored array: its path, its metadata and the state of its chunks.
    """
    source = _source(array, vector)
    stored = da.from_zarr(array, name=f"coordinates-{source.fingerprint()}-{source.state(source.readable)}")
    steps = [origin + spacing * da.arange(n) for origin, spacing, n in
             zip(grid.origin, grid.spacing, grid.shape, strict=True)]  # fmt: skip
    return da.moveaxis(stored, vector, 0) - da.stack(da.meshgrid(*steps, indexing="ij"))
