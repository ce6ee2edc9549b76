"""Groups of matches that agree with each other, among many false ones.

Two true matches preserve the distance between their points (and the angles of normals). The number of matches that
agree with both of two agreeing ones tells true from false even where nine of ten matches are false (Chen et al.,
SC2-PCR, CVPR 2022). Nothing is random.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Matches that groups start from, and other matches of a group.
_SEEDS, _GROUP = 100, 24


def consensus(compatible: NDArray[np.float32], *, least: int) -> tuple[Ints, Floats]:
    """(S, K) groups of matches that agree with each other, and their weights.

    Args:
        compatible: (M, M), 1 where two matches agree.
        least: how many matches of a group must have a weight above zero.
    """
    shared = compatible * (compatible @ compatible)  # how many others agree with both of two agreeing matches
    seeds = np.argsort(-shared.sum(axis=1), kind="stable")[:_SEEDS]
    k = min(_GROUP, len(compatible) - 1)
    rows = shared[seeds]
    best = np.argpartition(-rows, k, axis=1)[:, :k]
    weights = np.take_along_axis(rows, best, axis=1).astype(np.float64)
    best = np.concatenate([seeds[:, None], best], axis=1)
    weights = np.concatenate([weights.max(axis=1, keepdims=True), weights], axis=1)
    good = np.count_nonzero(weights, axis=1) >= least
    return best[good], weights[good]
