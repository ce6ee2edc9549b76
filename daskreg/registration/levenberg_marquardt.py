"""Levenberg-Marquardt on one level of a pyramid, for a batch of pairs at once.

The poses are motions M(p) in the world, `moving_from_fixed`; between a level's grids they
become maps of indices A = moving_from_world . M(p) . world_from_fixed, and everything that
touches voxels happens in one pass (`kernels.normal`) that returns the sums of a full affine
Gauss-Newton system; the model's own system is that one times dA/dp, tiny and float64. So a
model costs nothing, and the same code serves 2D and 3D.

- Forward additive: the moving image is sampled at the current pose; see `kernels.normal` for the gradient.
- "mse" minimises the mean of (f - w)^2. "ncc" is 1 - Pearson's correlation, by variable
  projection (Golub & Pereyra 1973, in Kaufman's form): gain and offset of the best fit
  f = a w + b are solved for at every pose and projected out of the Jacobian. Steps always look for
  a positive correlation.
- All sums run over the overlap: the edges of both images with a short ramp, times the
  masks. A step that would leave less than `min_overlap` of the smaller image is refused.
- Damping is scaled by the diagonal; a step is taken only if the metric improves, or, as the last
  small steps of noisy images may, hardly suffers; so directions the images do not tell (shear
  and rotation together near identity) stay where they are.
- On a level of more than `MANY` voxels, rows that hold about `MANY` of them, evenly spread,
  lead to the optimum first. From there on every voxel counts: what the others add to J^T r is taken
  from one pass over all, and hardly changes while some of the rows lead on (the first-order
  correction of multigrid optimisation, Nash 2000). So the result is that of all voxels, and three or
  four passes over them are enough.
- A pair has converged when a step moves no corner of the fixed image by more than
  `tolerance` voxels of its level; then it stops, and leaves the batch when half are done.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Grid
from daskreg.registration.normal_equations import Normal, Sums, normal_of, possible_overlap, scaling
from daskreg.registration.pose import Pose
from daskreg.registration.pyramid import Level

Floats = NDArray[np.float64]

# Voxels of a level beyond which its first steps are made with some of them, and how closely.
MANY, _NEAR = 1 << 18, 0.05
# Voxels of a level, below the finest, that a last step may go.
COARSE_TOLERANCE = 0.02
# Steps of fewer voxels than this may cost this fraction of the least cost so far.
_SMALL, _HARDLY = 0.3, 3e-3
# Passes over all voxels of a large level, after the first.
_PASSES = 5
# Of the way, what steps are believed to go at least and at most.
_SHORTEST, _LONGEST = 0.1, 1.5
# Correlations below this take steps as if they were this high.
_LEAST_CORRELATION = 0.3


@dataclass(frozen=True)
class Problem:
    """What stays the same over the levels; `robust`: mind outliers and noise."""

    pose: Pose
    centre: Floats
    metric: str
    max_iterations: int = 50
    tolerance: float = 1e-3
    min_overlap: float = 0.15
    robust: bool = True


@dataclass
class State:
    """Where the pairs are on one level; rows are pairs."""

    parameters: Floats
    cost: Floats
    overlap: Floats
    normal: Floats
    right: Floats
    noise: Floats
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]
    losses: list[Floats] = field(default_factory=list)

    def put(self, rows: NDArray[np.bool_], other: State) -> None:
        """Overwrite rows with what `other` found there."""
        for name in _FOUND:
            getattr(self, name)[rows] = getattr(other, name)[rows]


_FOUND = ("parameters", "cost", "overlap", "normal", "right", "noise")


class Lens:
    """A level as the steps see it: the sums over its voxels, and what turns poses into maps of indices."""

    def __init__(self, problem: Problem, level: Level) -> None:
        fixed, moving = level.fixed.grid, level.moving.grid
        self.problem, self.level = problem, level
        self.normal: Normal = normal_of(level)
        self.possible = possible_overlap(level)
        self.voxels = int(np.prod(fixed.shape))
        self.inner = moving.inverse_matrix[:-1]
        self.outer = fixed.matrix @ scaling(fixed.shape)
        self.corners = corners_of(fixed)
        self.limit = max(2.0, 0.2 * max(fixed.shape))

    def narrowed(self, normal: Normal, rows: NDArray[np.int64] | None = None) -> Lens:
        """The same with other sums, and for some pairs."""
        other = copy.copy(self)
        other.normal = normal
        if rows is not None and len(self.possible) > 1:
            other.possible = self.possible[rows]
        return other

    def thinned(self) -> Lens:
        """The same over about `MANY` voxels, evenly spread, or all where there are no more."""
        return self if self.voxels <= MANY else self.narrowed(self.normal.thinned(MANY / self.voxels))

    def evaluate(self, p: Floats) -> State:
        """Cost, overlap and the model's normal equations at parameters (B, P)."""
        matrices, derivatives = self.problem.pose.motions(p, self.problem.centre)
        sums = self.normal(self.inner @ matrices @ self.outer)
        change = (self.inner @ derivatives @ self.outer).reshape(*p.shape, -1)
        overlap = np.minimum(sums.scalars[:, 0] / self.possible, 1.0)
        cost, jj, jr, noise = _ncc(sums) if self.problem.metric == "ncc" else _mse(sums)
        cost = np.where(overlap >= self.problem.min_overlap, cost, np.inf)
        right = (change @ jr[..., None])[..., 0]
        count = np.zeros(len(p), dtype=np.int64)
        return State(p, cost, overlap, change @ jj @ change.swapaxes(1, 2), right, noise, count, count > 0)

    def moved(self, a: Floats, b: Floats) -> Floats:
        """(B,) voxels between the images of the farthest corner under two poses."""
        one, other = (self.problem.pose.motions(p, self.problem.centre)[0] for p in (a, b))
        return np.asarray(np.linalg.norm((one - other)[:, :-1] @ self.corners, axis=1).max(-1) / self.level.step)

    def step(self, here: State, damping: Floats) -> Floats:
        """(B, P) damped steps, solved in units of each parameter's own diagonal: radians and micrometres mix."""
        size = np.sqrt(np.maximum(np.diagonal(here.normal, axis1=1, axis2=2), 1e-30))
        scaled = here.normal / (size[:, :, None] * size[:, None, :])
        eye = np.eye(size.shape[1])
        step = np.linalg.solve(scaled + (damping[:, None, None] + 1e-10) * eye, (here.right / size)[..., None])[..., 0]
        return np.asarray(step / size)

    def limited(self, p: Floats, step: Floats) -> tuple[Floats, Floats]:
        """(B, P) steps from `p`, none too long, and the (B,) voxels by which they move the farthest corner."""
        for _ in range(2):
            moved = self.moved(p + step, p)
            if np.all(moved <= self.limit):
                break
            step = step * np.minimum(self.limit / np.maximum(moved, 1e-12), 1.0)[:, None]
        return step, moved


