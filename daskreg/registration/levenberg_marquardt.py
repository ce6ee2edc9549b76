"""Levenberg-Marquardt on one level of a pyramid, for a batch of pairs at once.

The poses are motions M(p) in the world, `moving_from_fixed`. Between the grids of a level they
become maps of indices A = moving_from_world . M(p) . world_from_fixed. Everything that
touches voxels happens in one pass (`normal_equations`), which returns the sums of a full affine
Gauss-Newton system; the system of the model is that one times dA/dp, small and float64. So every
model costs the same, and the same code serves 2D and 3D.

- Forward additive: the moving image is sampled at the current pose; see `normal_equations.sums` for the gradient.
- "mse" minimises the mean of (f - w)^2. "ncc" is 1 - Pearson's correlation, by variable
  projection (Golub & Pereyra 1973, in Kaufman's form): gain and offset of the best fit
  f = a w + b are solved for at every pose and projected out of the Jacobian. Where the correlation
  is negative, steps go towards a positive one.
- All sums run over the overlap: the edge weights of both images times the masks. A step
  that would leave less than `min_overlap` of the smaller image is refused.
- Damping is scaled by the diagonal. A step is accepted if the cost falls or, for the last
  small steps of noisy images, rises by very little. So parameters that the images do not determine (shear
  and rotation together near identity) stay where they are.
- On a level of more than `SUBSET_VOXELS` voxels, a subset of rows with about `SUBSET_VOXELS` of them, evenly spread,
  is solved first. Then every voxel counts: what the other voxels add to J^T r is taken
  from one pass over all, and hardly changes while the subset is solved again (the first-order
  correction of multigrid optimisation, Nash 2000). So the result is that of all voxels, and three or
  four passes over them are enough.
- A pair has converged when a step moves no corner of the fixed image by more than
  `tolerance` voxels of its level. Then it stops, and it leaves the batch when half of the pairs have stopped.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Grid
from daskreg.registration.normal_equations.edge_weights import possible_overlap, scaling
from daskreg.registration.normal_equations.equations import normal_equations_of
from daskreg.registration.normal_equations.sums import NormalSums
from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.pyramid import PyramidLevel

Floats = NDArray[np.float64]

# Voxels of a level above which a subset of them is solved first, and the tolerance of that in voxels.
SUBSET_VOXELS, _SUBSET_TOLERANCE = 1 << 18, 0.05
# The least tolerance, in voxels of the level, on levels above the finest.
COARSE_TOLERANCE = 0.02
# Steps of fewer voxels than this may raise the cost by this fraction of the least cost so far.
_SMALL_STEP, _SMALL_RISE = 0.3, 3e-3
# Passes over all voxels of a large level, after the first.
_FULL_PASSES = 5
# Limits of the estimated fraction of the distance to the optimum that one step covers.
_MIN_SHARE, _MAX_SHARE = 0.1, 1.5
# Correlations below this scale steps as if they were this high.
_MIN_CORRELATION = 0.3

_COLUMNS = ("parameters", "cost", "overlap", "normal", "right", "noise")


@dataclass
class Iterate:
    """The current poses of the pairs on one level, one row for each pair, and what was evaluated there.

    parameters: (B, P). cost: (B,) 1 - ncc or mse; infinite where too little overlaps. overlap: (B,).
    normal: (B, P, P) J^T J. right: (B, P) J^T r. noise: (B,) variance of the residual.
    losses: (B,) costs of each iteration, NaN after a pair has stopped.
    """

    parameters: Floats
    cost: Floats
    overlap: Floats
    normal: Floats
    right: Floats
    noise: Floats
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]
    losses: list[Floats] = field(default_factory=list)

    def take(self, rows: NDArray[np.int64]) -> Iterate:
        """Some pairs, without the losses."""
        return Iterate(*(getattr(self, name)[rows] for name in (*_COLUMNS, "iterations", "converged")))

    def assign(self, rows: NDArray[np.bool_] | NDArray[np.int64], other: Iterate) -> None:
        """Overwrite the poses of some pairs, and what was evaluated there, with those of an iterate of these pairs."""
        for name in _COLUMNS:
            getattr(self, name)[rows] = getattr(other, name)

    def correlation(self, metric: str) -> Floats | None:
        """(B,) of the aligned images, with "ncc"; 0 where too little overlaps."""
        return np.maximum(1 - self.cost, 0.0) if metric == "ncc" else None

    @classmethod
    def concatenated(cls, parts: Sequence[Iterate]) -> Iterate:
        """The pairs of all parts; iterations, convergence and losses are not kept."""
        columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
        count = len(columns["cost"])
        return cls(**columns, iterations=np.zeros(count, np.int64), converged=np.ones(count, bool))


class Voxels(Protocol):
    """What sums over the voxels of the pairs of a level: in memory, or block by block (`registration.blockwise`)."""

    def __call__(self, maps: Floats) -> NormalSums:
        """The sums at (B, D, D+1) maps from xi to moving indices."""

    def take(self, index: NDArray[np.int64]) -> Self:
        """The same for some pairs of the batch."""

    def subsampled(self, share: float) -> Voxels:
        """The same over about this share of the voxels, evenly spread; sums are scaled up."""


class LevelObjective:
    """What is minimised on one level: cost and normal equations as functions of the parameters."""

    def __init__(self, problem: Problem, level: PyramidLevel) -> None:
        sums, possible = normal_equations_of(level), possible_overlap(level)
        self._init(problem, sums, possible, fixed=level.fixed.grid, moving=level.moving.grid, step=level.step)

    @classmethod
    def over(
        cls, problem: Problem, voxels: Voxels, possible: Floats, *, fixed: Grid, moving: Grid, step: float
    ) -> LevelObjective:
        """Of a level whose voxels are not in memory.

        Args:
            possible: (1,) as `possible_overlap` gives it. fixed, moving, step: as of a PyramidLevel.
        """
        objective = cls.__new__(cls)
        objective._init(problem, voxels, possible, fixed=fixed, moving=moving, step=step)
        return objective

    def _init(
        self, problem: Problem, voxels: Voxels, possible: Floats, *, fixed: Grid, moving: Grid, step: float
    ) -> None:
        self.problem, self.normal, self.possible = problem, voxels, possible
        self.shape, self._size = fixed.shape, step
        self.voxels = int(np.prod(fixed.shape))
        self._moving_from_world = moving.inverse_matrix[:-1]
        self._world_from_xi = fixed.matrix @ scaling(fixed.shape)
        self.corners = corners_of(fixed)
        self.max_step = max(2.0, 0.2 * max(fixed.shape))

    def take(self, rows: NDArray[np.int64]) -> LevelObjective:
        """The same for some pairs of the batch."""
        other = copy.copy(self)
        other.normal = self.normal.take(rows)
        if len(self.possible) > 1:
            other.possible = self.possible[rows]
        return other

    def subsampled(self, voxels: int = SUBSET_VOXELS) -> LevelObjective:
        """The same over about so many voxels, evenly spread, or over all where there are no more."""
        other = copy.copy(self)
        other.normal = self.normal.subsampled(min(1.0, voxels / self.voxels))
        return other

    def maps(self, p: Floats) -> Floats:
        """(B, D, D+1) maps from xi to moving indices at parameters (B, P)."""
        return self.maps_of(self.problem.pose.motions(p, self.problem.centre)[0])

    def maps_of(self, motions: Floats) -> Floats:
        """(..., D, D+1) maps from xi to moving indices of (..., D+1, D+1) motions, or of their derivatives."""
        return self._moving_from_world @ motions @ self._world_from_xi

    def evaluate(self, p: Floats) -> Iterate:
        """Cost, overlap and the model's normal equations at parameters (B, P)."""
        motions, derivatives = self.problem.pose.motions(p, self.problem.centre)
        sums = self.normal(self.maps_of(motions))
        change = self.maps_of(derivatives).reshape(*p.shape, -1)
        overlap = np.minimum(sums.scalars[:, 0] / self.possible, 1.0)
        cost, jj, jr, noise = _ncc(sums) if self.problem.metric == "ncc" else _mse(sums)
        cost = np.where(overlap >= self.problem.min_overlap, cost, np.inf)
        right = (change @ jr[..., None])[..., 0]
        count = np.zeros(len(p), dtype=np.int64)
        return Iterate(p, cost, overlap, change @ jj @ change.swapaxes(1, 2), right, noise, count, count > 0)

    def displacement(self, a: Floats, b: Floats) -> Floats:
        """(B,) voxels of the level between the images of the farthest corner at two parameters (B, P)."""
        one, other = (self.problem.pose.motions(p, self.problem.centre)[0] for p in (a, b))
        return np.asarray(np.linalg.norm((one - other)[:, :-1] @ self.corners, axis=1).max(-1) / self._size)

    def step(self, iterate: Iterate, damping: Floats | float = 0.0) -> Floats:
        """(B, P) damped steps, solved in units of each parameter's own diagonal: radians and micrometres mix."""
        damped = np.broadcast_to(np.asarray(damping, dtype=np.float64), len(iterate.cost))
        size = np.sqrt(np.maximum(np.diagonal(iterate.normal, axis1=1, axis2=2), 1e-30))
        scaled = iterate.normal / (size[:, :, None] * size[:, None, :])
        # Where hardly a voxel overlaps, J^T J is what rounding leaves, with elements that no such product has.
        known = np.all(np.abs(scaled) <= 1.01, axis=(1, 2), keepdims=True)
        scaled, eye = np.where(known, scaled, 0.0), np.eye(size.shape[1])
        right = np.where(known[..., 0], iterate.right / size, 0.0)[..., None]
        return np.asarray(np.linalg.solve(scaled + (damped[:, None, None] + 1e-10) * eye, right)[..., 0] / size)

    def limited(self, p: Floats, step: Floats) -> tuple[Floats, Floats]:
        """(B, P) steps from `p` of at most `max_step`, and the (B,) voxels by which they move the farthest corner."""
        for _ in range(2):
            moved = self.displacement(p + step, p)
            if np.all(moved <= self.max_step):
                break
            step = step * np.minimum(self.max_step / np.maximum(moved, 1e-12), 1.0)[:, None]
        return step, moved


