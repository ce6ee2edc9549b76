"""Of the poses that fit a pair equally well, the one that moves the least.

A periodic object fits as well a period away, and which of the poses costs least is decided by noise. Slices next to
each other have moved little, so a larger motion has to cost less by more than noise explains.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.levenberg_marquardt import Iterate, corners_of
from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.pyramid import PyramidLevel

Floats = NDArray[np.float64]

# A larger motion must cost less by this fraction, and by this many standard deviations of noise.
_CLEARLY, _SIGNIFICANT = 0.01, 3.0
# Of r (1 - r) of a correlation r: by how much averaging noise by interpolation may raise it.
_AVERAGED = 0.2
# Voxels of the level by which the sizes of two motions differ.
_APART = 2.0


def keep_better(
    problem: Problem, level: PyramidLevel, iterate: Iterate, rows: NDArray[np.int64], trial: Iterate
) -> None:
    """Overwrite the poses of the pairs `rows` for which the trial is better.

    That is: clearly better, or about as good and a smaller motion.
    """
    cost, none = iterate.cost[rows], problem.pose.identity(len(rows)).numpy()
    size, trial_size = (_displacement(problem, level, p, none) for p in (iterate.parameters[rows], trial.parameters))
    margin = cost_margin(problem.metric, level, np.minimum(cost, trial.cost), trial.overlap)
    same = np.abs(trial_size - size) <= _APART
    least = np.where(same, 0.0, np.maximum(margin, _CLEARLY * cost))
    some = np.where(~same & (trial_size < size), trial.cost < cost + margin, trial.cost < cost - least)
    for name in ("parameters", "cost", "overlap"):
        getattr(iterate, name)[rows[some]] = getattr(trial, name)[some]


def cost_margin(metric: str, level: PyramidLevel, cost: Floats, overlap: Floats) -> Floats:
    """(B,) differences of the costs of two poses that noise explains.

    The correlation r of n independent values has the standard deviation (1 - r^2) / sqrt(n) (Fisher 1915); a mean
    square of n residuals varies by sqrt(2 / n) of itself. White noise smoothed by a Gaussian of s voxels has one
    independent value for each sqrt(4 pi) s along each axis.
    """
    sigmas = level.sigmas[0] if level.sigmas else (0.0,) * level.fixed.grid.ndim
    area = math.prod(max(1.0, math.sqrt(4 * math.pi) * s) for s in sigmas)
    n = math.prod(level.fixed.grid.shape) * np.clip(overlap, 0.05, 1) / area
    return noise_margin(metric, cost, n)


def noise_margin(metric: str, cost: Floats, values: Floats) -> Floats:
    """(B,) differences of costs (1 - correlation, or mean squares) of independent `values` that noise explains.

    With them, of a correlation, what linear interpolation adds at fractional shifts, where it averages noise.
    """
    some, n = np.where(np.isfinite(cost), cost, 1.0), np.maximum(np.nan_to_num(values), 4)
    if metric != "ncc":
        return np.asarray(_SIGNIFICANT * math.sqrt(2) * some * np.sqrt(2 / n))
    some = np.clip(some, 0, 1)
    return np.asarray(_SIGNIFICANT * math.sqrt(2) * some * (2 - some) / np.sqrt(n) + _AVERAGED * some * (1 - some))


def _displacement(problem: Problem, level: PyramidLevel, p: Floats, other: Floats) -> Floats:
    """(B,) voxels of the level between the images of the farthest corner."""
    a, b = (problem.pose.motions(q, problem.centre)[0] for q in (p, other))
    return np.asarray(np.linalg.norm((a - b)[:, :-1] @ corners_of(level.fixed.grid), axis=1).max(-1) / level.step)
