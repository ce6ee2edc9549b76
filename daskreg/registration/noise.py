"""How much of the gradients is noise, and which smoothing gives the least variance of the pose.

With images smoothed by h, the pose solves J^T r = 0. J has the gradient of the fixed image; of its
mean square, S is signal and N noise. r is the noise of both images. Smoothed noise is correlated, so the
variance of the score J^T r is that of images smoothed twice: N0 (S + N) at sqrt(2) times the
sigma, N0 being the variance of the noise before smoothing. A step scales with S alone, hence the variance of the pose

    V(sigma) ~ (S + N at sqrt(2) sigma) / S(sigma)^2,

in which only what both images show counts as signal. Without noise it is least for the least
sigma. At low signal to noise it is least where smoothing leaves the frequencies that rise above the noise (the
weights of maximum likelihood, Knapp & Carter 1976, as far as a Gaussian can approximate them).

N comes from the residual. That of a correlation r, of two images with the same signal s and the noises N and m N (m:
what is left by interpolation), is the part 1 - r^2 of the variance s + N of the fixed one, and r^2 is
s^2 / ((s + N)(s + m N)). So it holds the noise of both where r is near 1; where r is small, it holds that of the fixed
image alone, and signal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box
from daskreg.registration.pyramids.filters import gaussian_taps, mean_square_gradient
from daskreg.registration.pyramids.flat_borders import SMALLEST
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel, smooth

Floats = NDArray[np.float64]

# The share of noise in the gradients below which more smoothing is not tried.
_LITTLE_NOISE = 0.25
# How many times sigma is multiplied by sqrt(2) at most.
_STEPS = 6
# Voxels that are enough for the mean of a square.
_ENOUGH = 1 << 21


def noise_share(level: PyramidLevel, residual: Floats, correlation: Floats | None = None) -> Floats:
    """(B,) the part of the mean square of the fixed image's gradient that is noise; see `with_best_smoothing`."""
    gradient = np.maximum(_mean_square_gradient(level.fixed), 1e-30)
    return np.clip(_noise(level, residual, correlation, 1.0) / gradient, 0.0, 0.95)


def with_best_smoothing(
    level: PyramidLevel, residual: Floats, correlation: Floats | None = None
) -> PyramidLevel | None:
    """The level smoothed to the least variance of the pose; None where that needs no more smoothing.

    Args:
        residual: (B,) variances of the difference of the aligned images; with a correlation, of what the moving image
            does not explain.
        correlation: (B,) of the aligned images, where they were brought to one scale by a fit; None elsewhere.
    """
    if level.sigmas is None or not any(level.sigmas[0]):
        return None
    share = noise_share(level, residual, correlation)
    # Blank images say nothing. There may be one fixed image for all pairs.
    shown = np.broadcast_to(_mean_square_gradient(level.fixed) > 0, share.shape)
    if not shown.any() or np.mean(share[shown]) < _LITTLE_NOISE:
        return None
    factors = [math.sqrt(2) ** k for k in range(_STEPS + 1)]
    centre = _central_part(level.fixed)
    total = [_mean_square_gradient(smooth(centre, additional(level.sigmas[0], f))) for f in factors]
    noise = [_noise(level, residual, correlation, f) for f in factors]
    signal = [np.maximum(t - n, 1e-3 * t) for t, n in zip(total, noise, strict=True)]
    pairs = [np.broadcast_arrays(t, s) for t, s in zip(total[1:], signal[:-1], strict=True)]
    variance = [float(np.median(t[shown] / s[shown] ** 2)) for t, s in pairs]
    best = int(np.argmin(variance))
    return None if best == 0 else _smoothed_more(level, factors[best])


def _central_part(image: ImageBatch) -> ImageBatch:
    """The centre of a large image: it has enough voxels for a mean, and is smoothed in less time."""
    share = (_ENOUGH / math.prod(image.grid.shape)) ** (1 / image.grid.ndim)
    if share >= 1:
        return image
    sizes = [max(min(n, SMALLEST), round(n * share)) for n in image.grid.shape]
    starts = [(n - s) // 2 for n, s in zip(image.grid.shape, sizes, strict=True)]
    box = Box.from_slices([slice(a, a + s) for a, s in zip(starts, sizes, strict=True)])
    inside = (slice(None), *box.slices)
    weight = None if image.weight is None else image.weight[inside]
    return ImageBatch(image.values[inside], weight, image.grid.crop(box))


def _smoothed_more(level: PyramidLevel, factor: float) -> PyramidLevel:
    """The level at `factor` times its sigma."""
    if factor == 1 or level.sigmas is None:
        return level
    pair = zip((level.fixed, level.moving), level.sigmas, strict=True)
    fixed, moving = (smooth(p, additional(s, factor)) for p, s in pair)
    sigmas = tuple(factor * s for s in level.sigmas[0]), tuple(factor * s for s in level.sigmas[1])
    return replace(level, fixed=fixed, moving=moving, sigmas=sigmas)


def additional(sigmas: Sequence[float], factor: float) -> list[float]:
    """The sigmas of a second Gaussian that makes `sigmas` `factor` times as large."""
    return [s * math.sqrt(factor**2 - 1) for s in sigmas]


def white_noise_variance(level: PyramidLevel, residual: Floats) -> Floats:
    """(B,) the variance before smoothing of white noise that has this variance on the level."""
    return residual / math.prod(_covariances(s, 1.0)[0] for s in _sigmas(level))


def _noise(level: PyramidLevel, residual: Floats, correlation: Floats | None, factor: float) -> Floats:
    """(B,) mean square of the gradient of the fixed image's noise at `factor` times the sigma.

    Both images are taken to be equally noisy. Linear interpolation between two voxels of the moving image leaves,
    on average, 2/3 of the variance of its noise plus a third of the covariance of neighbours.
    """
    now = [_covariances(s, 1.0) for s in _sigmas(level)]
    moving = math.prod(2 / 3 + one / (3 * same) for same, one, _ in now)
    smoothed = [_covariances(s, factor) for s in _sigmas(level)]
    variance = math.prod(same for same, _, _ in smoothed)
    # Central differences are of voxels two apart.
    differences = sum((same - two) / (2 * same) for same, _, two in smoothed)
    share: Any = 1 / (1 + moving)
    if correlation is not None:
        square = np.clip(correlation, 0, 1) ** 2
        b = 2 - square * (1 - moving)
        share = 2 / (b + np.sqrt(b**2 - 4 * (1 - square)))
    return np.asarray(white_noise_variance(level, residual) * share * variance * differences)


def _sigmas(level: PyramidLevel) -> tuple[float, ...]:
    return (0.0,) * level.fixed.grid.ndim if level.sigmas is None else level.sigmas[0]


def _covariances(sigma: float, factor: float) -> tuple[float, float, float]:
    """Covariances at 0, 1 and 2 voxels of white noise smoothed by sigma, and then up to `factor` times it."""
    taps = gaussian_taps(sigma)
    if factor > 1:
        taps = np.convolve(taps, gaussian_taps(sigma * math.sqrt(factor**2 - 1)))
    whole = np.pad(np.convolve(taps, taps[::-1]), 2)
    middle = len(whole) // 2
    return float(whole[middle]), float(whole[middle + 1]), float(whole[middle + 2])


def _mean_square_gradient(image: ImageBatch) -> Floats:
    """(B,) mean squares of the central differences, on some planes of large images."""
    every = max(1, math.prod(image.grid.shape) // _ENOUGH)
    return mean_square_gradient(image.values, image.weight, every).cpu().numpy()
