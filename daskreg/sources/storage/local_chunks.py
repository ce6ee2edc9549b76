"""Chunks of Zarr arrays on a local disk, read and written in the calling thread.

zarr-python gives every chunk to an event loop and from there to a pool of threads. A worker
computes one block in each thread already, so that costs more than it saves: decoding and encoding
in the calling thread, into buffers that are used again, takes about 0.6 of the time (docs/engine.md).
zarr-python still reads and writes the metadata, and the chunks of all arrays for which `local_chunks`
returns None. What is handled here:

- a LocalStore, behind our wrappers or not;
- little-endian numbers in C order;
- blosc, zstd or no compression, then a crc32c or not; in shards or not.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import xxhash
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec
from zarr.storage import LocalStore

from daskreg.geometry import Box
from daskreg.runtime.atomic import replace_file
from daskreg.runtime.private_apis import numcodecs_blosc, numcodecs_zstd, wrapped_store
from daskreg.runtime.regular_files import open_inside
from daskreg.sources.storage.bounded_codecs import check_frame
from daskreg.sources.storage.confined import ConfinedStore
from daskreg.sources.storage.counters import count_missing
from daskreg.sources.storage.retrying import EmptyValueError, again

Pixels = NDArray[Any]
Index = tuple[int, ...]

_CRC_BYTES = 4
_BLOSC_HEADER = struct.Struct("<4xI4xI")
_MISSING = 2**64 - 1  # where the index of a shard has no chunk
_own = threading.local()  # memory that a thread uses again


@dataclass(frozen=True)
class Codec:
    """Encodes the voxels of one chunk to bytes, and decodes them.

    Args:
        shape, dtype: of a chunk.
        compressor: of numcodecs; None for none.
        checksum: whether the bytes end with their crc32c.
    """

    shape: Index
    dtype: np.dtype[Any]
    compressor: Any
    checksum: bool

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def encode(self, chunk: Pixels) -> list[Any]:
        """The parts, in order, of what is stored for a C-contiguous chunk."""
        flat = chunk.reshape(-1).view(np.uint8)
        data = flat.tobytes() if self.compressor is None else self.compressor.encode(flat)
        return [data, struct.pack("<I", google_crc32c.value(data))] if self.checksum else [data]

    def decode(self, data: bytes, out: Pixels) -> None:
        """Into a C-contiguous chunk.

        Raises: ValueError, RuntimeError where the bytes are not what was written.
        """
        view = np.frombuffer(data, np.uint8)
        if self.checksum:
            view, stored = view[:-_CRC_BYTES], data[-_CRC_BYTES:]
            if len(stored) < _CRC_BYTES or google_crc32c.value(view) != struct.unpack("<I", stored)[0]:
                raise ValueError("its checksum (crc32c) does not match")
        flat = out.reshape(-1).view(np.uint8)
        if isinstance(self.compressor, numcodecs.Blosc):
            # The header states the number of bytes, decoded and encoded; blosc does not check them.
            if len(view) < _BLOSC_HEADER.size or _BLOSC_HEADER.unpack_from(data) != (self.nbytes, len(view)):
                raise ValueError("it is cut off, or holds another number of bytes than its shape takes")
            self.compressor.decode(view, out=flat)
            return
        if self.compressor is not None:
            check_frame("zstd", view.data, self.nbytes)
        plain = view if self.compressor is None else self.compressor.decode(view)
        if len(plain) != self.nbytes:
            raise ValueError("it holds another number of bytes than its shape takes")
        flat[:] = np.frombuffer(plain, np.uint8)


@dataclass(frozen=True)
class LocalChunks:
    """An array's chunks as files.

    Args:
        folder: of the array.
        metadata: zarr-python's, which names the files.
        codec: of one chunk.
        shards: shape of what one file holds, None where that is a chunk.
        index_checksum: whether the index of a shard ends with a crc32c.
        fill: value of the voxels of missing chunks.
        root: the folder in which all files have to lie, symbolic links followed; None: anywhere.
    """

    folder: Path
    metadata: Any
    codec: Codec
    shards: Index | None
    index_checksum: bool
    fill: Any
    root: str | None = None

    @property
    def chunks(self) -> Index:
        return self.codec.shape

    @property
    def unit(self) -> Index:
        """Shape of what one file holds: a shard, or a chunk."""
        return self.shards or self.chunks

    def path(self, index: Index) -> Path:
        return self.folder / str(self.metadata.encode_chunk_key(index))

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
        _prefetch(self.path(index) for index, _ in units)
        for index, whole in units:
            if self.shards is None:
                data = again(partial(_read_file, self.path(index), 0, None, self.root))
                if data is None:
                    count_missing(str(self.metadata.encode_chunk_key(index)))
                self._decode_part(data, whole, box, out)
            else:
                self._read_shard(index, whole, box, out)

    def _read_shard(self, index: Index, whole: Box, box: Box, out: Pixels) -> None:
        path = self.path(index)
        counts = tuple(s // c for s, c in zip(self.unit, self.chunks, strict=True))
        table = again(partial(_shard_table, path, counts, self.index_checksum, self.root))
        if table is None:
            count_missing(str(self.metadata.encode_chunk_key(index)))
        for number, part in _tiles(box & whole, self.chunks):
            entry = None if table is None else table[tuple(i % n for i, n in zip(number, counts, strict=True))]
            data = None
            if entry is not None and int(entry[0]) != _MISSING:
                data = again(partial(_read_file, path, int(entry[0]), int(entry[1]), self.root))
                if data is None:  # it was there a moment ago
                    count_missing(str(self.metadata.encode_chunk_key(index)))
            self._decode_part(data, part, box, out)

    def _decode_part(self, data: bytes | None, chunk: Box, box: Box, out: Pixels) -> None:
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

    def parts(self, box: Box) -> Iterator[Box]:
        """The chunks of a box of whole units, those of one unit after those of another: the order of `write`."""
        for _, whole in _tiles(box, self.unit):
            for _, chunk in _tiles(whole & box, self.chunks):
                yield chunk & box

    def write(self, box: Box, pixels: Iterator[Pixels]) -> dict[str, tuple[int, int]]:
        """Write the files of `box`, whole units, each at once; `pixels` follow the order of `parts`.

        Returns: checksum (XXH3, 64 bits) and size of each file, by its key in the array.
        Raises: OSError.
        """
        written = {}
        for index, whole in _tiles(box, self.unit):
            key = str(self.metadata.encode_chunk_key(index))
            written[key] = self._write_unit(index, whole, box, pixels)
        return written

    def _write_unit(self, index: Index, whole: Box, box: Box, pixels: Iterator[Pixels]) -> tuple[int, int]:
        """Write one file; nothing of it stays in memory for the next."""
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
            parts.append(self._shard_index(entries))
        again(partial(replace_file, self.path(index), parts))
        checked = xxhash.xxh3_64()
        for part in parts:
            checked.update(part)
        return checked.intdigest(), sum(len(part) for part in parts)

    def _whole_chunk(self, pixels: Pixels, chunk: Box, box: Box) -> Pixels:
        """A whole chunk, C-contiguous: where the array ends inside a chunk, the rest is the fill value."""
        if pixels.shape == self.chunks and pixels.flags.c_contiguous:
            return pixels
        full = _scratch(self.codec)
        if pixels.shape != self.chunks:
            full[...] = self.fill
        full[(chunk & box).within(chunk).slices] = pixels
        return full

    def _shard_index(self, entries: dict[Index, tuple[int, int]]) -> bytes:
        counts = tuple(s // c for s, c in zip(self.unit, self.chunks, strict=True))
        table = np.full((*counts, 2), _MISSING, "<u8")
        for number, entry in entries.items():
            table[tuple(i % n for i, n in zip(number, counts, strict=True))] = entry
        data = table.tobytes()
        return data + struct.pack("<I", google_crc32c.value(data)) if self.index_checksum else data


def local_chunks(array: zarr.Array[Any]) -> LocalChunks | None:
    """The chunks of an array, read and written here; None where zarr-python has to do it."""
    store: Any = array.store
    while (inner := wrapped_store(store)) is not None:
        if not getattr(store, "passes_through", False):
            return None
        store = inner
    if type(store) not in (LocalStore, ConfinedStore) or not array.shape:
        return None
    meta: Any = array.metadata
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "biuf" or dtype != dtype.newbyteorder("<"):
        return None
    folder = Path(store.root) / array.path
    root = os.path.realpath(store.root) if isinstance(store, ConfinedStore) else None
    fill = dtype.type(0 if meta.fill_value is None else meta.fill_value)
    if meta.zarr_format == 2:
        if meta.filters or meta.order != "C" or not isinstance(meta.compressor, _COMPRESSORS):
            return None
        return LocalChunks(folder, meta, Codec(array.chunks, dtype, meta.compressor, False), None, False, fill, root)
    codecs, shards, index_checksum = meta.codecs, None, False
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        sharding, shards = codecs[0], array.shards
        kinds = [type(c) for c in sharding.index_codecs]
        if sharding.index_location.value != "end" or kinds[:1] != [BytesCodec] or kinds[1:] not in ([], [Crc32cCodec]):
            return None
        codecs, index_checksum = sharding.codecs, kinds[1:] == [Crc32cCodec]
    codec = _chain(codecs, array.chunks, dtype)
    return None if codec is None else LocalChunks(folder, meta, codec, shards, index_checksum, fill, root)


_COMPRESSORS = (numcodecs.Blosc, numcodecs.Zstd, type(None))


def _chain(codecs: Sequence[Any], shape: Index, dtype: np.dtype[Any]) -> Codec | None:
    """The codec of a chunk out of Zarr v3's: bytes, at most one compressor, then crc32c or not; None for others."""
    rest = list(codecs)
    first = rest.pop(0) if rest else None
    if not isinstance(first, BytesCodec) or (dtype.itemsize > 1 and getattr(first.endian, "value", "") != "little"):
        return None
    checksum = bool(rest) and isinstance(rest[-1], Crc32cCodec)
    rest = rest[: len(rest) - checksum]
    if not rest:
        return Codec(shape, dtype, None, checksum)
    if len(rest) == 1 and isinstance(rest[0], BloscCodec):
        return Codec(shape, dtype, numcodecs_blosc(rest[0]), checksum)
    if len(rest) == 1 and isinstance(rest[0], ZstdCodec):
        return Codec(shape, dtype, numcodecs_zstd(rest[0]), checksum)
    return None


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


