"""Gauss-Newton over a pyramid, for a batch of pairs at once.

`descend` moves the poses of B pairs of images from a start to the nearest optimum of a
metric. The poses are motions M(p) in the world, `moving_from_fixed`; between a level's
grids they become maps of indices A = moving_from_world . M(p) . world_from_fixed, and
everything that touches voxels happens in one pass (`kernels.normal`) that returns the
sums of a full affine Gauss-Newton system; the model's own system is that one times
dA/dp, tiny and float64. So a model costs nothing, and the same code serves 2D and 3D.

- Forward additive: the moving image and its gradient are sampled at the current pose.
- "mse" minimises the mean of (f - w)^2. "ncc" is 1 - Pearson's correlation, by variable
  projection (Golub & Pereyra 1973, in Kaufman's form): gain and offset of the best fit
  f = a w + b are solved for at every pose and projected out of the Jacobian. Where the
  correlation is low, a is kept from going to zero or below, so steps stay finite and
  always look for a positive correlation.
- All sums run over the overlap: the edges of both images with a short ramp, times the
  masks. A step that would leave less than `min_overlap` of the smaller image is refused.
- Levenberg-Marquardt damping, scaled by the diagonal: a step is taken only if the metric
  improves; so directions the images do not tell (shear and rotation together near
  identity) stay where they are.
- A pair has converged when a step moves no corner of the fixed image by more than
  `tolerance` voxels of its level; then it stops, and leaves the batch when half are done.
- Never worse than the start: where the metric on the finest level ends up worse, the
  start is given back and `improved` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from daskreg.errors import OptionError
from daskreg.geometry import Grid
from daskreg.kernels.fill import without_fill
from daskreg.kernels.normal import Normal, Sums, normal_of, possible_overlap, scaling
from daskreg.kernels.pose import Pose
from daskreg.kernels.pyramid import Level, Picture, picture, pyramid, smooth

Floats = NDArray[np.float64]
METRICS = ("ncc", "mse")
# Correlations below this take steps as if they were this high.
_LEAST_CORRELATION = 0.3
_COARSE_TOLERANCE = 0.02
# Flat borders are left out where they are at odds with the other image: the rest alone
# fits better at the same pose (true background fits better than the rest), and better
# still when descended again, or about as well, and then twice as well.
_AT_ODDS, _STILL_BETTER = 0.75, 0.97
_PERHAPS, _TWICE = 1.25, 0.5
# How evenly the rest must hold the pose, against all voxels.
_LEAST_EVENNESS = 0.05


@dataclass(frozen=True)
class Descent:
    """Where the pairs of a batch ended, one row for each.

    matrices: (B, D+1, D+1) `moving_from_fixed` in the world, array order.
    parameters: (B, P), of `pose.names`; covariance: (B, P, P), from JtJ and the variance
    of the residual, with its correlation between voxels allowed for; None if not wanted.
    before, after: (B,) the metric on the finest level (ncc, or mse in units of `fixed`); NaN
    where too little overlapped.
    overlap: (B,) fraction of the smaller image. iterations: (B,), all levels.
    converged, improved: (B,) bool. losses: (N, B), 1 - ncc or mse over the iterations of
    the finest level, NaN after a pair has stopped.
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
    f, m, variance = standardised(f, m, metric)
    steps = pyramid(f, m, levels=levels, smoothing=smoothing)
    pose = Pose.of(model, fixed_grid.ndim)
    middle = fixed_grid.centre if centre is None else np.asarray(centre, dtype=np.float64)
    batch = max(len(fixed), len(moving))
    begin = np.eye(fixed_grid.ndim + 1) if start is None else np.asarray(start, dtype=np.float64)
    begin = np.broadcast_to(begin, (batch, *begin.shape[-2:]))
    problem = Problem(pose, middle, metric, max_iterations, tolerance, min_overlap)
    first = pose.from_matrices(begin, middle, half_extent(fixed_grid))
    return descend_levels(problem, steps, first, variance, covariance=covariance, progress=progress)


