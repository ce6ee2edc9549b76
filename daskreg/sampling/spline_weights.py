"""Weights of the cubic B-splines around a point, as arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def cubic_weights(fraction: Floats) -> tuple[Floats, Floats]:
    """(n, 4) weights of the four cubic B-splines around points, and their derivatives by the fraction."""
    t, u = fraction, 1 - fraction
    weights = (u**3 / 6, 2 / 3 - t * t + t**3 / 2, 2 / 3 - u * u + u**3 / 2, t**3 / 6)
    slopes = (-(u**2) / 2, -2 * t + 1.5 * t * t, 2 * u - 1.5 * u * u, t**2 / 2)
    return np.stack(weights, -1), np.stack(slopes, -1)
