"""Reading voxels of Zarr arrays, on the worker."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError
from daskreg.geometry import Box
from daskreg.sources.locate import INSIDE
from daskreg.sources.source import Source
from daskreg.sources.storage.local_chunks import local_chunks
from daskreg.sources.storage.redact import is_url, redact
from daskreg.sources.storage.retrying import open_store

Array = zarr.Array[Any]


def open_handle(path: str) -> Array:
    """The Zarr array at a path as `Source.path` has it."""
    root, _, inner = path.partition(INSIDE)
    return zarr.open_array(open_store(root), path=inner, mode="r")


def read(handle: Array, index: tuple[int | slice, ...], source: Source) -> NDArray[Any]:
    """`handle[index]`, where what cannot be read is named.

    Raises: ChunkReadError with the array, the box, and the key of the chunk.
    """
    with _named(handle, index, source):
        chunks = local_chunks(handle)
        if chunks is not None:
            dropped = tuple(k for k, s in enumerate(index) if not isinstance(s, slice))
            return chunks.read(_box(index)).squeeze(dropped)
        return np.asarray(handle[index])


def read_into(handle: Array, index: tuple[int | slice, ...], source: Source, out: NDArray[Any]) -> bool:
    """Put `handle[index]` into `out`, which has all axes of the array; False where that needs `read`.

    Raises: as `read`.
    """
    chunks = local_chunks(handle)
    if chunks is None:
        return False
    with _named(handle, index, source):
        chunks.read_into(_box(index), out)
    return True


@contextlib.contextmanager
def _named(handle: Array, index: tuple[int | slice, ...], source: Source) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        cause = None if is_url(source.path) else error
        raise ChunkReadError(_blame(handle, index, source, error)) from cause


def written_at(handle: Array, index: tuple[int | slice, ...], source: Source) -> float:
    """When the newest chunk (or shard) file behind `handle[index]` was written, in seconds since the epoch.

    0 where no file says so: chunks that are missing, stores that are not a local folder.
    """
    if INSIDE in source.path or is_url(source.path):
        return 0.0
    newest = 0.0
    for key, _ in _chunks(handle, index):
        with contextlib.suppress(OSError):
            newest = max(newest, os.stat(os.path.join(source.path, key)).st_mtime)
    return newest


def _box(index: tuple[int | slice, ...]) -> Box:
    return Box(
        tuple(s.start if isinstance(s, slice) else s for s in index),
        tuple(s.stop if isinstance(s, slice) else s + 1 for s in index),
    )


def _chunks(handle: Array, index: tuple[int | slice, ...]) -> Iterator[tuple[str, Box]]:
    """The chunk (or shard) files behind `handle[index]`: their keys, and which part each holds."""
    box = _box(index)
    unit = handle.shards or handle.chunks
    first = box.align(unit)
    for number in np.ndindex(*(n // c for n, c in zip(first.shape, unit, strict=True))):
        corner = tuple(a + i * c for a, i, c in zip(first.start, number, unit, strict=True))
        key = handle.metadata.encode_chunk_key(tuple(a // c for a, c in zip(corner, unit, strict=True)))
        yield key, Box(corner, tuple(a + c for a, c in zip(corner, unit, strict=True))) & box


def _blame(handle: Array, index: tuple[int | slice, ...], source: Source, error: Exception) -> str:
    """Which chunk it was: read again one by one, until the first that fails."""
    where = redact(source.path)
    for key, part in _chunks(handle, index):
        try:
            handle[part.slices]
        except Exception as reason:
            return (
                f"cannot read chunk {key} of {where} (voxels {part} of shape {handle.shape}): "
                f"{redact(str(reason)) or type(reason).__name__}; restore that file, or write it anew"
            )
    return f"cannot read {index} of {where}: {redact(str(error)) or type(error).__name__}"
