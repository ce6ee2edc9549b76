"""Poses in torch: free parameters to matrices, their derivatives, and back.

A `Pose` says which parameters of M = T . R . Sh . S about a centre are free (see
`geometry.parameters` for names and signs); the others stay at identity. It maps
(B, P) parameters to (B, D+1, D+1) matrices in array order, with plain torch operations,
so that gradients flow through (`matrices`), and as NumPy arrays with dM/dp, compiled, for
Gauss-Newton (`motions`).

Everything here is float64 and small: it is computed on the CPU unless the parameters are elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from daskreg.errors import OptionError
from daskreg.geometry.parameters import identity_parameters, parameter_names, shear_axes
from daskreg.geometry.rotations import angles_from_rotation
from daskreg.registration.pose_numba import motions

Floats = NDArray[np.float64]

MODELS = {
    "translation": ("translation",),
    "rigid": ("rotation", "translation"),
    "similarity": ("rotation", "translation", "scale"),
    "affine": ("rotation", "translation", "scale", "shear"),
}
GROUPS = ("rotation", "translation", "scale", "shear")
_COMMON_SCALE = "scale"


@dataclass(frozen=True)
class Pose:
    """Which parameters of a motion are free.

    Args:
        ndim: 2 or 3.
        groups: out of "rotation", "translation", "scale", "shear".
        common_scale: one scale for all axes, a single parameter named "scale".
    """

    ndim: int
    groups: tuple[str, ...]
    common_scale: bool = False

    @classmethod
    def of(cls, model: str | Sequence[str] | Pose, ndim: int) -> Pose:
        """From a model's name or a sequence of groups.

        Raises: OptionError for an unknown model or group, or an empty sequence.
        """
        if isinstance(model, Pose):
            return model
        if isinstance(model, str):
            if model in GROUPS and model not in MODELS:
                return cls(ndim, (model,))
            if model not in MODELS:
                raise OptionError(f"model {model!r} is unknown: use {', '.join(MODELS)}, or groups of {GROUPS}")
            return cls(ndim, MODELS[model], common_scale=model == "similarity")
        unknown = [g for g in model if g not in GROUPS]
        if unknown or not model:
            raise OptionError(f"a model is one or more groups of {', '.join(GROUPS)}, not {tuple(model)!r}")
        return cls(ndim, tuple(g for g in GROUPS if g in model))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the free parameters, in order."""
        members = parameter_names(self.ndim)
        free: list[str] = []
        for group in ("rotation", "translation", "scale", "shear"):
            if group not in self.groups:
                continue
            if group == "scale" and self.common_scale:
                free.append(_COMMON_SCALE)
            elif group == "shear" and {"rotation", "scale"} <= set(self.groups):
                # A lower triangle would be redundant: rotation and scale already have its effect.
                free += [n for n in members[group] if shear_axes(n)[1] > shear_axes(n)[0]]
            else:
                free += members[group]
        return tuple(free)

    @cached_property
    def all_names(self) -> tuple[str, ...]:
        """Names of every parameter of `ndim` dimensions, free or not."""
        return tuple(identity_parameters(self.ndim))

    @cached_property
    def _embedding(self) -> tuple[Floats, Floats]:
        """(P, F) matrix E and (F,) base, so that all parameters are base + p @ E."""
        names = self.all_names
        e = np.zeros((len(self.names), len(names)))
        for row, name in enumerate(self.names):
            for target in parameter_names(self.ndim)["scale"] if name == _COMMON_SCALE else (name,):
                e[row, names.index(target)] = 1
        base = np.array(list(identity_parameters(self.ndim).values()))
        return e, base * (e.sum(0) == 0)

    @cached_property
    def _shears(self) -> NDArray[np.int64]:
        return np.array([shear_axes(n) for n in parameter_names(self.ndim)["shear"]])

    def identity(self, batch: int = 1) -> Tensor:
        """(B, P) parameters of the identity."""
        p = torch.tensor([float(n.startswith("s") and not n.startswith("sh")) for n in self.names], dtype=torch.float64)
        return p.repeat(batch, 1)

    def full(self, parameters: Tensor) -> Tensor:
        """(B, F) all parameters, in the order of `all_names`, of (B, P) free ones."""
        e, base = (torch.from_numpy(t).to(parameters) for t in self._embedding)
        # Not a matrix product: for these sizes a BLAS spends its time starting threads.
        return (parameters[..., None] * e).sum(-2) + base

    def motions(self, parameters: Floats, centre: ArrayLike) -> tuple[Floats, Floats]:
        """(B, D+1, D+1) matrices in array order of (B, P) parameters, and (B, P, D+1, D+1) derivatives dM/dp."""
        e, base = self._embedding
        p = np.asarray(parameters, dtype=np.float64)
        side = self.ndim + 1
        matrices, derivatives = np.zeros((len(p), side, side)), np.zeros((*p.shape, side, side))
        c = np.ascontiguousarray(centre, dtype=np.float64)
        motions((p[..., None] * e).sum(-2) + base, e, self._shears, c, matrices, derivatives)
        return matrices, derivatives

    def matrices(self, parameters: Tensor, centre: ArrayLike) -> Tensor:
        """(B, D+1, D+1) matrices in array order of (B, P) parameters; differentiable.

        Args:
            centre: (D,) world point, array order, that rotation, scale and shear leave in place.
        """
        turn, shear, scale, shift = self._factors(self.full(parameters))
        return _homogeneous(_product(turn) @ shear @ scale, shift, centre)

    def from_matrices(self, matrices: ArrayLike, centre: ArrayLike, half_extent: ArrayLike = 1.0) -> Tensor:
        """(B, P) parameters of the poses of this model nearest to (B, D+1, D+1) matrices.

        Nearest: least squares of the displacements of the centre and of the points
        `half_extent` away from it along each axis. Exact for motions of the model.
        """
        m = np.asarray(matrices, dtype=np.float64)
        c = np.asarray(centre, dtype=np.float64)
        p = self._read(m, c)
        probes = np.eye(self.ndim + 1)
        probes[:-1, :-1] *= np.asarray(half_extent)
        probes[:-1, -1] = c
        best, error = self._nearest(p, c, m, probes)
        if {"rotation", "shear"} <= set(self.groups) and "scale" not in self.groups:
            # With both shears and the rotation free, the parameters are singular at identity: start on either side too.
            rotations = np.array([float(n in parameter_names(self.ndim)["rotation"]) for n in self.names])
            for side in (-0.3, 0.3):
                other, other_error = self._nearest(p + side * rotations, c, m, probes)
                better = other_error < 0.99 * error
                best, error = np.where(better[:, None], other, best), np.where(better, other_error, error)
        return torch.from_numpy(best)

    def _nearest(self, p: Floats, centre: Floats, target: Floats, probes: Floats) -> tuple[Floats, Floats]:
        """Levenberg-Marquardt from `p`; the parameters and their (B,) squared misfit."""
        best = p
        found, change = self.motions(best, centre)
        error = ((found - target) @ probes).reshape(len(p), -1)
        damping = np.full((len(p), 1, 1), 1e-6)
        eye, moved = np.eye(p.shape[1]), np.full(len(p), np.inf)
        for _ in range(50):
            if np.all(((error**2).sum(-1) < 1e-24) | (moved < 1e-10)):
                break
            jacobian = (change @ probes).reshape(*p.shape, -1)
            normal = jacobian @ jacobian.swapaxes(1, 2)
            normal = normal + damping * (normal * eye + 1e-12 * eye)
            step = np.linalg.solve(normal, jacobian @ error[..., None])[..., 0]
            trial, moved = best - step, np.abs(step).max(-1)
            found, trial_change = self.motions(trial, centre)
            trial_error = ((found - target) @ probes).reshape(len(p), -1)
            better = (trial_error**2).sum(-1) < (error**2).sum(-1)
            best, error = np.where(better[:, None], trial, best), np.where(better[:, None], trial_error, error)
            change = np.where(better[:, None, None, None], trial_change, change)
            damping = np.clip(np.where(better[:, None, None], damping / 10, damping * 10), 1e-12, 1e12)
        return best, np.asarray((error**2).sum(-1))

    def named(self, parameters: ArrayLike) -> list[dict[str, float]]:
        """Every parameter by name, for each of (B, P); angles within half a turn either way."""
        e, base = self._embedding
        full = np.asarray(parameters, dtype=np.float64) @ e + base
        far = np.isin(self.all_names, parameter_names(self.ndim)["rotation"]) & (np.abs(full) > np.pi)
        full[far] = np.remainder(full[far] + np.pi, 2 * np.pi) - np.pi
        return [dict(zip(self.all_names, row, strict=True)) for row in full.tolist()]

    def _read(self, matrices: Floats, centre: Floats) -> Floats:
        """(B, P) those of the parameters of each matrix that are free, as `parameters_from_matrix` has them."""
        names, linear = parameter_names(self.ndim), matrices[:, :-1, :-1]
        q, r = np.linalg.qr(linear[:, ::-1, ::-1])
        signs = np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)
        signs[:, -1] *= np.where(np.linalg.det(q * signs[:, None]) < 0, -1.0, 1.0)
        q, r = q * signs[:, None], r * signs[:, :, None]
        scale = np.diagonal(r, axis1=1, axis2=2)
        shear = r / scale[:, None]
        shift = (linear @ centre + matrices[:, :-1, -1] - centre)[:, ::-1]
        angles = np.array([angles_from_rotation(one) for one in q]).reshape(len(q), -1)
        values = {_COMMON_SCALE: np.abs(np.linalg.det(linear)) ** (1 / self.ndim)}
        for group, columns in (("rotation", angles), ("translation", shift), ("scale", scale)):
            values |= dict(zip(names[group], columns.T, strict=True))
        for name in names["shear"]:
            row, column = shear_axes(name)
            values[name] = shear[:, row, column] if column > row else np.zeros(len(q))
        return np.stack([values[name] for name in self.names], axis=-1)

    def _factors(self, q: Tensor) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """Elementary rotations (first applied first), shear, scale, shift, in x, y, z order."""
        names, d = self.all_names, self.ndim
        column = dict(zip(names, q.unbind(-1), strict=True))
        group = parameter_names(d)
        eye = torch.eye(d).to(q)
        turns = [
            eye + torch.sin(a)[:, None, None] * g + (1 - torch.cos(a))[:, None, None] * (g @ g)
            for a, g in zip([column[n] for n in group["rotation"]], _generators(q, d), strict=True)
        ]
        shear = eye.expand(len(q), d, d)
        for name in group["shear"]:
            shear = shear + column[name][:, None, None] * _unit(eye, *shear_axes(name))
        scale = torch.diag_embed(torch.stack([column[n] for n in group["scale"]], -1))
        return turns, shear, scale, torch.stack([column[n] for n in group["translation"]], -1)


