"""`IndexMap`: a transform between two grids, as what a block needs: matrices of indices.

Every pull (an affine map, or one for each slice) becomes matrices on some *sampled* axes of
the array, while the other axes are carried along: channels, times, and slices that stay in
their plane. Whole-voxel shifts along carried axes are an offset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import GridError, InvalidTransformError, ShapeMismatchError
from daskreg.geometry import Affine, Box, Grid, SliceAffines, common_unit, index_matrix, touched_bounds

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Piece:
    """A part of an output block under one matrix: `out` is sampled out of `read`.

    Both boxes have all axes of the array and absolute indices.
    """

    out: Box
    read: Box
    matrix: Floats


@dataclass(frozen=True, eq=False)
class IndexMap:
    """Which source voxels an output voxel is made of.

    Args:
        matrices: (N, d+1, d+1) from output indices to fractional source indices, on the
            `sampled` axes.
        sampled: positions of the d sampled axes among the array's dims, ascending.
        offsets: for each dim, source index minus output index (carried axes only).
        stack: position of the axis along which the matrices differ, or None (N = 1).
        start: output index along `stack` of the first matrix.
    """

    matrices: Floats
    sampled: tuple[int, ...]
    offsets: tuple[int, ...]
    stack: int | None = None
    start: int = 0

    @property
    def carried(self) -> tuple[int, ...]:
        return tuple(k for k in range(len(self.offsets)) if k not in self.sampled)

    def restrict(self, out: Box) -> IndexMap:
        """Only the matrices that the output box `out` needs."""
        if self.stack is None:
            return self
        a, b = out.start[self.stack], out.stop[self.stack]
        return replace(self, matrices=self.matrices[a - self.start : b - self.start], start=a)

    def read_box(self, out: Box, source_shape: Sequence[int], margin: int) -> Box:
        """The smallest source box that holds what all pieces of `out` read; may be empty."""
        here, carried = self._carried(out, source_shape)
        if here.empty:
            return Box((0,) * out.ndim, (0,) * out.ndim)
        start, stop = self._touched(here, source_shape, margin)
        seen = np.flatnonzero(np.all(stop > start, axis=1))
        if not len(seen):
            return Box((0,) * out.ndim, (0,) * out.ndim)
        lower, upper = list(carried.start), list(carried.stop)
        for k, a, b in zip(self.sampled, start[seen].min(axis=0), stop[seen].max(axis=0), strict=True):
            lower[k], upper[k] = int(a), int(b)
        if self.stack is not None:
            first = carried.start[self.stack]
            lower[self.stack], upper[self.stack] = first + int(seen[0]), first + int(seen[-1]) + 1
        return Box(tuple(lower), tuple(upper))

    def pieces(self, out: Box, source_shape: Sequence[int], margin: int) -> Iterator[Piece]:
        """Cut the output box into parts of one matrix each, and find what each reads.

        What no piece covers lies outside the source and is fill.
        """
        here, carried = self._carried(out, source_shape)
        if here.empty:
            return
        starts, stops = (ends.tolist() for ends in self._touched(here, source_shape, margin))
        for number, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            if any(a >= b for a, b in zip(start, stop, strict=True)):
                continue
            single, read = here, carried
            if self.stack is not None:
                single, read = (_only(box, self.stack, box.start[self.stack] + number) for box in (here, carried))
            lower, upper = list(read.start), list(read.stop)
            for k, a, b in zip(self.sampled, start, stop, strict=True):
                lower[k], upper[k] = a, b
            matrix = self.matrices[0 if self.stack is None else single.start[self.stack] - self.start]
            yield Piece(single, Box(tuple(lower), tuple(upper)), matrix)

    def _carried(self, out: Box, source_shape: Sequence[int]) -> tuple[Box, Box]:
        """The part of `out` whose carried indices are inside the source, and that part in the source.

        Along sampled axes the second box means nothing yet.
        """
        start, stop = list(out.start), list(out.stop)
        for k in self.carried:
            start[k] = max(start[k], -self.offsets[k])
            stop[k] = min(stop[k], source_shape[k] - self.offsets[k])
        here = Box(tuple(start), tuple(stop))
        return here, here.shift(self.offsets)

    def _touched(
        self, here: Box, source_shape: Sequence[int], margin: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts and stops along the sampled axes, a row for each matrix that `here` needs."""
        matrices = self.matrices
        if self.stack is not None:
            matrices = matrices[here.start[self.stack] - self.start : here.stop[self.stack] - self.start]
        return touched_bounds(matrices, here.take(self.sampled), [source_shape[k] for k in self.sampled], margin)


def _only(box: Box, axis: int, index: int) -> Box:
    """One slice of a box."""
    return Box((*box.start[:axis], index, *box.start[axis + 1 :]), (*box.stop[:axis], index + 1, *box.stop[axis + 1 :]))


