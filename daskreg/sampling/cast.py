"""`cast`: numbers into another type, rounded and clamped where NumPy would wrap."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from daskreg.errors import UnsupportedDTypeError

CAST_PIECE = 1 << 18
"""Voxels that are cast at a time; each takes up to 20 bytes of working memory."""


def cast(array: NDArray[Any], dtype: DTypeLike) -> tuple[NDArray[Any], int]:
    """The array in another type: to integers half to even, clamped to their range, NaN as 0.

    bool is taken as the integers 0 and 1. Into a floating type nothing is clamped. An
    array that has the type already is returned itself, not copied.

    Returns: the array, and how many voxels were clamped or NaN.
    Raises: UnsupportedDTypeError for types that are not real numbers.
    """
    array, wanted = np.asarray(array), np.dtype(dtype).newbyteorder("=")
    for kind in (array.dtype, wanted):
        if kind.kind not in "biuf":
            raise UnsupportedDTypeError(f"{kind} is not a type of real numbers and cannot be cast")
    if array.dtype == wanted:
        return array, 0
    if wanted.kind == "f":
        with np.errstate(over="ignore"):
            return array.astype(wanted), 0
    lowest, highest = (0, 1) if wanted.kind == "b" else (int(np.iinfo(wanted).min), int(np.iinfo(wanted).max))
    source = np.ascontiguousarray(array).reshape(-1)
    result = np.empty(source.shape, wanted)
    clipped = 0
    for start in range(0, len(source), CAST_PIECE):
        piece = slice(start, start + CAST_PIECE)
        clipped += _cast_piece(source[piece], result[piece], lowest, highest)
    return result.reshape(array.shape), clipped


def _cast_piece(source: NDArray[Any], result: NDArray[Any], lowest: int, highest: int) -> int:
    """Fill `result`; the number of values that were outside of [lowest, highest], or NaN."""
    if source.dtype.kind == "f":
        # In float64 both lowest and highest + 1 are exact, for every integer type.
        values = np.rint(source, dtype=np.float64)
        below, above = values < float(lowest), values >= float(highest + 1)
        nan = np.isnan(values)
    else:
        values = source.astype(np.uint8) if source.dtype.kind == "b" else source
        below, above = values < lowest, values > highest
        nan = np.zeros((), dtype=bool)
    outside = below | above | nan
    result[...] = np.where(outside, values.dtype.type(0), values)
    result[below] = lowest
    result[above] = highest
    return int(np.count_nonzero(outside))
