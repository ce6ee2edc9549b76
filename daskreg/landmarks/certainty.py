"""How well pairs determine a motion: covariance, and motions that are free.

The moving points are taken to have independent errors of one size in all directions, of variance sigma^2 / weight;
sigma is estimated from the residuals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import default_axes
from daskreg.geometry.parameters import matrix_from_parameters, parameter_names, parameters_from_matrix

Floats = NDArray[np.float64]

# A turn (in radians) or a relative stretch whose standard deviation is above this is unknown, and linear theory ends.
_UNKNOWN = 0.5
# Points this near to a line or plane, relative to their extent, lie on it.
_FLAT = 1e-6
# Of scaled information: below it a direction is free, and a parameter with this share of it has no variance.
_NOTHING, _SHARE = 1e-10, 1e-3


def parameters_of(matrix: Floats, names: Sequence[str], centre: Floats) -> dict[str, float]:
    """The parameters `names` of a motion about a centre; "scale" is the common one."""
    values, ndim = parameters_from_matrix(matrix, centre), len(centre)
    values["scale"] = abs(float(np.linalg.det(matrix[:-1, :-1]))) ** (1 / ndim)
    return {name: values[name] for name in names}


def jacobian(matrix: Floats, names: Sequence[str], centre: Floats, fixed: Floats) -> Floats:
    """(N, D, P): how each moved point changes with each parameter, by central differences."""
    ndim, values = len(centre), parameters_of(matrix, names, centre)

    def moved(changed: dict[str, float]) -> Floats:
        common = changed.pop("scale", None)
        if common is not None:
            changed |= dict.fromkeys(parameter_names(ndim)["scale"], common)
        m = matrix_from_parameters(changed, ndim, centre)
        return np.asarray(fixed @ m[:-1, :-1].T + m[:-1, -1])

    step = 1e-6
    size = max(float(np.abs(fixed - centre).max(initial=0)), 1.0)
    columns = []
    for name in names:
        h = step * size if name in parameter_names(ndim)["translation"] else step
        ahead, behind = (moved({**values, name: values[name] + sign * h}) for sign in (1, -1))
        columns.append((ahead - behind) / (2 * h))
    return np.stack(columns, axis=-1)


def covariance(change: Floats, weights: Floats, variance: float) -> Floats:
    """(P, P) of the parameters: variance (J^T W J)^-1; infinite for those that are free, and without a variance."""
    count = change.shape[-1]
    if not np.isfinite(variance):
        return np.full((count, count), np.inf)
    information = np.einsum("nip,n,niq->pq", change, weights, change)
    size = np.sqrt(np.maximum(np.diag(information), np.finfo(float).tiny))
    values, axes = np.linalg.eigh(information / np.outer(size, size))
    known = values > _NOTHING
    found = (axes[:, known] / values[known]) @ axes[:, known].T * (variance / np.outer(size, size))
    unknown = (np.abs(axes[:, ~known]) > _SHARE).any(axis=1)
    found[unknown], found[:, unknown] = np.inf, np.inf
    return np.asarray(found)


def free_motions(model: str, moved: Floats, weights: Floats, variance: float) -> tuple[str, ...]:
    """Motions that the points do not determine, in words.

    Args:
        moved: (N, D) fixed points, where the motion brings them.
        variance: of a coordinate of weight one; infinite where the residuals do not tell it.
    """
    if model == "translation":
        return ()
    ndim = moved.shape[1]
    offsets = moved - np.average(moved, axis=0, weights=weights)
    values, axes = np.linalg.eigh((offsets * weights[:, None]).T @ offsets)
    least = max(_FLAT**2 * float(values.sum()), variance / _UNKNOWN**2 if np.isfinite(variance) else 0.0)
    names = ", ".join(default_axes(ndim))
    if model == "affine":
        return tuple(
            f"stretch and shear across ({_vector(axes[:, k])}) in {names}" for k in range(ndim) if values[k] <= least
        )
    # A turn in the plane of two axes is known by the points' extent along both.
    if ndim == 2:
        turns = ["turn"] if values.sum() <= least else []
    else:
        turns = [
            f"turn about ({_vector(axes[:, k])}) in {names}" for k in range(3) if values.sum() - values[k] <= least
        ]
    return (*turns, *(["scale"] if model == "similarity" and values.sum() <= least else []))


def _vector(values: Floats) -> str:
    v = values if values[np.abs(values).argmax()] > 0 else -values
    return ", ".join(f"{value + 0.0:.2f}" for value in v)
