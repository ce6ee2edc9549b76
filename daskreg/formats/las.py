"""LAS and LAZ clouds, through laspy: x, y, z with the scale and offset of the header."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import MissingExtraError
from daskreg.runtime.memory import available_memory

_AT_ONCE = 1_000_000
_VARIABLE = 2**32 - 1
"""The size of a chunk that says that each chunk has its own (LASzip)."""

_MOST_OF_CHUNK = 2**28
"""Bytes of a decoded chunk that may be larger than all points together; the usual 50,000 points take 2 MB."""
_MOST_PER_BYTE = 1000
"""Points that a byte of a LAZ file can stand for: chunks of 50,000 points that are all alike take some 50 bytes."""


def read_las(file: Path) -> NDArray[np.float64]:
    """(N, 3) points.

    Raises: MissingExtraError without laspy, or without a decoder of LAZ; ValueError for a file that cannot hold what
        its header states; whatever laspy raises for a damaged one.
    """
    try:
        import laspy
    except ImportError as error:
        raise MissingExtraError("laspy", "las") from error
    _check_records(file)
    with laspy.open(file) as reader:
        count = int(reader.header.point_count)
        packed = bool(reader.header.are_points_compressed)
        if packed and not laspy.LazBackend.detect_available():
            raise MissingExtraError("lazrs", "las")
        size = file.stat().st_size
        if count > (size * _MOST_PER_BYTE if packed else size // reader.header.point_format.size):
            raise ValueError(f"its header states {count} points, more than its {size} bytes can hold")
        if 24 * count > available_memory() / 2:
            raise ValueError(f"its {count} points do not fit the memory")
        if packed:
            _check_chunks(file, reader.header)
        with _panics_as_errors():
            parts = [np.stack([part.x, part.y, part.z], 1) for part in reader.chunk_iterator(_AT_ONCE)]
    points = np.concatenate(parts) if parts else np.empty((0, 3))
    if len(points) != count:
        raise ValueError(f"it holds {len(points)} of {count} points")
    return np.asarray(points, dtype=np.float64)


def _check_records(file: Path) -> None:
    """Refuse more records of variable length than a file can hold; laspy would count to the stated number.

    Raises: ValueError.
    """
    with file.open("rb") as head:
        header = head.read(375)
    size = file.stat().st_size
    extended = int.from_bytes(header[243:247], "little") if header[25:26] >= b"\x04" else 0
    records = int.from_bytes(header[100:104], "little")
    if records * 54 > size or extended * 60 > size:
        raise ValueError(f"its header states {records} and {extended} records, more than its {size} bytes can hold")


def _check_chunks(file: Path, header: Any) -> None:
    """Refuse a LAZ file whose chunks, or the table of them, cannot be: its decoder ends the process for want of memory.

    Raises: ValueError.
    """
    size, count, length = file.stat().st_size, int(header.point_count), int(header.point_format.size)
    with file.open("rb") as data:
        data.seek(int(header.offset_to_point_data))
        table = int.from_bytes(data.read(8), "little", signed=True)
        if table == -1:  # written without going back: the place is at the end
            data.seek(max(0, size - 8))
            table = int.from_bytes(data.read(8), "little", signed=True)
        data.seek(max(0, min(table, size)))
        chunks = int.from_bytes(data.read(8)[4:], "little")
    if not 0 < table < size or chunks > size:
        raise ValueError(f"its table of {chunks} chunks at byte {table} is not in its {size} bytes")
    points = _points_of_chunk(header)
    if points is None:
        return
    if points * length > min(max(count * length, _MOST_OF_CHUNK), available_memory() / 2):
        raise ValueError(f"its header states chunks of {points} points, which the decoder would make room for")
    if count > chunks * points:
        raise ValueError(f"its header states {count} points, more than {chunks} chunks of {points} hold")


def _points_of_chunk(header: Any) -> int | None:
    """The points of each chunk of a LAZ file, from its record "laszip encoded"; None where chunks differ in size.

    Raises: ValueError where there is no such record.
    """
    records = header.vlrs.get_by_id("laszip encoded", (22204,))
    data = bytes(records[0].record_data_bytes()) if records else b""
    if len(data) < 16:  # compressor, coder, version, options; then the size of a chunk
        raise ValueError("it lacks the record that says how it is compressed")
    points = int.from_bytes(data[12:16], "little")
    return None if points == _VARIABLE else points


@contextmanager
def _panics_as_errors() -> Iterator[None]:
    """A panic of the decoder, which is written in Rust, is no `Exception`: raise it as one.

    Raises: ValueError.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(str(error)) from error
