"""What a fit does to images and points: `fit.apply(x)`; and a stack aligned in one call."""

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.errors import OptionError
from daskreg.landmarks.move import move_points
from daskreg.reporting.fit import Fit
from daskreg.stacks.align import align_stack
from daskreg.warping import warp


def apply(fit: Fit, value: Any, **options: Any) -> Any:
    """Bring an image, or points, of the moving side to the fixed one; see `Fit.apply`."""
    if is_points(value, fit.transform.array_ndim):
        if options:
            raise OptionError(f"{', '.join(options)}: points are moved, not sampled, and take no options")
        if fit.kind == "cloud":  # its columns have an order of their own
            return np.asarray(fit.push(value))
        return move_points(value, pull=fit.pull)
    if fit.kind == "cloud":
        raise OptionError("a fit of clouds moves (N, D) points; for an image, use daskreg.warp(image, push=fit)")
    grid = getattr(fit, "fixed_grid", None)
    if grid is not None and not {"like", "grid"} & set(options) and grid.ndim == fit.transform.ndim:
        options["like"] = grid
    return warp(value, pull=fit.pull, **options)


def is_points(value: Any, ndim: int) -> bool:
    """Whether an array is (N, D) points rather than an image: as many columns as there are dimensions, and no names."""
    shape = tuple(np.shape(value)) if not hasattr(value, "dims") else ()
    return len(shape) == 2 and shape[1] == ndim


def register_transform_stack(stack: Any, **options: Any) -> Any:
    """The aligned stack, in one call: `warp(stack, pull=align_stack(stack).raw_from_aligned)`.

    For those who know pystackreg's method of this name. Look at the fit itself (`align_stack`) where it matters which
    slices could not be fitted.

    Args:
        stack: as in `align_stack`.
        options: of `align_stack`. pystackreg's default is `reference="previous"`, ours "neighbors".

    Returns: as `warp`: lazy, unless the stack is a NumPy array or a tensor.
    Raises: FitFailedError where the stack could not be aligned, and what `align_stack` raises.
    """
    fit = align_stack(stack, **options).raise_if_failed()
    return warp(stack, pull=fit.raw_from_aligned)
