"""Lie algebras of affine motions: coordinates of motions that can be added and averaged.

    log, exp        a motion near identity <-> its (Q,) coordinates, which add
    adjoint(T)      T exp(v) T^-1 = exp(adjoint(T) v)

Coordinates are lengths in the world: how far a motion moves points at the distance `reach`
from `centre`, so that rotations, scales and translations have comparable weights. (Sola, Deray,
Atchuthan, "A micro Lie theory", 2018; logarithms by inverse scaling and squaring, Higham 2008.)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_NEAR = 0.1  # largest difference from identity at which a few terms of the series are exact


@dataclass(frozen=True, eq=False)
class Algebra:
    """The Lie algebra of the motions of a model, with a basis.

    Args:
        basis: (Q, D+1, D+1) generators about the origin, at reach 1.
        rigid: (Q,) which of them keep distances.
        centre: (D,) world point that rotation, scale and shear leave in place.
        reach: distance from `centre`, in world units, at which motions are measured.
    """

    basis: Floats
    rigid: Bools
    centre: Floats
    reach: float

    @classmethod
    def of(cls, groups: Collection[str], centre: Floats, reach: float, *, common_scale: bool = False) -> Algebra:
        """The smallest algebra that holds a model, which is named by its groups of parameters.

        Groups that do not compose among themselves (a rotation with two scales) give all linear
        motions.
        """
        ndim, linear = len(centre), set(groups) - {"translation"}
        parts: list[tuple[Floats, bool]] = []
        if "translation" in groups:
            parts += [(_shift(k, ndim), True) for k in range(ndim)]
        if "rotation" in linear or "shear" in linear:
            parts += [(_plane(i, j, -1.0, ndim), True) for i in range(ndim) for j in range(i + 1, ndim)]
        if "scale" in linear and common_scale:
            parts += [(_diagonal(np.ones(ndim)), False)]
        elif linear - {"rotation"}:
            parts += [(_diagonal(np.eye(ndim)[k]), False) for k in range(ndim)]
            if linear != {"scale"}:
                parts += [(_plane(i, j, 1.0, ndim), False) for i in range(ndim) for j in range(i + 1, ndim)]
        rigid = np.array([r for _, r in parts])
        return cls(np.stack([b for b, _ in parts]), rigid, np.asarray(centre, dtype=np.float64), float(reach))

    @property
    def size(self) -> int:
        return len(self.basis)

    def log(self, matrices: Floats) -> Floats:
        """(N, Q) coordinates of (N, D+1, D+1) motions with rotations of less than 180 degrees."""
        return self.coordinates(_log(self._inward @ matrices @ self._outward))

    def exp(self, vectors: Floats) -> Floats:
        """(N, D+1, D+1) motions of (N, Q) coordinates."""
        return np.asarray(self._outward @ _exp(self._combined(vectors)) @ self._inward)

    def adjoint(self, matrices: Floats) -> Floats:
        """(N, Q, Q) with T exp(v) T^-1 = exp(adjoint v)."""
        inner = self._inward @ matrices @ self._outward
        moved = inner[:, None] @ self.basis @ np.linalg.inv(inner)[:, None]
        return np.swapaxes(self.coordinates(moved) / self.reach, 1, 2)

    def tangents(self, matrices: Floats, derivatives: Floats) -> Floats:
        """(N, Q, P) with dM = M exp'(J dp), of (N, P, D+1, D+1) derivatives dM/dp."""
        change = np.linalg.inv(matrices)[:, None] @ derivatives
        return np.swapaxes(self.coordinates(self._inward @ change @ self._outward), 1, 2)

    def mean(self, matrices: Floats, weight: Floats) -> Floats:
        """(D+1, D+1) motion about which the weighted logarithms of (N, D+1, D+1) average to zero.

        Their scales then average to one. A mean of the matrices would shrink where rotations differ.
        """
        at: Floats = matrices[int(np.argmax(weight))]
        for _ in range(30):
            step = np.average(self.log(np.linalg.inv(at) @ matrices), axis=0, weights=weight)
            at = at @ self.exp(step[None])[0]
            if np.abs(step).max() < 1e-12 * self.reach:
                break
        return at

    def coordinates(self, elements: Floats) -> Floats:
        """(..., Q) of elements of the algebra (..., D+1, D+1) at reach 1, by least squares."""
        flat = elements.reshape(*elements.shape[:-2], self._projector.shape[0])
        return np.asarray(flat @ self._projector) * self.reach

    def _combined(self, vectors: Floats) -> Floats:
        return np.tensordot(np.asarray(vectors) / self.reach, self.basis, 1)

    @cached_property
    def _projector(self) -> Floats:
        return np.asarray(np.linalg.pinv(self.basis.reshape(self.size, -1)))

    @cached_property
    def _outward(self) -> Floats:
        to = np.diag([self.reach] * len(self.centre) + [1.0])
        to[:-1, -1] = self.centre
        return to

    @cached_property
    def _inward(self) -> Floats:
        return np.asarray(np.linalg.inv(self._outward))


def _shift(axis: int, ndim: int) -> Floats:
    m = np.zeros((ndim + 1, ndim + 1))
    m[axis, -1] = 1
    return m


def _plane(i: int, j: int, sign: float, ndim: int) -> Floats:
    m = np.zeros((ndim + 1, ndim + 1))
    m[j, i], m[i, j] = 1, sign
    return m


def _diagonal(values: Floats) -> Floats:
    return np.diag([*values, 0.0])


def _log(matrices: Floats) -> Floats:
    """Principal logarithms: square roots until near identity, then the series of atanh."""
    m = np.array(matrices, dtype=np.float64)
    eye = np.eye(m.shape[-1])
    power = np.zeros(len(m))
    for _ in range(12):
        far = np.flatnonzero(np.abs(m - eye).max(axis=(1, 2)) > _NEAR)
        if not len(far):
            break
        m[far] = _roots(m[far])
        power[far] += 1
    x = (m - eye) @ np.linalg.inv(m + eye)
    square = x @ x
    series = eye + square @ (eye / 3 + square @ (eye / 5 + square @ (eye / 7 + square / 9)))
    return np.asarray(2.0 ** (power + 1)[:, None, None] * (x @ series))


def _roots(matrices: Floats) -> Floats:
    """Square roots (Denman & Beavers 1976)."""
    y, z = matrices, np.broadcast_to(np.eye(matrices.shape[-1]), matrices.shape)
    for _ in range(25):
        following = (y + np.linalg.inv(z)) / 2
        z = (z + np.linalg.inv(y)) / 2
        done = np.abs(following - y).max() < 1e-14 * max(1.0, np.abs(y).max())
        y = following
        if done:
            break
    return np.asarray(y)


def _exp(elements: Floats) -> Floats:
    """Exponentials by scaling, a Taylor series, and squaring."""
    size = float(np.abs(elements).sum(axis=-1).max(initial=0.0))
    halvings = max(0, int(np.ceil(np.log2(max(size, 1e-300) / 0.25))))
    x = elements / 2.0**halvings
    eye = np.eye(x.shape[-1])
    out = eye + x / 12
    for k in range(11, 0, -1):
        out = eye + x @ out / k
    for _ in range(halvings):
        out = out @ out
    return np.asarray(out)
