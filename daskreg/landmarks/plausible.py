"""Whether paired points belong together: not mirrored, and not paired at random."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from daskreg.landmarks.models import Pairs, residuals, solve

Floats = NDArray[np.float64]

# Of the tests below: the probability that pairs are called mirrored, or random, where they are not.
_MIRRORED, _RANDOM = 1e-3, 0.05
_PERMUTATIONS = 199
_MOST_POINTS = 1000
# Residuals below this share of the extent are rounding.
_ROUNDING = 1e-10


def mirrored(model: str, pairs: Pairs, matrix: Floats, freedom: int) -> bool:
    """Whether a mirror image fits better than chance explains: a ratio of variances (F), or an affine map that mirrors.

    Points in a plane (in 2D, on a line) fit their mirror image equally well, and so are not mirrored.
    """
    if model == "translation" or freedom < 1:
        return False
    if model == "affine":
        return bool(np.linalg.det(matrix[:-1, :-1]) < 0)
    least = _ROUNDING**2 * _spread(pairs)
    squares, other = (max(pairs.misfit(m), least) for m in (matrix, pairs.motion(model, mirrored=True)))
    return other > 0 and bool(fdtrc(freedom, freedom, squares / other) < _MIRRORED)


def _spread(pairs: Pairs) -> float:
    """The weighted squared distances of the moving points from their mean."""
    return float((pairs.weights[:, None] * (pairs.moving - pairs.moving.mean(axis=0)) ** 2).sum())


def at_random(model: str, pairs: Pairs, freedom: int, *, seed: int = 0) -> bool:
    """Whether pairs fit no better than the same points paired at random: a permutation test (Fisher).

    Fewer than five pairs cannot show it, and for a translation it does not matter which points are paired.
    """
    if model == "translation" or len(pairs) < 5 or freedom < 1:
        return False
    rng = np.random.default_rng(seed)
    if len(pairs) > _MOST_POINTS:
        pairs = pairs.take(rng.choice(len(pairs), _MOST_POINTS, replace=False))
    count = len(pairs)
    if math.factorial(min(count, 6)) <= _PERMUTATIONS:
        orders = np.array(list(itertools.permutations(range(count))))[1:]
    else:
        orders = np.array([rng.permutation(count) for _ in range(_PERMUTATIONS)])
    first = _misfits(model, pairs, np.arange(count)[None])[0]
    others = _misfits(model, pairs, orders)
    return bool((1 + np.count_nonzero(others <= first)) / (1 + len(orders)) > _RANDOM)


def _misfits(model: str, pairs: Pairs, orders: NDArray[np.intp]) -> Floats:
    """(B,) weighted squared residuals, where the moving points are paired in each of (B, N) orders."""
    moving = pairs.moving[orders]
    fixed, weights = np.broadcast_to(pairs.fixed, moving.shape), np.broadcast_to(pairs.weights, orders.shape)
    left = residuals(solve(model, fixed, moving, weights), fixed, moving)
    return np.asarray((pairs.weights[:, None] * left**2).sum(axis=(-1, -2)))
