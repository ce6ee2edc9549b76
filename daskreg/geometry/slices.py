"""`SliceAffines`: one affine map for each index along an axis."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import GridError, InvalidTransformError, OptionError, ShapeMismatchError
from daskreg.geometry.affine import Affine, common_axes
from daskreg.geometry.grid import Grid, index_matrix
from daskreg.geometry.index_map import AffineIndexMap
from daskreg.geometry.notebook_table import table
from daskreg.geometry.parameters import parameters_from_matrix
from daskreg.geometry.transform import Transform, checked_axes, checked_matrices
from daskreg.geometry.units import canonical_unit, common_unit
from daskreg.geometry.warped_bounds import WarpedBounds

Floats = NDArray[np.float64]
_T = TypeVar("_T", Affine, "SliceAffines")


@dataclass(frozen=True, eq=False, repr=False)
class SliceAffines(Transform):
    """Maps of the slices of a stack, or of the volumes of a series.

    `matrices[i]` acts on the world of slice `start + i`, whose D axes are those of the
    array without `axis`. Slices stay at their places along `axis`.

    Args:
        matrices: (N, D+1, D+1) homogeneous, array order.
        axis: number of the axis in the array (its spatial dims, where D is one less than
            their number), or its name, such as "z" or "t".
        axes: names of the D axes that the matrices act on.
        unit: of the world; None takes the unit of the grid or transform that it is used with.
        start: index of the first slice that `matrices` holds.
    """

    kind: ClassVar[str] = "slice-affines"
    matrices: Floats
    axis: int | str = 0
    axes: tuple[str, ...] | None = None
    unit: str | None = None
    start: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrices", checked_matrices(self.matrices, 3))
        if not isinstance(self.axis, str):
            object.__setattr__(self, "axis", whole_number(self.axis, "axis"))
        object.__setattr__(self, "start", whole_number(self.start, "start"))
        object.__setattr__(self, "axes", checked_axes(self.axes, self.ndim))
        object.__setattr__(self, "unit", None if self.unit is None else canonical_unit(self.unit))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SliceAffines:
        return cls(data["matrices"], data.get("axis", 0), data.get("axes"), data.get("unit"), data.get("start", 0))

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": self.kind,
            "matrices": self.matrices.tolist(),
            "axis": self.axis,
            "axes": None if self.axes is None else list(self.axes),
            "unit": self.unit,
            "start": self.start,
        }

    @property
    def ndim(self) -> int:
        """Dimensions of one slice."""
        return int(self.matrices.shape[-1]) - 1

    @property
    def array_ndim(self) -> int:
        return self.ndim + 1

    @property
    def stop(self) -> int:
        """One more than the number of the last slice."""
        return self.start + len(self.matrices)

    def __len__(self) -> int:
        return len(self.matrices)

    def __getitem__(self, index: int) -> Affine:
        """The map of slice `index`, as numbered in the array."""
        if not self.start <= index < self.stop:
            raise IndexError(f"slice {index} is not among {self.start}..{self.stop - 1}")
        return Affine(self.matrices[index - self.start], self.axes, self.unit)

    def __iter__(self) -> Iterator[Affine]:
        return (self[i] for i in range(self.start, self.stop))

    def __call__(self, points: ArrayLike, index: ArrayLike | None = None) -> Floats:
        """Where (..., D) world points go that lie in the slices `index` (...), within these slices."""
        if index is None:
            raise OptionError("give index=, the slice of each point: every slice has a map of its own")
        p = np.asarray(points, dtype=np.float64)
        if p.shape[-1:] != (self.ndim,):
            raise ShapeMismatchError(f"points of shape (N, {self.ndim}) are needed, not {p.shape}")
        i = np.asarray(index, dtype=np.intp)
        if np.any((i < self.start) | (i >= self.stop)):
            raise IndexError(f"slices {i.min()}..{i.max()} are not all among {self.start}..{self.stop - 1}")
        m = self.matrices[i - self.start]
        return np.asarray(np.einsum("...ij,...j->...i", m[..., :-1, :-1], p) + m[..., :-1, -1])

    def inverse(self) -> SliceAffines:
        return self._with(np.asarray(np.linalg.inv(self.matrices), dtype=np.float64))

    def index_map(self, out: Grid, source: Grid, dims: Sequence[str]) -> AffineIndexMap:
        """How `out` is sampled from `source`; see `Transform.index_map`.

        A numbered `axis` counts the spatial axes for maps of one dimension less than the volume
        (slices of a stack), and all dims otherwise (volumes of a series).

        Raises: also GridError where the output's slices are not slices of the source.
        """
        self.check_grids(out, source)
        planes = slice_planes(self, out, source, dims)
        offset = planes.offset
        m = np.stack([index_matrix(self.matrices[i + offset], planes.out, planes.source) for i in range(planes.count)])
        return AffineIndexMap(m, planes.sampled, planes.offsets, planes.stack)

    def warped_bounds(self, source: Grid, dims: Sequence[str]) -> WarpedBounds:
        stack = slice_position(self, dims, source.names) - (len(dims) - source.ndim)
        inside = [k for k in range(source.ndim) if k != stack]
        return WarpedBounds.of_matrices(source, inside, self.inverse().matrices)

    def to_matrices(self) -> Floats:
        return self.matrices

    def restrict(self, start: int, stop: int) -> SliceAffines:
        """Only the slices `start <= i < stop`, with the same indices."""
        if not self.start <= start < stop <= self.stop:
            raise ShapeMismatchError(f"slices {start}..{stop - 1} are not among {self.start}..{self.stop - 1}")
        return SliceAffines(
            self.matrices[start - self.start : stop - self.start], self.axis, self.axes, self.unit, start
        )

    def __matmul__(self, other: object) -> SliceAffines:
        """Slice by slice: `(a @ b)[i] == a[i] @ b[i]`; an Affine is the same for every slice."""
        if isinstance(other, Affine):
            return self._composed(self.matrices @ _same_ndim(self, other).matrix, other)
        if isinstance(other, SliceAffines):
            if (len(self), self.start, self.axis) != (len(other), other.start, other.axis):
                raise ShapeMismatchError(
                    f"{len(self)} slices from {self.start} along {self.axis!r} do not compose with "
                    f"{len(other)} from {other.start} along {other.axis!r}"
                )
            return self._composed(self.matrices @ _same_ndim(self, other).matrices, other)
        return NotImplemented

    def __rmatmul__(self, other: object) -> SliceAffines:
        if isinstance(other, Affine):
            return self._composed(_same_ndim(self, other).matrix @ self.matrices, other)
        return NotImplemented

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SliceAffines):
            return NotImplemented
        mine, theirs = (
            (s.axis, s.axes, s.unit, s.start, s.matrices.shape, s.matrices.tobytes()) for s in (self, other)
        )
        return mine == theirs

    def __hash__(self) -> int:
        return hash((self.matrices.tobytes(), self.axis, self.axes, self.unit, self.start))

    def __repr__(self) -> str:
        shifts = np.abs(self.matrices[:, :-1, -1]).max()
        return (
            f"SliceAffines({len(self)} slices along {self.axis!r}, {self.ndim}D, "
            f"{self.unit or 'any unit'}, offsets up to {shifts:.4g})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: the range of each parameter along the slices."""
        if self.ndim not in (2, 3):
            return table(repr(self), [])
        found = [parameters_from_matrix(m) for m in self.matrices]
        rows = []
        for name in found[0]:
            values = np.array([row[name] for row in found])
            values = np.degrees(np.unwrap(values)) if name in ("theta", "rx", "ry", "rz") else values
            unit = " (degrees)" if name in ("theta", "rx", "ry", "rz") else ""
            rows.append([name + unit, *(f"{v:.5g}" for v in (values.min(), values.max()))])
        caption = f"{len(self)} maps of slices along {self.axis}, {self.ndim}D, {self.unit or 'any unit'}"
        return table(caption, rows, ("", "smallest", "largest"))

    def _with(self, matrices: Floats) -> SliceAffines:
        return SliceAffines(matrices, self.axis, self.axes, self.unit, self.start)

    def _composed(self, matrices: Floats, other: Affine | SliceAffines) -> SliceAffines:
        unit = common_unit(self.unit, other.unit, "composed transforms")
        return SliceAffines(matrices, self.axis, common_axes(self.axes, other.axes), unit, self.start)


