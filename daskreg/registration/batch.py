"""`register_many`: many pairs of images of one size, in one call on one device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from daskreg.errors import OptionError, ShapeMismatchError
from daskreg.geometry import common_unit
from daskreg.registration.images import Image, read_alike, read_image
from daskreg.registration.initial_pose import DOUBTFUL, candidates, near_turns, views
from daskreg.registration.levenberg_marquardt import Problem, solve_level
from daskreg.registration.masked_pyramids import Ways, ways
from daskreg.registration.multiresolution import METRICS, descend_levels
from daskreg.registration.pose import Pose
from daskreg.registration.pyramid import Level, picture
from daskreg.registration.register import PairFit, check_options, fit_of, hidden_part, of_descent, parameters_of
from daskreg.runtime.device import library_threads, limit_threads, resolve
from daskreg.runtime.threads import use_threads

# Voxels along the longest axis of the levels on which all pairs try to start where they are.
_SMALL = 64
# Bytes for each voxel of a pair; and how many of them are worked on at once.
_BYTES, _AT_ONCE = 150, 1 << 30


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
    progress: Callable[[int, int], None] | None = None,
) -> list[PairFit]:
    """`register` for each of many pairs, whose images all have one size: several times faster than a loop.

    Args:
        fixed: a sequence of images, or an array or DataArray whose first axis counts them; one image
            alone, or a sequence of one, is shared by all pairs.
        moving: likewise, as many as pairs.
        model, smoothing, max_iterations, tolerance, device: as in `register`.
        metric: "ncc" or "mse".
        init: "identity"; or "auto", which searches for pairs that do not start near enough.
        progress: called with (pairs done, pairs).

    Returns: a fit for each pair, in order; flat borders are left out for all pairs that are
        worked on together, or for none.

    Raises: ShapeMismatchError for images of different sizes or places, OptionError for metrics that
        `register` alone knows, and what `register` raises.
    """
    check_options(metric, "auto", init)
    if metric not in METRICS or init not in ("auto", "identity"):
        raise OptionError(
            f"register_many takes the metrics {', '.join(METRICS)} and the starts auto and identity, "
            f"not {metric!r} and {init!r}: call register for each pair"
        )
    where = resolve(device)
    movings = _images(moving, "moving", where)
    fixeds = _images(fixed, "fixed", where, alone=movings[0].grid.ndim)
    if len(fixeds) not in (1, len(movings)):
        raise ShapeMismatchError(f"{len(fixeds)} fixed images do not fit {len(movings)} moving ones")
    grid = fixeds[0].grid
    problem = Problem(Pose.of(model, grid.ndim), grid.centre, metric, max_iterations, tolerance)
    unit = common_unit(grid.unit, movings[0].grid.unit, "fixed and moving")
    step = max(1, _AT_ONCE // (_BYTES * int(np.prod(grid.shape))))
    fits: list[PairFit] = []
    for first in range(0, len(movings), step):
        began = time.perf_counter()
        rows = range(first, min(first + step, len(movings)))
        f = fixeds if len(fixeds) == 1 else [fixeds[k] for k in rows]
        m = [movings[k] for k in rows]
        with limit_threads(1), use_threads(library_threads()):
            steps = ways(_stacked(f), _stacked(m), metric, levels="auto", smoothing=smoothing)
            found = _descended(problem, steps, len(m), search=init == "auto")
            spent = (time.perf_counter() - began) / len(m)
            for k, image in enumerate(m):
                mine = f[k if len(f) > 1 else 0]
                masked = (hidden_part(mine), hidden_part(image))
                one = of_descent(found, metric, k)
                fits.append(
                    fit_of(
                        problem, one, mine, image, model=model, metric=metric, unit=unit, masked=masked, seconds=spent
                    )
                )
        if progress:
            progress(len(fits), len(movings))
    return fits


def _images(values: Any, what: str, device: str, *, alone: int | None = None) -> list[Image]:
    """The images of a sequence or of an array's first axis; `alone`: dimensions of a single one that is shared."""
    single = alone is not None and getattr(values, "ndim", None) == alone
    plain = isinstance(values, np.ndarray) and not single
    images: list[Image] = []
    with limit_threads(1):
        for k, one in enumerate([values] if single else values):
            if plain and images and not (images[0].dropped or images[0].factors):
                images.append(read_alike(one, images[0], what=f"{what} {k}"))
            else:
                images.append(read_image(one, what=f"{what} {k}", device=device))
    if not images:
        raise ShapeMismatchError(f"there is no {what} image")
    for k, image in enumerate(images):
        if image.grid != images[0].grid:
            raise ShapeMismatchError(f"{what} {k} has the grid {image.grid!r}, and {what} 0 has {images[0].grid!r}")
    return images


def _stacked(images: Sequence[Image]) -> Any:
    return picture(torch.stack([i.values for i in images]), images[0].grid)


def _descended(problem: Problem, steps: Ways, batch: int, *, search: bool) -> Any:
    """All pairs from where they are; those that this does not explain, from a start of their own."""
    origin = problem.pose.identity(batch).numpy()
    small = [level for level in steps.whole if max(level.fixed.grid.shape) <= _SMALL] or steps.whole[:1]
    p, cost = origin, np.full(batch, np.inf)
    for level in small:
        state = solve_level(problem, level, p, 0.05, max_iterations=15)
        p, cost = state.parameters, state.cost
    for k in np.flatnonzero(cost > DOUBTFUL) if search else ():
        own = _pair(steps, int(k))
        starts = parameters_of(problem, own.whole[0].fixed.grid, candidates(own, "auto"))
        p[k] = views(problem, own, starts, turns=near_turns(problem.pose.ndim))[0][1][0]
    rest = slice(len(small), None) if len(small) < len(steps.whole) else slice(-1, None)
    content = None if steps.content is None else steps.content[rest]
    return descend_levels(problem, steps.whole[rest], p, steps.variance, content=content, origin=origin)


def _pair(steps: Ways, k: int) -> Ways:
    """The coarsest of the ways of one pair, which are all that a start needs."""
    row = torch.tensor([k])

    def one(levels: Sequence[Level]) -> list[Level]:
        return [Level(v.fixed.take(row), v.moving.take(row), v.step, v.sigmas) for v in levels[:3]]

    variance = steps.variance if len(steps.variance) == 1 else steps.variance[row]
    return Ways(one(steps.whole), None if steps.content is None else one(steps.content), variance)