@dataclass
class _SecantScale:
    """The share of the way to the optimum that the proposed steps cover, from the step before.

    Noise in the gradient makes J^T J too large and so the steps too short, all by about the same
    share. With g the step proposed and m the step made, that share is (g - g') m / m m by the next
    g' (a secant, as in Aitken's extrapolation). Steps are divided by it.
    """

    proposed: Floats
    made: Floats

    @classmethod
    def none(cls, p: Floats) -> _SecantScale:
        return cls(np.zeros_like(p), np.zeros_like(p))

    def share(self, rows: NDArray[np.int64], step: Floats, weight: Floats) -> Floats:
        """(B,) of the pairs `rows`, in units of their own diagonal `weight`; 1 where there was no step before."""
        made = self.made[rows]
        square = (weight * made * made).sum(1)
        with np.errstate(over="ignore"):  # of a step that was next to nothing
            share = (weight * (self.proposed[rows] - step) * made).sum(1) / np.maximum(square, 1e-300)
        return np.where(square > 0, np.clip(share, _MIN_SHARE, _MAX_SHARE), 1.0)

    def update(self, rows: NDArray[np.int64], proposed: Floats, made: Floats, accepted: NDArray[np.bool_]) -> None:
        self.proposed[rows] = proposed
        self.made[rows] = made * accepted[:, None]


