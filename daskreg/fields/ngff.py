"""Displacement fields of OME-NGFF (0.6, RFC-5): `displacements` and `coordinates`, also in a sequence, in a Zarr group.

    {"ome": {"coordinateTransformations": [{"type": "sequence", "transformations": [
        {"type": "affine", "affine": [...]}, {"type": "displacements", "path": "displacements/0"}]}]}}

Each path is a group that `ngff_field` reads. Transformations map forward: what is read is `output_from_input`, in the
order z, y, x, whatever the order of the axes in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import matmul
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from daskreg.errors import InvalidTransformError, OutputExistsError
from daskreg.fields.composite import Composite
from daskreg.fields.field import DisplacementField
from daskreg.fields.ngff_field import FIELDS, VERSION, array_at, axis_names, read_field, space_axes, write_field
from daskreg.fields.store import whole_group
from daskreg.formats.ngff import end_name, forward_matrix
from daskreg.geometry import Affine, Transform

_KNOWN = "zyx"
Entry = Mapping[str, Any]


def is_ngff(path: Path) -> bool:
    """Whether a path is a Zarr group with transformations, of which one has a field or which has no image."""
    if not (path / "zarr.json").is_file():
        return False
    try:
        group = zarr.open_group(path, mode="r")
        found = _transformations(group)
        image = "multiscales" in _ome(group)
    except Exception:  # what is damaged is none
        return False
    return any(_has_field(entry) for entry in found) or (bool(found) and not image)


def load_ngff(path: Path) -> Transform:
    """`output_from_input` of the transformation in a group: that with fields, if there are others.

    Raises: InvalidTransformError where it is damaged, there are several, or its axes are not among z, y and x;
        UnitError where the axes of a field have different units.
    """
    group = zarr.open_group(path, mode="r")
    known = _transformations(group)
    found = [entry for entry in known if _has_field(entry)] or known
    if len(found) != 1:
        listed = ", ".join(str(entry.get("name")) for entry in found)
        raise InvalidTransformError(f"{path} holds {len(found)} transformations ({listed}): leave one")
    names = _names(found[0], group, path)
    made = _made(found[0], group, path)
    ordered = _ordered(names)
    if names == ordered:
        return made
    # Points are brought into the order of the file and back, which permutes nodes, vectors and affine maps alike.
    turn = np.eye(len(names) + 1)
    turn[:-1, :-1] = turn[[ordered.index(name) for name in names], :-1]
    return Affine(turn.T) @ made @ Affine(turn)


def save_ngff(transform: Transform, path: Path) -> None:
    """A chain of affine maps and linear fields as a group, which appears whole or not at all.

    Raises: OutputExistsError where the path exists; InvalidTransformError for B-splines, inverses, maps of single
        slices, nodes that are oblique to the world, and axes that are not in the order z, y, x.
    """
    if path.exists():
        raise OutputExistsError(f"{path} exists: remove it, or choose another name")
    parts = transform.parts if isinstance(transform, Composite) else (transform,)
    for part in parts:
        _check(part)
    names = next((part.grid.names for part in parts if isinstance(part, DisplacementField)), None)
    if names is None:
        names = getattr(transform, "axes", None) or tuple(_KNOWN[-transform.ndim :])
    with whole_group(path) as group:
        entries: list[dict[str, Any]] = []
        for part in reversed(parts):
            if isinstance(part, DisplacementField):
                name = f"displacements/{len(entries)}"
                write_field(part, group, name)
                entries.append({"type": "displacements", "path": name, "interpolation": "linear"})
            else:
                entries.append({"type": "affine", "affine": part.to_matrices()[:-1].tolist()})
        whole: Any = entries[0] if len(entries) == 1 else {"type": "sequence", "transformations": entries}
        whole |= {"name": "output_from_input", "input": {"name": "input"}, "output": {"name": "output"}}
        axes = space_axes(names, transform.unit)
        systems: Any = [{"name": name, "axes": axes} for name in ("input", "output")]
        group.attrs["ome"] = {
            "version": VERSION,
            "coordinateSystems": systems,
            "coordinateTransformations": [whole],
        }


def _ome(group: zarr.Group) -> Any:
    return group.attrs.get("ome", {})


def _transformations(group: zarr.Group) -> list[Entry]:
    return [entry for entry in _ome(group).get("coordinateTransformations", ()) if isinstance(entry, Mapping)]


def _has_field(entry: Entry) -> bool:
    return any(True for _ in _fields(entry))


def _fields(entry: Entry) -> Iterator[Entry]:
    if entry.get("type") in FIELDS:
        yield entry
    elif entry.get("type") == "sequence":
        for part in entry.get("transformations", ()):
            yield from _fields(part)


def _names(entry: Entry, group: zarr.Group, path: Path) -> tuple[str, ...]:
    """The names of the axes in the order of the file, which all fields and the systems of a transformation share.

    Raises: InvalidTransformError where they do not, or where a name is not known.
    """
    found = {axis_names(field, group, path): None for field in _fields(entry)}
    ends = [end_name(entry.get(key)) for key in ("input", "output")]
    for system in _ome(group).get("coordinateSystems", ()):
        if system.get("name") in ends:
            space = [axis for axis in system["axes"] if axis.get("type", "space") == "space"]
            found[tuple(str(axis.get("name")) for axis in space)] = None
    listed = " and ".join(", ".join(names) for names in found)
    if not found:  # without fields and systems, nothing names the axes
        matrix = forward_matrix(entry)
        return tuple(_KNOWN[-(len(matrix) - 1) :]) if matrix is not None else ()
    if len(found) > 1:
        raise InvalidTransformError(f"{path} has axes in different orders ({listed}): one order is needed")
    names = next(iter(found))
    if len(set(names)) != len(names) or not set(names) <= set(_KNOWN):
        raise InvalidTransformError(f"{path} has the axes {listed}: only z, y and x are known, each once")
    return names


def _ordered(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(names, key=_KNOWN.index))


def _made(entry: Entry, group: zarr.Group, path: Path) -> Transform:
    if entry.get("type") == "sequence" and _has_field(entry):
        made = [_made(part, group, path) for part in entry["transformations"] if part.get("type") != "identity"]
        return reduce(matmul, reversed(made))
    if entry.get("type") in FIELDS:
        return read_field(entry, group, path)
    matrix = forward_matrix(entry, parameters=lambda name: np.asarray(array_at(group, name, path)[...]))
    if matrix is None:
        raise InvalidTransformError(f"{path} holds an identity of unknown dimension")
    return Affine(matrix)


def _check(part: Transform) -> None:
    plain = isinstance(part, Affine) or (
        isinstance(part, DisplacementField) and part.order == 1 and not part.inverted and part.grid.direction is None
    )
    if not plain:
        raise InvalidTransformError(
            f"NGFF holds affine maps and linear fields with nodes along the axes, not {part!r}: save it as .zarr"
        )
    names = part.grid.names if isinstance(part, DisplacementField) else getattr(part, "axes", None)
    if names is not None and (not set(names) <= set(_KNOWN) or tuple(names) != _ordered(tuple(names))):
        raise InvalidTransformError(f"NGFF names axes z, y, x in this order, not {', '.join(names)}: save it as .zarr")
