"""The normal equations of all poses together, with the volume eliminated.

What each projection has by itself, and the right side, are sums over all pixels. What couples projections is (1 - H),
by which each row of the aligned projections is changed for itself. It is alike in all rows, and only the way to the
solution depends on it, not the solution, where the right side is zero. So where there are many rows, the coupling is
that of a sample of them. Where reprojections take no iterations, and there are not too many projections, it is made
once for each evaluation, as a matrix (see `coupling_matrix`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, gmres

from daskreg.tomography.reprojection import Reprojection

Floats = NDArray[np.float64]
Array = NDArray[Any]

SAMPLED_ROWS = 16
_INNER = 25  # iterations of GMRES
_INNER_TOLERANCE, _TOLERANCE_OF_SHIFTS = 0.01, 0.05
"""Residuals of GMRES, of the right side; the second one where each iteration takes reprojections. A turn is hardly
determined beside shifts: with the larger one, steps leave it out, and do not settle."""
_MOST_INNER, _EXACT_TOLERANCE = 100, 1e-3
# The matrix is made of as many bytes, at most, and of so many projections for each column: the time for it grows with
# the square of their number, that of the iterations in its place with the number.
_MATRIX_BYTES, _PROJECTIONS_PER_COLUMN = 64 << 20, 6


@dataclass(frozen=True)
class Sums:
    """Sums over the pixels of a problem; they add up over blocks of rows.

    Args:
        own: (A, P, P) normal equations of each projection alone.
        common: (S,) diagonal of those of the shared parameters.
        score: (A, P) right side.
        shared: (S,) right side of the shared parameters.
        left, power: (A,) of the squares of the residual, and of the aligned projections.
        weight: of all pixels.
        pixels: of one projection.
    """

    own: Floats
    common: Floats
    score: Floats
    shared: Floats
    left: Floats
    power: Floats
    weight: float
    pixels: int

    @property
    def misfit(self) -> float:
        """The mean square of the residual over the pixels that count: what steps make smaller."""
        return float(self.left.sum()) / max(float(self.weight), 1e-30)

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def scales(self) -> tuple[Floats, Floats]:
        """(A, P, P) inverse Cholesky factors of `own`, and (S,) of `common`: in the units that they make, all
        parameters change the images by as much."""
        count = self.own.shape[1]
        diagonal = np.einsum("app->ap", self.own)
        least = 1e-6 * diagonal + np.maximum(1e-9 * diagonal.max(axis=0), 1e-30)
        factors = np.linalg.cholesky(self.own + least[:, :, None] * np.eye(count))
        return np.linalg.inv(factors), 1 / np.sqrt(np.maximum(self.common, 1e-30))


@dataclass(frozen=True)
class Coupling:
    """What a sample of rows says of how projections are coupled.

    Args:
        basis: (P + S, A, U, R) derivatives by the parameters of a projection and the shared ones, scaled so that
            sums of their squares are those of all rows.
        weight: (A, U, R).
        count: P.
    """

    basis: Array
    weight: Array
    count: int
    _made: dict[str, Floats] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, basis: Array, weight: Array, count: int, rows: int = SAMPLED_ROWS) -> Coupling:
        """A sample of the rows of (P + S, A, U, V), those that determine more more often (systematic sampling
        proportional to size, Madow 1949)."""
        if basis.shape[3] <= rows:
            return cls(basis, weight, count)
        # The parameters have different units: each counts by its share.
        power = np.einsum("pauv,pauv,auv->pv", basis, basis, weight, optimize=True).astype(np.float64)
        share = (power / np.maximum(power.sum(axis=1, keepdims=True), 1e-30)).mean(axis=0)
        if not share.sum() > 0:
            share = np.full(len(share), 1 / len(share))
        ends = np.cumsum(share) / share.sum()
        chosen = np.searchsorted(ends, (np.arange(rows) + 0.5) / rows)
        scale = 1 / np.sqrt(rows * share[chosen] / share.sum())
        return cls(basis[..., chosen] * scale.astype(np.float32), weight[..., chosen], count)

    @classmethod
    def together(cls, parts: list[Coupling], number: int) -> Coupling:
        """Samples of some of so many blocks, for all of them."""
        basis, weight = (np.concatenate([getattr(p, name) for p in parts], axis=-1) for name in ("basis", "weight"))
        return cls(basis * np.float32(np.sqrt(number / len(parts))), weight, parts[0].count)

    def changed(self, values: Floats, shared: Floats) -> Array:
        """(A, U, R) change of the rows by (A, P) parameters and the shared ones."""
        own = np.einsum("ap,pauv->auv", values.astype(np.float32), self.basis[: self.count], optimize=True)
        for value, basis in zip(shared, self.basis[self.count :], strict=True):
            own += np.float32(value) * basis
        return np.asarray(own) * self.weight

    def sums(self, image: Array) -> Sums:
        """Those of these rows, with an (A, U, R) image as the residual."""
        own, common = self.basis[: self.count], self.basis[self.count :]
        weighted = image * self.weight
        return Sums(
            _double("pauv,qauv,auv->apq", own, own, self.weight),
            _double("pauv,pauv,auv->p", common, common, self.weight),
            _double("pauv,auv->ap", own, weighted),
            _double("pauv,auv->p", common, weighted),
            np.zeros(len(image)),
            np.zeros(len(image)),
            0.0,
            0,
        )

    def solve(
        self, sums: Sums, reproject: Reprojection, gauge: Floats, *, exact: bool = False
    ) -> tuple[Floats, Floats]:
        """The step (A, P) and the shared one, without directions in which nothing is determined.

        Args:
            gauge: (K, A, P) those directions. The right side has parts in them, by filters and borders, which would be
                divided by next to nothing.
            exact: where a wedge is missing, go on until what the data hardly determine is found too, which later steps
                else make up for.
        """
        size = sums.score.shape
        split = size[0] * size[1]
        every = sums.scales()

        # The directions in the unknowns that `_unscaled` takes.
        directions = np.linalg.solve(np.swapaxes(every[0], 1, 2), gauge[..., None])[..., 0].reshape(len(gauge), split)
        free = np.pad(np.linalg.qr(directions.T)[0].T, ((0, 0), (0, len(sums.shared))))
        matrix = None if reproject.iterated or not self._may_be_a_matrix() else self._matrix(reproject)

        def apply(unknown: Floats) -> Floats:
            left = free.T @ (free @ unknown)
            found = self._seen(unknown - left, reproject) if matrix is None else matrix @ (unknown - left)
            return found - free.T @ (free @ found) + left

        right = _scaled(every, sums.score, sums.shared)
        right -= free.T @ (free @ right)
        operator = LinearOperator((len(right), len(right)), matvec=apply, dtype=np.float64)
        tolerance, most = (_EXACT_TOLERANCE, _MOST_INNER) if exact else (_INNER_TOLERANCE, _INNER)
        if matrix is None and not exact and len(self.basis) <= 2:
            tolerance = _TOLERANCE_OF_SHIFTS
        return _unscaled(every, gmres(operator, right, rtol=tolerance, restart=most, maxiter=1)[0])

    @cached_property
    def _scales(self) -> tuple[Floats, Floats]:
        return self.sums(np.zeros_like(self.weight)).scales()

    def _seen(self, unknown: Floats, reproject: Reprojection) -> Floats:
        """What the normal equations make of unknowns, by reprojection."""
        change = self.changed(*_unscaled(self._scales, unknown))
        change = (change - reproject(change)) * self.weight
        own = _double("pauv,auv->ap", self.basis[: self.count], change)
        return _scaled(self._scales, own, _double("pauv,auv->p", self.basis[self.count :], change))

    def _may_be_a_matrix(self) -> bool:
        count, angles, columns, _ = self.basis.shape
        copies = 3  # while it is made
        fits = copies * 8 * (angles * count) ** 2 <= _MATRIX_BYTES
        return bool(fits and angles <= _PROJECTIONS_PER_COLUMN * columns)

    def _matrix(self, reproject: Reprojection) -> Floats:
        """The matrix of `_seen`, which is made once."""
        if "matrix" in self._made:
            return self._made["matrix"]
        seen = self.basis * self.weight
        found, alone, own = -reproject.coupling(seen), np.arange(len(self.weight)), self.count
        found[alone, :, alone] += _double("pauv,qauv->apq", seen, seen)
        factors, common = self._scales
        size = len(alone) * own
        # What the shared parameters do is the sum of what they do to each projection.
        each = np.einsum("apq,aqbr,bsr->apbs", factors, found[:, :own, :, :own], factors, optimize=True)
        by_shared = np.einsum("apq,aqs->aps", factors, found[:, :own, :, own:].sum(axis=2))
        on_shared = np.einsum("bpq,sbq->sbp", factors, found[:, own:, :, :own].sum(axis=0))
        both = found[:, own:, :, own:].sum(axis=(0, 2)) * np.outer(common, common)
        rows = [each.reshape(size, size), by_shared.reshape(size, -1) * common]
        last = [on_shared.reshape(-1, size) * common[:, None], both]
        self._made["matrix"] = np.block([rows, last])
        return self._made["matrix"]


def _scaled(scales: tuple[Floats, Floats], own: Floats, shared: Floats) -> Floats:
    """Right sides (A, P) and (S,) in the units of scales, in one row."""
    return np.concatenate([np.einsum("apq,aq->ap", scales[0], own).ravel(), shared * scales[1]])


def _unscaled(scales: tuple[Floats, Floats], unknown: Floats) -> tuple[Floats, Floats]:
    """Parameters (A, P) and (S,) from unknowns in those units."""
    size = scales[0].shape[:2]
    split = size[0] * size[1]
    return np.einsum("aqp,aq->ap", scales[0], unknown[:split].reshape(size)), unknown[split:] * scales[1]


def _double(subscripts: str, *arrays: Array) -> Floats:
    return np.asarray(np.einsum(subscripts, *arrays, optimize=True), dtype=np.float64)
