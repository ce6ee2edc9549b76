"""Outlier slices, by kind.

    blank       no content: constant, masked, or noise alone
    duplicated  a copy of another slice, voxel by voxel
    torn        a part of the slice agrees with neither neighbour, though the neighbours agree with each other
    blurred     fine detail that the neighbours have is missing
    swapped     in the wrong order with the next slice
    unlike      no pair fits it, so its pose is interpolated from its neighbours

Each slice is compared with the slices around it, because a specimen may change along the stack.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Grid
from daskreg.stacks.pair_table import PairTable, SliceFeatures, field_count

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BLANK = 0.1  # of the neighbours' contrast: less than this is no content
BLURRED = 0.35  # of the neighbours' mean squared gradients
TORN = 0.06  # share of the compared fields
_WORSE = 0.25  # by which the correlation of a torn field is below that of the neighbours with each other
_UNCORRELATED = 0.35  # correlation that a torn field stays below
_CORRELATED = 0.4  # correlation from which the neighbours agree in a field
_LEAST_FIELDS = 8  # that the neighbours agree in
_SWAPPED = 0.7  # of 1 - correlation in the present order: a better order leaves less
_ORDERED = 1.2  # ratio of 1 - correlation of second to first neighbours, from which order can be seen
_NEIGHBORS = 4  # slices on each side with which a slice is compared


def find_outliers(pairs: PairTable, features: SliceFeatures, fitted: Bools, grid: Grid) -> dict[int, str]:
    """Outlier slices and the kind of each; where several kinds apply, the first of this order."""
    kinds: dict[int, str] = {}
    for kind, slices in (
        ("blank", _blank(features, fitted)),
        ("unlike", np.flatnonzero(~fitted).tolist()),
        ("duplicated", _duplicated(pairs, features)),
        ("torn", _torn(pairs, fitted, grid)),
        ("swapped", _swapped(pairs, fitted)),
        ("blurred", _blurred(features, fitted)),
    ):
        for i in slices:
            kinds.setdefault(int(i), kind)
    return dict(sorted(kinds.items()))


def _blank(features: SliceFeatures, fitted: Bools) -> list[int]:
    """Constant slices, and those without a fit whose contrast is far below that of their neighbours."""
    usual = _local_median(np.where(features.blank, np.nan, features.contrast), fitted)
    faint = ~fitted & (features.contrast < BLANK * usual)
    return np.flatnonzero(features.blank | faint).tolist()


def _duplicated(pairs: PairTable, features: SliceFeatures) -> list[int]:
    """Of slices that are equal, all but the one that is most similar to its other neighbours."""
    found: list[int] = []
    values, inverse, counts = np.unique(features.digest, return_inverse=True, return_counts=True)
    similarity = _similarity_by_slice(pairs)
    for k in np.flatnonzero(counts[: len(values)] > 1):
        copies = [i for i in np.flatnonzero(inverse == k).tolist() if not features.blank[i]]
        if len(copies) < 2:
            continue
        to_others = [_similarity_to_others(similarity, i, set(copies)) for i in copies]
        original = copies[int(np.argmax(np.round(to_others, 4)))]
        found += [i for i in copies if i != original]
    return found


def _similarity_to_others(similarity: dict[int, dict[int, float]], i: int, copies: set[int]) -> float:
    """Mean similarity of a slice to its nearest neighbours that are not copies of it; -1 without any."""
    others = {j: v for j, v in similarity.get(i, {}).items() if j not in copies}
    if not others:
        return -1.0
    near = min(abs(j - i) for j in others)
    return float(np.mean([v for j, v in others.items() if abs(j - i) == near]))


def _similarity_by_slice(pairs: PairTable) -> dict[int, dict[int, float]]:
    """Similarity to each slice that a slice is paired with, by slice."""
    found: dict[int, dict[int, float]] = {}
    for (a, b), value in zip(pairs.edges.tolist(), pairs.similarity.tolist(), strict=True):
        found.setdefault(a, {})[b] = value
        found.setdefault(b, {})[a] = value
    return found


def _torn(pairs: PairTable, fitted: Bools, grid: Grid) -> list[int]:
    """Slices in which a share of the fields agrees with neither neighbour, where the neighbours agree."""
    number = {(a, b): k for k, (a, b) in enumerate(pairs.edges.tolist())}
    fields = _FieldCorrelations(pairs, number, grid)
    slices = np.flatnonzero(fitted).tolist()
    found = []
    for k, i in enumerate(slices):
        # At the ends of the stack the two nearest slices are on one side.
        first = min(max(k - 1, 0), max(len(slices) - 3, 0))
        others = [j for j in slices[first : first + 3] if j != i]
        if len(others) < 2:
            continue
        a, c = others
        edges = [(min(p), max(p)) for p in ((a, c), (a, i), (i, c))]
        if any(e not in number for e in edges):
            continue
        neighbors, one, other = (fields.in_slice(a, e) for e in edges)
        best = np.fmax(one, other)
        compared = (neighbors > _CORRELATED) & np.isfinite(best)
        if compared.sum() >= _LEAST_FIELDS:
            worse = best[compared] < np.minimum(neighbors[compared] - max(_WORSE, _scatter(neighbors)), _UNCORRELATED)
            if worse.mean() > TORN:
                found.append(i)
    return found


def _scatter(correlations: Floats) -> float:
    """Three robust standard deviations of the difference of two fields' correlations: in noisy images they scatter."""
    known = correlations[np.isfinite(correlations)]
    return float(3 * math.sqrt(2) * 1.4826 * np.median(np.abs(known - np.median(known))))


