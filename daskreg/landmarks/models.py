"""Motions of least squares between paired points, in closed form, for many sets of pairs at once.

Rotations are those of Kabsch ("A solution for the best rotation to relate two sets of vectors", 1976), with the scale
of Umeyama ("Least-squares estimation of transformation parameters between two point patterns", 1991).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry.parameters import parameter_names

Floats = NDArray[np.float64]

MODELS = ("translation", "rigid", "similarity", "affine")

# Turns that the points do not determine stay near identity: this share of the correlation is added for the identity.
# It is far above the rounding of float64, and far below what any measurement shows.
_TOWARDS_IDENTITY = 1e-12
_RANK = 1e-12


@dataclass(frozen=True, eq=False)
class Pairs:
    """Points of the fixed and of the moving image, (N, D) each, and (N,) weights."""

    fixed: Floats
    moving: Floats
    weights: Floats

    def __len__(self) -> int:
        return len(self.fixed)

    def take(self, rows: Any) -> Pairs:
        return Pairs(self.fixed[rows], self.moving[rows], self.weights[rows])

    @property
    def ndim(self) -> int:
        return int(self.fixed.shape[-1])

    def motion(self, model: str, *, mirrored: bool = False) -> Floats:
        """The motion of least squares, see `solve`."""
        return solve(model, self.fixed, self.moving, self.weights, mirrored=mirrored)

    def misfit(self, matrix: Floats) -> float:
        """The weighted sum of squared residuals."""
        return float((self.weights[:, None] * residuals(matrix, self.fixed, self.moving) ** 2).sum())


def names_of(model: str, ndim: int) -> tuple[str, ...]:
    """Names of the parameters of a model (see `geometry.parameters`); a common scale is "scale"."""
    groups = parameter_names(ndim)
    upper = tuple(name for name in groups["shear"] if name in ("shx", "shxy", "shxz", "shyz"))
    turn, shift = groups["rotation"], groups["translation"]
    return {
        "translation": shift,
        "rigid": (*turn, *shift),
        "similarity": (*turn, *shift, "scale"),
        "affine": (*turn, *shift, *groups["scale"], *upper),
    }[model]


def least_pairs(model: str, ndim: int) -> int:
    """The smallest number of pairs that determines a motion."""
    return {"translation": 1, "rigid": ndim, "similarity": ndim, "affine": ndim + 1}[model]


def solve(model: str, fixed: Floats, moving: Floats, weights: Floats, *, mirrored: bool = False) -> Floats:
    """(..., D+1, D+1) matrices, moving from fixed, that minimise the weighted squared residuals in the moving image.

    Where points leave a motion free (one point, points on a line), the one nearest to identity is taken.

    Args:
        fixed, moving: (..., N, D) points. weights: (..., N), not negative, of which one is positive.
        mirrored: take the best improper rotation.
    """
    w = (weights / weights.sum(axis=-1, keepdims=True))[..., None]
    centre_f, centre_m = (w * fixed).sum(axis=-2), (w * moving).sum(axis=-2)
    f, m = fixed - centre_f[..., None, :], moving - centre_m[..., None, :]
    linear = _linear(model, f, m, w, mirrored=mirrored)
    ndim = fixed.shape[-1]
    matrices = np.zeros((*linear.shape[:-2], ndim + 1, ndim + 1))
    matrices[..., :-1, :-1] = linear
    matrices[..., :-1, -1] = centre_m - (linear @ centre_f[..., None])[..., 0]
    matrices[..., -1, -1] = 1
    return matrices


def _linear(model: str, f: Floats, m: Floats, w: Floats, *, mirrored: bool) -> Floats:
    ndim = f.shape[-1]
    eye = np.eye(ndim)
    across = (w * m).swapaxes(-1, -2) @ f
    if model == "translation":
        return np.broadcast_to(eye, across.shape)
    own = (w * f).swapaxes(-1, -2) @ f
    if model == "affine":
        return np.asarray(eye + (across - own) @ np.linalg.pinv(own, rcond=_RANK, hermitian=True))
    size = np.linalg.norm(across, axis=(-1, -2))
    towards = _TOWARDS_IDENTITY * np.where(size > 0, size, 1)
    u, _, vt = np.linalg.svd(across + towards[..., None, None] * eye)
    signs = np.ones((*across.shape[:-2], ndim))
    signs[..., -1] = np.sign(np.linalg.det(u @ vt)) * (-1 if mirrored else 1)
    rotation = (u * signs[..., None, :]) @ vt
    if model == "rigid":
        return np.asarray(rotation)
    # The scale of least squares: tr(R^T A) / tr(C), one where the points have no extent.
    along = (rotation * across).sum(axis=(-1, -2))
    spread = np.trace(own, axis1=-2, axis2=-1)
    scale = np.where(spread > 0, along / np.where(spread > 0, spread, 1), 1)
    return np.asarray(scale[..., None, None] * rotation)


def residuals(matrices: Floats, fixed: Floats, moving: Floats) -> Floats:
    """(..., N, D): moving points minus where the motion brings the fixed points."""
    return np.asarray(moving - (fixed @ matrices[..., :-1, :-1].swapaxes(-1, -2) + matrices[..., None, :-1, -1]))
