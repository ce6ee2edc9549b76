"""Named parameters of an affine map: M = T . R . Sh . S about a centre.

2D: `theta, tx, ty, sx, sy, shx, shy`. 3D: `rx, ry, rz, tx, ty, tz, sx, sy, sz` and the
shears `shxy, shxz, shyz, shyx, shzx, shzy`, where `shab` adds b to a: a' = a + shab * b
(in 2D `shx` is shxy and `shy` is shyx). R = Rz . Ry . Rx. Angles are radians, positive
theta turns x towards y.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import OptionError, ShapeMismatchError
from daskreg.geometry.rotations import angles_from_rotation, rotation_from_angles

Floats = NDArray[np.float64]

XYZ = "xyz"


def parameter_names(ndim: int) -> dict[str, tuple[str, ...]]:
    """The names of each group: rotation, translation, scale, shear."""
    if ndim == 2:
        return {
            "rotation": ("theta",),
            "translation": ("tx", "ty"),
            "scale": ("sx", "sy"),
            "shear": ("shx", "shy"),
        }
    if ndim == 3:
        return {
            "rotation": ("rx", "ry", "rz"),
            "translation": ("tx", "ty", "tz"),
            "scale": ("sx", "sy", "sz"),
            "shear": ("shxy", "shxz", "shyz", "shyx", "shzx", "shzy"),
        }
    raise OptionError(f"named parameters exist in 2 and 3 dimensions, not in {ndim}")


def shear_axes(name: str) -> tuple[int, int]:
    """(row, column) of a shear in x, y, z order."""
    short = {"shx": "shxy", "shy": "shyx"}.get(name, name)
    return XYZ.index(short[2]), XYZ.index(short[3])


def identity_parameters(ndim: int) -> dict[str, float]:
    """Every parameter at its value for the identity, in the documented order."""
    names = parameter_names(ndim)
    return {n: float(group == "scale") for group, members in names.items() for n in members}


def matrix_from_parameters(parameters: Mapping[str, float], ndim: int, centre: ArrayLike | None = None) -> Floats:
    """(D+1, D+1) matrix in array order. Parameters left out are those of the identity.

    Args:
        parameters: by name; translations in the unit of the world.
        centre: world point, in array order, that rotation, shear and scale leave in place.

    Raises: OptionError for a name that does not belong to `ndim` dimensions.
    """
    values = identity_parameters(ndim)
    unknown = set(parameters) - set(values)
    if unknown:
        raise OptionError(f"unknown {ndim}D parameter {sorted(unknown)[0]!r}: use {', '.join(values)}")
    values |= {k: float(v) for k, v in parameters.items()}
    names = parameter_names(ndim)
    shear = np.eye(ndim)
    for name in names["shear"]:
        shear[shear_axes(name)] += values[name]
    linear = rotation_from_angles([values[n] for n in names["rotation"]]) @ shear
    linear = linear @ np.diag([values[n] for n in names["scale"]])
    translation = np.array([values[n] for n in names["translation"]])
    c = _centre(centre, ndim)
    m = np.eye(ndim + 1)
    m[:-1, :-1] = linear[::-1, ::-1]
    m[:-1, -1] = translation[::-1] + c - m[:-1, :-1] @ c
    return m


def parameters_from_matrix(matrix: Floats, centre: ArrayLike | None = None) -> dict[str, float]:
    """Named parameters of a matrix in array order, shear upper triangular (unique).

    A reflection gives a negative scale of the last of x, y, z. A QR decomposition splits the
    linear part into a rotation and an upper triangular Sh . S.
    """
    ndim = matrix.shape[0] - 1
    names = parameter_names(ndim)
    c = _centre(centre, ndim)
    linear = matrix[:-1, :-1][::-1, ::-1]
    q, r = np.linalg.qr(linear)
    signs = np.where(np.diag(r) < 0, -1.0, 1.0)
    q, r = q * signs, r * signs[:, None]
    if np.linalg.det(q) < 0:
        q[:, -1] *= -1
        r[-1] *= -1
    scale = np.diag(r)
    shear = r / scale
    translation = (matrix[:-1, :-1] @ c + matrix[:-1, -1] - c)[::-1]
    values = identity_parameters(ndim)
    values |= dict(zip(names["rotation"], angles_from_rotation(q), strict=True))
    values |= dict(zip(names["translation"], translation.tolist(), strict=True))
    values |= dict(zip(names["scale"], scale.tolist(), strict=True))
    for name in names["shear"]:
        row, column = shear_axes(name)
        values[name] = float(shear[row, column]) if column > row else 0.0
    return values


def _centre(centre: ArrayLike | None, ndim: int) -> Floats:
    c = np.zeros(ndim) if centre is None else np.asarray(centre, dtype=np.float64)
    if c.shape != (ndim,):
        raise ShapeMismatchError(f"a centre of {ndim} numbers is needed, in array order, not shape {c.shape}")
    return c
