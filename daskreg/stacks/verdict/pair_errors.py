"""The covariance of the poses of pairs: that of white noise, times a factor that the images show.

With white noise, the covariance is the variance of the residual times the inverse of J^T J, which the last iteration
has anyway. Noise in the gradients, noise that is correlated, and a specimen that changes from slice to slice make
errors larger. The sandwich estimate (`registration.covariance`) needs no model of the noise, but takes several times
as long as an iteration. So it is computed over the central part of the images, and so is the covariance of white
noise; their ratio, a matrix, is the factor, for which some ten thousand voxels are enough.

The finer a level, the more of its gradients is noise, so that errors may be larger than on the level before. Where
noise is a large share of them, the pose of an earlier level is taken if its errors are smaller. A large factor alone
says less: where the specimen changes from slice to slice, it is as large on every level.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box, Grid
from daskreg.registration.covariance import last_step
from daskreg.registration.levenberg_marquardt import Iterate, LevelObjective
from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.flat_borders import SMALLEST
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel

Floats = NDArray[np.float64]

LEAST_SIGNAL = 2 / 3
"""Share of the squared gradients that is not noise, below which an earlier level may have smaller errors."""

# Voxels of the central part, and those of the moving image around it that interpolation reads. The sandwich has about
# 40 windows of 16 voxels that do not overlap there, so that a variance is known to about a fifth.
_ENOUGH, _AROUND = 96**2, 6
# Cells along a tile (see `registration.covariance`).
_CELLS = 2


def covariance_of(problem: Problem, part: PyramidLevel, iterate: Iterate) -> tuple[Floats, Floats]:
    """(B, P, P) covariances of the poses of an iterate on a level, and (B,) shares of signal in the gradients.

    Args:
        part: the central part of the level.
    """
    central = LevelObjective(problem, part).evaluate(iterate.parameters)
    _, sandwich, signal = last_step(problem, part, central, cells=_CELLS)
    size = np.sqrt(np.maximum(np.diagonal(iterate.normal, axis1=1, axis2=2), 1e-30))
    scale = size[:, :, None] * size[:, None, :]
    root, inverse = _roots(central.normal / scale)[0], _roots(iterate.normal / scale)[1]
    # Below this residual, of images of variance one, sums of float32 are rounding, and so is their ratio.
    excess = root @ (sandwich * scale) @ root / np.maximum(central.noise, 1e-9)[:, None, None]
    covariance = inverse @ excess @ inverse * iterate.noise[:, None, None] / scale
    return covariance, signal


def corner_variance(problem: Problem, grid: Grid, p: Floats, covariance: Floats) -> Floats:
    """(B,) mean variances of the places of the corners of the fixed images, on a grid, in squared world units."""
    corners = np.concatenate([grid.corners().T, np.ones((1, 2**grid.ndim))])
    moved = (problem.pose.motions(p, problem.centre)[1] @ corners)[:, :, :-1]
    return np.asarray(np.einsum("bpdc,bpq,bqdc->b", moved, covariance, moved) / corners.shape[1])


def _roots(normal: Floats) -> tuple[Floats, Floats]:
    """(B, P, P) symmetric square roots, and their pseudo-inverses."""
    values, vectors = np.linalg.eigh(normal)
    known = values > 1e-9 * np.maximum(values[:, -1:], 1e-30)
    root = np.sqrt(np.where(known, values, 0.0))
    inverse = np.where(known, 1 / np.where(known, root, 1.0), 0.0)
    one, other = ((vectors * r[:, None, :]) @ vectors.swapaxes(1, 2) for r in (root, inverse))
    return np.asarray(one), np.asarray(other)


def central_part(problem: Problem, level: PyramidLevel, p: Floats) -> PyramidLevel:
    """A level with the central part of the fixed images, and what it needs of the moving ones at the poses `p`."""
    box, around = central_boxes(problem, level, p)
    if box == Box.of(level.fixed.grid.shape):
        return level
    return replace(level, fixed=_cropped(level.fixed, box), moving=_cropped(level.moving, around))


def central_boxes(problem: Problem, level: PyramidLevel, p: Floats) -> tuple[Box, Box]:
    """The central part of the fixed images, and the part of the moving ones around it at all of the (B, P) poses."""
    fixed, moving = level.fixed.grid, level.moving.grid
    share = (_ENOUGH / math.prod(fixed.shape)) ** (1 / fixed.ndim)
    if share >= 1:
        return Box.of(fixed.shape), Box.of(moving.shape)
    sizes = [min(n, max(SMALLEST, round(n * share))) for n in fixed.shape]
    starts = [(n - s) // 2 for n, s in zip(fixed.shape, sizes, strict=True)]
    box = Box.from_slices([slice(a, a + s) for a, s in zip(starts, sizes, strict=True)])
    maps = moving.inverse_matrix @ problem.pose.motions(p, problem.centre)[0]
    corners = np.concatenate([fixed.crop(box).corners().T, np.ones((1, 2**fixed.ndim))])
    places = (maps @ corners)[:, :-1]
    low = np.clip(np.floor(places.min(axis=(0, 2))) - _AROUND, 0, np.asarray(moving.shape) - SMALLEST)
    high = np.clip(np.ceil(places.max(axis=(0, 2))) + _AROUND, low + SMALLEST, moving.shape)
    return box, Box.from_slices([slice(max(0, int(a)), int(b)) for a, b in zip(low, high, strict=True)])


def _cropped(image: ImageBatch, box: Box) -> ImageBatch:
    inside = (slice(None), *box.slices)
    weight = None if image.weight is None else image.weight[inside].contiguous()
    return ImageBatch(image.values[inside].contiguous(), weight, image.grid.crop(box))
