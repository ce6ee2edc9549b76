"""Weights of pairs, place by place: what is torn, folded or lost in one slice must not move the others.

Agreement is the local correlation of the warped slices. How well slices can agree differs between the places of a
specimen, so that a pair is compared with the pairs of the same distance near it along the stack, at the same place.
Where it agrees far less than these, its weight falls as that of Geman & McClure (1985).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.intp]

# Pairs along the stack with which a pair is compared, on each side.
_NEAR = 6
# Robust standard deviations beyond which a pair disagrees, and the least such deviation of a correlation.
_DEVIATIONS, _LEAST = 3.0, 0.03


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
        below = _typical(agreement[some]) - agreement[some]
        spread = max(1.4826 * float(np.nanmedian(np.abs(below))), _LEAST) if np.isfinite(below).any() else _LEAST
        excess = np.maximum(np.nan_to_num(below) / (_DEVIATIONS * spread) - 1, 0)
        weights[some] = 1 / (1 + excess**2) ** 2
    return weights


def _typical(agreement: Floats) -> Floats:
    """(E, *blocks) medians over the pairs near each along the stack."""
    out = np.empty_like(agreement)
    for k in range(len(agreement)):
        near = agreement[max(0, k - _NEAR) : k + _NEAR + 1]
        out[k] = np.nanmedian(np.where(np.isfinite(near), near, np.nan), axis=0)
    return out


def upsampled(weights: Floats, shape: tuple[int, ...]) -> Singles:
    """(*shape) weights of blocks at the voxels of a level."""
    found = weights
    for axis, n in enumerate(shape):
        found = found.take(np.arange(n) * found.shape[axis] // n, axis=axis)
    return found.astype(np.float32)
