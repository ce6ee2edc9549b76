"""What a package needs that reads a further format of volumes: `Reader`, and what its `describe` returns.

A package names its reader in its pyproject.toml, by the name of the format:

    [project.entry-points."daskreg.readers"]
    dm = "my_package:DmReader"
"""

from __future__ import annotations

from daskreg.errors import ChunkReadError, MissingExtraError, NotAVolumeError, UnsupportedDTypeError
from daskreg.geometry import Grid
from daskreg.sources.description import Coord, Description, OpenOptions
from daskreg.sources.locate import StoreLocation
from daskreg.sources.reader import Reader
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.mapped import check_size
from daskreg.sources.readers.physical import grid_of_header
from daskreg.sources.readers.voxel_file import VoxelFile
from daskreg.sources.source import ArrayIndex, Source
from daskreg.sources.stamps import file_stamp

__all__ = [
    "ArrayIndex",
    "ChunkReadError",
    "Coord",
    "Description",
    "FileArray",
    "Grid",
    "MissingExtraError",
    "NotAVolumeError",
    "OpenOptions",
    "Reader",
    "Source",
    "StoreLocation",
    "UnsupportedDTypeError",
    "VoxelFile",
    "check_size",
    "file_stamp",
    "grid_of_header",
]