class _FieldCorrelations:
    """Correlations within the fields of pairs, at the fields of either slice."""

    def __init__(self, pairs: PairTable, number: dict[tuple[int, int], int], grid: Grid) -> None:
        self.pairs, self.number, self.grid = pairs, number, grid
        self.count = field_count(grid.ndim)
        shape = np.asarray(grid.shape)
        centres = (np.indices((self.count,) * grid.ndim).reshape(grid.ndim, -1).T + 0.5) * shape / self.count - 0.5
        self.centres = grid.world(centres)

    def in_slice(self, slice_: int, edge: tuple[int, int]) -> Floats:
        """(F,) correlations of a pair at the fields of `slice_`; NaN for fields outside the pair's fixed image."""
        values: Floats = self.pairs.fields[self.number[edge]].astype(np.float64)
        if edge[0] == slice_:
            return values
        forward = (slice_, edge[0])
        known = forward if forward in self.number else forward[::-1]
        matrix = self.pairs.matrices[self.number[known]]
        matrix = matrix if known == forward else np.linalg.inv(matrix)
        index = self.grid.index(self.centres @ matrix[:-1, :-1].T + matrix[:-1, -1])
        field = np.floor((index + 0.5) / np.asarray(self.grid.shape) * self.count).astype(int)
        inside = ((field >= 0) & (field < self.count)).all(axis=1)
        flat = np.ravel_multi_index(tuple(np.clip(field, 0, self.count - 1).T), (self.count,) * self.grid.ndim)
        return np.asarray(np.where(inside, values[flat], np.nan))


def _swapped(pairs: PairTable, fitted: Bools) -> list[int]:
    """Slices b of b, c where the order a, c, b, d agrees better than a, b, c, d."""
    edges = zip(pairs.edges.tolist(), pairs.similarity.tolist(), strict=True)
    dissimilarity = {(a, b): 1 - v for (a, b), v in edges if np.isfinite(v)}
    slices = np.flatnonzero(fitted).tolist()
    growth = [
        dissimilarity[a, c] / max(dissimilarity[a, b], 1e-12)
        for a, b, c in zip(slices, slices[1:], slices[2:], strict=False)
        if (a, b) in dissimilarity and (a, c) in dissimilarity
    ]
    if len(growth) < 3 or np.median(growth) < _ORDERED:
        return []  # similarity does not depend on the distance between slices
    found: list[int] = []
    for a, b, c, d in zip(slices, slices[1:], slices[2:], slices[3:], strict=False):
        values = [dissimilarity.get(e) for e in ((a, b), (c, d), (a, c), (b, d))]
        if any(v is None for v in values):
            continue
        ab, cd, ac, bd = (v for v in values if v is not None)
        if ac < _SWAPPED * ab and bd < _SWAPPED * cd:
            found.append(b)
    return found


def _blurred(features: SliceFeatures, fitted: Bools) -> list[int]:
    """Slices whose gradients, relative to their contrast, are small on either of the two finest levels."""
    found = np.zeros(len(fitted), bool)
    for level in range(features.texture.shape[1]):
        gradients = features.texture[:, level]
        relative = np.where(fitted & (gradients > 0), gradients / np.maximum(features.contrast, 1e-30) ** 2, np.nan)
        usual = _local_median(relative, fitted)
        found |= fitted & (relative < BLURRED * usual)
    return np.flatnonzero(found).tolist()


def _local_median(values: Floats, fitted: Bools) -> Floats:
    """(N,) medians over the fitted slices around each, without the slice itself."""
    n = len(values)
    out = np.full(n, np.nan)
    known = np.where(fitted, values, np.nan)
    for i in range(n):
        near = np.concatenate([known[max(0, i - _NEIGHBORS) : i], known[i + 1 : i + 1 + _NEIGHBORS]])
        near = near[np.isfinite(near)]
        if len(near) >= 2:
            out[i] = np.median(near)
    return out
