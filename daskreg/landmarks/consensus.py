"""Pairs that agree with one motion, where others are wrong: RANSAC.

Motions of small samples of pairs are compared by their residuals, of which those above a limit count as the limit
(Torr and Zisserman, "MLESAC", 2000), and the best is refined on the pairs within the limit. Without a limit, the motion
of the least median of squares gives one (Rousseeuw and Leroy, "Robust regression and outlier detection", 1987).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from daskreg.landmarks.models import Pairs, least_pairs, residuals, solve

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_SAMPLES = 3000
_MOST_POINTS = 2000
# Share of the right pairs that a limit from the residuals keeps.
_KEPT = 0.99
# Samples, points, and pairings at random with which the number of agreeing pairs is compared: a level of 1 in 20.
_COMPARED, _MOST_COMPARED, _PAIRINGS = 500, 500, 19
# Residuals below this share of the extent are rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Consensus:
    """Pairs that agree.

    Attributes:
        inliers: (N,) whether a pair agrees with the others.
        limit: the largest residual of one that does.
        by_chance: whether as many would agree if the points were paired at random.
    """

    inliers: Bools
    limit: float
    by_chance: bool


def consensus(model: str, pairs: Pairs, limit: float | None, *, seed: int = 0) -> Consensus:
    """The pairs that agree with one motion.

    Args:
        limit: the largest residual of a right pair; None: from the residuals, of which fewer than half are wrong.
        seed: of the samples, where there are too many to try all.
    """
    rng = np.random.default_rng(seed)
    size = least_pairs(model, pairs.ndim)
    extent = float(np.ptp(pairs.moving, axis=0).max(initial=0)) or 1.0
    count = len(pairs)
    some = np.arange(count) if count <= _MOST_POINTS else rng.choice(count, _MOST_POINTS, replace=False)
    fewer = pairs.take(some)
    samples = _samples(len(fewer), size, _SAMPLES, rng)
    squares = _squares(model, fewer, samples)
    if limit is None:
        limit = max(_limit(squares, size, pairs.ndim), _ROUNDING * extent)
    best = samples[np.minimum(squares, limit**2).sum(axis=1).argmin()]
    inliers = np.zeros(count, dtype=bool)
    inliers[some[best]] = True
    for _ in range(20):
        matrix = pairs.take(inliers).motion(model)
        near = (residuals(matrix, pairs.fixed, pairs.moving) ** 2).sum(axis=1) <= limit**2
        if np.count_nonzero(near) < size or np.array_equal(near, inliers):
            break
        inliers = near
    return Consensus(inliers, limit, _by_chance(model, fewer, inliers[some], limit, rng))


def closest_half(model: str, pairs: Pairs, *, seed: int = 0) -> NDArray[np.intp]:
    """Rows of the half of the pairs (and one for each that a motion needs) that agree best: least median of squares."""
    rng = np.random.default_rng(seed)
    count, size = len(pairs), least_pairs(model, pairs.ndim)
    half = min(count, (count + size + 1) // 2)
    if half == count:
        return np.arange(count)
    some = pairs if count <= _MOST_POINTS else pairs.take(rng.choice(count, _MOST_POINTS, replace=False))
    samples = _samples(len(some), size, _SAMPLES, rng)
    best = samples[np.median(_squares(model, some, samples), axis=1).argmin()]
    matrix = some.take(best).motion(model)
    return np.argsort((residuals(matrix, pairs.fixed, pairs.moving) ** 2).sum(axis=1))[:half]


def _samples(count: int, size: int, most: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """(K, size) rows: all samples, or `most` drawn ones."""
    if math.comb(count, size) <= most:
        return np.array(list(itertools.combinations(range(count), size)))
    rows = np.empty((most, 0), dtype=np.intp)
    for taken in range(size):
        drawn = rng.integers(0, count - taken, most)  # among those that are left in each sample
        for column in np.sort(rows, axis=1).T:
            drawn += drawn >= column
        rows = np.column_stack([rows, drawn])
    return rows


def _squares(model: str, pairs: Pairs, samples: NDArray[np.intp]) -> Floats:
    """(K, N) squared residuals of all pairs under the motion of each sample."""
    matrices = solve(model, pairs.fixed[samples], pairs.moving[samples], np.ones(samples.shape))
    parts = np.array_split(matrices, max(1, len(matrices) * len(pairs) // 2_000_000))
    return np.concatenate([(residuals(m, pairs.fixed, pairs.moving) ** 2).sum(axis=-1) for m in parts])


def _limit(squares: Floats, size: int, ndim: int) -> float:
    """From the least median of squares, as the variance that normal errors in `ndim` coordinates would have."""
    count = squares.shape[1]
    small = 1 + 5 / max(count - size, 1)  # the correction of Rousseeuw and Leroy for few points
    variance = float(np.median(squares, axis=1).min()) / chdtri(ndim, 0.5) * small**2
    return math.sqrt(variance * chdtri(ndim, 1 - _KEPT))


def _by_chance(model: str, pairs: Pairs, inliers: Bools, limit: float, rng: np.random.Generator) -> bool:
    """Whether as many pairs agree in one of the pairings at random."""
    if math.factorial(min(len(pairs), 6)) < _PAIRINGS:
        return False
    if len(pairs) > _MOST_COMPARED:
        some = rng.choice(len(pairs), _MOST_COMPARED, replace=False)
        pairs, inliers = pairs.take(some), inliers[some]
    for _ in range(_PAIRINGS):
        samples = _samples(len(pairs), least_pairs(model, pairs.ndim), _COMPARED, rng)
        other = replace(pairs, moving=pairs.moving[rng.permutation(len(pairs))])
        if (_squares(model, other, samples) <= limit**2).sum(axis=1).max() >= np.count_nonzero(inliers):
            return True
    return False
