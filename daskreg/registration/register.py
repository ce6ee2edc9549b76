"""`register`: where each point of a fixed image is found in a moving one.

This module is quick to import, so that a second process can compile while this one imports torch.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from daskreg.errors import check_flags, check_solver
from daskreg.geometry import Affine
from daskreg.reporting.recipe import remembers
from daskreg.runtime import torch_instead
from daskreg.runtime.compile_ahead import begin
from daskreg.runtime.device import resolve
from daskreg.runtime.memory import without_collector
from daskreg.runtime.progress import Progress, shows_progress

if TYPE_CHECKING:
    from daskreg.registration.metrics import Loss

_KERNELS = "daskreg.registration.score_sums_numba"
_PAIR = "daskreg.registration.pair"


@shows_progress("registering")
@remembers("fixed", "moving")
def register(
    fixed: Any,
    moving: Any,
    *,
    model: str | Sequence[str] = "affine",
    metric: str | Loss = "auto",
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
    resolution: str = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    client: Any = None,
    device: str = "auto",
    progress: bool | Progress | None = None,
    spacing: float | Sequence[float] | None = None,
) -> Any:
    """Estimate the motion from `fixed` to `moving`: where each fixed point is found in the moving image.

    Args:
        fixed, moving: DataArrays, NumPy or dask arrays or tensors, 2D or 3D, whose shapes,
            spacings and origins may differ. NaN and infinity count as masked, as do values that code gaps, and
            voxels that are hot or a gap in both images at the same place (`fit.bad_voxels`).
        model: "translation", "rigid", "similarity", "affine", or groups out of "rotation",
            "translation", "scale", "shear". Groups that are left out are not estimated and move nothing.
            "bspline": an affine map, and then layers of cubic B-splines that never fold (ncc, lncc, mse, mi); the
            affine map, or any other transform, may be given as `init`.
        metric: "ncc" (any gain and offset), "mse" (equal brightness), "mae", "lncc" (uneven
            brightness), "mi" (other modalities), or a torch callable `loss(fixed, warped,
            weight)` of (1, *shape) tensors that returns one number, lower is better. "auto": "ncc"; for
            "bspline" "lncc" where gain and offset are found to vary over the image (`fit.metric`).
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
        resolution: of images that do not fit the memory. "coarse": means of blocks of voxels that fit are registered;
            "full": every voxel counts, read block by block in two to three passes after a coarse start, with "ncc",
            "mse" or, for "bspline", "lncc" (`fit.resolution` says which it was). "auto": all voxels where they fit,
            else "coarse".
        checkpoint: a file to which finished blocks are appended, with resolution="full" and images that do not fit.
            The same call resumes from it. Otherwise it is not used, and a log message (INFO) says so.
        client: a distributed Client whose workers read the blocks; None: the current one, where the images are not
            arrays in this process, else local threads; False: local threads.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
        progress: True shows a bar; or called with (levels done, levels), of both registrations with `check_inverse`;
            where blocks are read, with (blocks and levels done, all that are foreseen). A function that takes `stage`
            is also told "reading", "compiling", "fitting".
        spacing: of the finest control points of "bspline", world units, one number or one for each axis; about that, so
            that whole cells fit the fixed image. None: 8 voxels, or a 24th of the longest side (volumes: a 30th) where
            that is more; less in volumes that are no cubes, which have as many control points as a cube would have.

    Returns: a PairFit, of "bspline" a DeformableFit; look at `fit.ok`, or call `fit.raise_if_failed()`.

    Raises: InputError's children for images that cannot be used (constant, empty, masked
        away, complex, apart in the world, in pixels and in a unit), OptionError for unknown options;
        LayoutMismatchError for a checkpoint of other images or options.
    """
    check_flags(check_inverse=check_inverse)
    check_solver(levels=levels, smoothing=smoothing, max_iterations=max_iterations, tolerance=tolerance)
    by_sums = isinstance(metric, str) and metric in {"auto", "ncc", "mse"} and optimizer in {"auto", "gauss-newton"}
    axes = getattr(fixed, "ndim", 0) - (channel is not None)
    compiles = by_sums and axes in {2, 3} and resolve(device) == "cpu"
    small = max(math.prod(getattr(image, "shape", ())) for image in (fixed, moving)) <= torch_instead.SMALL
    with nullcontext() if _PAIR in sys.modules else without_collector(once=True):
        if compiles and not small:
            begin(_KERNELS, axes)
        from daskreg.registration.pair import register_pair

    fit = register_pair(
        fixed,
        moving,
        model=model,
        metric=metric,
        init=init,
        levels=levels,
        optimizer=optimizer,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        channel=channel,
        smoothing=smoothing,
        max_iterations=max_iterations,
        tolerance=tolerance,
        check_inverse=check_inverse,
        resolution=resolution,
        checkpoint=checkpoint,
        client=client,
        device=device,
        progress=progress,
        spacing=spacing,
    )
    if compiles and small:
        begin(_KERNELS, axes)  # for what comes later: this fit did without
    return fit
