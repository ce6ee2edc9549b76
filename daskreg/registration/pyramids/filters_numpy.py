"""Filters of whole images on CPUs by NumPy: scaling and dilation, in pieces that stay in the cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskreg.runtime.threads import shares

Singles = NDArray[np.float32]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Voxels of a piece.
_TOGETHER = 2**16


def rows_of(values: Singles) -> Singles:
    """(B, R, n) of (B, *shape), contiguous."""
    return np.ascontiguousarray(values).reshape(len(values), -1, values.shape[-1])


def scaled(values: Singles, weight: Singles | None, mean: Floats, scale: Floats, *, in_place: bool = False) -> Singles:
    """(values - mean) * scale, of each of (B, *shape), zero where there is no weight."""
    source, weights = rows_of(values), None if weight is None else rows_of(weight)
    out = source if in_place else np.empty_like(source)
    means, scales = mean.astype(np.float32), scale.astype(np.float32)
    rows = source.shape[1]
    bands = -(-rows // max(1, _TOGETHER // source.shape[2]))

    def scale_bands(first: int, stop: int) -> None:
        """The bands of rows `first` to `stop`, counted over (B, bands)."""
        for part in range(first, stop):
            b, band = divmod(part, bands)
            some = slice(rows * band // bands, rows * (band + 1) // bands)
            lines = out[b, some]
            with np.errstate(over="ignore", invalid="ignore"):
                np.subtract(source[b, some], means[b], out=lines)
                lines *= scales[b]
            if weights is not None:
                lines[~(weights[b if len(weights) > 1 else 0, some] > 0)] = 0

    shares(scale_bands, len(source) * bands, values.size)
    return out.reshape(values.shape)


def dilated(mask: Bools, radius: int) -> Bools:
    """(B, *shape) dilated by a cube of half width `radius`, axis by axis."""
    out = np.ascontiguousarray(mask)
    for axis in range(1, mask.ndim):
        outer = int(np.prod(mask.shape[:axis], dtype=np.int64))
        last = axis == mask.ndim - 1
        source = out.reshape((1, outer, -1) if last else (outer, mask.shape[axis], -1))
        out = _dilated_along(source, radius, 2 if last else 1)
    return out.reshape(mask.shape)


def _dilated_along(source: Bools, radius: int, along: int) -> Bools:
    """(A, B, C) along one of the last two axes, in pieces of the other one."""
    out = np.empty_like(source)
    width = max(1, _TOGETHER // source.shape[along])
    pieces = -(-source.shape[3 - along] // width)

    def dilate_pieces(first: int, stop: int) -> None:
        """The pieces `first` to `stop`, counted over (A, pieces)."""
        for number in range(first, stop):
            part, piece = divmod(number, pieces)
            some = slice(piece * width, (piece + 1) * width)
            at = (part, slice(None), some) if along == 1 else (part, some)
            _dilate_piece(source[at], radius, along - 1, out[at])

    shares(dilate_pieces, len(source) * pieces, source.size)
    return out


def _dilate_piece(source: Bools, radius: int, axis: int, out: Bools) -> None:
    """Along one of two axes."""
    n = source.shape[axis]
    shape = tuple(size + 2 * radius * (k == axis) for k, size in enumerate(source.shape))
    # Of each voxel, whether it or one of the `reach - 1` that follow is true.
    near, further = (np.zeros(shape, np.bool_).swapaxes(0, axis) for _ in range(2))
    near[radius : radius + n] = source.swapaxes(0, axis)
    reach, wanted = 1, 2 * radius + 1
    while 2 * reach < wanted:
        np.logical_or(near[:-reach], near[reach:], out=further[:-reach])
        further[-reach:] = near[-reach:]
        near, further, reach = further, near, 2 * reach
    np.logical_or(near[:n], near[wanted - reach : wanted - reach + n], out=out.swapaxes(0, axis))