@dataclass
class _Pace:
    """How much of the way the steps go, from the last one.

    Noise in the gradient makes J^T J too large and so the steps too short, all by about the same
    share. With g the step proposed and m the step made, that share is (g - g') m / m m by the next
    g' (a secant, as in Aitken's extrapolation); steps are divided by it.
    """

    proposed: Floats
    made: Floats

    def share(self, rows: NDArray[np.int64], step: Floats, weight: Floats) -> Floats:
        """(B,) of the pairs `rows`, in their own units; 1 where there was no last step."""
        made = self.made[rows]
        square = (weight * made * made).sum(1)
        share = (weight * (self.proposed[rows] - step) * made).sum(1) / np.maximum(square, 1e-300)
        return np.where(square > 0, np.clip(share, _SHORTEST, _LONGEST), 1.0)

    def keep(self, rows: NDArray[np.int64], proposed: Floats, made: Floats, taken: NDArray[np.bool_]) -> None:
        self.proposed[rows] = proposed
        self.made[rows] = made * taken[:, None]


def solve_level(
    problem: Problem,
    level: Level,
    start: Floats,
    tolerance: float,
    *,
    max_iterations: int | None = None,
    rough: bool = False,
) -> State:
    """Descend from (B, P) parameters on one level, until each pair stops.

    rough: not with every voxel of a level of more than `MANY`.
    """
    lens, most = Lens(problem, level), max_iterations or problem.max_iterations
    p = np.asarray(start, dtype=np.float64).copy()
    if lens.voxels <= MANY:
        return _solve(lens, p, tolerance, most)
    first = _solve(lens.thinned(), p, max(tolerance, _NEAR), most)
    if rough:
        return first
    state = _polished(lens, first.parameters, tolerance, most)
    if not state.converged.all():
        state = _solve(lens, state.parameters, tolerance, most)
    state.iterations += first.iterations
    return state


def _polished(lens: Lens, p: Floats, tolerance: float, most: int) -> State:
    """Go on with every voxel from where some of them led; not converged where that cannot be done in a few passes."""
    some = lens.thinned()
    state = lens.evaluate(p)
    state.losses.append(state.cost.copy())
    for _ in range(_PASSES):
        others = state.right - some.evaluate(state.parameters).right
        trial = lens.evaluate(_led_on(some, state.parameters, others, tolerance, most))
        moved = lens.moved(trial.parameters, state.parameters)
        if not np.all((moved < _SMALL) & (trial.cost < state.cost * (1 + _HARDLY))):
            break
        trial.iterations, trial.losses = state.iterations + 1, [*state.losses, trial.cost.copy()]
        state = trial
        if np.all(moved < tolerance):
            state.converged[:] = True
            break
    return state


