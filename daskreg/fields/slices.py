"""`SliceDisplacements`: a displacement field for each slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from daskreg.errors import check_flags
from daskreg.fields.chain import FieldPart, Part
from daskreg.fields.field import ANY_UNIT, check_field, describe_field, field_dict, field_from, unit_of
from daskreg.fields.transform import FieldTransform
from daskreg.fields.vectors import Vectors, vectors_of
from daskreg.geometry import Grid
from daskreg.geometry.slices import whole_number


@dataclass(frozen=True, eq=False, repr=False)
class SliceDisplacements(FieldTransform):
    """A displacement field for each slice of a stack, or each volume of a series, all with nodes at the same places.

    Args:
        vectors: (N, D, *grid.shape), world units, array order; see `DisplacementField`.
        grid: of the nodes in the plane of the slices.
        axis: number of the axis of the slices in the volume, or its name.
        order, unit, inverted: see `DisplacementField`.

    Raises: see `DisplacementField`.
    """

    kind: ClassVar[str] = "slice-displacements"
    vectors: Any
    grid: Grid
    axis: int | str = 0
    order: int = field(default=1, kw_only=True)
    unit: str | None = field(default=None, kw_only=True)
    inverted: bool = field(default=False, kw_only=True)
    axes: tuple[str, ...] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_flags(inverted=self.inverted)
        check_field(self.grid, self.order, self.unit)
        if not isinstance(self.axis, str):
            object.__setattr__(self, "axis", whole_number(self.axis, "axis", negative=True))
        object.__setattr__(self, "vectors", vectors_of(self.vectors, self.grid, lead=1))
        object.__setattr__(self, "order", int(self.order))
        object.__setattr__(self, "unit", None if self.unit == ANY_UNIT else self.grid.unit)

    @property
    def ndim(self) -> int:
        return self.grid.ndim

    @property
    def slices(self) -> int:
        vectors: Vectors = self.vectors
        return int(vectors.source.shape[0])

    def __len__(self) -> int:
        return self.slices

    def chain(self, first: int, count: int) -> list[Part]:
        del count
        vectors: Vectors = self.vectors
        part = FieldPart(vectors.source, vectors.bounds, self.grid, self.order, self.inverted, sliced=True, first=first)
        return [part]

    def inverse(self) -> SliceDisplacements:
        """The maps the other way, solved point by point where they are used."""
        return SliceDisplacements(
            self.vectors, self.grid, self.axis, order=self.order, unit=self.unit or ANY_UNIT, inverted=not self.inverted
        )

    def to_dict(self) -> dict[str, Any]:
        numbers = field_dict(self.vectors, self.grid, self.order)
        facts = {"axis": self.axis, "inverted": self.inverted, "any_unit": self.unit is None}
        return {"type": self.kind, **numbers, **facts}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SliceDisplacements:
        vectors, grid = field_from(data)
        options = {"order": data["order"], "unit": unit_of(data), "inverted": data.get("inverted", False)}
        return cls(vectors, grid, data.get("axis", 0), **options)

    def __repr__(self) -> str:
        name = "inverse of SliceDisplacements" if self.inverted else "SliceDisplacements"
        return f"{name}({self.slices} slices, {describe_field(self.vectors, self.grid, self.order)})"