def solve_level(
    problem: Problem,
    level: PyramidLevel,
    start: Floats,
    *,
    tolerance: float,
    max_iterations: int,
    subset_only: bool = False,
) -> Iterate:
    """Minimise from (B, P) parameters on one level, until each pair stops.

    subset_only: on a level of more than `SUBSET_VOXELS` voxels, solve the subset only.
    """
    objective = LevelObjective(problem, level)
    p = np.asarray(start, dtype=np.float64).copy()
    if objective.voxels <= SUBSET_VOXELS:
        return minimise(objective, p, tolerance, max_iterations)
    first = minimise(objective.subsampled(), p, max(tolerance, _SUBSET_TOLERANCE), max_iterations)
    if subset_only:
        return first
    iterate = corrected_by_all_voxels(objective, first.parameters, tolerance, max_iterations)
    if not iterate.converged.all():
        iterate = minimise(objective, iterate.parameters, tolerance, max_iterations)
    iterate.iterations += first.iterations
    return iterate


def corrected_by_all_voxels(
    objective: LevelObjective, p: Floats, tolerance: float, max_iterations: int, *, least: float = 0.0
) -> Iterate:
    """Continue with every voxel from near the optimum; not converged where a few passes are not enough.

    Args:
        least: a step of fewer voxels than this is not taken any more, which saves the pass that it would need.
    """
    iterate = objective.evaluate(p)
    iterate.losses.append(iterate.cost.copy())
    rows, secant = np.arange(len(p)), _SecantScale.none(p)
    for _ in range(_FULL_PASSES):
        optimum = _corrected_optimum(objective.subsampled(), iterate, tolerance, max_iterations)
        proposed = optimum - iterate.parameters
        # The noise in the gradients of the subset is not that of all voxels.
        step = proposed / secant.share(rows, proposed, np.diagonal(iterate.normal, axis1=1, axis2=2))[:, None]
        secant.update(rows, proposed, step, rows >= 0)
        moved = objective.displacement(iterate.parameters + step, iterate.parameters)
        if np.all(moved < least):
            iterate.converged[:] = True
            break
        trial = objective.evaluate(iterate.parameters + step)
        rise = np.where(moved < _SMALL_STEP, 1 + _SMALL_RISE, 1.0)
        if not np.all(trial.cost < iterate.cost * rise):
            break
        trial.iterations, trial.losses = iterate.iterations + 1, [*iterate.losses, trial.cost.copy()]
        iterate = trial
        if np.all(moved < tolerance):
            iterate.converged[:] = True
            break
    return iterate


