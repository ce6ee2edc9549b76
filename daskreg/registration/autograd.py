"""Any differentiable loss over a pyramid, by torch autograd: Adam or L-BFGS on the pose of one pair.

The levels, weights and poses are those of `multiresolution`, but the loss is any
`loss(fixed, warped, weight)`, and it takes longer. Parameters are optimised in
units of the voxels by which they move the farthest corner, so that one step size serves
angles, shifts and scales.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daskreg.errors import OptionError
from daskreg.registration.border_choice import FINER_LEVELS, levels_without_fill
from daskreg.registration.estimate import Estimate
from daskreg.registration.initial_pose import Start
from daskreg.registration.levenberg_marquardt import COARSE_TOLERANCE, SUBSET_VOXELS, corners_of
from daskreg.registration.metrics import LINEAR, POINTWISE, Loss
from daskreg.registration.normal_equations.edge_weights import possible_overlap, scaling
from daskreg.registration.normal_equations.equations_torch import NormalEquationsTorch
from daskreg.registration.problem import Problem, SolverOptions
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.verdict.judge import Verdict
from daskreg.registration.verdicts import status_of

Floats = NDArray[np.float64]

OPTIMIZERS = ("adam", "lbfgs")
_TOO_LITTLE_OVERLAP = 1e3  # the loss there
_FAIR_OVERLAP = 0.5
# Iterations of each candidate.
_BRIEF = 10
# A candidate must be better than the first by this share of the spread of the losses.
_CLEARLY = 0.05
# Iterations with all voxels of a large level, from the optimum of a subset of them.
_LAST_ITERATIONS = 15
# Voxels of the first step.
_FIRST_STEP = 0.1
# Voxels of Adam's first steps.
_ADAM_STEP = 0.5
# L-BFGS stops at this share of the tolerance: near its end, steps become small quickly.
_LBFGS_SHARE = 0.01


def minimise(
    problem: Problem,
    options: SolverOptions,
    start: Start,
    loss: Loss,
    *,
    optimizer: str = "adam",
    judge: Callable[[Floats], Verdict] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Estimate:
    """Minimise `loss` for one pair, coarse to fine.

    The result is never worse, by the loss on the finest level, than the reference of the start.

    Args:
        judge: gives the verdict on (P,) parameters; None: there is none.

    Raises: OptionError for an unknown optimizer.
    """
    if optimizer not in OPTIMIZERS:
        raise OptionError(f"optimizer {optimizer!r} is unknown: use gauss-newton, {', '.join(OPTIMIZERS)}")
    levels: Sequence[PyramidLevel] = start.pyramids.levels
    borderless = start.pyramids.borderless if options.robust and loss in LINEAR else None
    p, iterations, converged, losses = torch.from_numpy(start.parameters), 0, False, np.empty(0)
    for number in range(len(levels)):
        level = levels[number]
        last = number == len(levels) - 1
        here = options if last else replace(options, tolerance=max(options.tolerance, COARSE_TOLERANCE))
        p, losses, converged = _minimise_on_level(here, _LossObjective(problem, level, loss), p, optimizer)
        iterations += len(losses)
        if borderless is not None and number == max(0, len(levels) - 1 - FINER_LEVELS):
            without = levels_without_fill(problem, p.numpy(), (levels, borderless), number)
            if without is not levels:
                levels = without
                p, losses, converged = _minimise_on_level(
                    here, _LossObjective(problem, levels[number], loss), p, optimizer
                )
                iterations += len(losses)
        if progress:
            progress(number + 1, len(levels))
    finest = _LossObjective(problem, levels[-1], loss)
    reference = torch.from_numpy(start.reference)
    before, after = finest.at(reference), finest.at(p)
    if not after <= before:
        p, after, converged = reference, before, False
    overlap = finest.overlap(p)
    verdict = None if judge is None else judge(p[0].numpy())
    status = status_of(verdict, converged=converged, improved=after <= before, overlap=overlap)
    return Estimate(p[0].numpy(), status, (before, after), overlap, losses, None, iterations, verdict)


def best_candidate(
    problem: Problem, options: SolverOptions, level: PyramidLevel, starts: Floats, loss: Loss, *, keep: int = 4
) -> Floats:
    """(1, P) the best of (K, P) starts: the first, and the `keep` with the least loss, refined a little.

    Another than the first must be better by a twentieth of the spread of the losses,
    and over at least half of the smaller image: over small overlaps a loss may be low by chance.
    """
    if len(starts) == 1:
        return starts
    candidates = torch.from_numpy(starts)
    problem = replace(problem, min_overlap=max(problem.min_overlap, _FAIR_OVERLAP))
    objective = _LossObjective(problem, level, loss)
    values = [objective.at(p[None]) for p in candidates]
    order = sorted(range(1, len(candidates)), key=values.__getitem__)[:keep]
    brief = replace(options, max_iterations=_BRIEF)
    refined = [_minimise_loss(brief, objective, candidates[k][None], "lbfgs")[0] for k in (0, *order)]
    ends = [objective.at(p) for p in refined]
    spread = max([v for v in values if v < _TOO_LITTLE_OVERLAP], default=0.0) - min(ends)
    best = min(range(len(ends)), key=ends.__getitem__)
    return refined[best if ends[best] < ends[0] - _CLEARLY * spread else 0].numpy()


class _LossObjective:
    """The loss of one pair on one level as a function of its parameters."""

    def __init__(self, problem: Problem, level: PyramidLevel, loss: Loss) -> None:
        self.problem, self.level, self.loss = problem, level, loss
        self.sampler = NormalEquationsTorch(level)
        self.possible = float(possible_overlap(level)[0])
        self._moving_from_world = torch.from_numpy(level.moving.grid.inverse_matrix[:-1].copy())
        self._world_from_xi = torch.from_numpy(level.fixed.grid.matrix @ scaling(level.fixed.grid.shape))

    def __call__(self, p: Tensor) -> Tensor:
        warped, weight = self.sampler.warp(self._maps(p))
        weight = weight.detach()
        if float(weight.sum()) < self.problem.min_overlap * self.possible:
            # The line search of L-BFGS then shortens its step. The sum keeps p in the graph, with a gradient of zero.
            return _TOO_LITTLE_OVERLAP + (p * 0).sum()
        return torch.as_tensor(self.loss(self.sampler.fixed, warped, weight)).sum()

    def subsampled(self, share: float) -> _LossObjective:
        """The same over a share of the planes of the fixed image."""
        other = copy.copy(self)
        other.sampler = self.sampler.subsampled(share)
        other.possible = self.possible / other.sampler.scale
        return other

    def at(self, p: Tensor) -> float:
        with torch.no_grad():
            return float(self(p))

    def overlap(self, p: Tensor) -> float:
        with torch.no_grad():
            return min(1.0, float(self.sampler.warp(self._maps(p))[1].sum()) / self.possible)

    def _maps(self, p: Tensor) -> Tensor:
        return self._moving_from_world @ self.problem.pose.matrices(p, self.problem.centre) @ self._world_from_xi


def _minimise_on_level(
    options: SolverOptions, objective: _LossObjective, start: Tensor, optimizer: str
) -> tuple[Tensor, Floats, bool]:
    """Parameters, losses and convergence on one level.

    On large levels a subset of the voxels is minimised first, where the loss is a sum over voxels, and then all.
    """
    voxels = math.prod(objective.level.fixed.grid.shape)
    if voxels <= SUBSET_VOXELS or objective.loss not in POINTWISE or optimizer != "lbfgs":
        return _minimise_loss(options, objective, start, optimizer)
    subset = objective.subsampled(SUBSET_VOXELS / voxels)
    p, first, converged = _minimise_loss(options, subset, start, optimizer)
    p, losses, _ = _minimise_loss(replace(options, max_iterations=_LAST_ITERATIONS), objective, p, optimizer)
    return p, np.concatenate([first, losses]), converged


def _minimise_loss(
    options: SolverOptions, objective: _LossObjective, start: Tensor, optimizer: str
) -> tuple[Tensor, Floats, bool]:
    problem = objective.problem
    level = objective.level
    change = problem.pose.motions(start.numpy(), problem.centre)[1][0, :, :-1] @ corners_of(level.fixed.grid)
    moved = torch.from_numpy(np.linalg.norm(change, axis=1).max(-1) / level.step)
    unit = 1 / moved.clamp_min(1e-9)
    z = torch.zeros_like(start, requires_grad=True)
    losses: list[float] = []
    best, least = start, math.inf

    def closure() -> Tensor:
        nonlocal best, least
        z.grad = None
        value = objective(start + z * unit)
        (value * scale).backward()
        losses.append(float(value.detach()))
        if losses[-1] < least:
            best, least = (start + z * unit).detach().clone(), losses[-1]
        return value.detach() * scale

    # A loss has any unit. It is scaled so that its gradient at the start makes a first step of a useful size.
    scale = 1.0
    closure()
    steepest = 0.0 if z.grad is None else float(z.grad.abs().max())
    scale = _FIRST_STEP / steepest if steepest > 0 else 1.0
    if optimizer == "lbfgs":
        torch.optim.LBFGS(
            [z],
            lr=1.0,
            max_iter=options.max_iterations,
            tolerance_grad=1e-10,
            tolerance_change=options.tolerance * _LBFGS_SHARE,
            line_search_fn="strong_wolfe",
        ).step(closure)
        return best, np.array(losses), len(losses) < 1.25 * options.max_iterations
    return _adam(z, closure, options, losses, lambda: best)


def _adam(
    z: Tensor, closure: Callable[[], Tensor], options: SolverOptions, losses: list[float], best: Callable[[], Tensor]
) -> tuple[Tensor, Floats, bool]:
    """Adam with a step that is reduced from half a voxel to the tolerance."""
    steps = 2 * options.max_iterations
    adam = torch.optim.Adam([z], lr=_ADAM_STEP)
    decay = max(options.tolerance / _ADAM_STEP, 1e-3) ** (1 / steps)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, gamma=decay)
    for _ in range(steps):
        adam.step(closure)
        schedule.step()
    third = max(1, len(losses) // 3)
    settled = min(losses[-third:]) - min(losses) <= 1e-3 * (max(losses) - min(losses)) + 1e-12
    return best(), np.array(losses), settled
