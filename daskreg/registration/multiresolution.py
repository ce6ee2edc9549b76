"""Gauss-Newton over the levels of a pyramid, for a batch of pairs at once.

The poses of B pairs go from a start to the nearest optimum of the metric, coarse to fine;
`levenberg_marquardt` has what happens on a level.

- Outlier regions are rejected from the second level before the finest on (`rejection`).
- The result is never worse than the reference of the start: where the metric on the finest level ends up worse, the
  reference is returned and `improved` is false.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from daskreg.errors import OptionError
from daskreg.registration.border_choice import FINER_LEVELS, borders_fit, solved_without_fill, without_fill
from daskreg.registration.covariance import last_step
from daskreg.registration.estimate import BatchEstimate
from daskreg.registration.initial_pose import Start
from daskreg.registration.levenberg_marquardt import (
    COARSE_TOLERANCE,
    SUBSET_VOXELS,
    Iterate,
    LevelObjective,
    solve_level,
)
from daskreg.registration.noise import with_best_smoothing
from daskreg.registration.problem import Problem, SolverOptions
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.rejection import reject_outliers, with_inliers

Floats = NDArray[np.float64]

# A reference that costs this many times more on a subset of the voxels is not evaluated on all of them.
_CLEARLY_WORSE = 2.0


def estimate_over_levels(
    problem: Problem,
    options: SolverOptions,
    start: Start,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> BatchEstimate:
    """Minimise from a start, coarse to fine, and compare with the reference of the start.

    Args:
        progress: called with (levels done, levels).
    """
    levels, borderless = start.pyramids.levels, start.pyramids.borderless
    p = np.asarray(start.parameters, dtype=np.float64).copy()
    iterations = np.zeros(len(p), dtype=np.int64)
    iterate, inliers = None, None
    rejecting = max(0, len(levels) - 1 - FINER_LEVELS)
    for number in range(len(levels)):
        level, last = levels[number], number == len(levels) - 1
        tolerance = options.tolerance if last else max(options.tolerance, COARSE_TOLERANCE)
        finest = with_inliers(level, inliers)
        # While it is still open which voxels count, a subset of them is enough.
        subset_only = last and options.robust
        iterate = solve_level(
            problem, finest, p, tolerance=tolerance, max_iterations=options.max_iterations, subset_only=subset_only
        )
        if options.robust and number == rejecting:
            if borderless is not None:
                alone = solved_without_fill(problem, options, iterate, (levels, borderless), number)
                if alone is not None:
                    levels, iterate = alone
                    level, borderless = levels[number], None if levels is borderless else borderless
            inliers, iterate = reject_outliers(
                problem, level, iterate, tolerance=tolerance, max_iterations=options.max_iterations
            )
            finest = with_inliers(level, inliers)
            if borderless is not None:
                inner = with_inliers(borderless[number], inliers)
                borderless = None if borders_fit(problem, iterate, level, inner) else borderless
        p, iterations = iterate.parameters, iterations + iterate.iterations
        if progress:
            progress(number + 1, len(levels))
    if iterate is None:
        raise OptionError("levels must be at least 1")
    if options.robust:
        chosen = finest
        if borderless is not None:
            inner = with_inliers(borderless[-1], inliers)
            chosen, iterate = without_fill(problem, options, iterate, level=finest, full=levels[-1], borderless=inner)
        smoother = with_best_smoothing(chosen, iterate.noise, iterate.correlation(problem.metric))
        if chosen is not finest or smoother is not None or math.prod(finest.fixed.grid.shape) > SUBSET_VOXELS:
            finest = smoother or chosen
            iterate = solve_level(
                problem,
                finest,
                iterate.parameters,
                tolerance=options.tolerance,
                max_iterations=options.max_iterations,
            )
            iterations += iterate.iterations
    iterate.iterations = iterations
    return _compared(problem, finest, start, iterate)


def _compared(problem: Problem, level: PyramidLevel, start: Start, iterate: Iterate) -> BatchEstimate:
    """The estimate, with the reference where that is better on the finest level."""
    objective = LevelObjective(problem, level)
    reference = np.asarray(start.reference, dtype=np.float64)
    before = objective.subsampled().evaluate(reference)
    if not np.all(before.cost > _CLEARLY_WORSE * iterate.cost):
        before = objective.evaluate(reference)
    improved = iterate.cost <= before.cost * (1 + 1e-6) + 1e-12
    iterate.assign(~improved, before.take(np.flatnonzero(~improved)))
    step, covariance, _ = last_step(problem, level, iterate)
    iterate.parameters = iterate.parameters + step * improved[:, None]
    return BatchEstimate(
        problem=problem,
        matrices=problem.pose.motions(iterate.parameters, problem.centre)[0],
        parameters=iterate.parameters,
        covariance=covariance,
        before=_score(problem, before.cost, start.pyramids.variance),
        after=_score(problem, iterate.cost, start.pyramids.variance),
        overlap=iterate.overlap,
        iterations=iterate.iterations,
        converged=iterate.converged & improved,
        improved=improved,
        losses=np.stack(iterate.losses),
        step=level.step,
        level=level,
    )


def _score(problem: Problem, cost: Floats, variance: Tensor) -> Floats:
    """(B,) the metric: ncc, or mse in units of the fixed image; NaN where too little overlapped."""
    finite = np.where(np.isfinite(cost), cost, np.nan)
    return 1 - finite if problem.metric == "ncc" else finite * variance.numpy()