def index_map(pull: Affine | SliceAffines | None, out: Grid, source: Grid, dims: Sequence[str]) -> IndexMap:
    """Resolve `pull` (source world from output world; None: identity) for an array with `dims`.

    The dims end with the axes of `source`; those in front are carried along. A 2D map on a
    volume acts in the plane of its last two axes, on every slice.

    Raises: InvalidTransformError or ShapeMismatchError where the transform does not fit
    the array; UnitError for mixed units.
    """
    if out.names != source.names:
        raise ShapeMismatchError(f"the output has axes {out.names}, the source {source.names}; they must agree")
    unit = common_unit(out.unit, source.unit, "output and source grid")
    if pull is not None:
        common_unit(unit, pull.unit, "transform and volume")
    lead = len(dims) - source.ndim
    if isinstance(pull, SliceAffines):
        return _slice_map(pull, out, source, dims)
    if pull is None:
        pull = Affine.identity(source.ndim)
    if pull.ndim == 2 and source.ndim == 3:
        pull = _in_plane(pull, out, source)
    if pull.ndim != source.ndim:
        raise InvalidTransformError(f"a {pull.ndim}D transform does not apply to a volume with axes {source.names}")
    matrix = index_matrix(pull.matrix, out, source)
    # A leading axis that is only shifted by whole voxels is carried: slices share weights.
    first = 0
    while source.ndim - first > 2 and _is_carried(matrix, first):
        first += 1
    keep = [*range(first, source.ndim), source.ndim]
    offsets = [0] * lead + [int(matrix[k, -1]) if k < first else 0 for k in range(source.ndim)]
    sampled = tuple(range(lead + first, lead + source.ndim))
    return IndexMap(matrix[np.ix_(keep, keep)][None], sampled, tuple(offsets))


def _in_plane(pull: Affine, out: Grid, source: Grid) -> Affine:
    for grid in (out, source):
        grid.take((1, 2))  # raises where the plane is oblique
    return pull.embed(3, (1, 2))


def _is_carried(matrix: Floats, axis: int) -> bool:
    row, column = np.delete(matrix[axis], axis), np.delete(matrix[:, axis], axis)
    shift = matrix[axis, -1]
    return bool(matrix[axis, axis] == 1 and not row[:-1].any() and not column.any() and shift == round(shift))


def stack_axis(pull: SliceAffines, dims: Sequence[str], spatial: Sequence[str]) -> int:
    """Position among `dims` of the axis that the slices of `pull` run along.

    A number counts the spatial axes for maps of one dimension less than the volume (slices
    of a stack), and all dims otherwise (volumes of a series).

    Raises: InvalidTransformError where there is no such axis or the dimensions do not fit.
    """
    lead = len(dims) - len(spatial)
    if isinstance(pull.axis, str):
        if pull.axis not in dims:
            raise InvalidTransformError(f"the transform runs along {pull.axis!r}, the array has {tuple(dims)}")
        position = list(dims).index(pull.axis)
    else:
        position = pull.axis + lead if pull.ndim == len(spatial) - 1 else pull.axis
        if not 0 <= position < len(dims):
            raise InvalidTransformError(f"the transform runs along axis {pull.axis}, the array has {tuple(dims)}")
    inside = len(spatial) - (position >= lead)
    if pull.ndim != inside:
        raise InvalidTransformError(
            f"slices along {dims[position]!r} of an array with dims {tuple(dims)} are {inside}D, "
            f"the transform is {pull.ndim}D"
        )
    return position


def _slice_map(pull: SliceAffines, out: Grid, source: Grid, dims: Sequence[str]) -> IndexMap:
    lead = len(dims) - source.ndim
    stack = stack_axis(pull, dims, source.names)
    inside = [k for k in range(source.ndim) if k + lead != stack]
    out_plane, source_plane = out.take(inside), source.take(inside)
    offset, count = 0, len(pull)
    if stack >= lead:
        offset, count = _stack_offset(out, source, stack - lead), out.shape[stack - lead]
        if len(pull) != source.shape[stack - lead]:
            raise ShapeMismatchError(
                f"the transform has {len(pull)} slices, the source {source.shape[stack - lead]} along {dims[stack]!r}"
            )
    if pull.start != 0 or offset < 0 or offset + count > len(pull):
        raise ShapeMismatchError(
            f"the transform has slices {pull.start}..{pull.stop - 1}, the output needs {count} from {offset} "
            f"along {dims[stack]!r}"
        )
    m = np.stack([index_matrix(pull.matrices[i + offset], out_plane, source_plane) for i in range(count)])
    offsets = tuple(offset if k == stack else 0 for k in range(len(dims)))
    return IndexMap(m, tuple(k + lead for k in inside), offsets, stack)


def _stack_offset(out: Grid, source: Grid, axis: int) -> int:
    """Source slice minus output slice; the slices of the two must coincide."""
    o, s = out.take((axis,)), source.take((axis,))
    ends = s.index(o.world(np.array([[0.0], [out.shape[axis] - 1.0]])))[:, 0]
    first = round(float(ends[0]))
    if np.abs(ends - [first, first + out.shape[axis] - 1]).max() > 1e-3:
        raise GridError(
            f"axis {source.names[axis]}: the output's slices, at source indices {ends.tolist()}, are not slices of the "
            "source; a transform of slices keeps them in place"
        )
    return first
