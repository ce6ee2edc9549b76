"""`reconstruct`: the volume of projections, lazily, by blocks of rows.

Slices across the axis of rotation do not depend on each other, once the projections are aligned. So a block of the
result needs the same rows of all aligned projections, which `warp` makes of the raw rows that it needs.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskreg.errors import (
    DegenerateImageError,
    InvalidTransformError,
    OptionError,
    RepeatedReadWarning,
    ShapeMismatchError,
)
from daskreg.geometry import Grid
from daskreg.sources import Source
from daskreg.tomography.angles import LEAST_PROJECTIONS, check_angles, in_radians
from daskreg.tomography.fit import TiltFit
from daskreg.tomography.options import finite_number, whole_number
from daskreg.tomography.projections import Beam, beam_of, complete
from daskreg.tomography.projector.astra_engine import slices_by_astra, toolbox
from daskreg.tomography.projector.reconstruction import WINDOWS, cgls, fbp, sirt
from daskreg.tomography.projector.slices import SliceProjector
from daskreg.tomography.series import channels_first
from daskreg.volumes import Volume, to_dataarray, volume_of
from daskreg.warping import warp

__all__ = ["METHODS", "reconstruct"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

METHODS = ("fbp", "sirt", "cgls")
ENGINES = ("daskreg", "astra")
_ITERATIONS = {"fbp": 0, "sirt": 100, "cgls": 15}
_BLOCK_BYTES = 256 * 2**20
_MOST_READS = 3.0  # of each projection, without a word
_SAME_MIDDLE = 0.01  # pixels
_IMAGES = 7  # of the size of the block or of its slices, while FBP filters it


@dataclass(frozen=True)
class Recipe:
    """How rows of aligned projections become slices; see `reconstruct`."""

    radians: Floats
    used: Bools
    size: int
    columns: int
    centre: float
    method: str
    window: str
    iterations: int
    minimum: float | None
    spacing: float
    engine: str

    def slices(self, block: Array) -> Array:
        """(rows, Y, X) of (angles, rows, columns), per unit of length."""
        values = np.asarray(block, dtype=np.float32)
        shown = self.used & np.isfinite(values).all(axis=(1, 2))
        if int(shown.sum()) < LEAST_PROJECTIONS:
            raise DegenerateImageError(f"{int(shown.sum())} of {len(shown)} projections have finite pixels")
        sums = np.ascontiguousarray(values[shown].transpose(0, 2, 1))
        projector = SliceProjector(self.radians[shown], (self.size, self.size), self.columns, self.centre)
        if self.engine == "astra":
            found = slices_by_astra(
                projector, sums, self.method, window=self.window, iterations=self.iterations, minimum=self.minimum
            )
        elif self.method == "fbp":
            found = fbp(projector, sums, window=self.window)
        elif self.method == "sirt":
            found = sirt(projector, sums, iterations=self.iterations, minimum=self.minimum)
        else:
            found = cgls(projector, sums, iterations=self.iterations)
        return np.ascontiguousarray(found.transpose(2, 0, 1)) / np.float32(self.spacing)


def reconstruct(
    projections: Any,
    angles: Any = None,
    *,
    fit: TiltFit | None = None,
    method: str = "fbp",
    engine: str = "daskreg",
    unit: str | None = None,
    centre: float | None = None,
    axis: str | None = None,
    window: str = "ramp",
    iterations: int | None = None,
    minimum: float | None = None,
    size: int | None = None,
    rows: int | None = None,
    flats: Any = None,
    darks: Any = None,
    order: int = 3,
    channel_axis: int | None = None,
) -> xr.DataArray:
    """The volume of projections, as a lazy DataArray of float32 that `write` stores block by block.

    Channels in front (or at `channel_axis`) are reconstructed one by one with the same poses, and stay in front.

    Args:
        projections: (angles, rows, columns), or (channels, angles, rows, columns), as of `align_projections`.
        angles: (angles,); None: those of the fit.
        fit: a TiltFit of these projections, or of other channels of them; outliers that it names are left out. None:
            they are taken as they are, with the axis at `centre`. Of a part of the detector, coordinates of its rows
            and columns say which.
        method: "fbp", filtered back-projection; "sirt" or "cgls", iterations that fit the projections, which are better
            with few or noisy angles and a missing wedge.
        engine: "daskreg", or "astra": the ASTRA toolbox, where it is installed (`daskreg[astra]`), on a GPU if it finds
            one.
        unit: of the angles.
        centre: column of the axis where there is no fit; default the middle one.
        axis: of the detector, along which the axis of rotation is, where there is no fit: "y", the default, or "x".
        window: of FBP, by which the ramp is multiplied: "ramp" (none), "shepp-logan", "cosine", "hamming", "hann".
        iterations: default 100 of SIRT, 15 of CGLS.
        minimum: of the voxels, for SIRT, such as 0.
        size: of the slices on both sides; default the columns of the detector.
        rows: of a block; default as many as fit in a quarter of a GiB. A block is made at once, and anew for each part
            of it that `write` stores apart: with a tight `memory=`, pass `chunks=(rows, size, size)` to `write` too.
        flats, darks: (rows, columns) or several, images without specimen and without beam; with flats, the negative
            logarithm is taken. Pixels that are not finite, or have no beam, are interpolated across the axis of
            rotation; projections without a finite pixel are left out.
        order: of the interpolation that aligns the projections, 1 or 3.

    Returns: dims z (the rows), y, x; x is seen at angle 0, y at a quarter of a turn; the spacing is that of the
        detector, and values are per unit of length.

    Raises: OptionError; MissingExtraError; ShapeMismatchError where fit, angles and projections have other numbers or
        are of other detectors, or flats have another shape; UnitError; when computed, DegenerateImageError where too
        few projections have finite pixels.
    """
    _check(method, iterations, minimum, window, engine)
    _check_geometry(fit, centre, axis, angles, order)
    for name, value in (("size", size), ("rows", rows)):
        if value is not None and whole_number(name, value) < 1:
            raise OptionError(f"{name}={value}: use 1 or more")
    volume = volume_of(projections if channel_axis is None else channels_first(projections, channel_axis))
    if volume.grid.ndim != 3:
        raise ShapeMismatchError(f"projections of shape {volume.array.shape} are not (angles, rows, columns)")
    radians, used = _angles(volume.grid.shape[0], angles, unit, fit)
    transposed = (axis if fit is None else fit.rotation_axis) == "x"
    height, columns = volume.grid.shape[:0:-1] if transposed else volume.grid.shape[1:]
    if centre is not None and abs(centre - (columns - 1) / 2) > columns / 2:
        raise OptionError(f"centre={centre!r} is outside of the {columns} columns")
    recipe = Recipe(
        radians,
        used,
        size=columns if size is None else size,
        columns=columns,
        centre=_column_of_the_axis(projections, volume.grid, fit, centre, transposed=transposed),
        method=method,
        window=window,
        iterations=_ITERATIONS[method] if iterations is None else iterations,
        minimum=minimum,
        spacing=volume.grid.spacing[1 if transposed else 2],
        engine=engine,
    )
    many = _rows_of_a_block(len(radians), recipe, height, rows)
    _warn_of_reads(volume.source, height, many, transposed=transposed)
    beam = beam_of(flats, darks, volume.grid.shape[1:])
    data = _aligned(volume, beam, fit, transposed=transposed, order=order, rows=many)
    lead = volume.source.lead
    return to_dataarray(
        _by_rows(data.swapaxes(-1, -2) if transposed else data, recipe, many),
        _volume_grid(volume.grid, recipe.size, transposed),
        lead=lead,
        lead_coords={d: volume.array.coords[d] for d in lead if d in volume.array.coords},
        name="reconstruction",
    )


def _column_of_the_axis(
    projections: Any, grid: Grid, fit: TiltFit | None, centre: float | None, *, transposed: bool
) -> float:
    """In aligned projections, the middle of the detector of the fit, of which these may be a part.

    Raises: ShapeMismatchError for another detector, if no coordinates say which part of it these are.
    """
    across = 1 if transposed else 2
    middle = (grid.shape[across] - 1) / 2
    if fit is None:
        return middle if centre is None else centre
    plane = grid.take((1, 2))
    here = np.array(plane.origin) + np.array(plane.spacing) * (np.array(plane.shape) - 1) / 2
    if np.allclose((here - fit.middle) / plane.spacing, 0, atol=_SAME_MIDDLE):
        return middle
    if not all(name in getattr(projections, "coords", ()) for name in plane.names):
        raise ShapeMismatchError(
            f"the middle of projections of {plane.shape[0]} x {plane.shape[1]} is {tuple(here.tolist())}, of those of "
            f"the fit {fit.middle}: pass all rows and columns, or a DataArray with coordinates of those that are there"
        )
    column = float((fit.middle[across - 1] - grid.origin[across]) / grid.spacing[across])
    if not -0.5 <= column <= grid.shape[across] - 0.5:
        raise ShapeMismatchError(
            f"along {grid.names[across]} the projections lie from {grid.origin[across]:g} on, and the middle of those "
            f"of the fit at {fit.middle[across - 1]:g}, beyond them: their coordinates are others than those of the fit"
        )
    return column


def _angles(count: int, angles: Any, unit: str | None, fit: TiltFit | None) -> tuple[Floats, Bools]:
    """(A,) radians, and which projections the fit does not call outliers."""
    radians = fit.angles if angles is None and fit is not None else in_radians(angles, count, unit)
    if len(radians) != count or (fit is not None and len(fit.angles) != count):
        of_fit = "" if fit is None else f", and {len(fit.angles)} in the fit"
        raise ShapeMismatchError(f"there are {count} projections, {len(radians)} angles{of_fit}")
    check_angles(radians)
    used = np.ones(count, dtype=bool)
    if fit is not None:
        used[list(fit.outliers)] = False
    return radians, used


def _check(method: str, iterations: int | None, minimum: float | None, window: str, engine: str) -> None:
    if method not in METHODS:
        raise OptionError(f"method={method!r}: use {', '.join(METHODS)}")
    if window not in WINDOWS:
        raise OptionError(f"window={window!r}: use {', '.join(WINDOWS)}")
    if method == "fbp" and iterations is not None:
        raise OptionError("iterations= is for method='sirt' and 'cgls'")
    if iterations is not None and whole_number("iterations", iterations) < 1:
        raise OptionError(f"iterations={iterations}: use 1 or more")
    if minimum is not None and method != "sirt":
        raise OptionError("minimum= is for method='sirt'")
    if minimum is not None:
        finite_number("minimum", minimum)
    if engine not in ENGINES:
        raise OptionError(f"engine={engine!r}: use {', '.join(ENGINES)}")
    if engine == "astra":
        toolbox()


def _check_geometry(fit: Any, centre: Any, axis: Any, angles: Any, order: Any) -> None:
    if fit is not None and not isinstance(fit, TiltFit):
        raise OptionError(f"fit= is a {type(fit).__name__}: pass the TiltFit of align_projections")
    if fit is not None and centre is not None:
        raise OptionError("centre= and fit=: the fit has the centre")
    if fit is not None and axis is not None:
        raise OptionError("axis= and fit=: the fit has the axis")
    if axis not in (None, "y", "x"):
        raise OptionError(f"axis={axis!r}: the axis of rotation is along 'y', down the columns, or 'x', along the rows")
    if centre is not None:
        finite_number("centre", centre)
    if order not in (1, 3):
        raise OptionError(f"order={order!r}: use 1 or 3")
    if fit is None and angles is None:
        raise OptionError("reconstruct needs angles, or a fit, which has them")


def _aligned(
    volume: Volume, beam: Beam | None, fit: TiltFit | None, *, transposed: bool, order: int, rows: int
) -> da.Array:
    """The attenuation without gaps, aligned if there is a fit, in blocks of so many rows."""
    array = volume.array
    data = complete(array.data, volume.source, beam, transposed=transposed, rows=rows)
    if fit is None:
        raw: da.Array = da.asarray(data)
        return raw
    transform = fit.projections_from_aligned
    if isinstance(transform.axis, str) and transform.axis not in array.dims:
        raise InvalidTransformError(f"the fit runs along {transform.axis!r}, the projections have {tuple(array.dims)}")
    lazy = array.copy(data=data) if isinstance(data, da.Array) else array.chunk()
    chunks = dict(zip(map(str, array.dims), (*(1,) * (array.ndim - 3), *array.shape[-3:]), strict=True))
    chunks[str(array.dims[-1 if transposed else -2])] = rows
    found: da.Array = warp(lazy, pull=transform, order=order, dtype=np.float32, edge="clamp", chunks=chunks).data
    return found


def _rows_of_a_block(count: int, recipe: Recipe, height: int, rows: int | None) -> int:
    if rows is not None:
        return min(rows, height)
    per_row = 4 * _IMAGES * max(recipe.size**2, count * recipe.columns)
    return max(1, min(height, _BLOCK_BYTES // per_row))


def _warn_of_reads(source: Source, height: int, rows: int, *, transposed: bool) -> None:
    """Files of whole projections are decoded as a whole for each block of rows."""
    chunk = source.chunks[-1 if transposed else -2]
    if source.array is not None:
        return
    starts = range(0, height, rows)
    ends = [min(start + rows, height) for start in starts]
    decoded = sum(
        min(-(-end // chunk) * chunk, height) - start // chunk * chunk for start, end in zip(starts, ends, strict=True)
    )
    times = decoded / height
    if times > _MOST_READS:
        warnings.warn(
            f"{source.path} is stored in chunks of {min(chunk, height)} of {height} rows, so that {len(ends)} blocks "
            f"of rows decode each projection about {times:.0f} times: save it with dr.write(..., chunks=) or "
            "`daskreg convert` first, or pass rows= where memory allows more at once",
            RepeatedReadWarning,
            stacklevel=3,
        )


def _by_rows(data: da.Array, recipe: Recipe, size: int) -> da.Array:
    """(..., rows, Y, X) from (..., angles, rows, columns), in blocks of so many rows."""
    lead = data.shape[:-3]
    # Rows first, as in the result: a block of one is made of a block of the other.
    chunked = data.rechunk({**dict.fromkeys(range(len(lead)), 1), -3: -1, -2: size, -1: -1}).swapaxes(-3, -2)

    def block(values: Array) -> Array:
        made = recipe.slices(values.reshape(values.shape[-3:]).swapaxes(0, 1))
        return made.reshape(*(1,) * len(lead), *made.shape)

    chunks = (*chunked.chunks[: len(lead)], chunked.chunks[-3], (recipe.size,), (recipe.size,))
    meta = np.empty((0,) * data.ndim, np.float32)
    made: da.Array = da.map_blocks(block, chunked, chunks=chunks, dtype=np.float32, meta=meta)
    return made


def _volume_grid(grid: Grid, size: int, transposed: bool) -> Grid:
    """Rows as on the detector; y and x about the axis of rotation."""
    along, across = (2, 1) if transposed else (1, 2)
    spacing = (grid.spacing[along], grid.spacing[across], grid.spacing[across])
    origin = (grid.origin[along], *(-(size - 1) / 2 * grid.spacing[across],) * 2)
    return Grid((grid.shape[along], size, size), spacing, origin, unit=grid.unit, axes=("z", "y", "x"))
