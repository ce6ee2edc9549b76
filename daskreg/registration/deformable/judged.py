"""The status of a deformable fit: the verdict of affine fits on the images after they are warped, and the folds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.fields.jacobian import determinants_in
from daskreg.geometry import Box, Grid, Transform
from daskreg.geometry.box import tile
from daskreg.registration.deformable.level_images import Evaluated, LevelImages, slopes_of, without_edges
from daskreg.registration.deformable.mutual_information import dependence
from daskreg.registration.deformable.noise_model import informative_box
from daskreg.registration.deformable.splines.control_grid import ControlGrid
from daskreg.registration.local_contrast.normalised import normalised
from daskreg.registration.metrics import bins_for
from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel
from daskreg.registration.verdict.fixed_pattern import drawn_by_pattern, sampled
from daskreg.registration.verdict.judge import Verdict, suitable
from daskreg.registration.verdict.local_shifts import LocalShifts, local_shifts
from daskreg.registration.verdicts import FitStatus, edges_of, status_of, verdicts_of
from daskreg.runtime.threads import pool_threads, spread

Floats = NDArray[np.float64]

# Voxels of a level by which poses differ that are independent (see `verdict.evidence`).
_APART = 2.0
# Voxels whose determinants are computed at once.
_SLAB = 1 << 17


def verdict_of(
    problem: Problem,
    levels: Sequence[PyramidLevel],
    transform: Transform,
    metric: str,
    *,
    determined: Mapping[float, float],
    reach: float,
    confirmed: bool = False,
) -> Verdict:
    """The verdict on the images that a transform brought together, as if they were a pair at the identity.

    A field can make unrelated images more alike than a pose can: for each coefficient that the images determine, the
    evidence that is needed grows by what one more parameter of that range explains by chance. It does not if small
    windows all over the images confirm it: each of these allows for all shifts that a field could have given it.

    Args:
        determined: number of coefficients that the images determine, by the step of a level: a level does not see what
            only finer ones determine. reach: range of each, world units. confirmed: by small windows.
    """
    # Coarse levels have too few voxels for the evidence against many coefficients.
    level = _brought_together(suitable(levels)[-1], transform, metric)
    identity = problem.parameters_of([np.eye(problem.pose.ndim + 1)], level.fixed.grid)
    verdict = verdicts_of(problem, [level], identity)[0]
    if metric == "mi" and not verdict.settled:
        # As for affine maps: other modalities may agree in their edges alone.
        verdict = verdicts_of(problem, [edges_of(level)], identity)[0]
    if confirmed:
        return verdict
    ways = max(1.0, reach / level.step / _APART)
    count = determined[min(determined, key=lambda step: abs(math.log(step / level.step)))]
    # The relation of values was estimated, too.
    count += bins_for(level.fixed.values[0].numel()) if metric == "mi" else 0
    return replace(verdict, needed=verdict.needed + count * (0.5 + math.log(ways)))


def _brought_together(level: PyramidLevel, transform: Transform, metric: str) -> PyramidLevel:
    images = LevelImages.of(level, metric)
    warped, fixed_values = images.warp(transform), images.fixed
    known = np.isfinite(warped)
    weight = torch.from_numpy(known.astype(np.float32)[None])
    if images.windows is not None:  # gains that were fitted would make any images alike
        mask = None if level.fixed.weight is None else level.fixed.weight[0].numpy()
        warped = normalised(np.where(known, warped, np.float32(0)), known.astype(np.float32))
        fixed_values = normalised(fixed_values, mask)
    if images.ends is not None:
        # The values of the fixed image that go with those of the moving one.
        shared = dependence(images.fixed, np.where(known, warped, np.float32(0)), images.weight * known, images.ends)
        warped = shared.predicted
    values = torch.from_numpy(np.where(known, warped, np.float32(0))[None])
    fixed = ImageBatch(torch.from_numpy(fixed_values[None]), level.fixed.weight, level.fixed.grid)
    return PyramidLevel(fixed, ImageBatch(values, weight, level.fixed.grid), level.step, level.sigmas)


def shifts_left(images: LevelImages, found: Evaluated, control: ControlGrid) -> LocalShifts:
    """By which small windows of a level fit better, at a transform with these control points."""
    spacing = np.divide(control.spacing, images.fixed_grid.spacing)
    return local_shifts(images.fixed, found.predicted, found.weight > 0, spacing.tolist())


def drawn_by_detector(images: LevelImages, found: Evaluated, transform: Transform) -> bool:
    """Whether a pattern that stays with the detector draws the motion; of images with the same voxels."""
    if images.moving_grid.shape != images.fixed_grid.shape:
        return False
    box = informative_box(found.weight, images.gradient, images.fixed.shape)
    spacing, start = images.fixed_grid.spacing, np.array([s.start for s in box])
    residual, weight = found.residual[box], without_edges(found.weight[box])
    aligned = images.fixed[box] - residual
    slopes = slopes_of(residual, spacing), images.gradient[(slice(None), *box)], slopes_of(aligned, spacing)
    places = sampled(weight)
    there = images.moving_grid.index(transform(images.fixed_grid.world(places + start.astype(float)))) - start
    return drawn_by_pattern(residual, slopes, weight, places, there)


def determinants(transform: Transform, grid: Grid) -> tuple[float, float, float, float, float]:
    """Least, 1 %, median, 99 % and greatest determinant of the derivative over the voxels of a grid."""
    found = np.empty(grid.shape, np.float32)

    def slab(box: Box) -> None:
        found[box.slices] = determinants_in(transform, grid, box)

    planes = max(1, _SLAB // math.prod(grid.shape[1:]))
    spread(pool_threads(), slab, (box for _, box in tile(grid.shape, (planes, *grid.shape[1:]))))
    low, one, middle, most, high = np.percentile(found, (0, 1, 50, 99, 100)).tolist()
    return low, one, middle, most, high


def status(
    verdict: Verdict,
    *,
    converged: bool,
    improved: bool,
    overlap: float,
    extremes: tuple[float, float],
    ambiguous: bool = False,
    unrelated: bool = False,
    left: bool = False,
    drawn: bool = False,
    slides: Callable[[], bool] | None = None,
) -> FitStatus:
    """The status of a fit.

    Args:
        extremes: least and greatest determinant of the derivative, whose sign changes at a fold; a mirror image has a
            negative one everywhere.
        ambiguous: whether layers began from a pose that has rivals, which they would follow as well.
        unrelated: whether the aligned images have nothing in common in much of their overlap.
        left: whether small windows of them say that some motion is left.
        drawn: see `drawn_by_detector`.
        slides: see `motion_along_structures.slides`; called where nothing else is wrong, or steps did not end, for
            which free motions may be the reason; None: not to ask.
    """
    found = status_of(verdict, converged=converged, improved=improved, overlap=overlap)
    least, greatest = extremes
    one_to_one = least > 0 or greatest < 0
    if found not in (FitStatus.CONVERGED, FitStatus.MAX_ITERATIONS):
        return found
    if found is FitStatus.CONVERGED:
        if ambiguous:
            return FitStatus.AMBIGUOUS
        if unrelated:
            return FitStatus.INCONSISTENT
        if not one_to_one:
            return FitStatus.FOLDED
        if drawn:
            return FitStatus.FIXED_PATTERN
        if left:
            return FitStatus.UNCERTAIN
    return FitStatus.UNDETERMINED if slides is not None and slides() else found
