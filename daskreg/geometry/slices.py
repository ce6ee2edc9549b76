"""`SliceAffines`: one affine map for each index along an axis."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import InvalidTransformError, ShapeMismatchError
from daskreg.geometry.affine import Affine, common_axes
from daskreg.geometry.transform import Transform, checked_axes, checked_matrices
from daskreg.geometry.units import canonical_unit, common_unit

Floats = NDArray[np.float64]
_T = TypeVar("_T", Affine, "SliceAffines")


@dataclass(frozen=True, eq=False, repr=False)
class SliceAffines(Transform):
    """Slices of a stack, or volumes of a series, each with a map of its own.

    `matrices[i]` acts on the world of slice `start + i`, whose D axes are those of the
    array without `axis`. Slices stay in their place along `axis`.

    Args:
        matrices: (N, D+1, D+1) homogeneous, array order.
        axis: number of the axis in the array (its spatial dims, where D is one less than
            their number), or its name, such as "z" or "t".
        axes: names of the D axes that the matrices act on.
        unit: of the world; None takes the unit of what it meets.
        start: index of the first slice that `matrices` holds.
    """

    matrices: Floats
    axis: int | str = 0
    axes: tuple[str, ...] | None = None
    unit: str | None = None
    start: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrices", checked_matrices(self.matrices, 3))
        if not isinstance(self.axis, str):
            object.__setattr__(self, "axis", _number(self.axis, "axis"))
        object.__setattr__(self, "start", _number(self.start, "start"))
        object.__setattr__(self, "axes", checked_axes(self.axes, self.ndim))
        object.__setattr__(self, "unit", None if self.unit is None else canonical_unit(self.unit))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SliceAffines:
        return cls(data["matrices"], data.get("axis", 0), data.get("axes"), data.get("unit"), data.get("start", 0))

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": "slice-affines",
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
    def stop(self) -> int:
        return self.start + len(self.matrices)

    def __len__(self) -> int:
        return len(self.matrices)

    def __getitem__(self, index: int) -> Affine:
        """The map of slice `index`, counted as in the array."""
        if not self.start <= index < self.stop:
            raise IndexError(f"slice {index} is not among {self.start}..{self.stop - 1}")
        return Affine(self.matrices[index - self.start], self.axes, self.unit)

    def __iter__(self) -> Iterator[Affine]:
        return (self[i] for i in range(self.start, self.stop))

    def __call__(self, points: ArrayLike, index: ArrayLike) -> Floats:
        """Where (..., D) points of the slices `index` (...) go, within their slices."""
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

    def restrict(self, start: int, stop: int) -> SliceAffines:
        """Only the slices `start <= i < stop`, under their own indices."""
        if not self.start <= start < stop <= self.stop:
            raise ShapeMismatchError(f"slices {start}..{stop - 1} are not among {self.start}..{self.stop - 1}")
        return SliceAffines(
            self.matrices[start - self.start : stop - self.start], self.axis, self.axes, self.unit, start
        )

    def __matmul__(self, other: object) -> SliceAffines:
        """Slice by slice: `(a @ b)[i] == a[i] @ b[i]`; one Affine serves every slice."""
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

    def _with(self, matrices: Floats) -> SliceAffines:
        return SliceAffines(matrices, self.axis, self.axes, self.unit, self.start)

    def _composed(self, matrices: Floats, other: Affine | SliceAffines) -> SliceAffines:
        unit = common_unit(self.unit, other.unit, "composed transforms")
        return SliceAffines(matrices, self.axis, common_axes(self.axes, other.axes), unit, self.start)


def _number(value: Any, what: str) -> int:
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InvalidTransformError(f"{what} must be a whole number, not {value!r}") from error
    if number < 0:
        raise InvalidTransformError(f"{what} must not be negative, but is {number}")
    return number


def _same_ndim(mine: SliceAffines, other: _T) -> _T:
    if mine.ndim != other.ndim:
        raise ShapeMismatchError(f"{mine.ndim}D slices and a {other.ndim}D transform do not compose")
    return other
