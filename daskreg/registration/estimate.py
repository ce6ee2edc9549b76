"""What an estimate finds, for a batch of pairs and for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.verdict.judge import Verdict
from daskreg.registration.verdicts import FitStatus, status_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """What was found for one pair.

    parameters: (P,) of the free parameters. score: the metric before and after, on the finest level.
    overlap: fraction of the smaller image. losses: over the iterations of the finest level, lower is better.
    covariance: (P, P) of the parameters; None where the metric has no Gauss-Newton form.
    iterations: over all levels. verdict: None where there is none.
    """

    parameters: Floats
    status: FitStatus
    score: tuple[float, float]
    overlap: float
    losses: Floats
    covariance: Floats | None
    iterations: int
    verdict: Verdict | None = None


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
    verdicts: of each pair, or none. level: the finest level, with weight on what took part in the end.
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
    verdicts: Sequence[Verdict] = ()
    level: PyramidLevel | None = None

    def pair(self, row: int) -> Estimate:
        """One pair of the batch."""
        losses = self.losses[:, row]
        verdict, overlap = self.verdicts[row] if self.verdicts else None, float(self.overlap[row])
        converged, improved = bool(self.converged[row]), bool(self.improved[row])
        return Estimate(
            parameters=self.parameters[row],
            status=status_of(verdict, converged=converged, improved=improved, overlap=overlap),
            score=(float(self.before[row]), float(self.after[row])),
            overlap=overlap,
            losses=losses[np.isfinite(losses)],
            covariance=self.covariance[row],
            iterations=int(self.iterations[row]),
            verdict=verdict,
        )
