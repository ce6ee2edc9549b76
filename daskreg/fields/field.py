"""`DisplacementField`: points move by vectors between the nodes of a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from daskreg.errors import InvalidTransformError, OptionError, UnitError, check_flags
from daskreg.fields.chain import FieldPart, Part
from daskreg.fields.transform import FieldTransform
from daskreg.fields.vectors import Vectors, vectors_of
from daskreg.geometry import Grid, canonical_unit

_MOST_NUMBERS = 1_000_000
"""Numbers of a field that a JSON file takes."""
ORDERS = (1, 3)
ANY_UNIT = "any"


@dataclass(frozen=True, eq=False, repr=False)
class DisplacementField(FieldTransform):
    """p -> p + u(p), with u interpolated between vectors at the nodes of a grid.

    Where u is not known it is zero: beyond half a spacing outside the outermost nodes (order 1, as ITK's
    DisplacementFieldTransform), outside the second and the last but one node (order 3, as ITK's BSplineTransform).

    Args:
        vectors: (D, *grid.shape), world units, array order (component 0 along z, or y in 2D): NumPy, Dask, Zarr or a
            DataArray. What is stored stays there and is read block by block. order=3: coefficients of
            cubic B-splines.
        grid: of the nodes, of any spacing, origin and direction; usually far coarser than an image.
        order: 1, linear between the nodes, or 3, cubic B-splines.
        unit: of the vectors; None: that of the grid. "any": the field takes the unit of what it is used with, as
            those of files do that state none.
        inverted: the inverse map, p + u(p) -> p.

    Raises: ShapeMismatchError; InvalidTransformError for vectors that are not finite (stored ones: when they are
        first used) or no real numbers; UnitError where vectors and grid have different units.
    """

    kind: ClassVar[str] = "displacement-field"
    vectors: Any
    grid: Grid
    order: int = field(default=1, kw_only=True)
    unit: str | None = field(default=None, kw_only=True)
    inverted: bool = field(default=False, kw_only=True)
    axes: tuple[str, ...] | None = field(default=None, init=False)
    axis: int | str = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_flags(inverted=self.inverted)
        check_field(self.grid, self.order, self.unit)
        object.__setattr__(self, "vectors", vectors_of(self.vectors, self.grid))
        object.__setattr__(self, "order", int(self.order))
        object.__setattr__(self, "unit", None if self.unit == ANY_UNIT else self.grid.unit)

    @property
    def ndim(self) -> int:
        return self.grid.ndim

    @property
    def slices(self) -> None:
        return None

    def chain(self, first: int, count: int) -> list[Part]:
        del first, count
        vectors: Vectors = self.vectors
        return [FieldPart(vectors.source, vectors.bounds, self.grid, self.order, self.inverted)]

    def inverse(self) -> DisplacementField:
        """The map the other way, which is solved point by point where it is used."""
        return DisplacementField(
            self.vectors, self.grid, order=self.order, unit=self.unit or ANY_UNIT, inverted=not self.inverted
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": self.kind,
            **field_dict(self.vectors, self.grid, self.order),
            "inverted": self.inverted,
            "any_unit": self.unit is None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DisplacementField:
        return cls(*field_from(data), order=data["order"], unit=unit_of(data), inverted=data.get("inverted", False))

    def __repr__(self) -> str:
        return f"{self._name}({describe_field(self.vectors, self.grid, self.order)})"

    @property
    def _name(self) -> str:
        return ("inverse of a " if self.inverted else "") + "DisplacementField"


def check_field(grid: Grid, order: int, unit: str | None) -> None:
    """Raise OptionError, UnitError or InvalidTransformError for options that make no field."""
    if not isinstance(grid, Grid):
        raise OptionError(f"grid must be a Grid of the nodes, not {type(grid).__name__}")
    if order not in ORDERS:
        raise OptionError(f"order={order!r}: use 1 (linear between the nodes) or 3 (coefficients of cubic B-splines)")
    if grid.ndim not in (2, 3):
        raise InvalidTransformError(f"displacement fields have 2 or 3 dimensions, not {grid.ndim}")
    if unit not in {None, ANY_UNIT} and canonical_unit(unit) != grid.unit:
        raise UnitError(f"the vectors are in {canonical_unit(unit)}, the grid of their nodes in {grid.unit}")
    if order == 3 and min(grid.shape) < 4:
        raise InvalidTransformError(f"cubic B-splines need 4 nodes along each axis, not {grid.shape}")


def describe_field(vectors: Vectors, grid: Grid, order: int) -> str:
    """Nodes, kind and length of the vectors, as far as they are known without reading."""
    nodes = " x ".join(map(str, grid.shape))
    kind = "linear" if order == 1 else "cubic B-spline"
    text = f"{nodes} nodes {' x '.join(f'{s:.4g}' for s in grid.spacing)} {grid.unit} apart, {kind}"
    if vectors.in_memory:
        low, high = vectors.bounds.limits
        text += f", up to {np.maximum(-low, high).max():.4g} along an axis"
    return text


def field_dict(vectors: Vectors, grid: Grid, order: int) -> dict[str, Any]:
    """Vectors and grid as plain numbers.

    Raises: InvalidTransformError for fields that are too large for a JSON file.
    """
    size = int(np.prod(vectors.source.shape))
    if size > _MOST_NUMBERS:
        raise InvalidTransformError(
            f"a field of {size} numbers is too large for a JSON file: save it as .zarr, or for other tools as .h5, "
            ".nii.gz, .mha or .nrrd"
        )
    values = vectors.read()
    return {"vectors": values.tolist(), "dtype": values.dtype.name, "grid": grid_dict(grid), "order": order}


def grid_dict(grid: Grid) -> dict[str, Any]:
    return {
        "shape": list(grid.shape),
        "spacing": list(grid.spacing),
        "origin": list(grid.origin),
        "direction": grid.direction_matrix.tolist(),
        "unit": grid.unit,
        "axes": list(grid.names),
    }


def unit_of(data: Mapping[str, Any]) -> str | None:
    """The `unit` of a field in a file, as it is passed to the constructor."""
    return ANY_UNIT if data.get("any_unit") else None


def field_from(data: Mapping[str, Any]) -> tuple[Any, Grid]:
    """Vectors and grid of what `field_dict` gave."""
    grid, vectors = data["grid"], data["vectors"]
    if not hasattr(vectors, "shape"):
        vectors = np.asarray(vectors, dtype=data.get("dtype", "float64"))
    made = Grid(grid["shape"], grid["spacing"], grid["origin"], grid["direction"], grid["unit"], grid["axes"])
    return vectors, made
