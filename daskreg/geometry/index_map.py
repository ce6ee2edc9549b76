"""`IndexMap`: which source voxels each box of an output is sampled from, in array indices.

`transform.index_map(out_grid, source_grid, dims)` gives one. Blocks, plans and warps of tensors use
nothing else of a transform.

Each axis of the array is either *sampled*, where source indices are fractional, or *carried*, where
they are the output's plus a whole number: channels, times, and slices that stay in their plane.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry.box import Box
from daskreg.geometry.grid import touched_bounds

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Piece:
    """A part of an output box that is sampled by one call: `out`, from the source voxels in `read`.

    Both boxes have all axes of the array, and absolute indices.

    Args:
        coordinates: where the voxels of `out` are sampled, in the form that `sampling.sample` takes:
            an index matrix (d+1, d+1) on the d sampled axes, from absolute output indices to
            fractional absolute source indices, or for maps that are not affine what `sampling` has a kernel for.
    """

    out: Box
    read: Box
    coordinates: Any


class IndexMap(ABC):
    """How a transform pulls between two grids, for an array with given dims.

    It is small, immutable and pickled: it travels to the workers, restricted to their blocks.

    Boxes have all axes of the array, and absolute indices. `margin` is how many voxels beyond those
    of linear sampling the interpolation reads (`sampling.halo`).

    A map that is not affine implements the same members (`fields.index_map` has that of displacement fields). Its
    pieces have coordinates of another form, which the callers of `pieces` pass on unread: only `sampling`
    needs a kernel for them.

    Attributes:
        sampled: positions of the sampled axes among the array's dims, ascending.
    """

    sampled: tuple[int, ...]

    @property
    @abstractmethod
    def carried(self) -> tuple[int, ...]:
        """Positions of the other axes, ascending."""

    @property
    @abstractmethod
    def batch(self) -> tuple[int, ...]:
        """Carried axes along which one piece may have many indices, which share their coordinates."""

    @abstractmethod
    def restrict(self, out: Box) -> IndexMap:
        """The same map, with only what the output box needs."""

    @abstractmethod
    def identity(self) -> tuple[bytes, tuple[object, ...]]:
        """What distinguishes this map from others: its numbers, and facts that have a stable repr.

        The fingerprint of a block is made of the identity of the map restricted to it, and decides
        whether the block is computed again when a run is resumed.
        """

    @abstractmethod
    def read_box(self, out: Box, source_shape: Sequence[int], margin: int) -> Box:
        """The smallest source box that holds what all pieces of `out` read; empty where they read nothing."""

    @abstractmethod
    def pieces(self, out: Box, source_shape: Sequence[int], margin: int) -> Iterator[Piece]:
        """Cut the output box into disjoint parts, each with its coordinates and the box that it reads.

        What no piece covers lies outside the source and is fill.
        """

    def coordinate_bytes(self, out: Box) -> int:
        """Memory that the coordinates of the pieces of `out` take: none for index matrices."""
        return 0


class StackIndexMap(IndexMap):
    """An index map whose carried axes keep their indices, but for an offset, and which may differ from slice to slice.

    Attributes:
        offsets: for each dim, source index minus output index (carried axes only).
        stack: position of the carried axis along which the map changes, or None.
        start: output index along `stack` of the first slice that is known.
    """

    offsets: tuple[int, ...]
    stack: int | None
    start: int

    @abstractmethod
    def touched(
        self, inside: Box, source_shape: Sequence[int], margin: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts and stops (N, d) along the sampled axes of what each slice of `inside` reads; N = 1 without slices."""

    @abstractmethod
    def coordinates(self, out: Box) -> Any:
        """Where the voxels of `out`, which is not empty and of one slice, are sampled; see `Piece`."""

    @property
    def carried(self) -> tuple[int, ...]:
        return tuple(k for k in range(len(self.offsets)) if k not in self.sampled)

    @property
    def batch(self) -> tuple[int, ...]:
        return tuple(k for k in self.carried if k != self.stack)

    def read_box(self, out: Box, source_shape: Sequence[int], margin: int) -> Box:
        inside, carried = self._carried(out, source_shape)
        if inside.empty:
            return Box((0,) * out.ndim, (0,) * out.ndim)
        start, stop = self.touched(inside, source_shape, margin)
        reading = np.flatnonzero(np.all(stop > start, axis=1))
        if not len(reading):
            return Box((0,) * out.ndim, (0,) * out.ndim)
        lower, upper = list(carried.start), list(carried.stop)
        for k, a, b in zip(self.sampled, start[reading].min(axis=0), stop[reading].max(axis=0), strict=True):
            lower[k], upper[k] = int(a), int(b)
        if self.stack is not None:
            first = carried.start[self.stack]
            lower[self.stack], upper[self.stack] = first + int(reading[0]), first + int(reading[-1]) + 1
        return Box(tuple(lower), tuple(upper))

    def pieces(self, out: Box, source_shape: Sequence[int], margin: int) -> Iterator[Piece]:
        inside, carried = self._carried(out, source_shape)
        if inside.empty:
            return
        starts, stops = (ends.tolist() for ends in self.touched(inside, source_shape, margin))
        for number, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            if any(a >= b for a, b in zip(start, stop, strict=True)):
                continue
            single, read = inside, carried
            if self.stack is not None:
                single, read = (_only(box, self.stack, box.start[self.stack] + number) for box in (inside, carried))
            lower, upper = list(read.start), list(read.stop)
            for k, a, b in zip(self.sampled, start, stop, strict=True):
                lower[k], upper[k] = a, b
            yield Piece(single, Box(tuple(lower), tuple(upper)), self.coordinates(single))

    def number(self, out: Box) -> int:
        """Which of the slices that are known the first one of `out` is; 0 without slices."""
        return 0 if self.stack is None else out.start[self.stack] - self.start

    def _carried(self, out: Box, source_shape: Sequence[int]) -> tuple[Box, Box]:
        """The part of `out` whose carried indices are inside the source, and that part in the source.

        Along sampled axes the second box has no meaning yet.
        """
        start, stop = list(out.start), list(out.stop)
        for k in self.carried:
            start[k] = max(start[k], -self.offsets[k])
            stop[k] = min(stop[k], source_shape[k] - self.offsets[k])
        inside = Box(tuple(start), tuple(stop))
        return inside, inside.shift(self.offsets)