def descend_levels(
    problem: Problem,
    levels: Sequence[Level],
    start: Tensor,
    variance: Tensor,
    *,
    origin: Tensor | None = None,
    covariance: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Descent:
    """`descend` from (B, P) parameters over levels that exist already, coarse to fine.

    Args:
        variance: (B or 1,) of the fixed images, by which the levels were scaled.
        origin: (B, P) with which the result is compared, where `start` was refined already.
    """
    p, iterations = start.clone(), torch.zeros(len(start), dtype=torch.int64)
    state: State | None = None
    for number, level in enumerate(levels):
        last = number == len(levels) - 1
        tolerance = problem.tolerance if last else max(problem.tolerance, _COARSE_TOLERANCE)
        state = solve_level(problem, level, p, tolerance)
        p, iterations = state.parameters, iterations + state.iterations
        if progress:
            progress(number + 1, len(levels))
    if state is None:
        raise OptionError("levels must be at least 1")
    state.iterations = iterations
    finest = levels[-1]
    odds = _odds(problem, levels[max(0, len(levels) - 2)], state.parameters)
    if odds < _PERHAPS:
        finest, state = _leave_out_fill(problem, finest, state, _STILL_BETTER if odds < _AT_ODDS else _TWICE)
    found = _finish(problem, finest, start if origin is None else origin, state, variance)
    return replace(found, covariance=_covariance(problem, finest, state).numpy()) if covariance else found


@dataclass(frozen=True)
class Problem:
    """What stays the same over the levels."""

    pose: Pose
    centre: Floats
    metric: str
    max_iterations: int = 50
    tolerance: float = 1e-3
    min_overlap: float = 0.15


@dataclass
class State:
    """Where the pairs are on one level; rows are pairs."""

    parameters: Tensor
    cost: Tensor
    overlap: Tensor
    normal: Tensor
    right: Tensor
    noise: Tensor
    iterations: Tensor
    converged: Tensor
    losses: list[Floats] = field(default_factory=list)


def check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise OptionError(f"metric {metric!r} is not one that Gauss-Newton minimises: use {', '.join(METRICS)}")


def half_extent(grid: Grid) -> Floats:
    return np.asarray(np.maximum((np.asarray(grid.shape) - 1) / 2, 0.5) * np.asarray(grid.spacing))


def standardised(fixed: Picture, moving: Picture, metric: str) -> tuple[Picture, Picture, Tensor]:
    """Both images with mean 0 and variance 1 (mse: on one common scale), and the (B,) variance of fixed.

    Sums of squares then lose no digits to a large offset.
    """
    mean, variance = _mean_and_variance(fixed)
    other_mean, other_variance = _mean_and_variance(moving)
    if metric == "mse":
        other_mean, other_variance = mean, variance
        if len(mean) < len(moving.values):
            other_mean, other_variance = (t.expand(len(moving.values)) for t in (mean, variance))
        elif len(moving.values) < len(mean):
            moving = replace(moving, values=moving.values.expand(len(mean), *moving.values.shape[1:]))
    return _scaled(fixed, mean, variance), _scaled(moving, other_mean, other_variance), variance.cpu()


def evaluate(problem: Problem, level: Level, normal: Normal, possible: Tensor, p: Tensor) -> State:
    """Cost, overlap and the model's normal equations at parameters (B, P)."""
    maps = index_maps(problem.pose.matrices(p, problem.centre), level)[:, :-1]
    sums = normal(maps)
    change = index_maps(problem.pose.derivatives(p, problem.centre), level)[..., :-1, :].flatten(2)
    overlap = (sums.scalars[:, 0] / possible).clamp(max=1.0)
    cost, jj, jr, noise = _ncc(sums) if problem.metric == "ncc" else _mse(sums)
    cost = torch.where(overlap >= problem.min_overlap, cost, torch.inf)
    right = (change * jr[:, None]).sum(-1)
    count = torch.zeros(len(p), dtype=torch.int64)
    return State(p, cost, overlap, change @ jj @ change.mT, right, noise, count, count > 0)


def solve_level(
    problem: Problem, level: Level, start: Tensor, tolerance: float, *, max_iterations: int | None = None
) -> State:
    """Levenberg-Marquardt on one level, until each pair stops."""
    possible = possible_overlap(level).expand(len(start))
    normal = normal_of(level)
    state = evaluate(problem, level, normal, possible, start.clone())
    corners = corners_of(level.fixed.grid)
    damping = torch.full((len(start),), 1e-3, dtype=torch.float64)
    held = torch.arange(len(start))
    running = torch.isfinite(state.cost)
    state.losses.append(state.cost.numpy().copy())
    for _ in range(max_iterations or problem.max_iterations):
        active = held[running[held]]
        if len(active) == 0:
            break
        if 2 * len(active) <= len(held):
            position = torch.searchsorted(held, active)
            normal, held = normal.take(position), active
        here = State(*(getattr(state, n)[held] for n in _ROWS))
        step, moved = _step(problem, level, here, damping[held], corners)
        trial = evaluate(problem, level, normal, possible[held], here.parameters + step)
        on = running[held]
        better = on & (trial.cost < here.cost)
        for name in _ROWS[:6]:
            getattr(state, name)[held[better]] = getattr(trial, name)[better]
        damping[held] = torch.where(better, damping[held] / 10, damping[held] * 10).clamp(1e-9, 1e12)
        state.iterations[held[on]] += 1
        done = on & (moved < tolerance)
        state.converged[held[done]] = True
        running[held[done]] = False
        losses = np.full(len(start), np.nan)
        losses[held[on].numpy()] = state.cost[held[on]].numpy()
        state.losses.append(losses)
    return state


_ROWS = ("parameters", "cost", "overlap", "normal", "right", "noise", "iterations", "converged")


def _step(problem: Problem, level: Level, here: State, damping: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """(B, P) damped steps and the (B,) voxels by which they move the farthest corner.

    Solved in units of each parameter's own diagonal, so that radians and micrometres mix.
    """
    limit = max(2.0, 0.2 * max(level.fixed.grid.shape))
    size = here.normal.diagonal(dim1=1, dim2=2).clamp_min(1e-30).sqrt()
    scaled = here.normal / (size[:, :, None] * size[:, None, :])
    eye = torch.eye(size.shape[1], dtype=torch.float64)
    step = torch.linalg.solve(scaled + (damping[:, None, None] + 1e-10) * eye, here.right / size) / size
    for _ in range(2):
        change = problem.pose.matrices(here.parameters + step, problem.centre) - problem.pose.matrices(
            here.parameters, problem.centre
        )
        moved = (change[:, :-1] @ corners).norm(dim=1).amax(-1) / level.step
        if bool((moved <= limit).all()):
            break
        step = step * (limit / moved).clamp(max=1.0)[:, None]
    return step, moved


def _ncc(sums: Sums) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1 - ncc, the projected normal equations in the full affine basis, the residual's variance."""
    n, d, w, dd, dw, ww = sums.scalars.unbind(-1)
    n = n.clamp_min(1e-9)
    vdd, vdw, vww = dd - d * d / n, dw - d * w / n, (ww - w * w / n).clamp_min(1e-12)
    vff = (vdd + 2 * vdw + vww).clamp_min(1e-12)
    unexplained = ((vdd - vdw * vdw / vww) / vff).clamp(0, 1)
    ncc = torch.sign(vdw + vww) * (1 - unexplained).sqrt()
    cost = torch.where(ncc > 0, unexplained / (1 + ncc), 1 - ncc)
    # An overlap without contrast says nothing.
    cost = torch.where((vww > 1e-6 * n) & (vff > 1e-6 * n), cost, torch.full_like(cost, 2.0))
    gain = ncc.clamp_min(_LEAST_CORRELATION) * (vff / vww).sqrt()
    jw = sums.jw - sums.j * (w / n)[:, None]
    jj = sums.jj - sums.j[:, :, None] * (sums.j / n[:, None])[:, None, :]
    jj = jj - jw[:, :, None] * (jw / vww[:, None])[:, None, :]
    jr = sums.jd - sums.j * (d / n)[:, None] - jw * (vdw / vww)[:, None]
    return cost, jj * gain[:, None, None] ** 2, jr * gain[:, None], unexplained * vff / n


def _mse(sums: Sums) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, _, _, dd, _, _ = sums.scalars.unbind(-1)
    mean = dd / n.clamp_min(1e-9)
    return mean, sums.jj, sums.jd, mean


def index_maps(matrices: Tensor, level: Level) -> Tensor:
    """World maps (or their derivatives) as maps from xi to moving indices."""
    inner = torch.as_tensor(level.moving.grid.inverse_matrix)
    outer = torch.as_tensor(level.fixed.grid.matrix) @ scaling(level.fixed.grid.shape)
    return inner @ matrices @ outer


def corners_of(grid: Grid) -> Tensor:
    """(D+1, 2**D) homogeneous world corners, the centres of the corner voxels."""
    ends = np.stack([np.zeros(grid.ndim), np.asarray(grid.shape) - 1.0])
    bits = np.indices((2,) * grid.ndim).reshape(grid.ndim, -1).T
    points = grid.world(np.take_along_axis(ends, bits, axis=0))
    return torch.as_tensor(np.concatenate([points, np.ones((len(points), 1))], axis=1).T)


def _mean_and_variance(image: Picture) -> tuple[Tensor, Tensor]:
    values = image.values.flatten(1).to(torch.float64)
    if image.weight is None:
        return values.mean(1), values.var(1, correction=0)
    weight = image.weight.flatten(1).to(torch.float64)
    total = weight.sum(1).clamp_min(1e-9)
    mean = (values * weight).sum(1) / total
    return mean, ((values - mean[:, None]).square() * weight).sum(1) / total


def _scaled(image: Picture, mean: Tensor, variance: Tensor) -> Picture:
    one = (-1, *[1] * image.grid.ndim)
    sd = variance.sqrt()
    sd = torch.where(sd > 0, sd, torch.ones_like(sd))
    values = (image.values - mean.to(torch.float32).reshape(one)) / sd.to(torch.float32).reshape(one)
    if image.weight is not None:
        values = values * (image.weight > 0)
    return replace(image, values=values)


def _odds(problem: Problem, level: Level, p: Tensor) -> float:
    """What the voxels off flat borders leave unexplained, over what all do; infinite without such borders."""
    inner = without_fill(level, margin=2)
    if inner is None:
        return math.inf
    whole, rest = (
        evaluate(problem, one, normal_of(one), possible_overlap(one).expand(len(p)), p) for one in (level, inner)
    )
    ratio = float(rest.cost.sum()) / max(float(whole.cost.sum()), 1e-12)
    return ratio if _tells_enough(problem, level, rest, whole) else math.inf


def _leave_out_fill(problem: Problem, level: Level, state: State, better: float) -> tuple[Level, State]:
    """Descend again without flat borders; kept, for all pairs or none, where the rest gets `better`."""
    inner = without_fill(level)
    if inner is None:
        return level, state
    possible = possible_overlap(inner).expand(len(state.cost))
    before = evaluate(problem, inner, normal_of(inner), possible, state.parameters)
    if not _tells_enough(problem, level, before, state):
        return level, state
    again = solve_level(problem, inner, state.parameters, problem.tolerance)
    if not float(again.cost.sum()) < better * float(before.cost.sum()):
        return level, state
    again.iterations += state.iterations
    again.losses = state.losses + again.losses[1:]
    return inner, again


def _tells_enough(problem: Problem, level: Level, rest: State, whole: State) -> bool:
    """Whether the rest of the voxels holds the pose about as evenly, in all directions, as all of them."""
    change = problem.pose.derivatives(rest.parameters, problem.centre)[..., :-1, :] @ corners_of(level.fixed.grid)
    unit = change.norm(dim=2).amax(-1).clamp_min(1e-12)
    evenness = []
    for state in (rest, whole):
        values = torch.linalg.eigvalsh((state.normal / (unit[:, :, None] * unit[:, None, :])).sum(0))
        evenness.append(float((values[0] / values[-1].clamp_min(1e-12)).clamp_min(1e-7)))
    return evenness[0] > _LEAST_EVENNESS * evenness[1]


def _finish(problem: Problem, level: Level, first: Tensor, state: State, variance: Tensor) -> Descent:
    """Compare with the start on the finest level, and gather what is reported."""
    possible = possible_overlap(level).expand(len(first))
    before = evaluate(problem, level, normal_of(level), possible, first)
    improved = state.cost <= before.cost * (1 + 1e-6) + 1e-12
    for name in _ROWS[:6]:
        getattr(state, name)[~improved] = getattr(before, name)[~improved]
    scale = variance.expand(len(first)) if problem.metric == "mse" else torch.ones(1, dtype=torch.float64)
    score = (lambda cost: 1 - cost) if problem.metric == "ncc" else (lambda cost: cost * scale)
    return Descent(
        pose=problem.pose,
        centre=problem.centre,
        matrices=problem.pose.matrices(state.parameters, problem.centre).numpy(),
        parameters=state.parameters.numpy(),
        covariance=None,
        before=score(torch.where(before.cost.isfinite(), before.cost, torch.nan)).numpy(),
        after=score(torch.where(state.cost.isfinite(), state.cost, torch.nan)).numpy(),
        overlap=state.overlap.numpy(),
        iterations=state.iterations.numpy(),
        converged=(state.converged & improved).numpy(),
        improved=improved.numpy(),
        losses=np.stack(state.losses),
    )


def _covariance(problem: Problem, level: Level, state: State) -> Tensor:
    """(B, P, P) from the Jacobian and the residual, for noise that was white before smoothing.

    The residual's noise is correlated by the smoothing h, C = N0 (h * h), so the covariance is
    the sandwich H^-1 (J^T C J) H^-1 with H = J^T J. As h * h is h applied twice, J^T C J is N0 times
    the H of images smoothed once more; and N0 is the residual's variance over the sum of h^2.
    """
    size = state.normal.diagonal(dim1=1, dim2=2).clamp_min(1e-30).sqrt()
    scale = 1 / (size[:, :, None] * size[:, None, :])
    inverse: Tensor = torch.linalg.pinv(state.normal * scale, hermitian=True, rtol=1e-9) * scale
    if level.sigmas is None or not any(level.sigmas[1]):
        return inverse * state.noise[:, None, None]
    fixed, moving = (smooth(p, s) for p, s in zip((level.fixed, level.moving), level.sigmas, strict=True))
    again = replace(level, fixed=fixed, moving=moving)
    possible = torch.ones(len(state.cost), dtype=torch.float64)
    meat = evaluate(problem, again, normal_of(again), possible, state.parameters).normal
    white = state.noise * math.prod(2 * math.sqrt(math.pi) * s for s in level.sigmas[0] if s > 0)
    return inverse @ meat @ inverse * white[:, None, None]
