"""The linear system of a step: information of the images plus that of the prior, solved by conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.deformable.bending import BendingEnergy
from daskreg.registration.deformable.cell_sums import Singles, diagonal_blocks, product
from daskreg.registration.deformable.conjugate_gradients import conjugate_gradients

Floats = NDArray[np.float64]

# So small a share of the mean information, on the diagonal, leaves no direction without any.
_LEAST = 1e-9


@dataclass(frozen=True)
class System:
    """(data H + weight K) of coefficients (D, *nodes).

    square: H, see `cell_sums`. data: what H is multiplied by. bending: K. weight: of K. told: (*nodes) bool, false
    for control points of which H does not count; None: it counts for all.
    """

    square: Singles
    data: float
    bending: BendingEnergy
    weight: float
    told: NDArray[np.bool_] | None = None

    @property
    def ndim(self) -> int:
        return self.bending.control.ndim

    @cached_property
    def _blocks(self) -> Floats:
        """(*nodes, D, D) inverses of the blocks of each control point with itself."""
        blocks = self.data * diagonal_blocks(self.square, self.bending.control.shape)
        blocks = np.moveaxis(blocks if self.told is None else blocks * self.told, (0, 1), (-2, -1)).copy()
        for a in range(self.ndim):
            blocks[..., a, a] += self.weight * self.bending.diagonal + self._ridge
        return np.asarray(np.linalg.inv(blocks))

    @cached_property
    def _ridge(self) -> float:
        middle = diagonal_blocks(self.square, self.bending.control.shape)
        mean = float(np.einsum("aa...->...", middle).mean()) / self.ndim
        return _LEAST * (self.data * mean + self.weight * float(self.bending.diagonal.mean())) + 1e-300

    def __call__(self, vector: Floats) -> Floats:
        return self.data * self._said(vector) + self.weight * self.bending(vector) + self._ridge * vector

    def _said(self, vector: Floats) -> Floats:
        """H times a vector, without the control points that do not count."""
        if self.told is None:
            return product(self.square, vector)
        return product(self.square, vector * self.told) * self.told

    def solve(self, right: Floats, *, start: Floats | None = None, tolerance: float = 1e-3, most: int = 400) -> Floats:
        """(D, *nodes) the solution, to a share `tolerance` of the right side in the norm of the preconditioner."""
        return conjugate_gradients(self, self._precondition, right, start=start, tolerance=tolerance, most=most)

    def _precondition(self, r: Floats) -> Floats:
        return np.ascontiguousarray(np.einsum("...ab,b...->a...", self._blocks, r))

    def effective_parameters(self, probe: Floats, *, start: Floats | None = None) -> tuple[float, Floats]:
        """How many of the coefficients the images determine, and the solution for the probe.

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
