"""The loops of the parallel-beam projector (Joseph 1982, doi:10.1109/TMI.1982.4307572): sums along rays, step by step
along the axis of the volume that a ray follows most, with linear interpolation across it.

Two families. `*_slices`: where every ray stays in one slice, and all slices have the same rays; the slices are the last
axis of the arrays, so that one weight serves a whole row of them; `*_slice`: of one slice. `*_rays`: any affine
parallel projection. In both, the adjoint has the weights of the projector, computed in the same way.

Beside them, `pull_cubic` brings projections into the aligned frame.

Weights are computed in float64 and applied in the type of the volume. Nothing is multiplied by the length of a step;
callers do that. Work is divided by the caller, along axes that are written by one thread only.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import inner, jit
from daskreg.runtime.intrinsics import greatest, least

_SUMS = {"contract", "reassoc", "nsz"}


@inner
def _split(place: Any, count: Any) -> Any:
    """(i, far) of a place between i and i + 1, as far as one of 0..count-1 is near it; i is -2 where none is."""
    if place >= 0 and place < count - 1:
        i = int(place)
        return i, place - i
    low = np.floor(place)
    return (-2, 0.0) if low < -1 or low >= count else (int(low), place - low)


@inner
def _between(at: Any, width: Any, one: Any) -> Any:
    """The two of `width` elements around a position, and their weights in the type of `one`, which are 0 outside.

    The first is -1 where the position is outside.
    """
    i, rest = _split(at, width)
    far = one * rest
    near = one - far
    low, high = max(i, 0), min(i + 1, width - 1)
    return (low if i != -2 else -1), high, (near if i >= 0 else one * 0), (far if i + 1 < width else one * 0)


@jit(fastmath=_SUMS)
def project_slice(planes: Any, lines: Any, within: Any, sums: Any, first: Any, stop: Any) -> None:
    """`project_slices` of one slice, in vectors along each ray.

    Args:
        planes: (K, 1 + Q + 2) with zeros about the slice, which are what a ray beside it meets.
        within: (A, U, 2) the first step of each ray that counts, and the one after the last.
        sums: (A, U).
    """
    real, width = planes.dtype.type, planes.shape[1] - 3.0
    for a in range(first, stop):
        slope, along, start = lines[a]
        for u in range(sums.shape[1]):
            total, begin = real(0), slope * u + start
            for k in range(within[a, u, 0], within[a, u, 1]):
                place = least(greatest(-1.0, begin + along * k), width) + 1.0  # -1 for NaN
                at = np.int64(np.int32(place))
                far = real(place - at)
                total += planes[k, at] + far * (planes[k, at + 1] - planes[k, at])
            sums[a, u] += total


@jit(fastmath=_SUMS)
def smear_slice(sums: Any, lines: Any, inside: Any, volume: Any, first: Any, stop: Any) -> None:
    """`smear_slices` of one slice, in vectors along the projections.

    Args:
        sums: (A, 1 + U + 2) with zeros about the projections.
        lines: (3, A).
        volume: (Y, X).
    """
    real, width = sums.dtype.type, sums.shape[1] - 3.0
    by_y, by_x, start = lines[0], lines[1], lines[2]
    for y in range(first, stop):
        for x in range(inside[y, 0], inside[y, 1]):
            total = real(0)
            for a in range(len(sums)):
                place = least(greatest(-1.0, by_y[a] * y + start[a] + by_x[a] * x), width) + 1.0
                at = np.int64(np.int32(place))
                far = real(place - at)
                total += sums[a, at] + far * (sums[a, at + 1] - sums[a, at])
            volume[y, x] += total


@jit
def project_slices(planes: Any, lines: Any, sums: Any, first: Any, stop: Any) -> None:
    """Add the sums along rays to projections first..stop-1.

    Args:
        planes: (K, Q, Z) volume; rays step along the first axis.
        lines: (A, 3): the place along the second axis is lines @ (column, step, 1).
        sums: (A, U, Z).

    Step by step, all rays: what is read and written then stays in the cache.
    """
    steps, width, slices = planes.shape
    one = planes.dtype.type(1)
    for a in range(first, stop):
        slope, along, start = lines[a]
        for k in range(steps):
            for u in range(sums.shape[1]):
                low, high, near, far = _between(slope * u + (along * k + start), width, one)
                if low < 0:
                    continue
                for z in range(slices):
                    sums[a, u, z] += near * planes[k, low, z] + far * planes[k, high, z]


@jit
def backproject_slices(sums: Any, lines: Any, planes: Any, first: Any, stop: Any) -> None:
    """Add projections to planes first..stop-1: the adjoint of `project_slices`, with its arguments."""
    width, slices = planes.shape[1:]
    one = planes.dtype.type(1)
    for k in range(first, stop):
        for a in range(len(lines)):
            slope, along, start = lines[a]
            for u in range(sums.shape[1]):
                low, high, near, far = _between(slope * u + (along * k + start), width, one)
                if low < 0:
                    continue
                for z in range(slices):
                    planes[k, low, z] += near * sums[a, u, z]
                    planes[k, high, z] += far * sums[a, u, z]


@jit
def smear_slices(sums: Any, lines: Any, inside: Any, volume: Any, first: Any, stop: Any) -> None:
    """Add to each voxel of the rows first..stop-1 the projections where it is seen, linearly interpolated.

    Args:
        sums: (A, U, Z).
        lines: (A, 3): the column that sees a voxel is lines @ (y, x, 1).
        inside: (Y, 2) the first voxel of each row that counts, and the one after the last.
        volume: (Y, X, Z).
    """
    columns, slices = sums.shape[1:]
    one = volume.dtype.type(1)
    for y in range(first, stop):
        for a in range(len(lines)):
            start = lines[a, 0] * y + lines[a, 2]
            for x in range(inside[y, 0], inside[y, 1]):
                low, high, near, far = _between(start + lines[a, 1] * x, columns, one)
                if low < 0:
                    continue
                for z in range(slices):
                    volume[y, x, z] += near * sums[a, low, z] + far * sums[a, high, z]


@jit(fastmath=_SUMS)
def couple_slice(running: Any, tests: Any, turns: Any, chords: Any, found: Any, first: Any, stop: Any) -> None:
    """`couple_slices` of one slice and one image of each projection, in vectors along the columns.

    Args:
        running: (A, M + 1).
        tests: (A, U).
        turns, chords: in the same type.
        found: (A, A).
    """
    none, last = running.dtype.type(0), running.dtype.type(running.shape[1] - 2)
    for b in range(first, stop):
        for a in range(len(running)):
            cosine, sine, inverse = turns[a, b]
            line, total = running[a], none
            for u in range(tests.shape[1]):
                middle, half = cosine * chords[0, u] + chords[2, u], sine * chords[1, u]
                high = least(greatest(none, middle + half), last)
                low = least(greatest(none, middle - half), last)
                i, j = np.int64(np.int32(high)), np.int64(np.int32(low))
                upper = line[i] + (high - i) * (line[i + 1] - line[i])
                lower = line[j] + (low - j) * (line[j + 1] - line[j])
                total += tests[b, u] * (upper - lower)
            found[b, a] += inverse * total


@jit(fastmath=_SUMS)
def couple_slices(running: Any, tests: Any, turns: Any, chords: Any, found: Any, first: Any, stop: Any) -> None:
    """Sums of images of the projections first..stop-1 times what each of the others, smeared, shows there.

    A ray of one projection sees a chord of the disk, and there a piece of each other projection, whose sum is the
    difference of two running sums (no slice is made).

    Args:
        running: (A, M + 1, P * Z) running sums along the columns of filtered images, the last of them twice.
        tests: (A, U, P * Z) images.
        turns: (A, A, 3) the cosine and the positive sine of the turn between two projections, and its inverse.
        chords: (3, U) of each ray the place from the axis, half of the length of its chord, both in samples of the
            running sums, and the sample at the axis.
        found: (A, P, A, P).
    """
    count, samples = found.shape[1], running.shape[1]
    slices = running.shape[2] // count
    part = np.empty(running.shape[2], running.dtype)
    for b in range(first, stop):
        for a in range(len(running)):
            cosine, sine, inverse = turns[a, b]
            total = np.zeros((count, count))
            for u in range(chords.shape[1]):
                middle, half = cosine * chords[0, u] + chords[2, u], sine * chords[1, u]
                high = least(greatest(0.0, middle + half), samples - 2.0)
                low = least(greatest(0.0, middle - half), samples - 2.0)
                i, j = np.int64(np.int32(high)), np.int64(np.int32(low))
                f, g = running.dtype.type(high - i), running.dtype.type(low - j)
                for z in range(len(part)):
                    upper = running[a, i, z] + f * (running[a, i + 1, z] - running[a, i, z])
                    lower = running[a, j, z] + g * (running[a, j + 1, z] - running[a, j, z])
                    part[z] = upper - lower
                for q in range(count):
                    for p in range(count):
                        product = running.dtype.type(0)
                        for z in range(slices):
                            product += tests[b, u, q * slices + z] * part[p * slices + z]
                        total[q, p] += product
            for q in range(count):
                for p in range(count):
                    found[b, q, a, p] += inverse * total[q, p]


@inner
def _at(plane: Any, i: Any, j: Any) -> Any:
    """A voxel, or 0 outside."""
    if i < 0 or j < 0 or i >= plane.shape[0] or j >= plane.shape[1]:
        return plane.dtype.type(0)
    return plane[i, j]


@inner
def _add_at(plane: Any, i: Any, j: Any, value: Any) -> None:
    if i >= 0 and j >= 0 and i < plane.shape[0] and j < plane.shape[1]:
        plane[i, j] += value


@jit
def project_rays(planes: Any, lines: Any, sums: Any, first: Any, stop: Any) -> None:
    """Add the sums along rays to projections first..stop-1.

    Args:
        planes: (K, P, Q) volume; rays step along the first axis.
        lines: (A, 2, 4): the place along the other two axes is lines @ (row, column, step, 1).
        sums: (A, V, U).
    """
    steps, height, width = planes.shape
    one = planes.dtype.type(1)
    for a in range(first, stop):
        m = lines[a]
        for v in range(sums.shape[1]):
            for u in range(sums.shape[2]):
                total = planes.dtype.type(0)
                for k in range(steps):
                    p = m[0, 0] * v + m[0, 1] * u + m[0, 2] * k + m[0, 3]
                    q = m[1, 0] * v + m[1, 1] * u + m[1, 2] * k + m[1, 3]
                    low, left = np.floor(p), np.floor(q)
                    if low < -1 or left < -1 or low >= height or left >= width:
                        continue
                    i, j, f, g = int(low), int(left), one * (p - low), one * (q - left)
                    plane = planes[k]
                    near = (one - g) * _at(plane, i, j) + g * _at(plane, i, j + 1)
                    far = (one - g) * _at(plane, i + 1, j) + g * _at(plane, i + 1, j + 1)
                    total += (one - f) * near + f * far
                sums[a, v, u] += total


@jit
def backproject_rays(sums: Any, lines: Any, planes: Any, first: Any, stop: Any) -> None:
    """Add projections to planes first..stop-1: the adjoint of `project_rays`, with its arguments."""
    height, width = planes.shape[1:]
    one = planes.dtype.type(1)
    for k in range(first, stop):
        plane = planes[k]
        for a in range(len(lines)):
            m = lines[a]
            for v in range(sums.shape[1]):
                for u in range(sums.shape[2]):
                    p = m[0, 0] * v + m[0, 1] * u + m[0, 2] * k + m[0, 3]
                    q = m[1, 0] * v + m[1, 1] * u + m[1, 2] * k + m[1, 3]
                    low, left = np.floor(p), np.floor(q)
                    if low < -1 or left < -1 or low >= height or left >= width:
                        continue
                    i, j, f, g = int(low), int(left), one * (p - low), one * (q - left)
                    value = sums[a, v, u]
                    _add_at(plane, i, j, (one - f) * (one - g) * value)
                    _add_at(plane, i, j + 1, (one - f) * g * value)
                    _add_at(plane, i + 1, j, f * (one - g) * value)
                    _add_at(plane, i + 1, j + 1, f * g * value)


@jit
def lines_gradient(planes: Any, lines: Any, sums: Any, gradient: Any, first: Any, stop: Any) -> None:
    """Add to gradient (A, 2, 4) the derivative of (sums * projections).sum() by `lines`, of projections
    first..stop-1."""
    steps, height, width = planes.shape
    for a in range(first, stop):
        m = lines[a]
        for v in range(sums.shape[1]):
            for u in range(sums.shape[2]):
                value = float(sums[a, v, u])
                for k in range(steps):
                    p = m[0, 0] * v + m[0, 1] * u + m[0, 2] * k + m[0, 3]
                    q = m[1, 0] * v + m[1, 1] * u + m[1, 2] * k + m[1, 3]
                    low, left = np.floor(p), np.floor(q)
                    if low < -1 or left < -1 or low >= height or left >= width:
                        continue
                    i, j, f, g = int(low), int(left), p - low, q - left
                    plane = planes[k]
                    a00, a01 = float(_at(plane, i, j)), float(_at(plane, i, j + 1))
                    a10, a11 = float(_at(plane, i + 1, j)), float(_at(plane, i + 1, j + 1))
                    by_p = value * ((1 - g) * (a10 - a00) + g * (a11 - a01))
                    by_q = value * ((1 - f) * (a01 - a00) + f * (a11 - a10))
                    gradient[a, 0, 0] += by_p * v
                    gradient[a, 0, 1] += by_p * u
                    gradient[a, 0, 2] += by_p * k
                    gradient[a, 0, 3] += by_p
                    gradient[a, 1, 0] += by_q * v
                    gradient[a, 1, 1] += by_q * u
                    gradient[a, 1, 2] += by_q * k
                    gradient[a, 1, 3] += by_q


@inner
def _weights(far: Any, one: Any) -> Any:
    """Of four neighbouring coefficients, `far` of the way from the second to the third."""
    near = one - far
    sixth = one / (one * 6)
    w0, w3 = sixth * near * near * near, sixth * far * far * far
    w1 = one * 2 / (one * 3) - far * far * (one - far / (one * 2))
    return w0, w1, one - w0 - w1 - w3, w3


@inner
def _reflected(i: Any, count: Any) -> Any:
    if i < 0:
        i = -1 - i
    if i >= count:
        i = 2 * count - 1 - i
    return min(max(i, 0), count - 1)


@jit
def pull_cubic(coefficients: Any, matrices: Any, images: Any, weight: Any, first: Any, stop: Any) -> None:
    """Fill images first..stop-1, and the weights: one inside of the detector, zero outside.

    Args:
        coefficients: (A, V, U) of cubic splines that are reflected about the faces of the detector; where there is one
            row, along the columns only.
        matrices: (A, 2, 3) from (row, column, 1) of the aligned frame to the detector's.
        images, weight: (A, U, W): the aligned frame may have more rows than one, or fewer than the detector.
    """
    rows, columns = coefficients.shape[1:]
    one = coefficients.dtype.type(1)
    for a in range(first, stop):
        m = matrices[a]
        for u in range(images.shape[1]):
            for v in range(images.shape[2]):
                p = m[0, 0] * v + m[0, 1] * u + m[0, 2]
                q = m[1, 0] * v + m[1, 1] * u + m[1, 2]
                if p < -0.5 or q < -0.5 or p > rows - 0.5 or q > columns - 0.5:
                    images[a, u, v] = 0
                    weight[a, u, v] = 0
                    continue
                left = np.floor(q)
                j = int(left)
                g0, g1, g2, g3 = _weights(one * (q - left), one)
                j0, j1 = _reflected(j - 1, columns), _reflected(j, columns)
                j2, j3 = _reflected(j + 1, columns), _reflected(j + 2, columns)
                low = np.floor(p)
                f0, f1, f2, f3 = _weights(one * (p - low), one)
                total = one * 0
                for k in range(4):
                    f = f0 if k == 0 else f1 if k == 1 else f2 if k == 2 else f3
                    if rows == 1:
                        f = one if k == 1 else one * 0
                    if f == 0:
                        continue
                    line = coefficients[a, _reflected(int(low) - 1 + k, rows)]
                    total += f * (g0 * line[j0] + g1 * line[j1] + g2 * line[j2] + g3 * line[j3])
                images[a, u, v] = total
                weight[a, u, v] = 1
