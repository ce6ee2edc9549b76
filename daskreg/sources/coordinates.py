"""Grid <-> coordinate variables, as plain arrays and attributes (no xarray).

Where the direction is a diagonal of +-1, coordinates are world coordinates, descending where
flipped. Otherwise they run along the volume's own axes, `direction.T @ origin + spacing *
index`, and the attribute "direction" (a list, row by row, as netCDF can hold it) turns them into the world.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import GridError, UnitError
from daskreg.geometry import Grid, canonical_unit, units_of_axes

Floats = NDArray[np.float64]

# Names of axes that are never space.
LEAD = frozenset(
    ("t", "time", "c", "channel", "channels", "band", "bands", "s", "sample", "samples", "rgb", "rgba", "wavelength")
)
TIMES = ("t", "time")
CHANNELS = ("c", "channel", "channels", "band", "bands", "wavelength", "s", "sample", "samples", "rgb", "rgba")
SPACE = ("z", "y", "x")

HEADER_FROM_WORLD = "header_from_world"
"""The attribute of volumes whose header shears them (see `readers.physical`)."""

# Largest distance, in voxels, of a coordinate from the regular grid: files round to a few digits.
TOLERANCE = 0.01


def split_dims(dims: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the lead dims and of the spatial ones, each in the order in which volumes have them.

    The spatial dims are the last three (or fewer) that are not times or channels; of more
    than three, those named z, y, x. z, y, x come in that order, others keep theirs. Times
    come before channels.
    """
    candidates = [d for d in dims if d.lower() not in LEAD]
    named = [d for d in candidates if d in SPACE]
    if len(candidates) > 3:
        candidates = named if len(named) >= 2 else candidates[-3:]
    if len(named) == len(candidates):
        candidates.sort(key=SPACE.index)
    lead = [d for d in dims if d not in candidates]
    lead.sort(key=lambda d: 0 if d.lower() in TIMES else 2 if d.lower() in LEAD else 1)
    return tuple(lead), tuple(candidates)


def default_dims(ndim: int) -> tuple[str, ...]:
    """Names for an array without names: the last of t, c, z, y, x (OME-NGFF's order)."""
    extra = max(0, ndim - 5)
    return tuple(f"d{k}" for k in range(extra)) + ("t", "c", *SPACE)[max(0, 5 - ndim) :]


