"""`register`: where each point of a fixed image is found in a moving one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import NoOverlapError, OptionError, ShapeMismatchError
from daskreg.geometry import Affine, Grid, as_affine, shared_unit
from daskreg.registration.autograd import OPTIMIZERS
from daskreg.registration.fit import PairFit, pair_fit
from daskreg.registration.images import Image, at_level, read_image, without_bad_voxels
from daskreg.registration.initial_pose import INITS, BestCandidate
from daskreg.registration.metrics import Loss, loss_of
from daskreg.registration.pipeline import estimate, estimate_by_autograd
from daskreg.registration.pose import Pose
from daskreg.registration.problem import METRICS, Problem, SolverOptions
from daskreg.registration.pyramids.pyramid import ImageBatch, all_finite, image_batch
from daskreg.registration.verdicts import FitStatus
from daskreg.reporting.fit import Fit
from daskreg.reporting.recipe import remembers
from daskreg.runtime.device import library_threads, limit_threads, resolve
from daskreg.runtime.progress import Progress, shows_progress
from daskreg.runtime.threads import use_threads

Floats = NDArray[np.float64]

# Fewer voxels for each thread are finished before another thread has started.
VOXELS_PER_THREAD = 2**21
MOST_INVERSE_ERROR = 1.0
"""Voxels by which a fit and its inverse may contradict each other."""


@shows_progress("registering")
@remembers("fixed", "moving")
def register(
    fixed: Any,
    moving: Any,
    *,
    model: str | Sequence[str] = "affine",
    metric: str | Loss = "ncc",
    init: str | Affine | Any = "auto",
    levels: int | str = "auto",
    optimizer: str = "auto",
    fixed_mask: ArrayLike | None = None,
    moving_mask: ArrayLike | None = None,
    channel: int | str | None = None,
    smoothing: float = 0.5,
    max_iterations: int = 100,
    tolerance: float = 1e-3,
    check_inverse: bool = False,
    device: str = "auto",
    progress: bool | Progress | None = None,
) -> PairFit:
    """Estimate the motion from `fixed` to `moving`: where each fixed point is found in the moving image.

    Args:
        fixed, moving: DataArrays, NumPy or dask arrays or tensors, 2D or 3D, whose shapes,
            spacings and origins may differ. NaN counts as masked, as do values that code gaps, and voxels that are
            hot or a gap in both images at the same place (`fit.bad_voxels`).
        model: "translation", "rigid", "similarity", "affine", or groups out of "rotation",
            "translation", "scale", "shear". Groups that are left out are not estimated and move nothing.
        metric: "ncc" (any gain and offset), "mse" (equal brightness), "mae", "lncc" (uneven
            brightness), "mi" (other modalities), or a torch callable `loss(fixed, warped,
            weight)` of (1, *shape) tensors that returns one number, lower is better.
        init: "auto", "identity", "moments", "phase", "search" (all rotations), an Affine
            `moving_from_fixed`, or another fit. A candidate that moves more must be clearly better.
        levels: of the pyramid; "auto" starts at about 32 voxels along the longest side.
        optimizer: "gauss-newton" (ncc, mse), "adam" or "lbfgs" (any metric); "auto" chooses.
        fixed_mask, moving_mask: arrays of the images' shapes, positive where voxels count.
        channel: number or label, for images with channels.
        smoothing: sigma of the finest level in voxels, of both images; more where noise dominates the gradients.
        max_iterations: for each level.
        tolerance: stop when a step moves no corner by more than this many voxels.
        check_inverse: also register `fixed` to `moving` with the same options, from the inverse of the first result,
            and report by how much the two results contradict each other (`fit.inverse_error`). A fit that is
            contradicted by more than a voxel is not ok.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
        progress: True shows a bar; or called with (levels done, levels), of both registrations with `check_inverse`.

    Returns: a PairFit; look at `fit.ok`, or call `fit.raise_if_failed()`.

    Raises: InputError's children for images that cannot be used (constant, empty, masked
        away, complex, apart in the world, in pixels and in a unit), OptionError for unknown options.
    """
    began = time.perf_counter()
    check_options(metric, optimizer, init)
    report = progress if callable(progress) else None
    options = SolverOptions(levels, smoothing, max_iterations, tolerance, device=resolve(device))
    with limit_threads(1):
        read = partial(read_image, channel=channel, device=options.device, without_gaps=True)
        f = read(fixed, what="fixed", mask=fixed_mask)
        m = read(moving, what="moving", mask=moving_mask)
    if f.grid.ndim != m.grid.ndim:
        raise ShapeMismatchError(f"fixed is {f.grid.ndim}D and moving {m.grid.ndim}D")
    unit = shared_unit(f.grid.unit, m.grid.unit, "fixed and moving")
    (f,), (m,) = without_bad_voxels([f], [m])
    start = init if isinstance(init, str) else _start_of(init, f.grid.ndim, unit)
    pair = _PairRegistration(model, metric, optimizer, options, unit)
    if not check_inverse:
        fit = pair(f, m, start, report)
    else:
        fit = pair(f, m, start, report and (lambda done, total: report(done, 2 * total)))
        inverse = pair(
            m,
            f,
            fit.moving_from_fixed.inverse().matrix,
            report and (lambda done, total: report(total + done, 2 * total)),
        )
        error = _round_trip_error(fit.moving_from_fixed, inverse.moving_from_fixed, f.grid)
        status = FitStatus.INCONSISTENT if fit.ok and error > MOST_INVERSE_ERROR else fit.status
        fit = replace(fit, inverse_error=error, status=status)
    return replace(fit, seconds=time.perf_counter() - began)


def _start_of(init: Any, ndim: int, unit: str | None) -> Floats:
    """(D+1, D+1) the motion of an Affine or a fit."""
    affine = as_affine(init.pull if isinstance(init, Fit) else init, ndim, "init")
    shared_unit(affine.unit, unit, "init and the images")
    return affine.matrix


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
            batches, initial_pose = (_batch_of(fixed), _batch_of(moving)), BestCandidate(init)
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


def _batch_of(image: Image) -> ImageBatch:
    return image_batch(image.values[None], image.grid, None if image.mask is None else image.mask[None])


def _round_trip_error(there: Affine, back: Affine, grid: Grid) -> float:
    """Voxels by which a corner of the grid is moved at most by both motions, one after the other."""
    corners = grid.corners()
    return float(np.linalg.norm(grid.index(back(there(corners))) - grid.index(corners), axis=1).max())


def _threads(fixed: Image, moving: Image) -> int:
    """The number of threads for torch: for small images, one is fastest."""
    voxels = max(fixed.values.numel(), moving.values.numel())
    return max(1, min(library_threads(), voxels // VOXELS_PER_THREAD))


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


def check_overlap(fixed: Grid, moving: Grid, start: Floats) -> None:
    """Raise NoOverlapError where the fixed grid, moved by `start`, misses the moving grid."""
    corners = Affine(start)(fixed.corners(faces=True))
    low, high = moving.extent
    if np.any(corners.min(axis=0) >= high) or np.any(corners.max(axis=0) <= low):
        boxes = [
            ", ".join(f"{n} {a:.6g}..{b:.6g}" for n, a, b in zip(g.names, *g.extent, strict=True)) + f" {g.unit}"
            for g in (fixed, moving)
        ]
        raise NoOverlapError(
            f"the images do not overlap in the world: fixed spans {boxes[0]}, moving {boxes[1]}; "
            'check their coordinates, or pass init="moments" or "search" to bring them together'
        )


def masked_fraction(image: Image) -> float:
    """The fraction of the voxels that do not count: masked, or not finite."""
    if image.mask is None and all_finite(image.values):
        return 0.0
    valid = torch.isfinite(image.values)
    if image.mask is not None:
        valid = valid & image.mask
    return 1 - float(valid.to(torch.float64).mean())
