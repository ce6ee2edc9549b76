"""Decompression that stops at the size that an array's metadata state.

A chunk of a few kilobytes can decompress to gigabytes. zlib, gzip, bz2 and lzma streams are read up to the size of
the chunk; frames of zstd, lz4 and blosc say in their headers how much they hold.
"""

from __future__ import annotations

import bz2
import lzma
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numcodecs.abc
import numpy as np
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ShardingCodec, ZstdCodec

from daskreg.runtime.private_apis import codec_with_decoder, with_metadata

_SLACK = 2**16
"""Bytes that filters may add to a chunk."""

_ZSTD_MAGIC = 0xFD2FB528
_ZSTD_BLOCK = 2**17
_STREAMS: dict[str, Callable[[], Any]] = {
    "zlib": zlib.decompressobj,
    "gzip": lambda: zlib.decompressobj(31),
    "bz2": bz2.BZ2Decompressor,
    "lzma": lzma.LZMADecompressor,
}


def bounded(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """An array that zarr-python decodes, with codecs that decode no more than its chunks hold."""
    meta: Any = array.metadata
    if meta.zarr_format == 3:
        codecs = tuple(map(_bounded_codec, meta.codecs))
        return array if codecs == meta.codecs else with_metadata(array, replace(meta, codecs=codecs))
    most = math.prod(array.chunks) * np.dtype(array.dtype).itemsize + _SLACK
    filters = tuple(BoundedCodec(f, most) for f in meta.filters or ()) or None
    compressor = None if meta.compressor is None else BoundedCodec(meta.compressor, most)
    plain: zarr.Array[Any] = with_metadata(array, replace(meta, filters=filters, compressor=compressor))
    return plain


class BoundedCodec(numcodecs.abc.Codec):
    """A codec of numcodecs that decodes at most `most` bytes. Raises: ValueError for more."""

    codec_id = "daskreg-bounded"  # zarr asks the class for it

    def __init__(self, inner: Any, most: int) -> None:
        self.inner, self.most = inner, most

    def encode(self, buf: Any) -> Any:
        return self.inner.encode(buf)

    def decode(self, buf: Any, out: Any = None) -> Any:
        data = np.ascontiguousarray(buf).reshape(-1).view(np.uint8)
        if self.inner.codec_id in _STREAMS and not _has_options(self.inner):
            return np.frombuffer(inflated(self.inner.codec_id, data.tobytes(), self.most), np.uint8)
        check_frame(self.inner.codec_id, data.data, self.most)
        return self.inner.decode(buf, out)

    def get_config(self) -> Any:
        return self.inner.get_config()


def _inflate(data: bytes, spec: Any) -> bytes | None:
    return inflated("gzip", data, _nbytes(spec))


def _check_zstd(data: bytes, spec: Any) -> bytes | None:
    check_frame("zstd", memoryview(data), _nbytes(spec))
    return None


def _check_blosc(data: bytes, spec: Any) -> bytes | None:
    check_frame("blosc", memoryview(data), _nbytes(spec))
    return None


_DECODERS = {GzipCodec: _inflate, ZstdCodec: _check_zstd, BloscCodec: _check_blosc}


def _bounded_codec(codec: Any) -> Any:
    if type(codec) is ShardingCodec:
        return replace(codec, codecs=tuple(map(_bounded_codec, codec.codecs)))
    decode = _DECODERS.get(type(codec))
    return codec if decode is None else codec_with_decoder(codec, decode)


def _nbytes(spec: Any) -> int:
    return int(math.prod(spec.shape) * spec.dtype.to_native_dtype().itemsize) + _SLACK


def _has_options(codec: Any) -> bool:
    """Whether a stream cannot be read without the codec's options: lzma in another container than .xz."""
    return bool(codec.codec_id == "lzma") and (codec.format != lzma.FORMAT_XZ or codec.filters is not None)


def inflated(kind: str, data: bytes, most: int) -> bytes:
    """The content of a compressed stream, which may consist of several.

    Raises: ValueError for more than `most` bytes, or a damaged or short stream.
    """
    parts, left = [], most
    while data:
        stream = _STREAMS[kind]()
        try:
            plain = stream.decompress(data, left + 1)
        except (zlib.error, OSError, EOFError, lzma.LZMAError) as error:
            raise ValueError(f"it is damaged ({error})") from error
        if len(plain) > left:
            raise ValueError(f"it holds more than the {most} bytes that its metadata state")
        if not stream.eof:
            raise ValueError("it is cut off")
        parts.append(plain)
        left -= len(plain)
        data = stream.unused_data if kind != "zlib" else b""
    return b"".join(parts)


def check_frame(kind: str, data: memoryview, most: int) -> None:
    """Refuse a frame of zstd, lz4 or blosc that holds more than `most` bytes. Other kinds pass.

    Raises: ValueError.
    """
    size = 0
    if kind == "zstd":
        size = _zstd_size(data)
    elif kind == "lz4" and len(data) >= 4:
        size = struct.unpack_from("<I", data)[0]
    elif kind == "blosc" and len(data) >= 8:
        size = struct.unpack_from("<I", data, 4)[0]
    if size > most:
        raise ValueError(f"it holds {size} bytes, and its metadata state {most} at most")


def _zstd_size(data: memoryview) -> int:
    """What a frame of zstd holds: as its header says, or, where it does not, at least half of what its blocks could.

    (RFC 8878, sections 3.1.1.1 and 3.1.1.2)
    """
    if len(data) < 6 or struct.unpack_from("<I", data)[0] != _ZSTD_MAGIC:
        return 0  # the decoder says what is wrong
    flags = data[4]
    single, width = flags >> 5 & 1, (0, 2, 4, 8)[flags >> 6]
    width = width or single
    at = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
    if width and len(data) >= at + width:
        return int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)
    size, last = 0, False
    while not last and at + 3 <= len(data):
        block = int.from_bytes(data[at : at + 3], "little")
        last, kind, length = bool(block & 1), block >> 1 & 3, block >> 3
        size += length if kind < 2 else _ZSTD_BLOCK
        at += 3 + (1 if kind == 1 else length)
    return size // 2 if size > 2 * _ZSTD_BLOCK else 0
