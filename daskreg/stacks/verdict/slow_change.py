"""Slow motion along a stack that may as well be a slow change of the specimen.

Pairs of slices cannot tell one from the other, but they show whether the specimen changes at all: slices of one that
does not are as much alike two apart as they are next to each other, whatever their noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskreg.stacks.pair_table import PairTable
from daskreg.stacks.trajectory import whittaker

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# By how much more slices two apart differ than next ones, as a share of what these do. Of specimens that do not change,
# with noise, it is below 0.05; of anatomy, tissue and random specimens 1.5 to 2.5.
_MORE = 0.15
# The least difference of their correlations that counts: interpolation alone makes a few thousandths.
_LEAST = 0.01
# Voxels, and standard deviations of a shift, below which slow motion is not worth a word.
_VOXELS, _DEVIATIONS = 1.0, 3.0
# Slices below which nothing is slow.
_FEWEST = 4


def slow_change(
    shifts: Floats, fitted: Bools, pairs: PairTable, *, metric: str, smooth: float, step: float, sigma: float
) -> Floats | None:
    """(D,) world lengths: by how much the slow part of the motion moves slices along each axis, from least to most.

    None where that is little, or where the specimen does not change along the stack.

    Args:
        shifts: (N, D) of the centres of the slices, world.
        smooth: slices; what changes faster is not slow. step: size of a voxel. sigma: of a shift.
    """
    slow = whittaker(shifts, fitted.astype(np.float64), smooth)[fitted]
    if len(slow) < _FEWEST:
        return None
    reach = np.ptp(slow, axis=0)
    little = reach.max() <= max(_VOXELS * step, _DEVIATIONS * sigma)
    return None if little or not changes(pairs, metric) else np.asarray(reach)


def changes(pairs: PairTable, metric: str) -> bool:
    """Whether the specimen changes from slice to slice; true also where no pairs are two slices apart, which tell."""
    unlike = 1 - pairs.similarity if metric == "ncc" else pairs.similarity
    found = {(a, b): value for (a, b), value in zip(pairs.edges.tolist(), unlike.tolist(), strict=True)}
    steps = [(found.get((a, a + 1)), found.get((a + 1, b)), far) for (a, b), far in found.items() if b == a + 2]
    known = np.array([three for three in steps if None not in three], dtype=np.float64).reshape(-1, 3)
    known = known[np.isfinite(known).all(1)]
    if not len(known):
        return True
    near = known[:, :2].mean(1)
    least = _LEAST if metric == "ncc" else 0.0
    return bool(np.median(known[:, 2] - near) > max(_MORE * np.median(near), least))