def block_factor(*sizes: int) -> float:
    """How many voxels along an axis became one of the last of some levels.

    From level to level it is a whole number, if one gives the size (the last block may be incomplete or left out), else
    the ratio of the sizes.

    Args:
        sizes: of the levels, from the finest one to a coarser one.
    """
    factor = 1.0
    for fine, coarse in pairwise(sizes):
        whole = round(fine / coarse)
        factor *= whole if whole and coarse in (fine // whole, -(-fine // whole)) else fine / coarse
    return factor


def grid_of_level(finest: Grid, shapes: Sequence[Sequence[int]]) -> Grid:
    """The grid of a level of a pyramid, whose voxels are means of blocks of the finest level's.

    Args:
        shapes: of the levels from the finest one to this one; 513 voxels become 257 or 256 of twice the size.
    """
    factors = np.array([block_factor(*sizes) for sizes in zip(*shapes, strict=True)])
    spacing, origin = np.asarray(finest.spacing) * factors, finest.world((factors - 1) / 2)
    return Grid(shapes[-1], spacing, origin, finest.direction, finest.unit, finest.names)


def coordinates(grid: Grid) -> dict[str, tuple[Floats, dict[str, Any]]]:
    """For each axis of the grid: the coordinates of the voxel centres, and their attributes."""
    start, signs = np.asarray(grid.origin), np.ones(grid.ndim)
    if grid.separable:
        signs = np.diag(grid.direction_matrix)
    else:
        start = grid.direction_matrix.T @ start
    return {
        name: (a + sign * s * np.arange(n), {"units": grid.unit, "spacing": float(sign * s)})
        for name, n, s, a, sign in zip(
            grid.names, grid.shape, grid.spacing, start.tolist(), signs.tolist(), strict=True
        )
    }


def direction_attrs(grid: Grid) -> dict[str, Any]:
    """The array's attribute "direction" where coordinates alone do not have it; else nothing."""
    return {} if grid.separable else {"direction": grid.direction_matrix.ravel().tolist()}


def grid_from(
    names: Sequence[str],
    shape: Sequence[int],
    coords: Mapping[str, tuple[Any, Mapping[str, Any]]],
    *,
    direction: Any = None,
    what: str = "the array",
) -> Grid:
    """The grid that coordinate values and attributes describe; axes without any count pixels.

    Lengths in several units are converted to that of the last axis.

    Raises: GridError naming the axis and the first bad step; UnitError for units that cannot be converted.
    """
    starts, strides, units = [], [], []
    for name in names:
        values, attrs = coords.get(name, (None, {}))
        start, step = (0.0, 1.0) if values is None else _start_and_step(name, values, attrs, what)
        starts.append(start)
        strides.append(step)
        units.append(unit_of(name, attrs.get("units"), what))
    unit, factors = units_of_axes(units, f"axes of {what}")
    steps, origin = np.asarray(strides) * factors, np.asarray(starts) * factors
    signs = np.sign(steps)
    matrix = np.diag(signs)
    own = _own_direction(direction, names, what)
    if own is not None:
        origin, matrix = own @ origin, own * signs
    return Grid(shape, np.abs(steps), origin, matrix, unit, names)


def unit_of(axis: str, unit: Any, what: str) -> str:
    """The canonical name of an axis' unit.

    Raises: UnitError naming the axis for one that is not known.
    """
    try:
        return canonical_unit(unit)
    except UnitError as error:
        raise UnitError(f"axis {axis} of {what}: {error}") from None


def _own_direction(value: Any, names: Sequence[str], what: str) -> Floats | None:
    """The attribute "direction", a list or nested lists, as a matrix; None where it is something else."""
    try:
        matrix = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    if matrix.shape in {(4,), (9,)}:
        matrix = matrix.reshape(math.isqrt(matrix.size), -1)
    if matrix.ndim != 2:
        return None
    if matrix.shape != (len(names), len(names)):
        raise GridError(
            f"{what} has the spatial dims {tuple(names)} but a direction of shape {matrix.shape}: an oblique volume "
            f"cannot lose a dimension; keep it with a slice of length 1, or drop attrs['direction']"
        )
    return matrix


def _start_and_step(name: str, values: Any, attrs: Mapping[str, Any], what: str) -> tuple[float, float]:
    """Start and step of coordinates, checked to be regular."""
    raw = np.asarray(values)
    if raw.dtype.kind not in "iuf" or raw.ndim != 1:
        raise GridError(
            f"{what}: coordinates of axis {name} are {raw.dtype}, not numbers; drop them (.drop_vars({name!r})) to "
            "count pixels, or give it a position for each voxel"
        )
    x = raw.astype(np.float64)
    stated = _number(attrs.get("spacing"))
    if len(x) == 1:
        if not np.isfinite(x[0]):
            raise GridError(f"{what}: the coordinate of axis {name} is {x[0]}; give it a finite position")
        return float(x[0]), stated or 1.0
    step = float((x[-1] - x[0]) / (len(x) - 1))
    # Far from zero, a last digit of single precision can be a large part of a step.
    noise = 4 * float(np.finfo(raw.dtype).eps) * float(np.abs(x[[0, -1]]).max()) if raw.dtype.kind == "f" else 0.0
    allowed = TOLERANCE * abs(step) + noise
    if not (np.isfinite(step) and step and np.all(np.abs(x - (x[0] + step * np.arange(len(x)))) <= allowed)):
        raise GridError(_first_bad_step(name, x, noise, what))
    if stated and abs(stated - step) * (len(x) - 1) <= allowed:
        step = stated
    return float(x[0]), step


def _first_bad_step(name: str, x: Floats, noise: float, what: str) -> str:
    steps = np.diff(x)
    usual = float(np.median(steps[np.isfinite(steps)])) if np.isfinite(steps).any() else 0.0
    bad = ~(np.abs(steps - usual) <= TOLERANCE * abs(usual) + noise) | (steps == 0)
    k = int(np.argmax(bad)) if bad.any() else int(np.argmax(np.abs(steps - usual)))
    return (
        f"{what}: coordinates of axis {name} are not regular: from index {k} to {k + 1} the step is {steps[k]:.6g}, "
        f"elsewhere {usual:.6g}; resample that axis, or give it regular coordinates"
    )


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number else None
