"""Pairs that contradict the others, also where they are several that hide each other.

The forward search of Hadi and Simonoff ("Procedures for the identification of multiple outliers in linear models",
Journal of the American Statistical Association, 1993): it starts from the half of the pairs that agree best, and takes
in one more pair at a time, until the next one is farther off than chance explains.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from daskreg.landmarks.certainty import jacobian
from daskreg.landmarks.consensus import closest_half
from daskreg.landmarks.models import Pairs, names_of, residuals

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

# Probability that any pair is called an outlier where errors are normal.
_FALSE_ALARM = 0.001
# Many pairs are taken in several at a time, in about so many steps.
_STEPS = 100
# Residuals below this share of the extent are rounding.
_ROUNDING = 1e-9


def outliers(model: str, pairs: Pairs, *, seed: int = 0) -> Ints:
    """Rows of the pairs that contradict the others; none where few pairs are to spare."""
    names, ndim, count = names_of(model, pairs.ndim), pairs.ndim, len(pairs)
    rows = closest_half(model, pairs, seed=seed)
    floor = (_ROUNDING * float(np.ptp(pairs.moving, axis=0).max(initial=0))) ** 2
    # The weight of a pair in the estimate hardly changes with the motion.
    centre = np.average(pairs.fixed, axis=0, weights=pairs.weights)
    change = jacobian(pairs.take(rows).motion(model), names, centre, pairs.fixed)
    while len(rows) < count:
        inside = pairs.take(rows)
        matrix = inside.motion(model)
        freedom = len(rows) * ndim - len(names)
        variance = max(inside.misfit(matrix) / max(freedom, 1), floor)
        ratio = _squares(change, pairs, rows, matrix) / (ndim * max(variance, np.finfo(float).tiny))
        order = np.argsort(ratio)
        following = ratio[order[len(rows)]]
        if freedom >= 2 * ndim and fdtrc(ndim, freedom, following) * (len(rows) + 1) < _FALSE_ALARM:
            return np.sort(order[len(rows) :])
        rows = order[: len(rows) + 1 + count // _STEPS]
    return np.zeros(0, dtype=np.intp)


def _squares(change: Floats, pairs: Pairs, rows: Ints, matrix: Floats) -> Floats:
    """(N,) weighted squared residuals, scaled so that those of the pairs inside and outside have one variance.

    Args:
        change: (N, D, P) derivatives of the moved points by the parameters.
    """
    information = np.einsum("nip,n,niq->pq", change[rows], pairs.weights[rows], change[rows])
    unit = np.linalg.pinv(information, hermitian=True)
    leverage = ((change @ unit) * change).sum(axis=(1, 2)) * pairs.weights / pairs.ndim
    signs = np.where(np.isin(np.arange(len(pairs)), rows), -1.0, 1.0)
    squares = (residuals(matrix, pairs.fixed, pairs.moving) ** 2).sum(axis=1)
    return np.asarray(pairs.weights * squares / np.maximum(1 + signs * leverage, 1e-6))
