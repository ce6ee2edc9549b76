"""LAS and LAZ clouds, through laspy: x, y, z with the scale and offset of the header."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import MissingExtraError
from daskreg.runtime.memory import available_memory

_AT_ONCE = 1_000_000
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
        parts = [np.stack([part.x, part.y, part.z], 1) for part in reader.chunk_iterator(_AT_ONCE)]
    points = np.concatenate(parts) if parts else np.empty((0, 3))
    if len(points) != count:
        raise ValueError(f"it holds {len(points)} of {count} points")
    return np.asarray(points, dtype=np.float64)
