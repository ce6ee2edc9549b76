"""Images (`ImageData`) of VTKHDF, which ParaView reads and writes; the voxels are read as those of other HDF5 files.

The group VTKHDF has the attributes Type, WholeExtent (first and last index along x, y and z), Spacing, Origin (x, y, z)
and Direction (3 x 3, row by row: world from indices); PointData and CellData hold arrays (z, y, x), or (z, y, x,
components). A point lies at its index, a cell half a voxel further. VTK knows no units: daskreg writes the attribute
`units` of the array, and reads it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import MetadataWarning, NotAVolumeError
from daskreg.runtime.messages import reason
from daskreg.sources.description import Description, OpenOptions
from daskreg.sources.locate import INSIDE, StoreLocation
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.hdf5.attributes import attribute, reading_attributes
from daskreg.sources.readers.hdf5.files import open_hdf5
from daskreg.sources.readers.hdf5.links import member
from daskreg.sources.readers.hdf5.reader import Hdf5Reader, ScaledDataset
from daskreg.sources.readers.mapped import check_memory
from daskreg.sources.readers.physical import grid_of_header, plane_of

_GROUP, _POINTS, _CELLS = "VTKHDF", "PointData", "CellData"


class VtkHdfReader(Hdf5Reader):
    """Reads boxes as the HDF5 reader does."""

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """An array of the image: the one that is named (`file.vtkhdf::/name`), else that of its scalars, or the first.

        Raises: NotAVolumeError for other data than an image, and an array that is not there; GridError,
            InvalidSpacingError; MissingExtraError without h5py.
        """
        path = location.root
        with reading_attributes(), open_hdf5(path) as file:
            group = member(file, _GROUP)
            kind = _text(attribute(group, "Type", b"")) if group is not None else ""
            if kind != "ImageData":
                raise NotAVolumeError(f"{path} holds {kind or 'nothing'} of VTKHDF, of which ImageData is read")
            if member(group, "Steps") is not None:
                raise NotAVolumeError(f"{path} holds several times (Steps), which are not read: write each as a file")
            inner = _chosen(group, location)
            data = member(group, inner)
            matrix, counts = _placed(group, path, cells=inner.startswith(_CELLS))
            if data.shape[:3] != counts or data.ndim not in (3, 4):
                raise NotAVolumeError(f"{path}: {inner} has the shape {data.shape}, and the extent is {counts}")
            if data.chunks:
                check_memory(math.prod(data.chunks) * data.dtype.itemsize, f"a chunk of {path}")
            unit = _text(attribute(data, "units", b"")) or None
            names = ["z", "y", "x", *(["c" if data.shape[3] > 1 else ""] if data.ndim == 4 else [])]
            shape, dtype, chunks = tuple(data.shape), ScaledDataset.of(data).dtype, data.chunks or ()
        flat = plane_of(matrix) if counts[0] == 1 else None
        if flat is not None:
            names[0], matrix, counts = "", flat, counts[1:]
        grid, attrs = grid_of_header(matrix, counts, options.common_unit(unit, path), what=str(location))
        what = f"{path}{INSIDE}{_GROUP}/{inner}"
        array = FileArray("vtkhdf", what, names, shape, dtype, self.stamp(what), chunks)
        return array.describe(
            options.apply(grid), OpenOptions(level=options.level), name=inner.partition("/")[2], attrs=attrs
        )


READER = VtkHdfReader()


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _arrays(group: Any) -> Iterator[str]:
    for kind in (_POINTS, _CELLS):
        inside = member(group, kind)
        for name in inside if hasattr(inside, "keys") else ():
            if getattr(member(inside, name), "ndim", 0) >= 3:
                yield f"{kind}/{name}"


def _chosen(group: Any, location: StoreLocation) -> str:
    """The array that a location names.

    Raises: NotAVolumeError.
    """
    known = list(_arrays(group))
    listed = ", ".join(known[:8])
    if location.inner:
        wanted = location.inner.strip("/").removeprefix(f"{_GROUP}/")
        found = [name for name in known if wanted in (name, name.partition("/")[2])]
        if not found:
            raise NotAVolumeError(f"{location.root} holds no array {location.inner!r} of an image; it holds {listed}")
        return found[0]
    if not known:
        raise NotAVolumeError(f"{location} holds no array of an image")
    points = member(group, _POINTS)
    scalars = _text(attribute(points, "Scalars", b"")) if points is not None else ""
    chosen = f"{_POINTS}/{scalars}" if f"{_POINTS}/{scalars}" in known else known[0]
    if len(known) > 1:
        message = (
            f"{location} holds {len(known)} arrays: {listed}; {chosen} is taken; {location}{INSIDE}NAME is another"
        )
        warnings.warn(message, MetadataWarning, stacklevel=3)
    return chosen


def _placed(group: Any, path: str, *, cells: bool) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """(4, 4) from indices i, j, k to the world x, y, z, and the sizes along z, y, x.

    Raises: NotAVolumeError.
    """
    try:
        extent = np.asarray(attribute(group, "WholeExtent", ()), np.int64).reshape(3, 2)
        spacing = np.asarray(attribute(group, "Spacing", (1, 1, 1)), np.float64).reshape(3)
        origin = np.asarray(attribute(group, "Origin", (0, 0, 0)), np.float64).reshape(3)
        direction = np.asarray(attribute(group, "Direction", np.eye(3)), np.float64).reshape(3, 3)
    except (TypeError, ValueError, OverflowError) as error:
        raise NotAVolumeError(
            f"{path} states no extent, spacing, origin or direction that is one: {reason(error)}"
        ) from error
    made = np.eye(4)
    made[:3, :3] = direction * spacing
    points = extent[:, 1] - extent[:, 0] + 1
    # An axis along which there is one point has one cell, which is flat.
    inside = cells & (points > 1)
    made[:3, 3] = origin + made[:3, :3] @ (extent[:, 0] + 0.5 * inside)
    counts = points - inside
    return made, tuple(int(n) for n in counts[::-1])
