"""How much of the gradients is noise, and how much smoothing serves best.

With images smoothed by h, the pose is where J^T r = 0. J has the gradient of the fixed image, S of whose
squares is signal and N noise, and r is the noise of both. Smoothed noise is correlated, so the
variance of the score J^T r is that of images smoothed twice: N0 (S + N) at sqrt(2) times the
sigma, N0 being the noise before. A step scales with S alone, hence the variance of the pose

    V(sigma) ~ (S + N at sqrt(2) sigma) / S(sigma)^2,

in which only what both images show counts as signal. Without noise it is least for the least
sigma; at low signal to noise it is least where smoothing leaves what rises above the noise (the
weights of maximum likelihood, Knapp & Carter 1976, as far as a Gaussian can follow them).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box
from daskreg.registration.filters import gaussian_taps, slope_squares
from daskreg.registration.flat_borders import SMALLEST
from daskreg.registration.pyramid import Level, Picture, smooth

Floats = NDArray[np.float64]

# The share of noise in the gradients below which more smoothing is not tried, and how much at most, in
# factors of sqrt(2) of sigma.
_LITTLE, _STEPS = 0.25, 6
# Voxels that tell the mean of a square well enough.
_MANY = 1 << 21


def noise_share(level: Level, residual: Floats) -> Floats:
    """(B,) the part of the squares of the fixed image's gradient that is noise, for (B,) residual variances."""
    return np.clip(_noise(level, residual, 1.0) / np.maximum(_energy(level.fixed), 1e-30), 0.0, 0.95)


def quieted(level: Level, residual: Floats) -> Level | None:
    """The level, with as much more smoothing as makes the pose surest; None where it has enough.

    Args:
        residual: (B,) variances of the difference of the images, aligned.
    """
    if level.sigmas is None or not any(level.sigmas[0]) or np.mean(noise_share(level, residual)) < _LITTLE:
        return None
    factors = [math.sqrt(2) ** k for k in range(_STEPS + 1)]
    middle = _middle(level.fixed)
    energy = [_energy(smooth(middle, _more(level.sigmas[0], f))) for f in factors]
    signal = [np.maximum(e - _noise(level, residual, f), 1e-3 * e) for e, f in zip(energy, factors, strict=True)]
    spread = [float(np.median(e / s**2)) for e, s in zip(energy[1:], signal[:-1], strict=True)]
    best = int(np.argmin(spread))
    return None if best == 0 else _smoother(level, factors[best])


def _middle(image: Picture) -> Picture:
    """What lies around the centre of a large image, for that tells as well and is smoothed sooner."""
    share = (_MANY / math.prod(image.grid.shape)) ** (1 / image.grid.ndim)
    if share >= 1:
        return image
    sizes = [max(min(n, SMALLEST), round(n * share)) for n in image.grid.shape]
    starts = [(n - s) // 2 for n, s in zip(image.grid.shape, sizes, strict=True)]
    box = Box.from_slices([slice(a, a + s) for a, s in zip(starts, sizes, strict=True)])
    inside = (slice(None), *box.slices)
    weight = None if image.weight is None else image.weight[inside]
    return Picture(image.values[inside], weight, image.grid.crop(box))


def _smoother(level: Level, factor: float) -> Level:
    """With `factor` times the sigma."""
    if factor == 1 or level.sigmas is None:
        return level
    pair = zip((level.fixed, level.moving), level.sigmas, strict=True)
    fixed, moving = (smooth(p, _more(s, factor)) for p, s in pair)
    sigmas = tuple(factor * s for s in level.sigmas[0]), tuple(factor * s for s in level.sigmas[1])
    return replace(level, fixed=fixed, moving=moving, sigmas=sigmas)


def _more(sigmas: Sequence[float], factor: float) -> list[float]:
    """What is to come on top of `sigmas` to make them `factor` times as large."""
    return [s * math.sqrt(factor**2 - 1) for s in sigmas]


def white(level: Level, residual: Floats) -> Floats:
    """(B,) the variance before smoothing of noise that has this variance on the level."""
    return residual / math.prod(_correlation(s, 1.0)[0] for s in _sigmas(level))


def _noise(level: Level, residual: Floats, factor: float) -> Floats:
    """(B,) squares of the gradient of the fixed image's noise at `factor` times the sigma.

    Both images are as noisy, but where the moving one is interpolated, between two voxels on average
    2/3 and a third of their correlation is left of its noise.
    """
    now = [_correlation(s, 1.0) for s in _sigmas(level)]
    moving = math.prod(2 / 3 + one / (3 * same) for same, one, _ in now)
    passed = [_correlation(s, factor) for s in _sigmas(level)]
    whole = math.prod(same for same, _, _ in passed)
    # Central differences are of voxels two apart.
    differ = sum((same - two) / (2 * same) for same, _, two in passed)
    return np.asarray(white(level, residual) / (1 + moving) * whole * differ)


def _sigmas(level: Level) -> tuple[float, ...]:
    return (0.0,) * level.fixed.grid.ndim if level.sigmas is None else level.sigmas[0]


def _correlation(sigma: float, factor: float) -> tuple[float, float, float]:
    """Covariances at 0, 1 and 2 voxels of white noise smoothed by sigma, and then up to `factor` times it."""
    taps = gaussian_taps(sigma)
    if factor > 1:
        taps = np.convolve(taps, gaussian_taps(sigma * math.sqrt(factor**2 - 1)))
    whole = np.pad(np.convolve(taps, taps[::-1]), 2)
    middle = len(whole) // 2
    return float(whole[middle]), float(whole[middle + 1]), float(whole[middle + 2])


def _energy(image: Picture) -> Floats:
    """(B,) mean squares of the central differences, on some planes of large images."""
    every = max(1, math.prod(image.grid.shape) // _MANY)
    return slope_squares(image.values, image.weight, every).cpu().numpy()
