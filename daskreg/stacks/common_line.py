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
from daskreg.registration.pose import Pose
from daskreg.stacks.pair_table import PairTable, field_count

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
    ndim, found = grid.ndim, [fit_shift(lines[a], lines[b]) for a, b in edges]
    shift, variance, score, overlap = (np.array([f[k] for f in found]) for k in range(4))
    matrices = np.tile(np.eye(ndim + 1), (len(edges), 1, 1))
    direction = np.asarray(grid.direction_matrix)[:, axis] * grid.spacing[axis]
    matrices[:, :-1, -1] = shift[:, None] * direction
    covariance = np.zeros((len(edges), len(pose.names), len(pose.names)))
    at = pose.names.index("t" + "zyx"[3 - ndim + axis])
    covariance[:, at, at] = variance * grid.spacing[axis] ** 2
    none = np.full((len(edges), field_count(ndim) ** ndim), np.nan, np.float32)
    return PairTable(edges, matrices, covariance, score, score.copy(), overlap, none)


def fit_shift(fixed: Floats, moving: Floats, *, least_overlap: float = _LEAST_OVERLAP) -> tuple[float, ...]:
    """The shift s, voxels along the first axis, with moving(x + s) like fixed(x).

    Args:
        fixed, moving: (n,) profiles, or (n, R) with R that shift together.

    Returns: s, its variance, the correlation, and the overlap; NaN where nothing is to be seen.
    """
    f, m = (gaussian_filter1d(_filled(v), _SMOOTH, axis=0) for v in (fixed, moving))
    n, most = len(f), int(len(f) * (1 - least_overlap))
    shifts = np.arange(-most, most + 1)
    scores = np.array(
        [_pearson(f[max(0, -k) : n - max(0, k)], m[max(0, k) : n + min(0, k)]) for k in range(-most, most + 1)]
    )
    # Of shifts that fit about as well, the smallest.
    best = np.flatnonzero(scores >= scores.max() - 0.01 * (1 - scores.max()) - 1e-12)
    return _refined(f, m, float(shifts[best[int(np.abs(shifts[best]).argmin())]]), least_overlap / 2)


def _refined(f: Floats, m: Floats, s: float, least: float) -> tuple[float, ...]:
    """Gauss-Newton from whole voxels; gain and offset are solved for at every shift."""
    spline, x = CubicSpline(np.arange(len(f)), m, axis=0), np.arange(len(f), dtype=np.float64)
    score, variance, share = -1.0, np.nan, 0.0
    for _ in range(_TRIES):
        inside = (x + s >= 0) & (x + s <= len(f) - 1)
        share = float(inside.mean())
        if share < least:
            return s, np.nan, np.nan, share
        w, slope, target = (v.ravel() for v in (spline(x[inside] + s), spline(x[inside] + s, 1), f[inside]))
        basis = np.stack([w, np.ones_like(w)], axis=1)
        gain = np.linalg.lstsq(basis, target, rcond=None)[0]
        rest, free = target - basis @ gain, slope * gain[0]
        free = free - basis @ np.linalg.lstsq(basis, free, rcond=None)[0]
        power, score = float(free @ free), _pearson(target, w)
        if power <= 1e-12 * float(target @ target):
            return s, np.nan, score, share
        # The residual's noise is smoothed, so it counts with its power at rest.
        variance = float(rest @ rest) / max(1, len(rest) - 3) / power * 2 * np.sqrt(np.pi) * _SMOOTH
        step = float(np.clip(free @ rest / power, -2, 2))
        s += step
        if abs(step) < 1e-4:
            break
    return s, variance, score, share


def _filled(values: Floats) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(found), found, np.nanmean(found) if np.isfinite(found).any() else 0.0)


def _pearson(one: Floats, other: Floats) -> float:
    a, b = (v.ravel() - v.mean() for v in (one, other))
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else -1.0
