"""The linear system of a step for all slices: pairs constrain differences of their fields, the prior each field.

A pair of slices i and j has the residual r + g (d_i - d_j), so that its normal equations H join the coefficients as the
edge of a graph: H (d_i - d_j) for slice i, and the opposite for slice j. It is solved by conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.deformable.cell_sums import Singles, diagonal_blocks, product
from daskreg.registration.deformable.conjugate_gradients import conjugate_gradients
from daskreg.registration.deformable.splines.bending import BendingEnergy

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

# So small a share of the mean information, on the diagonal, leaves no direction without any.
_LEAST = 1e-9


@dataclass(frozen=True)
class JointSystem:
    """The sum of information H over the pairs, and of weight K over the slices, for (N, D, *nodes).

    edges: (E, 2) slices. squares: H of each pair (see `cell_sums`). information: (E,) what each is multiplied by.
    bending: K. weight: of K. free: (N,) slices whose field is estimated; the others keep theirs.
    """

    edges: Ints
    squares: Sequence[Singles]
    information: Floats
    bending: BendingEnergy
    weight: float
    free: Bools

    def __call__(self, vector: Floats) -> Floats:
        v = np.where(self._free, vector, 0.0)
        out = self.weight * self.bending(v) + self._ridge * v
        for (i, j), square, information in zip(self.edges.tolist(), self.squares, self.information, strict=True):
            part = information * product(square, v[i] - v[j])
            out[i] += part
            out[j] -= part
        return np.where(self._free, out, 0.0)

    @property
    def _free(self) -> Bools:
        return self.free.reshape(-1, *[1] * (1 + self.bending.control.ndim))

    @cached_property
    def _diagonals(self) -> Floats:
        """(N, D, D, *nodes) of the pairs."""
        control = self.bending.control
        blocks = np.zeros((len(self.free), control.ndim, control.ndim, *control.shape))
        for (i, j), square, information in zip(self.edges.tolist(), self.squares, self.information, strict=True):
            one = information * diagonal_blocks(square, control.shape)
            blocks[i] += one
            blocks[j] += one
        return blocks

    @cached_property
    def mean_information(self) -> float:
        """Of a coefficient of a slice that is estimated."""
        some = self._diagonals[self.free]
        return float(np.einsum("naa...->na...", some).mean()) if len(some) else 0.0

    @cached_property
    def _ridge(self) -> float:
        return _LEAST * (self.mean_information + self.weight * float(self.bending.diagonal.mean())) + 1e-300

    @cached_property
    def _blocks(self) -> Floats:
        """(N, *nodes, D, D) inverses of the blocks of each control point with itself."""
        blocks = np.moveaxis(self._diagonals, (1, 2), (-2, -1)).copy()
        for a in range(self.bending.control.ndim):
            blocks[..., a, a] += self.weight * self.bending.diagonal + self._ridge
        return np.asarray(np.linalg.inv(blocks))

    def _precondition(self, r: Floats) -> Floats:
        return np.ascontiguousarray(np.einsum("n...ab,nb...->na...", self._blocks, r))

    def solve(
        self,
        right: Floats,
        *,
        held: Bools | None = None,
        start: Floats | None = None,
        tolerance: float = 1e-3,
        most: int = 300,
    ) -> Floats:
        """(N, D, *nodes) the solution, to a share `tolerance` of the right side in the norm of the preconditioner.

        Args:
            held: coefficients that are zero in it.
        """
        some = self._free if held is None else self._free & ~held

        def among(values: Floats) -> Floats:
            return np.where(some, values, 0.0)

        return conjugate_gradients(
            lambda vector: among(self(vector)),
            lambda r: among(self._precondition(r)),
            among(right),
            start=None if start is None else among(start),
            tolerance=tolerance,
            most=most,
        )

    def effective_parameters(self, probe: Floats, *, start: Floats | None = None) -> tuple[float, Floats]:
        """How many of the coefficients the images determine, and the solution for the probe (Hutchinson 1990).

        Args:
            start: a guess of the solution.
        """
        probe = np.where(self._free, probe, 0.0)
        x = self.solve(probe, start=start, tolerance=0.05)
        return float(np.count_nonzero(probe) - self.weight * np.vdot(x, self.bending(probe))), x
