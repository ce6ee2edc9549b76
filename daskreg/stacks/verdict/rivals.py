"""Shifts by which aligned slices agree as well as they do unmoved: periodic specimens.

The correlation of aligned neighbours is computed for every shift (by Fourier transforms, with masks, as Padfield 2012
does) and averaged over several pairs. Another peak that is as high as that at no shift is a rival. Noise makes the
heights of peaks differ; how much is seen from their scatter over the pairs. The correlation of all pairs together takes
a fraction of the time, and shows before whether there may be a rival at all.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import scipy.ndimage
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]
Spectra = NDArray[np.complex64]

# Overlap of a rival at least, relative to that at no shift.
_LEAST_OVERLAP = 0.6
# Variance of what overlaps at least, relative to that at no shift.
_LEAST_VARIANCE = 0.25
# Standard errors by which a rival may be lower, and a fraction for what sampling the peak takes away.
_SIGNIFICANT, _SAMPLED = 3.0, 0.02
# Of the correlation at no shift: how much lower the valley before a rival is than the rival.
_VALLEY = 0.1
# Of the heights of rivals and valleys: how much the correlation of all pairs together must show.
_ALIKE = 0.8
# Voxels that a rival is away from no shift, and from higher peaks.
_LEAST_SHIFT, _PEAK = 3.0, 5


def rival_shift(aligned: Pixels) -> Floats | None:
    """The shift in voxels, (D,), at which neighbours among (N, *shape) aligned images agree as well, or None.

    NaN where there is no voxel. Of several rivals, the smallest shift.
    """
    if len(aligned) < 2:
        return None
    spectra, shape = _spectra(aligned), aligned.shape[1:]
    (whole,), share = _correlations(spectra, shape, together=True)
    if not _may_repeat(whole, share):
        return None
    surfaces, share = _correlations(spectra, shape, together=False)
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


def _may_repeat(surface: Floats, share: Floats) -> bool:
    """Whether the correlation of all pairs together has a peak beside that at no shift, behind a valley.

    It differs from the mean of the correlations of pairs where their contrasts or overlaps do, so somewhat less is
    asked of it than of a rival.
    """
    mean = np.where(share > 0, surface, -1.0)
    top = float(mean[(0,) * mean.ndim])
    peaks = (mean == scipy.ndimage.maximum_filter(mean, _PEAK, mode="wrap")) & (mean > _ALIKE * top / 2)
    for at in np.argwhere(peaks):
        shift = np.array([i if i <= n // 2 else i - n for i, n in zip(at, mean.shape, strict=True)], dtype=np.float64)
        valley = mean[tuple(at)] - _ALIKE * _VALLEY * top
        if np.linalg.norm(shift) >= _LEAST_SHIFT and _valley(mean, shift) < valley:
            return True
    return False


def _spectra(images: Pixels) -> tuple[Spectra, Spectra, Spectra]:
    """(N, *size) spectra of the weights, of the values (mean 0, variance 1) and of their squares, padded with zeros."""
    shape = images.shape[1:]
    size = [scipy.fft.next_fast_len(n + n // 2, real=True) for n in shape]
    axes = tuple(range(1, images.ndim))
    known = np.isfinite(images)
    count = np.maximum(known.sum(axis=axes, keepdims=True), 1)
    mean = np.where(known, images, 0).sum(axis=axes, keepdims=True, dtype=np.float64) / count
    values = np.where(known, images - mean, 0).astype(np.float32)
    squares = values * values
    power = squares.sum(axis=axes, keepdims=True, dtype=np.float64) / count
    power = np.where(power > 0, power, 1).astype(np.float32)
    values, squares = values / np.sqrt(power), squares / power
    one, f, ff = (scipy.fft.rfftn(x, s=size, axes=axes) for x in (known.astype(np.float32), values, squares))
    return one, f, ff


def _correlations(
    spectra: tuple[Spectra, Spectra, Spectra], shape: tuple[int, ...], *, together: bool
) -> tuple[Floats, Floats]:
    """Pearson's correlation of neighbours at every shift s of moving(x + s), up to half an image.

    Args:
        spectra: of (N, *shape) images.
        together: one correlation of the voxels of all pairs.

    Returns: (P, *size) correlations, shift 0 first and negative shifts at the end of each axis; (*size) the smallest
        overlap of the pairs, relative to that at shift 0.
    """
    one, f, ff = spectra
    size = [scipy.fft.next_fast_len(n + n // 2, real=True) for n in shape]
    axes = tuple(range(1, 1 + len(shape)))

    def product(fixed: Spectra, moving: Spectra) -> Floats:
        pairs = fixed[:-1].conj() * moving[1:]
        pairs = pairs.sum(axis=0, keepdims=True) if together else pairs
        return np.asarray(scipy.fft.irfftn(pairs, s=size, axes=axes), dtype=np.float64)

    count = np.maximum(product(one, one), 1e-3)
    a, b = product(f, one) / count, product(one, f) / count
    va, vb = product(ff, one) / count - a * a, product(one, ff) / count - b * b
    origin = (slice(None),) + (slice(0, 1),) * len(shape)
    known = (va > _LEAST_VARIANCE * va[origin]) & (vb > _LEAST_VARIANCE * vb[origin])
    scale = np.sqrt(np.where(known, np.maximum(va * vb, 1e-300), 1.0))
    surfaces = np.where(known, (product(f, f) / count - a * b) / scale, -1.0)
    reach = [np.minimum(np.arange(n), n - np.arange(n)) <= k // 2 for n, k in zip(size, shape, strict=True)]
    inside = np.ix_(*reach)
    share = np.zeros(size)
    share[inside] = (count / count[origin]).min(axis=0)[inside]
    return surfaces, share


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
