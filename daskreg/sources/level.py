"""The level of an image: what is subtracted before its voxels become float32.

float32 has 24 bits. Voxels of larger types may have a contrast that is small beside their level, such as times,
energies or counts of a clock; it would be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from daskreg.geometry import Box

# Windows along each axis, and voxels along a side of each.
_WINDOWS, _SIDE = 3, 4


def level_of(read: Callable[[Box], NDArray[Any]], box: Box, dtype: DTypeLike) -> float:
    """The median of some finite voxels of a box; 0 for types that float32 holds exactly, and where none is finite.

    A median, since a single voxel may be a gap of the detector, which is coded as the largest integer.

    Args:
        read: voxels of a box. box: where to look; a few small windows of it are read.
    """
    kind = np.dtype(dtype)
    if kind.itemsize <= 2 or kind == np.float32 or box.empty:
        return 0.0
    starts = [
        sorted({a + (2 * k + 1) * (b - a) // (2 * _WINDOWS) for k in range(_WINDOWS)})
        for a, b in zip(box.start, box.stop, strict=True)
    ]
    values = [
        read(Box(corner, tuple(min(i + _SIDE, b) for i, b in zip(corner, box.stop, strict=True)))).ravel()
        for corner in product(*starts)
    ]
    numbers = np.concatenate(values).astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    return float(np.median(finite)) if len(finite) else 0.0