def _generators(like: Tensor, ndim: int) -> list[Tensor]:
    """The antisymmetric generators of the elementary rotations, in x, y, z order."""
    planes = [(0, 1)] if ndim == 2 else [(1, 2), (2, 0), (0, 1)]
    return [_unit(like.new_zeros(ndim, ndim), j, i) - _unit(like.new_zeros(ndim, ndim), i, j) for i, j in planes]


def _product(turns: list[Tensor]) -> Tensor:
    """R = Rz . Ry . Rx."""
    result = turns[0]
    for turn in turns[1:]:
        result = turn @ result
    return result


def _homogeneous(linear: Tensor, shift: Tensor, centre: ArrayLike) -> Tensor:
    """Matrices in array order from linear parts and shifts in x, y, z order."""
    c = torch.as_tensor(np.asarray(centre, dtype=np.float64)).to(linear)
    a = linear.flip(-1, -2)
    top = torch.cat([a, (shift.flip(-1) - a @ c + c)[..., None]], -1)
    bottom = torch.zeros_like(top[..., :1, :])
    return torch.cat([top, torch.cat([bottom[..., :-1], torch.ones_like(bottom[..., -1:])], -1)], -2)


def _unit(like: Tensor, row: int, column: int) -> Tensor:
    e = torch.zeros_like(like)
    e[..., row, column] = 1
    return e
