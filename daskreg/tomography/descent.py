"""Gauss-Newton steps over the poses, each judged by the misfit that it leaves, over images in memory or blocks of rows.

A step that leaves more is halved: the derivatives hold near the poses, and where a few coarse pixels hardly determine
the axis, whole steps lead away from it. Steps that would go to and fro, since smooth derivatives are too small where
few rows hardly show a shift, are shortened by the last two (Barzilai and Borwein 1988).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from daskreg.tomography.matching import Problem, smoothed_noise
from daskreg.tomography.normal_equations import Coupling, Sums
from daskreg.tomography.poses import Fixed, increments

Floats = NDArray[np.float64]
Found = TypeVar("Found")

_SETTLED = 0.02  # pixels of the detector
_SETTLED_SIGMAS = 0.1
_HALVINGS = 3
_MORE = 0.01  # of the least misfit, by which a step may exceed it: noise that is sampled elsewhere changes by less


@dataclass(frozen=True)
class Evaluation(Generic[Found]):
    """The normal equations at some poses, and what they were made of."""

    sums: Sums
    coupling: Coupling
    at: Found


@dataclass(frozen=True)
class Descent(Generic[Found]):
    """How steps ended.

    Args:
        poses: (A, 3, 3) after the last step.
        at: the last evaluation: of these poses, or of those from which a short step led to them.
        steps: how many were taken.
        settled: whether the last one was short.
    """

    poses: Floats
    at: Found
    steps: int
    settled: bool


@dataclass(frozen=True)
class Step:
    """A step from some poses: parameters of the aligned frame, (A used, P) and shared, pixels of the level."""

    problem: Problem
    start: Floats
    values: Floats
    shared: Floats
    fixed: Fixed
    short: bool

    def poses(self, share: float = 1.0) -> Floats:
        """(A, 3, 3) after a share of it."""
        problem = self.problem
        names = (*problem.names, *problem.shared)
        full = np.zeros((len(self.start), len(names)))
        full[problem.used, : len(problem.names)] = self.values
        full[:, len(problem.names) :] = self.shared
        for k, name in enumerate(names):
            full[:, k] *= problem.factor if name in ("ty", "tx") else 1.0
        moved = np.asarray(self.start @ increments(share * full, names))
        return self.fixed.applied(moved, problem.radians, problem.used)

    def along(self, other: Step, sums: Sums) -> float:
        """This step in the direction of another, as a share of that; each projection counts by what it determines."""

        def product(one: Step) -> float:
            own = np.einsum("ap,apq,aq->", one.values, sums.own, other.values)
            return float(own + (one.shared * sums.common * other.shared).sum())

        return product(self) / max(product(other), 1e-30)


def step_from(problem: Problem, poses: Floats, evaluation: Evaluation[Found], fixed: Fixed) -> Step:
    """The step of the normal equations at the poses.

    It is short if each parameter moves no projection by more than _SETTLED pixels of the detector, or all of them, as a
    root mean square, by less than a tenth of what the residuals leave open of that parameter.
    """
    sums = evaluation.sums
    values, shared = problem.solve(sums, evaluation.coupling)
    for k, name in enumerate(problem.names):
        if name in fixed.held:
            values[:, k] -= values[:, k].mean()
    noise = float(np.sqrt(sums.left.mean() / sums.pixels)) / smoothed_noise(problem.level.whole_rows)
    most, mean = _motion(problem, values, shared)
    short = bool(((most <= _SETTLED) | (mean <= _open(problem, sums, noise))).all())
    return Step(problem, poses, values, shared, fixed, short)


def descend(
    problem: Problem,
    poses: Floats,
    fixed: Fixed,
    most: int,
    evaluate: Callable[[Floats], Evaluation[Found] | None],
    *,
    start: Evaluation[Found] | None = None,
) -> Descent[Found]:
    """At most so many steps from the poses, until one is short: that is taken without being judged, since it changes
    less than the projections determine.

    Where no step helps, it ends at the poses from which none did, not settled.

    Args:
        evaluate: None for poses at which it cannot be done, which a step is then too long to reach.
        start: the evaluation of the poses, where it is known.
    """
    here = evaluate(poses) if start is None else start
    if here is None:
        raise ValueError("the poses to begin with cannot be evaluated")
    least = here.sums.misfit
    last, share = None, 1.0
    for taken in range(1, most + 1):
        step = step_from(problem, poses, here, fixed)
        if step.short:
            return Descent(step.poses(), here.at, taken, True)
        if last is not None:
            share = min(share / max(1 - step.along(last, here.sums), share), 1.0)
        last = step
        for halved in range(_HALVINGS + 1):
            poses = step.poses(share * 0.5**halved)
            there = evaluate(poses)
            if there is not None and there.sums.misfit <= (1 + _MORE) * least:
                break
        else:
            return Descent(step.start, here.at, taken, False)
        here, least, share = there, min(least, there.sums.misfit), share * 0.5**halved
    return Descent(poses, here.at, most, False)


def _reach(problem: Problem) -> Floats:
    """(P,) by how many pixels of the detector one of each parameter moves a projection, at most."""
    return np.array([1.0 if name in ("ty", "tx") else problem.level.reach for name in problem.names]) * problem.factor


def _motion(problem: Problem, values: Floats, shared: Floats) -> tuple[Floats, Floats]:
    """(P,) by how many pixels of the detector a step in each parameter moves a projection: at most, and the root mean
    square.

    The turn of the axis converges more slowly: it counts twice, and with every parameter.
    """
    common = float(np.abs(shared).sum()) * 2 * problem.level.reach * problem.factor
    reach = _reach(problem)
    most, mean = np.abs(values).max(axis=0), np.sqrt((values**2).mean(axis=0))
    return most * reach + common, mean * reach + common


def _open(problem: Problem, sums: Sums, noise: float) -> Floats:
    """(P,) a tenth of the standard deviation of each parameter, likewise."""
    scales = sums.scales()[0]
    sigmas = np.sqrt(np.einsum("aqp,aqp->ap", scales, scales))
    return np.asarray(_SETTLED_SIGMAS * noise * np.median(sigmas, axis=0) * _reach(problem))
