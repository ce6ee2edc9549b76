"""The table at the end of a shard: where each chunk begins, and its bytes (Zarr's sharding_indexed codec)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from daskreg.sources.storage.chunk_codec import CRC_BYTES, Index
from daskreg.sources.storage.retrying import EmptyValueError

MISSING = 2**64 - 1
"""The offset and size of a chunk that is not stored."""


def table_bytes(counts: Index, checksum: bool) -> int:
    """Bytes of the table of a shard.

    Args:
        counts: its chunks along each axis.
        checksum: whether it ends with a crc32c.
    """
    return 16 * int(np.prod(counts)) + checksum * CRC_BYTES


def table_of(data: Any, counts: Index, checksum: bool, key: str) -> NDArray[np.uint64]:
    """Offset and size in bytes of each chunk, (*counts, 2), from the last bytes of a shard.

    Raises: EmptyValueError for too few bytes, ValueError for a wrong checksum.
    """
    if len(data) < table_bytes(counts, checksum):
        raise EmptyValueError(f"{key} has {len(data)} bytes, too few for the index of a shard")
    plain = bytes(data[: table_bytes(counts, False)])
    if checksum and struct.unpack("<I", bytes(data[-CRC_BYTES:]))[0] != google_crc32c.value(plain):
        raise ValueError(f"the index of the shard {key} does not match its checksum")
    return np.frombuffer(plain, "<u8").reshape(*counts, 2)


def bytes_of(entries: Mapping[Index, tuple[int, int]], counts: Index, checksum: bool) -> bytes:
    """The table of a shard whose chunks have these numbers, offsets and sizes."""
    table = np.full((*counts, 2), MISSING, "<u8")
    for number, entry in entries.items():
        table[tuple(i % n for i, n in zip(number, counts, strict=True))] = entry
    data = table.tobytes()
    return data + struct.pack("<I", google_crc32c.value(data)) if checksum else data
