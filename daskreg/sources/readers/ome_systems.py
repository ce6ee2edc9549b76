"""OME-Zarr 0.6: an image whose levels lead to named coordinate systems by affine transformations. No I/O.

Array axes get the names of the axes of the system along which they run. As in other formats, the Grid of a level
has the rotation that is nearest to its matrix, and a shear is kept as `header_from_world`, one map for all levels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError, MetadataWarning, NotAVolumeError
from daskreg.formats.ngff import Parameters
from daskreg.formats.ngff_systems import intrinsic_system, level_matrix, systems_of
from daskreg.formats.omero import omero_text
from daskreg.geometry import default_axes
from daskreg.sources.readers.ome import Axis, Multiscale, MultiscaleLevel, axis_of, channel_labels, spatial

Floats = NDArray[np.float64]

# Angles and scales that differ by less than this are rounding.
_ROUNDING = 1e-7
# Levels whose axes differ by less than this have one direction: metadata are written with some six digits.
_TURNED = 1e-5


def multiscale_of_systems(
    image: Mapping[str, Any],
    block: Mapping[str, Any],
    what: str,
    own: str | None = None,
    *,
    system: str | None = None,
    parameters: Parameters | None = None,
) -> Multiscale:
    """The image that a multiscale of version 0.6 describes, in one of its coordinate systems.

    Args:
        own: the system that daskreg meant when it wrote the image, which is the default.

    Raises: NotAVolumeError where a transformation is not affine, or mixes space with time or channels; OptionError
        for a system that is not there.
    """
    name = system or own or intrinsic_system(image)
    try:
        matrices = [level_matrix(image, k, name, parameters) for k in range(len(image["datasets"]))]
    except InvalidTransformError as error:
        raise NotAVolumeError(f"{what}: {error}") from error
    declared = _axes(systems_of(image)[name])
    order = _along(matrices[0], what)
    axes = tuple(declared[row] for row in order)  # of the array, by the axis of the system along which each runs
    if len({axis.name for axis in axes}) != len(axes):
        raise NotAVolumeError(f"{what}: axes of the coordinate system {name!r} have the same name")
    _, names = spatial(axes, what)
    rows = [next(k for k, axis in enumerate(declared) if axis.name == n) for n in names]
    columns = [order.index(row) for row in rows]
    direction, shear = _direction(matrices[0], rows, columns, what)
    levels = []
    for number, (data, matrix) in enumerate(zip(image["datasets"], matrices, strict=True)):
        linear, first = (m[np.ix_(rows, columns)] / np.linalg.norm(m[np.ix_(rows, columns)], axis=0)
                         for m in (matrix, matrices[0]))  # fmt: skip
        if np.abs(linear - first).max() > _TURNED:
            raise NotAVolumeError(f"{what}: level {number} is turned against level 0")
        scale, origin = _lead(matrix, order, columns, what)
        scale[columns] = np.linalg.norm(matrix[np.ix_(rows, columns)], axis=0)
        place = matrix[rows, -1]
        if shear is not None:
            place = np.asarray(np.linalg.inv(shear[:-1, :-1]) @ (place - shear[:-1, -1]))
        origin[columns] = direction.T @ place
        levels.append(MultiscaleLevel(str(data["path"]), scale, origin, True))
    known = str(image["name"]) if image.get("name") else None
    turned = None if np.array_equal(direction, np.eye(len(names))) else direction.tolist()
    kept = None if shear is None else shear.tolist()
    labels, omero = channel_labels(block), omero_text(block.get("omero"))
    return Multiscale(axes, tuple(levels), known, labels, turned, "image-label" in block, kept, omero)


def _lead(matrix: Floats, order: list[int], columns: list[int], what: str) -> tuple[Floats, Floats]:
    """Scale and origin of each axis of the array that is not one of space; 1 and 0 for those.

    Raises: NotAVolumeError where one of them depends on another axis, or space on it.
    """
    count = len(order)
    scale, origin = np.ones(count), np.zeros(count)
    lead = [k for k in range(count) if k not in columns]
    rows = [order[k] for k in columns]
    mixed = [matrix[order[k]][[c for c in range(count) if c != k]].any() for k in lead]
    if any(mixed) or matrix[np.ix_(rows, lead)].any():
        raise NotAVolumeError(f"{what}: a transformation mixes axes of space with others")
    for k in lead:
        scale[k], origin[k] = matrix[order[k], k], matrix[order[k], -1]
    return scale, origin


def _axes(entries: Sequence[Mapping[str, Any]]) -> list[Axis]:
    """The axes of a system. Those of type "array", the voxels themselves, are axes of space in pixels."""
    axes = [axis_of(entry) for entry in entries]
    usual = default_axes(len(axes))
    return [
        Axis(usual[k], "space", None) if entry.get("type") == "array" else axis
        for k, (axis, entry) in enumerate(zip(axes, entries, strict=True))
    ]


def _along(matrix: Floats, what: str) -> list[int]:
    """For each axis of the array, the axis of the system along which it runs: each once, the largest cosines first."""
    linear = np.abs(matrix[:-1, :-1])
    cosines = linear / np.maximum(np.linalg.norm(linear, axis=0), np.finfo(float).tiny)
    order = [-1] * len(linear)
    for flat in np.argsort(-cosines, axis=None, kind="stable"):
        row, column = divmod(int(flat), len(linear))
        if order[column] < 0 and row not in order:
            order[column] = row
    if min(order) < 0:
        raise NotAVolumeError(f"{what}: axes of the array run along no axis of the coordinate system")
    return order


def _direction(matrix: Floats, rows: list[int], columns: list[int], what: str) -> tuple[Floats, Floats | None]:
    """The nearest rotation of level 0, and the map from the world of its grid to the system where there is a shear."""
    linear = matrix[np.ix_(rows, columns)]
    cosines = linear / np.linalg.norm(linear, axis=0)
    u, _, vt = np.linalg.svd(cosines)
    direction: Floats = np.asarray(u @ vt)
    if np.abs(direction - np.rint(direction)).max() <= _ROUNDING:
        direction = np.rint(direction) + 0.0
    stretch = cosines @ direction.T
    if np.abs(stretch - np.eye(len(rows))).max() <= _ROUNDING:
        return direction, None
    shear = np.eye(len(rows) + 1)
    origin = matrix[rows, -1]
    shear[:-1, :-1], shear[:-1, -1] = stretch, origin - stretch @ origin
    warnings.warn(
        f"{what}: the transformation shears the volume, which a grid cannot represent; the voxels lie where the "
        "nearest rotation puts them, and attrs['header_from_world'] maps that world to the coordinate system",
        MetadataWarning,
        stacklevel=2,
    )
    return direction, shear
