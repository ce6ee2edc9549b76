"""The loops of the parallel-beam projector (Joseph 1982, doi:10.1109/TMI.1982.4307572): sums along rays, step by step
along the axis of the volume that a ray follows most, with linear interpolation across it.

Two families. `*_slices`: where every ray stays in one slice, and all slices have the same rays; the slices are the last
axis of the arrays, so that one weight serves a whole row of them. `*_rays`: any affine parallel projection. In both,
the adjoint has the weights of the projector, computed in the same way.

Weights are computed in float64 and applied in the type of the volume. Nothing is multiplied by the length of a step;
callers do that. Work is divided by the caller, along axes that are written by one thread only.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import inner, jit


@inner
def _add_row(total: Any, row: Any, weight: Any) -> None:
    for z in range(len(row)):
        total[z] += weight * row[z]


@inner
def _add_rows(total: Any, rows: Any, i: Any, far: Any) -> None:
    """Add what lies `far` of the way from rows[i] to rows[i + 1]; outside there are zeros."""
    near = rows.dtype.type(1) - far
    if i >= 0 and i + 1 < len(rows):
        low, high = rows[i], rows[i + 1]
        for z in range(len(total)):
            total[z] += near * low[z] + far * high[z]
    elif i >= 0:
        _add_row(total, rows[i], near)
    else:
        _add_row(total, rows[i + 1], far)


@jit
def project_slices(planes: Any, lines: Any, sums: Any, first: Any, stop: Any) -> None:
    """Add the sums along rays to projections first..stop-1.

    Args:
        planes: (K, Q, Z) volume; rays step along the first axis.
        lines: (A, 3): the place along the second axis is lines @ (column, step, 1).
        sums: (A, U, Z).
    """
    steps, width = planes.shape[0], planes.shape[1]
    one = planes.dtype.type(1)
    for a in range(first, stop):
        slope, along, start = lines[a]
        for u in range(sums.shape[1]):
            total = sums[a, u]
            for k in range(steps):
                q = slope * u + along * k + start
                low = np.floor(q)
                if low < -1 or low >= width:
                    continue
                i, far = int(low), one * (q - low)
                _add_rows(total, planes[k], i, far)


@jit
def backproject_slices(sums: Any, lines: Any, planes: Any, first: Any, stop: Any) -> None:
    """Add projections to planes first..stop-1: the adjoint of `project_slices`, with its arguments."""
    width = planes.shape[1]
    one = planes.dtype.type(1)
    for k in range(first, stop):
        for a in range(len(lines)):
            slope, along, start = lines[a]
            for u in range(sums.shape[1]):
                q = slope * u + along * k + start
                low = np.floor(q)
                if low < -1 or low >= width:
                    continue
                i, far = int(low), one * (q - low)
                if i >= 0:
                    _add_row(planes[k, i], sums[a, u], one - far)
                if i + 1 < width:
                    _add_row(planes[k, i + 1], sums[a, u], far)


@jit
def smear_slices(sums: Any, lines: Any, volume: Any, first: Any, stop: Any) -> None:
    """Add to each voxel of the rows first..stop-1 the projections where it is seen, linearly interpolated.

    Args:
        sums: (A, U, Z).
        lines: (A, 3): the column that sees a voxel is lines @ (y, x, 1).
        volume: (Y, X, Z).
    """
    columns = sums.shape[1]
    one = volume.dtype.type(1)
    for y in range(first, stop):
        for x in range(volume.shape[1]):
            total = volume[y, x]
            for a in range(len(lines)):
                u = lines[a, 0] * y + lines[a, 1] * x + lines[a, 2]
                low = np.floor(u)
                if low < -1 or low >= columns:
                    continue
                i, far = int(low), one * (u - low)
                _add_rows(total, sums[a], i, far)


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