class Sliced(Protocol):
    """A transform with a map of its own for each slice `start <= i < stop` along `axis`."""

    @property
    def axis(self) -> int | str: ...
    @property
    def ndim(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...


@dataclass(frozen=True)
class SlicePlanes:
    """How a transform of slices meets two grids.

    Args:
        out, source: grids of the planes.
        sampled: positions of the axes of the planes among the dims.
        offsets: for each dim, source index minus output index (0 along sampled axes).
        stack: position of the axis of the slices among the dims.
        offset, count: the first slice that the output needs, and how many.
    """

    out: Grid
    source: Grid
    sampled: tuple[int, ...]
    offsets: tuple[int, ...]
    stack: int
    offset: int
    count: int


def slice_planes(transform: Sliced, out: Grid, source: Grid, dims: Sequence[str]) -> SlicePlanes:
    """The planes that a transform of slices acts on.

    Raises: GridError where the output's slices are not slices of the source; ShapeMismatchError for other slices
        than the transform has; InvalidTransformError.
    """
    lead = len(dims) - source.ndim
    stack = slice_position(transform, dims, source.names)
    inside = [k for k in range(source.ndim) if k + lead != stack]
    held = transform.stop - transform.start
    offset, count = 0, held
    if stack >= lead:
        offset, count = slice_offset(out, source, stack - lead), out.shape[stack - lead]
        if held != source.shape[stack - lead]:
            raise ShapeMismatchError(
                f"the transform has {held} slices, the source {source.shape[stack - lead]} along {dims[stack]!r}"
            )
    if transform.start != 0 or offset < 0 or offset + count > held:
        raise ShapeMismatchError(
            f"the transform has slices {transform.start}..{transform.stop - 1}, the output needs {count} from {offset} "
            f"along {dims[stack]!r}"
        )
    offsets = tuple(offset if k == stack else 0 for k in range(len(dims)))
    sampled = tuple(k + lead for k in inside)
    return SlicePlanes(out.take(inside), source.take(inside), sampled, offsets, stack, offset, count)


def slice_position(transform: Sliced, dims: Sequence[str], spatial: Sequence[str]) -> int:
    """Position among `dims` of the axis that the slices run along.

    Raises: InvalidTransformError where there is no such axis or the dimensions do not fit.
    """
    lead = len(dims) - len(spatial)
    if isinstance(transform.axis, str):
        if transform.axis not in dims:
            raise InvalidTransformError(f"the transform runs along {transform.axis!r}, the array has {tuple(dims)}")
        position = list(dims).index(transform.axis)
    else:
        position = transform.axis + lead if transform.ndim == len(spatial) - 1 else transform.axis
        if not 0 <= position < len(dims):
            raise InvalidTransformError(f"the transform runs along axis {transform.axis}, the array has {tuple(dims)}")
    inside = len(spatial) - (position >= lead)
    if transform.ndim != inside:
        raise InvalidTransformError(
            f"slices along {dims[position]!r} of an array with dims {tuple(dims)} are {inside}D, "
            f"the transform is {transform.ndim}D"
        )
    return position


def whole_number(value: Any, what: str, *, negative: bool = False) -> int:
    """The number as an int. Raises: InvalidTransformError for another, or a negative one unless that is allowed."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InvalidTransformError(f"{what} must be a whole number, not {value!r}") from error
    if number < 0 and not negative:
        raise InvalidTransformError(f"{what} must not be negative, but is {number}")
    return number


def _same_ndim(mine: SliceAffines, other: _T) -> _T:
    if mine.ndim != other.ndim:
        raise ShapeMismatchError(f"{mine.ndim}D slices and a {other.ndim}D transform do not compose")
    return other


def slice_offset(out: Grid, source: Grid, axis: int) -> int:
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
