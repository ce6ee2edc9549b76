"""Interpolation of a row of the fixed image in the moving one, by Lagrange's polynomials, for `score_sums_numba`.

Along each axis six voxels are read, linear along the others; what that adds to linear interpolation is summed over the
axes. Values and slopes are float32.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import fragment
from daskreg.runtime.intrinsics import empty, greatest, least

BEFORE, AFTER = 2, 3
"""Voxels before and after the lower neighbour that the interpolation along an axis reads."""


@fragment(fastmath={"contract"})
def _positions(line: Any, last: Any, width: Any, low: Any, fraction: Any, v: Any) -> None:
    """The lower neighbours and fractions along one axis; multiplies `v` by the weights of the edges."""
    top = np.float64(greatest(last - 1, 0))
    for x in range(len(low)):
        u = line[0] + line[1] * np.float64(x)
        edge = np.float32(least(u, last - u) + 0.5) / width
        v[x] *= least(greatest(edge, np.float32(0)), np.float32(1))
        inner = least(greatest(u, 0.0), np.float64(last))
        floor = least(np.floor(inner), top)
        low[x] = np.int32(floor)
        fraction[x] = np.float32(inner - floor)


@fragment(fastmath={"contract", "reassoc"})
def _taps(fraction: Any, out: Any) -> None:
    """Lagrange's weights of six voxels, less those of linear interpolation."""
    for x in range(len(fraction)):
        t = fraction[x]
        a, b, d, e, f = t + np.float32(2), t + np.float32(1), t - np.float32(1), t - np.float32(2), t - np.float32(3)
        ab, ef, td = a * b, e * f, t * d
        out[0, x] = -b * td * ef * np.float32(1 / 120)
        out[1, x] = a * td * ef * np.float32(1 / 24)
        out[2, x] = d - ab * d * ef * np.float32(1 / 12)
        out[3, x] = ab * t * ef * np.float32(1 / 12) - t
        out[4, x] = -ab * td * f * np.float32(1 / 24)
        out[5, x] = ab * td * e * np.float32(1 / 120)


@fragment(fastmath={"contract", "reassoc"})
def _slope_taps(fraction: Any, out: Any) -> None:
    """The derivatives of Lagrange's weights of four voxels; the outer two of six are zero."""
    for x in range(len(fraction)):
        t = fraction[x]
        tt = np.float32(0.5) * t * t
        out[0, x] = np.float32(0)
        out[1, x] = t - tt - np.float32(1 / 3)
        out[2, x] = np.float32(3) * tt - t - t - np.float32(0.5)
        out[3, x] = t - np.float32(3) * tt + np.float32(1)
        out[4, x] = tt - np.float32(1 / 6)
        out[5, x] = np.float32(0)


@fragment(fastmath={"contract", "reassoc"})
def _along(m: Any, p: Any, step: Any, taps: Any, x: Any) -> Any:
    """The sum of six voxels `step` apart along a line, times their taps."""
    value = taps[0, x] * m[p - 2 * step] + taps[1, x] * m[p - step] + taps[2, x] * m[p]
    return value + taps[3, x] * m[p + step] + taps[4, x] * m[p + 2 * step] + taps[5, x] * m[p + 3 * step]


@fragment(fastmath={"contract", "reassoc"})
def _add_line(m: Any, start: Any, steps: Any, axis: Any, fractions: Any, taps: Any, out: Any) -> None:
    """Add the sums along one axis, interpolated linearly along the others, to a row.

    start: (n,) the lower neighbours in memory. steps: (D,) of memory along each axis.
    """
    one, step = np.float32(1), steps[axis]
    u = steps[1 if axis == 0 else 0]
    t = fractions[1 if axis == 0 else 0]
    if len(steps) == 2:
        for x in range(len(out)):
            p = start[x]
            out[x] += (one - t[x]) * _along(m, p, step, taps, x) + t[x] * _along(m, p + u, step, taps, x)
    else:
        other = 1 if axis == 2 else 2
        v, s = steps[other], fractions[other]
        for x in range(len(out)):
            p, q = start[x], start[x] + u
            low = (one - s[x]) * _along(m, p, step, taps, x) + s[x] * _along(m, p + v, step, taps, x)
            high = (one - s[x]) * _along(m, q, step, taps, x) + s[x] * _along(m, q + v, step, taps, x)
            out[x] += low + t[x] * (high - low)


