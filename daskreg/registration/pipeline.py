"""The one way in which images are registered: pyramids, initial pose, levels from coarse to fine, choice of the end.

`register`, `register_many`, the slices of a stack that are registered to one image, and the tests all go through it.
They differ in the options and in the strategy for the initial pose. The neighbours of a stack share images
between pairs, so `stacks.neighbor_registration` composes the same parts in another order.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from daskreg.registration import autograd, score_sums_numba
from daskreg.registration.border_choice import prefers_borderless
from daskreg.registration.estimate import BatchEstimate, Estimate
from daskreg.registration.initial_pose import BestCandidate, InitialPose, Start, reach_of
from daskreg.registration.metrics import Loss
from daskreg.registration.multiresolution import estimate_over_levels
from daskreg.registration.problem import Problem, SolverOptions
from daskreg.registration.pyramids.masked_pyramids import masked_pyramids
from daskreg.registration.pyramids.pyramid import ImageBatch
from daskreg.registration.verdicts import verdict_of_pair, verdicts_of_pyramids, with_brightness, with_errors
from daskreg.runtime.compile_ahead import expected
from daskreg.runtime.progress import Progress
from daskreg.runtime.torch_instead import uses_compiled


def estimate(
    problem: Problem,
    options: SolverOptions,
    fixed: ImageBatch,
    moving: ImageBatch,
    initial_pose: InitialPose,
    *,
    progress: Progress | None = None,
    judged: bool = False,
) -> BatchEstimate:
    """Register each moving image to its fixed image by Gauss-Newton.

    Args:
        fixed, moving: of B pairs, or of one image that all pairs share.
        judged: also come to the verdicts on the pairs.
        progress: called with (levels done, levels).
    """
    compiled = uses_compiled(fixed.values)
    with expected(score_sums_numba.__name__, fixed.grid.ndim) if compiled else nullcontext():
        pyramids = masked_pyramids(fixed, moving, problem.metric, levels=options.levels, smoothing=options.smoothing)
        starts = initial_pose(problem, options, pyramids)
        ends = [estimate_over_levels(problem, options, start, progress=progress) for start in starts]
        best = ends[0]
        if len(ends) == 2:
            full, borderless = (
                (start.pyramids.levels[-1], end.parameters) for start, end in zip(starts, ends, strict=True)
            )
            best = ends[1] if prefers_borderless(problem, full, borderless) else best
        if not judged:
            return best
        verdicts = verdicts_of_pyramids(problem, pyramids, best.parameters, reach=reach_of(initial_pose))
        verdicts = with_errors(problem, verdicts, best.covariance, best.parameters, grid=pyramids.grid, step=best.step)
        if problem.metric == "mse" and best.level is not None:
            verdicts = with_brightness(problem, verdicts, best.level, best.parameters)
        return replace(best, verdicts=verdicts)


def estimate_by_autograd(
    problem: Problem,
    options: SolverOptions,
    fixed: ImageBatch,
    moving: ImageBatch,
    initial_pose: BestCandidate,
    *,
    loss: Loss,
    optimizer: str,
    progress: Progress | None = None,
) -> Estimate:
    """Register one moving image to its fixed image by a differentiable loss (see `autograd`)."""
    pyramids = masked_pyramids(fixed, moving, problem.metric, levels=options.levels, smoothing=options.smoothing)
    reference, candidates = initial_pose.candidates(problem, pyramids)
    best = autograd.best_candidate(problem, options, pyramids.levels[0], candidates, loss)
    start = Start(pyramids, best, reference)
    judge = partial(verdict_of_pair, problem, pyramids)
    return autograd.minimise(problem, options, start, loss, optimizer=optimizer, judge=judge, progress=progress)
