"""Voxels of a stack's detector that hold nothing of the specimen, found in its first slices."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.pyramids.bad_voxels import constant_gaps, gap_code, hot_voxels

Bools = NDArray[np.bool_]
Pixels = NDArray[np.float32]

EXAMINED = 6
"""Slices, the first of the stack, in which bad voxels are looked for."""

_CODES_IN = 3  # slices in which a code is looked for
CODE_SIDE = 1024
"""Voxels of the middle of a slice, along each axis, in which a code is looked for."""


@dataclass(frozen=True)
class BadVoxels:
    """Voxels that are masked in every slice.

    code: the value as stored that stands for no measurement, wherever it occurs, or None.
    packed: those of a slice as read that are bad in all slices, as bits of its flattened mask.
    count: how many voxels of a slice as read are bad, with those of the code in the first slice.
    """

    code: float | None
    packed: bytes
    count: int

    def fixed(self, shape: tuple[int, ...]) -> Bools:
        """(*shape) voxels of a slice that are bad in all slices."""
        size = int(np.prod(shape))
        return np.unpackbits(np.frombuffer(self.packed, np.uint8), count=size).astype(bool).reshape(shape)


def code_of(slices: NDArray[Any]) -> float | None:
    """The value that codes gaps in most of (N, *shape) slices as stored, or None."""
    codes = Counter(gap_code(one) for one in slices[:: max(1, len(slices) // _CODES_IN)])
    code, number = codes.most_common(1)[0]
    return code if code is not None and number > codes.total() / 2 else None


def find(images: Pixels, code: float | None) -> BadVoxels | None:
    """The bad voxels of (N, *shape) slices as read, in which voxels of the code and masked ones are NaN."""
    known = np.isfinite(images)
    low = np.where(known, images, np.inf).reshape(len(images), -1).min(axis=1)
    high = np.where(known, images, -np.inf).reshape(len(images), -1).max(axis=1)
    used = images[high > low]
    if not len(used):
        return None
    gaps = constant_gaps(used)
    bad = gaps | hot_voxels(np.where(gaps, np.float32(np.nan), used) if gaps.any() else used)
    if code is None and not bad.any():
        return None
    coded = int((~np.isfinite(used[0]) & ~bad).sum()) if code is not None else 0
    return BadVoxels(code, np.packbits(bad).tobytes(), int(bad.sum()) + coded)
