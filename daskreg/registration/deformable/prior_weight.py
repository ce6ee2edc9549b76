"""The weight of the prior on displacement fields: where it begins, and the next one from what a step found.

The next weight is the one for which the bending energy is what the number of determined coefficients lets expect (the
evidence procedure, MacKay 1992). Where fields have no energy yet and the residual is all taken for noise, that has no
limit: a field of zero explains itself. Hence the bounds.
"""

from __future__ import annotations

import numpy as np

# The most by which the weight changes at once.
_CHANGE = 10.0


def next_weight(weight: float, *, determined: float, energy: float, affine: int, most: float = np.inf) -> float:
    """The weight after one with which fields of this energy were found.

    Args:
        weight: with which the fields were found; greater than 0.
        determined: how many coefficients the images determine.
        energy: c^T K c of all coefficients c.
        affine: coefficients of affine motions, which have no bending energy. Where images determine no more than
            these, they do not say how smooth the others are, and the weight does not grow, lest finer levels could no
            longer show them.
        most: the largest weight.
    """
    if not energy > 0:
        return min(weight, most)
    wanted = max(determined, 1.0) / energy
    if determined < affine:
        wanted = min(wanted, weight)
    return min(float(np.clip(wanted, weight / _CHANGE, weight * _CHANGE)), most)


def weight_of_deviation(deviation: float, stiffness: float) -> float:
    """The weight with which a coefficient has this standard deviation, the others being given.

    Args:
        deviation: world units. stiffness: the mean of the diagonal of K.
    """
    return 1 / (deviation**2 * stiffness)
