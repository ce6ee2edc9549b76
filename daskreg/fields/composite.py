"""`Composite`: transforms one after another, of which at least one is a displacement field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError, ShapeMismatchError
from daskreg.fields.chain import Part
from daskreg.fields.transform import FieldTransform, sliced_count
from daskreg.geometry import Affine, SliceAffines, Transform, common_unit
from daskreg.geometry.registry import kinds

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Composite(FieldTransform):
    """`a @ b @ c` of transforms of which some are displacement fields: c is applied first, then b, then a.

    Images are interpolated once, at the points that the whole chain leads to. Affine maps beside each other are one.

    Args:
        parts: two or more, in the order of the product.

    Raises: ShapeMismatchError for parts of different dimensions or slices, UnitError for mixed units.
    """

    kind: ClassVar[str] = "composite"
    parts: tuple[Transform, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", _collapsed(self.parts))
        if len(self.parts) < 2:
            raise InvalidTransformError("a composite needs at least two parts that do not collapse into one")
        if len({part.ndim for part in self.parts}) != 1:
            raise ShapeMismatchError(f"transforms of {[p.ndim for p in self.parts]} dimensions do not compose")
        _ = self.slices, self.unit

    @classmethod
    def of(cls, *transforms: Transform) -> Transform:
        """The product of transforms; where all collapse into one affine map, that one."""
        parts = _collapsed(transforms)
        return parts[0] if len(parts) == 1 else cls(parts)

    @property
    def ndim(self) -> int:
        return self.parts[0].ndim

    @property
    def unit(self) -> str | None:  # type: ignore[override]
        """The unit of the points of all parts; None where no part names one. Raises: UnitError where they differ."""
        unit = self.parts[0].unit
        for part in self.parts[1:]:
            unit = common_unit(unit, part.unit, "composed transforms")
        return unit

    @property
    def axes(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """Names of the axes of the points, array order, of the first part that names them; None where none does."""
        return next((part.axes for part in self.parts if part.axes is not None), None)

    @property
    def slices(self) -> int | None:
        return sliced_count(self.parts)[0]

    @property
    def axis(self) -> int | str:  # type: ignore[override]
        """The axis of a stack along which slices have maps of their own, by number or name."""
        return sliced_count(self.parts)[1]

    def chain(self, first: int, count: int) -> list[Part]:
        chain: list[Part] = []
        for part in reversed(self.parts):
            if isinstance(part, FieldTransform):
                chain += part.chain(first, count)
            elif isinstance(part, SliceAffines):
                chain.append(part.matrices[first : first + count])
            else:
                chain.append(part.to_matrices())
        return chain

    def inverse(self) -> Composite:
        return Composite(tuple(part.inverse() for part in reversed(self.parts)))

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.kind, "parts": [part.to_dict() for part in self.parts]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Composite:
        known = kinds()
        for part in data["parts"]:
            if part["type"] not in known or part["type"] == cls.kind:
                raise InvalidTransformError(f"a composite has no part of type {part['type']!r}")
        return cls(tuple(known[part["type"]].from_dict(part) for part in data["parts"]))

    def __repr__(self) -> str:
        return "Composite(" + " @ ".join(repr(part) for part in self.parts) + ")"


def _parts(transform: Transform) -> tuple[Transform, ...]:
    return transform.parts if isinstance(transform, Composite) else (transform,)


def _collapsed(parts: Sequence[Transform]) -> tuple[Transform, ...]:
    """Nested chains are opened, and affine maps beside each other become one."""
    made: list[Transform] = []
    for part in (inner for outer in parts for inner in _parts(outer)):
        affine = isinstance(part, Affine | SliceAffines)
        if made and affine and isinstance(made[-1], Affine | SliceAffines):
            made[-1] = made[-1] @ part
        else:
            made.append(part)
    return tuple(made)
