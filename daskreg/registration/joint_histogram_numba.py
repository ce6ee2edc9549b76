"""The joint histogram of mutual information on CPUs, and its derivative, in one pass each.

Every voxel is in four bins of each image, by cubic B-splines (Parzen windows). Sums are made chunk by
chunk in a fixed order, so that the number of threads changes no bit.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.runtime.compiled import inner, jit
from daskreg.runtime.threads import shares

_CHUNK = 1 << 15


def joint(fixed: NDArray[Any], warped: NDArray[Any], weight: NDArray[Any], bins: int) -> NDArray[np.float64]:
    """(B, bins, bins) sums of the weights; positions and weights are (B, N), positions from 1 to bins - 3."""
    batch, n = fixed.shape
    chunks = -(-n // _CHUNK)
    out = np.zeros((batch, chunks, bins, bins))
    shares(partial(_joint, fixed, warped, weight, out), batch * chunks, fixed.size)
    return np.asarray(out.sum(1))


def gradients(
    fixed: NDArray[Any], warped: NDArray[Any], weight: NDArray[Any], gradient: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(B, N) gradients with respect to both positions and to the weight, from that with respect to the histogram.

    gradient: (B, bins, bins).
    """
    found = tuple(np.empty_like(fixed) for _ in range(3))
    chunks = -(-fixed.shape[1] // _CHUNK)
    shares(partial(_gradients, fixed, warped, weight, gradient, found), len(fixed) * chunks, fixed.size)
    return found[0], found[1], found[2]


@inner
def _windows(position: Any, parts: Any, derivatives: Any) -> Any:
    """The first of four bins; the weights there, and their derivatives, are filled in."""
    first = np.int64(position)
    t = position - first
    u = 1 - t
    parts[0], parts[3] = u * u * u / 6, t * t * t / 6
    parts[1], parts[2] = 2 / 3 - t * t + t * t * t / 2, 2 / 3 - u * u + u * u * u / 2
    derivatives[0], derivatives[3] = -u * u / 2, t * t / 2
    derivatives[1], derivatives[2] = -2 * t + 1.5 * t * t, 2 * u - 1.5 * u * u
    return first - 1


@jit
def _joint(fixed: Any, warped: Any, weight: Any, out: Any, first: Any, stop: Any) -> None:
    chunks = out.shape[1]
    a, b, unused = np.empty(4), np.empty(4), np.empty(4)
    for part in range(first, stop):
        row, chunk = part // chunks, part % chunks
        table = out[row, chunk]
        for n in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, fixed.shape[1])):
            v = np.float64(weight[row, n])
            if v == 0:
                continue
            i = _windows(np.float64(fixed[row, n]), a, unused)
            j = _windows(np.float64(warped[row, n]), b, unused)
            for k in range(4):
                weighted = v * a[k]
                for m in range(4):
                    table[i + k, j + m] += weighted * b[m]


@jit
def _gradients(fixed: Any, warped: Any, weight: Any, gradient: Any, found: Any, first: Any, stop: Any) -> None:
    of_fixed, of_warped, of_weight = found
    chunks = -(-fixed.shape[1] // _CHUNK)
    a, da, b, db = np.empty(4), np.empty(4), np.empty(4), np.empty(4)
    for part in range(first, stop):
        row, chunk = part // chunks, part % chunks
        for n in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, fixed.shape[1])):
            v = np.float64(weight[row, n])
            i = _windows(np.float64(fixed[row, n]), a, da)
            j = _windows(np.float64(warped[row, n]), b, db)
            by_fixed = by_warped = by_weight = 0.0
            for k in range(4):
                near = steep = 0.0
                for m in range(4):
                    near += b[m] * gradient[row, i + k, j + m]
                    steep += db[m] * gradient[row, i + k, j + m]
                by_weight += a[k] * near
                by_fixed += da[k] * near
                by_warped += a[k] * steep
            of_fixed[row, n] = v * by_fixed
            of_warped[row, n] = v * by_warped
            of_weight[row, n] = by_weight
