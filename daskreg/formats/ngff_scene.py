"""Write a scene of OME-Zarr 0.6: a group above images which places them in one coordinate system.

{"ome": {"version": "0.6", "scene": {"coordinateSystems": [{"name": "scene", "axes": [...]}],
    "coordinateTransformations": [{"type": "affine", "input": {"path": "moving", "name": "intrinsic"},
        "output": {"name": "scene"}, "affine": [...]}, ...]}}}
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import zarr

from daskreg.errors import InvalidTransformError, NotAVolumeError
from daskreg.formats.ngff_systems import intrinsic_system, systems_of
from daskreg.geometry import Affine, common_unit

VERSION = "0.6"
SCENE = "scene"
"""The system of a scene; images may have a "world" of their own."""


def write_scene(path: str | PathLike[str], moving_from_fixed: Affine, *, fixed: str, moving: str) -> None:
    """Let the group that holds two images state that the moving one lies where a fit found it.

    The system "scene" is that of the fixed image. A scene that is there is replaced.

    Args:
        path: of the group; it is made where there is none above the images.
        fixed, moving: paths of the images in it, of version 0.6.

    Raises: NotAVolumeError for what is no image of version 0.6; InvalidTransformError where the axes of the images
        and the transform differ; UnitError.
    """
    group = zarr.open_group(str(path), mode="a")
    images = {name: _system(group, name) for name in (fixed, moving)}
    (fixed_name, axes), (moving_name, others) = images[fixed], images[moving]
    if [a["name"] for a in axes] != [a["name"] for a in others]:
        raise InvalidTransformError(f"{path}: {fixed} has the axes {_names(axes)}, and {moving} {_names(others)}")
    space = [k for k, axis in enumerate(axes) if axis.get("type") == "space"]
    if len(space) != moving_from_fixed.ndim:
        raise InvalidTransformError(
            f"{path}: the images have {len(space)} axes of space, and the transform {moving_from_fixed.ndim}"
        )
    for image in (axes, others):
        for k in space:
            common_unit(moving_from_fixed.unit, image[k].get("unit"), f"transform and {path}")
    inverse = moving_from_fixed.inverse().matrix
    affine = np.eye(len(axes), len(axes) + 1)
    affine[np.ix_(space, space)] = inverse[:-1, :-1]
    affine[space, -1] = inverse[:-1, -1]
    shared = {"name": SCENE}
    edges = [
        {"type": "identity", "input": {"path": fixed, "name": fixed_name}, "output": shared},
        {"type": "affine", "affine": affine.tolist(), "input": {"path": moving, "name": moving_name}, "output": shared},
    ]
    scene: Any = {"coordinateSystems": [{"name": SCENE, "axes": axes}], "coordinateTransformations": edges}
    known: Any = group.attrs.get("ome", {})
    group.attrs["ome"] = {**known, "version": VERSION, "scene": scene}


def _system(group: zarr.Group, name: str) -> tuple[str, Any]:
    """The coordinate system in which daskreg opens an image, and its axes.

    Raises: NotAVolumeError.
    """
    found = group.get(name)
    attributes: Any = dict(found.attrs) if isinstance(found, zarr.Group) else {}
    images = attributes.get("ome", {}).get("multiscales") if isinstance(attributes.get("ome"), Mapping) else None
    try:
        image: Any = images[0]  # type: ignore[index]
        own = (attributes.get("daskreg") or {}).get("coordinate_system")
        system = str(own or intrinsic_system(image))
        return system, systems_of(image)[system]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise NotAVolumeError(f"{group}/{name} is no image of OME-Zarr 0.6: write it with version='0.6'") from error


def _names(axes: Any) -> str:
    return ", ".join(str(axis["name"]) for axis in axes)
