"""`register(model="bspline")`: an affine map, then layers of cubic B-splines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from daskreg.errors import MemoryBudgetError, OptionError
from daskreg.geometry import Affine, Box, Grid
from daskreg.registration.deformable import judged, motion_along_structures
from daskreg.registration.deformable.affine_start import AffineStage, affine_of, checked_base
from daskreg.registration.deformable.cell_sums import square_bytes
from daskreg.registration.deformable.coarse_to_fine import Solved
from daskreg.registration.deformable.estimate import LayerEstimate, estimate_layers
from daskreg.registration.deformable.fit import DeformableFit
from daskreg.registration.deformable.metric_choice import metric_of
from daskreg.registration.deformable.posterior import FieldUncertainty
from daskreg.registration.deformable.splines.control_grid import BEYOND, ControlGrid, control_grids
from daskreg.registration.fit import PairFit
from daskreg.registration.images import Image, at_level, batch_of, masked_fraction
from daskreg.registration.pose import Pose
from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.pyramid import PyramidLevel, pyramid, standardised
from daskreg.registration.verdict.judge import Verdict
from daskreg.registration.verdicts import FitStatus
from daskreg.reporting import planes
from daskreg.reporting.fit import Fit
from daskreg.reporting.planes import PairPlane
from daskreg.runtime.memory import available_memory

METRICS = ("ncc", "lncc", "mse", "mi")
Progress = Callable[[int, int], None]

# By how much a residual may grow where there is nothing to gain: by this share, since the last steps smooth the images
# otherwise than those before, and by what rounding leaves of images of variance 1.
_RISE, _ROUNDING = 5e-3, 1e-6

# Control points are so many voxels apart by default, at least, and so many distances fit the longest side. A volume
# that is no cube has as many control points as a cube with so many.
_LEAST_VOXELS, _ALONG = 8.0, {2: 24, 3: 30}


def check_options(metric: Any, optimizer: str, *, check_inverse: bool) -> None:
    """Raise OptionError for what layers of B-splines are not estimated with."""
    if check_inverse:
        raise OptionError("check_inverse is for affine models: compare the fit of (moving, fixed) with fit.push")
    if metric not in METRICS:
        raise OptionError(f"model='bspline' takes the metrics {', '.join(METRICS)} or auto, not {metric!r}")
    if optimizer not in ("auto", "gauss-newton"):
        raise OptionError(f"model='bspline' is solved by gauss-newton, not {optimizer!r}")


def register_layers(
    images: tuple[Image, Image],
    init: Any,
    affine_stage: AffineStage,
    *,
    metric: str | None,
    spacing: float | Sequence[float] | None,
    levels: int | str,
    smoothing: float,
    max_iterations: int,
    tolerance: float,
    progress: Progress | None,
) -> DeformableFit:
    """Register a pair that was read.

    Args:
        images: fixed and moving, on the CPU. init: one of the names of initial poses, a transform, or a fit.
        affine_stage: registers a pair by an affine map with a metric, from an `init` by name.
        metric: None to let the images say which, see `metric_of`.
    """
    fixed, moving = images
    start = affine_of(images, affine_stage, metric) if isinstance(init, str) else init
    base = start.pull if isinstance(start, Fit) else start
    base = checked_base(base, fixed.grid, moving.grid)
    grids = control_grids(fixed.grid, control_spacing(spacing, fixed.grid, moving.grid))
    check_memory(grids[-1])
    if metric == "mse":
        moving = at_level(moving, fixed.offset)
    # Layers count a voxel only where all that is interpolated there counts: next to none beside dead lines.
    f, m = batch_of(fixed).with_filled, batch_of(moving).with_filled
    f, m, variance = standardised(f, m, "mse" if metric == "mse" else "ncc")
    pyramids = pyramid(f, m, levels=levels, smoothing=smoothing)
    if metric is None:
        metric = metric_of(pyramids, grids, base, max_iterations=max_iterations)
    chosen = metric

    def judge(one: LayerEstimate | Solved) -> Verdict:
        return verdict_of(one, pyramids, fixed.grid, chosen)

    found = estimate_layers(
        pyramids,
        grids,
        base,
        metric=metric,
        tolerance=tolerance,
        max_iterations=max_iterations,
        progress=progress,
        judge=judge if metric == "mi" else None,
    )
    verdict = found.verdict or judge(found)
    slides = slides_of(
        found,
        pyramids,
        grids,
        start=start,
        metric=metric,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return fit_of(found, verdict, start, images, metric=metric, variance=float(variance[0]), slides=slides)


def slides_of(
    found: LayerEstimate,
    levels: Sequence[PyramidLevel],
    grids: Sequence[ControlGrid],
    *,
    start: Any,
    metric: str,
    tolerance: float,
    max_iterations: int,
) -> Callable[[], bool] | None:
    """`motion_along_structures.slides` of what was found; None where that is not asked.

    It is not with "mi", since steps alone do not find again what small steps found, nor where an affine fit says that
    the images determine all motions.

    Args:
        grids: that are solved for on the levels. start: what the layers began from, a fit or a transform.
    """
    if metric == "mi" or (isinstance(start, PairFit) and start.ok):
        return None
    return partial(
        motion_along_structures.slides,
        found.state.layers.transform,
        levels,
        grids,
        inliers=found.inliers,
        metric=metric,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


def verdict_of(found: LayerEstimate | Solved, levels: Sequence[PyramidLevel], grid: Grid, metric: str) -> Verdict:
    """On images that layers bring together.

    Args:
        grid: of the fixed image.
    """
    layers = found.state.layers
    return judged.verdict_of(
        Problem(Pose.of("affine", grid.ndim), grid.centre, metric),
        levels,
        layers.transform,
        metric,
        determined=found.determined,
        reach=2 * float(layers.control.limits.max()),
        confirmed=metric != "mi" and isinstance(found, LayerEstimate) and found.shifts.confirm,
    )


def fit_of(
    found: LayerEstimate,
    verdict: Verdict,
    start: Any,
    images: tuple[Image, Image],
    *,
    metric: str,
    variance: float,
    slides: Callable[[], bool] | None,
) -> DeformableFit:
    """The fit to images in memory, on whose grid the factors by which volumes change are computed.

    Args:
        start: what the layers began from, a fit or a transform. variance: by which the voxels of "mse" were divided.
        slides: see `slides_of`.
    """
    fixed, moving = images
    transform, control = found.state.layers.transform, found.state.layers.control
    jacobian = judged.determinants(transform, fixed.grid)
    before, after = found.before, found.state.found.score
    index, scale = (1, variance) if metric == "mse" else (0, 1.0)
    unconfirmed = metric != "mi" and isinstance(start, Fit) and not start.ok and found.shifts.silent
    return DeformableFit(
        moving_from_fixed=transform,
        affine=start if isinstance(start, PairFit) else None,
        status=judged.status(
            verdict,
            converged=found.converged,
            improved=_cost(after, metric) <= _cost(before, metric) * (1 + _RISE) + _ROUNDING,
            overlap=found.overlap,
            extremes=(jacobian[0], jacobian[-1]),
            ambiguous=isinstance(start, Fit) and start.status is FitStatus.AMBIGUOUS,
            unrelated=found.unrelated,
            left=found.shifts.left or unconfirmed,
            drawn=found.drawn,
            slides=slides,
        ),
        score=(before[index] * scale, after[index] * scale),
        overlap=found.overlap,
        losses=np.asarray(found.state.costs),
        jacobian=jacobian,
        spacing=control.spacing,
        layers=found.earlier + found.state.layers.count,
        parameters=found.state.layers.current.size,
        determined=found.state.determined,
        rejected=found.rejected,
        contradicting=found.contradicting,
        metric=metric,
        masked=(masked_fraction(fixed), masked_fraction(moving)),
        reduced=(fixed.reduced, moving.reduced),
        bad_voxels=(fixed.bad, moving.bad),
        iterations=found.iterations + (start.iterations if isinstance(start, PairFit) else 0),
        _uncertainty=_uncertainty_of(found),
        _planes=tuple(_middle_planes(found, start)),
    )


def _uncertainty_of(found: LayerEstimate) -> FieldUncertainty:
    """What error bars follow from."""
    layers, system = found.state.layers, found.state.system
    # Searched displacements and small steps know of no noise, and the prior of no field to begin from.
    if found.earlier or not isinstance(found.base, Affine):
        system = None
    if system is not None:
        system = replace(system, reliability=found.agreement.reliability(system.square, layers.control))
    return FieldUncertainty(layers, system, found.shifts, found.images.fixed_grid)


def _middle_planes(found: LayerEstimate, start: Any) -> Iterator[PairPlane]:
    """The middle planes of the images of the finest level in memory, before the layers and after.

    Args:
        start: what the layers began from; their base may have taken up affine parts since.
    """
    images, layers = found.images, found.state.layers
    grid = images.fixed_grid
    steps = planes.steps_of(grid.shape)
    began = start.moving_from_fixed if isinstance(start, PairFit) else found.base
    transforms = type(layers).start(began, layers.control).transform, layers.transform
    for place in planes.places(grid, steps, planes.indices_with_content(images.fixed, steps)):
        ends = [(0, n) if k != place.axis else (place.index, place.index + 1) for k, n in enumerate(grid.shape)]
        box = Box(tuple(a for a, _ in ends), tuple(b for _, b in ends))
        taken = tuple(slice(None, None, step) if k != place.axis else 0 for k, step in enumerate(steps))
        before, after = (images.warp(transform, box=box)[taken] for transform in transforms)
        yield PairPlane(place, planes.cut(images.fixed, place, steps).copy(), before, after)


def _cost(score: tuple[float, float], metric: str) -> float:
    """What is minimised; with "lncc" not the misfit, whose gain and offset vary in a window."""
    return 1 - score[0] ** 2 if metric == "lncc" else score[1]


def on_cpu(image: Image) -> Image:
    """The image with its voxels in the memory of the CPU."""
    mask = None if image.mask is None else image.mask.cpu()
    return replace(image, values=image.values.cpu(), mask=mask)


def control_spacing(spacing: float | Sequence[float] | None, fixed: Grid, moving: Grid) -> tuple[float, ...]:
    """(D,) distances of the finest control points, world units.

    One number for all axes is no less than two voxels of each.

    Raises: OptionError for what is no distance, and for one of an axis that is less than two voxels.
    """
    voxel = max(min(fixed.spacing), min(moving.spacing))
    if spacing is None:
        spacing = max(
            _LEAST_VOXELS * voxel, _distance([n * s for n, s in zip(fixed.shape, fixed.spacing, strict=True)])
        )
    values, two = np.asarray(spacing), 2 * np.asarray(fixed.spacing)
    if values.dtype.kind in "iuf" and values.ndim == 0 and values > 0:
        values = np.maximum(values, two)
    positive = values.dtype.kind in "iuf" and bool(np.all(np.isfinite(values) & (values > 0)))
    if not positive or values.shape != (fixed.ndim,):
        raise OptionError(
            f"spacing={spacing!r}: distances of control points are positive, one number or one for each of "
            f"{fixed.ndim} axes"
        )
    if np.any(values < two):
        raise OptionError(
            f"spacing= of {spacing} {fixed.unit}: control points need at least two voxels of fixed between them"
        )
    return tuple(values.astype(np.float64).tolist())


def _distance(sides: Sequence[float]) -> float:
    """Of control points by default, if voxels are small enough."""

    def points(lengths: Sequence[float], along: int) -> float:
        return math.prod(along * one / max(lengths) + BEYOND for one in lengths)

    along = least = _ALONG[len(sides)]
    while len(sides) == 3 and points(sides, along + 1) <= points((1, 1, 1), least):
        along += 1
    return max(sides) / along


def check_memory(control: ControlGrid) -> None:
    """Raises: MemoryBudgetError where the normal equations of the finest control points need too much."""
    # Those of one step are still there while those of the next are summed.
    needed, usable = 2 * square_bytes(control.shape), available_memory() // 2
    if needed > usable:
        raise MemoryBudgetError(
            f"{math.prod(control.shape):.3g} control points need {needed / 2**30:.3g} GiB of memory for their normal "
            f"equations, and {usable / 2**30:.3g} GiB may be used: take a greater spacing"
        )
