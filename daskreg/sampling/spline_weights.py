"""Weights of the cubic B-splines around a point, as arrays, and as matrices for all points along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def cubic_weights(fraction: Floats) -> tuple[Floats, Floats]:
    """(n, 4) weights of the four cubic B-splines around points, and their derivatives by the fraction."""
    t, u = fraction, 1 - fraction
    weights = (u**3 / 6, 2 / 3 - t * t + t**3 / 2, 2 / 3 - u * u + u**3 / 2, t**3 / 6)
    slopes = (-(u**2) / 2, -2 * t + 1.5 * t * t, 2 * u - 1.5 * u * u, t**2 / 2)
    return np.stack(weights, -1), np.stack(slopes, -1)


def in_rows(weights: NDArray[Any], first: NDArray[np.int64], n: int) -> NDArray[Any]:
    """(len(weights), n) with the four weights of each point in its row, from the column `first` on."""
    found = np.zeros((len(weights), n), weights.dtype)
    found[np.arange(len(weights))[:, None], first[:, None] + np.arange(4)] = weights
    return found


def along_axes(matrices: Sequence[Floats], vectors: Floats) -> Floats:
    """(D, *shape) the matrices applied along the axes of (D, *nodes)."""
    for axis, matrix in enumerate(matrices[:-1], start=1):
        vectors = np.moveaxis(np.tensordot(matrix, vectors, axes=(1, axis)), 0, axis)
    found: Floats = np.matmul(np.ascontiguousarray(vectors), matrices[-1].T)
    return found
