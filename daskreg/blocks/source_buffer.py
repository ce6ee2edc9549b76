"""The part of a source that one block is made of, in memory that is reused from block to block.

Fresh pages of memory cost more than decoding into them, so each thread keeps its scratch memory. A block that needs
more of its source than fits is computed slab after slab, and the buffer moves along: it holds only what the
current slab needs. No chunk is decoded twice for that.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box
from daskreg.runtime.memory import pages
from daskreg.sources.source import Source

BUFFER_TARGET = 136 * 2**20
"""Bytes up to which a block's part of the source is buffered as a whole. Of a larger part, only what a slab
needs is buffered, or as much as fits into this many bytes where that is more."""

SCRATCH_LIMIT = 2 * BUFFER_TARGET
"""Bytes of scratch memory that a thread keeps between blocks, at most."""

_lock = threading.Lock()
_kept: dict[int, ScratchBuffer] = {}  # by thread
_releases = 0


class ScratchBuffer:
    """Memory for one array at a time, which grows to the largest that was asked for."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    @property
    def nbytes(self) -> int:
        return len(self._bytes)

    def array(self, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array without values, in the same memory as the one before it."""
        nbytes = math.prod(shape) * dtype.itemsize
        if len(self._bytes) < nbytes:
            self._bytes = np.empty(0, np.uint8)  # free the old memory first: there is never room for both
            self._bytes = pages(nbytes)
        return self._bytes[:nbytes].view(dtype).reshape(shape)


@contextmanager
def thread_scratch() -> Iterator[ScratchBuffer]:
    """The scratch buffer of this thread, or a new one where a caller further up is using it."""
    thread = threading.get_ident()
    with _lock:
        scratch, releases = _kept.pop(thread, None) or ScratchBuffer(), _releases
    try:
        yield scratch
    finally:
        with _lock:
            if scratch.nbytes <= SCRATCH_LIMIT and releases == _releases:
                _kept[thread] = scratch


def release_scratch() -> None:
    """Free the scratch buffers of all threads of this process; those that are in use are freed after that."""
    global _releases  # noqa: PLW0603
    with _lock:
        _releases += 1
        _kept.clear()


def slabs(box: Box, unit: Sequence[int]) -> list[Box]:
    """Cut a block along the first axis that has several units. Slabs are computed in this order."""
    for axis, size in enumerate(unit):
        first, last = box.start[axis] // size, -(-box.stop[axis] // size)
        if last - first > 1:
            return [_along(box, axis, k * size, (k + 1) * size) & box for k in range(first, last)]
    return [box]


@dataclass(frozen=True)
class BufferLayout:
    """Which part of the source is buffered for each slab of a block.

    Args:
        whole: the box of the source that the block needs.
        axis: of the source, along which the buffer moves.
        spans: (start, stop) along that axis, one for each slab, in absolute indices.
        capacity: length of the buffer along that axis.
    """

    whole: Box
    axis: int
    spans: tuple[tuple[int, int], ...]
    capacity: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the buffer."""
        return tuple(self.capacity if k == self.axis else n for k, n in enumerate(self.whole.shape))


def buffer_layout(
    needs: Sequence[Box], chunks: Sequence[int], itemsize: int, target: int | None = None
) -> BufferLayout:
    """The layout for slabs that need these boxes, along the axis where it takes the least memory.

    Args:
        chunks: of the source.
        itemsize: bytes of a voxel in the buffer.
        target: bytes up to which more is buffered than a slab needs; None: `BUFFER_TARGET`.
    """
    target = BUFFER_TARGET if target is None else target
    whole = reduce(or_, needs)
    if len(needs) == 1 or whole.size * itemsize <= target:
        return BufferLayout(whole, 0, ((whole.start[0], whole.stop[0]),) * len(needs), whole.shape[0])
    candidates = [_layout_along(axis, whole, needs, chunks[axis]) for axis in range(whole.ndim)]
    best = min(candidates, key=lambda layout: math.prod(layout.shape))
    # With more memory than that, the contents of the buffer are moved within it less often.
    affordable = target * best.capacity // max(1, math.prod(best.shape) * itemsize)
    capacity = min(whole.shape[best.axis], max(best.capacity, affordable))
    return BufferLayout(whole, best.axis, best.spans, capacity)


def _layout_along(axis: int, whole: Box, needs: Sequence[Box], chunk: int) -> BufferLayout:
    """Spans end at a chunk's border on the side towards which the slabs go, so that no chunk is read twice."""
    least, most = whole.start[axis], whole.stop[axis]
    ends = [(n.start[axis], n.stop[axis]) if not n.empty else (least, least) for n in needs]
    upwards = sum(ends[-1]) >= sum(ends[0])
    spans = []
    for a, b in ends:
        if a < b and upwards:
            spans.append((a, min(most, -(-b // chunk) * chunk)))
        else:
            spans.append((max(least, a // chunk * chunk) if a < b else a, b))
    return BufferLayout(whole, axis, tuple(spans), max(b - a for a, b in spans))


class SourceBuffer:
    """The voxels that one slab of a block after another needs.

    Args:
        dtype: of the buffer.
        scratch: memory of the buffer; None: an array of its own, or no buffer at all where the source is in memory.

    `voxels_read` counts what came out of the source so far.
    """

    def __init__(
        self, source: Source, layout: BufferLayout, dtype: np.dtype[Any], scratch: ScratchBuffer | None = None
    ) -> None:
        self._source, self._layout, self._dtype = source, layout, dtype
        self._start = layout.whole.start[layout.axis]
        self._valid = (self._start, self._start)
        in_place = scratch is None or not source.reads_into_buffers
        self._at_once = layout.capacity == layout.whole.shape[layout.axis] and in_place
        self._data = np.empty(0, dtype) if self._at_once else (scratch or ScratchBuffer()).array(layout.shape, dtype)
        self.voxels_read = 0

    def load(self, number: int) -> tuple[NDArray[Any], Box]:
        """What slab `number` needs: a view of the buffer, valid until the next call, and its box in the source."""
        whole, axis, (a, b) = self._layout.whole, self._layout.axis, self._layout.spans[number]
        if self._at_once:
            if not self.voxels_read:
                self._data = self._source.read(whole).astype(self._dtype, copy=False)
                self.voxels_read = whole.size
            return self._data, whole
        if a < b:
            self._move_to(a, b)
            first, last = self._valid
            if first == last or a > last or b < first:
                first = last = a
            self._read(a, first)
            self._read(last, b)
            self._valid = (min(a, first), max(b, last))
        valid = _along(whole, axis, *self._valid)
        return self._data[valid.within(self._box).slices], valid

    @property
    def _box(self) -> Box:
        """The box of the source that the buffer covers, its part without valid voxels included."""
        return _along(self._layout.whole, self._layout.axis, self._start, self._start + self._layout.capacity)

    def _move_to(self, a: int, b: int) -> None:
        """Let the buffer cover [a, b): where it does not yet, move the valid voxels that are still wanted."""
        start, capacity, whole = self._start, self._layout.capacity, self._layout.whole
        if start <= a and b <= start + capacity:
            return
        axis = self._layout.axis
        start = a if b > start + capacity else b - capacity
        self._start, before = min(max(start, whole.start[axis]), whole.stop[axis] - capacity), self._start
        first, last = max(self._valid[0], self._start), min(self._valid[1], self._start + capacity)
        if first < last:
            step = math.prod(self._data.shape[axis + 1 :])
            for line in self._data.reshape(-1, capacity * step):  # in one dimension numpy moves without a copy
                line[(first - self._start) * step : (last - self._start) * step] = line[
                    (first - before) * step : (last - before) * step
                ]
        self._valid = (first, max(first, last))

    def _read(self, a: int, b: int) -> None:
        if a >= b:
            return
        box = _along(self._layout.whole, self._layout.axis, a, b)
        self._source.read_into(box, self._data[box.within(self._box).slices])
        self.voxels_read += box.size


def _along(box: Box, axis: int, start: int, stop: int) -> Box:
    """`box` with another extent along one axis."""
    return Box((*box.start[:axis], start, *box.start[axis + 1 :]), (*box.stop[:axis], stop, *box.stop[axis + 1 :]))
