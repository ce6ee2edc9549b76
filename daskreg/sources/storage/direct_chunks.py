"""Chunks of Zarr arrays, read and written in the calling thread: files of a folder, or objects of a store.

zarr-python gives every chunk to an event loop and from there to a pool of threads. A worker
computes one block in each thread already, so that costs more than it saves: decoding and encoding
in the calling thread, into buffers that are used again, takes about 0.6 of the time (docs/engine.md).
zarr-python still reads and writes the metadata, and the chunks of all arrays for which `direct_chunks`
returns None. What is handled here:

- a LocalStore, or a store of `storage.zarr_objects`, behind our wrappers or not;
- the numbers and codecs of `storage.chunk_codec`; in shards or not.

Files are read one chunk at a time. Objects are asked for some ahead, in requests of whole objects or of several
chunks of a shard.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.storage import LocalStore

from daskreg.geometry import Box
from daskreg.runtime.private_apis import wrapped_store
from daskreg.sources.storage.byte_store import ByteStore
from daskreg.sources.storage.chunk_codec import COMPRESSORS, Codec, Index, Pixels, codec_of
from daskreg.sources.storage.confined import ConfinedStore
from daskreg.sources.storage.counters import count_missing
from daskreg.sources.storage.folder_bytes import FolderBytes
from daskreg.sources.storage.look_ahead import look_ahead
from daskreg.sources.storage.object_bytes import ObjectBytes
from daskreg.sources.storage.shard_table import MISSING, bytes_of, table_bytes, table_of
from daskreg.sources.storage.zarr_objects import ZarrObjects

ONE_REQUEST = 8 * 2**20
"""Bytes of neighbouring chunks of a shard that are asked for at once, at most; a chunk may be larger."""

_own = threading.local()  # memory that a thread uses again

Encoded = tuple[Box, Any]
"""A chunk, and its bytes as they are stored; None where it is missing."""


@dataclass(frozen=True)
class DirectChunks:
    """An array's chunks as bytes by key.

    Args:
        files: the files or objects of the array.
        metadata: zarr-python's, which names the keys.
        codec: of one chunk.
        shards: shape of what one file holds, None where that is a chunk.
        index_checksum: whether the index of a shard ends with a crc32c.
        fill: value of the voxels of missing chunks.
    """

    files: ByteStore
    metadata: Any
    codec: Codec
    shards: Index | None
    index_checksum: bool
    fill: Any

    @property
    def chunks(self) -> Index:
        return self.codec.shape

    @property
    def unit(self) -> Index:
        """Shape of what one file holds: a shard, or a chunk."""
        return self.shards or self.chunks

    @property
    def _counts(self) -> Index:
        """Chunks of a shard along each axis."""
        return tuple(s // c for s, c in zip(self.unit, self.chunks, strict=True))

    def key(self, index: Index) -> str:
        return str(self.metadata.encode_chunk_key(index))

    def read(self, box: Box) -> Pixels:
        """The voxels of a box; those of missing chunks are the fill value.

        Raises: OSError, ValueError or RuntimeError for what cannot be read or decoded.
        """
        out = np.empty(box.shape, self.codec.dtype)
        self.read_into(box, out)
        return out

    def read_into(self, box: Box, out: Pixels) -> None:
        """As `read`, into an array of the shape of the box, of this or another type."""
        units = list(_tiles(box, self.unit))
        self.files.prefetch(self.key(index) for index, _ in units)
        requests = (request for index, whole in units for request in self._requests(index, whole, box))
        answers = look_ahead(requests) if self.files.remote else (request() for request in requests)
        for answer in answers:
            for chunk, data in answer:
                self._decode_part(data, chunk, box, out)

    def _requests(self, index: Index, whole: Box, box: Box) -> Iterator[Callable[[], list[Encoded]]]:
        """What gives the bytes of those chunks of a file that `box` needs; each of them is one request."""
        if self.shards is None:
            yield partial(self._whole_file, index, whole)
            return
        part = box & whole
        filled = whole & Box.of(self.metadata.shape)
        if self.files.remote and 2 * part.size >= filled.size and self._unit_bytes <= ONE_REQUEST:
            yield partial(self._whole_shard, index, part)
            return
        table = self._table(index, self.files.get(self.key(index), -self._table_bytes))
        for chunks in self._groups(table, part):
            yield partial(self._some_chunks, index, chunks)

    @property
    def _unit_bytes(self) -> int:
        return int(np.prod(self.unit)) * self.codec.dtype.itemsize

    @property
    def _table_bytes(self) -> int:
        return table_bytes(self._counts, self.index_checksum)

    def _whole_file(self, index: Index, chunk: Box) -> list[Encoded]:
        data = self.files.get(self.key(index))
        if data is None:
            count_missing(self.key(index))
        return [(chunk, data)]

    def _whole_shard(self, index: Index, part: Box) -> list[Encoded]:
        data = self.files.get(self.key(index))
        table = self._table(index, None if data is None else data[-self._table_bytes :])
        return [
            (chunk, None if place is None or data is None else data[place[0] : place[0] + place[1]])
            for chunk, place in self._places(table, part)
        ]

    def _some_chunks(self, index: Index, chunks: list[tuple[Box, tuple[int, int] | None]]) -> list[Encoded]:
        """Chunks that lie one after another in a shard, or one of which is missing."""
        known = [place for _, place in chunks if place is not None]
        if not known:
            return [(chunk, None) for chunk, _ in chunks]
        start, stop = known[0][0], known[-1][0] + known[-1][1]
        data = self.files.get(self.key(index), start, stop - start)
        if data is None:  # it was there a moment ago
            count_missing(self.key(index))
        return [
            (c, None if place is None or data is None else data[place[0] - start : place[0] - start + place[1]])
            for c, place in chunks
        ]

    def _groups(
        self, table: NDArray[np.uint64] | None, part: Box
    ) -> Iterator[list[tuple[Box, tuple[int, int] | None]]]:
        """The chunks of a shard that one request asks for: one of a file, several neighbours of an object."""
        group: list[tuple[Box, tuple[int, int] | None]] = []
        size, end = 0, -1
        for chunk, place in self._places(table, part):
            more = 0 if place is None else place[1]
            follows = place is None or end < 0 or place[0] == end
            if group and not (self.files.remote and follows and size + more <= ONE_REQUEST):
                yield group
                group, size, end = [], 0, -1
            group.append((chunk, place))
            size += more
            end = end if place is None else sum(place)
        if group:
            yield group

    def _places(self, table: NDArray[np.uint64] | None, part: Box) -> Iterator[tuple[Box, tuple[int, int] | None]]:
        """The chunks that a box touches, each with its first byte in the shard and its size."""
        for number, chunk in _tiles(part, self.chunks):
            entry = None if table is None else table[tuple(i % n for i, n in zip(number, self._counts, strict=True))]
            here = entry is not None and int(entry[0]) != MISSING
            yield chunk, (int(entry[0]), int(entry[1])) if here and entry is not None else None

    def _table(self, index: Index, data: Any | None) -> NDArray[np.uint64] | None:
        """Offset and size in bytes of each chunk of a shard, (*counts, 2), from the end of its file; None for None."""
        if data is None:
            count_missing(self.key(index))
            return None
        return table_of(data, self._counts, self.index_checksum, self.key(index))

    def _decode_part(self, data: Any | None, chunk: Box, box: Box, out: Pixels) -> None:
        """Decode one chunk and put the part of it that lies in `box` into `out`, the voxels of `box`.

        Args:
            data: the bytes of the chunk; None where it is missing.
        """
        part = chunk & box
        target = out[part.within(box).slices]
        if data is None:
            target[...] = self.fill
        elif part == chunk and target.flags.c_contiguous and target.dtype == self.codec.dtype:
            self.codec.decode(data, target)
        else:
            scratch = _scratch(self.codec)
            self.codec.decode(data, scratch)
            target[...] = scratch[part.within(chunk).slices]

    def encode(self, pixels: Pixels, box: Box) -> bytes:
        """What is stored for the chunk whose voxels, as far as the array has them, are those of `box`."""
        chunk = box.align(self.chunks)
        return b"".join(self.codec.encode(self._whole_chunk(pixels, chunk, box)))

    def parts(self, box: Box) -> Iterator[Box]:
        """The chunks of a box of whole units, those of one unit after those of another: the order of `write`."""
        for _, whole in _tiles(box, self.unit):
            for _, chunk in _tiles(whole & box, self.chunks):
                yield chunk & box

    def write(self, box: Box, pixels: Iterator[Pixels]) -> dict[str, tuple[int, int]]:
        """Write the files of `box`, whole units, each at once; `pixels` follow the order of `parts`.

        An object is under way while the next one is made.

        Returns: checksum (XXH3, 64 bits) and size of each file, by its key in the array.
        Raises: OSError.
        """
        units = [(self.key(index), whole) for index, whole in _tiles(box, self.unit)]
        if not self.files.remote:  # nothing of a unit stays in memory for the next
            return {key: self._put(key, self._encoded_unit(whole, box, pixels)) for key, whole in units}
        puts = (partial(self._put, key, self._encoded_unit(whole, box, pixels)) for key, whole in units)
        return dict(zip([key for key, _ in units], look_ahead(puts, 1, finish=True), strict=True))

    def _put(self, key: str, parts: list[Any]) -> tuple[int, int]:
        """Write one file."""
        self.files.put(key, parts)
        checked = xxhash.xxh3_64()
        for part in parts:
            checked.update(part)
        return checked.intdigest(), sum(len(part) for part in parts)

    def _encoded_unit(self, whole: Box, box: Box, pixels: Iterator[Pixels]) -> list[Any]:
        """The parts of one file."""
        parts: list[Any] = []
        entries: dict[Index, tuple[int, int]] = {}
        offset = 0
        for number, chunk in _tiles(whole & box, self.chunks):
            encoded = self.codec.encode(self._whole_chunk(next(pixels), chunk, box))
            size = sum(len(part) for part in encoded)
            entries[number] = (offset, size)
            offset += size
            parts += encoded
        if self.shards is not None:
            parts.append(bytes_of(entries, self._counts, self.index_checksum))
        return parts

    def _whole_chunk(self, pixels: Pixels, chunk: Box, box: Box) -> Pixels:
        """A whole chunk, C-contiguous: where the array ends inside a chunk, the rest is the fill value."""
        if pixels.shape == self.chunks and pixels.flags.c_contiguous:
            return pixels
        full = _scratch(self.codec)
        if pixels.shape != self.chunks:
            full[...] = self.fill
        full[(chunk & box).within(chunk).slices] = pixels
        return full


def direct_chunks(array: zarr.Array[Any]) -> DirectChunks | None:
    """The chunks of an array, read and written here; None where zarr-python has to do it."""
    files = _files(array)
    if files is None or not array.shape:
        return None
    meta: Any = array.metadata
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "biuf" or dtype != dtype.newbyteorder("<"):
        return None
    fill = dtype.type(0 if meta.fill_value is None else meta.fill_value)
    if meta.zarr_format == 2:
        if meta.filters or meta.order != "C" or not isinstance(meta.compressor, COMPRESSORS):
            return None
        return DirectChunks(files, meta, Codec(array.chunks, dtype, meta.compressor, False), None, False, fill)
    codecs, shards, index_checksum = meta.codecs, None, False
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        sharding, shards = codecs[0], array.shards
        kinds = [type(c) for c in sharding.index_codecs]
        if sharding.index_location.value != "end" or kinds[:1] != [BytesCodec] or kinds[1:] not in ([], [Crc32cCodec]):
            return None
        codecs, index_checksum = sharding.codecs, kinds[1:] == [Crc32cCodec]
    codec = codec_of(codecs, array.chunks, dtype)
    return None if codec is None else DirectChunks(files, meta, codec, shards, index_checksum, fill)


def _files(array: zarr.Array[Any]) -> ByteStore | None:
    """The files or objects of an array; None for a store that keeps neither, or behind a wrapper that is not ours."""
    store: Any = array.store
    while (inner := wrapped_store(store)) is not None:
        if not getattr(store, "passes_through", False):
            return None
        store = inner
    if isinstance(store, ZarrObjects):
        return ObjectBytes(store.objects.where(array.path))
    if type(store) not in (LocalStore, ConfinedStore):
        return None
    root = os.path.realpath(store.root) if isinstance(store, ConfinedStore) else None
    return FolderBytes(Path(store.root) / array.path, root)


def _tiles(box: Box, tile: Index) -> Iterator[tuple[Index, Box]]:
    """Index and whole box of each tile that `box` touches, in C order."""
    ranges = [range(a // t, -(-b // t)) for a, b, t in zip(box.start, box.stop, tile, strict=True)]
    for index in product(*ranges):
        start = tuple(i * t for i, t in zip(index, tile, strict=True))
        yield index, Box(start, tuple(a + t for a, t in zip(start, tile, strict=True)))


def _scratch(codec: Codec) -> Pixels:
    """Memory for one chunk, the same for every chunk of its size in this thread."""
    scratch: Pixels | None = getattr(_own, "scratch", None)
    if scratch is None or scratch.nbytes != codec.nbytes:
        scratch = _own.scratch = np.empty(codec.nbytes, np.uint8)
    return scratch.view(codec.dtype).reshape(codec.shape)
