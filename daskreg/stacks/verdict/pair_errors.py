"""The covariance of the poses of pairs: that of white noise, times a factor that the images show.

With white noise, the covariance is the variance of the residual times the inverse of J^T J, which the last iteration has
anyway. Noise in the gradients, noise that is correlated, and a specimen that changes from slice to slice make errors
larger. The sandwich estimate (`registration.covariance`) needs no model of the noise, but takes several times as long as
an iteration. So it is computed over the central part of the images, and so is the covariance of white noise; their
ratio, a matrix, is the factor, for which some ten thousand voxels are enough.

The finer a level, the more of its gradients is noise, so that errors may be larger than on the level before. Where the
factor is large, the pose of an earlier level is taken if its errors are smaller.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box
from daskreg.registration.covariance import last_step
from daskreg.registration.levenberg_marquardt import Iterate, LevelObjective
from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel

Floats = NDArray[np.float64]

NOISY = 2.0
"""Factor from which an earlier level may have smaller errors: about a third of the gradients is noise."""

# Voxels of the central part. The windows of the sandwich are then about 200, and its variance is known to a tenth.
_ENOUGH = 1 << 14


def covariance_of(problem: Problem, level: PyramidLevel, iterate: Iterate) -> tuple[Floats, Floats]:
    """(B, P, P) covariances of the poses of an iterate on this level, and (B,) their factors on average."""
    part = _central_part(level)
    central = LevelObjective(problem, part).evaluate(iterate.parameters)
    sandwich = last_step(problem, part, central)[1]
    size = np.sqrt(np.maximum(np.diagonal(iterate.normal, axis1=1, axis2=2), 1e-30))
    scale = size[:, :, None] * size[:, None, :]
    root, inverse = _roots(central.normal / scale)[0], _roots(iterate.normal / scale)[1]
    excess = root @ (sandwich * scale) @ root / np.maximum(central.noise, 1e-30)[:, None, None]
    covariance = inverse @ excess @ inverse * iterate.noise[:, None, None] / scale
    return covariance, np.trace(excess, axis1=1, axis2=2) / size.shape[1]


def corner_variance(problem: Problem, level: PyramidLevel, p: Floats, covariance: Floats) -> Floats:
    """(B,) mean variances of the places of the corners of the fixed image, in squared world units."""
    corners = np.concatenate([level.fixed.grid.corners().T, np.ones((1, 2**level.fixed.grid.ndim))])
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


def _central_part(level: PyramidLevel) -> PyramidLevel:
    """The level with the central part of the fixed images."""
    image = level.fixed
    share = (_ENOUGH / math.prod(image.grid.shape)) ** (1 / image.grid.ndim)
    if share >= 1:
        return level
    sizes = [min(n, max(32, round(n * share))) for n in image.grid.shape]
    starts = [(n - s) // 2 for n, s in zip(image.grid.shape, sizes, strict=True)]
    box = Box.from_slices([slice(a, a + s) for a, s in zip(starts, sizes, strict=True)])
    inside = (slice(None), *box.slices)
    weight = None if image.weight is None else image.weight[inside].contiguous()
    return replace(level, fixed=ImageBatch(image.values[inside].contiguous(), weight, image.grid.crop(box)))