def _prefetch(paths: Iterator[Path]) -> None:
    """Ask the system to fetch files that will be read, while the first of them are decoded."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        try:
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # not to wait at a FIFO
        except OSError:
            continue
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
        except OSError:
            pass
        finally:
            os.close(file)


def _read_file(path: Path, offset: int, size: int | None, root: str | None) -> bytes | None:
    """The bytes of a file, or `size` bytes from `offset` on; None where it does not exist.

    Raises: EmptyValueError for an empty file, which zarr would take for a missing one.
    """
    try:
        with open_inside(path, root) as file:
            if offset:
                file.seek(offset)
            data = file.read(os.fstat(file.fileno()).st_size if size is None else size)
    except FileNotFoundError:
        return None
    if not data:
        raise EmptyValueError(f"{path.name} is empty (0 bytes)")
    return data


def _shard_table(path: Path, counts: Index, checksum: bool, root: str | None) -> NDArray[np.uint64] | None:
    """Offset and size in bytes of each chunk of a shard, (*counts, 2); None where there is no file."""
    size = 16 * int(np.prod(counts)) + checksum * _CRC_BYTES
    try:
        total = path.stat().st_size
    except FileNotFoundError:
        return None
    if total < size:
        raise EmptyValueError(f"{path.name} has {total} bytes, too few for the index of a shard")
    data = _read_file(path, total - size, size, root)
    if data is None:
        return None
    if checksum and struct.unpack("<I", data[-_CRC_BYTES:])[0] != google_crc32c.value(data[:-_CRC_BYTES]):
        raise ValueError(f"the index of the shard {path.name} does not match its checksum")
    return np.frombuffer(data[: 16 * int(np.prod(counts))], "<u8").reshape(*counts, 2)
