"""Any differentiable loss over a pyramid, by torch autograd: Adam or L-BFGS on the pose.

The slow and general sibling of `descend`, for one pair: the same levels, weights and
poses, but the loss is any `loss(fixed, warped, weight)`. Parameters are optimised in
units of the voxels by which they move the farthest corner, so that one step size serves
angles, shifts and scales.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daskreg.errors import OptionError
from daskreg.registration.edge_weights import possible_overlap, scaling
from daskreg.registration.levenberg_marquardt import COARSE_TOLERANCE, MANY, Problem, corners_of
from daskreg.registration.metrics import POINTWISE, Loss
from daskreg.registration.normal_equations_torch import NormalEquationsTorch
from daskreg.registration.pyramid import Level

OPTIMIZERS = ("adam", "lbfgs")
_TOO_LITTLE = 1e3
_FAIR_OVERLAP = 0.5
# Iterations with all voxels of a large level, from where some of them led.
_LAST = 15
# Voxels of the first step.
_FIRST = 0.1
# The last step of L-BFGS, of the tolerance: at its end steps fall off fast.
_SHARE = 0.01


@dataclass(frozen=True)
class Slope:
    """Where the descent of one pair ended; `losses` are those of the finest level."""

    parameters: Tensor
    before: float
    after: float
    overlap: float
    iterations: int
    converged: bool
    losses: NDArray[np.float64]


def slope(
    problem: Problem,
    levels: Sequence[Level],
    start: Tensor,
    loss: Loss,
    *,
    optimizer: str = "adam",
    origin: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Slope:
    """Minimise `loss` from (1, P) parameters, coarse to fine.

    The result is never worse, by the loss on the finest level, than `origin`, which is the
    start where it is not given.

    Raises: OptionError for an unknown optimizer.
    """
    if optimizer not in OPTIMIZERS:
        raise OptionError(f"optimizer {optimizer!r} is unknown: use gauss-newton, {', '.join(OPTIMIZERS)}")
    p, iterations, converged, losses = start, 0, False, np.empty(0)
    for number, level in enumerate(levels):
        last = number == len(levels) - 1
        here = problem if last else replace(problem, tolerance=max(problem.tolerance, COARSE_TOLERANCE))
        p, losses, converged = _on_level(here, _Objective(problem, level, loss), p, optimizer)
        iterations += len(losses)
        if progress:
            progress(number + 1, len(levels))
    finest = _Objective(problem, levels[-1], loss)
    first = start if origin is None else origin
    before, after = finest.at(first), finest.at(p)
    if not after <= before:
        p, after, converged = first, before, False
    return Slope(p, before, after, finest.overlap(p), iterations, converged, losses)


def best_of(problem: Problem, level: Level, starts: Tensor, loss: Loss, *, keep: int = 4) -> Tensor:
    """(1, P) the best of (K, P) starts: the first, and the `keep` with the least loss, refined a little.

    Another than the first must be better by a twentieth of what there is between the losses,
    and over at least half of the smaller image: chance does well over small overlaps.
    """
    if len(starts) == 1:
        return starts
    problem = replace(problem, min_overlap=max(problem.min_overlap, _FAIR_OVERLAP))
    objective = _Objective(problem, level, loss)
    values = [objective.at(p[None]) for p in starts]
    order = sorted(range(1, len(starts)), key=values.__getitem__)[:keep]
    brief = replace(problem, max_iterations=10)
    refined = [_lowered(brief, objective, starts[k][None], "lbfgs")[0] for k in (0, *order)]
    ends = [objective.at(p) for p in refined]
    spread = max([v for v in values if v < _TOO_LITTLE], default=0.0) - min(ends)
    best = min(range(len(ends)), key=ends.__getitem__)
    return refined[best if ends[best] < ends[0] - 0.05 * spread else 0]


class _Objective:
    """The loss of one pair on one level as a function of its parameters."""

    def __init__(self, problem: Problem, level: Level, loss: Loss) -> None:
        self.problem, self.level, self.loss = problem, level, loss
        self.sampler = NormalEquationsTorch(level)
        self.possible = float(possible_overlap(level)[0])
        self.inner = torch.from_numpy(level.moving.grid.inverse_matrix[:-1].copy())
        self.outer = torch.from_numpy(level.fixed.grid.matrix @ scaling(level.fixed.grid.shape))

    def __call__(self, p: Tensor) -> Tensor:
        warped, weight = self.sampler.warp(self._maps(p))
        weight = weight.detach()
        if float(weight.sum()) < self.problem.min_overlap * self.possible:
            # A wall, with a slope of its own back to where the step came from.
            return _TOO_LITTLE + (p * 0).sum()
        return torch.as_tensor(self.loss(self.sampler.fixed, warped, weight)).sum()

    def thinned(self, share: float) -> _Objective:
        """That of a share of the fixed image's planes."""
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
        return self.inner @ self.problem.pose.matrices(p, self.problem.centre) @ self.outer


def _on_level(
    problem: Problem, objective: _Objective, start: Tensor, optimizer: str
) -> tuple[Tensor, NDArray[np.float64], bool]:
    """Parameters, losses and convergence on one level.

    On large levels some of the voxels lead on, where the loss is one of single voxels, and all have the last word.
    """
    voxels = math.prod(objective.level.fixed.grid.shape)
    if voxels <= MANY or objective.loss not in POINTWISE or optimizer != "lbfgs":
        return _lowered(problem, objective, start, optimizer)
    p, first, converged = _lowered(problem, objective.thinned(MANY / voxels), start, optimizer)
    p, losses, _ = _lowered(replace(problem, max_iterations=_LAST), objective, p, optimizer)
    return p, np.concatenate([first, losses]), converged


def _lowered(
    problem: Problem, objective: _Objective, start: Tensor, optimizer: str
) -> tuple[Tensor, NDArray[np.float64], bool]:
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

    # A loss knows no voxels: scaled, its slope at the start is a first step of a fair size.
    scale = 1.0
    closure()
    steepest = 0.0 if z.grad is None else float(z.grad.abs().max())
    scale = _FIRST / steepest if steepest > 0 else 1.0
    if optimizer == "lbfgs":
        torch.optim.LBFGS(
            [z],
            lr=1.0,
            max_iter=problem.max_iterations,
            tolerance_grad=1e-10,
            tolerance_change=problem.tolerance * _SHARE,
            line_search_fn="strong_wolfe",
        ).step(closure)
        return best, np.array(losses), len(losses) < 1.25 * problem.max_iterations
    return _adam(z, closure, problem, losses, lambda: best)


def _adam(
    z: Tensor, closure: Callable[[], Tensor], problem: Problem, losses: list[float], best: Callable[[], Tensor]
) -> tuple[Tensor, NDArray[np.float64], bool]:
    """Adam with a step that falls from half a voxel to the tolerance."""
    steps = 2 * problem.max_iterations
    adam = torch.optim.Adam([z], lr=0.5)
    decay = max(problem.tolerance / 0.5, 1e-3) ** (1 / steps)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, gamma=decay)
    for _ in range(steps):
        adam.step(closure)
        schedule.step()
    third = max(1, len(losses) // 3)
    settled = min(losses[-third:]) - min(losses) <= 1e-3 * (max(losses) - min(losses)) + 1e-12
    return best(), np.array(losses), settled
