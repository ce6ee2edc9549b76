"""Shifts along one axis, from the sums across it.

The sum of a projection across the tilt axis does not change with the tilt: all projections
share this common line, so shifts along the axis are found from it alone, free of the parallax
that moves everything else. (Penczek et al. 1996 use it the same way; the search is a masked
correlation over whole shifts, then Gauss-Newton on a cubic interpolation.)
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from daskreg.geometry import Grid
from daskreg.kernels.pairtable import PairTable, field_count
from daskreg.kernels.pose import Pose

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

_LEAST_OVERLAP = 0.5
_SMOOTH = 1.0
_TRIES = 20


def profiles(images: torch.Tensor, axis: int) -> Floats:
    """(B, n) means of (B, *shape) images across all axes but `axis`; NaN where nothing counts."""
    values = images.movedim(1 + axis, 1).flatten(2).double()
    seen = torch.isfinite(values)
    total = torch.where(seen, values, 0).sum(2)
    count = seen.sum(2)
    return np.asarray(torch.where(count > 0, total / count.clamp_min(1), torch.nan).numpy())


def fit_profiles(lines: Floats, edges: Ints, grid: Grid, axis: int, pose: Pose) -> PairTable:
    """Shifts along `axis` between (B, n) profiles, as a table of translations of the images."""
    ndim, found = grid.ndim, [_shift(lines[a], lines[b]) for a, b in edges]
    shift, variance, score, overlap = (np.array([f[k] for f in found]) for k in range(4))
    matrices = np.tile(np.eye(ndim + 1), (len(edges), 1, 1))
    direction = np.asarray(grid.direction_matrix)[:, axis] * grid.spacing[axis]
    matrices[:, :-1, -1] = shift[:, None] * direction
    covariance = np.zeros((len(edges), len(pose.names), len(pose.names)))
    at = pose.names.index("t" + "zyx"[3 - ndim + axis])
    covariance[:, at, at] = variance * grid.spacing[axis] ** 2
    none = np.full((len(edges), field_count(ndim) ** ndim), np.nan, np.float32)
    return PairTable(edges, matrices, covariance, score, score.copy(), overlap, none)


def _shift(fixed: Floats, moving: Floats) -> tuple[float, float, float, float]:
    """Voxels s with moving(x + s) like fixed(x), their variance, the correlation and the overlap."""
    f, m = (gaussian_filter1d(np.where(np.isfinite(v), v, np.nanmean(v)), _SMOOTH) for v in (fixed, moving))
    n = len(f)
    most = int(n * (1 - _LEAST_OVERLAP))
    shifts = np.arange(-most, most + 1)
    scores = np.array(
        [_pearson(f[max(0, -k) : n - max(0, k)], m[max(0, k) : n + min(0, k)]) for k in range(-most, most + 1)]
    )
    # Of shifts that fit about as well, the smallest.
    best = np.flatnonzero(scores >= scores.max() - 0.01 * (1 - scores.max()) - 1e-12)
    s = float(shifts[best[int(np.abs(shifts[best]).argmin())]])
    spline = CubicSpline(np.arange(n), m)
    x = np.arange(n, dtype=np.float64)
    score, variance, share = -1.0, np.inf, 0.0
    for _ in range(_TRIES):
        inside = (x + s >= 0) & (x + s <= n - 1)
        share = float(inside.mean())
        if share < _LEAST_OVERLAP / 2:
            return 0.0, np.nan, np.nan, share
        w, slope, target = spline(x[inside] + s), spline(x[inside] + s, 1), f[inside]
        basis = np.stack([w, np.ones_like(w)], axis=1)
        gain = np.linalg.lstsq(basis, target, rcond=None)[0]
        rest = target - basis @ gain
        free = slope * gain[0]
        free = free - basis @ np.linalg.lstsq(basis, free, rcond=None)[0]
        power = float(free @ free)
        score = _pearson(target, w)
        if power <= 1e-12 * float(target @ target):
            return s, np.nan, score, share
        variance = float(rest @ rest) / max(1, len(rest) - 3) / power * 2 * np.sqrt(np.pi) * _SMOOTH
        step = float(np.clip(free @ rest / power, -2, 2))
        s += step
        if abs(step) < 1e-4:
            break
    return s, variance, score, share


def _pearson(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else -1.0
