"""`DisplacedIndexMap`: which source voxels, and which vectors, a box of an output needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskreg.fields.chain import FieldStep, NodeBoxes, displacement_of, follow
from daskreg.geometry import Box, Piece
from daskreg.geometry.index_map import StackIndexMap
from daskreg.sampling.displacements import Displaced

# Vectors of a piece: larger ones are cut.
_VECTOR_BYTES = 32 * 2**20


@dataclass(frozen=True, eq=False)
class Followed:
    """What `follow` found for some slices of a box."""

    numbers: range
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    nodes: list[NodeBoxes]

    def of(self, numbers: range) -> Followed:
        """Only some of the slices."""
        some = slice(numbers.start - self.numbers.start, numbers.stop - self.numbers.start)
        nodes = [NodeBoxes(n.start[some], n.stop[some], n.inside[some]) for n in self.nodes]
        return Followed(numbers, self.lower[some], self.upper[some], nodes)


@dataclass(frozen=True, eq=False)
class DisplacedIndexMap(StackIndexMap):
    """A chain with displacement fields; the vectors are read where a piece is sampled.

    Args:
        steps: see `chain`.
        sampled, offsets, stack, start: see `StackIndexMap`.
        needed: for each step the box of vectors that this map was restricted to, or None.
        followed: where the slices of one box lead to, where that is known; the map is then of this box only.
    """

    steps: tuple[FieldStep, ...]
    sampled: tuple[int, ...]
    offsets: tuple[int, ...]
    stack: int | None = None
    start: int = 0
    needed: tuple[Box, ...] | None = None
    followed: Followed | None = None

    def restrict(self, out: Box) -> DisplacedIndexMap:
        steps, start = self.steps, self.start
        if self.stack is not None:
            first, stop = out.start[self.stack], out.stop[self.stack]
            steps = tuple(step.slices(first - self.start, stop - self.start) for step in steps)
            start = first
        slices = 1 if self.stack is None else out.shape[self.stack]
        boxes = replace(self, steps=steps, start=start)._node_boxes(out)
        needed = tuple(_vector_box(step, nodes, slices) for step, nodes in zip(steps, boxes, strict=True))
        steps = tuple(step.restrict(nodes, box) for step, nodes, box in zip(steps, boxes, needed, strict=True))
        return replace(self, steps=steps, start=start, needed=needed)

    def identity(self) -> tuple[bytes, tuple[object, ...]]:
        numbers, facts = [], []
        for number, step in enumerate(self.steps):
            part = step.part
            numbers += [step.into.tobytes(), step.onward.tobytes(), step.nodes.tobytes()]
            if part.inverse:  # its solution is sought between them
                numbers.append(step.limits.tobytes())
            box = Box.of(part.source.shape) if self.needed is None else self.needed[number]
            state = "" if box.empty else part.source.state(box)
            facts.append(
                (part.source.fingerprint(), state, box.start, box.stop, part.grid.shape, part.order, part.inverse)
            )
        return b"".join(numbers), (tuple(facts), self.sampled, self.offsets, self.stack)

    def touched(
        self, inside: Box, source_shape: Sequence[int], margin: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        shape = np.asarray([source_shape[k] for k in self.sampled])
        found = self._follow(inside)
        lower, upper = found.lower, found.upper
        # Far outside, 64-bit integers would overflow; a little beyond the source gives the same box.
        low = np.clip(lower, -2.0 - margin, shape + 1.0 + margin)
        high = np.clip(upper, -2.0 - margin, shape + 1.0 + margin)
        starts = np.clip(np.floor(low).astype(np.int64) - margin, 0, shape)
        return starts, np.maximum(starts, np.clip(np.floor(high).astype(np.int64) + 2 + margin, 0, shape))

    def pieces(self, out: Box, source_shape: Sequence[int], margin: int) -> Iterator[Piece]:
        for part, known in self._parts(out):
            yield from StackIndexMap.pieces(known, part, source_shape, margin)

    def coordinates(self, out: Box) -> Displaced:
        number, found = self.number(out), self._follow(out)
        boxes = (nodes.box(0) for nodes in found.nodes)
        made = (displacement_of(step, number, nodes) for step, nodes in zip(self.steps, boxes, strict=True))
        return Displaced(tuple(made), found.lower[0], found.upper[0])

    def coordinate_bytes(self, out: Box) -> int:
        """Memory of the vectors of one piece: as they are stored, and twice as float64 for the kernels."""
        least = min(step.part.source.dtype.itemsize for step in self.steps)
        return min(self._vector_bytes(out), _VECTOR_BYTES) * (1 + 2 * 8 // least)

    def _numbers(self, out: Box) -> range:
        """The slices of a box, by their number in this map."""
        if self.stack is None:
            return range(1)
        return range(out.start[self.stack] - self.start, out.stop[self.stack] - self.start)

    def _node_boxes(self, out: Box) -> list[Box]:
        """For each step, the nodes that a box of the output reads, in all slices."""
        return [nodes.union for nodes in self._follow(out).nodes]

    def _follow(self, out: Box) -> Followed:
        numbers = self._numbers(out)
        if self.followed is not None:
            return self.followed.of(numbers)
        plane = out.take(self.sampled)
        ends = np.asarray(plane.start, float), np.asarray(plane.stop, float) - 1
        return Followed(numbers, *follow(self.steps, numbers, *ends))

    def _vector_bytes(self, out: Box) -> int:
        sizes = zip(self.steps, self._node_boxes(out), strict=True)
        return sum(nodes.size * nodes.ndim * step.part.source.dtype.itemsize for step, nodes in sizes)

    def _parts(self, out: Box) -> Iterator[tuple[Box, DisplacedIndexMap]]:
        """The box, cut until the vectors of each part take little memory; each with its map, followed already."""
        known = replace(self, followed=self._follow(out))
        longest = max(self.sampled, key=lambda k: out.shape[k])
        if out.empty or out.shape[longest] < 2 or known._vector_bytes(out) <= _VECTOR_BYTES:
            yield out, known
            return
        middle = (out.start[longest] + out.stop[longest]) // 2
        for a, b in ((out.start[longest], middle), (middle, out.stop[longest])):
            start = (*out.start[:longest], a, *out.start[longest + 1 :])
            stop = (*out.stop[:longest], b, *out.stop[longest + 1 :])
            yield from self._parts(Box(start, stop))


def _vector_box(step: FieldStep, nodes: Box, slices: int) -> Box:
    """The box of nodes along all axes of the vectors, for the first slices of the step."""
    part = step.part
    lead = ((part.first, part.first + slices),) if part.sliced else ()
    ends = (*lead, (0, part.grid.ndim), *zip(nodes.start, nodes.stop, strict=True))
    start, stop = zip(*ends, strict=True)
    return Box(start, stop)
