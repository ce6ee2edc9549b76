"""Reject outlier regions: regions of a pair that contradict each other.

What one image shows and the other does not (a border that an earlier warp filled, a tear, dirt,
a reflected edge) biases the pose: a few percent of the voxels by half a voxel or more. Where aligned
images differ by far more than elsewhere, over several voxels of a coarse level, on which noise is small, the
voxels are outliers and have no weight from there on. Background is the same in both images, so the edge of an object,
which is the best feature to match, stays.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daskreg.registration.levenberg_marquardt import Iterate, LevelObjective, corners_of, solve_level
from daskreg.registration.normal_equations.equations_torch import NormalEquationsTorch
from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.filters import dilated, local_means
from daskreg.registration.pyramids.pyramid import PyramidLevel

Floats = NDArray[np.float64]

# An outlier differs by so many standard deviations of the other differences, and of the image.
_MANY_DEVIATIONS, _VISIBLE = 5.0, 0.35
# The largest part of the overlap that may be rejected.
_MAX_REJECTED = 0.5
MIN_OBSERVABILITY = 0.05
"""The least observability of the pose without the rejected voxels, as a share of that with all of them."""
# Half widths, in voxels of the level, of the mean of a difference, and by which a region grows.
_MEAN_RADIUS, _MARGIN = 1, 2
_ROUNDS = 4


def reject_outliers(
    problem: Problem, level: PyramidLevel, iterate: Iterate, *, tolerance: float, max_iterations: int
) -> tuple[Tensor | None, Iterate]:
    """(B, *shape) bool, true on the inliers of the fixed image, and the level solved again with these alone.

    None and the same iterate where there are no outliers.
    """
    inliers, best = None, iterate
    for _ in range(_ROUNDS):
        found = _inliers(level, best.parameters, problem)
        if bool(found.all()):
            break
        rest, every = (
            LevelObjective(problem, one).subsampled().evaluate(best.parameters)
            for one in (with_inliers(level, found), level)
        )
        enough = observability(problem, level, rest) > MIN_OBSERVABILITY * observability(problem, level, every)
        found = found | ~torch.from_numpy(enough).reshape(-1, *[1] * level.fixed.grid.ndim).to(found.device)
        if bool(found.all()):
            break
        inliers = found
        again = solve_level(
            problem,
            with_inliers(level, inliers),
            best.parameters,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        again.iterations += best.iterations
        best = again
    return inliers, best


def with_inliers(level: PyramidLevel, inliers: Tensor | None) -> PyramidLevel:
    """The level with weight only on the inliers of the fixed image, which may be given on a coarser grid."""
    if inliers is None:
        return level
    fixed = level.fixed
    weight = inliers.to(torch.float32)
    for axis, n in enumerate(fixed.grid.shape, start=1):
        if weight.shape[axis] != n:
            index = torch.arange(n, device=inliers.device) * weight.shape[axis] // n
            weight = weight.index_select(axis, index)
    weight = weight if fixed.weight is None else weight * fixed.weight
    # The inliers differ between pairs that share one fixed image: from here on, each pair has its own.
    values = fixed.values if len(weight) == 1 else fixed.values.expand(len(weight), *fixed.values.shape[1:])
    return replace(level, fixed=replace(fixed, values=values, weight=weight))


def _inliers(level: PyramidLevel, p: Floats, problem: Problem) -> Tensor:
    """(B, *shape) false where the images differ by far more than elsewhere."""
    maps = LevelObjective(problem, level).maps(p)
    warped, weight = NormalEquationsTorch(level).warp(torch.from_numpy(maps))
    return contradictions(level.fixed.values.expand_as(warped), warped, weight, matched=problem.metric != "mse")


def contradictions(fixed: Tensor, warped: Tensor, weight: Tensor, *, matched: bool) -> Tensor:
    """(B, *shape) false where aligned images differ by far more than elsewhere.

    Args:
        fixed, warped, weight: (B, *shape). matched: whether gain and offset of the warped images are free.
    """
    one = (-1, *[1] * (fixed.ndim - 1))
    agree, around = torch.ones_like(weight, dtype=torch.bool), local_means(weight, _MEAN_RADIUS).clamp_min(1e-6)
    for _ in range(3):
        other = _matched(fixed, warped, weight * agree) if matched else warped
        difference = fixed - other
        near = local_means(difference * weight, _MEAN_RADIUS) / around
        size = torch.where((weight > 0) & agree, near.abs(), torch.nan).flatten(1)
        typical = 1.4826 * size.nanmedian(1).values.nan_to_num(torch.inf)
        limit = torch.clamp(_MANY_DEVIATIONS * typical, min=_VISIBLE).reshape(one)
        agree = (near.abs() <= limit) | (weight <= 0)
    outliers = dilated(~agree, _MARGIN)
    # What is next to an outlier region, and differs too, belongs to it.
    outliers = dilated(outliers & (difference.abs() > limit / 2) & (weight > 0), _MARGIN) | outliers
    share = (weight * outliers).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-6)
    few = (share < _MAX_REJECTED).reshape(one)
    return ~(outliers & few)


def _matched(fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
    """The warped images with the gain and offset that bring them nearest to the fixed ones."""
    one = (-1, *[1] * (fixed.ndim - 1))
    total = weight.flatten(1).sum(1).clamp_min(1e-6)
    f, w = ((x * weight).flatten(1).sum(1) / total for x in (fixed, warped))
    cf, cw = fixed - f.reshape(one), warped - w.reshape(one)
    gain = (weight * cf * cw).flatten(1).sum(1) / (weight * cw * cw).flatten(1).sum(1).clamp_min(1e-6)
    return cw * gain.reshape(one) + f.reshape(one)


def observability(problem: Problem, level: PyramidLevel, iterate: Iterate) -> Floats:
    """(B,) the least eigenvalue of J^T J over the largest, in voxels by which parameters move the farthest corner."""
    change = problem.pose.motions(iterate.parameters, problem.centre)[1][..., :-1, :] @ corners_of(level.fixed.grid)
    unit = np.maximum(np.linalg.norm(change, axis=2).max(-1), 1e-12)
    values = np.linalg.eigvalsh(iterate.normal / (unit[:, :, None] * unit[:, None, :]))
    return np.asarray(np.maximum(values[:, 0] / np.maximum(values[:, -1], 1e-12), 1e-7))
