"""Slices that are mirror images: sections that lie upside down.

No motion of a model mirrors, so that such a slice agrees with its neighbours badly, and only by what is coarse.
Neighbours that agree far worse than others do are compared once more with one of them mirrored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from daskreg.stacks.model import StackModel
from daskreg.stacks.pair_table import PairTable, by_chance, whole_correlation

Bools = NDArray[np.bool_]
EdgeList = list[tuple[int, int]]

# Of 1 - correlation: so many times that of most neighbours, and at least so much, is far worse. Interpolation takes
# about a thousandth from sharp slices.
_WORSE, _LEAST = 3.0, 0.002
# Of 1 - correlation as it is: what is left when one is mirrored.
_BETTER = 0.5


def far_worse(pairs: PairTable, blank: Bools, model: StackModel) -> EdgeList:
    """Neighbours (not counting blank slices) that agree far worse than most do, by the correlation of whole slices."""
    near = _neighbors(pairs, blank)
    lack = 1 - np.nan_to_num(whole_correlation(pairs))
    usual = float(np.median(lack[near])) if near.any() else 0.0
    worse = near & (lack > max(_WORSE * usual, _LEAST))
    return [(int(a), int(b)) for a, b in pairs.edges[worse | (near & by_chance(pairs, model))]]


def without_mirrored(
    pairs: PairTable, blank: Bools, model: StackModel, fit_mirrored: Callable[[EdgeList], PairTable]
) -> tuple[PairTable, tuple[int, ...]]:
    """The pairs without those of a slice and a mirrored one, and the mirrored slices: the smaller part of the stack.

    Args:
        fit_mirrored: registers pairs with the moving slice mirrored.
    """
    doubtful = far_worse(pairs, blank, model)
    if not doubtful:
        return pairs, ()
    tried = fit_mirrored(doubtful)
    score = {(int(a), int(b)): float(s) for (a, b), s in zip(pairs.edges, whole_correlation(pairs), strict=True)}
    mirrored = {
        (int(a), int(b))
        for (a, b), s, chance in zip(tried.edges, whole_correlation(tried), by_chance(tried, model), strict=True)
        if not chance and 1 - s < _BETTER * (1 - np.nan_to_num(score[int(a), int(b)]))
    }
    if not mirrored:
        return pairs, ()
    side = np.zeros(len(blank), bool)
    used = np.flatnonzero(~blank).tolist()
    for a, b in pairwise(used):
        side[b] = side[a] ^ ((a, b) in mirrored)
    if np.count_nonzero(side[used]) * 2 > len(used):
        side[used] = ~side[used]
    across = side[pairs.edges[:, 0]] != side[pairs.edges[:, 1]]
    scores = np.where(across, np.nan, pairs.scores)
    return replace(pairs, scores=scores), tuple(np.flatnonzero(side).tolist())


def _neighbors(pairs: PairTable, blank: Bools) -> Bools:
    """(E,) which pairs are of slices next to each other when the blank ones are not counted."""
    number = np.cumsum(~blank)
    return np.asarray(np.diff(number[pairs.edges], axis=1)[:, 0] == 1)
