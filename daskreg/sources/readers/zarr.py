"""Zarr (v2, v3): plain arrays, OME-Zarr, groups in xarray's layout; metadata is in `zarr_metadata`."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError, OutsideError, StoreError
from daskreg.geometry import Box
from daskreg.sources.description import Description, OpenOptions
from daskreg.sources.locate import INSIDE, StoreLocation, objects_at
from daskreg.sources.reader import Reader, box_of
from daskreg.sources.readers import zarr_metadata
from daskreg.sources.readers.mapped import check_memory
from daskreg.sources.source import ArrayIndex, Source
from daskreg.sources.storage.bounded_codecs import bounded
from daskreg.sources.storage.counters import count_events
from daskreg.sources.storage.direct_chunks import direct_chunks
from daskreg.sources.storage.object_bytes import ObjectBytes
from daskreg.sources.storage.object_tags import MOST_LISTED, may_list, tags_of
from daskreg.sources.storage.redact import is_url, redact
from daskreg.sources.storage.stores import open_store

Array = zarr.Array[Any]

MOST_TAGS = 4096
"""Objects of a box whose ETags are asked for one by one."""


class ZarrReader(Reader):
    """Reads chunks of local files in the calling thread where it can (`storage.direct_chunks`), else through zarr."""

    reads_into_buffers = True
    decodes_in_thread = True
    knows_chunk_states = True

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        return zarr_metadata.describe(location, options)

    def open(self, path: str) -> Array:
        root, _, inner = path.partition(INSIDE)
        array = zarr.open_array(open_store(root), path=inner, mode="r")
        check_memory(math.prod(array.chunks) * array.dtype.itemsize, f"a chunk of {redact(path)}")
        return bounded(array) if direct_chunks(array) is None else array

    def read(self, handle: Array, index: ArrayIndex, source: Source) -> NDArray[Any]:
        """`handle[index]`.

        Raises: ChunkReadError with the array, the box, and the key of the chunk.
        """
        with _named_errors(handle, index, source):
            chunks = direct_chunks(handle)
            if chunks is not None:
                dropped = tuple(k for k, s in enumerate(index) if not isinstance(s, slice))
                return chunks.read(box_of(index)).squeeze(dropped)
            return np.asarray(handle[index])

    def read_into(self, handle: Array, index: ArrayIndex, source: Source, out: NDArray[Any]) -> bool:
        chunks = direct_chunks(handle)
        if chunks is None:
            return False
        with _named_errors(handle, index, source):
            chunks.read_into(box_of(index), out)
        return True

    def files(self, path: str) -> tuple[str, ...]:
        return ()

    def stamp(self, path: str) -> str:
        root, _, inner = path.partition(INSIDE)
        return zarr_metadata.stamp(StoreLocation(root, inner), self.open(path))

    def is_there(self, path: str) -> bool:
        """Whether the metadata of the array are there: on a disk its file, else what the store answers now."""
        root, _, inner = path.partition(INSIDE)
        if not inner and not is_url(root):
            folder = Path(root)
            return any((folder / name).is_file() for name in ("zarr.json", ".zarray")) or folder.is_file()
        if not is_url(root):
            return os.path.exists(root)
        try:
            with count_events(opening=True):
                self.open(path)
        except StoreError:
            raise  # the store does not say
        except Exception:
            return False
        return True

    def state(self, handle: Array, index: ArrayIndex, source: Source) -> str:
        """A hash of the times of change and sizes of the chunk (or shard) files behind `handle[index]`, and the newest
        time in seconds, "hash@time"; in an object store of their ETags, times and sizes. "" for zip files, for web
        servers, and for many objects, which would take a request each, or, where they are listed (`listed_tags`), more
        than a thousand requests.

        Times are compared in microseconds, which all common file systems and protocols keep.
        """
        if (objects := objects_at(source.path)) is not None:
            most = MOST_LISTED if may_list() else MOST_TAGS
            keys = list(islice(_chunk_keys(handle, index), most + 1))
            return "" if len(keys) > most else _state_of_objects(objects, keys)
        if INSIDE in source.path or is_url(source.path):
            return ""
        newest, digest = 0, hashlib.sha256()
        for key in _chunk_keys(handle, index):
            try:
                found = os.stat(os.path.join(source.path, key))
            except OSError:
                digest.update(f"{key} missing\n".encode())
                continue
            newest = max(newest, found.st_mtime_ns)
            digest.update(f"{key} {found.st_mtime_ns // 1000} {found.st_size}\n".encode())
        return f"{digest.hexdigest()[:16]}@{newest / 1e9:.6f}"


def _state_of_objects(objects: ObjectBytes, keys: list[str]) -> str:
    tags = tags_of(objects, keys)
    listed = "\n".join(f"{key} {tag or 'missing'}" for key, tag in zip(keys, tags, strict=True))
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


READER = ZarrReader()


@contextlib.contextmanager
def _named_errors(handle: Array, index: ArrayIndex, source: Source) -> Iterator[None]:
    """Errors of reading, as ChunkReadError that names the chunk."""
    try:
        yield
    except (MemoryError, OutsideError, StoreError):
        raise
    except Exception as error:
        cause = None if is_url(source.path) else error
        raise ChunkReadError(_unreadable(handle, index, source, error)) from cause


def _chunk_files(handle: Array, index: ArrayIndex) -> Iterator[tuple[str, Box]]:
    """The chunk (or shard) files behind `handle[index]`: their keys, and which part each holds."""
    box = box_of(index)
    unit = handle.shards or handle.chunks
    first = box.align(unit)
    for number in np.ndindex(*(n // c for n, c in zip(first.shape, unit, strict=True))):
        corner = tuple(a + i * c for a, i, c in zip(first.start, number, unit, strict=True))
        key = handle.metadata.encode_chunk_key(tuple(a // c for a, c in zip(corner, unit, strict=True)))
        yield key, Box(corner, tuple(a + c for a, c in zip(corner, unit, strict=True))) & box


def _chunk_keys(handle: Array, index: ArrayIndex) -> Iterator[str]:
    """The keys of the chunk (or shard) files behind `handle[index]`."""
    unit = handle.shards or handle.chunks
    whole = box_of(index).align(unit)
    sides = [range(a // c, b // c) for a, b, c in zip(whole.start, whole.stop, unit, strict=True)]
    return map(handle.metadata.encode_chunk_key, product(*sides))


def _unreadable(handle: Array, index: ArrayIndex, source: Source, error: Exception) -> str:
    """A message that names the chunk: chunks are read again one by one, until the first that fails."""
    path = redact(source.path)
    chunks = direct_chunks(handle)
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
