"""What ITK does not do with NRRD files: read boxes, and say the unit of space."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.sources.readers.mapped import map_file
from daskreg.sources.readers.nrrd_header import read_header
from daskreg.sources.readers.voxel_file import VoxelFile

PACKINGS = {"raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bz2", "bz2": "bz2"}


def unit(path: str) -> str | None:
    """The unit of the axes of space, as far as the header states one."""
    fields = read_header(path).fields
    stated = fields.get("spaceunits") or fields.get("units") or ""
    names = {name for name in stated.split('"')[1::2] if name and name != "none"}
    return names.pop() if len(names) == 1 else None


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
