"""The fit of a stack when it had fewer slices: checked, reused, and kept as the frame of the new fit."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike

import numpy as np

from daskreg.errors import OptionError
from daskreg.registration.pose import Pose
from daskreg.stacks.fit import StackFit
from daskreg.stacks.pose_solve import PoseSolution
from daskreg.stacks.spans import SpanResult, StackSpec


def previous_fit(previous: StackFit | str | PathLike[str], spec: StackSpec) -> StackFit:
    """The fit of the stack's first slices, from memory or from its file.

    Raises: OptionError where its pairs are not those that this estimate needs.
    """
    if not isinstance(previous, StackFit) and hasattr(previous, "affine"):
        raise OptionError("previous= is a fit with fields, which are not continued: pass its poses, fit.affine")
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


def finished_span(fit: StackFit) -> SpanResult:
    """The pairs of a previous fit as one finished span.

    Raises: OptionError where the fit has none.
    """
    if fit.pairs is None or fit.features is None:
        raise OptionError("the earlier fit has no pairs")
    return SpanResult(0, len(fit.scores), fit.pairs, fit.features, np.empty(0, np.uint64))


def in_frame_of(fit: StackFit, solution: PoseSolution, spec: StackSpec) -> PoseSolution:
    """The solution with one motion applied to all slices, so that those of `fit` keep their poses on average."""
    n = len(fit.scores)
    index = np.array([*spec.keep, spec.reader.whole.ndim])
    before = fit.raw_from_aligned.matrices[np.ix_(np.arange(n), index, index)]
    both = solution.fitted[:n] & ~np.isin(np.arange(n), fit.bridged)
    if not both.any():
        return solution
    common = spec.model.algebra.mean(np.linalg.inv(solution.poses[:n]) @ before, both.astype(np.float64))
    return replace(solution, poses=solution.poses @ common)