@fragment(fastmath={"contract", "reassoc"})
def _linear(m: Any, start: Any, steps: Any, fractions: Any, w: Any) -> None:
    """Linear interpolation."""
    ndim, one = len(steps), np.float32(1)
    sy, sx = steps[ndim - 2], steps[ndim - 1]
    ty, tx = fractions[ndim - 2], fractions[ndim - 1]
    for x in range(len(w)):
        p = start[x]
        near = (one - ty[x]) * (m[p] + tx[x] * (m[p + sx] - m[p]))
        w[x] = near + ty[x] * (m[p + sy] + tx[x] * (m[p + sy + sx] - m[p + sy]))
    if ndim == 3:
        for x in range(len(w)):
            p = start[x] + steps[0]
            far = (one - ty[x]) * (m[p] + tx[x] * (m[p + sx] - m[p]))
            far += ty[x] * (m[p + sy] + tx[x] * (m[p + sy + sx] - m[p + sy]))
            w[x] += fractions[0, x] * (far - w[x])


@fragment
def _add_offsets(low: Any, before: Any, step: Any, start: Any) -> None:
    for x in range(len(start)):
        start[x] += (np.int64(low[x]) + before) * step


@fragment
def locate(matrix: Any, index: Any, place: Any, widths: Any, steps: Any, places: Any, v: Any) -> None:
    """Where a row lies in the moving image: lower neighbours and fractions along each axis, and in memory.

    place: the first voxel of the array, without what it is widened by, in the whole image, and the shape of that.
    """
    low, fractions, start = places
    origin, whole = place
    ndim = len(whole)
    line = empty(2, np.float64)
    start[:] = 0
    for k in range(ndim):
        line[0], line[1] = matrix[k, ndim], matrix[k, ndim - 1]
        for axis in range(ndim - 1):
            line[0] += matrix[k, axis] * index[axis]
        _positions(line, whole[k] - 1, widths[k], low[k], fractions[k], v)
        _add_offsets(low[k], BEFORE - origin[k], steps[k], start)


@fragment
def sample(m: Any, near: Any, steps: Any, places: Any, taps: Any, w: Any) -> None:
    """Values of the moving image; linear where a voxel that is read is masked, so that `near` is 0."""
    _, fractions, start = places
    _linear(m, start, steps, fractions, w)
    for k in range(len(steps)):
        _taps(fractions[k], taps)
        _replace(near, start, np.float32(0), taps)
        _add_line(m, start, steps, k, fractions, taps, w)


@fragment
def sample_slopes(m: Any, near: Any, steps: Any, places: Any, taps: Any, slopes: Any) -> None:
    """Slopes of the moving image along each axis; linear where a voxel that is read is masked."""
    _, fractions, start = places
    slopes[:] = np.float32(0)
    for k in range(len(steps)):
        _slope_taps(fractions[k], taps)
        _replace(near, start, np.float32(1), taps)
        _add_line(m, start, steps, k, fractions, taps, slopes[k])


@fragment
def _replace(near: Any, start: Any, slope: Any, taps: Any) -> None:
    """Linear taps where `near` is 0: of a slope (1), or none of what is added to linear interpolation (0)."""
    if len(near) > 0:
        for x in range(len(start)):
            if near[start[x]] == 0:
                taps[:, x] = np.float32(0)
                taps[BEFORE, x] = -slope
                taps[BEFORE + 1, x] = slope


@fragment(fastmath={"contract", "reassoc"})
def multiply_linear(c: Any, shape: Any, origin: Any, low: Any, fractions: Any, v: Any) -> None:
    """Multiply by the weight of the moving image, whose first voxel is `origin`, interpolated linearly."""
    ndim = len(shape)
    for x in range(len(v)):
        total = np.float32(0)
        for corner in range(1 << ndim):
            at, share, stride, bits = 0, np.float32(1), 1, corner
            for k in range(ndim - 1, -1, -1):
                upper = bits & 1
                bits >>= 1
                at += least(low[k, x] - origin[k] + upper, shape[k] - 1) * stride
                stride *= shape[k]
                share *= fractions[k, x] if upper else np.float32(1) - fractions[k, x]
            total += share * c[at]
        v[x] *= total
