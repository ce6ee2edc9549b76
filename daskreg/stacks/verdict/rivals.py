"""Shifts by which aligned slices agree as well as they do unmoved: periodic specimens.

The correlation of aligned neighbours is computed for every shift (by Fourier transforms, with masks, as Padfield 2012
does) and averaged over several pairs. Another peak that is as high as that at no shift is a rival. Noise makes the
heights of peaks differ; how much is seen from their scatter over the pairs.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import scipy.ndimage
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]

# Overlap of a rival at least, relative to that at no shift.
_LEAST_OVERLAP = 0.6
# Variance of what overlaps at least, relative to that at no shift.
_LEAST_VARIANCE = 0.25
# Standard errors by which a rival may be lower, and a fraction for what sampling the peak takes away.
_SIGNIFICANT, _SAMPLED = 3.0, 0.02
# Of the correlation at no shift: how much lower the valley before a rival is than the rival.
_VALLEY = 0.1
# Voxels that a rival is away from no shift, and from higher peaks.
_LEAST_SHIFT, _PEAK = 3.0, 5


def rival_shift(aligned: Pixels) -> Floats | None:
    """The shift in voxels, (D,), at which neighbours among (N, *shape) aligned images agree as well, or None.

    NaN where there is no voxel. Of several rivals, the smallest shift.
    """
    surfaces, share = correlation_surfaces(aligned[:-1], aligned[1:])
    if not len(surfaces):
        return None
    origin = (0,) * share.ndim
    mean = np.where(share >= _LEAST_OVERLAP, surfaces.mean(axis=0), -1.0)
    top = float(mean[origin])
    if top <= 0:
        return None
    peaks = (mean == scipy.ndimage.maximum_filter(mean, _PEAK, mode="wrap")) & (mean > top / 2)
    found: list[Floats] = []
    voxels = np.prod(aligned.shape[1:]) * share
    for at in np.argwhere(peaks):
        shift = np.array([i if i <= n // 2 else i - n for i, n in zip(at, mean.shape, strict=True)], dtype=np.float64)
        if np.linalg.norm(shift) < _LEAST_SHIFT:
            continue
        lower = surfaces.reshape(len(surfaces), -1)[:, [0, int(np.ravel_multi_index(at, mean.shape))]] @ [1.0, -1.0]
        by_pairs = lower.std(ddof=1) / np.sqrt(len(lower)) if len(lower) > 2 else 0.0
        by_noise = np.sqrt(2 / (len(lower) * voxels[tuple(at)])) * (1 - top**2)
        margin = _SIGNIFICANT * max(float(by_pairs), float(by_noise)) + _SAMPLED * top
        # The correlation with itself is symmetric: one side alone is chance.
        opposite = -np.rint(shift).astype(int) % np.asarray(mean.shape)
        height = min(_interpolated(mean, at), _near(mean, opposite))
        if height >= top - margin and _valley(mean, shift) < height - margin - _VALLEY * top:
            found.append(shift)
    return min(found, key=lambda s: float(np.linalg.norm(s))) if found else None


def correlation_surfaces(fixed: Pixels, moving: Pixels) -> tuple[Floats, Floats]:
    """Pearson's correlation of (P, *shape) pairs at every shift s of moving(x + s), up to half an image.

    Returns: (P, *size) correlations, shift 0 first and negative shifts at the end of each axis; (*size) the smallest
        overlap of the pairs, relative to that at shift 0.
    """
    shape = fixed.shape[1:]
    size = [scipy.fft.next_fast_len(n + n // 2, real=True) for n in shape]
    axes = tuple(range(1, 1 + len(shape)))
    weights, values = zip(*(_centred(images) for images in (fixed, moving)), strict=True)

    def spectrum(images: Pixels) -> NDArray[np.complex64]:
        return np.asarray(scipy.fft.rfftn(images, s=size, axes=axes))

    (one, f, ff), (other, w, ww) = (
        [spectrum(v) for v in (weight, value, value * value)] for weight, value in zip(weights, values, strict=True)
    )

    def product(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> Floats:
        return np.asarray(scipy.fft.irfftn(a.conj() * b, s=size, axes=axes), dtype=np.float64)

    count = np.maximum(product(one, other), 1e-3)
    a, b = product(f, other) / count, product(one, w) / count
    va, vb = product(ff, other) / count - a * a, product(one, ww) / count - b * b
    origin = (slice(None),) + (slice(0, 1),) * len(shape)
    known = (va > _LEAST_VARIANCE * va[origin]) & (vb > _LEAST_VARIANCE * vb[origin])
    scale = np.sqrt(np.where(known, np.maximum(va * vb, 1e-300), 1.0))
    surfaces = np.where(known, (product(f, w) / count - a * b) / scale, -1.0)
    reach = [np.minimum(np.arange(n), n - np.arange(n)) <= k // 2 for n, k in zip(size, shape, strict=True)]
    inside = np.ix_(*reach)
    share = np.zeros(size)
    share[inside] = (count / count[origin]).min(axis=0)[inside]
    return surfaces, share


def _centred(images: Pixels) -> tuple[Pixels, Pixels]:
    """Weights, and values less the mean, zero where there is none."""
    known = np.isfinite(images)
    count = np.maximum(known.reshape(len(images), -1).sum(axis=1), 1)
    total = np.where(known, images, 0).reshape(len(images), -1).sum(axis=1, dtype=np.float64)
    mean = (total / count).reshape(-1, *[1] * (images.ndim - 1))
    return known.astype(np.float32), np.where(known, images - mean, 0).astype(np.float32)


def _interpolated(surface: Floats, at: NDArray[np.intp]) -> float:
    """The height of a peak, by a parabola along each axis."""
    height = float(surface[tuple(at)])
    for axis, n in enumerate(surface.shape):
        low, high = at.copy(), at.copy()
        low[axis], high[axis] = (at[axis] - 1) % n, (at[axis] + 1) % n
        a, c = float(surface[tuple(low)]), float(surface[tuple(high)])
        if min(a, c) <= -1:  # the surface ends here, where too little overlaps
            return -1.0
        curvature = a + c - 2 * float(surface[tuple(at)])
        if curvature < 0:
            height -= (c - a) ** 2 / (8 * curvature)
    return min(height, 1.0)


def _near(surface: Floats, at: NDArray[np.intp]) -> float:
    """The height of the surface within a voxel of a place."""
    around = [np.arange(i - 1, i + 2) % n for i, n in zip(at, surface.shape, strict=True)]
    part = surface[np.ix_(*around)]
    top = np.stack([around[k][i] for k, i in enumerate(np.unravel_index(int(part.argmax()), part.shape))])
    return _interpolated(surface, top)


def _valley(surface: Floats, shift: Floats) -> float:
    """The lowest value on the straight line from no shift to a shift."""
    count = int(np.ceil(np.abs(shift).max())) + 1
    points = np.rint(np.linspace(0, 1, count)[:, None] * shift).astype(int) % np.asarray(surface.shape)
    return float(surface[tuple(points.T)].min())
