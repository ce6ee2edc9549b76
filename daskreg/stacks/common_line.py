"""Shifts along one axis, from profiles: the means of images across that axis.

For each position along the tilt axis, the sum of a projection across the axis does not change with the
tilt. All projections share this common line, so shifts along the axis are estimated from it alone, without
the parallax of everything off the axis. (Penczek et al. 1996 use it in the same way.) The search is a
correlation at whole shifts, followed by Gauss-Newton on a cubic interpolation.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from daskreg.geometry import Grid
from daskreg.registration.pose import Pose
from daskreg.stacks.pair_table import PairTable, field_count

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

_LEAST_OVERLAP = 0.5
SMOOTHING = 1.0  # sigma of the Gaussian filter of profiles, voxels
_ITERATIONS = 20
_LARGEST_STEP = 2.0  # voxels
_STEP_TOLERANCE = 1e-4  # voxels


def profiles(images: torch.Tensor, axis: int) -> Floats:
    """(B, n) means of (B, *shape) images across all axes but `axis`; NaN where all voxels are masked."""
    values = images.movedim(1 + axis, 1).flatten(2).double()
    valid = torch.isfinite(values)
    total = torch.where(valid, values, 0).sum(2)
    count = valid.sum(2)
    return np.asarray(torch.where(count > 0, total / count.clamp_min(1), torch.nan).numpy())


def fit_profiles(lines: Floats, edges: Ints, grid: Grid, axis: int, pose: Pose) -> PairTable:
    """Shifts along `axis` between (B, n) profiles, as a table of translations of the images."""
    ndim, fits = grid.ndim, [fit_shift(lines[a], lines[b]) for a, b in edges]
    shift, variance, score, overlap = (np.array([f[k] for f in fits]) for k in range(4))
    matrices = np.tile(np.eye(ndim + 1), (len(edges), 1, 1))
    direction = np.asarray(grid.direction_matrix)[:, axis] * grid.spacing[axis]
    matrices[:, :-1, -1] = shift[:, None] * direction
    covariance = np.zeros((len(edges), len(pose.names), len(pose.names)))
    parameter = pose.names.index("t" + "zyx"[3 - ndim + axis])
    covariance[:, parameter, parameter] = variance * grid.spacing[axis] ** 2
    fields = np.full((len(edges), field_count(ndim) ** ndim), np.nan, np.float32)
    return PairTable(edges, matrices, covariance, score, score.copy(), overlap, fields, np.full(len(edges), np.nan))


def fit_shift(fixed: Floats, moving: Floats, *, least_overlap: float = _LEAST_OVERLAP) -> tuple[float, ...]:
    """The shift s, in voxels along the first axis, for which moving(x + s) matches fixed(x).

    Args:
        fixed, moving: (n,) profiles, or (n, R) for R profiles with a common shift.
        least_overlap: of the search, as a share of n; half of it in the refinement.

    Returns: s, its variance, the correlation, and the overlap; the variance is NaN where there is no contrast or too
        little overlap.
    """
    f, m = (gaussian_filter1d(_filled(v), SMOOTHING, axis=0) for v in (fixed, moving))
    n, most = len(f), int(len(f) * (1 - least_overlap))
    shifts = np.arange(-most, most + 1)
    scores = scores_at(f.reshape(n, -1), m.reshape(n, -1), shifts)
    # Of shifts with almost the same score, the smallest.
    best = np.flatnonzero(scores >= scores.max() - 0.01 * (1 - scores.max()) - 1e-12)
    return refined_shift(f, m, float(shifts[best[int(np.abs(shifts[best]).argmin())]]), least_overlap / 2)


def scores_at(f: Floats, m: Floats, shifts: Ints) -> Floats:
    """Pearson's correlation of what overlaps of (n, R) profiles at each shift, -1 where there is no contrast."""
    f, m = f - f.mean(), m - m.mean()
    n = len(f)
    size = next_fast_len(2 * n, real=True)
    product = irfft((rfft(m, size, axis=0) * rfft(f, size, axis=0).conj()).sum(axis=1), size)[shifts % size]
    count = (n - np.abs(shifts)) * f.shape[1]
    first, stop = np.maximum(0, -shifts), n - np.maximum(0, shifts)

    def moments(v: Floats, first: Ints, stop: Ints) -> tuple[Floats, Floats]:
        """The sum, and the sum of squares less its mean, of the profiles between."""
        up_to = np.concatenate([np.zeros((2, 1)), np.cumsum([v.sum(axis=1), (v * v).sum(axis=1)], axis=1)], axis=1)
        total, squares = up_to[:, stop] - up_to[:, first]
        return total, squares - total**2 / count

    (of_f, f_power), (of_m, m_power) = moments(f, first, stop), moments(m, first + shifts, stop + shifts)
    least = 1e-12 * float(np.sqrt((f * f).sum() * (m * m).sum()))
    norm = np.sqrt(np.maximum(f_power, 0) * np.maximum(m_power, 0))
    found = np.divide(product - of_f * of_m / count, norm, out=np.full(len(shifts), -1.0), where=norm > least)
    return np.asarray(np.clip(found, -1, 1))


def refined_shift(f: Floats, m: Floats, s: float, least_overlap: float) -> tuple[float, ...]:
    """Gauss-Newton from a whole shift; gain and offset are linear, and solved for at every shift."""
    spline, x = CubicSpline(np.arange(len(f)), m, axis=0), np.arange(len(f), dtype=np.float64)
    score, variance, overlap = -1.0, np.nan, 0.0
    for _ in range(_ITERATIONS):
        inside = (x + s >= 0) & (x + s <= len(f) - 1)
        overlap = float(inside.mean())
        if overlap < least_overlap:
            return s, np.nan, np.nan, overlap
        w, derivative, target = (v.ravel() for v in (spline(x[inside] + s), spline(x[inside] + s, 1), f[inside]))
        basis = np.stack([w, np.ones_like(w)], axis=1)
        gain = np.linalg.lstsq(basis, target, rcond=None)[0]
        residual, jacobian = target - basis @ gain, derivative * gain[0]
        jacobian = jacobian - basis @ np.linalg.lstsq(basis, jacobian, rcond=None)[0]
        normal, score = float(jacobian @ jacobian), _pearson(target, w)
        if normal <= 1e-12 * float(target @ target):
            return s, np.nan, score, overlap
        # Smoothing reduced the residual's variance: this factor gives the power of its noise at frequency zero.
        power = 2 * np.sqrt(np.pi) * SMOOTHING
        variance = float(residual @ residual) / max(1, len(residual) - 3) / normal * power
        step = float(np.clip(jacobian @ residual / normal, -_LARGEST_STEP, _LARGEST_STEP))
        s += step
        if abs(step) < _STEP_TOLERANCE:
            break
    return s, variance, score, overlap


def _filled(values: Floats) -> Floats:
    """The values with NaN replaced by the mean of the others."""
    known = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(known), known, np.nanmean(known) if np.isfinite(known).any() else 0.0)


def _pearson(one: Floats, other: Floats) -> float:
    a, b = (v.ravel() - v.mean() for v in (one, other))
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else -1.0
