"""The covariance of a pose from the images themselves, and the last step that makes the pose unbiased.

The pose solves the score equations sum of J^T r = 0, in which J has the gradient of the fixed image and r is the
residual. Whatever the noise is, the covariance of such an estimate is the sandwich

    A^-1 B A^-T,    A the derivative of the score by the pose, B the variance of the score

(Huber 1967, White 1980).

- A is the sum of products of the gradients of both images. Their noise is independent, so it adds nothing to A, as it
  does to J^T J.
- B is taken from how the score varies over the image. The noise of images is correlated between voxels (smoothing,
  compression, another specimen), over distances that are not known, so scores are summed over windows of the image
  that overlap: B is the sum of the windows' squares. This weights covariances by a falling function of the
  distance (Bartlett's kernel; Newey & West 1987, Conley 1999). Noise that differs between regions needs no model.
- Stripes are correlated along whole rows. So B is also taken from the scores of whole rows, and columns, and where
  these exceed that of the windows by more than chance explains, the excess is added (as for errors that are
  clustered in several ways, Cameron, Gelbach & Miller 2011).
- The score of the more exact interpolation of `score_sums` is zero at a slightly other pose: the last step goes there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.levenberg_marquardt import Iterate, LevelObjective
from daskreg.registration.normal_equations.edge_weights import scaling
from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.score_sums import ScoreSums, score_sums

Floats = NDArray[np.float64]

# A window is twice as wide as one of this many tiles, or as `_LEAST_TILE` voxels; a tile is `_CELLS` cells wide.
_TILES, _LEAST_TILE, _CELLS = 200, 8, 4
# Cells across rows and columns that are summed as one.
_BAND = 2
# The least share of the signal in J^T J, and in a score that is corrected for the parameters that were fitted.
_LEAST_SIGNAL, _LEAST_FREE = 0.01, 0.25
# The largest last step, in voxels of the level: linear interpolation biases by less.
_LARGEST_STEP = 0.3


def last_step(
    problem: Problem, level: PyramidLevel, iterate: Iterate, *, cells: int = _CELLS
) -> tuple[Floats, Floats, Floats]:
    """`last_step_by` with the sums over a level in memory."""
    return last_step_by(partial(score_sums, level), LevelObjective(problem, level), iterate, cells=cells)


def last_step_by(
    sums_at: Callable[[Floats, tuple[int, ...]], ScoreSums],
    objective: LevelObjective,
    iterate: Iterate,
    *,
    cells: int = _CELLS,
) -> tuple[Floats, Floats, Floats]:
    """(B, P) steps to unbiased poses, zero where they would be large, the (B, P, P) covariances there, (B,) signals.

    A signal is the share of J^T J that both images have in common, in the direction where it is least: the rest is
    noise in the gradients.

    Args:
        sums_at: the sums over the voxels at (B, D, D+1) maps from xi to moving indices, in cells of so many voxels.
        cells: along a tile; fewer take less time.
    """
    problem = objective.problem
    motions, derivatives = problem.pose.motions(iterate.parameters, problem.centre)
    maps, change = (objective.maps_of(m) for m in (motions, derivatives))
    sums = sums_at(maps, cell_of(objective.shape, cells))
    scores, slope = _projected(problem, sums)
    jacobians = maps[:, :, :-1] / np.diag(scaling(objective.shape))[:-1]
    left = np.einsum("bpkf,bak->bpaf", change, np.linalg.inv(jacobians)).reshape(*change.shape[:2], -1)
    white = _whitening(iterate.normal)
    left, right = white @ left, white @ change.reshape(*change.shape[:2], -1)
    signal, least = _inverse_signal(left @ slope @ right.swapaxes(1, 2))
    scores = np.einsum("bpq,b...q->b...p", left, scores)
    axes = tuple(range(1, scores.ndim - 1))
    total = scores.sum(axes)
    back = white.swapaxes(1, 2)
    step = (back @ signal @ total[..., None])[..., 0]
    moved = objective.displacement(iterate.parameters + step, iterate.parameters)
    step = np.where((moved <= _LARGEST_STEP)[:, None], step, 0.0)
    # At the pose after the step, the scores add up to zero.
    share = sums.scalars[..., :1] / np.maximum(sums.scalars[..., :1].sum(axes, keepdims=True), 1e-9)
    centred = scores - share * np.expand_dims(total, axes)
    middle = _score_variance(centred, cells)
    return step, np.asarray(back @ signal @ middle @ signal @ white), least


def cell_of(shape: tuple[int, ...], cells: int = _CELLS) -> tuple[int, ...]:
    """Voxels along a cell, along each axis."""
    tile = max(_LEAST_TILE, (math.prod(shape) / _TILES) ** (1 / len(shape)))
    return tuple(max(1, min(round(tile / cells), n // (4 * cells))) for n in shape)


def _projected(problem: Problem, sums: ScoreSums) -> tuple[Floats, Floats]:
    """(B, *cells, Q) scores and (B, Q, Q) their derivative, with the gain and offset of the best fit projected out."""
    batch, cells = len(sums.scalars), sums.linear.shape[1:-3]
    n, d, w, _, dw, ww = np.moveaxis(sums.scalars, -1, 0)
    j, jw, jd = np.moveaxis(sums.linear.reshape(batch, *cells, 3, -1), -2, 0)
    if problem.metric != "ncc":
        return jd, sums.cross
    axes = tuple(range(1, n.ndim))
    total, td, tw, tdw, tww = (np.asarray(x.sum(axes)) for x in (n, d, w, dw, ww))
    total = np.maximum(total, 1e-9)
    variance = np.maximum(tww - tw * tw / total, 1e-12)
    gain = (tdw - td * tw / total) / variance
    offset = (td - gain * tw) / total
    by_w = (jw.sum(axes) - j.sum(axes) * (tw / total)[:, None]) / variance[:, None]
    by_one = (j.sum(axes) - by_w * tw[:, None]) / total[:, None]

    def each(x: Floats, like: Floats) -> Floats:
        """Of each pair, for all cells."""
        return x.reshape(batch, *[1] * len(axes), *x.shape[1:]) if like.ndim > x.ndim else x

    residual = d - each(gain, d) * w - each(offset, d) * n
    by_residual = dw - each(gain, d) * ww - each(offset, d) * w
    score = jd - each(gain[:, None], jd) * jw - each(offset[:, None], jd) * j
    score = score - each(by_one, jd) * residual[..., None] - each(by_w, jd) * by_residual[..., None]
    slope = sums.cross - by_one[:, :, None] * sums.slopes[:, :1] - by_w[:, :, None] * sums.slopes[:, 1:]
    return score, slope * (1 + gain)[:, None, None]


def _whitening(normal: Floats) -> Floats:
    """(B, P, P) W with W J^T J W^T = 1; rows of zeros for directions that the images do not determine."""
    size = np.sqrt(np.maximum(np.diagonal(normal, axis1=1, axis2=2), 1e-30))
    values, vectors = np.linalg.eigh(normal / (size[:, :, None] * size[:, None, :]))
    scale = np.where(values > 1e-9 * values[:, -1:], 1 / np.sqrt(np.maximum(values, 1e-30)), 0.0)
    return np.asarray((vectors * scale[:, None, :]).swapaxes(1, 2) / size[:, None, :])


def _inverse_signal(slope: Floats) -> tuple[Floats, Floats]:
    """(B, P, P) inverses of the symmetric parts, with eigenvalues of at least `_LEAST_SIGNAL`; (B,) the least ones."""
    values, vectors = np.linalg.eigh((slope + slope.swapaxes(1, 2)) / 2)
    inverse = (vectors / np.maximum(values, _LEAST_SIGNAL)[:, None, :]) @ vectors.swapaxes(1, 2)
    return np.asarray(inverse), values[:, 0]


def _score_variance(scores: Floats, cells: int) -> Floats:
    """(B, P, P) the variance of the sum of (B, *cells, P) scores that add up to zero."""
    size, ndim = scores.shape[-1], scores.ndim - 2
    variance = _over_windows(scores, (2 * cells,) * ndim)
    values, vectors = np.linalg.eigh(variance)
    values = np.maximum(values, 1e-12 * values[:, -1:] + 1e-300)[:, None]
    root = vectors * np.sqrt(values)
    inverse = vectors / np.sqrt(values)
    excess = np.zeros_like(variance)
    for axis in range(ndim):
        along = scores.sum(tuple(k + 1 for k in range(ndim) if k != axis))
        banded = inverse.swapaxes(1, 2) @ _over_windows(along, (_BAND,)) @ inverse
        ratio, directions = np.linalg.eigh(banded)
        # Of noise without stripes, the largest ratio would be about this (Marchenko & Pastur 1967). Bartlett's kernel
        # over two bands has two thirds of the degrees of freedom.
        chance = (1 + math.sqrt(1.5 * size / along.shape[1])) ** 2
        above = np.where(ratio > chance, ratio - 1, 0.0)[:, None]
        excess += (directions * above) @ directions.swapaxes(1, 2)
    return np.asarray(variance + root @ excess @ root.swapaxes(1, 2))


def _over_windows(scores: Floats, width: tuple[int, ...]) -> Floats:
    """(B, P, P) the variance of the sum of (B, *cells, P) scores, from windows of `width` cells at every place."""
    size, ndim = scores.shape[-1], scores.ndim - 2
    cells, windows = math.prod(scores.shape[1:-1]), 1
    for axis, most in enumerate(width, start=1):
        n = scores.shape[axis]
        wide = min(most, n)
        # Windows that begin up to wide - 1 cells before the first cell, and end after the last.
        total = np.concatenate([np.zeros_like(scores.take([0], axis)), np.cumsum(scores, axis)], axis)
        start = np.arange(1 - wide, n)
        scores = total.take(np.minimum(start + wide, n), axis) - total.take(np.maximum(start, 0), axis)
        windows *= wide
    flat = scores.reshape(len(scores), -1, size)
    # In a window, fitted parameters explain their share of the score; each voxel's gradient has `ndim` directions.
    free = max(_LEAST_FREE, 1 - max(1.0, size / max(ndim, 1)) * windows / cells)
    return np.asarray(flat.swapaxes(1, 2) @ flat / (windows * free))
