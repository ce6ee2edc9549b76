"""What ITK does not do with NRRD files: read boxes, and say the unit of space."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.sources.readers.mapped import map_file
from daskreg.sources.readers.nrrd_header import read_header
from daskreg.sources.readers.voxel_file import VoxelFile

PACKINGS = {"raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bz2", "bz2": "bz2"}


def units(path: str, ndim: int) -> list[str | None]:
    """The units of the axes of space in x, y, z order; None for those that the header leaves out."""
    fields = read_header(path).fields
    stated = fields.get("spaceunits") or fields.get("units") or ""
    names = [name if name not in ("", "none", "???") else None for name in stated.split('"')[1::2]]
    if len(names) == ndim:
        return names
    one = {name for name in names if name is not None}  # of the array's axes, one of which may be no space
    return [one.pop()] * ndim if len(one) == 1 else [None] * ndim


def voxels(path: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any] | VoxelFile | None:
    """The stored array, slowest axis first; None where only ITK can read the file.

    That is where voxels are written as text, are spread over files, or have another order of axes.

    Raises: ChunkReadError for a file that is too short or damaged.
    """
    header = read_header(path)
    fields = header.fields
    packing = PACKINGS.get(fields.get("encoding", "").lower())
    skips = fields.get("byteskip", "0"), fields.get("lineskip", "0")
    if packing is None or header.sizes[::-1] != shape or skips != ("0", "0") or len(header.data_files) > 1:
        return None
    dtype = dtype.newbyteorder(">" if fields.get("endian", "little") == "big" else "<")
    data_path = header.data_files[0] if header.data_files else path
    return map_file(data_path, dtype, shape, offset=0 if header.data_files else header.end, packing=packing)
