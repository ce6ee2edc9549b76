"""The linear system of a step: information of the images plus that of the prior, solved by conjugate gradients.

They are preconditioned by the diagonal blocks of two grids of control points. Where the images say nothing, only the
prior holds the coefficients, and an error that changes slowly from one control point to the next costs hardly any
bending energy, so that the blocks of single control points hardly lower it. On control points twice as far apart, whose
splines are sums of the finer ones, they do (Bramble, Pasciak & Xu 1990).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.deformable.cell_sums import Singles, diagonal_blocks, product
from daskreg.registration.deformable.conjugate_gradients import conjugate_gradients
from daskreg.registration.deformable.splines.bending import BendingEnergy, along
from daskreg.registration.deformable.splines.control_grid import coarser_axis

Floats = NDArray[np.float64]

# So small a share of the mean information, on the diagonal, leaves no direction without any.
_LEAST = 1e-9
# Of the correction on the coarse grid, which shares waves of middle length with that on the fine one.
_SHARE = 0.5


@dataclass(frozen=True)
class System:
    """(data H + weight K) of coefficients (D, *nodes).

    square: H, see `cell_sums`. data: what H is multiplied by. bending: K. weight: of K. reliability: (*nodes, D, D) S,
    if H says more than the images do: then S^T H S takes the place of H; None: H does.
    """

    square: Singles
    data: float
    bending: BendingEnergy
    weight: float
    reliability: Floats | None = None

    @cached_property
    def _preconditioner(self) -> _Preconditioner:
        blocks = self.data * diagonal_blocks(self.square, self.bending.control.shape)
        if (reliability := self.reliability) is not None:
            blocks = np.einsum("...ca,cd...,...db->ab...", reliability, blocks, reliability)
        return _Preconditioner.of(blocks, self.bending, self.weight, self._ridge)

    @cached_property
    def _ridge(self) -> float:
        middle = diagonal_blocks(self.square, self.bending.control.shape)
        mean = float(np.einsum("aa...->...", middle).mean()) / self.bending.control.ndim
        return _LEAST * (self.data * mean + self.weight * float(self.bending.diagonal.mean())) + 1e-300

    def __call__(self, vector: Floats) -> Floats:
        return self.data * self._said(vector) + self.weight * self.bending(vector) + self._ridge * vector

    def _said(self, vector: Floats) -> Floats:
        """What the images say of H, times a vector."""
        if self.reliability is None:
            return product(self.square, vector)
        found = product(self.square, np.einsum("...ab,b...->a...", self.reliability, vector))
        return np.asarray(np.einsum("...ba,b...->a...", self.reliability, found))

    def solve(self, right: Floats, *, start: Floats | None = None, tolerance: float = 1e-3, most: int = 400) -> Floats:
        """(D, *nodes) the solution, to a share `tolerance` of the right side in the norm of the preconditioner."""
        return conjugate_gradients(self, self._preconditioner, right, start=start, tolerance=tolerance, most=most)

    def inverse(self) -> Floats:
        """(N, N) for N coefficients; of few, since it is dense."""
        shape = self.bending.control.ndim, *self.bending.control.shape
        unit = np.eye(math.prod(shape))
        matrix = np.stack([self(column.reshape(shape)).ravel() for column in unit])
        return np.asarray(np.linalg.inv((matrix + matrix.T) / 2))

    def effective_parameters(self, probe: Floats, *, start: Floats | None = None) -> tuple[float, Floats]:
        """How many coefficients the images determine (effective degrees of freedom), and the solution for the probe.

        The trace of data H / (data H + weight K), by a probe of random signs (Hutchinson 1990).

        Args:
            start: a guess of the solution.
        """
        x = self.solve(probe, start=start, tolerance=0.05)
        return float(probe.size - self.weight * np.vdot(x, self.bending(probe))), x

    def determined(self, noise: Floats, *, start: Floats | None = None) -> tuple[float, Floats]:
        """The same trace, from Gaussian noise of the covariance H, and the solution for that noise.

        It is data times the mean of noise^T A^-1 noise, A being the system. The error of such a form is the square of
        that of the solution, and the noise is as smooth as what steps are solved for, unlike random signs: a fifth of
        the products with A is enough.

        Args:
            start: a guess of the solution.
        """
        x = self.solve(noise, start=start, tolerance=0.1)
        return self.data * float(2 * np.vdot(noise, x) - np.vdot(x, self(x))), x


@dataclass(frozen=True)
class _Preconditioner:
    """An approximate inverse, applied to coefficients (D, *nodes).

    fine: (*nodes, D, D) inverses of the blocks of each control point. coarse: (*m, D, D) of those of a coarser grid.
    splines: (n, m) the coefficients of its splines, for each axis.
    """

    fine: Floats
    coarse: Floats
    splines: tuple[Floats, ...]

    @classmethod
    def of(cls, blocks: Floats, bending: BendingEnergy, weight: float, ridge: float) -> _Preconditioner:
        """For blocks + weight K + ridge.

        Args:
            blocks: (D, D, *nodes) what the images add to the blocks of each control point. Those of the coarse grid are
                taken from their means: information changes little from one control point to the next.
        """
        splines = tuple(coarser_axis(n) for n in bending.control.shape)
        means = blocks
        for axis, p in enumerate(splines, start=2):
            means = along(p.T, means, axis)
        coarse = _inverses(means, weight * bending.diagonal_among(splines) + ridge)
        return cls(_inverses(blocks, weight * bending.diagonal + ridge), coarse, splines)

    def __call__(self, r: Floats) -> Floats:
        restricted = r
        for axis, p in enumerate(self.splines, start=1):
            restricted = along(p.T, restricted, axis)
        correction = _SHARE * _times(self.coarse, restricted)
        for axis, p in enumerate(self.splines, start=1):
            correction = along(p, correction, axis)
        return _times(self.fine, r) + correction


def _inverses(blocks: Floats, diagonal: Floats) -> Floats:
    """(*nodes, D, D) of blocks (D, D, *nodes) with a diagonal (*nodes) added to each."""
    blocks = np.moveaxis(blocks, (0, 1), (-2, -1)).copy()
    for a in range(blocks.shape[-1]):
        blocks[..., a, a] += diagonal
    return np.asarray(np.linalg.inv(blocks))


def _times(blocks: Floats, r: Floats) -> Floats:
    return np.ascontiguousarray(np.einsum("...ab,b...->a...", blocks, r))
