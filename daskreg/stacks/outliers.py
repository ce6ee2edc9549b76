"""Slices that stand out, by name.

    blank       nothing to see: constant, masked, or noise alone
    duplicated  a copy of another slice, voxel by voxel
    torn        a part of the slice agrees with neither neighbour, though they agree with each other
    blurred     fine detail is missing that the neighbours have
    swapped     its order with the next slice is the other way round
    unlike      no pair places it: it stands in line with its neighbours

Each is judged against the slices around it, so that a specimen may change along the stack.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Grid
from daskreg.stacks.pair_table import Looks, PairTable, field_count

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

EMPTY = 0.1  # of its neighbours' contrast, which a slice without content stays below
BLURRED = 0.35  # of its neighbours' slopes
TORN = 0.06  # share of the fields that can be judged
_WORSE, _CLEAR, _AGREE = 0.25, 0.35, 0.4  # in correlation, of a torn field; and what counts as agreement
_SWAPPED = 0.7  # what is left unexplained, against the order as it is
_ORDERED = 1.2  # how much more slices farther apart leave unexplained, where order shows
_AROUND = 4  # slices on each side that a slice is held against
_LEAST_FIELDS = 8


def named(pairs: PairTable, looks: Looks, fitted: Bools, grid: Grid) -> dict[int, str]:
    """Slices that stand out, and why; the gravest reason of each."""
    found: dict[int, str] = {}
    for name, slices in (
        ("blank", _blank(looks, fitted)),
        ("unlike", np.flatnonzero(~fitted).tolist()),
        ("duplicated", _duplicated(pairs, looks)),
        ("torn", _torn(pairs, fitted, grid)),
        ("swapped", _swapped(pairs, fitted)),
        ("blurred", _blurred(looks, fitted)),
    ):
        for i in slices:
            found.setdefault(int(i), name)
    return dict(sorted(found.items()))


def _blank(looks: Looks, fitted: Bools) -> list[int]:
    """Constant slices, and those that no pair places and that hold next to nothing."""
    usual = _around(np.where(looks.blank, np.nan, looks.contrast), fitted)
    faint = ~fitted & (looks.contrast < EMPTY * usual)
    return np.flatnonzero(looks.blank | faint).tolist()


def _duplicated(pairs: PairTable, looks: Looks) -> list[int]:
    """Of slices that are equal, all but the one that fits its other neighbours best."""
    found: list[int] = []
    values, inverse, counts = np.unique(looks.digest, return_inverse=True, return_counts=True)
    likeness = _nearest_likeness(pairs)
    for k in np.flatnonzero(counts[: len(values)] > 1):
        copies = [i for i in np.flatnonzero(inverse == k).tolist() if not looks.blank[i]]
        if len(copies) < 2:
            continue
        merit = [_outside(likeness, i, set(copies)) for i in copies]
        own = copies[int(np.argmax(np.round(merit, 4)))]
        found += [i for i in copies if i != own]
    return found


def _outside(likeness: dict[int, dict[int, float]], i: int, copies: set[int]) -> float:
    """How well a slice fits its nearest neighbours that are no copies of it."""
    others = {j: v for j, v in likeness.get(i, {}).items() if j not in copies}
    if not others:
        return -1.0
    near = min(abs(j - i) for j in others)
    return float(np.mean([v for j, v in others.items() if abs(j - i) == near]))


def _nearest_likeness(pairs: PairTable) -> dict[int, dict[int, float]]:
    found: dict[int, dict[int, float]] = {}
    for (a, b), value in zip(pairs.edges.tolist(), pairs.likeness.tolist(), strict=True):
        found.setdefault(a, {})[b] = value
        found.setdefault(b, {})[a] = value
    return found


def _torn(pairs: PairTable, fitted: Bools, grid: Grid) -> list[int]:
    """Slices of which a share of the fields agrees with no neighbour, where the neighbours agree."""
    number = {(a, b): k for k, (a, b) in enumerate(pairs.edges.tolist())}
    places = _Fields(pairs, number, grid)
    kept = np.flatnonzero(fitted).tolist()
    found = []
    for k, i in enumerate(kept):
        # At the ends of the stack the two nearest slices are on one side.
        first = min(max(k - 1, 0), max(len(kept) - 3, 0))
        others = [j for j in kept[first : first + 3] if j != i]
        if len(others) < 2:
            continue
        a, c = others
        if any((min(p), max(p)) not in number for p in ((a, c), (a, i), (i, c))):
            continue
        rest, one, other = (places.seen_from(a, (min(p), max(p))) for p in ((a, c), (a, i), (i, c)))
        best = np.fmax(one, other)
        judged = (rest > _AGREE) & np.isfinite(best)
        if judged.sum() >= _LEAST_FIELDS:
            worse = best[judged] < np.minimum(rest[judged] - _WORSE, _CLEAR)
            if worse.mean() > TORN:
                found.append(i)
    return found


class _Fields:
    """The fields of pairs, looked up from where they are in another slice."""

    def __init__(self, pairs: PairTable, number: dict[tuple[int, int], int], grid: Grid) -> None:
        self.pairs, self.number, self.grid = pairs, number, grid
        self.count = field_count(grid.ndim)
        shape = np.asarray(grid.shape)
        centres = (np.indices((self.count,) * grid.ndim).reshape(grid.ndim, -1).T + 0.5) * shape / self.count - 0.5
        self.centres = grid.world(centres)

    def seen_from(self, slice_: int, edge: tuple[int, int]) -> Floats:
        """(F,) fields of a pair at the places of the fields of `slice_`; NaN outside."""
        values: Floats = self.pairs.fields[self.number[edge]].astype(np.float64)
        if edge[0] == slice_:
            return values
        forward = (slice_, edge[0])
        known = forward if forward in self.number else forward[::-1]
        matrix = self.pairs.matrices[self.number[known]]
        matrix = matrix if known == forward else np.linalg.inv(matrix)
        index = self.grid.index(self.centres @ matrix[:-1, :-1].T + matrix[:-1, -1])
        place = np.floor((index + 0.5) / np.asarray(self.grid.shape) * self.count).astype(int)
        inside = ((place >= 0) & (place < self.count)).all(axis=1)
        flat = np.ravel_multi_index(tuple(np.clip(place, 0, self.count - 1).T), (self.count,) * self.grid.ndim)
        return np.asarray(np.where(inside, values[flat], np.nan))


def _swapped(pairs: PairTable, fitted: Bools) -> list[int]:
    """Slices b of b, c where a, c, b, d is an order that agrees better than a, b, c, d."""
    left = {
        (a, b): 1 - v for (a, b), v in zip(pairs.edges.tolist(), pairs.likeness.tolist(), strict=True) if np.isfinite(v)
    }
    kept = np.flatnonzero(fitted).tolist()
    growth = [left[a, c] / max(left[a, b], 1e-12) for a, b, c in zip(kept, kept[1:], kept[2:], strict=False)
              if (a, b) in left and (a, c) in left]  # fmt: skip
    if len(growth) < 3 or np.median(growth) < _ORDERED:
        return []  # slices do not tell how far apart they are
    found: list[int] = []
    for a, b, c, d in zip(kept, kept[1:], kept[2:], kept[3:], strict=False):
        ways = [left.get(e) for e in ((a, b), (c, d), (a, c), (b, d))]
        if any(w is None for w in ways):
            continue
        ab, cd, ac, bd = (w for w in ways if w is not None)
        if ac < _SWAPPED * ab and bd < _SWAPPED * cd:
            found.append(b)
    return found


def _blurred(looks: Looks, fitted: Bools) -> list[int]:
    """Slices that lack slopes, on either of the two finest levels, for the contrast that they have."""
    found = np.zeros(len(fitted), bool)
    for level in range(looks.texture.shape[1]):
        slopes = looks.texture[:, level]
        relative = np.where(fitted & (slopes > 0), slopes / np.maximum(looks.contrast, 1e-30) ** 2, np.nan)
        usual = _around(relative, fitted)
        found |= fitted & (relative < BLURRED * usual)
    return np.flatnonzero(found).tolist()


def _around(values: Floats, fitted: Bools) -> Floats:
    """(N,) medians over the slices around each, without itself."""
    n = len(values)
    out = np.full(n, np.nan)
    known = np.where(fitted, values, np.nan)
    for i in range(n):
        near = np.concatenate([known[max(0, i - _AROUND) : i], known[i + 1 : i + 1 + _AROUND]])
        near = near[np.isfinite(near)]
        if len(near) >= 2:
            out[i] = np.median(near)
    return out
