"""`Codec`: the voxels of one chunk to bytes and back, in the calling thread, and which of zarr's codecs that can be.

Handled are little-endian numbers in C order, blosc, zstd or no compression, then a crc32c or not.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ZstdCodec

from daskreg.runtime.private_apis import numcodecs_blosc, numcodecs_zstd
from daskreg.sources.storage.bounded_codecs import check_frame

Pixels = NDArray[Any]
Index = tuple[int, ...]

CRC_BYTES = 4
COMPRESSORS = (numcodecs.Blosc, numcodecs.Zstd, type(None))
"""Those of numcodecs that a chunk of Zarr v2 may have."""

_BLOSC_HEADER = struct.Struct("<4xI4xI")


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

    def decode(self, data: Any, out: Pixels) -> None:
        """Into a C-contiguous chunk.

        Raises: ValueError, RuntimeError where the bytes are not what was written.
        """
        view = np.frombuffer(data, np.uint8)
        if self.checksum:
            view, stored = view[:-CRC_BYTES], data[-CRC_BYTES:]
            if len(stored) < CRC_BYTES or google_crc32c.value(view) != struct.unpack("<I", stored)[0]:
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


def codec_of(codecs: Sequence[Any], shape: Index, dtype: np.dtype[Any]) -> Codec | None:
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