def _led_on(some: Lens, p: Floats, others: Floats, tolerance: float, most: int) -> Floats:
    """(B, P) where undamped steps of some of the voxels lead, with what the others add to the right side."""
    rows, pace = np.arange(len(p)), _Pace(np.zeros_like(p), np.zeros_like(p))
    for _ in range(most):
        here = some.evaluate(p)
        here.right = here.right + others
        proposed = some.step(here, np.zeros(len(p)))
        share = pace.share(rows, proposed, np.diagonal(here.normal, axis1=1, axis2=2))
        step, moved = some.limited(p, proposed / share[:, None])
        pace.keep(rows, proposed, step, rows >= 0)
        p = p + step
        if np.all(moved < tolerance / 2):
            break
    return p


def _solve(lens: Lens, p: Floats, tolerance: float, max_iterations: int) -> State:
    state = lens.evaluate(p.copy())
    damping = np.full(len(p), 1e-3)
    held, pace = np.arange(len(p)), _Pace(np.zeros_like(p), np.zeros_like(p))
    running, least = np.isfinite(state.cost), state.cost.copy()
    state.losses.append(state.cost.copy())
    for _ in range(max_iterations):
        active = held[running[held]]
        if len(active) == 0:
            break
        if 2 * len(active) <= len(held):
            position = np.searchsorted(held, active)
            lens, held = lens.narrowed(lens.normal.take(position), position), active
        here = State(*(getattr(state, n)[held] for n in (*_FOUND, "iterations", "converged")))
        proposed = lens.step(here, damping[held])
        share = pace.share(held, proposed, np.diagonal(here.normal, axis1=1, axis2=2))
        step, moved = lens.limited(here.parameters, proposed / share[:, None])
        trial = lens.evaluate(here.parameters + step)
        on = running[held]
        hardly = (moved < _SMALL) & (trial.cost < least[held] * (1 + _HARDLY))
        better = on & ((trial.cost < here.cost) | hardly)
        for name in _FOUND:
            getattr(state, name)[held[better]] = getattr(trial, name)[better]
        pace.keep(held, proposed, step, better)
        least = np.minimum(least, state.cost)
        damping[held] = np.clip(np.where(better, damping[held] / 10, damping[held] * 10), 1e-9, 1e12)
        state.iterations[held[on]] += 1
        done = on & (moved < tolerance)
        state.converged[held[done]] = True
        running[held[done]] = False
        losses = np.full(len(p), np.nan)
        losses[held[on]] = state.cost[held[on]]
        state.losses.append(losses)
    return state


def _ncc(sums: Sums) -> tuple[Floats, Floats, Floats, Floats]:
    """1 - ncc, the projected normal equations in the full affine basis, the residual's variance."""
    n, d, w, dd, dw, ww = sums.scalars.T
    n = np.maximum(n, 1e-9)
    vdd, vdw, vww = dd - d * d / n, dw - d * w / n, np.maximum(ww - w * w / n, 1e-12)
    vff = np.maximum(vdd + 2 * vdw + vww, 1e-12)
    unexplained = np.clip((vdd - vdw * vdw / vww) / vff, 0, 1)
    ncc = np.sign(vdw + vww) * np.sqrt(1 - unexplained)
    cost = np.where(ncc > 0, unexplained / (1 + np.abs(ncc)), 1 - ncc)
    # An overlap without contrast says nothing.
    cost = np.where((vww > 1e-6 * n) & (vff > 1e-6 * n), cost, 2.0)
    jw = sums.jw - sums.j * (w / n)[:, None]
    jj = sums.jj - sums.j[:, :, None] * (sums.j / n[:, None])[:, None, :]
    jj = jj - jw[:, :, None] * (jw / vww[:, None])[:, None, :]
    jr = sums.jd - sums.j * (d / n)[:, None] - jw * (vdw / vww)[:, None]
    # The gradient is that of f, which a w resembles by the part that correlates.
    return cost, jj, jr / np.maximum(ncc, _LEAST_CORRELATION)[:, None], unexplained * vff / n


def _mse(sums: Sums) -> tuple[Floats, Floats, Floats, Floats]:
    mean = sums.scalars[:, 3] / np.maximum(sums.scalars[:, 0], 1e-9)
    return mean, sums.jj, sums.jd, mean


def corners_of(grid: Grid) -> Floats:
    """(D+1, 2**D) homogeneous world corners, the centres of the corner voxels."""
    points = grid.corners()
    return np.concatenate([points, np.ones((len(points), 1))], axis=1).T
