"""`align_stack`: bring the slices of a stack, or the volumes of a series, into one frame.

Each slice is fitted to several slices before it, and all fits are solved together as one pose graph
(`pose_graph`). The poses of slices that could not be fitted are interpolated from their neighbours,
and these slices are reported as outliers. Spans of slices are fitted on the workers, which return
a few numbers for each slice, so the stack may be larger than memory. Slices of more than 2047 x 2047 voxels are
downsampled to about 1024 x 1024. The result is in world units and applies to every level of the stack.

    fit = daskreg.align_stack(stack)
    aligned = daskreg.warp(stack, pull=fit.raw_from_aligned)
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np

from daskreg.blocks.tasks import client_for
from daskreg.errors import DaskregWarning, DegenerateImageError, OptionError, OutputError, check_flags, check_solver
from daskreg.geometry import SliceAffines
from daskreg.registration.pose import Pose
from daskreg.reporting.recipe import remembers
from daskreg.runs.record import output_ledger
from daskreg.runs.run import Run
from daskreg.runs.start import start
from daskreg.runtime.device import resolve
from daskreg.runtime.progress import Progress, shows_progress
from daskreg.stacks import table
from daskreg.stacks.elastic import request as elastic
from daskreg.stacks.elastic.fit import ElasticStackFit
from daskreg.stacks.estimate import StackRequest, StackRun
from daskreg.stacks.execution import Execution
from daskreg.stacks.fit import StackFit
from daskreg.stacks.inputs import (
    REFERENCES,
    TRENDS,
    anchor_poses,
    channel_of,
    check_files,
    check_options,
    check_reference,
    mask_source,
    source_along,
)
from daskreg.stacks.pair_registration import PairOptions
from daskreg.stacks.previous import previous_fit
from daskreg.stacks.slice_reader import SliceReader, offset_of
from daskreg.stacks.spans import StackSpec
from daskreg.stacks.verdict.stack_status import StackStatus

__all__ = ["REFERENCES", "TRENDS", "StackFit", "StackStatus", "align_stack", "from_table"]


class _OptionsOfAll(TypedDict, total=False):
    spacing: float | Sequence[float] | None
    reference: str | int
    metric: str
    neighbors: int
    anchors: Mapping[int, Any] | None
    trend: str
    smooth: float
    mask: Any
    axis: int | str
    channel: int | str | None
    common_line: str | None
    previous: StackFit | str | os.PathLike[str] | None
    checkpoint: str | os.PathLike[str] | None
    max_iterations: int
    tolerance: float
    device: str
    client: Any
    progress: bool | Progress | None
    save: str | os.PathLike[str] | None


class AlignOptions(_OptionsOfAll, total=False):
    """The options of `align_stack` besides `wait`, for type checkers."""

    model: str | Sequence[str]


@overload
def align_stack(
    stack: Any, *, model: Literal["bspline"], wait: Literal[True] = ..., **options: Unpack[_OptionsOfAll]
) -> ElasticStackFit: ...
@overload
def align_stack(stack: Any, *, wait: Literal[True] = ..., **options: Unpack[AlignOptions]) -> StackFit | Any: ...
@overload
def align_stack(stack: Any, *, wait: Literal[False], **options: Unpack[AlignOptions]) -> Run: ...
@shows_progress("aligning")
@remembers("stack")
def align_stack(
    stack: Any,
    *,
    model: str | Sequence[str] = "rigid",
    spacing: float | Sequence[float] | None = None,
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
    progress: bool | Progress | None = None,
    save: str | os.PathLike[str] | None = None,
    wait: bool = True,
) -> StackFit | ElasticStackFit | Run:
    """Find where each slice of the aligned stack lies in the raw one.

    A `distributed.Client` that is current is used, and then reads the voxels too; otherwise the
    work runs in local threads.

    Args:
        stack: DataArray (lazy or not), NumPy or dask array; NaN and infinite voxels are masked.
        model: "translation", "rigid", "similarity", "affine", or groups, as in `register`; "bspline" for a
            displacement field of each slice after a rigid motion, all solved together (docs/stacks.md).
        spacing: of the control points of "bspline", world units, one number or one for each axis of a slice; None: 8
            voxels, or a 24th of the longest side where that is more.
        reference: "neighbors" (each slice to the `neighbors` before and after it, all solved
            together; the mean motion is the identity), "previous" (to the one before only; the
            first keeps its place), "first", a slice's number (all slices to that one), or "mean"
            (to the mean of the aligned slices, repeated a few times; the mean motion is the identity).
        metric: "ncc" (one gain and offset for each pair, also of "bspline": it is not chosen as `register` does) or
            "mse".
        neighbors: how many slices on each side a slice is fitted to; with 2 or more, wrong fits are found.
        anchors: raw_from_aligned of slices with known poses, by number: an Affine of a slice's
            dimensions, or a matrix. These poses are fixed, and the slices between them are aligned to
            them. Only with "neighbors" and "previous".
        trend: what to do with the slow part of the trajectory. Images alone cannot separate drift
            from the specimen's own shape. "remove" makes neighbours match, which straightens a curved
            specimen; "keep" leaves motion slower than `smooth` slices as it is in the raw stack
            and removes only faster motion.
        smooth: period in slices of a motion of which half counts as slow.
        mask: array of the shape of the stack or of one slice, positive where voxels count.
        axis: the axis along which the slices are stacked: a number among the spatial axes, or a name such
            as "z" or "t" (the volumes of a series are aligned in 3D).
        channel: number or label, for stacks with channels.
        common_line: name of an axis of the slices, such as "y", the tilt axis of projections: only
            shifts along it are estimated, from the sums across it, which do not change with the tilt.
            Needs model="translation".
        previous: a fit of the same stack, or the file it was saved to, from when the stack had fewer
            slices: only the new slices are fitted, and the old ones keep their poses on average.
        checkpoint: a file to which finished pairs are added, so that the same call continues an
            interrupted estimate. The file is not removed at the end.
        max_iterations: for each level of a pair's pyramid, and of that of fields.
        tolerance: voxels; a pair has converged when a step moves no corner by more.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1"; resolved on the worker.
        client: a distributed Client in place of the current one; False for local threads.
        progress: True shows a bar; or called with (finished slices, all slices), and `stage` as in `register`.
        save: a file (.json) in which the fit is saved.
        wait: False returns a `Run` at once, whose `wait` gives the fit. With `save` and a client whose scheduler runs
            on its own, the run goes on without this process, and `attach(save)` finds it again; else it is a
            thread that ends with this process.

    Returns: a StackFit, of "bspline" an ElasticStackFit; `fit.ok` and `fit.outliers` say whether it can be used. With
        `wait=False` a Run.

    Raises: OptionError for unknown options; ChannelError, EmptyMaskError, DegenerateImageError,
        ShapeMismatchError, GridError for stacks that cannot be used; LayoutMismatchError for the
        checkpoint of another stack; NoWorkersError for a cluster without workers.
    """
    check_flags(wait=wait)
    request = request_of(
        stack, model=model, spacing=spacing, reference=reference, metric=metric, neighbors=neighbors, anchors=anchors,
        trend=trend, smooth=smooth, mask=mask, axis=axis, channel=channel, common_line=common_line, previous=previous,
        checkpoint=checkpoint, max_iterations=max_iterations, tolerance=tolerance, device=device,
    )  # fmt: skip
    resolve(device)
    _warn_if_flat(request.spec)
    client = client_for(client, request.spec.source)
    check_files(save, checkpoint)
    if not wait:
        return _started(request, save, client)
    fit = request.fit(Execution(client, progress if callable(progress) else None))
    if save is not None:
        fit.save(save)
    return fit


def _started(request: StackRequest, save: str | os.PathLike[str] | None, client: Any | None) -> Run:
    """Begin the run of a request; its record is beside the file of the fit, or in a temporary folder without one.

    Raises: OutputError where the folder cannot be made.
    """
    if request.checkpoint is not None:
        request = replace(request, checkpoint=os.path.abspath(request.checkpoint))
    if save is None:
        folder = Path(tempfile.mkdtemp(prefix="daskreg-align-"))
        return start(StackRun(request, "a stack", folder, saves=False), client, temporary=True)
    beside = output_ledger(save).folder
    try:
        beside.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{os.fspath(save)} cannot be written: {error}") from error
    return start(StackRun(request, str(beside).removesuffix(".daskreg"), beside, saves=True), client)


def from_table(stack: Any, rows: Any, *, axis: int | str = 0, channel: int | str | None = None) -> StackFit:
    """A fit with the poses of a table; nothing is estimated.

    Args:
        stack: as for `align_stack`; no voxel is read.
        rows: path of a CSV or JSON file, a pandas table, or rows like those of `StackFit.rows()`: parameters
            in radians and world units about the centre of a slice. The poses of slices that the table
            leaves out are interpolated from their neighbours.

    Raises: InputError naming the row and the column that cannot be used.
    """
    source, position = source_along(stack, axis, channel)
    whole = SliceReader.of(source, position).whole
    count, size = source.shape[position], whole.ndim + 1
    matrices, interpolated = table.poses(rows, (count, size, size), whole.centre, unit=whole.unit or "pixel")
    unknown = np.full(count, np.nan)
    return StackFit(
        raw_from_aligned=SliceAffines(matrices, source.dims[position], tuple(whole.names), whole.unit),
        centre=whole.centre, half_extent=(np.asarray(whole.shape) - 1) / 2 * np.asarray(whole.spacing),
        status=StackStatus.EDITED, scores=unknown, sigma={}, kinds={}, bridged=interpolated, breaks=(), model="affine",
        metric="ncc", reference="neighbors", trend="remove", smooth=15.0, neighbors=1, cycles=unknown,
        disagreement=1.0, seconds=0.0,
    )  # fmt: skip


def request_of(
    stack: Any,
    *,
    model: str | Sequence[str] = "rigid",
    spacing: float | Sequence[float] | None = None,
    reference: str | int = "neighbors",
    metric: str = "ncc",
    neighbors: int = 2,
    anchors: Mapping[int, Any] | None = None,
    trend: str = "remove",
    smooth: float = 15,
    previous: StackFit | str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    channel: int | str | None = None,
    common_line: str | None = None,
    **options: Any,
) -> StackRequest:
    """What `align_stack` is asked for by these of its options, checked; nothing is estimated.

    Raises: as `align_stack`.
    """
    check_options(reference, metric, trend, smooth, neighbors)
    fields = model == "bspline"
    poses = elastic.POSES if fields else model
    if spacing is not None and not fields:
        raise OptionError("spacing= is that of the control points of model='bspline'")
    spec = _spec_of(
        stack, model=poses, reference=reference, metric=metric, neighbors=neighbors, channel=channel,
        common_line=None if fields else common_line, **options,
    )  # fmt: skip
    if fields:
        elastic.check_options(spec, reference, previous, common_line)
    check_reference(reference, spec, previous, checkpoint)
    fixed_poses = anchor_poses(anchors, spec, reference, trend)
    before = None if previous is None else previous_fit(previous, spec)
    request = StackRequest(
        spec, poses, reference, trend, float(smooth), fixed_poses, before, checkpoint, common_line,
        channel_of(stack, channel),
    )  # fmt: skip
    return elastic.of_request(request, spacing) if fields else request


def _spec_of(
    stack: Any,
    *,
    model: str | Sequence[str],
    reference: str | int,
    metric: str,
    neighbors: int,
    mask: Any = None,
    axis: int | str = 0,
    channel: int | str | None = None,
    common_line: str | None = None,
    max_iterations: int = 50,
    tolerance: float = 1e-3,
    device: str = "auto",
) -> StackSpec:
    """The slices of a stack and how their pairs are registered, from the options of `align_stack`.

    Args:
        model: of poses: not "bspline".

    Raises: as `align_stack`.
    """
    check_solver(max_iterations=max_iterations, tolerance=tolerance)
    source, position = source_along(stack, axis, channel)
    options = PairOptions(Pose.of(model, 2), metric, max_iterations, tolerance, device)
    reach = neighbors if reference == "neighbors" else 1
    spec = StackSpec(
        source, position, mask_source(mask, source, position), options, reach, offset=offset_of(source, position)
    )
    shape = spec.reader.whole.shape
    if len(spec.keep) < 2:
        raise DegenerateImageError(f"slices of shape {shape} are lines or points, not images")
    options = replace(options, pose=Pose.of(model, len(spec.keep)))
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
        warnings.warn(f"the stack has one slice along {dim}; there is nothing to align", DaskregWarning, stacklevel=5)
    if len(spec.keep) < grid.ndim:
        thin = ", ".join(grid.names[k] for k in range(grid.ndim) if k not in spec.keep)
        warnings.warn(f"slices have length 1 along {thin} and are aligned in 2D", DaskregWarning, stacklevel=5)
