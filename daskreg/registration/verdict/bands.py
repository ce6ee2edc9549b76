"""Two aligned images in bands of frequency: octaves, by differences of Gaussians.

Unrelated images agree by chance in low frequencies, of which there are few samples, and noise hides high ones. So
what is asked of a pose is asked of each band, and each answer is weighted by the band's number of independent samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from daskreg.registration.verdict.aligned import Aligned

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

# Bands go up to a sigma of this share of the shortest side: beyond it there are too few samples.
_LARGEST = 1 / 10
# The largest number of bands.
_MOST = 5
# A band whose variance is below this, relative to that of its image, holds rounding errors only.
_NOTHING = 1e-7
# The part of a Gaussian that must lie inside the overlap: nearer to its edge, a difference of Gaussians is no band.
_INSIDE = 0.9
# Sizes of the padded images: shifts of up to half an axis do not wrap around.
_PADDED = 1.5
# An axis of fewer voxels than this share of the longest does not limit the bands: along it, all is one sample.
_THIN = 0.25


@dataclass(frozen=True)
class Bands:
    """K bands of the fixed image and of the moving image warped onto it.

    fixed, warped: (K, *shape), zero where `weight` is. weight: (K, *shape) of the overlap, 0..1, where the band is
        known.
    slopes: (2, D, K, *shape) the derivatives of both images along each axis, in the same bands.
    spectra: (2, K, *padded) of both images, padded so that shifts of up to half an axis do not wrap
        around. padded: that shape.
    sigmas: (K,) of the wider Gaussian of each band, in voxels.
    ncc: (K,) the correlations. samples: (K,) the numbers of independent samples.
    """

    fixed: Singles
    warped: Singles
    weight: Singles
    slopes: Singles
    spectra: NDArray[np.complex64]
    padded: tuple[int, ...]
    sigmas: Floats
    ncc: Floats
    samples: Floats


def bands_of(pair: Aligned) -> Bands | None:
    """The bands of a pair; None where nothing is left to compare."""
    ndim = pair.weight.ndim
    # The outer voxels of an image weigh half, and of two planes both are outer: the relative weight counts.
    v = pair.weight / max(float(pair.weight.max()), 1e-6)
    # Weighted images and the weight, smoothed one Gaussian after another: normalised convolutions are their ratios.
    values = _with_slopes(pair.images)
    smooth = np.concatenate([values * v, v[None]])
    # Along a thin axis smoothing stops early: a Gaussian that is wider than the images is nowhere inside them.
    widest = _LARGEST * np.array(v.shape)
    parts, weights, sigmas, before = [], [], [], 0.0
    for sigma in _sigmas(v.shape):
        steps = np.sqrt(np.minimum(sigma, widest) ** 2 - np.minimum(before, widest) ** 2)
        smooth = ndimage.gaussian_filter(smooth, (0, *steps), mode="constant", truncate=3.0)
        known = np.where(smooth[-1] >= _INSIDE, v, np.float32(0))
        if known.sum() < math.prod(min(4 * sigma, n) for n in v.shape):
            break
        after = smooth[:-1] / np.maximum(smooth[-1], np.float32(1e-3))
        parts.append(values - after)
        values, before = after, sigma
        weights.append(known)
        sigmas.append(sigma)
    if not sigmas:
        return None
    known = np.stack(weights)
    count = known.sum(axes_of(known), keepdims=True)
    together = np.stack(parts, 1) * known
    both = together[:2]
    both -= both.sum(tuple(range(2, both.ndim)), keepdims=True) / count * known
    axes = tuple(range(2, both.ndim))
    padded = padded_of(known.shape[1:])
    spectra = fft.rfftn(both, s=padded, axes=axes)
    power = (both.astype(np.float64) ** 2).sum(axes)
    holds = np.all(power > _NOTHING * power.sum(1, keepdims=True), axis=0)
    product = np.sqrt(np.where(holds, power[0] * power[1], 1.0))
    ncc = np.where(holds, (both[0] * both[1]).sum(axes_of(known), dtype=np.float64) / product, 0.0)
    share = [_participation(f, w, v, 3 * s) for f, w, v, s in zip(*both, known, sigmas, strict=True)]
    samples = np.where(holds, _stationary_samples(known, spectra, product, padded) * np.array(share), 0.0)
    slopes = together[2:].reshape(2, ndim, *known.shape)
    return Bands(both[0], both[1], known, slopes, spectra, padded, np.array(sigmas), np.clip(ncc, -1, 1), samples)


def images_in_bands(image: Singles, weight: Singles, sigmas: Sequence[float] | Floats) -> tuple[Singles, Singles]:
    """(K, *shape) bands of one image, times the weight, and (K, *shape) weights where they are known.

    Args:
        weight: (*shape) of the image, in 0..1.
        sigmas: (K,) of the wider Gaussian of each band, in voxels.
    """
    values, smooth, before = image, np.stack([image * weight, weight]), 0.0
    widest = _LARGEST * np.array(weight.shape)
    parts, weights = [], []
    for sigma in sigmas:
        steps = np.sqrt(np.minimum(sigma, widest) ** 2 - np.minimum(before, widest) ** 2)
        smooth = ndimage.gaussian_filter(smooth, (0, *steps), mode="constant", truncate=3.0)
        known = np.where(smooth[1] >= _INSIDE, weight, np.float32(0))
        after = smooth[0] / np.maximum(smooth[1], np.float32(1e-3))
        band = (values - after) * known
        parts.append(band - band.sum() / max(float(known.sum()), 1e-6) * known)
        weights.append(known)
        values, before = after, sigma
    return np.stack(parts).astype(np.float32), np.stack(weights)


def padded_of(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of padded images, for fast transforms."""
    return tuple(fft.next_fast_len(math.ceil(_PADDED * n), real=True) for n in shape)


