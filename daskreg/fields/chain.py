"""Transforms one after another, as steps: affine maps join the fields between which they lie.

A chain takes points of the output's grid, in indices, to indices of the source: affine maps and fields in turn. Each
field makes one `FieldStep`, whose matrices hold the affine maps before and after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import SourceChangedError
from daskreg.fields.bounds import VectorBounds
from daskreg.geometry import Box, Grid
from daskreg.geometry.grid import snapped
from daskreg.sampling.displacements import Displacement
from daskreg.sources import Source

Floats = NDArray[np.float64]

# Bounds are widened by so many nodes or voxels, far above any rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class FieldPart:
    """A field of a chain.

    Args:
        source: of the vectors, (*lead, D, *nodes).
        bounds: of the vectors.
        grid: of the nodes.
        order: 1 linear, 3 coefficients of cubic B-splines.
        inverse: whether the chain goes against the field.
        sliced: whether each slice has vectors of its own.
        first: the slice that the first slice of the output has (sliced).
    """

    source: Source
    bounds: VectorBounds
    grid: Grid
    order: int
    inverse: bool
    sliced: bool = False
    first: int = 0


@dataclass(frozen=True, eq=False)
class NodeBoxes:
    """The nodes of a field that a box of points reads in each of N slices.

    Args:
        start, stop: (N, D); both zero where it reads none.
        inside: (N,) whether all of the points lie in the field.
    """

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    inside: NDArray[np.bool_]

    def box(self, number: int) -> Box:
        return Box(tuple(self.start[number].tolist()), tuple(self.stop[number].tolist()))

    @property
    def union(self) -> Box:
        """The smallest box that holds all."""
        some = np.all(self.stop > self.start, axis=1)
        if not some.any():
            return self.box(0)
        return Box(tuple(self.start[some].min(axis=0).tolist()), tuple(self.stop[some].max(axis=0).tolist()))


Part = Floats | FieldPart
"""(D+1, D+1) of an affine map, (N, D+1, D+1) of one for each slice, or a field."""


@dataclass(frozen=True, eq=False)
class FieldStep:
    """A field with the affine maps before and after it; see `sampling.displacements.Displacement`.

    Args:
        into, onward: (N, D+1, D+1), N = 1 where they are the same in all slices.
        limits: (2, D) of the whole field.
    """

    part: FieldPart
    into: Floats
    onward: Floats
    limits: Floats

    @cached_property
    def nodes(self) -> Floats:
        return self.part.grid.inverse_matrix

    def of_slice(self, number: int) -> tuple[Floats, Floats]:
        """`into` and `onward` of one slice."""
        return self.into[number if len(self.into) > 1 else 0], self.onward[number if len(self.onward) > 1 else 0]

    def of_slices(self, numbers: range) -> tuple[Floats, Floats]:
        """`into` and `onward` of some slices, (N, D+1, D+1) or (1, D+1, D+1) each."""
        some = slice(numbers.start, numbers.stop)
        return (self.into[some] if len(self.into) > 1 else self.into), (
            self.onward[some] if len(self.onward) > 1 else self.onward
        )

    def slices(self, start: int, stop: int) -> FieldStep:
        """Only some slices."""
        into = self.into[start:stop] if len(self.into) > 1 else self.into
        onward = self.onward[start:stop] if len(self.onward) > 1 else self.onward
        part = replace(self.part, first=self.part.first + start) if self.part.sliced else self.part
        return replace(self, part=part, into=into, onward=onward)

    def restrict(self, nodes: Box, box: Box) -> FieldStep:
        """Only with the vectors of a box: `nodes` along the axes of the nodes, `box` along all axes of the vectors."""
        part = self.part
        slices = (box.start[0], box.stop[0]) if part.sliced else None
        bounds = part.bounds.restrict(nodes, slices)
        return replace(self, part=replace(part, source=part.source.restrict(box), bounds=bounds))

    def lead(self, number: int) -> tuple[int, ...]:
        """Index of the slice among the vectors."""
        return (self.part.first + number,) if self.part.sliced else ()

    def bounds(self, nodes: Box, numbers: Sequence[int]) -> tuple[Floats, Floats]:
        """Least and greatest displacement among the nodes of a box, (N, D) of N slices."""
        if self.part.sliced:
            return self.part.bounds.over(nodes, [self.part.first + k for k in numbers])
        lower, upper = self.part.bounds.over(nodes)
        return np.tile(lower, (len(numbers), 1)), np.tile(upper, (len(numbers), 1))


def steps_of(parts: Sequence[Part], before: Floats, after: Floats) -> tuple[FieldStep, ...]:
    """The steps of a chain.

    Args:
        parts: in the order in which they are applied, at least one of them a field.
        before: (D+1, D+1) from indices of the output to the world of the first part.
        after: (D+1, D+1) from the world of the last part to indices of the source.
    """
    made: list[FieldStep] = []
    matrix = before[None]
    for part in parts:
        if isinstance(part, FieldPart):
            if made:
                made[-1] = replace(made[-1], onward=matrix)
                matrix = np.eye(len(before))[None]
            made.append(FieldStep(part, matrix, np.eye(len(before))[None], part.bounds.limits))
            matrix = np.eye(len(before))[None]
        else:
            matrix = np.reshape(part, (-1, *before.shape)) @ matrix
    made[-1] = replace(made[-1], onward=after @ matrix)
    return tuple(made)


def follow(
    steps: Sequence[FieldStep], numbers: range, lower: Floats, upper: Floats
) -> tuple[Floats, Floats, list[NodeBoxes]]:
    """Bounds (N, D) of where a box of points goes in N slices, wider than any rounding, and the nodes that it reads.

    Args:
        numbers: of the slices.
        lower, upper: (D,) of the points, in the coordinates before the first step.
    """
    found = []
    lower, upper = np.tile(lower, (len(numbers), 1)), np.tile(upper, (len(numbers), 1))
    for step in steps:
        lower, upper, nodes = _through(step, numbers, lower, upper)
        found.append(nodes)
    return lower - _ROUNDING, upper + _ROUNDING, found


def displacement_of(step: FieldStep, number: int, nodes: Box) -> Displacement:
    """The step as the kernels take it, with the vectors of a box of nodes, which are read."""
    part = step.part
    into, onward = step.of_slice(number)
    lead = step.lead(number)
    if nodes.empty:  # no point reads a vector
        nodes = Box.of((1,) * nodes.ndim)
        vectors = np.zeros((part.grid.ndim, *nodes.shape))
    else:
        vectors = _vectors(part, nodes, lead)
    return Displacement(
        into, step.nodes, onward, vectors, nodes.start, part.grid.shape, part.order, part.inverse, step.limits
    )


def _vectors(part: FieldPart, nodes: Box, lead: tuple[int, ...]) -> NDArray[Any]:
    """The vectors of a box of nodes, of one slice.

    Raises: SourceChangedError where they are not within the bounds that were found before, which are relied on.
    """
    ends = zip((*lead, 0, *nodes.start), (*(k + 1 for k in lead), part.grid.ndim, *nodes.stop), strict=True)
    start, stop = zip(*ends, strict=True)
    vectors = part.source.read(Box(start, stop))
    vectors = vectors[0] if lead else vectors
    axes = tuple(range(1, vectors.ndim))
    low, high = (ends.ravel() for ends in part.bounds.over(nodes, lead or None))
    if not (np.all(vectors.min(axis=axes) >= low) and np.all(vectors.max(axis=axes) <= high)):  # NaN is not within
        raise SourceChangedError(
            f"the vectors {part.source.path} have changed since they were first read: load them again"
        )
    return vectors


def _through(step: FieldStep, numbers: range, lower: Floats, upper: Floats) -> tuple[Floats, Floats, NodeBoxes]:
    into, onward = step.of_slices(numbers)
    turn, part = onward[:, :-1, :-1], step.part
    if not part.inverse:
        nodes = _nodes(part, *interval(snapped(step.nodes @ into), lower, upper))
        u = _displacements(step, numbers, nodes)
        least, most = interval(snapped(onward @ into), lower, upper)
        low, high = _turned(turn, *u)
        return least + low, most + high, nodes
    low, high = interval(into, lower, upper)
    u = step.limits[0], step.limits[1]
    for _ in range(3):  # each round narrows the place of the solution, which is always between these bounds
        u = _displacements(step, numbers, _nodes(part, *interval(step.nodes[None], low - u[1], high - u[0])))
    least, most = interval(onward, low - u[1], high - u[0])
    # Newton's method looks anywhere between the limits of the field.
    return least, most, _nodes(part, *interval(step.nodes[None], low - step.limits[1], high - step.limits[0]))


def _displacements(step: FieldStep, numbers: range, nodes: NodeBoxes) -> tuple[Floats, Floats]:
    """Least and greatest displacement, (N, D) each, of points that read these nodes; zero outside the field."""
    lower, upper = np.zeros(nodes.start.shape), np.zeros(nodes.start.shape)
    boxes, which = np.unique(np.concatenate([nodes.start, nodes.stop], axis=1), axis=0, return_inverse=True)
    for number, ends in enumerate(boxes.tolist()):
        box = Box(tuple(ends[: len(ends) // 2]), tuple(ends[len(ends) // 2 :]))
        if not box.empty:
            some = np.flatnonzero(which.ravel() == number)
            lower[some], upper[some] = step.bounds(box, [numbers[k] for k in some])
    leaves = ~nodes.inside[:, None]
    return np.where(leaves, np.minimum(lower, 0), lower), np.where(leaves, np.maximum(upper, 0), upper)


def _nodes(part: FieldPart, lower: Floats, upper: Floats) -> NodeBoxes:
    """The nodes that points within these node coordinates (N, D) read."""
    shape = np.asarray(part.grid.shape)
    before, after = (0, 1) if part.order == 1 else (1, 2)
    edge = (-0.5, shape - 0.5) if part.order == 1 else (1.0, shape - 2.0)
    inside = np.all((lower >= edge[0] + _ROUNDING) & (upper < edge[1] - _ROUNDING), axis=1)
    low, high = np.clip(lower - _ROUNDING, -4, shape + 4), np.clip(upper + _ROUNDING, -4, shape + 4)
    start = np.floor(low).astype(int) - before
    stop = np.floor(high).astype(int) + after + 1
    # Beyond half a spacing the displacement is zero.
    apart = np.any((stop <= 0) | (start >= shape), axis=1)[:, None]
    start, stop = np.clip(start, 0, shape - 1), np.clip(stop, 1, shape)
    return NodeBoxes(np.where(apart, 0, start), np.where(apart, 0, stop), inside)


def interval(matrices: Floats, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
    """Bounds (N, D) of affine maps (N, D+1, D+1) of boxes (N, D)."""
    low, high = _turned(matrices[:, :-1, :-1], lower, upper)
    return low + matrices[:, :-1, -1], high + matrices[:, :-1, -1]


def _turned(linear: Floats, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
    a, b = linear * lower[:, None], linear * upper[:, None]
    return np.minimum(a, b).sum(axis=2), np.maximum(a, b).sum(axis=2)