def _corrected_optimum(subset: LevelObjective, full: Iterate, tolerance: float, max_iterations: int) -> Floats:
    """(B, P) the optimum of the subset by undamped steps, with what the other voxels add to both sides.

    full: all voxels at one pose, from where the other voxels are followed to first order.
    """
    p = full.parameters
    rows, secant = np.arange(len(p)), _SecantScale.none(p)
    right, normal = np.zeros_like(full.right), np.zeros_like(full.normal)
    for number in range(max_iterations):
        iterate = subset.evaluate(p)
        if number == 0:
            right, normal = full.right - iterate.right, full.normal - iterate.normal
        iterate.right = iterate.right + right - (normal @ (p - full.parameters)[..., None])[..., 0]
        iterate.normal = iterate.normal + normal
        proposed = subset.step(iterate)
        share = secant.share(rows, proposed, np.diagonal(iterate.normal, axis1=1, axis2=2))
        step, moved = subset.limited(p, proposed / share[:, None])
        secant.update(rows, proposed, step, rows >= 0)
        p = p + step
        if np.all(moved < tolerance / 2):
            break
    return p


def minimise(objective: LevelObjective, p: Floats, tolerance: float, max_iterations: int) -> Iterate:
    result = objective.evaluate(p.copy())
    damping = np.full(len(p), 1e-3)
    rows, secant = np.arange(len(p)), _SecantScale.none(p)  # the pairs that `objective` evaluates
    running, least = np.isfinite(result.cost), result.cost.copy()
    result.losses.append(result.cost.copy())
    for _ in range(max_iterations):
        active = rows[running[rows]]
        if len(active) == 0:
            break
        if 2 * len(active) <= len(rows):
            objective, rows = objective.take(np.searchsorted(rows, active)), active
        current = result.take(rows)
        proposed = objective.step(current, damping[rows])
        share = secant.share(rows, proposed, np.diagonal(current.normal, axis1=1, axis2=2))
        step, moved = objective.limited(current.parameters, proposed / share[:, None])
        trial = objective.evaluate(current.parameters + step)
        on = running[rows]
        small_rise = (moved < _SMALL_STEP) & (trial.cost < least[rows] * (1 + _SMALL_RISE))
        accepted = on & ((trial.cost < current.cost) | small_rise)
        result.assign(rows[accepted], trial.take(np.flatnonzero(accepted)))
        secant.update(rows, proposed, step, accepted)
        least = np.minimum(least, result.cost)
        damping[rows] = np.clip(np.where(accepted, damping[rows] / 10, damping[rows] * 10), 1e-9, 1e12)
        result.iterations[rows[on]] += 1
        done = on & (moved < tolerance)
        result.converged[rows[done]] = True
        running[rows[done]] = False
        losses = np.full(len(p), np.nan)
        losses[rows[on]] = result.cost[rows[on]]
        result.losses.append(losses)
    return result


def _ncc(sums: NormalSums) -> tuple[Floats, Floats, Floats, Floats]:
    """1 - ncc, the projected normal equations in the full affine basis, the residual's variance."""
    n, d, w, dd, dw, ww = sums.scalars.T
    n = np.maximum(n, 1e-9)
    vdd, vdw, vww = dd - d * d / n, dw - d * w / n, np.maximum(ww - w * w / n, 1e-12)
    vff = np.maximum(vdd + 2 * vdw + vww, 1e-12)
    unexplained = np.clip((vdd - vdw * vdw / vww) / vff, 0, 1)
    ncc = np.sign(vdw + vww) * np.sqrt(1 - unexplained)
    cost = np.where(ncc > 0, unexplained / (1 + np.abs(ncc)), 1 - ncc)
    # An overlap without contrast holds no information.
    cost = np.where((vww > 1e-6 * n) & (vff > 1e-6 * n), cost, 2.0)
    jw = sums.jw - sums.j * (w / n)[:, None]
    jj = sums.jj - sums.j[:, :, None] * (sums.j / n[:, None])[:, None, :]
    jj = jj - jw[:, :, None] * (jw / vww[:, None])[:, None, :]
    jr = sums.jd - sums.j * (d / n)[:, None] - jw * (vdw / vww)[:, None]
    # The gradient is that of f, of which only the correlated part is in a w.
    return cost, jj, jr / np.maximum(ncc, _MIN_CORRELATION)[:, None], unexplained * vff / n


def _mse(sums: NormalSums) -> tuple[Floats, Floats, Floats, Floats]:
    mean = sums.scalars[:, 3] / np.maximum(sums.scalars[:, 0], 1e-9)
    return mean, sums.jj, sums.jd, mean


def corners_of(grid: Grid) -> Floats:
    """(D+1, 2**D) homogeneous world corners, the centres of the corner voxels."""
    points = grid.corners()
    return np.concatenate([points, np.ones((len(points), 1))], axis=1).T
