"""`Box`: a half-open box of array indices in any number of dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from daskreg.errors import ShapeMismatchError


@dataclass(frozen=True, order=True)
class Box:
    """Indices `start[k] <= i < stop[k]` along each axis k, in array order.

    >>> Box((0, 2), (4, 8)) & Box((1, 0), (9, 5))
    Box[1:4, 2:5]
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        start, stop = tuple(map(int, self.start)), tuple(map(int, self.stop))
        if len(start) != len(stop):
            raise ShapeMismatchError(f"a box needs as many starts as stops, not {len(start)} and {len(stop)}")
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "stop", tuple(map(max, start, stop)))

    @classmethod
    def of(cls, shape: Sequence[int]) -> Box:
        """The box of a whole array of this shape."""
        return cls((0,) * len(shape), tuple(shape))

    @classmethod
    def from_slices(cls, slices: Sequence[slice]) -> Box:
        """The box of slices that have both a start and a stop."""
        return cls(tuple(s.start for s in slices), tuple(s.stop for s in slices))

    @property
    def ndim(self) -> int:
        """How many axes the box has."""
        return len(self.start)

    @property
    def shape(self) -> tuple[int, ...]:
        """(D,) numbers of indices along each axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """How many voxels lie inside."""
        return math.prod(self.shape)

    @property
    def empty(self) -> bool:
        """Whether no voxel lies inside."""
        return self.size == 0

    @property
    def slices(self) -> tuple[slice, ...]:
        """(D,) slices with which an array is indexed to take this box of it."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def __and__(self, other: Box) -> Box:
        self._same_ndim(other)
        return Box(
            tuple(map(max, self.start, other.start)),
            tuple(map(min, self.stop, other.stop)),
        )

    def __or__(self, other: Box) -> Box:
        """The smallest box that holds both; an empty box adds nothing."""
        self._same_ndim(other)
        if self.empty:
            return other
        if other.empty:
            return self
        return Box(
            tuple(map(min, self.start, other.start)),
            tuple(map(max, self.stop, other.stop)),
        )

    def __contains__(self, other: Box) -> bool:
        return other.empty or (self & other) == other

    def grow(self, margin: int | Sequence[int]) -> Box:
        """Wider by `margin` indices on every side (negative: narrower)."""
        margins = (int(margin),) * self.ndim if isinstance(margin, int | np.integer) else tuple(margin)
        return Box(
            tuple(a - m for a, m in zip(self.start, margins, strict=True)),
            tuple(b + m for b, m in zip(self.stop, margins, strict=True)),
        )

    def clip(self, shape: Sequence[int]) -> Box:
        """The part inside an array of this shape."""
        return self & Box.of(shape)

    def shift(self, offset: Sequence[int]) -> Box:
        """The box moved by (D,) voxels; ValueError for another number of axes."""
        return Box(
            tuple(a + o for a, o in zip(self.start, offset, strict=True)),
            tuple(b + o for b, o in zip(self.stop, offset, strict=True)),
        )

    def within(self, outer: Box) -> Box:
        """The same indices, counted from the start of `outer`."""
        return self.shift(tuple(-a for a in outer.start))

    def align(self, chunks: Sequence[int]) -> Box:
        """The smallest box of whole chunks that holds this one."""
        return Box(
            tuple(a // c * c for a, c in zip(self.start, chunks, strict=True)),
            tuple(-(-b // c) * c for b, c in zip(self.stop, chunks, strict=True)),
        )

    def take(self, axes: Sequence[int]) -> Box:
        """The box of some of the axes, in the order of `axes`."""
        return Box(tuple(self.start[k] for k in axes), tuple(self.stop[k] for k in axes))

    def __repr__(self) -> str:
        return "Box[" + ", ".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True)) + "]"

    def _same_ndim(self, other: Box) -> None:
        if self.ndim != other.ndim:
            raise ShapeMismatchError(f"boxes of {self.ndim} and {other.ndim} dimensions do not combine")


def tile(shape: Sequence[int], block: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Box]]:
    """Cut an array of `shape` into blocks: an iterator of `(block index, box)` in C order."""
    counts = [-(-n // b) for n, b in zip(shape, block, strict=True)]
    whole = Box.of(shape)
    for index in product(*map(range, counts)):
        start = tuple(i * b for i, b in zip(index, block, strict=True))
        yield index, Box(start, tuple(a + b for a, b in zip(start, block, strict=True))) & whole
