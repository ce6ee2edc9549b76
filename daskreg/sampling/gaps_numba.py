"""Coefficients of cubic B-splines along lines with gaps: voxels that are not finite.

A recursive filter carries one NaN to both ends of its line. Here each run of finite voxels between gaps is filtered on
its own, with mirror boundaries, as `scipy.ndimage.spline_filter1d(mode="mirror")` filters a whole line. So the effect
of a gap on what is beside it decays by a factor of 0.268 for each voxel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import inner, jit

_POLE = np.sqrt(3.0) - 2.0
_GAIN = 6.0
_HORIZON = 64  # the pole's power that no float64 notices


@jit
def filter_runs(voxels: Any, first: int, stop: int) -> None:
    """Replace voxels (outer, n, inner) by coefficients along n, in place; gaps by NaN.

    Args:
        first, stop: which of the outer * inner lines.
    """
    n, inner = voxels.shape[1], voxels.shape[2]
    line = np.empty(n)
    for number in range(first, stop):
        o, i = number // inner, number % inner
        start = 0
        while start < n:
            end = start
            while end < n and np.isfinite(voxels[o, end, i]):
                line[end] = voxels[o, end, i]
                end += 1
            _filter_run(line, start, end)
            for k in range(start, end):
                voxels[o, k, i] = line[k]
            if end < n:
                voxels[o, end, i] = np.nan
            start = end + 1


@inner
def _filter_run(line: Any, start: int, end: int) -> None:
    """Unser, Splines: a perfect fit (1999), box 2; a run of one voxel is its own coefficient."""
    count = end - start
    if count < 2:
        return
    most = min(count - 2, _HORIZON)
    total, power = line[start], _POLE
    for k in range(1, most + 1):
        mirrored = 2 * count - 2 - k
        total += line[start + k] * (power + (_POLE**mirrored if mirrored <= _HORIZON else 0.0))
        power *= _POLE
    round_trip = 2 * count - 2
    if count - 1 <= _HORIZON:
        total += line[end - 1] * _POLE ** (count - 1)
    line[start] = total / (1.0 - _POLE**round_trip if round_trip <= _HORIZON else 1.0)
    for k in range(start + 1, end):
        line[k] += _POLE * line[k - 1]
    line[end - 1] = _POLE / (_POLE * _POLE - 1.0) * (line[end - 1] + _POLE * line[end - 2])
    for k in range(end - 2, start - 1, -1):
        line[k] = _POLE * (line[k + 1] - line[k])
    for k in range(start, end):
        line[k] *= _GAIN
