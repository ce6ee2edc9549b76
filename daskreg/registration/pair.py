"""The registration of one pair, which imports what `register` needs only when it is called."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import OptionError, ShapeMismatchError
from daskreg.geometry import Affine, Grid, shared_unit
from daskreg.registration import score_sums_numba
from daskreg.registration.autograd import OPTIMIZERS
from daskreg.registration.deformable.affine_start import AffineStage
from daskreg.registration.deformable.coarse_to_fine import LEAST_TOLERANCE
from daskreg.registration.deformable.fit import DeformableFit
from daskreg.registration.deformable.register_bspline import check_options as check_layer_options
from daskreg.registration.deformable.register_bspline import (
    on_cpu,
    register_layers,
)
from daskreg.registration.fit import PairFit, pair_fit
from daskreg.registration.images import (
    Image,
    at_level,
    batch_of,
    fits_in_memory,
    masked_fraction,
    means_within,
    read_image,
    without_bad_voxels,
)
from daskreg.registration.initial_pose import INITS, BestCandidate
from daskreg.registration.metrics import Loss, loss_of
from daskreg.registration.pipeline import estimate, estimate_by_autograd
from daskreg.registration.pose import Pose
from daskreg.registration.problem import METRICS, Problem, SolverOptions, check_overlap, start_of
from daskreg.registration.verdicts import FitStatus
from daskreg.runtime import torch_instead
from daskreg.runtime.compile_ahead import missed, take_part
from daskreg.runtime.device import library_threads, limit_threads, resolve
from daskreg.runtime.progress import Progress, at_stage
from daskreg.runtime.threads import use_threads

Floats = NDArray[np.float64]
log = logging.getLogger(__name__)

# Fewer voxels for each thread are finished before another thread has started.
VOXELS_PER_THREAD = 2**21
AFFINE_VOXELS = 1 << 19
"""Voxels of an image at most of which layers of B-splines take their affine map."""
RESOLUTIONS = ("auto", "coarse", "full")
MOST_INVERSE_ERROR = 1.0
"""Voxels by which a fit and its inverse may contradict each other."""


def register_pair(
    fixed: Any,
    moving: Any,
    *,
    model: str | Sequence[str],
    metric: str | Loss,
    init: str | Affine | Any,
    levels: int | str,
    optimizer: str,
    fixed_mask: ArrayLike | None,
    moving_mask: ArrayLike | None,
    channel: int | str | None,
    smoothing: float,
    max_iterations: int,
    tolerance: float,
    check_inverse: bool,
    resolution: str,
    checkpoint: str | os.PathLike[str] | None,
    client: Any,
    device: str,
    progress: bool | Progress | None,
    spacing: float | Sequence[float] | None,
) -> PairFit | DeformableFit:
    """What `register` does, with all of its options; `progress` is a function or None."""
    began = time.perf_counter()
    chosen = isinstance(metric, str) and metric == "auto"
    metric = "ncc" if chosen else metric
    check_options(metric, optimizer, init)
    report = progress if callable(progress) else None
    if model == "bspline":
        check_layer_options(metric, optimizer, check_inverse=check_inverse)
    elif spacing is not None:
        raise OptionError('spacing= is that of the control points of model="bspline"')
    options = SolverOptions(levels, smoothing, max_iterations, tolerance, device=resolve(device))
    if resolution not in RESOLUTIONS:
        raise OptionError(f"resolution {resolution!r} is unknown: use {', '.join(RESOLUTIONS)}")
    if resolution == "full":
        from daskreg.volumes import volume_of

        fixed, moving = (volume_of(image, colour_ndim=3) for image in (fixed, moving))
        if not (fits_in_memory(fixed.grid.shape) and fits_in_memory(moving.grid.shape)):
            metrics = (*METRICS, "lncc") if model == "bspline" else METRICS
            _check_options_by_blocks(metric, metrics, optimizer, check_inverse=check_inverse)
            from daskreg.registration.blockwise.register import Place, Request
            from daskreg.registration.blockwise.register_layers import LayersRequest

            place, masks = Place(checkpoint, client, report), (fixed_mask, moving_mask)
            request: Request | LayersRequest = Request(model, str(metric), init, options, place)
            if model == "bspline":
                unit = shared_unit(fixed.grid.unit, moving.grid.unit, "fixed and moving")
                by_affine = _affine_stage(_PairRegistration(model, metric, optimizer, options, unit), init)
                request = LayersRequest(by_affine, None if chosen else str(metric), init, spacing, options, place)
            fit = request(fixed, moving, masks=masks, channel=channel)
            return replace(fit, seconds=time.perf_counter() - began)
    _tell_unused(checkpoint, resolution)
    with limit_threads(1), at_stage("reading"):
        read = partial(read_image, channel=channel, device=options.device, without_gaps=True)
        f = read(fixed, what="fixed", mask=fixed_mask)
        m = read(moving, what="moving", mask=moving_mask)
    if f.grid.ndim != m.grid.ndim:
        raise ShapeMismatchError(f"fixed is {f.grid.ndim}D and moving {m.grid.ndim}D")
    unit = shared_unit(f.grid.unit, m.grid.unit, "fixed and moving")
    if model != "bspline":
        Pose.of(model, f.grid.ndim)  # refuses a model that is not there before anything is compiled
    kernels = score_sums_numba.__name__, f.grid.ndim
    small = max(f.values.numel(), m.values.numel()) <= torch_instead.SMALL
    by_torch = small and options.device == "cpu" and missed(*kernels)
    if options.device == "cpu" and not by_torch:
        take_part(*kernels)
    (f,), (m,) = without_bad_voxels([f], [m])
    pair = _PairRegistration(model, metric, optimizer, options, unit)
    with torch_instead.torch_instead(by_torch):
        if model == "bspline":
            layered = _with_layers((f, m), init, pair, report, spacing=spacing, metric=None if chosen else str(metric))
            return replace(layered, seconds=time.perf_counter() - began)
        start = init if isinstance(init, str) else start_of(init, f.grid.ndim, unit)
        fit = _both_ways(pair, f, m, start, report) if check_inverse else pair(f, m, start, report)
        return replace(fit, seconds=time.perf_counter() - began)


def _tell_unused(checkpoint: str | os.PathLike[str] | None, resolution: str) -> None:
    """Say in the log that nothing is kept in a file that was asked for."""
    if checkpoint is not None:
        why = "the images fit the memory" if resolution == "full" else 'it is for resolution "full"'
        log.info("the checkpoint %s is not used: %s", os.fspath(checkpoint), why)


def _both_ways(
    pair: _PairRegistration, fixed: Image, moving: Image, start: str | Floats, report: Progress | None
) -> PairFit:
    """The fit of a pair, and by how much that of the exchanged pair contradicts it."""
    fit = pair(fixed, moving, start, report and (lambda done, total: report(done, 2 * total)))
    inverse = pair(
        moving,
        fixed,
        fit.moving_from_fixed.inverse().matrix,
        report and (lambda done, total: report(total + done, 2 * total)),
    )
    error = _round_trip_error(fit.moving_from_fixed, inverse.moving_from_fixed, fixed.grid)
    status = FitStatus.INCONSISTENT if fit.ok and error > MOST_INVERSE_ERROR else fit.status
    return replace(fit, inverse_error=error, status=status)


def _with_layers(
    images: tuple[Image, Image],
    init: Any,
    pair: _PairRegistration,
    progress: Progress | None,
    *,
    spacing: float | Sequence[float] | None,
    metric: str | None,
) -> DeformableFit:
    """An affine map where `init` is the name of an initial pose, then layers of B-splines, on the CPU."""
    options = pair.options
    with limit_threads(_threads(*images)), use_threads(library_threads()):
        return register_layers(
            (on_cpu(images[0]), on_cpu(images[1])),
            init,
            _affine_stage(pair, init),
            metric=metric,
            spacing=spacing,
            levels=options.levels,
            smoothing=options.smoothing,
            max_iterations=options.max_iterations,
            tolerance=max(options.tolerance, LEAST_TOLERANCE),
            progress=progress,
        )


def _affine_stage(pair: _PairRegistration, init: Any) -> AffineStage:
    """Registers images that were read by an affine map, for the layers to begin from, which need no finer one."""

    def affine(images: tuple[Image, Image], metric: str) -> PairFit:
        if metric != "mi":  # which needs many voxels for a joint distribution
            images = means_within(AFFINE_VOXELS, images[0]), means_within(AFFINE_VOXELS, images[1])
        fixed, moving = images
        return replace(pair, model="affine", metric=metric)(fixed, moving, init, None)

    return affine


@dataclass(frozen=True)
class _PairRegistration:
    """The options of `register`, for the registration itself and for its inverse."""

    model: str | Sequence[str]
    metric: str | Loss
    optimizer: str
    options: SolverOptions
    unit: str | None

    def __call__(self, fixed: Image, moving: Image, init: str | Floats, progress: Progress | None) -> PairFit:
        """Register one image that was read to another, from one of INITS or a (D+1, D+1) motion."""
        pose = Pose.of(self.model, fixed.grid.ndim)
        if not isinstance(init, str) or init in ("auto", "identity"):
            check_overlap(fixed.grid, moving.grid, np.eye(pose.ndim + 1) if isinstance(init, str) else init)
        problem = Problem(pose, fixed.grid.centre, str(self.metric))
        if self.metric == "mse":
            moving = at_level(moving, fixed.offset)
        with limit_threads(_threads(fixed, moving)), use_threads(library_threads()):
            batches, initial_pose = (batch_of(fixed), batch_of(moving)), BestCandidate(init)
            if self.metric in METRICS and self.optimizer in ("auto", "gauss-newton"):
                found = estimate(problem, self.options, *batches, initial_pose, progress=progress, judged=True).pair(0)
            else:
                optimizer = "lbfgs" if self.optimizer == "auto" else self.optimizer
                loss = loss_of(self.metric)
                found = estimate_by_autograd(
                    problem, self.options, *batches, initial_pose, loss=loss, optimizer=optimizer, progress=progress
                )
            masked = (masked_fraction(fixed), masked_fraction(moving))
        return pair_fit(
            problem,
            found,
            (fixed, moving),
            model=self.model if isinstance(self.model, str) else pose.groups,
            metric=self.metric if isinstance(self.metric, str) else getattr(self.metric, "__name__", "callable"),
            unit=self.unit,
            masked=masked,
        )


def _round_trip_error(there: Affine, back: Affine, grid: Grid) -> float:
    """Voxels by which a corner of the grid is moved at most by both motions, one after the other."""
    corners = grid.corners()
    return float(np.linalg.norm(grid.index(back(there(corners))) - grid.index(corners), axis=1).max())


def _threads(fixed: Image, moving: Image) -> int:
    """The number of threads for torch: for small images, one is fastest."""
    voxels = max(fixed.values.numel(), moving.values.numel())
    return max(1, min(library_threads(), voxels // VOXELS_PER_THREAD))


def _check_options_by_blocks(
    metric: str | Loss, metrics: Sequence[str], optimizer: str, *, check_inverse: bool
) -> None:
    """Raise OptionError for options with which images are not registered block by block."""
    if check_inverse or metric not in metrics or optimizer not in ("auto", "gauss-newton"):
        raise OptionError(
            f"images that do not fit the memory are registered at full resolution with metric "
            f'{" or ".join(metrics)}, optimizer "auto" and without check_inverse; or use resolution="coarse"'
        )


def check_options(metric: str | Loss, optimizer: str, init: Any) -> None:
    """Raise OptionError for options that are unknown, or that cannot be used together."""
    loss_of(metric)
    known = ("auto", "gauss-newton", *OPTIMIZERS)
    if optimizer not in known:
        raise OptionError(f"optimizer {optimizer!r} is unknown: use {', '.join(known)}")
    if optimizer == "gauss-newton" and metric not in METRICS:
        raise OptionError(f"gauss-newton minimises {' and '.join(METRICS)}; for {metric!r} use adam or lbfgs")
    if isinstance(init, str) and init not in INITS:
        raise OptionError(f"init {init!r} is unknown: use {', '.join(INITS)}, an Affine or a fit")