@dataclass(frozen=True, eq=False)
class AffineIndexMap(StackIndexMap):
    """One index matrix, or one for each index along a carried axis.

    Args:
        matrices: (N, d+1, d+1) from output indices to fractional source indices, on the
            `sampled` axes.
        sampled: positions of the d sampled axes among the array's dims, ascending.
        offsets: for each dim, source index minus output index (carried axes only).
        stack: position of the carried axis along which the matrices differ, or None (N = 1).
        start: output index along `stack` of the first matrix.
    """

    matrices: Floats
    sampled: tuple[int, ...]
    offsets: tuple[int, ...]
    stack: int | None = None
    start: int = 0

    def restrict(self, out: Box) -> AffineIndexMap:
        if self.stack is None:
            return self
        a, b = out.start[self.stack], out.stop[self.stack]
        return replace(self, matrices=self.matrices[a - self.start : b - self.start], start=a)

    def identity(self) -> tuple[bytes, tuple[object, ...]]:
        return self.matrices.tobytes(), (self.sampled, self.offsets, self.stack)

    def touched(
        self, inside: Box, source_shape: Sequence[int], margin: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        matrices = self.matrices
        if self.stack is not None:
            first = self.number(inside)
            matrices = matrices[first : first + inside.shape[self.stack]]
        return touched_bounds(matrices, inside.take(self.sampled), [source_shape[k] for k in self.sampled], margin)

    def coordinates(self, out: Box) -> Floats:
        matrix: Floats = self.matrices[self.number(out)]
        return matrix


def _only(box: Box, axis: int, index: int) -> Box:
    """One slice of a box."""
    return Box((*box.start[:axis], index, *box.start[axis + 1 :]), (*box.stop[:axis], index + 1, *box.stop[axis + 1 :]))
