"""`Grid`: where the voxels of an array lie in the world."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import EmptyArrayError, GridError, InvalidSpacingError, ShapeMismatchError, check_flags
from daskreg.geometry.box import Box
from daskreg.geometry.notebook_table import table
from daskreg.geometry.units import PIXEL, canonical_unit

Floats = NDArray[np.float64]

_DEFAULT_AXES = ("z", "y", "x")

# Files round directions to 32 bits: what is as near to a whole number as this is taken as whole.
_SNAP = 1e-7


@dataclass(frozen=True)
class Grid:
    """Voxels in the world, everything in array order (z, y, x).

    `world(index) = origin + direction @ (spacing * index)`, and index 0 is the *centre*
    of the first voxel.

    Args:
        shape: number of voxels along each axis.
        spacing: distance of voxel centres along each axis, in `unit`; one number for all.
        origin: world position of the centre of voxel 0.
        direction: (D, D) orthonormal; column k is the world direction of array axis k.
            None is the identity.
        unit: of spacing, origin and world ('um' and 'µm' become 'micrometer').
        axes: names of the axes; by default the last D of z, y, x.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...] = (1.0,)
    origin: tuple[float, ...] = (0.0,)
    direction: tuple[tuple[float, ...], ...] | None = None
    unit: str = PIXEL
    axes: tuple[str, ...] | None = None

    def __init__(  # noqa: PLR0917 (the order of the fields)
        self,
        shape: Sequence[int],
        spacing: float | ArrayLike = 1.0,
        origin: float | ArrayLike = 0.0,
        direction: ArrayLike | None = None,
        unit: str | None = PIXEL,
        axes: Sequence[str] | None = None,
    ) -> None:
        shape = _shape(shape)
        ndim = len(shape)
        names = checked_names(axes) if axes is not None else default_axes(ndim)
        if len(names) != ndim or len(set(names)) != ndim:
            raise GridError(f"a grid of shape {shape} needs {ndim} different axis names, not {names}")
        for name, n in zip(names, shape, strict=True):
            if n < 1:
                raise EmptyArrayError(f"axis {name} has length {n}; every axis needs at least one voxel")
        set_ = object.__setattr__
        set_(self, "shape", shape)
        set_(self, "axes", names)
        set_(self, "spacing", _spacing(spacing, names))
        set_(self, "origin", _origin(origin, names))
        set_(self, "direction", _direction(direction, ndim))
        set_(self, "unit", canonical_unit(unit))

    @property
    def ndim(self) -> int:
        """How many axes the grid has."""
        return len(self.shape)

    @property
    def names(self) -> tuple[str, ...]:
        """The axis names (never None, unlike the argument)."""
        return self.axes or default_axes(self.ndim)

    @property
    def box(self) -> Box:
        """All voxels of the grid, by their indices."""
        return Box.of(self.shape)

    @property
    def matrix(self) -> Floats:
        """(D+1, D+1) homogeneous matrix from indices to the world."""
        m = np.eye(self.ndim + 1)
        m[:-1, :-1] = self.direction_matrix * np.asarray(self.spacing)
        m[:-1, -1] = self.origin
        return m

    @property
    def inverse_matrix(self) -> Floats:
        """(D+1, D+1) homogeneous matrix from the world to indices."""
        m = np.eye(self.ndim + 1)
        m[:-1, :-1] = self.direction_matrix.T / np.asarray(self.spacing)[:, None]
        m[:-1, -1] = -m[:-1, :-1] @ np.asarray(self.origin)
        return m

    @property
    def direction_matrix(self) -> Floats:
        """(D, D) whose column k is the world direction of array axis k; the identity where `direction` is None."""
        return np.eye(self.ndim) if self.direction is None else np.asarray(self.direction)

    @property
    def separable(self) -> bool:
        """Whether each array axis runs along its own world axis (direction diagonal of +-1)."""
        d = self.direction_matrix
        return bool(np.array_equal(np.abs(d), np.eye(self.ndim)))

    @property
    def centre(self) -> Floats:
        """World position of the middle of the grid, ((n - 1) / 2 along each axis)."""
        return self.world((np.asarray(self.shape) - 1) / 2)

    @property
    def extent(self) -> tuple[Floats, Floats]:
        """Lower and upper world bounds, outer faces of the voxels included."""
        return self.bounds(self.box)

    def bounds(self, box: Box) -> tuple[Floats, Floats]:
        """Lower and upper world bounds of a box of voxels, faces included."""
        corners = self.world(box_corners(np.asarray(box.start) - 0.5, np.asarray(box.stop) - 0.5))
        return corners.min(axis=0), corners.max(axis=0)

    def corners(self, *, faces: bool = False) -> Floats:
        """(2**D, D) world positions of the centres of the corner voxels, or with `faces` of their outer corners."""
        check_flags(faces=faces)
        outward = 0.5 if faces else 0.0
        last = np.asarray(self.shape) - 1.0
        return self.world(box_corners(np.zeros(self.ndim) - outward, last + outward))

    def world(self, index: ArrayLike) -> Floats:
        """World positions of (..., D) indices, which may be fractional."""
        points = _points(index, self.ndim)
        return np.asarray((points * np.asarray(self.spacing)) @ self.direction_matrix.T + np.asarray(self.origin))

    def index(self, world: ArrayLike) -> Floats:
        """Fractional indices of (..., D) world positions."""
        points = _points(world, self.ndim)
        return np.asarray(((points - np.asarray(self.origin)) @ self.direction_matrix) / np.asarray(self.spacing))

    def crop(self, box: Box) -> Grid:
        """The grid of a box of voxels, which stay at their places in the world; the box may reach outside."""
        return self._with(box.shape, self.spacing, self.world(box.start))

    def downsample(self, factor: int | Sequence[int], *, strided: bool = False) -> Grid:
        """The grid after block means of `factor` voxels, shape ceil(n / f).

        The origin moves to the middle of the first block, by `direction @ ((f - 1) / 2 *
        spacing)`; with `strided=True` (every f-th voxel is taken) it stays.
        """
        check_flags(strided=strided)
        f = np.asarray(factor)
        f = np.full(self.ndim, f) if f.ndim == 0 else f
        if f.shape != (self.ndim,) or not np.issubdtype(f.dtype, np.integer) or np.any(f < 1):
            raise GridError(
                f"downsampling a {self.ndim}D grid needs {self.ndim} whole factors of at least 1, not {factor}"
            )
        return self._with(
            tuple(int(n) for n in -(-np.asarray(self.shape) // f)),
            np.asarray(self.spacing) * f,
            self.origin if strided else self.world((f - 1) / 2),
        )

    def take(self, axes: Sequence[int]) -> Grid:
        """The grid of some axes, in the order of `axes`.

        Raises: GridError where the direction mixes one of them with another axis.
        """
        taken = list(axes)
        dropped = [k for k in range(self.ndim) if k not in taken]
        d = self.direction_matrix
        if np.any(np.abs(d[np.ix_(taken, dropped)]) > _SNAP) or np.any(np.abs(d[np.ix_(dropped, taken)]) > _SNAP):
            names = ", ".join(self.names[k] for k in dropped)
            raise GridError(f"axis {names} is oblique in the world and cannot be taken apart from the others")
        return Grid(
            [self.shape[k] for k in taken],
            [self.spacing[k] for k in taken],
            [self.origin[k] for k in taken],
            d[np.ix_(taken, taken)],
            self.unit,
            [self.names[k] for k in taken],
        )

    def same(self, other: Grid, *, tolerance: float = 1e-6) -> bool:
        """Whether two grids put their voxels at the same places, to `tolerance` voxels, in one unit."""
        if (self.shape, self.names, self.unit) != (other.shape, other.names, other.unit):
            return False
        ends = box_corners(np.zeros(self.ndim), np.asarray(self.shape) - 1.0)
        return bool(np.all(np.abs(other.index(self.world(ends)) - ends) <= tolerance))

    def _with(self, shape: tuple[int, ...], spacing: ArrayLike, origin: ArrayLike) -> Grid:
        return Grid(shape, spacing, origin, self.direction, self.unit, self.axes)

    def _repr_html_(self) -> str:
        """What a notebook shows: a row for each axis."""
        turned = "" if self.direction is None else ", turned in the world"
        header = ("axis", "voxels", f"spacing ({self.unit})", "from", "to (outer faces)")
        return table(f"Grid in {self.unit}{turned}", _lengths(self), header)

    def __repr__(self) -> str:
        size = " x ".join(f"{name} {n}" for name, n in zip(self.names, self.shape, strict=True))
        spacing = ", ".join(f"{s:.6g}" for s in self.spacing)
        origin = ", ".join(f"{o:.6g}" for o in self.origin)
        oblique = "" if self.direction is None else ", turned"
        return f"Grid({size}; spacing ({spacing}) {self.unit}, origin ({origin}){oblique})"


def _lengths(grid: Grid) -> list[list[str]]:
    """Rows of a table: an axis, its voxels, and where they lie."""
    low, high = grid.extent
    numbers = zip(grid.names, grid.shape, grid.spacing, low, high, strict=True)
    return [[name, str(n), *(f"{v:.6g}" for v in values)] for name, n, *values in numbers]


def default_axes(ndim: int) -> tuple[str, ...]:
    """The last `ndim` of z, y, x; further axes in front are named d0, d1, ..."""
    extra = max(0, ndim - 3)
    return tuple(f"d{k}" for k in range(extra)) + _DEFAULT_AXES[max(0, 3 - ndim) :]


def checked_names(names: Iterable[Any]) -> tuple[str, ...]:
    """Names of axes as a tuple.

    Raises: GridError where one is not text, or text that no file can hold (half of a surrogate pair).
    """
    names = tuple(names)
    for name in names:
        if not isinstance(name, str) or any("\ud800" <= c <= "\udfff" for c in name):
            raise GridError(f"axis names must be text in Unicode, not {name!a}")
    return names


def index_matrix(pull: Floats, out: Grid, source: Grid) -> Floats:
    """(D+1, D+1) matrix from indices of `out` to fractional indices of `source`.

    `pull` maps world points of `out` to world points of `source`. An entry that differs from an
    integer only by rounding becomes that integer, so that identity and whole-voxel shifts are recognised.
    """
    m = source.inverse_matrix @ pull @ out.matrix
    m[-1] = np.eye(source.ndim + 1)[-1]
    return snapped(m)


def snapped(matrix: Floats) -> Floats:
    """Homogeneous matrices, (..., D+1, D+1), with entries made whole that differ from that only by rounding."""
    whole = np.rint(matrix)
    scale = np.full_like(matrix, 1e-12)
    scale[..., -1] = 1e-9
    # A long axis may amplify the error of the matrix product.
    return np.asarray(np.where(np.abs(matrix - whole) <= scale, whole, matrix))


def touched_box(matrix: Floats, out: Box, source_shape: Sequence[int], margin: int = 0) -> Box:
    """Smallest source box whose voxels linear sampling of `out` can touch, grown by `margin`.

    `matrix` is an index matrix. An affine image of a box is bounded by its corners, and
    the corners are computed in the order of operations of the kernels, so that both round alike.
    A neighbour of weight zero is not touched: a whole-voxel shift reads as many voxels as it writes.

    Returns: a box clipped to the source; empty if nothing is touched.
    """
    ndim = len(source_shape)
    if out.empty:
        return Box((0,) * ndim, (0,) * ndim)
    start, stop = touched_bounds(matrix[None], out, source_shape, margin)
    return Box(tuple(start[0].tolist()), tuple(stop[0].tolist()))


def touched_bounds(
    matrices: Floats, out: Box, source_shape: Sequence[int], margin: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and stops, each (N, D), of `touched_box` under N matrices at once; `out` is not empty."""
    ndim = len(source_shape)
    corners = box_corners(np.asarray(out.start, float), np.asarray(out.stop, float) - 1)
    x = matrices[:, :-1, 0, None] * corners[:, 0]  # (N, D, corners)
    for j in range(1, ndim):
        x = x + matrices[:, :-1, j, None] * corners[:, j]
    x = x + matrices[:, :-1, ndim, None]
    # Far outside, 64-bit integers would overflow; one voxel beyond the source gives the same box.
    shape = np.asarray(source_shape)
    least, most = -2.0 - margin, shape + (1.0 + margin)
    lower = np.minimum(np.maximum(x.min(axis=-1), least), most)
    upper = np.minimum(np.maximum(x.max(axis=-1), least), most)
    start = np.minimum(np.maximum(np.floor(lower).astype(np.int64) - margin, 0), shape)
    stop = np.minimum(np.maximum(np.ceil(upper).astype(np.int64) + (1 + margin), 0), shape)
    return start, np.maximum(start, stop)


def box_corners(lower: Floats, upper: Floats) -> Floats:
    """(2**D, D) corners of the box from `lower` to `upper`, the last axis fastest."""
    return np.where(_corner_bits(len(lower)), upper, lower)


@cache
def _corner_bits(ndim: int) -> NDArray[np.bool_]:
    """(2**ndim, ndim) whether a corner is at the upper end of an axis."""
    bits = np.indices((2,) * ndim).reshape(ndim, -1).T.astype(bool)
    bits.flags.writeable = False
    return bits


def _points(values: ArrayLike, ndim: int) -> Floats:
    points = np.asarray(values, dtype=np.float64)
    if points.ndim == 0 or points.shape[-1] != ndim:
        raise ShapeMismatchError(f"points of shape (..., {ndim}) are needed, not {points.shape}")
    return points


def _shape(value: Sequence[int]) -> tuple[int, ...]:
    try:
        shape = tuple(operator.index(n) for n in value)
    except TypeError as error:
        raise GridError(f"a grid's shape must be whole numbers, one for each axis, not {value!r}") from error
    if not shape:
        raise GridError("a grid needs at least one axis")
    return shape


def _per_axis(value: float | ArrayLike, ndim: int, what: str, error: type[GridError] = GridError) -> tuple[float, ...]:
    """`ndim` numbers, from as many or from one for all axes."""
    try:
        values = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as cause:
        raise error(f"{what} must be numbers, not {value!r}") from cause
    if values.size == 1 and values.ndim <= 1:
        values = np.full(ndim, values.reshape(()))
    if values.shape != (ndim,):
        raise error(f"{what} needs one number or {ndim}, not shape {values.shape}")
    return tuple(values.tolist())


def _origin(value: float | ArrayLike, names: tuple[str, ...]) -> tuple[float, ...]:
    origin = _per_axis(value, len(names), "origin")
    if not np.all(np.isfinite(origin)):
        raise GridError(f"origin must be finite, not {origin}")
    return origin


def _spacing(value: float | ArrayLike, names: tuple[str, ...]) -> tuple[float, ...]:
    spacing = _per_axis(value, len(names), "spacing", InvalidSpacingError)
    for name, s in zip(names, spacing, strict=True):
        if not (np.isfinite(s) and s > 0):
            raise InvalidSpacingError(
                f"spacing along {name} is {s}; it must be positive and finite (a flipped axis belongs in direction)"
            )
    return spacing


def _direction(value: ArrayLike | None, ndim: int) -> tuple[tuple[float, ...], ...] | None:
    """Orthonormal to rounding, so that the transpose is the inverse; None for the identity."""
    if value is None:
        return None
    try:
        d = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GridError(f"direction must be numbers of shape {(ndim, ndim)}, not {value!r}") from error
    if d.shape != (ndim, ndim):
        raise GridError(f"direction must have shape {(ndim, ndim)}, not {d.shape}")
    deviation = np.abs(d @ d.T - np.eye(ndim)).max()
    if not deviation <= 1e-5:
        raise GridError("direction must be orthonormal; scale belongs in spacing, shear in a transform")
    whole = np.rint(d) + 0.0
    if np.abs(d - whole).max() <= _SNAP:
        d = whole
    elif deviation > 1e-12:
        u, _, vt = np.linalg.svd(d)  # the nearest orthonormal matrix
        d = u @ vt
    if np.array_equal(d, np.eye(ndim)):
        return None
    return tuple(tuple(row) for row in d.tolist())
