"""The loop that brings projections into the aligned frame, by cubic splines."""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import inner, jit


@inner
def _weights(far: Any, one: Any) -> Any:
    """Of four neighbouring coefficients, `far` of the way from the second to the third."""
    near = one - far
    sixth = one / (one * 6)
    w0, w3 = sixth * near * near * near, sixth * far * far * far
    w1 = one * 2 / (one * 3) - far * far * (one - far / (one * 2))
    return w0, w1, one - w0 - w1 - w3, w3


@inner
def _reflected(i: Any, count: Any) -> Any:
    if i < 0:
        i = -1 - i
    if i >= count:
        i = 2 * count - 1 - i
    return min(max(i, 0), count - 1)


@jit
def pull_cubic(coefficients: Any, matrices: Any, images: Any, weight: Any, first: Any, stop: Any) -> None:
    """Fill images first..stop-1, and the weights: one inside of the detector, zero outside.

    Args:
        coefficients: (A, V, U) of cubic splines that are reflected about the faces of the detector; where there is one
            row, along the columns only.
        matrices: (A, 2, 3) from (row, column, 1) of the aligned frame to the detector's.
        images, weight: (A, U, W): the aligned frame may have more rows than one, or fewer than the detector.
    """
    rows, columns = coefficients.shape[1:]
    one = coefficients.dtype.type(1)
    for a in range(first, stop):
        m = matrices[a]
        for u in range(images.shape[1]):
            for v in range(images.shape[2]):
                p = m[0, 0] * v + m[0, 1] * u + m[0, 2]
                q = m[1, 0] * v + m[1, 1] * u + m[1, 2]
                if p < -0.5 or q < -0.5 or p > rows - 0.5 or q > columns - 0.5:
                    images[a, u, v] = 0
                    weight[a, u, v] = 0
                    continue
                left = np.floor(q)
                j = int(left)
                g0, g1, g2, g3 = _weights(one * (q - left), one)
                j0, j1 = _reflected(j - 1, columns), _reflected(j, columns)
                j2, j3 = _reflected(j + 1, columns), _reflected(j + 2, columns)
                low = np.floor(p)
                f0, f1, f2, f3 = _weights(one * (p - low), one)
                total = one * 0
                for k in range(4):
                    f = f0 if k == 0 else f1 if k == 1 else f2 if k == 2 else f3
                    if rows == 1:
                        f = one if k == 1 else one * 0
                    if f == 0:
                        continue
                    line = coefficients[a, _reflected(int(low) - 1 + k, rows)]
                    total += f * (g0 * line[j0] + g1 * line[j1] + g2 * line[j2] + g3 * line[j3])
                images[a, u, v] = total
                weight[a, u, v] = 1
