"""Weights of pairs, place by place: what is torn, folded or lost in one slice must not move the others.

Agreement is the local correlation of the warped slices. How well slices can agree differs between the places of a
specimen, so that a pair is compared with the pairs of the same distance near it along the stack, at the same place.
Where it agrees far less than these, its weight falls as that of Geman & McClure (1985).
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.intp]

# Pairs along the stack with which a pair is compared, on each side.
_NEAR = 6
# Robust standard deviations beyond which a pair disagrees, and the least such deviation of a correlation.
_DEVIATIONS, _LEAST = 3.0, 0.03
# Standard deviations from the median of a normal distribution to its upper quartile.
_QUARTILE = 0.6745


def robust_weights(agreement: Floats, edges: Ints) -> Floats:
    """(E, *blocks) weights 0..1.

    Args:
        agreement: (E, *blocks) local correlations, NaN where unknown. edges: (E, 2) slices of the pairs.
    """
    weights = np.ones(agreement.shape)
    apart = edges[:, 1] - edges[:, 0]
    for distance in np.unique(apart):
        some = np.flatnonzero(apart == distance)
        if len(some) < 3:
            continue
        middle, upper = (_near(agreement[some], share) for share in (0.5, 0.75))
        scatter = np.abs(agreement[some] - middle)
        spread = max(1.4826 * float(np.nanmedian(scatter)), _LEAST) if np.isfinite(scatter).any() else _LEAST
        # Where half of the pairs are bad, the median is, too; the upper quartile of the others says where it would be.
        below = upper - _QUARTILE * spread - agreement[some]
        excess = np.maximum(np.nan_to_num(below) / (_DEVIATIONS * spread) - 1, 0)
        weights[some] = 1 / (1 + excess**2) ** 2
    return weights


def _near(agreement: Floats, share: float) -> Floats:
    """(E, *blocks) quantiles over the pairs near each along the stack."""
    out = np.empty_like(agreement)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # places that no pair sees
        for k in range(len(agreement)):
            out[k] = np.nanquantile(agreement[max(0, k - _NEAR) : k + _NEAR + 1], share, axis=0)
    return out


def upsampled(weights: Floats, shape: tuple[int, ...]) -> Singles:
    """(*shape) weights of blocks at the voxels of a level."""
    found = weights
    for axis, n in enumerate(shape):
        found = found.take(np.arange(n) * found.shape[axis] // n, axis=axis)
    return found.astype(np.float32)
