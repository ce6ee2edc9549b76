"""NumPy's `.npy` files, read in boxes. Axes are named as those of an array in memory; voxels have a spacing of one."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import NotAVolumeError
from daskreg.geometry import PIXEL, Grid
from daskreg.sources.coordinates import default_dims, split_dims
from daskreg.sources.description import Description, OpenOptions
from daskreg.sources.dtypes import image_dtype
from daskreg.sources.locate import StoreLocation
from daskreg.sources.reader import Reader
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.mapped import check_size, map_file
from daskreg.sources.readers.voxel_file import VoxelFile
from daskreg.sources.source import ArrayIndex, Source


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int


class NpyReader(Reader):
    """Reads voxels at their positions in the file."""

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """The array of a file.

        Raises: NotAVolumeError; UnsupportedDTypeError for objects, texts and records.
        """
        path, what = location.root, str(location)
        header = _header(path)
        image_dtype(header.dtype, what)
        check_size(header.offset + math.prod(header.shape) * header.dtype.itemsize, (path,), "", what)
        names = default_dims(len(header.shape))
        _, space = split_dims(names)
        grid = Grid(header.shape[-len(space) :], unit=options.common_unit(PIXEL, what), axes=space)
        array = FileArray("npy", path, names, header.shape, header.dtype, self.stamp(path))
        return array.describe(grid, options, name=location.name.removesuffix(".npy"))

    def open(self, path: str) -> VoxelFile:
        shape, fortran, dtype, offset = _header(path)
        file: Any = map_file(path, dtype, shape, offset=offset, order="F" if fortran else "C")
        return file  # type: ignore[no-any-return]

    def read(self, handle: VoxelFile, index: ArrayIndex, source: Source) -> NDArray[Any]:
        return handle[index]


READER = NpyReader()


def _header(path: str) -> _Header:
    """The header of a file; nothing in it is run.

    Raises: NotAVolumeError.
    """
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version[0]}.{version[1]}, which only records need")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
        except (ValueError, SyntaxError) as error:
            raise NotAVolumeError(f"{path} has no header of a .npy file ({error})") from error
        offset = file.tell()
    if len(shape) < 2:
        raise NotAVolumeError(f"{path} has the shape {shape}; images have two axes or more")
    if min(shape) < 0:
        raise NotAVolumeError(f"{path} states the shape {shape}")
    return _Header(shape, fortran, dtype, offset)
