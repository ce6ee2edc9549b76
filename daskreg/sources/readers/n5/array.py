"""An N5 array: `attributes.json`, and a file for each block, after https://github.com/saalfeldlab/n5.

Sizes are listed from the fastest axis on. A block has a header of big-endian numbers (mode, number of axes, its sizes),
and then its numbers, big-endian too, compressed. Blocks at the end are as long as what is left.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import NotAVolumeError
from daskreg.geometry import Box, tile
from daskreg.runtime.messages import reason
from daskreg.runtime.regular_files import check_beside, open_inside, outside_allowed, read_small
from daskreg.sources.storage.bounded_codecs import check_frame, inflated
from daskreg.sources.storage.counters import count_missing

ATTRIBUTES = "attributes.json"
_LARGEST_JSON = 2**22
_LARGEST_BLOCK = 2**31
_DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")
_STREAMS = {"gzip": "gzip", "bzip2": "bz2", "xz": "lzma"}


def attributes(folder: str, owner: str = "") -> dict[str, Any]:
    """The attributes of an array or group; none where it has no file of them.

    Args:
        owner: the folder that the file must not leave, where links lead out of it; "" for the folder itself.

    Raises: NotAVolumeError for a file that cannot be read; OutsideError.
    """
    path = os.path.join(folder, ATTRIBUTES)
    if not os.path.lexists(path):
        return {}
    check_beside(path, owner or folder)
    try:
        found = json.loads(read_small(Path(path), _LARGEST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise NotAVolumeError(f"{path} cannot be read: {reason(error)}") from error
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class N5Array:
    """An array, its axes from the slowest on (as in NumPy).

    Args:
        folder: of the array.
        root: the folder, without symbolic links, that its blocks must not leave; None: they may lie anywhere.
        blocks: sizes of a block; the last along an axis may be shorter.
        compression: its name, and `useZlib` of gzip.
    """

    folder: str
    root: str | None
    shape: tuple[int, ...]
    blocks: tuple[int, ...]
    dtype: np.dtype[Any]
    compression: Mapping[str, Any]

    fill_value = 0

    @classmethod
    def of(cls, folder: str, owner: str = "") -> N5Array:
        """The array in a folder.

        Raises: NotAVolumeError naming what its attributes lack, or state that is not read.
        """
        stated = attributes(folder, owner)
        sizes, blocks, dtype = (stated.get(name) for name in ("dimensions", "blockSize", "dataType"))
        compression = stated.get("compression", stated.get("compressionType", "raw"))
        if isinstance(compression, str):  # of version 1
            compression = {"type": compression}
        for name, value in (("dimensions", sizes), ("blockSize", blocks)):
            whole = isinstance(value, list) and all(type(n) is int and 0 < n < 2**62 for n in value)
            if not whole or not value or len(value) > 8:
                raise NotAVolumeError(f"{folder}: {name!r} of its {ATTRIBUTES} is {value!r:.100}, not a list of sizes")
        if len(sizes) != len(blocks):  # type: ignore[arg-type]
            raise NotAVolumeError(f"{folder} has {sizes} voxels in blocks of {blocks}")
        if dtype not in _DTYPES:
            raise NotAVolumeError(f"{folder} has the type {dtype!r:.100}, which is not one of an image")
        kind = compression.get("type") if isinstance(compression, dict) else None
        if kind not in ("raw", "blosc", "zstd", *_STREAMS):
            raise NotAVolumeError(
                f"{folder} is compressed by {kind!r:.100}; raw, gzip, bzip2, xz, blosc, zstd are read"
            )
        found = cls(
            folder,
            None if outside_allowed() else os.path.realpath(owner or folder),
            tuple(reversed(sizes)),  # type: ignore[arg-type]
            tuple(reversed(blocks)),  # type: ignore[arg-type]
            np.dtype(dtype).newbyteorder(">"),
            compression,
        )
        if math.prod(found.blocks) * found.dtype.itemsize > _LARGEST_BLOCK:
            raise NotAVolumeError(f"{folder} states blocks of {blocks}; at most {_LARGEST_BLOCK} bytes are read")
        return found

    @property
    def chunks(self) -> tuple[int, ...]:
        return tuple(min(b, n) for b, n in zip(self.blocks, self.shape, strict=True))

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box; blocks that are not stored are 0, and counted as missing.

        Raises: ValueError, OSError for a block that is damaged.
        """
        out = np.zeros(box.shape, self.dtype.newbyteorder("="))
        whole = box.align(self.blocks)
        for _, tiled in tile(whole.shape, self.blocks):
            part = tiled.shift(whole.start) & box
            number = tuple(a // c for a, c in zip(part.start, self.blocks, strict=True))
            block = self._block(number)
            if block is None:
                continue
            start = tuple(k * c for k, c in zip(number, self.blocks, strict=True))
            stored = Box(start, tuple(a + n for a, n in zip(start, block.shape, strict=True)))
            if (part & stored) != part:
                raise ValueError(f"block {number} has {block.shape} voxels, too few")
            out[part.within(box).slices] = block[part.within(stored).slices]
        return out

    def _block(self, number: tuple[int, ...]) -> NDArray[Any] | None:
        """A block; None where it is not stored."""
        name = "/".join(str(k) for k in reversed(number))
        try:
            with open_inside(os.path.join(self.folder, name), self.root) as file:
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            count_missing(name)
            return None
        mode, ndim = struct.unpack_from(">HH", data)
        sizes = struct.unpack_from(f">{len(self.shape)}I", data, 4)
        if mode not in (0, 1) or ndim != len(self.shape):
            raise ValueError(f"block {name} has mode {mode} and {ndim} axes")
        shape = tuple(reversed(sizes))
        if any(n > c for n, c in zip(shape, self.blocks, strict=True)):
            raise ValueError(f"block {name} has {sizes} voxels, more than {self.blocks[::-1]}")
        numbers = self._decoded(data[4 + 4 * ndim + 4 * mode :])
        return np.frombuffer(numbers, self.dtype, math.prod(shape)).reshape(shape)

    def _decoded(self, data: bytes) -> Any:
        most = math.prod(self.blocks) * self.dtype.itemsize
        kind = self.compression["type"]
        if kind == "raw":
            return data
        if kind in _STREAMS:
            zlib = kind == "gzip" and self.compression.get("useZlib")
            return inflated("zlib" if zlib else _STREAMS[kind], data, most)
        import numcodecs

        check_frame(kind, memoryview(data), most)
        return (numcodecs.Blosc() if kind == "blosc" else numcodecs.Zstd()).decode(data)
