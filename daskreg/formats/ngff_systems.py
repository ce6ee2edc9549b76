"""Coordinate systems of OME-Zarr 0.6: the matrix from the voxels of a level to a named system.

A dataset's transformation leads from its array to the intrinsic system of the image; those of the image lead from
there to others, one after the other. A transformation may also be used backwards.
https://ngff.openmicroscopy.org/rfc/5
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError, OptionError
from daskreg.formats.ngff import Parameters, end_name, forward_matrix

Floats = NDArray[np.float64]


def systems_of(image: Mapping[str, Any]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The axes of each coordinate system, by name."""
    return {str(system["name"]): system["axes"] for system in image["coordinateSystems"]}


def intrinsic_system(image: Mapping[str, Any]) -> str:
    """The system to which the datasets of an image lead: that of the first."""
    return end_name(image["datasets"][0]["coordinateTransformations"][0]["output"])


def level_matrix(
    image: Mapping[str, Any], number: int, system: str | None, parameters: Parameters | None = None
) -> Floats:
    """(D+1, D+1) from voxel indices of a level to a coordinate system, both in the order of their axes.

    Args:
        image: an entry of `multiscales`.
        number: of the level.
        system: name of the coordinate system; None: the intrinsic one.
        parameters: reads numbers that the metadata name by the path of an array.

    Raises: OptionError for a system that is not there, or to which no transformation leads; InvalidTransformError for
        a transformation that is not affine.
    """
    known = systems_of(image)
    target = intrinsic_system(image) if system is None else system
    if target not in known:
        raise OptionError(f"coordinate_system={target!r} is none of {', '.join(known)}")
    axes = {name: [str(axis["name"]) for axis in entries] for name, entries in known.items()}
    found: dict[str, Floats] = {}
    for entry in image["datasets"][number]["coordinateTransformations"]:
        name = end_name(entry["output"])
        found[name] = _matrix(entry, len(axes[name]), parameters, ((), axes[name]))
    edges = [e for e in image.get("coordinateTransformations") or () if end_name(e.get("output")) in known]
    refused: InvalidTransformError | None = None
    while target not in found:
        before = len(found)
        for edge in edges:
            start, end = end_name(edge.get("input")), end_name(edge["output"])
            if (start in found) == (end in found) or start not in known:
                continue
            try:
                m = _matrix(edge, len(axes[end]), parameters, (axes[start], axes[end]))
            except InvalidTransformError as error:  # a field, which may lead elsewhere
                refused = error
                continue
            if start in found:
                found[end] = m @ found[start]
            else:
                found[start] = np.asarray(np.linalg.inv(m)) @ found[end]
        if len(found) == before:
            if refused is not None:
                raise refused
            raise OptionError(f"no transformation leads to the system {target!r}, only to {', '.join(found)}")
    return found[target]


def in_scene(
    image: Mapping[str, Any], scene: Mapping[str, Any], path: str, other: Callable[[str], Mapping[str, Any] | None]
) -> dict[str, Any]:
    """An image with the coordinate systems and transformations of a scene, the group above that places images.

    A system of the scene that has the name of one of the image is called "scene/NAME", and those of other images
    "PATH/NAME", which is how a scene refers to them.

    Args:
        path: of the image in the scene.
        other: the entry of `multiscales` of the image at a path in the scene; None where there is none.
    """
    own = systems_of(image)
    added: dict[str, Any] = {}

    def node(end: Any) -> str:
        name, place = end_name(end), str(end.get("path") or "").strip("/") if isinstance(end, Mapping) else ""
        if place == path:
            return name
        if not place:
            return f"scene/{name}" if name in own else name
        known = other(place)
        axes = None if known is None else systems_of(known).get(name)
        if axes is not None:
            added[f"{place}/{name}"] = axes
        return f"{place}/{name}"

    for system in scene.get("coordinateSystems") or ():
        added[node({"name": system["name"]})] = system["axes"]
    edges = [
        {**edge, "input": node(edge.get("input")), "output": node(edge.get("output"))}
        for edge in scene.get("coordinateTransformations") or ()
    ]
    systems = [*image["coordinateSystems"], *({"name": name, "axes": axes} for name, axes in added.items())]
    return {
        **image,
        "coordinateSystems": systems,
        "coordinateTransformations": [*(image.get("coordinateTransformations") or ()), *edges],
    }


def _matrix(
    entry: Mapping[str, Any], ndim: int, parameters: Parameters | None, axes: tuple[Sequence[str], Sequence[str]]
) -> Floats:
    matrix = forward_matrix(entry, ndim, parameters=parameters, axes=axes)
    if matrix is None or len(matrix) != ndim + 1:
        raise InvalidTransformError(f"the {entry.get('type')} transformation does not lead to {ndim} axes")
    return matrix
