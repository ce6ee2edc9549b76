"""What the residual of a pair says of its noise: variance, correlation, and how much of the gradients is shared.

A step weighs the images against the prior, so it needs the variance of the sums of residuals times gradients. Residuals
of neighbouring voxels are correlated (smoothing, another specimen), so that their products with the gradient are
fewer independent samples than there are voxels. Noise is also in the gradients: it makes J^T J larger than the
information of the images, by a share that the gradients of the two images, whose noise is independent, do not have in
common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.deformable.level_images import Evaluated, LevelImages, Singles, slopes_of
from daskreg.registration.verdict.correlations import positive_correlations
from daskreg.runtime.threads import pool_threads, spread

Floats = NDArray[np.float64]

# Voxels of an image that are enough. They are those of its middle, unless gradients have less than this part of their
# mean energy there; the energy is that of about so many voxels along each axis.
_ENOUGH = 1 << 19
_POOR, _ALONG = 0.25, 32
_LONGEST = 24
"""Voxels up to which correlations are summed."""
_SMALL = 1 << 18
"""Values that are correlated sooner than another thread has begun."""
LEAST_SHARE = 0.02


@dataclass(frozen=True)
class NoiseModel:
    """variance: of the residual. correlated: voxels for each independent sample of residual times gradient. shared:
    the part of the mean square of the fixed image's gradient that the moving image has, too."""

    variance: float
    correlated: float
    shared: float

    @property
    def precision(self) -> float:
        """What sums of residuals times gradients are multiplied by in the normal equations."""
        return self.shared / (self.variance * self.correlated)

    @property
    def information(self) -> float:
        """What sums of squares of gradients are multiplied by."""
        return self.precision * self.shared


def noise_model(images: LevelImages, found: Evaluated) -> NoiseModel:
    """Estimate the noise of a pair at a transform."""
    box = informative_box(found.weight, images.gradient, images.fixed.shape)
    weight, (gradient, other) = found.weight[box], compared_slopes(images, found, box)
    residual = found.residual[box]
    if found.local is not None:
        residual = residual * np.sqrt(found.local.part(box).precision)
    score = weight * gradient if found.dependence is not None else weight * residual * gradient
    square = float((weight * gradient * gradient).sum(dtype=np.float64))
    common = float((weight * gradient * other).sum(dtype=np.float64))
    shared = min(max(common / max(square, 1e-30), LEAST_SHARE), 1.0)
    return NoiseModel(max(found.variance, 1e-12), correlated_voxels(score), shared)


def compared_slopes(images: LevelImages, found: Evaluated, box: tuple[slice, ...]) -> tuple[Singles, Singles]:
    """(D, *box) gradients of the fixed and of the warped image, which are equal where these match.

    For "mi", what the value of a voxel would change by a small motion, seen from either image.
    """
    fixed, warped = images.gradient[(slice(None), *box)], slopes_of(found.warped[box], images.fixed_grid.spacing)
    if found.local is not None:
        one = found.local.part(box)
        root = np.sqrt(one.precision)
        return root * one.common * fixed, root * one.gain * warped
    if (d := found.dependence) is None:
        return fixed, np.float32(found.gain) * warped
    return -d.by_fixed[box] * fixed, d.by_warped[box] * warped


def total_information(images: LevelImages, found: Evaluated) -> float:
    """How much the images tell of displacements: the information of all voxels, by squares of world units.

    As if residuals were not correlated, since what is not aligned yet is. 0 where the gradients have no more in common
    than chance may give them.
    """
    model = noise_model(images, found)
    if model.shared <= LEAST_SHARE:
        return 0.0
    voxels = images.residuals(found)
    squares = sum(float(np.vdot(voxels.weight * slope, slope)) for slope in voxels.gradient)
    return model.information * model.correlated * squares


def correlated_voxels(score: NDArray[np.float32]) -> float:
    """Voxels for each independent sample: the product over the axes of 1 + 2 (sum of correlations)."""
    square = float((score * score).sum(dtype=np.float64))
    if not square > 0:
        return 1.0

    def of_axis(axis: int) -> float:
        n = score.shape[axis]
        found = positive_correlations(np.moveaxis(score, axis, 0), square, min(_LONGEST, n // 4))
        return float(1 + 2 * sum(one * n / (n - lag) for lag, one in enumerate(found, 1)))

    return math.prod(spread(pool_threads() if score.size > _SMALL else 1, of_axis, range(1, score.ndim)))


def informative_box(weight: Singles, gradient: Singles, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """A box of about `_ENOUGH` voxels of an image that say what its noise is, or all of it where it has fewer.

    The middle, or where the gradients have the most energy if they have little there: specimens may be hollow, and
    masks may leave a side alone.

    Args:
        weight: (*n) of the voxels, gradient: (D, *n) of the image, at any resolution.
        shape: of the image at the resolution of the box.
    """
    sizes = _sizes(shape)
    some = tuple(slice(s // 2, None, s) for s in (max(1, n // _ALONG) for n in weight.shape))
    energy = weight[some] * (gradient[(slice(None), *some)].astype(np.float64) ** 2).sum(0)
    widths = [min(m, max(1, round(m * size / n))) for m, size, n in zip(energy.shape, sizes, shape, strict=True)]
    sums = energy
    for axis, width in enumerate(widths):
        ends = np.cumsum(np.insert(sums, 0, 0, axis=axis), axis=axis)
        sums = np.take(ends, range(width, ends.shape[axis]), axis) - np.take(
            ends, range(ends.shape[axis] - width), axis
        )
    if sums[tuple(m // 2 for m in sums.shape)] >= _POOR * energy.mean() * math.prod(widths):
        return middle_of(shape)
    best = np.unravel_index(int(sums.argmax()), sums.shape)
    starts = [round(k / max(m - 1, 1) * (n - s)) for k, m, n, s in zip(best, sums.shape, shape, sizes, strict=True)]
    return tuple(slice(a, a + s) for a, s in zip(starts, sizes, strict=True))


def middle_of(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The middle of an image, of about `_ENOUGH` voxels where it has more."""
    return tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(shape, _sizes(shape), strict=True))


def _sizes(shape: tuple[int, ...]) -> list[int]:
    """Voxels along the sides of a box of about `_ENOUGH`."""
    share = min(1.0, (_ENOUGH / math.prod(shape)) ** (1 / len(shape)))
    return [max(min(n, 8), round(n * share)) for n in shape]
