"""The sums over voxels from which the normal equations of a Gauss-Newton step are made.

With f a voxel of the fixed image, w the moving image at the voxel's mapped position, d = f - w, v its
weight, g the gradient there, and xi the scaled index of the fixed image (see `edge_weights`), a step
needs sums of v times

    1, d, w, dd, dw, ww,    J, J w, J d,    J J^T        where J = g (x) xi,

J being the derivative of w with respect to the D x (D+1) entries of the map from xi to
moving indices. Any pose model then takes its own combination of the columns, and both
metrics follow from the same sums (see `levenberg_marquardt`).

The gradient is that of the fixed image, transformed by the map into one of the moving image (Hager &
Belhumeur 1998). The transform is the same for all voxels, so it is applied to the sums.
Unlike the gradient of the moving image, it needs no interpolation, and its noise is not that of w. So the
solution of J^T d = 0 is not pulled towards positions between the voxels, where interpolation averages the
noise and d is smaller for that reason alone.

J is never stored. The entries of J J^T are moments of the D (D+1) / 2 images v g g' with
monomials of degree two or less in xi, which are summed axis by axis: float32 along the
last axis, float64 beyond.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.normal_equations.edge_weights import scaling

Floats = NDArray[np.float64]

SCALARS = ("n", "d", "w", "dd", "dw", "ww")


@dataclass(frozen=True)
class NormalSums:
    """Float64, one row for each pair; Q = D (D+1).

    scalars: (B, 6), in the order of SCALARS. j, jw, jd: (B, Q). jj: (B, Q, Q).
    """

    scalars: Floats
    j: Floats
    jw: Floats
    jd: Floats
    jj: Floats


def with_moving_gradient(
    scalars: Floats, linear: Floats, square: Floats, maps: Floats, shape: tuple[int, ...]
) -> NormalSums:
    """The sums with the gradient per moving voxel, from those with the gradient per fixed voxel.

    Args:
        linear: (B, 3, D, D+1) sums of v g xi times 1, w and d.
        square: (B, Q, Q) sums of v J J^T.
        maps: (B, D, D+1) from xi to moving indices.
        shape: of the fixed image.
    """
    jacobians = maps[:, :, :-1] / np.diag(scaling(shape))[:-1]
    inverse = np.linalg.inv(jacobians).swapaxes(1, 2)
    batch, ndim = inverse.shape[:2]
    j, jw, jd = (inverse[:, None] @ linear).reshape(batch, 3, -1).swapaxes(0, 1)
    wide = np.einsum("bij,kl->bikjl", inverse, np.eye(ndim + 1)).reshape(square.shape)
    return NormalSums(scalars, j, jw, jd, wide @ square @ wide.swapaxes(1, 2))


@cache
def _unique_entries(ndim: int) -> NDArray[np.int64]:
    """(Q, Q) the number of each entry of J J^T among the entries that differ."""
    q = ndim + 1
    axes, lines = np.triu_indices(ndim), np.triu_indices(q)
    full = np.empty((ndim, q, ndim, q), dtype=np.int64)
    for pair, (a, b) in enumerate(zip(*axes, strict=True)):
        for entry, (e, f) in enumerate(zip(*lines, strict=True)):
            for x, y in ((e, f), (f, e)):
                full[a, x, b, y] = full[b, y, a, x] = pair * len(lines[0]) + entry
    return full.reshape(ndim * q, ndim * q)


def full_square(square: Floats, ndim: int) -> Floats:
    """(B, Q, Q) J J^T from the entries that differ: (B, pairs of gradients, pairs of xi)."""
    return np.asarray(square.reshape(len(square), -1)[:, _unique_entries(ndim)])
