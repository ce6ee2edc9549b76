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
from numpy.typing import NDArray

from daskreg.blocks.tasks import current_client
from daskreg.cluster.device import resolve
from daskreg.errors import DaskregWarning, DegenerateImageError, EmptyMaskError, OptionError, ShapeMismatchError
from daskreg.geometry import Affine, SliceAffines, common_unit
from daskreg.kernels.course import slow_part
from daskreg.kernels.descend import check_metric
from daskreg.kernels.pairs import PairOptions
from daskreg.kernels.pairtable import Looks, PairTable
from daskreg.kernels.pose import Pose
from daskreg.kernels.stack import Found
from daskreg.sources.planes import SliceReader, level_of
from daskreg.sources.source import Source
from daskreg.stacking import table
from daskreg.stacking.against import AgainstOne, fitted_to_image
from daskreg.stacking.fit import StackFit, StackStatus
from daskreg.stacking.given import mask_source, source_along
from daskreg.stacking.model import Model
from daskreg.stacking.outliers import named
from daskreg.stacking.pairing import Where, pairs_of
from daskreg.stacking.placing import Placed, place
from daskreg.stacking.work import SpanDone, StackSpec

__all__ = ["REFERENCES", "TRENDS", "StackFit", "StackStatus", "align_stack", "from_table"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

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
    pinned = _pinned(anchors, spec, reference, trend)
    earlier = None if previous is None else _earlier(previous, spec)
    if reference in ("neighbors", "previous"):
        part = None if earlier is None else SpanDone(0, len(earlier.scores), *_known(earlier), np.empty(0, np.uint64))
        pairs, looks = pairs_of(spec, where, earlier=part, checkpoint=checkpoint)
        placed, blank = (
            _of_pairs(spec, pairs, looks, first=reference == "previous", pinned=pinned, earlier=earlier),
            looks.blank,
        )
        # Sums across a slice do not tell how alike slices are.
        kinds = named(pairs if spec.line is None else pairs.take(slice(0)), looks, placed.fitted, spec.grid)
        tables: dict[str, Any] = {"pairs": pairs, "looks": looks}
    else:
        if earlier is not None or checkpoint is not None:
            raise OptionError(
                f"previous= and checkpoint= go with pairs of neighbours, not with reference={reference!r}"
            )
        placed, blank = _of_image(spec, reference, where)
        kinds = {int(i): "blank" if blank[i] else "unlike" for i in np.flatnonzero(~placed.fitted)}
        tables = {}
    if blank.all():
        what = "masked or constant where the mask leaves something" if mask is not None else "constant"
        raise (EmptyMaskError if mask is not None else DegenerateImageError)(f"every slice is {what}")
    whole = spec.reader.whole
    poses = _with_trend(placed, spec.model, trend, smooth)
    variance = np.diagonal(placed.covariance, axis1=1, axis2=2)
    return StackFit(
        raw_from_aligned=SliceAffines(
            _embedded(poses, whole.ndim, spec.keep), source.dims[position], tuple(whole.names), whole.unit
        ),
        centre=whole.centre,
        half_extent=(np.asarray(whole.shape) - 1) / 2 * np.asarray(whole.spacing),
        status=_status(placed, blank),
        scores=placed.scores,
        sigma=dict(zip(spec.options.pose.names, np.sqrt(np.maximum(variance, 0)).T, strict=True)),
        kinds=kinds,
        bridged=tuple(np.flatnonzero(~placed.fitted).tolist()),
        breaks=tuple(placed.breaks),
        model=model if isinstance(model, str) else spec.options.pose.groups,
        metric=metric,
        reference=reference if isinstance(reference, str) else int(reference),
        trend=trend,
        smooth=float(smooth),
        neighbors=reach,
        cycles=placed.cycles,
        disagreement=placed.scale,
        seconds=time.perf_counter() - began,
        common_line=common_line,
        weights=placed.weight,
        residuals=placed.residual,
        **tables,
    )


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
    if given is None:
        return None if source.kind == "array" else current_client()
    if given and not hasattr(given, "submit"):
        raise OptionError(f"client={given!r} is not a distributed.Client: make one by daskreg.connect({given!r})")
    return given or None


def _pinned(anchors: Mapping[int, Any] | None, spec: StackSpec, reference: str | int, trend: str) -> dict[int, Floats]:
    """Poses of anchored slices, on the axes that are aligned.

    Raises: OptionError, UnitError, ShapeMismatchError.
    """
    if not anchors:
        return {}
    if reference not in ("neighbors", "previous") or trend == "keep":
        raise OptionError('anchors go with reference="neighbors" or "previous" and trend="remove": they set the course')
    whole, model = spec.reader.whole, spec.model
    found = {}
    for number, anchor in anchors.items():
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < spec.count:
            raise OptionError(f"anchors: there is no slice {number!r}, but 0 to {spec.count - 1}")
        affine = anchor if isinstance(anchor, Affine) else Affine(anchor)
        common_unit(affine.unit, whole.unit, f"the anchor of slice {number} and the stack")
        if affine.ndim != whole.ndim:
            raise ShapeMismatchError(f"the anchor of slice {number} is {affine.ndim}D, slices are {whole.ndim}D")
        index = np.array([*spec.keep, whole.ndim])
        pose = affine.matrix[np.ix_(index, index)]
        apart = np.abs(
            (model.frame.nearest(pose[None])[0] - pose) @ np.append(model.centre + model.frame.reach, 1)
        ).max()
        if apart > 1e-3 * min(spec.grid.spacing):
            raise OptionError(
                f"the anchor of slice {number} is no motion of the model {spec.options.pose.groups}: use another model "
                "or an anchor without what the model leaves out"
            )
        found[int(number)] = pose
    return found


def _earlier(previous: Any, spec: StackSpec) -> StackFit:
    """The fit of the stack's first slices, checked.

    Raises: OptionError where its pairs are not what this estimate needs.
    """
    fit = previous if isinstance(previous, StackFit) else StackFit.load(previous)
    here = (spec.options.pose, spec.options.metric, spec.reach, spec.source.dims[spec.position])
    pose = Pose.of(fit.model, len(spec.keep))
    there = (pose, fit.metric, fit.neighbors, fit.raw_from_aligned.axis)
    whole = spec.reader.whole
    half = (np.asarray(whole.shape) - 1) / 2 * np.asarray(whole.spacing)
    same_grid = np.allclose(fit.centre, whole.centre) and np.allclose(fit.half_extent, half)
    if fit.pairs is None or here != there or not same_grid or len(fit.scores) > spec.count:
        raise OptionError(
            "previous= needs a fit of this stack with fewer slices, the same model, metric, axis and neighbors, and a "
            'reference of "neighbors" or "previous"'
        )
    return fit


def _known(fit: StackFit) -> tuple[PairTable, Looks]:
    if fit.pairs is None or fit.looks is None:
        raise OptionError("the earlier fit has no pairs")
    return fit.pairs, fit.looks


def _of_pairs(
    spec: StackSpec, pairs: PairTable, looks: Looks, *, first: bool, pinned: dict[int, Floats], earlier: StackFit | None
) -> Placed:
    """All slices from all pairs; those of an earlier fit keep their place on average."""
    model = spec.model
    placed = place(pairs, looks.blank, model, first=first, anchors=pinned)
    if earlier is None or pinned or first:
        return placed
    n = len(earlier.scores)
    index = np.array([*spec.keep, spec.reader.whole.ndim])
    before = earlier.raw_from_aligned.matrices[np.ix_(np.arange(n), index, index)]
    both = placed.fitted[:n] & ~np.isin(np.arange(n), earlier.bridged)
    if not both.any():
        return placed
    frame = model.algebra.mean(np.linalg.inv(placed.poses[:n]) @ before, both.astype(np.float64))
    return replace(placed, poses=placed.poses @ frame)


def _of_image(spec: StackSpec, reference: str | int, where: Where) -> tuple[Placed, Bools]:
    """Slices against the first, a chosen one, or the mean; and which are blank."""
    model = spec.model
    if reference != "mean":
        root = None if reference == "first" else int(reference)
        found = fitted_to_image(AgainstOne(spec, root), where)
        return _placed(found, model), found.blank
    pairs, looks = pairs_of(spec, where)
    start = place(pairs, looks.blank, model, first=True)
    begin = Found(start.poses, start.fitted, looks.blank, start.scores, start.covariance)
    found = fitted_to_image(AgainstOne(spec, found=begin), where)
    placed = _placed(found, model)
    if not found.fitted.any():
        return placed, found.blank
    mean = model.algebra.mean(found.poses, found.fitted.astype(np.float64))
    return replace(placed, poses=model.frame.nearest(found.poses @ np.linalg.inv(mean))), found.blank


def _placed(found: Found, model: Model) -> Placed:
    none, unknown = np.empty(0), np.full(len(found.poses), np.nan)
    return Placed(found.poses, found.fitted, found.scores, found.covariance, (), none, none, unknown, 1.0)


def _with_trend(placed: Placed, model: Model, trend: str, smooth: float) -> Floats:
    if trend == "remove":
        return placed.poses
    slow = slow_part(placed.poses, placed.fitted.astype(np.float64), smooth, model.frame)
    return np.asarray(placed.poses @ np.linalg.inv(slow))


def _embedded(poses: Floats, ndim: int, keep: Sequence[int]) -> Floats:
    out = np.tile(np.eye(ndim + 1), (len(poses), 1, 1))
    index = np.array([*keep, ndim])
    out[:, index[:, None], index] = poses
    return out


def _status(placed: Placed, blank: Bools) -> StackStatus:
    fitted = placed.fitted
    if fitted.sum() < max(1, (~blank).sum() / 2) or (len(fitted) > 1 and fitted.sum() < 2):
        return StackStatus.FAILED
    if placed.breaks:
        return StackStatus.BROKEN
    return StackStatus.CONVERGED if fitted.all() else StackStatus.BRIDGED
