"""`Transform`: what every transform answers. The rest of the package is written against this."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import InvalidTransformError, ShapeMismatchError
from daskreg.geometry import registry
from daskreg.geometry.grid import Grid
from daskreg.geometry.index_map import IndexMap
from daskreg.geometry.units import common_unit
from daskreg.geometry.warped_bounds import WarpedBounds

Floats = NDArray[np.float64]

_MAX_CONDITION = 1e8
# It computes lazy volumes, and so lies far above; imported by name when it is asked for.
_JACOBIAN = "daskreg.fields.jacobian"


class Transform(ABC):
    """A map of points of the world, in array order (z, y, x).

    It answers: where do points go (`t(points)`); what is the inverse (`t.inverse()`); what is the map
    after another one (`t @ other`); how does an output grid pull from a source grid (`t.index_map`,
    which also says which source box an output box needs and what is left of the transform for that
    box); and where are the source's voxels brought (`t.warped_bounds`).

    A new kind of transform is one file: a subclass with a `kind`, which files name it by. It needs an
    `IndexMap` of its own where its pieces are not those of `AffineIndexMap`. Where it composes with
    the kinds that exist already, it says so in `__matmul__` and `__rmatmul__`: they return
    NotImplemented for what they do not know.

    Attributes:
        kind: the `type` of this class in files; None for a class that is not saved.
        unit: of the world; None takes the unit of the grid or transform that it is used with.
        axes: names of the axes that it acts on, or None.
    """

    kind: ClassVar[str | None] = None
    unit: str | None
    axes: tuple[str, ...] | None

    # A bare array does not say whether it is a matrix or points: `t @ array` is an error.
    __array_ufunc__ = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__dict__.get("kind") is not None:
            registry.register_kind(cls.__dict__["kind"], cls)

    @property
    @abstractmethod
    def ndim(self) -> int:
        """Dimensions of the points that it maps."""

    @property
    def array_ndim(self) -> int:
        """Axes of the smallest array that it warps: one more than `ndim` where slices have maps of their own."""
        return self.ndim

    @abstractmethod
    def __call__(self, points: ArrayLike, index: ArrayLike | None = None) -> Floats:
        """Where (..., D) world points go.

        Args:
            index: (...) the slice of each point, for a transform of slices; others do not need it.
        """

    @abstractmethod
    def __matmul__(self, other: object) -> Transform:
        """`(a @ b)(p) == a(b(p))`; NotImplemented where it does not know how, so that `other` is asked."""

    @abstractmethod
    def inverse(self) -> Transform:
        """The map the other way."""

    @abstractmethod
    def index_map(self, out: Grid, source: Grid, dims: Sequence[str]) -> IndexMap:
        """How an array on `out` is sampled from one on `source`, with this transform as the pull.

        Args:
            dims: names of the array's axes. They end with the axes of `source`; those in front
                (time, channel) are carried.

        Raises: InvalidTransformError or ShapeMismatchError where the transform does not fit the
            array; UnitError for mixed units.
        """

    @abstractmethod
    def warped_bounds(self, source: Grid, dims: Sequence[str]) -> WarpedBounds:
        """Where the voxels of `source` are brought, with this transform as the pull (by its inverse)."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings for JSON, with `kind` as "type"."""

    @classmethod
    @abstractmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The transform of which `to_dict` gave `data`."""

    def to_matrices(self) -> Floats:
        """(D+1, D+1) of one affine map, (N, D+1, D+1) of one for each slice.

        Raises: InvalidTransformError where the transform is neither.
        """
        raise InvalidTransformError(f"{type(self).__name__} is no affine map and has no matrices")

    def describe(self) -> str:
        """What it does, in a line, with angles in degrees."""
        return repr(self)

    def check_grids(self, out: Grid, source: Grid) -> None:
        """Raise ShapeMismatchError or UnitError where a pull between two grids means nothing."""
        if out.names != source.names:
            raise ShapeMismatchError(f"the output has axes {out.names}, the source {source.names}; they must agree")
        unit = common_unit(out.unit, source.unit, "output and source grid")
        common_unit(unit, self.unit, "transform and volume")

    def jacobian(self, grid: Grid) -> Any:
        """The determinant of the derivative at each voxel of a grid, a lazy DataArray: 1 keeps volumes, 0 is a fold.

        Raises: ShapeMismatchError where the grid does not have the axes that the transform warps.
        """
        return importlib.import_module(_JACOBIAN).jacobian(self, grid)

    def folds(self, grid: Grid) -> tuple[int, float]:
        """How many voxels of a grid lie where the map folds (determinant 0 or less), and their share."""
        count, share = importlib.import_module(_JACOBIAN).folds(self, grid)
        return int(count), float(share)

    def save(
        self,
        path: str | PathLike[str],
        *,
        format: str | None = None,
        fixed: Grid | None = None,
        moving: Grid | None = None,
    ) -> None:
        """Write to a file: daskreg's JSON, or by suffix that of another tool (see `docs/transforms.md`).

        The file appears whole or not at all, and replaces what was there. Only JSON keeps the
        unit, the axes and maps of single slices. The transform is taken as `moving_from_fixed`.

        Args:
            format: the tool, such as "FSL", where the suffix does not say it.
            fixed, moving: grids of the two images, for formats that count in voxels.

        Raises: OptionError for a suffix that is not known, or a format that cannot hold this transform or
            lacks a grid; UnitError for a format of millimetres and another unit.
        """
        registry.save(self, Path(path), format, {"fixed": fixed, "moving": moving})


def checked_matrices(value: Any, ndim: int) -> Floats:
    """(..., D+1, D+1) float64, affine, finite, invertible, read-only.

    `ndim` is the number of array dimensions wanted: 2 for one matrix, 3 for a stack.
    Matrices without the last row, (..., D, D+1), get it.

    Raises: InvalidTransformError with the expected shape, or the condition number.
    """
    try:
        m = np.array(np.asarray(value).astype(np.float64, casting="same_kind"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTransformError(f"a matrix of numbers is needed, not {type(value).__name__} ({error})") from error
    if m.ndim == ndim and m.shape[-1] == m.shape[-2] + 1:
        row = np.zeros((*m.shape[:-2], 1, m.shape[-1]))
        row[..., -1] = 1
        m = np.concatenate([m, row], axis=-2)
    if m.ndim != ndim or m.shape[-1] != m.shape[-2] or m.shape[-1] < 2 or 0 in m.shape:
        wanted = "(D+1, D+1)" if ndim == 2 else "(N, D+1, D+1)"
        raise InvalidTransformError(f"a matrix of shape {wanted} is needed, in array order, not {m.shape}")
    if not np.all(np.isfinite(m)):
        raise InvalidTransformError(
            f"{_which(~np.isfinite(m).all(axis=(-1, -2), keepdims=True).ravel())} holds NaN or infinity"
        )
    last = np.eye(m.shape[-1])[-1]
    if not np.allclose(m[..., -1, :], last, rtol=0, atol=1e-9):
        raise InvalidTransformError(f"the last row must be {last.tolist()}; projective maps are not supported")
    m[..., -1, :] = last
    condition = np.atleast_1d(np.linalg.cond(m[..., :-1, :-1]))
    singular = ~(condition < _MAX_CONDITION)
    if np.any(singular):
        worst = float(np.max(condition))
        raise InvalidTransformError(f"{_which(singular)} is singular (condition number {worst:.3g})")
    m += 0.0  # no negative zeros: what is equal has equal bytes
    m.flags.writeable = False
    return m


def _which(bad: NDArray[np.bool_]) -> str:
    return "the matrix" if len(bad) == 1 else f"matrix {int(np.flatnonzero(bad)[0])} of {len(bad)}"


def reversed_axes(matrices: Floats) -> Floats:
    """(..., D+1, D+1) matrices between array order (z, y, x) and x, y, z, either way."""
    ndim = matrices.shape[-1] - 1
    order = [*range(ndim - 1, -1, -1), ndim]
    return np.ascontiguousarray(matrices[..., order, :][..., order])


def checked_axes(axes: Any, ndim: int) -> tuple[str, ...] | None:
    """Axis names, as many as there are dimensions, or None."""
    if axes is None:
        return None
    names = tuple(str(a) for a in axes)
    if len(names) != ndim:
        raise InvalidTransformError(f"{ndim} axis names are needed, not {names}")
    return names
