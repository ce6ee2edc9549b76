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
from daskreg.registration.deformable.noise_model import told
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
_LEAST_JOINT = 4096
"""Voxels of a level for "mi": fewer have a joint histogram of less than 16 bins, and steps go astray."""
_BY_CHANCE = 2.0
"""Standard deviations of the correlation of unrelated images."""


@dataclass(frozen=True)
class LayerEstimate:
    """What was found, on the finest level.

    before: score of the base alone. state: of the solver. images: of the finest level. rejected: share of the voxels
    that were excluded. contradicting: share of the overlap where the aligned images contradict each other. unrelated:
    whether that is much of it, and the images have nothing in common there. iterations: of all levels. determined: how
    many coefficients the images determined on each level, by its step. inliers: (1, *shape) of a level, false where
    voxels were excluded; None where none were.
    """

    state: LevelEstimate
    images: LevelImages
    before: tuple[float, float]
    overlap: float
    rejected: float
    contradicting: float
    unrelated: bool
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
    levels = _usable(levels, metric)
    plan = schedule(grids, levels)
    count = len(plan) + 1
    steps = progress or (lambda done, total: None)
    solved = _coarse_to_fine(
        levels,
        plan,
        Layers.start(base, grids[0]),
        metric=metric,
        tolerance=tolerance,
        max_iterations=max_iterations,
        on_done=lambda done: steps(done, count),
    )
    found = _with_last_steps(solved, levels, Layers.start(base, grids[0]), metric=metric, tolerance=tolerance)
    steps(count, count)
    return found


def _usable(levels: Sequence[PyramidLevel], metric: str) -> list[PyramidLevel]:
    """Those whose images have enough voxels for the metric; the finest always."""
    if metric != "mi":
        return list(levels)
    return [level for level in levels[:-1] if level.fixed.values[0].numel() >= _LEAST_JOINT] + [levels[-1]]


@dataclass(frozen=True)
class _Solved:
    """The levels so far. number: of the finest one that was used. iterations, determined: see `LayerEstimate`."""

    state: LevelEstimate
    number: int
    iterations: int
    determined: dict[float, float]
    contradicting: Contradictions


def _coarse_to_fine(
    levels: Sequence[PyramidLevel],
    plan: Sequence[tuple[ControlGrid, int]],
    layers: Layers,
    *,
    metric: str,
    tolerance: float,
    max_iterations: int,
    on_done: Callable[[int], None],
) -> _Solved:
    """Solve level after level; for "mi", as long as finer ones tell more.

    Modalities share little at fine scale: a level that tells less than the one before would replace what is known by
    chance. Nor does a level go on from one whose solution tells nothing: it begins where that one began.
    """
    weight, iterations, known, number = 0.0, 0, 0.0, plan[0][1]
    state: LevelEstimate | None = None
    contradicting: Contradictions | None = None
    determined: dict[float, float] = {}
    for done, (grid, finer) in enumerate(plan, 1):
        refined = layers if grid is layers.control else layers.refined(grid)
        inliers = None if contradicting is None else contradicting.inliers
        current = LevelImages.of(with_inliers(levels[finer], inliers), metric)
        found = current.evaluate(refined.transform)
        if metric == "mi" and finer > number and told(current, found) < known:
            break
        images, layers, number = current, refined, finer
        state = solve_level(
            images,
            layers,
            weight,
            tolerance=tolerance if done == len(plan) else max(tolerance, _COARSE_TOLERANCE),
            max_iterations=max_iterations,
            found=found,
        )
        iterations += state.iterations
        determined[levels[number].step] = state.determined
        known = told(images, state.found) if metric == "mi" else np.inf
        if known:
            layers, weight = state.layers.rebased(), state.weight
        if grid is plan[-1][0] and contradicting is None:
            contradicting = contradictions_of(images, state)
        on_done(done)
    if state is None:
        raise RuntimeError("the first level is always solved")
    return _Solved(state, number, iterations, determined, contradicting or contradictions_of(images, state))


def _with_last_steps(
    solved: _Solved, levels: Sequence[PyramidLevel], base: Layers, *, metric: str, tolerance: float
) -> LayerEstimate:
    """The estimate after a few more steps on the finest level that was used, with a better interpolation.

    They begin at what that level found, whatever it tells: the verdict is on the whole.
    """
    state, inliers = solved.state, solved.contradicting.inliers
    level = with_inliers(levels[solved.number], inliers)
    if metric != "mi":  # what other modalities have not in common is no noise
        level = with_best_smoothing(level, np.array([state.found.mean_square])) or level
    images = LevelImages.of(level, metric)
    last = solve_level(images, state.layers, state.weight, tolerance=tolerance, max_iterations=_LAST_STEPS, order=3)
    # As what was found: a linear interpolation, which smooths noise, would look better.
    before = images.evaluate(base.transform, order=3)
    full = float(images.weight.sum(dtype=np.float64))
    return LayerEstimate(
        state=replace(last, costs=[*state.costs, *last.costs]),
        images=images,
        before=before.score,
        overlap=last.found.total / max(full, 1e-9),
        rejected=0.0 if inliers is None else 1 - float(inliers.float().mean()),
        contradicting=solved.contradicting.share,
        unrelated=solved.contradicting.unrelated,
        iterations=solved.iterations + last.iterations,
        converged=state.converged or last.converged,
        determined={**solved.determined, level.step: last.determined},
        inliers=inliers,
    )


@dataclass(frozen=True)
class Contradictions:
    """Where aligned images contradict each other.

    inliers: (1, *shape) bool, false there; None where that is nowhere, or much of the images. share: of the overlap.
    unrelated: whether that is much of the images, and these agree there by no more than chance.
    """

    inliers: Tensor | None
    share: float
    unrelated: bool


def contradictions_of(images: LevelImages, state: LevelEstimate) -> Contradictions:
    """After the images of a level are aligned."""
    import torch

    found = state.found
    predicted = found.warped if found.dependence is None else found.dependence.predicted
    fixed, other, weight = (torch.from_numpy(x[None]) for x in (images.fixed, predicted, found.weight))
    inliers = contradictions(fixed, other, weight, matched=images.matched)
    share = float((weight * ~inliers).sum() / weight.sum().clamp_min(1e-6))
    if share < _MOST_REJECTED:
        return Contradictions(inliers if share > 0 else None, share, unrelated=False)
    outside = found.weight * ~inliers[0].numpy()
    total = float(outside.sum(dtype=np.float64))
    f, w = (x - float((outside * x).sum(dtype=np.float64)) / total for x in (images.fixed, predicted))
    ff, fw, ww = (float((outside * a * b).sum(dtype=np.float64)) for a, b in ((f, f), (f, w), (w, w)))
    # Structures that differ in brightness are similar all the same; the correlation of unrelated ones deviates by this.
    deviation = np.sqrt(state.noise.correlated / total)
    correlation = fw / max(np.sqrt(ff * ww), 1e-12)
    return Contradictions(None, share, unrelated=bool(correlation < _BY_CHANCE * deviation))
