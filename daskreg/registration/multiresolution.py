"""Gauss-Newton over a pyramid, for a batch of pairs at once.

`descend` moves the poses of B pairs of images from a start to the nearest optimum of a
metric, coarse to fine; `kernels.newton` has what happens on a level.

- Regions that contradict each other are left out from the second level before the finest on
  (`kernels.outliers`).
- Never worse than the start: where the metric on the finest level ends up worse, the
  start is given back and `improved` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from daskreg.errors import OptionError
from daskreg.geometry import Grid
from daskreg.registration.levenberg_marquardt import COARSE_TOLERANCE, MANY, Lens, Problem, State, solve_level
from daskreg.registration.masked_pyramids import ways
from daskreg.registration.noise import noise_share, quieted, white
from daskreg.registration.pose import Pose
from daskreg.registration.pyramid import Level, picture, smooth
from daskreg.registration.rejection import LEAST_EVENNESS, agreeing, evenness, masked

Floats = NDArray[np.float64]
METRICS = ("ncc", "mse")
# Flat borders are left out where the rest alone fits much better at the same pose (true
# background fits better than the rest); if but better, it must fit better still when descended again; if
# about as well, twice as well.
_BETTER_STILL = ((0.7, 1.001), (0.85, 0.97), (1.25, 0.5))
# Where the rest fits no better than this on a coarse level, flat borders are kept without a finer look.
_NO_BETTER = 0.97
# A start that costs so much more, by some of the voxels, need not be judged by all of them.
_CLEARLY_WORSE = 2.0
# Levels from the finest on which it is told what contradicts.
_TOLD_AT = 2


@dataclass(frozen=True)
class Descent:
    """Where the pairs of a batch ended, one row for each.

    matrices: (B, D+1, D+1) `moving_from_fixed` in the world, array order.
    parameters: (B, P), of `pose.names`; covariance: (B, P, P), from JtJ and the variance
    of the residual, with its correlation between voxels allowed for; None if not wanted.
    before, after: (B,) the metric on the finest level (ncc, or mse in units of `fixed`); NaN
    where too little overlapped. Of large images, `before` is that of some of the voxels.
    overlap: (B,) fraction of the smaller image. iterations: (B,), all levels.
    converged, improved: (B,) bool. losses: (N, B), 1 - ncc or mse over the iterations of
    the finest level, NaN after a pair has stopped. step: of the finest level's voxels, in the world.
    """

    pose: Pose
    centre: Floats
    matrices: Floats
    parameters: Floats
    covariance: Floats | None
    before: Floats
    after: Floats
    overlap: Floats
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]
    improved: NDArray[np.bool_]
    losses: Floats
    step: float


def descend(
    fixed: Tensor,
    moving: Tensor,
    start: ArrayLike | None = None,
    *,
    fixed_grid: Grid | None = None,
    moving_grid: Grid | None = None,
    model: str | Sequence[str] | Pose = "rigid",
    metric: str = "ncc",
    fixed_mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
    centre: ArrayLike | None = None,
    levels: int | str = "auto",
    smoothing: float = 0.7,
    max_iterations: int = 50,
    tolerance: float = 1e-3,
    min_overlap: float = 0.15,
    covariance: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Descent:
    """Register each of B moving images to its fixed image from a start nearby.

    Args:
        fixed: (B, *shape), or (1, *shape) for one that all share; NaN is masked.
        moving: (B, *shape) or (1, *shape); the shape may differ from that of `fixed`.
        start: (B, D+1, D+1) or (D+1, D+1) `moving_from_fixed` in the world; identity.
        fixed_grid, moving_grid: where the voxels lie; pixels of spacing one by default.
        model: see `Pose.of`. What it locks in `start` is dropped.
        metric: "ncc" or "mse".
        fixed_mask, moving_mask: (B or 1, *shape), positive where voxels count.
        centre: world point that rotation and shear leave in place; that of `fixed_grid`.
        levels: see `pyramid`; 1 is the finest only, for starts within a voxel or two.
        smoothing: sigma of the finest level in voxels.
        max_iterations: for each level.
        tolerance: voxels of the finest level.
        min_overlap: fraction of the smaller image below which no pose is taken.
        covariance: whether to compute it; that costs about as much as an iteration or two.
        progress: called with (levels done, levels).

    Raises: OptionError for an unknown metric or model.
    """
    check_metric(metric)
    fixed_grid = fixed_grid or Grid(fixed.shape[1:])
    moving_grid = moving_grid or Grid(moving.shape[1:])
    f, m = picture(fixed, fixed_grid, fixed_mask), picture(moving, moving_grid, moving_mask)
    steps = ways(f, m, metric, levels=levels, smoothing=smoothing)
    pose = Pose.of(model, fixed_grid.ndim)
    middle = fixed_grid.centre if centre is None else np.asarray(centre, dtype=np.float64)
    batch = max(len(fixed), len(moving))
    begin = np.eye(fixed_grid.ndim + 1) if start is None else np.asarray(start, dtype=np.float64)
    begin = np.broadcast_to(begin, (batch, *begin.shape[-2:]))
    problem = Problem(pose, middle, metric, max_iterations, tolerance, min_overlap)
    first = pose.from_matrices(begin, middle, half_extent(fixed_grid))
    return descend_levels(
        problem, steps.whole, first, steps.variance, content=steps.content, covariance=covariance, progress=progress
    )


def descend_levels(
    problem: Problem,
    levels: Sequence[Level],
    start: ArrayLike,
    variance: Tensor,
    *,
    content: Sequence[Level] | None = None,
    origin: ArrayLike | None = None,
    covariance: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Descent:
    """`descend` from (B, P) parameters over levels that exist already, coarse to fine.

    Args:
        variance: (B or 1,) of the fixed images, by which the levels were scaled.
        content: the same levels without flat borders, where there are any (see `kernels.fill`).
        origin: (B, P) with which the result is compared, where `start` was refined already.
    """
    first = np.asarray(start if origin is None else origin, dtype=np.float64)
    p = np.asarray(start, dtype=np.float64).copy()
    iterations = np.zeros(len(p), dtype=np.int64)
    state, keep = None, None
    told = max(0, len(levels) - 1 - _TOLD_AT)
    for number, level in enumerate(levels):
        last = number == len(levels) - 1
        tolerance = problem.tolerance if last else max(problem.tolerance, COARSE_TOLERANCE)
        finest = _kept(level, keep)
        # Where it is still open what counts, not every voxel is asked.
        state = solve_level(problem, finest, p, tolerance, rough=last and problem.robust)
        if problem.robust and number == told:
            keep, state = agreeing(problem, level, state, tolerance)
            finest = _kept(level, keep)
            if content is not None and _background(problem, state, level, _kept(content[told], keep)):
                content = None
        p, iterations = state.parameters, iterations + state.iterations
        if progress:
            progress(number + 1, len(levels))
    if state is None:
        raise OptionError("levels must be at least 1")
    if problem.robust:
        chosen = finest
        if content is not None:
            chosen, state = _without_fill(problem, finest, (levels[-1], _kept(content[-1], keep)), state)
        quiet = quieted(chosen, state.noise)
        if chosen is not finest or quiet is not None or math.prod(finest.fixed.grid.shape) > MANY:
            finest = quiet or chosen
            state = solve_level(problem, finest, state.parameters, problem.tolerance)
            iterations += state.iterations
    state.iterations = iterations
    found = _finish(problem, finest, first, state, variance)
    return replace(found, covariance=_covariance(problem, finest, state)) if covariance else found


def check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise OptionError(f"metric {metric!r} is not one that Gauss-Newton minimises: use {', '.join(METRICS)}")


def half_extent(grid: Grid) -> Floats:
    return np.asarray(np.maximum((np.asarray(grid.shape) - 1) / 2, 0.5) * np.asarray(grid.spacing))


def _kept(level: Level, keep: Tensor | None) -> Level:
    return level if keep is None else masked(level, keep)


def _odds(problem: Problem, state: State, whole: Level, rest: Level) -> tuple[float, State, State]:
    """How much worse, by the metric, the rest fits than all voxels at the same pose, and both."""
    found = [Lens(problem, level).thinned().evaluate(state.parameters) for level in (whole, rest)]
    return float(found[1].cost.sum() / max(found[0].cost.sum(), 1e-12)), found[0], found[1]


def _background(problem: Problem, state: State, whole: Level, rest: Level) -> bool:
    """Whether flat borders do no harm; told on a coarse level, for the finest is dear to look at."""
    return _odds(problem, state, whole, rest)[0] >= _NO_BETTER


def _without_fill(problem: Problem, level: Level, choice: tuple[Level, Level], state: State) -> tuple[Level, State]:
    """The level to end on: the given one or, where the rest is at odds with flat borders, that without.

    choice: the finest level whole, and without flat borders. It is the same for all pairs.
    """
    inner = choice[1]
    odds, whole, rest = _odds(problem, state, *choice)
    needed = next((better for limit, better in _BETTER_STILL if odds < limit), None)
    if needed is None or (evenness(problem, inner, rest) / evenness(problem, level, whole)).min() < LEAST_EVENNESS:
        return level, state
    again = solve_level(problem, inner, state.parameters, problem.tolerance, rough=True)
    return (inner, again) if again.cost.sum() <= needed * rest.cost.sum() else (level, state)


def _finish(problem: Problem, level: Level, first: Floats, state: State, variance: Tensor) -> Descent:
    """Compare with the start on the finest level, and gather what is reported."""
    lens = Lens(problem, level)
    before = lens.thinned().evaluate(first)
    if not np.all(before.cost > _CLEARLY_WORSE * state.cost):
        before = lens.evaluate(first)
    improved = state.cost <= before.cost * (1 + 1e-6) + 1e-12
    state.put(~improved, before)
    scale = variance.numpy() if problem.metric == "mse" else np.ones(1)
    score = (lambda cost: 1 - cost) if problem.metric == "ncc" else (lambda cost: cost * scale)
    return Descent(
        pose=problem.pose,
        centre=problem.centre,
        matrices=problem.pose.motions(state.parameters, problem.centre)[0],
        parameters=state.parameters,
        covariance=None,
        before=score(np.where(np.isfinite(before.cost), before.cost, np.nan)),
        after=score(np.where(np.isfinite(state.cost), state.cost, np.nan)),
        overlap=state.overlap,
        iterations=state.iterations,
        converged=state.converged & improved,
        improved=improved,
        losses=np.stack(state.losses),
        step=level.step,
    )


def _covariance(problem: Problem, level: Level, state: State) -> Floats:
    """(B, P, P) from the Jacobian and the residual, for noise that was white before smoothing.

    The residual's noise is correlated by the smoothing h, C = N0 (h * h), so the covariance is
    the sandwich H^-1 (J^T C J) H^-1 with H = J^T J. As h * h is h applied twice, J^T C J is N0 times
    the H of images smoothed once more; and N0 is the residual's variance over the sum of h^2.
    Of J^T J only what is signal moves the pose, so H is J^T J less the share of the noise.
    """
    size = np.sqrt(np.maximum(np.diagonal(state.normal, axis1=1, axis2=2), 1e-30))
    scale = 1 / (size[:, :, None] * size[:, None, :])
    inverse = np.linalg.pinv(state.normal * scale, hermitian=True, rcond=1e-9) * scale
    if level.sigmas is None or not any(level.sigmas[1]):
        return np.asarray(inverse * state.noise[:, None, None])
    fixed, moving = (smooth(p, s) for p, s in zip((level.fixed, level.moving), level.sigmas, strict=True))
    again = replace(level, fixed=fixed, moving=moving)
    meat = Lens(replace(problem, min_overlap=0.0), again).thinned().evaluate(state.parameters).normal
    signal = 1 - noise_share(level, state.noise)
    return np.asarray(inverse @ meat @ inverse * (white(level, state.noise) / signal**2)[:, None, None])
