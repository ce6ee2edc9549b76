"""Solutions of symmetric positive equations by preconditioned conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def conjugate_gradients(
    product: Callable[[Floats], Floats],
    precondition: Callable[[Floats], Floats],
    right: Floats,
    *,
    start: Floats | None,
    tolerance: float,
    most: int,
) -> Floats:
    """The solution x of product(x) = right, to a share `tolerance` of the right side in the norm of the preconditioner.

    Args:
        product, precondition: linear, of arrays of the shape of `right`.
        start: where to begin; None: at zero. most: how many steps there may be.
    """
    x = np.zeros_like(right) if start is None else start.copy()
    r = right.copy() if start is None else right - product(x)
    z = precondition(r)
    goal = tolerance**2 * _dot(right, precondition(right))
    p, rz = z.copy(), _dot(r, z)
    for _ in range(most):
        if not rz > goal:
            break
        q = product(p)
        alpha = rz / _dot(p, q)
        x += alpha * p
        r -= alpha * q
        z = precondition(r)
        after = _dot(r, z)
        p = z + (after / rz) * p
        rz = after
    return x


def _dot(a: Floats, b: Floats) -> float:
    # Not by BLAS, which wakes threads for vectors that are too short for that.
    return float(np.einsum("i,i->", a.ravel(), b.ravel()))
