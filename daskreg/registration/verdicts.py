"""The verdicts on the pairs of a batch, and the statuses that follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.geometry import Grid
from daskreg.registration.levenberg_marquardt import LevelObjective, corners_of, solve_level
from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.masked_pyramids import MaskedPyramids
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel
from daskreg.registration.verdict.aligned import aligned
from daskreg.registration.verdict.bands import Bands, bands_of
from daskreg.registration.verdict.candidates import candidates_of
from daskreg.registration.verdict.evidence import needed
from daskreg.registration.verdict.judge import ANY_TURN, CERTAIN, MOST_ERROR, Verdict, judge, suitable
from daskreg.registration.verdict.rivals import excluded

Floats = NDArray[np.float64]

_LOW_OVERLAP = 0.25
# The share of the residual of "mse" left by a fit of gain and offset, below which brightness differs, and the voxels by
# which "ncc" may then put the pose elsewhere.
_BRIGHTNESS, _MOST_OFFSET = 0.5, 0.25
# Metrics by which images that agree have the same contrast.
_SAME_CONTRAST = ("ncc", "mse", "mae")


class FitStatus(Enum):
    """How an estimate ended; the value says what to do about it."""

    CONVERGED = "converged"
    MAX_ITERATIONS = "stopped before it converged: raise max_iterations, or give a better init"
    LOW_OVERLAP = "little of the images overlaps: check the coordinates and units, or give init= or masks"
    CHANCE = (
        "unrelated images would agree as much at the best of all poses: "
        'try init="search", metric="mi" for another modality, masks, or images that share more'
    )
    AMBIGUOUS = (
        "other poses fit about as well (fit.rivals), as in a periodic texture: "
        "give an init near the right one with init=, or images that show what breaks the repetition"
    )
    UNDETERMINED = (
        "the images do not determine all motions (fit.free of an affine fit names the free ones), as lines do not "
        "determine a shift along them: take a model without these, or images with more structure or less noise"
    )
    INCONSISTENT = (
        "the images contradict the motion: frequencies of theirs, or their registration the other way round "
        "(fit.inverse_error), give another one, or much of what was aligned has nothing in common: "
        'use "ncc" or "lncc" where brightness differs or varies, give an init or masks, or take a smaller model'
    )
    UNCERTAIN = (
        "small windows of the aligned images fit better after further shifts than noise explains, or few of them say "
        "where they belong and the affine map was not sure, so that the motion may be off by more than its error bars: "
        "the control points are too far apart for it, or steps ended beside it: give a smaller spacing=, or an init="
    )
    FIXED_PATTERN = (
        "a pattern that stays with the detector is in both images and draws the motion towards none: divide by a flat "
        "field, subtract the mean of many images, or mask it"
    )
    FOLDED = (
        "the transform folds: several points of the fixed image are found at one of the moving image. "
        "Layers of splines do not fold, so init= does: give another one"
    )
    NO_IMPROVEMENT = 'nothing better than the start was found: try init="search", or another metric'


def verdicts_of(
    problem: Problem, levels: Sequence[PyramidLevel], parameters: Floats, *, reach: float = 0.0
) -> list[Verdict]:
    """The verdicts on B pairs at (B, P) parameters, on the smaller ones of the levels of their pyramid.

    A few milliseconds for each pair whose pose nothing speaks against.

    Args:
        reach: turned poses are rivals, too, up to this turn of their own in degrees: as far as rotations were searched.
    """
    parameters = np.asarray(parameters)
    motions, derivatives = problem.pose.motions(parameters, problem.centre)
    names, found = problem.pose.names, []
    for row, verdict in enumerate(judge(levels, names, motions, derivatives, turns=reach == ANY_TURN)):
        one = [level.take(torch.tensor([row])) for level in suitable(levels)]
        some = verdict.candidates
        if not (verdict.chance or len(verdict.rivals) or len(verdict.free)):
            some = np.concatenate([some, candidates_of(one, names, motions[row], derivatives[row], reach=reach)])
        found.append(_with_rivals(problem, one, verdict, some, parameters[row]) if len(some) else verdict)
    return found


def _with_rivals(
    problem: Problem, levels: Sequence[PyramidLevel], verdict: Verdict, candidates: Floats, parameters: Floats
) -> Verdict:
    """The verdict with the candidates that fit about as well after they are refined, among its rivals.

    Args:
        levels: of one pair, on which it is judged.
    """

    def bands_at(p: Floats) -> tuple[Bands | None, float]:
        motions, derivatives = problem.pose.motions(p, problem.centre)
        pair = aligned(levels[-1], problem.pose.names, motions[0], derivatives[0])
        return bands_of(pair), needed(pair)

    bands, needs = bands_at(parameters[None])
    if bands is None:
        return verdict
    # Another gain or offset would lead "mse" away from where these agree.
    refining = replace(problem, metric="ncc") if problem.metric == "mse" else problem
    p = problem.parameters_of(candidates, levels[-1].fixed.grid)
    for level in levels:
        p = solve_level(refining, level, p, tolerance=0.01, max_iterations=30).parameters
    objective = LevelObjective(problem, levels[-1])
    found, places = [], [parameters]
    for one in p:
        apart = objective.displacement(np.repeat(one[None], len(places), 0), np.stack(places)).min() > 1
        if apart and not excluded(bands, bands_at(one[None])[0], needs):
            found.append(problem.pose.motions(one[None], problem.centre)[0][0])
            places.append(one)
    confirmed = np.reshape(found, (-1, *verdict.rivals.shape[1:]))
    return replace(verdict, rivals=np.concatenate([verdict.rivals, confirmed]), candidates=confirmed)


def verdicts_of_pyramids(
    problem: Problem, pyramids: MaskedPyramids, parameters: Floats, *, reach: float = 0.0
) -> list[Verdict]:
    """With all voxels, or, of pairs that this does not settle, without flat borders, where there are any.

    A candidate that was refined and is a rival stays one.
    """
    found = verdicts_of(problem, pyramids.levels, parameters, reach=reach)
    if pyramids.borderless is None or all(verdict.settled for verdict in found):
        return found
    inner = verdicts_of(problem, pyramids.borderless, parameters, reach=reach)
    return [b if b.settled and not len(a.candidates) else a for a, b in zip(found, inner, strict=True)]


def verdict_of_pair(problem: Problem, pyramids: MaskedPyramids, parameters: Floats) -> Verdict:
    """On one pair at (P,) parameters, for any metric.

    Metrics that compare other modalities, and those of users, may find images that agree in their edges alone: where
    the images themselves say nothing, the magnitudes of their gradients are compared.
    """
    found = verdicts_of_pyramids(problem, pyramids, parameters[None])[0]
    if found.settled or problem.metric in _SAME_CONTRAST:
        return found
    return verdicts_of(problem, [edges_of(level) for level in pyramids.levels], parameters[None])[0]


def with_errors(
    problem: Problem, verdicts: Sequence[Verdict], covariances: Floats, parameters: Floats, *, grid: Grid, step: float
) -> list[Verdict]:
    """The verdicts with what the (B, P, P) covariances say: a pose whose corners may be off by much is not determined.

    Args:
        parameters: (B, P). grid: of the fixed images. step: size of the finest level's voxels.
    """
    moves = problem.pose.motions(np.asarray(parameters), problem.centre)[1][..., :-1, :] @ corners_of(grid) / step
    found = []
    for verdict, covariance, change in zip(verdicts, covariances, moves, strict=True):
        error = math.sqrt(max(0.0, np.einsum("pdc,pq,qdc->c", change, covariance, change).max()))
        if not math.isfinite(error) or verdict.evidence > CERTAIN * verdict.needed:
            found.append(verdict)
            continue
        free, sigma = verdict.free, verdict.sigma
        if error > MOST_ERROR and not len(free):
            _, vectors = np.linalg.eigh(covariance * verdict.units[:, None] * verdict.units)
            free, sigma = (vectors[:, -1] / verdict.units)[None], np.array([error])
        found.append(replace(verdict, error=error, free=free, sigma=sigma))
    return found


def with_brightness(
    problem: Problem, verdicts: Sequence[Verdict], level: PyramidLevel, parameters: Floats
) -> list[Verdict]:
    """The verdicts of "mse", which allow for little where much of the residual is another gain or offset.

    That moves the optimum of the metric, mostly by less than any other contradiction: the next step of "ncc", which has
    no gain and offset, tells by how much.

    Args:
        level: the finest one. parameters: (B, P).
    """
    p = np.asarray(parameters)
    by_scale, by_difference = (
        LevelObjective(replace(problem, metric=metric), level).subsampled().evaluate(p) for metric in ("ncc", "mse")
    )
    corners = corners_of(level.fixed.grid)
    moves = problem.pose.motions(p, problem.centre)[1][..., :-1, :] @ corners / level.step
    found = list(verdicts)
    for row in np.flatnonzero(by_scale.noise < _BRIGHTNESS * by_difference.noise):
        step = np.linalg.lstsq(by_scale.normal[row], by_scale.right[row], rcond=1e-9)[0]
        offset = float(np.linalg.norm(np.einsum("p,pdc->dc", step, moves[row]), axis=0).max())
        if offset > _MOST_OFFSET:
            found[row] = replace(found[row], offset=max(found[row].offset, offset), moved_by_brightness=True)
    return found


def edges_of(level: PyramidLevel) -> PyramidLevel:
    """The level with the magnitudes of its images' gradients in place of their values."""
    return replace(level, fixed=_edges(level.fixed), moving=_edges(level.moving))


