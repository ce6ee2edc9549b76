"""Layers of cubic B-splines from coarse to fine: control points and levels of the pyramid together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from daskreg.geometry import Transform
from daskreg.registration.deformable.control_grid import ControlGrid
from daskreg.registration.deformable.layers import Layers
from daskreg.registration.deformable.level_images import LevelImages
from daskreg.registration.deformable.solve_level import LevelEstimate, solve_level
from daskreg.registration.noise import with_best_smoothing
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.rejection import contradictions, with_inliers

_CELL = 5.0
"""The least voxels of a level along a cell of control points, where a finer level has them."""
# Steps on the finest level with a cubic interpolation of the moving image, which has no bias between voxels.
_LAST_STEPS = 3
_COARSE_TOLERANCE = 0.05
_MOST_REJECTED = 0.1
"""Of the overlap. More are no exceptions, but differences with a wide distribution, as of sparse bright structures, or
what finer control points may still align."""


@dataclass(frozen=True)
class LayerEstimate:
    """What was found, on the finest level.

    before: score of the base alone. state: of the solver. images: of the finest level. rejected: share of the voxels
    that were excluded. contradicting: share of the overlap where the aligned images contradict each other. iterations:
    of all levels. determined: how many coefficients the images determined on each level, by its step. inliers:
    (1, *shape) of a level, false where voxels were excluded; None where none were.
    """

    state: LevelEstimate
    images: LevelImages
    before: tuple[float, float]
    overlap: float
    rejected: float
    contradicting: float
    iterations: int
    converged: bool
    determined: dict[float, float]
    inliers: Tensor | None = None


def schedule(grids: Sequence[ControlGrid], levels: Sequence[PyramidLevel]) -> list[tuple[ControlGrid, int]]:
    """Which control points are estimated on which level, in order.

    Each grid on the coarsest level on which a cell has enough voxels, and the finest also on all finer levels.
    """
    plan: list[tuple[ControlGrid, int]] = []
    number = 0
    for grid in grids:
        enough = [k for k, level in enumerate(levels) if min(grid.spacing) >= _CELL * level.step]
        number = max(number, enough[0] if enough else len(levels) - 1)
        plan.append((grid, number))
    return plan + [(grids[-1], k) for k in range(number + 1, len(levels))]


def estimate_layers(
    levels: Sequence[PyramidLevel],
    grids: Sequence[ControlGrid],
    base: Transform,
    *,
    metric: str,
    tolerance: float,
    max_iterations: int,
    progress: Callable[[int, int], None] | None = None,
) -> LayerEstimate:
    """Estimate a transform base . layers between the images of a pyramid of one pair.

    Args:
        levels: coarse to fine. grids: of control points of the fixed image, coarse to fine.
        tolerance: voxels; steps end when their root mean square is less.
    """
    plan = schedule(grids, levels)
    layers, weight, iterations = Layers.start(base, grids[0]), 0.0, 0
    inliers: Tensor | None = None
    contradicting = 0.0
    determined: dict[float, float] = {}
    for done, (grid, number) in enumerate(plan):
        layers = layers if grid is layers.control else layers.refined(grid)
        level, last = levels[number], done == len(plan) - 1
        images = LevelImages.of(with_inliers(level, inliers), metric)
        state = solve_level(
            images,
            layers,
            weight,
            tolerance=tolerance if last else max(tolerance, _COARSE_TOLERANCE),
            max_iterations=max_iterations,
        )
        iterations += state.iterations
        determined[level.step] = state.determined
        layers, weight = state.layers, state.weight
        if grid is grids[-1] and inliers is None:
            inliers, contradicting = contradictions_of(images, state)
        if progress:
            progress(done + 1, len(plan) + 1)
    level = with_inliers(levels[-1], inliers)
    level = with_best_smoothing(level, np.array([state.found.mean_square])) or level
    images = LevelImages.of(level, metric)
    last_state = solve_level(images, layers, weight, tolerance=tolerance, max_iterations=_LAST_STEPS, order=3)
    iterations += last_state.iterations
    determined[level.step] = last_state.determined
    if progress:
        progress(len(plan) + 1, len(plan) + 1)
    # As what was found: a linear interpolation, which smooths noise, would look better.
    before = images.evaluate(Layers.start(base, grids[0]).transform, order=3)
    full = float(images.weight.sum(dtype=np.float64))
    rejected = 0.0 if inliers is None else 1 - float(inliers.float().mean())
    return LayerEstimate(
        replace(last_state, costs=[*state.costs, *last_state.costs]),
        images,
        before.score,
        last_state.found.total / max(full, 1e-9),
        rejected,
        contradicting,
        iterations,
        state.converged or last_state.converged,
        determined,
        inliers,
    )


def contradictions_of(images: LevelImages, state: LevelEstimate) -> tuple[Tensor | None, float]:
    """(1, *shape) bool, false where the images contradict each other after they are aligned; None where nowhere, or
    in much of the images. And the share of the overlap where they do."""
    import torch

    found = state.found
    fixed, warped, weight = (torch.from_numpy(x[None]) for x in (images.fixed, found.warped, found.weight))
    inliers = contradictions(fixed, warped, weight, matched=images.matched)
    rejected = float((weight * ~inliers).sum() / weight.sum().clamp_min(1e-6))
    return (inliers if 0 < rejected < _MOST_REJECTED else None), rejected
