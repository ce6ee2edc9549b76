"""`register_many`: many pairs of images of one size, in one call on one device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from daskreg.errors import OptionError, ShapeMismatchError, check_solver
from daskreg.geometry import shared_unit
from daskreg.registration.fit import PairFit, pair_fit
from daskreg.registration.images import Image, at_level, masked_fraction, read_alike, read_image, without_bad_voxels
from daskreg.registration.initial_pose import IdentityFirst
from daskreg.registration.pair import check_options
from daskreg.registration.pipeline import estimate
from daskreg.registration.pose import Pose
from daskreg.registration.problem import METRICS, Problem, SolverOptions
from daskreg.registration.pyramids.pyramid import ImageBatch, image_batch
from daskreg.runtime.device import library_threads, limit_threads, resolve
from daskreg.runtime.progress import Progress, shows_progress
from daskreg.runtime.threads import use_threads

# Bytes for each voxel of a pair, and how many bytes are in use at once.
_BYTES_PER_VOXEL, _BYTES_AT_ONCE = 150, 1 << 30


@shows_progress("registering")
def register_many(
    fixed: Any,
    moving: Any,
    *,
    model: str | Sequence[str] = "affine",
    metric: str = "ncc",
    init: str = "auto",
    smoothing: float = 0.5,
    max_iterations: int = 100,
    tolerance: float = 1e-3,
    device: str = "auto",
    progress: bool | Progress | None = None,
) -> list[PairFit]:
    """Register many pairs whose images all have one size: several times faster than a loop over `register`.

    Args:
        fixed: a sequence of images, or an array or DataArray whose first axis counts them; one image
            alone, or a sequence of one, is shared by all pairs.
        moving: likewise, as many as there are pairs.
        model, smoothing, max_iterations, tolerance, device: as in `register`.
        metric: "ncc" or "mse".
        init: "identity"; or "auto", which searches the initial pose of pairs that identity does not explain.
        progress: True shows a bar; or called with (pairs done, pairs), and `stage` as in `register`.

    Returns: a fit for each pair, in order; flat borders are left out for all pairs that are
        registered together, or for none.

    Raises: ShapeMismatchError for images of different sizes or places, OptionError for metrics that
        `register` alone knows, and what `register` raises.
    """
    check_options(metric, "auto", init)
    check_solver(smoothing=smoothing, max_iterations=max_iterations, tolerance=tolerance)
    if metric not in METRICS or init not in ("auto", "identity"):
        raise OptionError(
            f"register_many takes metric= {', '.join(METRICS)} and init= auto, identity, "
            f"not {metric!r} and {init!r}: call register for each pair"
        )
    options = SolverOptions("auto", smoothing, max_iterations, tolerance, device=resolve(device))
    movings = _images(moving, "moving", options.device)
    fixeds = _images(fixed, "fixed", options.device, alone=movings[0].grid.ndim)
    if len(fixeds) not in (1, len(movings)):
        raise ShapeMismatchError(f"{len(fixeds)} fixed images do not fit {len(movings)} moving ones")
    fixeds, movings = without_bad_voxels(fixeds, movings)
    if metric == "mse":
        fixeds, movings = ([at_level(image, fixeds[0].offset) for image in some] for some in (fixeds, movings))
    grid = fixeds[0].grid
    problem = Problem(Pose.of(model, grid.ndim), grid.centre, metric)
    unit = shared_unit(grid.unit, movings[0].grid.unit, "fixed and moving")
    step = max(1, _BYTES_AT_ONCE // (_BYTES_PER_VOXEL * int(np.prod(grid.shape))))
    initial_pose = IdentityFirst(search=init == "auto")
    fits: list[PairFit] = []
    for first in range(0, len(movings), step):
        began = time.perf_counter()
        m = movings[first : first + step]
        f = fixeds if len(fixeds) == 1 else fixeds[first : first + step]
        with limit_threads(1), use_threads(library_threads()):
            found = estimate(problem, options, _batch_of(f), _batch_of(m), initial_pose, judged=True)
            seconds = (time.perf_counter() - began) / len(m)
            for k, image in enumerate(m):
                images = (f[k if len(f) > 1 else 0], image)
                fits.append(
                    pair_fit(
                        problem,
                        found.pair(k),
                        images,
                        model=model if isinstance(model, str) else problem.pose.groups,
                        metric=metric,
                        unit=unit,
                        masked=(masked_fraction(images[0]), masked_fraction(images[1])),
                        seconds=seconds,
                    )
                )
        if callable(progress):
            progress(len(fits), len(movings))
    return fits


def _images(values: Any, what: str, device: str, *, alone: int | None = None) -> list[Image]:
    """The images of a sequence or of an array's first axis; `alone`: the dimensions of a single, shared image."""
    single = alone is not None and getattr(values, "ndim", None) == alone
    plain = isinstance(values, np.ndarray) and not single
    images: list[Image] = []
    with limit_threads(1):
        for k, one in enumerate([values] if single else values):
            if plain and images and not (images[0].dropped or images[0].factors):
                images.append(read_alike(one, images[0], what=f"{what} {k}"))
            else:
                images.append(read_image(one, what=f"{what} {k}", device=device, without_gaps=True))
    if not images:
        raise ShapeMismatchError(f"there is no {what} image")
    for k, image in enumerate(images):
        if image.grid != images[0].grid:
            raise ShapeMismatchError(f"{what} {k} has the grid {image.grid!r}, and {what} 0 has {images[0].grid!r}")
    return images


def _batch_of(images: Sequence[Image]) -> ImageBatch:
    return image_batch(torch.stack([image.values for image in images]), images[0].grid)
