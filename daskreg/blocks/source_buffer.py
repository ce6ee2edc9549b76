"""The part of a source that a block is made of, in memory that is used again.

Fresh pages of memory cost more than decoding into them, so a thread keeps its room from one
block to the next. What is too large to be held at once rolls by: a block is made slab after
slab, and of the source there is what the slab needs. No chunk is decoded twice for that.
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
from daskreg.sources.source import Source

HELD_WHOLE = 136 * 2**20
"""Bytes up to which what a block needs is held as a whole; beyond, it rolls by, with room for so much if it can."""

KEPT = 2 * HELD_WHOLE
"""Bytes of memory that a thread keeps at most from one block to the next."""

_own = threading.local()


class Room:
    """Memory for one array at a time."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    @property
    def nbytes(self) -> int:
        return len(self._bytes)

    def array(self, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array without values; the one before it is lost."""
        nbytes = math.prod(shape) * dtype.itemsize
        if len(self._bytes) < nbytes:
            self._bytes = np.empty(0, np.uint8)  # both are never there
            self._bytes = np.empty(nbytes, np.uint8)
        return self._bytes[:nbytes].view(dtype).reshape(shape)


@contextmanager
def lent_room() -> Iterator[Room]:
    """This thread's room, or another where that is in use."""
    room, _own.room = getattr(_own, "room", None) or Room(), None
    try:
        yield room
    finally:
        _own.room = room if room.nbytes <= KEPT else None


def slabs(box: Box, unit: Sequence[int]) -> list[Box]:
    """Cut a block of whole units along the first axis that has several: the order in which it is made."""
    for axis, size in enumerate(unit):
        first, last = box.start[axis] // size, -(-box.stop[axis] // size)
        if last - first > 1:
            return [_along(box, axis, k * size, (k + 1) * size) & box for k in range(first, last)]
    return [box]


@dataclass(frozen=True)
class Course:
    """How what a block needs of its source is held, slab after slab.

    Args:
        whole: all that it needs.
        axis: along which it rolls.
        spans: for each slab, from where to where it is held along that axis.
        capacity: how much there is room for along that axis.
    """

    whole: Box
    axis: int
    spans: tuple[tuple[int, int], ...]
    capacity: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the room."""
        return tuple(self.capacity if k == self.axis else n for k, n in enumerate(self.whole.shape))


def course(needs: Sequence[Box], chunks: Sequence[int], itemsize: int) -> Course:
    """The course through what slabs need, along the axis where that takes the least memory."""
    whole = reduce(or_, needs)
    if len(needs) == 1 or whole.size * itemsize <= HELD_WHOLE:
        return Course(whole, 0, ((whole.start[0], whole.stop[0]),) * len(needs), whole.shape[0])
    found = [_course_along(axis, whole, needs, chunks[axis]) for axis in range(whole.ndim)]
    best = min(found, key=lambda c: math.prod(c.shape))
    # Where there is memory for more, what is held has to be moved within it less often.
    affordable = HELD_WHOLE * best.capacity // max(1, math.prod(best.shape) * itemsize)
    roomy = min(whole.shape[best.axis], max(best.capacity, affordable))
    return Course(whole, best.axis, best.spans, roomy)


def _course_along(axis: int, whole: Box, needs: Sequence[Box], chunk: int) -> Course:
    """Chunks are read whole on the side towards which the slabs go, so that none is read again."""
    least, most = whole.start[axis], whole.stop[axis]
    ends = [(n.start[axis], n.stop[axis]) if not n.empty else (least, least) for n in needs]
    upwards = sum(ends[-1]) >= sum(ends[0])
    spans = []
    for a, b in ends:
        if a < b and upwards:
            spans.append((a, min(most, -(-b // chunk) * chunk)))
        else:
            spans.append((max(least, a // chunk * chunk) if a < b else a, b))
    return Course(whole, axis, tuple(spans), max(b - a for a, b in spans))


class Window:
    """Voxels of a source, of which one span after another is wanted.

    Args:
        dtype: in which they are held.
        room: where they are held; None: in an array of their own, or where they lie already.
    """

    def __init__(self, source: Source, course: Course, dtype: np.dtype[Any], room: Room | None = None) -> None:
        self._source, self._course, self._dtype = source, course, dtype
        self._start = course.whole.start[course.axis]
        self._valid = (self._start, self._start)
        in_place = room is None or not source.reads_into_buffers
        self._at_once = course.capacity == course.whole.shape[course.axis] and in_place
        self._data = np.empty(0, dtype) if self._at_once else (room or Room()).array(course.shape, dtype)
        self.voxels_read = 0

    def hold(self, number: int) -> tuple[NDArray[Any], Box]:
        """What slab `number` needs: voxels, and where they lie in the source."""
        whole, axis, (a, b) = self._course.whole, self._course.axis, self._course.spans[number]
        if self._at_once:
            if not self.voxels_read:
                self._data = self._source.read(whole).astype(self._dtype, copy=False)
                self.voxels_read = whole.size
            return self._data, whole
        if a < b:
            self._make_room(a, b)
            first, last = self._valid
            if first == last or a > last or b < first:
                first = last = a
            self._read(a, first)
            self._read(last, b)
            self._valid = (min(a, first), max(b, last))
        held = _along(whole, axis, *self._valid)
        return self._data[held.within(self._place).slices], held

    @property
    def _place(self) -> Box:
        """Where the array lies in the source, as far as it is filled."""
        return _along(self._course.whole, self._course.axis, self._start, self._start + self._course.capacity)

    def _make_room(self, a: int, b: int) -> None:
        """Move what is held and still wanted, where the span does not fit behind or before it."""
        start, capacity, whole = self._start, self._course.capacity, self._course.whole
        if start <= a and b <= start + capacity:
            return
        axis = self._course.axis
        start = a if b > start + capacity else b - capacity
        self._start, before = min(max(start, whole.start[axis]), whole.stop[axis] - capacity), self._start
        first, last = max(self._valid[0], self._start), min(self._valid[1], self._start + capacity)
        if first < last:
            step = math.prod(self._data.shape[axis + 1 :])
            for line in self._data.reshape(-1, capacity * step):  # one dimension: numpy needs no copy of it
                line[(first - self._start) * step : (last - self._start) * step] = line[
                    (first - before) * step : (last - before) * step
                ]
        self._valid = (first, max(first, last))

    def _read(self, a: int, b: int) -> None:
        if a >= b:
            return
        box = _along(self._course.whole, self._course.axis, a, b)
        self._source.read_into(box, self._data[box.within(self._place).slices])
        self.voxels_read += box.size


def _along(box: Box, axis: int, start: int, stop: int) -> Box:
    """`box` with another extent along one axis."""
    return Box((*box.start[:axis], start, *box.start[axis + 1 :]), (*box.stop[:axis], stop, *box.stop[axis + 1 :]))
