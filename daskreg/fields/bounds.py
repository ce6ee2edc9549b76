"""`VectorBounds`: the least and the greatest displacement in any part of a field, without reading it again."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError
from daskreg.geometry import Box, tile
from daskreg.runtime.device import cores
from daskreg.runtime.threads import in_threads
from daskreg.sources import Source

Floats = NDArray[np.float64]

TILE = 8
"""Nodes of a tile along each axis: bounds of a box are those of the tiles that it touches."""
_READ_BYTES, _CHUNK_BYTES, _ALL_BYTES = 16 * 2**20, 64 * 2**20, 256 * 2**20
"""Of small chunks read together, of the largest chunk that is read whole, and of all that threads read at once."""


@dataclass(frozen=True, eq=False)
class VectorBounds:
    """Bounds of vectors, tile by tile of `TILE` nodes.

    Args:
        lower, upper: (D, *tiles), or (D, N, *tiles) where each slice has vectors of its own: least and greatest
            component along each axis of the world.
        start: the first tile that they hold, along the axes of the tiles.
        first: the first slice that they hold.
    """

    lower: Floats
    upper: Floats
    start: tuple[int, ...]
    first: int = 0

    def over(self, nodes: Box, slices: Sequence[int] | None = None) -> tuple[Floats, Floats]:
        """Least and greatest displacement among the nodes of a box, which is not empty: (D,), or (N, D) of N slices.

        Args:
            slices: their numbers, where each has vectors of its own.
        """
        lead = () if slices is None else (np.asarray(slices) - self.first,)
        index: Any = (slice(None), *lead, *_tiles(nodes).shift([-a for a in self.start]).slices)
        axes = tuple(range(-nodes.ndim, 0))
        return self.lower[index].min(axis=axes).T, self.upper[index].max(axis=axes).T

    def restrict(self, nodes: Box, slices: tuple[int, int] | None = None) -> VectorBounds:
        """Only what boxes within `nodes` need, of the slices `start <= i < stop`."""
        tiles, first = _tiles(nodes), self.first if slices is None else slices[0]
        lead = () if slices is None else (slice(slices[0] - self.first, slices[1] - self.first),)
        index: Any = (slice(None), *lead, *tiles.shift([-a for a in self.start]).slices)
        return VectorBounds(self.lower[index], self.upper[index], tiles.start, first)

    @property
    def limits(self) -> Floats:
        """(2, D): the least and the greatest displacement of all, zero included."""
        axes = tuple(range(1, self.lower.ndim))
        return np.stack([np.minimum(self.lower.min(axis=axes), 0), np.maximum(self.upper.max(axis=axes), 0)])


def vector_bounds(source: Source, lead: int) -> VectorBounds:
    """The bounds of all vectors, which are read once, in parts.

    Args:
        source: (*lead, D, *nodes).
        lead: number of axes in front of the components.

    Raises: InvalidTransformError where a vector is not finite.
    """
    shape = source.shape
    ndim = len(shape) - lead - 1
    tiles = (*shape[: lead + 1], *(-(-n // TILE) for n in shape[lead + 1 :]))
    lower, upper = np.empty(tiles), np.empty(tiles)

    def measure(box: Box) -> None:
        values = least = most = source.read(box)
        for axis in range(lead + 1, len(shape)):
            least, most = _by_tile(np.minimum, least, axis), _by_tile(np.maximum, most, axis)
        inner = _tiles(box.take(range(lead + 1, len(shape))))
        part = (*box.slices[: lead + 1], *inner.slices)
        lower[part], upper[part] = least, most
        if not (np.isfinite(least).all() and np.isfinite(most).all()):
            check_finite(values, box, source.path)

    sizes = _part_sizes(source, lead)
    if all(size >= n for size, n in zip(sizes, shape, strict=True)):  # threads take longer to start than this takes
        measure(Box.of(shape))
    else:
        boxes = (box for _, box in tile(shape, sizes))
        threads = max(1, min(cores(), _ALL_BYTES // (math.prod(sizes) * source.dtype.itemsize)))
        with contextlib.closing(in_threads(threads, measure, boxes)) as measured:
            for _ in measured:
                pass
    return VectorBounds(np.moveaxis(lower, lead, 0), np.moveaxis(upper, lead, 0), (0,) * ndim)


def check_finite(values: NDArray[Any], box: Box, path: str) -> None:
    """Raise InvalidTransformError, which names the first of them, where vectors (*box.shape) are not finite."""
    if np.isfinite(values).all():
        return
    first = np.argwhere(~np.isfinite(values))[0] + np.asarray(box.start)
    raise InvalidTransformError(
        f"the vectors {path} hold NaN or infinity, first at index {tuple(first.tolist())}: replace them, for example "
        "by zero"
    )


def _by_tile(extreme: np.ufunc, values: NDArray[Any], axis: int) -> NDArray[Any]:
    """The least or greatest value of each tile along one axis; the last tile may be shorter."""
    count = values.shape[axis] // TILE
    whole, rest = np.split(values, [count * TILE], axis)
    # Several times as fast as `reduceat`.
    found = extreme.reduce(whole.reshape(*values.shape[:axis], count, TILE, *values.shape[axis + 1 :]), axis + 1)
    return np.concatenate([found, extreme.reduce(rest, axis, keepdims=True)], axis) if rest.shape[axis] else found


def _tiles(nodes: Box) -> Box:
    return Box(tuple(a // TILE for a in nodes.start), tuple(-(-b // TILE) for b in nodes.stop))


def _part_sizes(source: Source, lead: int) -> tuple[int, ...]:
    """Sizes of boxes of whole tiles and whole chunks, a few megabytes each. Chunks that are large are read in parts."""
    item = source.dtype.itemsize
    steps = [1 if k <= lead else TILE for k in range(len(source.shape))]
    sizes = [
        -(-min(chunk, n) // step) * step for chunk, n, step in zip(source.chunks, source.shape, steps, strict=True)
    ]
    for k, step in enumerate(steps):
        room = _CHUNK_BYTES // item // (math.prod(sizes) // sizes[k])
        sizes[k] = max(step, min(sizes[k], room // step * step))
    for k in reversed(range(len(sizes))):
        room = _READ_BYTES // item // math.prod(sizes)
        sizes[k] *= max(1, min(room, -(-source.shape[k] // sizes[k])))
    return tuple(sizes)
