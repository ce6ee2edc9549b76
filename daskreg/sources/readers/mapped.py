"""Files whose voxels are stored one after another: they are read in boxes; packed files are unpacked and mapped.

A packed file (.nii.gz, compressed NRRD) can only be read from its beginning. On the first read a worker unpacks it to
a temporary file without a name, which the system deletes with the last process that reads it, even if that is killed;
boxes are then read from there. So a file is unpacked once in each process, and takes its unpacked size once on the
disk of dask's `temporary-directory`, or TMPDIR.
"""

from __future__ import annotations

import bz2
import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any

import dask
import numpy as np
from dask.utils import format_bytes
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError, MemoryBudgetError, NotAVolumeError, StorageFullError
from daskreg.runtime.memory import available_memory
from daskreg.runtime.messages import reason
from daskreg.sources.readers.voxel_file import VoxelFile
from daskreg.sources.source import ArrayIndex

_LARGEST_RATIOS = {"": 1, "text": 4, "gzip": 1032, "bz2": 2**18, "other": 2**20}
"""How many bytes one stored byte can stand for: 258 in 2 bits of deflate, blocks of 900 kB in a few bytes of bzip2, 8
in a digit and a blank of text; nothing known stores a volume in a millionth."""

_DAMAGED = (EOFError, OSError, zlib.error)
_PIECE = 2**22


@dataclass(frozen=True, eq=False)
class MappedArray:
    """An array in a file.

    Args:
        data: the numbers, mapped or in a file.
        slope, intercept: value = slope * number + intercept.
    """

    data: NDArray[Any] | VoxelFile
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    def read(self, index: ArrayIndex, dtype: np.dtype[Any]) -> NDArray[Any]:
        """A copy in memory: values of `dtype` where slope or intercept change the numbers, else the stored numbers."""
        numbers = np.array(self.data[index])
        if (self.slope, self.intercept) == (1.0, 0.0):
            return numbers
        values = numbers * np.float64(self.slope) + self.intercept
        return np.asarray(values, dtype=dtype)


def map_file(
    path: str, dtype: np.dtype[Any], shape: tuple[int, ...], *, offset: int = 0, order: str = "C", packing: str = ""
) -> NDArray[Any] | VoxelFile:
    """The array at an offset of a file; an unpacked one is mapped into memory.

    Args:
        order: "C" or "F", of the axes.
        packing: "gzip" or "bz2" where what follows the offset, which counts bytes of the file, is packed; "" otherwise.

    Raises: ChunkReadError for a file that is too short or damaged, StorageFullError where it
        cannot be unpacked.
    """
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if packing:
        with open(path, "rb") as file:
            file.seek(offset)
            whole: NDArray[Any] = map_open_file(unpack(file, packing, size, path), dtype, shape, order=order)
            return whole
    if order == "C":
        return VoxelFile(path, dtype, shape, offset)
    return VoxelFile(path, dtype, shape[::-1], offset, tuple(range(len(shape)))[::-1])


def map_open_file(
    file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...], *, offset: int = 0, order: str = "C"
) -> Any:
    """The array in an open file, which is then closed; the map holds the file open itself."""
    with file:
        return np.memmap(file, dtype, "r", offset=offset, shape=shape, order=order)  # type: ignore[call-overload]


def unpack(file: IO[bytes], packing: str, size: int, what: str) -> IO[bytes]:
    """The first `size` bytes in a gzip or bz2 stream, in a temporary file.

    No more is unpacked: a stream may hold a thousand times what its header states.

    Raises: ChunkReadError for a damaged or short stream, StorageFullError where the disk has no space for it.
    """
    reader: Any = gzip.GzipFile(fileobj=file) if packing == "gzip" else bz2.BZ2File(file)
    return _temporary_file(what, size, lambda out: _copy_stream(reader, out, size, what))


def unpacked_start(file: IO[bytes], packing: str, size: int) -> bytes:
    """The first `size` bytes, or fewer, of a file after unpacking. Raises: OSError, EOFError, zlib.error."""
    if not packing:
        return file.read(size)
    reader: Any = gzip.GzipFile(fileobj=file) if packing == "gzip" else bz2.BZ2File(file)
    start: bytes = reader.read(size)
    return start


def moved_to_disk(array: NDArray[Any], what: str) -> NDArray[Any]:
    """The same array in a temporary file, mapped into memory, so that the system may drop its pages."""
    flat = np.ascontiguousarray(array)
    file = _temporary_file(what, flat.nbytes, lambda out: out.write(flat.data.cast("B")))
    on_disk: NDArray[Any] = map_open_file(file, flat.dtype, flat.shape)
    return on_disk


def check_size(size: int, paths: Sequence[str], packing: str, what: str) -> None:
    """Refuse files that cannot hold what their header says, before memory or a disk is filled with it.

    Args:
        size: bytes of the voxels, by the header.
        paths: of the files that hold them.
        packing: "", "gzip" (also for zlib), "bz2", "text" or "other".

    Raises: NotAVolumeError.
    """
    try:
        stored = sum(os.stat(path).st_size for path in paths)
    except OSError as error:
        raise NotAVolumeError(f"{what}: its voxels are not there ({reason(error)})") from error
    if size > stored * _LARGEST_RATIOS[packing]:
        packed = " unpacked" if packing else ""
        raise NotAVolumeError(f"{what} is shorter than its header says: {stored} bytes, and {size}{packed} are stated")


def check_memory(size: int, what: str) -> None:
    """Check that a file which must be read whole fits into memory.

    Args:
        size: bytes of its voxels.

    Raises: MemoryBudgetError.
    """
    free = available_memory()
    if 2 * size > free:
        raise MemoryBudgetError(
            f"{what} is compressed in a way that has to be read whole: {format_bytes(2 * size)} of memory, and "
            f"{format_bytes(free)} are free; store it uncompressed, or convert it to OME-Zarr on a larger machine"
        )


def _temporary_file(what: str, size: int, fill: Callable[[IO[bytes]], Any]) -> IO[bytes]:
    """A temporary file without a name that `fill` has written.

    Raises: StorageFullError where there is no space for `size` bytes; ChunkReadError where fewer were written.
    """
    folder = dask.config.get("temporary-directory", None) or tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    full = (
        f"{what} takes {format_bytes(size)} unpacked, and {folder} has {format_bytes(free)} free: set TMPDIR (or "
        "dask's temporary-directory) to a larger disk, or convert the file to OME-Zarr"
    )
    if size > free:
        raise StorageFullError(full)
    file: IO[bytes] = tempfile.TemporaryFile(dir=folder, prefix="daskreg-")  # noqa: SIM115 (the map outlives it)
    try:
        fill(file)
        file.flush()
        if file.seek(0, 2) < size:
            raise ChunkReadError(f"{what} ends early: {file.tell()} bytes of {size}; it is damaged, copy it again")
    except OSError as error:
        file.close()
        if isinstance(error, ChunkReadError):
            raise
        raise StorageFullError(full) from error
    except BaseException:
        file.close()
        raise
    return file


def _copy_stream(reader: Any, out: IO[bytes], size: int, what: str) -> None:
    left = size
    while left:
        try:
            piece = reader.read(min(_PIECE, left))
            if len(piece) == left:
                reader.read(1)  # at its end a stream has a checksum, which is compared when one asks for more
        except _DAMAGED as error:
            raise ChunkReadError(f"{what} is damaged ({reason(error)}); copy it again") from error
        if not piece:
            return
        left -= len(piece)
        out.write(piece)
