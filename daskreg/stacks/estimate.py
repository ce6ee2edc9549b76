"""From a described stack to its fit: by pairs of slices, or by fits to one image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import OptionError
from daskreg.geometry import SliceAffines
from daskreg.stacks.fit import StackFit, StackStatus
from daskreg.stacks.model import Model
from daskreg.stacks.outliers import named
from daskreg.stacks.pair_table import Looks, PairTable
from daskreg.stacks.pairing import Where, pairs_of
from daskreg.stacks.pose_solve import Placed, place
from daskreg.stacks.reference_registration import SlicePoses
from daskreg.stacks.spans import SpanDone, StackSpec
from daskreg.stacks.to_reference import ReferenceTask, register_to_reference
from daskreg.stacks.trajectory import slow_part

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """Where slices are, which are blank, those that stand out, and the pairs and looks that say so."""

    placed: Placed
    blank: Bools
    kinds: dict[int, str]
    pairs: PairTable | None = None
    looks: Looks | None = None


def by_pairs(
    spec: StackSpec,
    where: Where,
    *,
    first: bool,
    held: dict[int, Floats],
    earlier: StackFit | None,
    checkpoint: str | os.PathLike[str] | None,
) -> Estimate:
    """All slices from fits to the ones before them.

    Args:
        first: the first slice keeps its place.
        held: poses of slices that are known.
        earlier: of the first slices, when the stack had no others.
    """
    part = None if earlier is None else SpanDone(0, len(earlier.scores), *_known(earlier), np.empty(0, np.uint64))
    pairs, looks = pairs_of(spec, where, earlier=part, checkpoint=checkpoint)
    placed = place(pairs, looks.blank, spec.model, first=first, anchors=held)
    if earlier is not None and not held and not first:
        placed = _kept_in_place(placed, spec, earlier)
    # Sums across a slice do not tell how alike slices are.
    told = pairs if spec.line is None else pairs.take(slice(0))
    return Estimate(placed, looks.blank, named(told, looks, placed.fitted, spec.grid), pairs, looks)


def by_image(spec: StackSpec, reference: str | int, where: Where) -> Estimate:
    """All slices from fits to the first, to the one of a number, or to the mean."""
    placed, blank = _of_image(spec, reference, where)
    kinds = {int(i): "blank" if blank[i] else "unlike" for i in np.flatnonzero(~placed.fitted)}
    return Estimate(placed, blank, kinds)


def fit_of(spec: StackSpec, found: Estimate, *, reference: str | int, trend: str, smooth: float) -> StackFit:
    """The fit that users get."""
    placed, whole, options = found.placed, spec.reader.whole, spec.options
    poses = _embedded(_with_trend(placed, spec.model, trend, smooth), whole.ndim, spec.keep)
    variance = np.diagonal(placed.covariance, axis1=1, axis2=2)
    return StackFit(
        raw_from_aligned=SliceAffines(poses, spec.source.dims[spec.position], tuple(whole.names), whole.unit),
        centre=whole.centre,
        half_extent=(np.asarray(whole.shape) - 1) / 2 * np.asarray(whole.spacing),
        status=_status(placed, found.blank),
        scores=placed.scores,
        sigma=dict(zip(options.pose.names, np.sqrt(np.maximum(variance, 0)).T, strict=True)),
        kinds=found.kinds,
        bridged=tuple(np.flatnonzero(~placed.fitted).tolist()),
        breaks=tuple(placed.breaks),
        model=options.pose.groups,
        metric=options.metric,
        reference=reference if isinstance(reference, str) else int(reference),
        trend=trend,
        smooth=smooth,
        neighbors=spec.reach,
        cycles=placed.cycles,
        disagreement=placed.scale,
        seconds=0.0,
        weights=placed.weight,
        residuals=placed.residual,
        pairs=found.pairs,
        looks=found.looks,
    )


def _known(fit: StackFit) -> tuple[PairTable, Looks]:
    if fit.pairs is None or fit.looks is None:
        raise OptionError("the earlier fit has no pairs")
    return fit.pairs, fit.looks


def _kept_in_place(placed: Placed, spec: StackSpec, earlier: StackFit) -> Placed:
    """All slices moved so that those of an earlier fit keep their place on average."""
    model, n = spec.model, len(earlier.scores)
    index = np.array([*spec.keep, spec.reader.whole.ndim])
    before = earlier.raw_from_aligned.matrices[np.ix_(np.arange(n), index, index)]
    both = placed.fitted[:n] & ~np.isin(np.arange(n), earlier.bridged)
    if not both.any():
        return placed
    frame = model.algebra.mean(np.linalg.inv(placed.poses[:n]) @ before, both.astype(np.float64))
    return replace(placed, poses=placed.poses @ frame)


def _of_image(spec: StackSpec, reference: str | int, where: Where) -> tuple[Placed, Bools]:
    model = spec.model
    if reference != "mean":
        root = None if reference == "first" else int(reference)
        found = register_to_reference(ReferenceTask(spec, root), where)
        return _placed(found, model), found.blank
    pairs, looks = pairs_of(spec, where)
    start = place(pairs, looks.blank, model, first=True)
    begin = SlicePoses(start.poses, start.fitted, looks.blank, start.scores, start.covariance)
    found = register_to_reference(ReferenceTask(spec, start=begin), where)
    placed = _placed(found, model)
    if not found.fitted.any():
        return placed, found.blank
    mean = model.algebra.mean(found.poses, found.fitted.astype(np.float64))
    return replace(placed, poses=model.frame.nearest(found.poses @ np.linalg.inv(mean))), found.blank


def _placed(found: SlicePoses, model: Model) -> Placed:
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
