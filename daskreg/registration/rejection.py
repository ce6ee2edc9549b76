"""Leave out regions of a pair that contradict each other.

What one image shows and the other does not (a border that an earlier warp filled, a tear, dirt,
a reflected edge) pulls the pose: a few percent of the voxels by half a voxel or more. Where
images that are aligned but for such regions differ by far more than elsewhere, over several
voxels of a coarse level, in which noise is small, they contradict each other, and those voxels
do not count from there on. True background agrees with itself, so the edge of an object,
the best there is to match, stays.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daskreg.registration.filters import dilated, near_means
from daskreg.registration.levenberg_marquardt import Lens, Problem, State, corners_of, solve_level
from daskreg.registration.normal_equations_torch import NormalEquationsTorch
from daskreg.registration.pyramid import Level

Floats = NDArray[np.float64]

# How far images must differ: standard deviations of what they differ elsewhere, and of the image.
_FAR, _VISIBLE = 5.0, 0.35
# The part of the overlap that may be left out, and how evenly the rest must hold the pose, against all.
_MOST, LEAST_EVENNESS = 0.5, 0.05
# Half widths, in voxels of the level, of the mean of a difference, and by which a region grows.
_NEAR, _MARGIN = 1, 2
_ROUNDS = 4


def agreeing(problem: Problem, level: Level, state: State, tolerance: float) -> tuple[Tensor | None, State]:
    """(B, *shape) bool of the voxels of the fixed image that agree, and the descent with these alone.

    None and the given state where no region contradicts.
    """
    keep, best = None, state
    for _ in range(_ROUNDS):
        found = _agree(level, best.parameters, problem)
        if bool(found.all()):
            break
        some = masked(level, found)
        rest, whole = (Lens(problem, one).thinned().evaluate(best.parameters) for one in (some, level))
        even = evenness(problem, level, rest) > LEAST_EVENNESS * evenness(problem, level, whole)
        found = found | ~torch.from_numpy(even).reshape(-1, *[1] * level.fixed.grid.ndim).to(found.device)
        if bool(found.all()):
            break
        keep = found
        again = solve_level(problem, masked(level, keep), best.parameters, tolerance)
        again.iterations += best.iterations
        best = again
    return keep, best


def masked(level: Level, keep: Tensor) -> Level:
    """The level with only those voxels of the fixed image that are also in `keep`, which may be on a coarser grid."""
    fixed = level.fixed
    weight = keep.to(torch.float32)
    for axis, n in enumerate(fixed.grid.shape, start=1):
        if weight.shape[axis] != n:
            index = torch.arange(n, device=keep.device) * weight.shape[axis] // n
            weight = weight.index_select(axis, index)
    return replace(level, fixed=replace(fixed, weight=weight if fixed.weight is None else weight * fixed.weight))


def _agree(level: Level, p: Floats, problem: Problem) -> Tensor:
    """(B, *shape) false where the images differ by far more than elsewhere."""
    lens = Lens(problem, level)
    maps = lens.inner @ problem.pose.motions(p, problem.centre)[0] @ lens.outer
    warped, weight = NormalEquationsTorch(level).warp(torch.from_numpy(maps))
    fixed = level.fixed.values.expand_as(warped)
    agree = torch.ones_like(weight, dtype=torch.bool)
    for _ in range(3):
        difference = fixed - (warped if problem.metric == "mse" else _matched(fixed, warped, weight * agree))
        near = near_means(difference * weight, _NEAR) / near_means(weight, _NEAR).clamp_min(1e-6)
        size = torch.where((weight > 0) & agree, near.abs(), torch.nan).flatten(1)
        typical = 1.4826 * size.nanmedian(1).values.nan_to_num(torch.inf)
        limit = torch.clamp(_FAR * typical, min=_VISIBLE).reshape(-1, *[1] * level.fixed.grid.ndim)
        agree = (near.abs() <= limit) | (weight <= 0)
    left = dilated(~agree, _MARGIN)
    # What is next to a region that contradicts, and differs too, belongs to it.
    left = dilated(left & (difference.abs() > limit / 2) & (weight > 0), _MARGIN) | left
    share = (weight * left).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-6)
    few = (share < _MOST).reshape(-1, *[1] * level.fixed.grid.ndim)
    return ~(left & few)


def _matched(fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
    """The warped images with the gain and offset that bring them nearest to the fixed ones."""
    one = (-1, *[1] * (fixed.ndim - 1))
    total = weight.flatten(1).sum(1).clamp_min(1e-6)
    f, w = ((x * weight).flatten(1).sum(1) / total for x in (fixed, warped))
    cf, cw = fixed - f.reshape(one), warped - w.reshape(one)
    gain = (weight * cf * cw).flatten(1).sum(1) / (weight * cw * cw).flatten(1).sum(1).clamp_min(1e-6)
    return cw * gain.reshape(one) + f.reshape(one)


def evenness(problem: Problem, level: Level, state: State) -> Floats:
    """(B,) how much the least certain direction of the pose is held, of what the surest is."""
    change = problem.pose.motions(state.parameters, problem.centre)[1][..., :-1, :] @ corners_of(level.fixed.grid)
    unit = np.maximum(np.linalg.norm(change, axis=2).max(-1), 1e-12)
    values = np.linalg.eigvalsh(state.normal / (unit[:, :, None] * unit[:, None, :]))
    return np.asarray(np.maximum(values[:, 0] / np.maximum(values[:, -1], 1e-12), 1e-7))