def axes_of(images: NDArray[np.generic]) -> tuple[int, ...]:
    """The axes of the voxels of (K, *shape)."""
    return tuple(range(1, images.ndim))


def _with_slopes(images: Singles) -> Singles:
    """(2 + 2 D, *shape) both images, and then their derivatives along each axis, by differences over five voxels."""
    slopes = []
    for image in images:
        for axis, n in enumerate(image.shape):
            values = np.pad(image, [(2, 2) if k == axis else (0, 0) for k in range(image.ndim)], mode="edge")
            first, before, after, last = (_shifted(values, axis, k, n) for k in (0, 1, 3, 4))
            slopes.append((8 * (after - before) - (last - first)) / 12)
    return np.stack([*images, *slopes])


def _shifted(values: Singles, axis: int, start: int, size: int) -> Singles:
    return values[tuple(slice(start, start + size) if k == axis else slice(None) for k in range(values.ndim))]


def _sigmas(shape: tuple[int, ...]) -> list[float]:
    """1, 2, 4 ... voxels."""
    side = min(n for n in shape if n >= _THIN * max(shape))
    count = max(1, math.floor(math.log2(max(side * _LARGEST, 1))) + 1)
    return [2.0**k for k in range(min(count, _MOST))]


def _stationary_samples(
    weight: Singles, spectra: NDArray[np.complex64], product: Floats, padded: tuple[int, ...]
) -> Floats:
    """(K,) so that 1 / samples is the variance of the correlation of unrelated stationary images like these.

    The variance of the sum of products of independent images is the sum over shifts of the products of their
    autocorrelations (Bartlett 1935).

    Args:
        product: (K,) square roots of the products of the sums of squares of both images.
    """
    power = (np.abs(spectra) ** 2).prod(0)
    power[..., 1 : (padded[-1] + 1) // 2] *= 2  # the half of the spectrum that rfft leaves out
    # Products of both images are weighted by the square; so many voxels of equal weight have as large an error.
    squares = weight.astype(np.float64) ** 2
    count = squares.sum(axes_of(weight)) ** 2 / np.maximum((squares**2).sum(axes_of(weight)), 1e-30)
    shifts = power.sum(axes_of(power), dtype=np.float64) / math.prod(padded)
    return np.asarray(np.minimum(count * product**2 / np.maximum(shifts, 1e-30), count))


def _participation(fixed: Singles, warped: Singles, weight: Singles, side: float) -> float:
    """By how much the contrast of an image that is not stationary reduces the number of samples, at most 1.

    Where contrast is found in the same few places in both images, as edges that were brought to coincide are, these
    places are the samples: the participation ratio <a> <b> / <a b> of the local variances over cells of `side` voxels.
    """
    size = [min(n, max(2, round(side))) for n in weight.shape]
    f, w, v = (cell_sums(x[None], size)[0] for x in (fixed * fixed, warped * warped, weight))
    used = v > 0
    together = float((f[used] * w[used] / v[used]).sum())
    apart = float(f.sum()) * float(w.sum()) / max(float(v.sum()), 1e-30)
    return min(1.0, apart / max(together, 1e-30))


def cell_sums(values: Singles, size: list[int]) -> Floats:
    """Sums of (K, *shape) over cells of `size` voxels, the last ones smaller."""
    sums: NDArray[Any] = values
    for axis, n in enumerate(size, start=1):
        sums = np.add.reduceat(sums, np.arange(0, sums.shape[axis], n), axis=axis, dtype=np.float64)
    return np.asarray(sums)
