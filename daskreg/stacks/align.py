"""`align_stack`: bring the slices of a stack, or the volumes of a series, into one frame.

Each slice is fitted to several before it; all fits are solved together as one pose graph
(`kernels.graph`); what could not be fitted is bridged from its neighbours and named. Spans of
slices are fitted where a worker is, and return a few numbers for each slice, so the stack may
be larger than memory; slices are shrunk to about a thousand voxels a side; the result is in
world units and applies to every level of the stack.

    fit = daskreg.align_stack(stack)
    aligned = daskreg.warp(stack, pull=fit.raw_from_aligned)
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from daskreg.cluster.client import chosen_client
from daskreg.errors import DaskregWarning, DegenerateImageError, EmptyMaskError, OptionError
from daskreg.geometry import SliceAffines
from daskreg.registration.multiresolution import check_metric
from daskreg.registration.pose import Pose
from daskreg.runtime.device import resolve
from daskreg.sources.source import Source
from daskreg.stacks import table
from daskreg.stacks.estimate import by_image, by_pairs, fit_of
from daskreg.stacks.fit import StackFit, StackStatus
from daskreg.stacks.inputs import earlier_fit, mask_source, pinned, source_along
from daskreg.stacks.pair_registration import PairOptions
from daskreg.stacks.pairing import Where
from daskreg.stacks.slice_reader import SliceReader, level_of
from daskreg.stacks.spans import StackSpec

__all__ = ["REFERENCES", "TRENDS", "StackFit", "StackStatus", "align_stack", "from_table"]


REFERENCES = ("neighbors", "previous", "first", "mean")
TRENDS = ("remove", "keep")
_MOST_NEIGHBORS = 16


def align_stack(
    stack: Any,
    *,
    model: str | Sequence[str] = "rigid",
    reference: str | int = "neighbors",
    metric: str = "ncc",
    neighbors: int = 2,
    anchors: Mapping[int, Any] | None = None,
    trend: str = "remove",
    smooth: float = 15,
    mask: Any = None,
    axis: int | str = 0,
    channel: int | str | None = None,
    common_line: str | None = None,
    previous: StackFit | str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    max_iterations: int = 50,
    tolerance: float = 1e-3,
    device: str = "auto",
    client: Any = None,
    progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> StackFit:
    """Find where each slice of the aligned stack lies in the raw one.

    A `distributed.Client` that is current is used, and then reads the voxels too; otherwise the
    work runs in local threads.

    Args:
        stack: DataArray (lazy or not), NumPy or dask array; voxels that are NaN do not count.
        model: "translation", "rigid", "similarity", "affine", or groups, as in `register`.
        reference: "neighbors" (each slice to the `neighbors` before and after it, all solved
            together; the mean motion is then none), "previous" (to the one before only; the
            first keeps its place), "first", a slice's number (all slices to that one), or "mean"
            (to the mean of the aligned slices, a few times; the mean motion is then none).
        metric: "ncc" or "mse".
        neighbors: how many slices on each side a slice is fitted to; 2 or more tell wrong fits.
        anchors: raw_from_aligned of slices whose place is known, by number: an Affine of a slice's
            dimensions, or a matrix. They stay exactly there, and the slices between follow. Only
            with "neighbors" and "previous".
        trend: of the slow course of the slices, images alone cannot tell drift from the
            specimen's own shape. "remove" makes neighbours match, which straightens what is
            curved; "keep" leaves what is slower than `smooth` slices as it is in the raw stack
            and takes out only what is faster.
        smooth: period in slices at which half of a motion counts as slow.
        mask: array of the shape of the stack or of one slice, positive where voxels count.
        axis: along which slices follow: a number among the spatial axes, or a name such as "z"
            or "t" (the volumes of a series are aligned in 3D).
        channel: number or label, for stacks with channels.
        common_line: name of an axis of the slices, such as "y", the tilt axis of projections: only
            shifts along it are looked for, in the sums across it, which do not change with the tilt.
            Needs model="translation".
        previous: a fit of the same stack, or the file it was saved to, when the stack had fewer
            slices: only the new ones are fitted, and the old ones keep their place on average.
        checkpoint: a file to which finished pairs are added, so that the same call goes on where it
            was cut off; it is removed when you remove it.
        max_iterations: for each level of a pair's pyramid.
        tolerance: voxels; a pair stops when a step moves no corner by more.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1"; resolved where the work runs.
        client: a distributed Client in place of the current one; False for local threads.
        progress: called with (slices done, slices in all).
        seed: of what is random; today nothing is.

    Returns: a StackFit; look at `fit.ok` and `fit.outliers`.

    Raises: OptionError for unknown options; ChannelError, EmptyMaskError, DegenerateImageError,
        ShapeMismatchError, GridError for stacks that cannot be used; LayoutMismatchError for the
        checkpoint of another stack; NoWorkersError for a cluster without workers.
    """
    began = time.perf_counter()
    _check_options(reference, metric, trend, smooth, neighbors)
    source, position = source_along(stack, axis, channel)
    options = PairOptions(Pose.of(model, 2), metric, max_iterations, tolerance, device)
    reach = {"neighbors": neighbors}.get(str(reference), 1)
    spec = StackSpec(source, position, mask_source(mask, source, position), options, reach, level=level_of(source))
    spec = _with_model(spec, model, common_line)
    resolve(device)
    _warn_if_flat(spec)
    if not isinstance(reference, str) and not 0 <= reference < spec.count:
        raise OptionError(f"reference={reference}: the stack has slices 0 to {spec.count - 1}")
    where = Where(_client(client, source), progress)
    held = pinned(anchors, spec, reference, trend)
    earlier = None if previous is None else earlier_fit(previous, spec)
    if reference in ("neighbors", "previous"):
        found = by_pairs(spec, where, first=reference == "previous", held=held, earlier=earlier, checkpoint=checkpoint)
    elif earlier is not None or checkpoint is not None:
        raise OptionError(f"previous= and checkpoint= go with pairs of neighbours, not with reference={reference!r}")
    else:
        found = by_image(spec, reference, where)
    if found.blank.all():
        what = "masked or constant where the mask leaves something" if mask is not None else "constant"
        raise (EmptyMaskError if mask is not None else DegenerateImageError)(f"every slice is {what}")
    fit = fit_of(spec, found, reference=reference, trend=trend, smooth=float(smooth))
    named = model if isinstance(model, str) else fit.model
    return replace(fit, model=named, common_line=common_line, seconds=time.perf_counter() - began)


def from_table(stack: Any, rows: Any, *, axis: int | str = 0, channel: int | str | None = None) -> StackFit:
    """The fit of a stack whose slices stand where a table says, without any estimate.

    Args:
        stack: as for `align_stack`; no voxel is read.
        rows: path of a CSV or JSON file, a pandas table, or rows as of `StackFit.rows()`, of parameters
            in radians and world units about the centre of a slice; slices that the table leaves out
            stand in line with their neighbours.

    Raises: InputError naming the row and the column that cannot be used.
    """
    source, position = source_along(stack, axis, channel)
    whole = SliceReader.of(source, position).whole
    count, size = source.shape[position], whole.ndim + 1
    matrices, lines = table.poses(rows, (count, size, size), whole.centre)
    unknown = np.full(count, np.nan)
    return StackFit(
        raw_from_aligned=SliceAffines(matrices, source.dims[position], tuple(whole.names), whole.unit),
        centre=whole.centre, half_extent=(np.asarray(whole.shape) - 1) / 2 * np.asarray(whole.spacing),
        status=StackStatus.EDITED, scores=unknown, sigma={}, kinds={}, bridged=lines, breaks=(), model="affine",
        metric="ncc", reference="neighbors", trend="remove", smooth=15.0, neighbors=1, cycles=unknown,
        disagreement=1.0, seconds=0.0,
    )  # fmt: skip


def _check_options(reference: Any, metric: str, trend: str, smooth: float, neighbors: int) -> None:
    if isinstance(reference, bool) or not (isinstance(reference, int | np.integer) or reference in REFERENCES):
        raise OptionError(f"reference={reference!r}: use {', '.join(REFERENCES)} or the number of a slice")
    check_metric(metric)
    if trend not in TRENDS:
        raise OptionError(f"trend={trend!r}: use {' or '.join(TRENDS)}")
    if not smooth >= 2:
        raise OptionError(f"smooth={smooth}: a period of at least 2 slices is needed")
    if isinstance(neighbors, bool) or not (isinstance(neighbors, int) and 1 <= neighbors <= _MOST_NEIGHBORS):
        raise OptionError(f"neighbors={neighbors!r}: use a number of slices from 1 to {_MOST_NEIGHBORS}")


def _with_model(spec: StackSpec, model: str | Sequence[str], common_line: str | None) -> StackSpec:
    """The spec with the model in the dimensions of its slices."""
    shape = spec.reader.whole.shape
    if len(spec.keep) < 2:
        raise DegenerateImageError(f"slices of shape {shape} are lines or points, not images")
    options = replace(spec.options, pose=Pose.of(model, len(spec.keep)))
    if common_line is None:
        return replace(spec, options=options)
    names = spec.grid.names
    if common_line not in names or options.pose.groups != ("translation",):
        raise OptionError(
            f"common_line={common_line!r}: name one of the axes of the slices ({', '.join(names)}), "
            'with model="translation"'
        )
    return replace(spec, options=options, line=names.index(common_line))


def _warn_if_flat(spec: StackSpec) -> None:
    grid = spec.reader.grid
    dim = spec.source.dims[spec.position]
    if spec.count == 1:
        warnings.warn(f"the stack has one slice along {dim}; there is nothing to align", DaskregWarning, stacklevel=3)
    if len(spec.keep) < grid.ndim:
        thin = ", ".join(grid.names[k] for k in range(grid.ndim) if k not in spec.keep)
        warnings.warn(f"slices have length 1 along {thin} and are aligned in 2D", DaskregWarning, stacklevel=3)


def _client(given: Any, source: Source) -> Any:
    """The client whose workers read the voxels; None for arrays that are here already, and for threads."""
    if given is None and source.in_memory:
        return None
    return chosen_client(given)
