"""What an estimate finds, for a batch of pairs and for one, and the judgement of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.problem import Problem

Floats = NDArray[np.float64]

_LOW_OVERLAP = 0.25
_LOW_NCC = 0.2
# A correlation below _FAIR_NCC is chance where the centre is known to no better than _VAGUE voxels.
_FAIR_NCC, _VAGUE = 0.5, 3.0


class FitStatus(Enum):
    """How an estimate ended; the value says what to do about it."""

    CONVERGED = "converged"
    MAX_ITERATIONS = "stopped before it converged: raise max_iterations, or give a better init"
    LOW_OVERLAP = "little of the images overlaps: check the coordinates and units, or give init= or masks"
    LOW_SCORE = 'the images hardly agree: try init="search", metric="mi" for another modality, or masks'
    NO_IMPROVEMENT = 'nothing better than the start was found: try init="search", or another metric'


@dataclass(frozen=True)
class Estimate:
    """What was found for one pair.

    parameters: (P,) of the free parameters. score: the metric before and after, on the finest level.
    overlap: fraction of the smaller image. losses: over the iterations of the finest level, lower is better.
    covariance: (P, P) of the parameters; None where the metric has no Gauss-Newton form.
    iterations: over all levels.
    """

    parameters: Floats
    status: FitStatus
    score: tuple[float, float]
    overlap: float
    losses: Floats
    covariance: Floats | None
    iterations: int


@dataclass(frozen=True)
class BatchEstimate:
    """What was found for the pairs of a batch, one row for each.

    matrices: (B, D+1, D+1) `moving_from_fixed` in the world, array order.
    parameters: (B, P), of `problem.pose.names`. covariance: (B, P, P), see
    `registration.covariance`.
    before, after: (B,) the metric on the finest level (ncc, or mse in units of the fixed image); NaN
    where too little overlapped. Of large images, `before` is that of a subset of the voxels.
    overlap: (B,) fraction of the smaller image. iterations: (B,), over all levels.
    converged, improved: (B,) bool. losses: (N, B), 1 - ncc or mse over the iterations of
    the finest level, NaN after a pair has stopped. step: size of the finest level's voxels, in the world.
    """

    problem: Problem
    matrices: Floats
    parameters: Floats
    covariance: Floats
    before: Floats
    after: Floats
    overlap: Floats
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]
    improved: NDArray[np.bool_]
    losses: Floats
    step: float

    def pair(self, row: int) -> Estimate:
        """One pair of the batch."""
        losses = self.losses[:, row]
        return Estimate(
            parameters=self.parameters[row],
            status=self._status(row),
            score=(float(self.before[row]), float(self.after[row])),
            overlap=float(self.overlap[row]),
            losses=losses[np.isfinite(losses)],
            covariance=self.covariance[row],
            iterations=int(self.iterations[row]),
        )

    def _status(self, row: int) -> FitStatus:
        status = judged(bool(self.converged[row]), bool(self.improved[row]), float(self.overlap[row]))
        if status is FitStatus.LOW_OVERLAP or self.problem.metric != "ncc":
            return status
        ncc = float(self.after[row])
        chance = ncc < _FAIR_NCC and self._centre_sigma(row) > _VAGUE
        return FitStatus.LOW_SCORE if not ncc >= _LOW_NCC or chance else status

    def _centre_sigma(self, row: int) -> float:
        """The standard deviation, by the covariance, of where the centre of the fixed image is found, in voxels."""
        problem = self.problem
        change = problem.pose.motions(self.parameters[row : row + 1], problem.centre)[1][0]
        moved = (change @ np.append(problem.centre, 1.0))[:, :-1]
        return float(np.sqrt(max(np.trace(moved.T @ self.covariance[row] @ moved), 0.0)) / self.step)


def judged(converged: bool, improved: bool, overlap: float) -> FitStatus:
    """The status that does not depend on the metric."""
    if overlap < _LOW_OVERLAP:
        return FitStatus.LOW_OVERLAP
    if not improved:
        return FitStatus.NO_IMPROVEMENT
    return FitStatus.CONVERGED if converged else FitStatus.MAX_ITERATIONS