def _edges(image: ImageBatch) -> ImageBatch:
    axes = [axis for axis, n in enumerate(image.values.shape) if axis > 0 and n > 1]
    slopes = [torch.gradient(image.values, dim=axis)[0] / image.grid.spacing[axis - 1] for axis in axes]
    return replace(image, values=torch.stack(slopes).square().sum(0).sqrt())


def status_of(verdict: Verdict | None, *, converged: bool, improved: bool, overlap: float) -> FitStatus:
    """The status of an estimate; verdict: None where nobody asked for one."""
    if overlap < _LOW_OVERLAP and (verdict is None or verdict.chance):
        return FitStatus.LOW_OVERLAP
    if verdict is not None and verdict.chance:
        return FitStatus.CHANCE
    if not improved:
        return FitStatus.NO_IMPROVEMENT
    if verdict is None:
        return _ended(converged)
    # Along a free direction, all poses are rivals.
    if len(verdict.free):
        return FitStatus.UNDETERMINED
    if len(verdict.rivals):
        return FitStatus.AMBIGUOUS
    if verdict.contradicted:
        return FitStatus.INCONSISTENT
    return _ended(converged)


def _ended(converged: bool) -> FitStatus:
    return FitStatus.CONVERGED if converged else FitStatus.MAX_ITERATIONS
