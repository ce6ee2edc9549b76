"""Zarr (v2, v3): plain arrays, OME-Zarr, groups in xarray's layout; metadata is in `zarr_metadata`."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError, OutsideError
from daskreg.geometry import Box
from daskreg.sources.description import Description, OpenOptions
from daskreg.sources.locate import INSIDE, StoreLocation
from daskreg.sources.reader import Reader
from daskreg.sources.readers import zarr_metadata
from daskreg.sources.readers.mapped import check_memory
from daskreg.sources.source import ArrayIndex, Source
from daskreg.sources.storage.bounded_codecs import bounded
from daskreg.sources.storage.local_chunks import local_chunks
from daskreg.sources.storage.redact import is_url, redact
from daskreg.sources.storage.retrying import open_store

Array = zarr.Array[Any]


class ZarrReader(Reader):
    """Reads chunks of local files in the calling thread where it can (`storage.local_chunks`), else through zarr."""

    reads_into_buffers = True
    decodes_in_thread = True
    knows_write_times = True

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        return zarr_metadata.describe(location, options)

    def open_handle(self, path: str) -> Array:
        root, _, inner = path.partition(INSIDE)
        array = zarr.open_array(open_store(root), path=inner, mode="r")
        check_memory(math.prod(array.chunks) * array.dtype.itemsize, f"a chunk of {redact(path)}")
        return bounded(array) if local_chunks(array) is None else array

    def read(self, handle: Array, index: ArrayIndex, source: Source) -> NDArray[Any]:
        """`handle[index]`.

        Raises: ChunkReadError with the array, the box, and the key of the chunk.
        """
        with _named_errors(handle, index, source):
            chunks = local_chunks(handle)
            if chunks is not None:
                dropped = tuple(k for k, s in enumerate(index) if not isinstance(s, slice))
                return chunks.read(_box(index)).squeeze(dropped)
            return np.asarray(handle[index])

    def read_into(self, handle: Array, index: ArrayIndex, source: Source, out: NDArray[Any]) -> bool:
        chunks = local_chunks(handle)
        if chunks is None:
            return False
        with _named_errors(handle, index, source):
            chunks.read_into(_box(index), out)
        return True

    def written_at(self, handle: Array, index: ArrayIndex, source: Source) -> float:
        """When the newest chunk (or shard) file behind `handle[index]` was written, in seconds since the epoch.

        0 where no file says so: chunks that are missing, stores that are not a local folder.
        """
        if INSIDE in source.path or is_url(source.path):
            return 0.0
        newest = 0.0
        for key, _ in _chunk_files(handle, index):
            with contextlib.suppress(OSError):
                newest = max(newest, os.stat(os.path.join(source.path, key)).st_mtime)
        return newest


READER = ZarrReader()


@contextlib.contextmanager
def _named_errors(handle: Array, index: ArrayIndex, source: Source) -> Iterator[None]:
    """Errors of reading, as ChunkReadError that names the chunk."""
    try:
        yield
    except (MemoryError, OutsideError):
        raise
    except Exception as error:
        cause = None if is_url(source.path) else error
        raise ChunkReadError(_unreadable(handle, index, source, error)) from cause


def _box(index: ArrayIndex) -> Box:
    return Box(
        tuple(s.start if isinstance(s, slice) else s for s in index),
        tuple(s.stop if isinstance(s, slice) else s + 1 for s in index),
    )


def _chunk_files(handle: Array, index: ArrayIndex) -> Iterator[tuple[str, Box]]:
    """The chunk (or shard) files behind `handle[index]`: their keys, and which part each holds."""
    box = _box(index)
    unit = handle.shards or handle.chunks
    first = box.align(unit)
    for number in np.ndindex(*(n // c for n, c in zip(first.shape, unit, strict=True))):
        corner = tuple(a + i * c for a, i, c in zip(first.start, number, unit, strict=True))
        key = handle.metadata.encode_chunk_key(tuple(a // c for a, c in zip(corner, unit, strict=True)))
        yield key, Box(corner, tuple(a + c for a, c in zip(corner, unit, strict=True))) & box


def _unreadable(handle: Array, index: ArrayIndex, source: Source, error: Exception) -> str:
    """A message that names the chunk: chunks are read again one by one, until the first that fails."""
    path = redact(source.path)
    chunks = local_chunks(handle)
    for key, part in _chunk_files(handle, index):
        try:
            if chunks is None:
                handle[part.slices]
            else:
                chunks.read(part)
        except Exception as reason:
            return (
                f"cannot read chunk {key} of {path} (voxels {part} of shape {handle.shape}): "
                f"{redact(str(reason)) or type(reason).__name__}; restore that file, or write it anew"
            )
    return f"cannot read {index} of {path}: {redact(str(error)) or type(error).__name__}"
