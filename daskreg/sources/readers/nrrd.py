"""What ITK does not do with NRRD files: read boxes, and say the unit of space.

The header is text of `field: value` lines up to an empty one (teem.sourceforge.net/nrrd/format.html).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.sources.readers.mapped import map_file
from daskreg.sources.readers.voxel_file import VoxelFile

_PACKINGS = {"raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bz2", "bz2": "bz2"}


def unit(path: str) -> str | None:
    """The unit of the axes of space, as far as the header states one."""
    fields, _ = _header(path)
    stated = fields.get("space units") or fields.get("units") or ""
    names = {name for name in stated.split('"')[1::2] if name and name != "none"}
    return names.pop() if len(names) == 1 else None


def voxels(path: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any] | VoxelFile | None:
    """The stored array, slowest axis first; None where only ITK can read the file.

    That is where voxels are written as text, are spread over files, or have another order of axes.

    Raises: ChunkReadError for a file that is too short or damaged.
    """
    fields, end = _header(path)
    packing = _PACKINGS.get(fields.get("encoding", "").lower())
    sizes = tuple(int(n) for n in fields.get("sizes", "").split())
    file = fields.get("data file", fields.get("datafile", ""))
    skips = (fields.get("byte skip", fields.get("byteskip", "0")), fields.get("line skip", fields.get("lineskip", "0")))
    if packing is None or sizes[::-1] != shape or skips != ("0", "0") or "%" in file or file.startswith("LIST"):
        return None
    dtype = dtype.newbyteorder(">" if fields.get("endian", "little") == "big" else "<")
    data_path = str(Path(path).parent / file) if file else path
    return map_file(data_path, dtype, shape, offset=0 if file else end, packing=packing)


def _header(path: str) -> tuple[dict[str, str], int]:
    """The fields, names in lower case, and the byte at which the header ends."""
    fields: dict[str, str] = {}
    with open(path, "rb") as file:
        for line in file:
            text = line.decode("latin-1").strip()
            if not text:
                break
            name, separator, value = text.partition(":")
            if separator and not text.startswith("#") and not value.startswith("="):
                fields[name.strip().lower()] = value.strip()
        return fields, file.tell()
