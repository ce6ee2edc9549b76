"""Gaussians on CPUs, all axes in one pass over the image.

Rows are combined along the first axis into a few lines that stay in the cache, and these lines along the
other axes, so that each voxel is read from memory and written to it about once, for any number of axes.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.pyramids.filters_numba import no_weight, planes
from daskreg.runtime.compiled import fragment, jit
from daskreg.runtime.intrinsics import empty, greatest, least
from daskreg.runtime.threads import shares

Singles = NDArray[np.float32]

# Rows that are smoothed at a time.
_ROWS = 32


def smoothed(values: Singles, weight: Singles | None, taps: Sequence[Singles]) -> tuple[Singles, Singles | None]:
    """Convolved along every axis, and divided by the sum of taps times weights that are inside.

    Args:
        values: (B, *shape), 2D or 3D. weight: (B or 1, *shape) or None.
        taps: an odd number for each axis, symmetric; no longer than twice the axis.

    Returns: the values, and the weights, set to zero where almost no weight is near.
    """
    source = planes(values)
    weights = no_weight() if weight is None else planes(weight)
    out, out_weights = np.empty_like(source), np.empty_like(weights)
    three = (*(np.ones(1, np.float32) for _ in range(3 - len(taps))), *taps)
    inside = tuple(1 / tap_sums(n, t) for n, t in zip(source.shape[1:], three, strict=True))
    batch, nz, ny, _ = source.shape
    parts = batch * nz * -(-ny // _ROWS)
    shares(partial(_smoothed, source, weights, three, inside, out, out_weights), parts, source.size)
    return out.reshape(values.shape), None if weight is None else out_weights.reshape(weight.shape)


def tap_sums(n: int, taps: Singles) -> Singles:
    """(n,) sums of the taps that fall inside an axis of n voxels."""
    radius = len(taps) // 2
    return np.asarray(np.convolve(np.ones(n), taps)[radius : radius + n], dtype=np.float32)


@jit(fastmath={"contract"})
def _smoothed(
    source: Any, weights: Any, taps: Any, inside: Any, out: Any, out_weights: Any, first: Any, stop: Any
) -> None:
    """The blocks of rows `first` to `stop`, counted over (B, z, blocks of y)."""
    _, nz, ny, nx = source.shape
    tz, ty, tx = taps
    rz, ry = len(tz) // 2, len(ty) // 2
    blocks = -(-ny // _ROWS)
    masked = weights.shape[1] > 0
    lines = empty((2, _ROWS + 2 * ry, nx), np.float32)
    row, across = empty((2, nx), np.float32), empty((2, nx), np.float32)
    for part in range(first, stop):
        b, z, begin = part // blocks // nz, part // blocks % nz, part % blocks * _ROWS
        c = b if len(weights) > 1 else 0
        end = least(begin + _ROWS, ny)
        low, high = greatest(0, begin - ry), least(ny, end + ry)
        for y in range(low, high):
            line, near = lines[0, y - low], lines[1, y - low]
            line[:] = np.float32(0)
            if masked:
                near[:] = np.float32(0)
            for k in range(greatest(0, rz - z), least(len(tz), nz + rz - z)):
                voxels = source[b, z + k - rz, y]
                if masked:
                    _add_weighted(voxels, weights[c, z + k - rz, y], tz[k], line, near)
                else:
                    _add(voxels, tz[k], line)
        for y in range(begin, end):
            for kind in range(2 if masked else 1):
                row[kind] = np.float32(0)
                for k in range(greatest(0, ry - y), least(len(ty), ny + ry - y)):
                    _add(lines[kind, y + k - ry - low], ty[k], row[kind])
                _across(row[kind], tx, across[kind])
            if masked:
                _divide(across, weights[c, z, y], out[b, z, y], out_weights[c, z, y])
            else:
                scale = inside[0][z] * inside[1][y]
                for x in range(nx):
                    out[b, z, y, x] = across[0, x] * (scale * inside[2][x])


@fragment(fastmath={"contract"})
def _add(voxels: Any, tap: Any, line: Any) -> None:
    for x in range(len(line)):
        line[x] += tap * voxels[x]


@fragment(fastmath={"contract"})
def _add_weighted(voxels: Any, weight: Any, tap: Any, line: Any, near: Any) -> None:
    for x in range(len(line)):
        part = tap * weight[x]
        line[x] += part * voxels[x]
        near[x] += part


@fragment(fastmath={"contract"})
def _across(row: Any, taps: Any, out: Any) -> None:
    n, radius = len(row), len(taps) // 2
    out[:] = np.float32(0)
    for k in range(len(taps)):
        shift = k - radius
        for x in range(greatest(0, -shift), least(n, n - shift)):
            out[x] += taps[k] * row[x + shift]


@fragment(fastmath={"contract"})
def _divide(across: Any, weight: Any, out: Any, out_weights: Any) -> None:
    for x in range(len(out)):
        near = across[1, x]
        out[x] = across[0, x] / greatest(near, np.float32(1e-6))
        out_weights[x] = weight[x] if near > np.float32(1e-3) else np.float32(0)


def calls() -> list[tuple[Any, tuple[Any, ...]]]:
    """The kernels here that `register` needs, with arguments of the types that it calls them with."""
    images, axis = np.empty((0,) * 4, np.float32), np.empty(0, np.float32)
    return [(_smoothed, (images, images, (axis,) * 3, (axis,) * 3, images, images, 0, 1))]
