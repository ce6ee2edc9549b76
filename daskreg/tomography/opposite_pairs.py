"""The axis from projections half a turn apart: one is the mirror image of the other, about the axis.

For all pairs at once, the correlation over the columns that both show is computed for every whole shift. The best
shift is refined for each pair, and the pairs are combined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from daskreg.stacks.common_line import SMOOTHING, refined_shift
from daskreg.tomography.angles import OppositePairs

Floats = NDArray[np.float64]

MOST_PAIRS = 64
MANY_PAIRS = 16
# The least overlap of a projection with its mirror image, as a share of the columns; few pairs agree by chance sooner.
_OVERLAP_FEW, _OVERLAP_MANY = 1 / 4, 1 / 12
# The least correlation of an axis. Where the axis is outside the detector, a wrong one may have more: 3 of 225 random
# specimens with whole turns had.
LEAST_SCORE = 0.9


@dataclass(frozen=True)
class AxisFit:
    """An axis.

    Args:
        centre: the column.
        score: the median correlation of the pairs; of a sinogram NaN.
        searched: the first and last column that were searched.
        at_end: whether the best column is an end of the search.
    """

    centre: float
    score: float
    searched: tuple[float, float]
    at_end: bool


def fit_pairs(data: Floats, opposite: OppositePairs) -> AxisFit:
    """The axis from (angles, rows, columns) projections, of which `opposite` names the pairs (at least one).

    The mean of all projections of many pairs is a mirror image of itself about the axis. It is subtracted, which takes
    out what stays at its column; not if the specimen is so round that too little is left. Where the rows are too
    noisy to match, their mean, which is a sinogram too, is tried.

    Returns: the first fit whose score is enough, else the one with the highest.
    """
    one, other = (data[opposite.pairs[:, k]] for k in (0, 1))
    means = [(one.mean(axis=0) + other.mean(axis=0)) / 2] if len(opposite) >= MANY_PAIRS else []
    fits = []
    for mean in (*means, np.zeros(())):
        for rows in (False, True) if data.shape[1] > 1 else (False,):
            a, b = (v.mean(axis=1, keepdims=True) if rows else v for v in (one - mean, other - mean))
            fits.append(_fit(a, b, opposite))
            if fits[-1].score >= LEAST_SCORE:
                return fits[-1]
    return max(fits, key=lambda fit: fit.score)


def _fit(one: Floats, other: Floats, opposite: OppositePairs) -> AxisFit:
    columns = one.shape[2]
    middle = (columns - 1) / 2
    overlap = _OVERLAP_MANY if len(opposite) >= MANY_PAIRS else _OVERLAP_FEW
    most = int(columns * (1 - overlap))
    one, mirrored = (gaussian_filter1d(v, SMOOTHING, axis=2) for v in (one, other[:, :, ::-1]))
    scores = np.median(_correlations(mirrored, one, most), axis=0)
    best = int(scores.argmax())
    # The mirrored opposite is the projection shifted by twice the distance of the axis from the middle column.
    fits = [refined_shift(f.T, m.T, float(best - most), overlap / 2) for f, m in zip(mirrored, one, strict=True)]
    shift, variance, score, _ = np.array(fits).T
    valid = np.isfinite(variance)
    centre, found = middle + (best - most) / 2, float(scores[best])
    if valid.any():
        centre = middle + _combined(shift[valid], variance[valid], opposite.excess[valid], opposite.one_sided) / 2
        found = max(found, float(np.median(np.where(valid, score, -1.0))))
    return AxisFit(centre, found, (middle - most / 2, middle + most / 2), best in (0, 1, 2 * most - 1, 2 * most))


def _combined(shift: Floats, variance: Floats, excess: Floats, one_sided: bool) -> float:
    """The median of the shifts; of pairs that all lack some angle, their linear extrapolation to half a turn."""
    if not one_sided or np.ptp(excess) < 1e-9 or len(shift) < 3:
        return float(np.median(shift))
    weight = 1 / np.sqrt(np.maximum(variance, 1e-12))
    basis = np.stack([np.ones_like(excess), excess], axis=1)
    return float(np.linalg.lstsq(basis * weight[:, None], shift * weight, rcond=None)[0][0])


def _correlations(fixed: Floats, moving: Floats, most: int) -> Floats:
    """(K, 2 most + 1) correlations of fixed(x) and moving(x + k) over their overlap, for whole shifts k up to `most`.

    Args:
        fixed, moving: (K, R, n).

    -1 where one of them has no contrast.
    """
    _, rows, n = fixed.shape
    f, m = (v - v.mean(axis=(1, 2), keepdims=True) for v in (fixed, moving))
    size = 2 * n
    product = np.fft.irfft((np.fft.rfft(f, size).conj() * np.fft.rfft(m, size)).sum(axis=1), size)
    k = np.arange(-most, most + 1)
    start, stop = np.maximum(0, -k), n - np.maximum(0, k)
    voxels = (stop - start) * rows
    f1, f2 = (_sums(v, start, stop) for v in (f, f * f))
    m1, m2 = (_sums(v, start + k, stop + k) for v in (m, m * m))
    f_variance, m_variance = f2 - f1 * f1 / voxels, m2 - m1 * m1 / voxels
    least = 1e-9 * np.maximum((f * f).sum(axis=(1, 2)), (m * m).sum(axis=(1, 2)))[:, None]
    contrast = (f_variance > least) & (m_variance > least)
    covariance = product[:, k % size] - f1 * m1 / voxels
    return np.where(contrast, covariance / np.sqrt(np.where(contrast, f_variance * m_variance, 1.0)), -1.0)


def _sums(values: Floats, start: NDArray[np.intp], stop: NDArray[np.intp]) -> Floats:
    """(K, shifts) sums of (K, R, n) values from column `start` to before column `stop`."""
    total = np.pad(np.cumsum(values.sum(axis=1), axis=1), ((0, 0), (1, 0)))
    return np.asarray(total[:, stop] - total[:, start])
