"""`VectorBounds`: the least and the greatest displacement in any part of a field, without reading it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError
from daskreg.geometry import Box
from daskreg.sources import Source

Floats = NDArray[np.float64]

TILE = 8
"""Nodes of a tile along each axis: bounds of a box are those of the tiles that it touches."""
_READ_BYTES = 32 * 2**20


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
    for box in _parts(source, lead):
        vectors = source.read(box)
        least, most = vectors, vectors
        for axis in range(lead + 1, len(shape)):
            edges = np.arange(0, vectors.shape[axis], TILE)
            least, most = np.minimum.reduceat(least, edges, axis), np.maximum.reduceat(most, edges, axis)
        inner = _tiles(box.take(range(lead + 1, len(shape))))
        part = (*box.slices[: lead + 1], *inner.slices)
        lower[part], upper[part] = least, most
        if not (np.isfinite(least).all() and np.isfinite(most).all()):
            raise InvalidTransformError(
                f"the vectors {source.path} hold NaN or infinity within nodes {box}: replace them, for example by zero"
            )
    return VectorBounds(np.moveaxis(lower, lead, 0), np.moveaxis(upper, lead, 0), (0,) * ndim)


def _tiles(nodes: Box) -> Box:
    return Box(tuple(a // TILE for a in nodes.start), tuple(-(-b // TILE) for b in nodes.stop))


def _parts(source: Source, lead: int) -> Iterator[Box]:
    """Boxes of whole tiles and, as far as they fit, whole chunks, of a few megabytes each."""
    shape, sizes = source.shape, []
    room = _READ_BYTES // source.dtype.itemsize
    for k in reversed(range(len(shape))):
        step = 1 if k <= lead else TILE
        unit = -(-source.chunks[k] // step) * step
        whole = unit * max(1, room // unit) if unit <= room else max(step, room // step * step)
        sizes.append(min(shape[k], whole) if whole >= shape[k] else whole)
        room = max(1, room // sizes[-1])
    for start in product(*(range(0, n, size) for n, size in zip(shape, reversed(sizes), strict=True))):
        stop = (a + size for a, size in zip(start, reversed(sizes), strict=True))
        yield Box(start, tuple(stop)).clip(shape)
