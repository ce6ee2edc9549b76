"""Layers of cubic B-splines between the images of a pyramid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from daskreg.geometry import Transform
from daskreg.registration.deformable.agreement import Agreement, agreement_of
from daskreg.registration.deformable.coarse_to_fine import ENOUGH_SIGMAS, Solved, coarse_to_fine, schedule
from daskreg.registration.deformable.judged import drawn_by_detector, shifts_left
from daskreg.registration.deformable.level_images import LevelImages
from daskreg.registration.deformable.multimodal.far_motions import FarMotions, Judge
from daskreg.registration.deformable.solve_level import FEW_SIGMAS, LevelEstimate, solve_level
from daskreg.registration.deformable.splines.control_grid import ControlGrid
from daskreg.registration.deformable.splines.layers import Layers
from daskreg.registration.noise import with_best_smoothing
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.rejection import with_inliers
from daskreg.registration.verdict.judge import Verdict
from daskreg.registration.verdict.local_shifts import LocalShifts
from daskreg.runtime.threads import ahead

# Steps on the finest level with a cubic interpolation of the moving image, which has no bias between voxels.
_LAST_STEPS = 3
_LEAST_JOINT = 4096
"""Voxels of a level for "mi": fewer have a joint histogram of less than 16 bins, and steps go astray."""
# Voxels for each independent sample of residuals, and coefficients that are determined, as a share.
_SMOOTH, _HARDLY = 10.0, 0.05


@dataclass(frozen=True)
class LayerEstimate:
    """What was found, on the finest level.

    base: what the layers began from. earlier: how many layers the base of the state holds beyond that. before: score of
    the base alone. state: of the solver. images: of the finest level. rejected: share of the voxels that were excluded.
    contradicting: share of the overlap where the aligned images contradict each other. unrelated: whether that is much
    of it, and the images have nothing in common there. iterations: of all levels. determined: how many coefficients the
    images determined on each level, by its step. inliers: (1, *shape) of a level, false where voxels were excluded;
    None where none were. verdict: for the status, if it is not the one on this: what small steps fit by chance is no
    evidence for a pair. agreement: around which control points the images show the same structure, for error bars.
    shifts: by which small windows fit better. drawn: whether a pattern that stays with the detector draws the motion.
    """

    base: Transform
    earlier: int
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
    agreement: Agreement
    shifts: LocalShifts
    drawn: bool
    inliers: Tensor | None = None
    verdict: Verdict | None = None


def estimate_layers(
    levels: Sequence[PyramidLevel],
    grids: Sequence[ControlGrid],
    base: Transform,
    *,
    metric: str,
    tolerance: float,
    max_iterations: int,
    progress: Callable[[int, int], None] | None = None,
    judge: Judge | None = None,
) -> LayerEstimate:
    """Estimate a transform base . layers between the images of a pyramid of one pair.

    Args:
        levels: coarse to fine. grids: of control points of the fixed image, coarse to fine.
        tolerance: voxels; steps end when their root mean square is less.
        judge: for "mi", to look for motions that steps do not find; None: not to.
    """
    levels = _usable(levels, metric)
    plan = schedule(grids, levels)
    total = count = len(plan) + 1
    steps = progress or (lambda done, total: None)
    start = Layers.start(base, grids[0])

    def solve(on_done: Callable[[int], None], *, stiffens: bool) -> Solved:
        return coarse_to_fine(
            levels,
            plan,
            start,
            metric=metric,
            tolerance=tolerance,
            max_iterations=max_iterations,
            on_done=on_done,
            stiffens=stiffens,
        )

    solved = solve(lambda done: steps(done, count), stiffens=True)
    if judge is not None:
        far = FarMotions(levels, grids[-1], base, judge, tolerance, max_iterations)
        solved = far.after(solved)
    found = _with_last_steps(solved, levels, start, metric=metric, tolerance=tolerance)
    if judge is None and (found.shifts.left or _stuck(found.state) or solved.late):
        total = 2 * count
        again = replace(solve(lambda done: steps(count + done, total), stiffens=False), final=None)
        softer = _with_last_steps(again, levels, start, metric=metric, tolerance=tolerance)
        better = softer.shifts.settled > found.shifts.settled or _likelier(softer.state, found)
        found = replace(softer if better else found, iterations=found.iterations + softer.iterations)
    steps(total, total)
    return found


def _stuck(state: LevelEstimate) -> bool:
    """Whether the images determine next to nothing, for residuals as large and smooth as of motion."""
    return state.noise.correlated > _SMOOTH and state.determined < _HARDLY * state.layers.current.size


def _likelier(one: LevelEstimate, other: LayerEstimate) -> bool:
    """Whether one explains more of the images of the other than its further coefficients would by chance."""
    before, after = other.state.found, other.images.evaluate(one.layers.transform, order=3)
    samples = before.total / other.state.noise.correlated
    gain = samples / 2 * math.log(max(before.misfit, 1e-12) / max(after.misfit, 1e-12))
    return gain > one.determined - other.state.determined


def _usable(levels: Sequence[PyramidLevel], metric: str) -> list[PyramidLevel]:
    """Those whose images have enough voxels for the metric; the finest always."""
    if metric != "mi":
        return list(levels)
    return [level for level in levels[:-1] if level.fixed.values[0].numel() >= _LEAST_JOINT] + [levels[-1]]


def _with_last_steps(
    solved: Solved, levels: Sequence[PyramidLevel], base: Layers, *, metric: str, tolerance: float
) -> LayerEstimate:
    """The estimate after a few more steps on the finest level that was used, without what contradicts, if anything
    does, and as smooth as is best for its noise; with a cubic interpolation, if that level had a linear one ("mi").

    They begin at what that level found, whatever it tells: the verdict is on the whole.
    """
    state, inliers = solved.state, solved.contradicting.inliers
    level, smoother = with_inliers(levels[solved.number], inliers), None
    if metric != "mi":  # what other modalities have not in common is no noise
        smoother = with_best_smoothing(level, np.array([state.found.residual_variance]))
    if solved.final is not None and smoother is None:
        images, last = solved.final, replace(state, iterations=0, costs=[])
    else:
        images = LevelImages.of(smoother or level, metric, state.layers.control.spacing)
        last = solve_level(
            images,
            state.layers,
            state.weight,
            tolerance=tolerance,
            max_iterations=_LAST_STEPS if state.iterations else 0,  # where steps lead away, these do, too
            few_sigmas=FEW_SIGMAS if metric == "mi" else ENOUGH_SIGMAS,
            order=3,
        )
    shifts = ahead(lambda: shifts_left(images, last.found, last.layers.control))
    # As what was found: a linear interpolation, which smooths noise, would look better.
    before = images.evaluate(base.transform, order=3)
    full = float(images.weight.sum(dtype=np.float64))
    return LayerEstimate(
        base=base.base,
        earlier=solved.earlier,
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
        agreement=agreement_of(images, last.found, last.layers.control),
        shifts=shifts(),
        drawn=drawn_by_detector(images, last.found, last.layers.transform),
        verdict=solved.verdict,
        inliers=inliers,
    )
