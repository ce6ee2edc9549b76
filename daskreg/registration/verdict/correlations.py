"""Correlations of neighbouring values, from which it follows how many of them are one independent sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def positive_correlations(along: NDArray[Any], square: float, longest: int) -> Iterator[float]:
    """Of values that lie 1, 2 ... up to `longest` apart along the first axis, before the first that is not positive.

    The later ones are noise of the estimate (the initial positive sequence of Geyer 1992).

    Args:
        square: the sum of squares that counts as a correlation of one.
    """
    for lag in range(1, longest + 1):
        one = float((along[lag:] * along[:-lag]).sum(dtype=np.float64)) / square
        if one <= 0:
            return
        yield one
