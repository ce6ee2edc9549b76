"""Images with the same brightness and contrast everywhere.

Both images are normalised by the mean and the standard deviation around each voxel before they are compared (local
normalised correlation, as in Cachier & Pennec 2000, with the windows of each image its own). Where the contrast is no
more than that of the noise, it is suppressed as by Wiener's filter instead of being amplified.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Singles = NDArray[np.float32]

_SIGMA = 4.0
"""Voxels of the level: of the Gaussian window."""
_WIDE = 6.0
"""Voxels of sigma, above which a window is a box."""
_LEAST = 1e-3
"""Of the variance of the image: the least local variance."""


def normalised(image: Singles, mask: Singles | None, sigma: float = _SIGMA) -> Singles:
    """(*shape) the image less its local mean, divided by its local standard deviation; zero where masked.

    Args:
        sigma: of the window, voxels.
    """
    known = np.ones_like(image) if mask is None else (mask > 0.5).astype(np.float32)
    total = np.maximum(_window(known, sigma), np.float32(1e-3))
    mean = _window(image * known, sigma) / total
    away = (image - mean) * known
    variance = _window(away * away, sigma) / total
    overall = float((away * away).sum(dtype=np.float64)) / max(float(known.sum(dtype=np.float64)), 1e-9)
    noise = noise_variance(image, known)
    signal = np.maximum(variance - np.float32(2 * noise), 0)
    floor = np.float32(_LEAST * overall + 1e-12)
    return np.asarray(away * np.sqrt(signal / (variance + floor)) / np.sqrt(variance + floor))


def noise_variance(image: Singles, known: Singles) -> float:
    """Of white noise, from the median size of differences of second order along the last axis.

    What is flat or changes linearly cancels; the median leaves out edges (Immerkaer 1996, with a median).
    """
    if image.shape[-1] < 3:
        return 0.0
    bent = image[..., 2:] - 2 * image[..., 1:-1] + image[..., :-2]
    some = known[..., 1:-1] > 0
    if not some.any():
        return 0.0
    return float((1.4826 * np.median(np.abs(bent[some]))) ** 2 / 6)


def _window(values: NDArray[Any], sigma: float) -> Singles:
    """Means over a Gaussian window, zero outside; over a box of the same variance where the window is wide."""
    if sigma > _WIDE:
        return np.asarray(ndimage.uniform_filter(values, round(12**0.5 * sigma), mode="constant"))
    return np.asarray(ndimage.gaussian_filter(values, sigma, mode="constant", truncate=3.0))
