"""`Affine`: one affine map of world points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import InvalidTransformError, OptionError, ShapeMismatchError, check_flags
from daskreg.geometry.grid import Grid, default_axes, index_matrix
from daskreg.geometry.index_map import AffineIndexMap
from daskreg.geometry.notebook_table import table
from daskreg.geometry.parameters import XYZ, matrix_from_parameters, parameters_from_matrix
from daskreg.geometry.transform import Transform, checked_axes, checked_matrices
from daskreg.geometry.units import canonical_unit, common_unit
from daskreg.geometry.warped_bounds import WarpedBounds

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Affine(Transform):
    """A map of points, `a_from_b(points_of_b) -> points_of_a`, in array order unless `axes` say otherwise.

    Names cancel: `a_from_c = a_from_b @ b_from_c`. Point sets are (N, D) or (D,), in
    world units, array order (z, y, x).

    Args:
        matrix: (D+1, D+1) homogeneous, or (D, D+1).
        axes: names of the axes, such as ("y", "x").
        unit: of the world; None takes the unit of the grid or transform that it is used with.

    Raises: InvalidTransformError for a singular, non-finite or wrong-shaped matrix.
    """

    kind: ClassVar[str] = "affine"
    matrix: Floats
    axes: tuple[str, ...] | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", checked_matrices(self.matrix, 2))
        object.__setattr__(self, "axes", checked_axes(self.axes, self.ndim))
        object.__setattr__(self, "unit", None if self.unit is None else canonical_unit(self.unit))

    @classmethod
    def identity(cls, ndim: int, *, unit: str | None = None) -> Affine:
        """The map that leaves every point where it is, in `ndim` dimensions; `unit` is that of its points."""
        return cls(np.eye(ndim + 1), unit=unit)

    @classmethod
    def translation(
        cls,
        shift: ArrayLike | None = None,
        *,
        x: float = 0.0,
        y: float = 0.0,
        z: float | None = None,
        ndim: int | None = None,
        unit: str | None = None,
    ) -> Affine:
        """A shift: (D,) in array order (z, y, x), or by named amounts; then 2D unless `z` is given or `ndim=3`."""
        if shift is not None:
            return cls._shifted(np.asarray(shift, dtype=np.float64), unit, named=bool(x or y or z or ndim))
        ndim = ndim or (2 if z is None else 3)
        if ndim == 2 and z is not None:
            raise OptionError("a 2D translation has no z")
        amounts = {"tx": x, "ty": y} | ({"tz": z or 0.0} if ndim == 3 else {})
        return cls.from_parameters(amounts, ndim=ndim, unit=unit)

    @classmethod
    def _shifted(cls, shift: Floats, unit: str | None, *, named: bool) -> Affine:
        if named:
            raise OptionError("give the shift as one array, or by named amounts, not both")
        if shift.ndim != 1:
            raise ShapeMismatchError(f"a shift has one number for each axis, not shape {shift.shape}")
        matrix = np.eye(len(shift) + 1)
        matrix[:-1, -1] = shift
        return cls(matrix, unit=unit)

    @classmethod
    def rotation(
        cls,
        theta: float | None = None,
        *,
        rx: float = 0.0,
        ry: float = 0.0,
        rz: float = 0.0,
        centre: ArrayLike | None = None,
        degrees: bool = False,
        unit: str | None = None,
    ) -> Affine:
        """A rotation about `centre` (world, array order; default the origin), in radians, or with `degrees` in degrees.

        2D: `theta`, which turns x towards y. 3D: R = Rz . Ry . Rx of `rx, ry, rz`.
        """
        check_flags(degrees=degrees)
        if degrees:
            theta = None if theta is None else float(np.radians(theta))
            rx, ry, rz = (float(np.radians(angle)) for angle in (rx, ry, rz))
        if theta is not None:
            if rx or ry or rz:
                raise OptionError("give theta (2D) or rx, ry, rz (3D), not both")
            return cls.from_parameters(ndim=2, centre=centre, unit=unit, theta=theta)
        return cls.from_parameters(ndim=3, centre=centre, unit=unit, rx=rx, ry=ry, rz=rz)

    @classmethod
    def from_parameters(
        cls,
        parameters: Mapping[str, float] | None = None,
        *,
        ndim: int | None = None,
        centre: ArrayLike | None = None,
        unit: str | None = None,
        **named: float,
    ) -> Affine:
        """M = T . R . Sh . S about `centre` from parameters by name (see `geometry.parameters`).

        Without `ndim`, the names decide (`theta` is 2D, `rz` 3D).
        """
        values = {**(parameters or {}), **named}
        if ndim is None:
            named_3d = any(n in ("rx", "ry", "rz", "tz", "sz") or len(n) == 4 for n in values)
            ndim = np.size(centre) if centre is not None else 3 if named_3d else 2
        return cls(matrix_from_parameters(values, ndim, centre), unit=unit)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Affine:
        return cls(data["matrix"], data.get("axes"), data.get("unit"))

    def to_dict(self) -> dict[str, Any]:
        axes = None if self.axes is None else list(self.axes)
        return {"type": self.kind, "matrix": self.matrix.tolist(), "axes": axes, "unit": self.unit}

    @property
    def ndim(self) -> int:
        return int(self.matrix.shape[0]) - 1

    @property
    def linear(self) -> Floats:
        """(D, D) the matrix without its translation, array order."""
        return self.matrix[:-1, :-1]

    @property
    def offset(self) -> Floats:
        """(D,) the translation: where the origin of the world goes, array order, world units."""
        return self.matrix[:-1, -1]

    @property
    def is_identity(self) -> bool:
        """Whether each entry of the matrix is within 1e-12 of that of the identity."""
        return bool(np.allclose(self.matrix, np.eye(self.ndim + 1), rtol=0, atol=1e-12))

    def __call__(self, points: ArrayLike, index: ArrayLike | None = None) -> Floats:
        """Where (..., D) world points go, in any slice. A Dask array of points gives a Dask array."""
        p: Any = points if hasattr(points, "map_blocks") else np.asarray(points, dtype=np.float64)
        if p.ndim == 0 or p.shape[-1] != self.ndim:
            raise ShapeMismatchError(f"points of shape (N, {self.ndim}) are needed, not {p.shape}")
        moved: Floats = p @ self.linear.T + self.offset
        return moved

    def __matmul__(self, other: object) -> Affine:
        """`(a @ b)(p) == a(b(p))`."""
        if not isinstance(other, Affine):
            return NotImplemented
        if other.ndim != self.ndim:
            raise ShapeMismatchError(f"a {self.ndim}D and a {other.ndim}D transform do not compose")
        return Affine(
            self.matrix @ other.matrix,
            common_axes(self.axes, other.axes),
            common_unit(self.unit, other.unit, "composed transforms"),
        )

    def inverse(self) -> Affine:
        return Affine(np.asarray(np.linalg.inv(self.matrix), dtype=np.float64), self.axes, self.unit)

    def index_map(self, out: Grid, source: Grid, dims: Sequence[str]) -> AffineIndexMap:
        """How `out` is sampled from `source`; see `Transform.index_map`.

        A 2D map on a volume acts in the plane of its last two axes, on every slice.
        """
        self.check_grids(out, source)
        pull, moved = self, self._axes_in(source)
        if len(moved) < source.ndim:
            for grid in (out, source):
                grid.take(moved)  # raises where the plane is oblique
            pull = self.embed(source.ndim, moved)
        matrix = index_matrix(pull.matrix, out, source)
        # A leading axis that is only shifted by whole voxels is carried: slices share weights.
        first = 0
        while source.ndim - first > 2 and _is_carried(matrix, first):
            first += 1
        keep = [*range(first, source.ndim), source.ndim]
        lead = len(dims) - source.ndim
        offsets = [0] * lead + [int(matrix[k, -1]) if k < first else 0 for k in range(source.ndim)]
        sampled = tuple(range(lead + first, lead + source.ndim))
        return AffineIndexMap(matrix[np.ix_(keep, keep)][None], sampled, tuple(offsets))

    def warped_bounds(self, source: Grid, dims: Sequence[str]) -> WarpedBounds:
        return WarpedBounds.of_matrices(source, self._axes_in(source), self.inverse().matrix[None])

    def to_matrices(self) -> Floats:
        return self.matrix

    def decompose(self, centre: ArrayLike | None = None) -> dict[str, float]:
        """Named parameters of M = T . R . Sh . S about `centre` (radians, world units).

        Shear is upper triangular, which makes them unique; see `geometry.parameters`. Where `axes` are x, y, z in
        another order than z, y, x, names and `centre` follow them.
        """
        order = list(range(self.ndim))
        if self.axes is not None and set(self.axes) == set(XYZ[: self.ndim]):
            order = [self.axes.index(name) for name in reversed(XYZ[: self.ndim])]
        index = [*order, self.ndim]
        if centre is not None and np.shape(centre) == (self.ndim,):  # another shape is an error that is raised below
            centre = np.asarray(centre)[order]
        return parameters_from_matrix(self.matrix[np.ix_(index, index)], centre)

    def embed(self, ndim: int, axes: Sequence[int]) -> Affine:
        """This map on some axes of an `ndim`-dimensional world, identity on the others."""
        m = np.eye(ndim + 1)
        index = [*axes, ndim]
        m[np.ix_(index, index)] = self.matrix
        return Affine(m, unit=self.unit)

    def _axes_in(self, source: Grid) -> list[int]:
        """The axes of a volume that it acts on."""
        if self.ndim == 2 and source.ndim == 3:
            return [1, 2]
        if self.ndim != source.ndim:
            raise InvalidTransformError(f"a {self.ndim}D transform does not apply to a volume with axes {source.names}")
        return list(range(source.ndim))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Affine):
            return NotImplemented
        same = self.axes == other.axes and self.unit == other.unit
        return same and bool(np.array_equal(self.matrix, other.matrix))

    def __hash__(self) -> int:
        return hash((self.matrix.tobytes(), self.axes, self.unit))

    def __repr__(self) -> str:
        return f"Affine({self.ndim}D, {self.unit or 'any unit'}: {self.describe()})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the parameters and the matrix."""
        axes = self.axes or default_axes(self.ndim)
        rows = [[f"to {axis}", *(f"{v:.6g}" for v in row)] for axis, row in zip(axes, self.matrix, strict=False)]
        header = ["", *(f"from {axis}" for axis in axes), f"shift ({self.unit or 'any unit'})"]
        return table(f"Affine, {self.ndim}D: {self.describe()}", rows, header)

    def describe(self, centre: ArrayLike | None = None) -> str:
        """The parameters that move points, angles in degrees."""
        if self.ndim not in (2, 3):
            return f"matrix {self.matrix.tolist()}"
        parts = []
        for name, value in self.decompose(centre).items():
            angle = name in ("theta", "rx", "ry", "rz")
            if abs(value - name.startswith("s") * (not name.startswith("sh"))) > 1e-12:
                parts.append(f"{name} {np.degrees(value):.6g} deg" if angle else f"{name} {value:.6g}")
        return ", ".join(parts) or "identity"


def common_axes(a: tuple[str, ...] | None, b: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The axis names that both share; None takes the other's."""
    if a is not None and b is not None and a != b:
        raise ShapeMismatchError(f"transforms on axes {a} and {b} do not compose")
    return b if a is None else a


def _is_carried(matrix: Floats, axis: int) -> bool:
    """Whether an index matrix only shifts an axis by whole voxels."""
    row, column = np.delete(matrix[axis], axis), np.delete(matrix[:, axis], axis)
    shift = matrix[axis, -1]
    return bool(matrix[axis, axis] == 1 and not row[:-1].any() and not column.any() and shift == round(shift))
