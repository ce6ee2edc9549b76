"""`Affine`: one affine map of world points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import InvalidTransformError, OptionError, ShapeMismatchError
from daskreg.geometry.parameters import matrix_from_parameters, parameters_from_matrix
from daskreg.geometry.transform import Transform, checked_axes, checked_matrices
from daskreg.geometry.units import canonical_unit, common_unit

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Affine(Transform):
    """A map of points, `a_from_b(points_of_b) -> points_of_a`, in array order.

    Names cancel: `a_from_c = a_from_b @ b_from_c`. Point sets are (N, D) or (D,), in
    world units, array order (z, y, x).

    Args:
        matrix: (D+1, D+1) homogeneous, or (D, D+1).
        axes: names of the axes, such as ("y", "x").
        unit: of the world; None takes the unit of what it meets.

    Raises: InvalidTransformError for a singular, non-finite or wrong-shaped matrix.
    """

    matrix: Floats
    axes: tuple[str, ...] | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", checked_matrices(self.matrix, 2))
        object.__setattr__(self, "axes", checked_axes(self.axes, self.ndim))
        object.__setattr__(self, "unit", None if self.unit is None else canonical_unit(self.unit))

    @classmethod
    def identity(cls, ndim: int, *, unit: str | None = None) -> Affine:
        return cls(np.eye(ndim + 1), unit=unit)

    @classmethod
    def translation(
        cls, *, x: float = 0.0, y: float = 0.0, z: float | None = None, ndim: int | None = None, unit: str | None = None
    ) -> Affine:
        """A shift by named amounts; 2D unless `z` is given or `ndim=3`."""
        ndim = ndim or (2 if z is None else 3)
        if ndim == 2 and z is not None:
            raise OptionError("a 2D translation has no z")
        shift = {"tx": x, "ty": y} | ({"tz": z or 0.0} if ndim == 3 else {})
        return cls.from_parameters(shift, ndim=ndim, unit=unit)

    @classmethod
    def rotation(
        cls,
        theta: float | None = None,
        *,
        rx: float = 0.0,
        ry: float = 0.0,
        rz: float = 0.0,
        centre: ArrayLike | None = None,
        unit: str | None = None,
    ) -> Affine:
        """A rotation about `centre` (world, array order; default the origin), in radians.

        2D: `theta`, which turns x towards y. 3D: R = Rz . Ry . Rx of `rx, ry, rz`.
        """
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

        `ndim` is told by the names (`theta` is 2D, `rz` 3D) where it is not given.
        """
        values = {**(parameters or {}), **named}
        if ndim is None:
            solid = any(n in ("rx", "ry", "rz", "tz", "sz") or len(n) == 4 for n in values)
            ndim = np.size(centre) if centre is not None else 3 if solid else 2
        return cls(matrix_from_parameters(values, ndim, centre), unit=unit)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Affine:
        return cls(data["matrix"], data.get("axes"), data.get("unit"))

    def to_dict(self) -> dict[str, Any]:
        axes = None if self.axes is None else list(self.axes)
        return {"type": "affine", "matrix": self.matrix.tolist(), "axes": axes, "unit": self.unit}

    @property
    def ndim(self) -> int:
        return int(self.matrix.shape[0]) - 1

    @property
    def linear(self) -> Floats:
        return self.matrix[:-1, :-1]

    @property
    def offset(self) -> Floats:
        return self.matrix[:-1, -1]

    @property
    def is_identity(self) -> bool:
        return bool(np.allclose(self.matrix, np.eye(self.ndim + 1), rtol=0, atol=1e-12))

    def __call__(self, points: ArrayLike) -> Floats:
        """Where (..., D) world points go. Of a Dask array: lazily, as one."""
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

    def decompose(self, centre: ArrayLike | None = None) -> dict[str, float]:
        """Named parameters of M = T . R . Sh . S about `centre` (radians, world units).

        Shear is upper triangular, which makes them unique; see `geometry.parameters`.
        """
        return parameters_from_matrix(self.matrix, centre)

    def embed(self, ndim: int, axes: Sequence[int]) -> Affine:
        """This map on some axes of an `ndim`-dimensional world, identity on the others."""
        m = np.eye(ndim + 1)
        index = [*axes, ndim]
        m[np.ix_(index, index)] = self.matrix
        return Affine(m, unit=self.unit)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Affine):
            return NotImplemented
        same = self.axes == other.axes and self.unit == other.unit
        return same and bool(np.array_equal(self.matrix, other.matrix))

    def __hash__(self) -> int:
        return hash((self.matrix.tobytes(), self.axes, self.unit))

    def __repr__(self) -> str:
        return f"Affine({self.ndim}D, {self.unit or 'any unit'}: {self.describe()})"

    def describe(self, centre: ArrayLike | None = None) -> str:
        """The parameters that do something, angles in degrees."""
        if self.ndim not in (2, 3):
            return f"matrix {self.matrix.tolist()}"
        words = []
        for name, value in self.decompose(centre).items():
            turns = name == "theta" or name in ("rx", "ry", "rz")
            if abs(value - name.startswith("s") * (not name.startswith("sh"))) > 1e-12:
                words.append(f"{name} {np.degrees(value):.6g} deg" if turns else f"{name} {value:.6g}")
        return ", ".join(words) or "identity"


def as_affine(value: object, ndim: int | None = None, what: str = "transform") -> Affine:
    """An Affine from one, from a fit that holds one, or from a matrix.

    Raises: InvalidTransformError when it is none of these or not of `ndim` dimensions (None: any).
    """
    held: Any = getattr(value, "moving_from_fixed", getattr(value, "target_from_source", value))
    if isinstance(held, Transform) and not isinstance(held, Affine):
        raise InvalidTransformError(f"{what} must be one Affine, not {type(held).__name__}")
    affine = held if isinstance(held, Affine) else Affine(held)
    if ndim is not None and affine.ndim != ndim:
        raise InvalidTransformError(f"{what} is {affine.ndim}D where {ndim}D is needed")
    return affine


def common_axes(a: tuple[str, ...] | None, b: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The axis names that both share; None meets any."""
    if a is not None and b is not None and a != b:
        raise ShapeMismatchError(f"transforms on axes {a} and {b} do not compose")
    return b if a is None else a
