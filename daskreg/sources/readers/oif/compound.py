"""Compound files (OLE, MS-CFB) whose tables of sectors run in circles: oiffile would follow them without an end."""

from __future__ import annotations

import struct
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_END = 0xFFFFFFFA
"""Numbers from here on are no sectors."""


def check_chains(path: str) -> None:
    """Look whether all chains of sectors end. What is no compound file, or is cut, is left to others.

    Raises: ValueError.
    """
    with open(path, "rb") as file:
        header = file.read(512)
        if len(header) < 512 or header[:8] != _MAGIC:
            return
        (shift,) = struct.unpack_from("<H", header, 30)
        (tables,) = struct.unpack_from("<I", header, 44)
        mini_start, mini_count, more_start, more_count = struct.unpack_from("<4I", header, 60)
        size = 1 << min(shift, 16)
        most = file.seek(0, 2) // size + 1
        if more_count > most:
            raise ValueError(f"its header states {more_count} sectors, and there are {most}")
        numbers = list(struct.unpack_from("<109I", header, 76))
        for _ in range(more_count):
            listed = _sector(file, more_start, size)
            numbers += listed[:-1].tolist()
            more_start = int(listed[-1]) if len(listed) else _END
        parts = [_sector(file, number, size) for number in numbers[: min(tables, most)]]
        table = np.concatenate(parts) if parts else np.empty(0, np.uint32)
        _check_table(table)
        minis: list[NDArray[Any]] = []
        while mini_start < len(table) and len(minis) < mini_count:
            minis.append(_sector(file, mini_start, size))
            mini_start = int(table[mini_start])
        _check_table(np.concatenate(minis) if minis else table[:0])


def _sector(file: IO[bytes], number: int, size: int) -> NDArray[Any]:
    """The numbers of a sector; none of one that is not there."""
    if number >= _END:
        return np.empty(0, np.uint32)
    file.seek((number + 1) * size)
    data = file.read(size)
    return np.frombuffer(data[: len(data) // 4 * 4], "<u4").astype(np.uint32)


def _check_table(table: NDArray[Any]) -> None:
    """Follow all chains of a table at once, twice as far in each step, until all of them must have ended.

    Raises: ValueError.
    """
    end = len(table)
    ahead = np.append(np.minimum(table, end), end).astype(np.int64)
    for _ in range(end.bit_length()):
        ahead = ahead[ahead]
    if (ahead != end).any():
        raise ValueError("its chains of sectors run in circles")
