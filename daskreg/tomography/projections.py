"""Projections as attenuation: a few rows of the detector, without what is not of the specimen; or all, without gaps.

For a reconstruction, gaps are filled before anything is interpolated, which would spread them, and across the axis of
rotation, so that each slice is made of its own pixels. A row without any is interpolated between its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray
from scipy.ndimage import label, median_filter

from daskreg.errors import DegenerateImageError, OptionError, ShapeMismatchError
from daskreg.geometry import Box
from daskreg.sources.source import Source

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Array = NDArray[Any]

_MAX_ROWS = 32
_MIN_TRANSMISSION = 1e-4
_LEAST_BEAM = 1e-3  # of the median of the flats: a pixel with less is dead
_WIDEST_DEAD = 8  # columns beside each other
_STRIPE_WINDOW = 9  # columns: what is narrower in the mean of all projections is of the detector
_SAME_DETAIL = 0.5
_LEAST_PROJECTIONS = 16  # whose mean shows the detector and not the specimen
_FURTHER = 4  # times as many rows are read, until there is one with values


def read_attenuation(projections: Any, flats: Any, darks: Any, rows: slice | None) -> tuple[Floats, NDArray[np.intp]]:
    """(K, rows, columns) attenuation, and the indices of the K projections that have a finite voxel.

    With flats it is the negative logarithm of the transmission, without them the values as they are. Voxels that are
    not finite, pixels without beam, and columns that stay constant between others that change are interpolated along
    the columns. What stays at a column in all projections (stripes, which become rings) is subtracted.

    Raises: ShapeMismatchError; DegenerateImageError where the projections are constant or not finite.
    """
    array = getattr(projections, "data", projections) if hasattr(projections, "dims") else projections
    if len(array.shape) == 2:
        array = array[:, None]
    if len(array.shape) != 3 or min(array.shape) < 1 or array.shape[0] < 2 or array.shape[2] < 8:
        raise ShapeMismatchError(f"projections of shape {tuple(array.shape)} are not (angles, rows, columns)")
    count = array.shape[1]
    first = max(0, (count - _MAX_ROWS) // 2)
    chosen = slice(first, first + _MAX_ROWS) if rows is None else rows
    data = np.asarray(array[:, chosen], dtype=np.float64)
    light = beam_of(flats, darks, tuple(array.shape[1:]))
    if light is not None:
        data = light.rows(chosen).attenuation(data)
    data, kept = _interpolated(data)
    if not np.ptp(data) > 0:
        raise DegenerateImageError("the projections are constant")
    return _without_stripes(data), kept


@dataclass(frozen=True, eq=False)
class Beam:
    """(rows, columns) mean images without specimen, and without beam; NaN where no image has a finite pixel."""

    flat: Floats
    dark: Floats

    def attenuation(self, data: Any, rows: slice = slice(None)) -> Floats:
        """The negative logarithm of the transmission of (..., rows, columns); NaN where there is no beam.

        Args:
            rows: of the detector, which the data are of.

        Raises: DegenerateImageError where the flats are not brighter than the darks.
        """
        beam = self.flat - self.dark
        finite = beam[np.isfinite(beam)]
        if not finite.size or not np.median(finite) > 0:
            raise DegenerateImageError("the flats are not brighter than the darks")
        beam = np.where(beam > _LEAST_BEAM * np.median(finite), beam, np.nan)[rows]
        seen = (np.asarray(data, dtype=np.float64) - self.dark[rows]) / beam
        return np.asarray(-np.log(np.maximum(seen, _MIN_TRANSMISSION)))  # NaN stays NaN

    def rows(self, chosen: slice) -> Beam:
        return Beam(self.flat[chosen], self.dark[chosen])

    def swapped(self) -> Beam:
        """That of projections whose rows and columns are exchanged."""
        return Beam(self.flat.T, self.dark.T)


def beam_of(flats: Any, darks: Any, detector: tuple[int, ...]) -> Beam | None:
    """The means of flats and darks, (K, rows, columns) or one image; of a sinogram, also (K, columns). None: no flats.

    Raises: OptionError for darks alone; ShapeMismatchError for images that are not of the detector's shape.
    """
    if flats is None:
        if darks is not None:
            raise OptionError("darks= without flats=: pass the images without specimen too")
        return None
    flat = _mean_image(flats, detector, "flats")
    return Beam(flat, np.zeros(detector) if darks is None else _mean_image(darks, detector, "darks"))


def _mean_image(images: Any, detector: tuple[int, ...], name: str) -> Floats:
    array = images.data if hasattr(images, "dims") else images if hasattr(images, "shape") else np.asarray(images)
    shape = tuple(array.shape)
    if len(shape) == 2:
        array = array[:, None] if shape != detector and detector[0] == 1 else array[None]
    if array.ndim != 3 or tuple(array.shape[1:]) != detector or len(array) < 1:
        raise ShapeMismatchError(f"{name} of shape {shape}: the detector has {detector[0]} rows, {detector[1]} columns")
    values = np.asarray(array, dtype=np.float64)
    finite = np.isfinite(values)
    count = finite.sum(axis=0)
    return np.where(count > 0, np.where(finite, values, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def without_gaps(images: Floats) -> Floats:
    """(K, rows, columns) whose missing pixels are interpolated along the columns, and rows without any along the rows.

    Images without a finite pixel stay as they are.
    """
    missing = ~np.isfinite(images)
    if not missing.any():
        return images
    images = images.copy()
    _fill(images, missing)
    missing = ~np.isfinite(images)
    _fill(images.swapaxes(1, 2), missing.swapaxes(1, 2))
    return images


def _fill(images: Floats, missing: Bools) -> None:
    """Interpolate, in place, missing pixels along the last axis where that has others."""
    x = np.arange(images.shape[2])
    for i, j in np.argwhere(missing.any(axis=2) & ~missing.all(axis=2)):
        gaps = missing[i, j]
        images[i, j, gaps] = np.interp(x[gaps], x[~gaps], images[i, j, ~gaps])


def _interpolated(data: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Missing voxels from their neighbours in the row; without projections and rows that have none."""
    missing = ~np.isfinite(data) | _dead_columns(data)[None]
    rows = np.flatnonzero(~missing.all(axis=(0, 2)))
    data, missing = data[:, rows], missing[:, rows]
    empty = missing.all(axis=2)
    kept = np.flatnonzero(~np.any(empty, axis=1))
    data, missing = data[kept].copy(), missing[kept]
    if len(rows) == 0 or len(kept) < 2:
        raise DegenerateImageError("the projections are not finite")
    _fill(data, missing)
    return data, kept


def _dead_columns(data: Floats) -> Bools:
    """(rows, columns) that never change, in narrow runs between columns that do; air at the borders is none of them."""
    finite = np.isfinite(data)
    high = np.where(finite, data, -np.inf).max(axis=0)
    low = np.where(finite, data, np.inf).min(axis=0)
    dead = np.zeros(high.shape, dtype=bool)
    for row, constant in enumerate(high <= low):
        runs, count = label(constant)
        for k in range(1, count + 1):
            at = np.flatnonzero(runs == k)
            inside = at[0] > 0 and at[-1] < len(constant) - 1
            dead[row, at] = inside and len(at) <= _WIDEST_DEAD
    return dead


def _without_stripes(data: Floats) -> Floats:
    """Less what is narrow in the mean over the angles, if most of the fine detail is the same in all projections.

    A turning specimen is smooth in that mean, but not so smooth that subtracting its detail costs nothing.
    """
    if len(data) < _LEAST_PROJECTIONS:
        return data
    mean = data.mean(axis=0)
    if _fine_detail(mean) < _SAME_DETAIL * _fine_detail(data):
        return data
    return np.asarray(data - (mean - median_filter(mean, (1, _STRIPE_WINDOW), mode="nearest")))


def _fine_detail(values: Floats) -> float:
    """Root mean square of the third differences along the columns."""
    return float(np.sqrt(np.mean(np.diff(values, 3, axis=-1) ** 2)))


@dataclass(frozen=True, eq=False)
class Completing:
    """How blocks of (..., angles, rows, columns) are completed.

    Args:
        source: of the projections.
        transposed: whether the rows of the blocks are columns of the source.
        beam: of the blocks, as they are transposed.
    """

    source: Source
    transposed: bool
    beam: Beam | None

    def block(self, values: Array, block_info: Any = None) -> Array:
        """A block as float32."""
        *lead, rows, _ = block_info[0]["array-location"]
        images = self._attenuation(values, *rows)
        if np.isfinite(images).all():
            return images.astype(np.float32, copy=False)
        flat = images.reshape(-1, *images.shape[-2:])
        for at, place in enumerate(product(*(range(*ends) for ends in lead))):
            flat[at] = self._filled(flat[at], place, *rows)
        return flat.reshape(values.shape).astype(np.float32)

    def _attenuation(self, values: Array, first: int, last: int) -> Array:
        return np.array(values) if self.beam is None else self.beam.attenuation(values, slice(first, last))

    def _filled(self, image: Array, place: tuple[int, ...], first: int, last: int) -> Array:
        """The rows from `first` on of an image, filled; more rows are read where the nearest ones with values are not
        among them."""
        count = self.source.shape[-1 if self.transposed else -2]
        start, stop, reach = first, last, last - first
        while not _ends_in_values(image, start == 0, stop == count):
            reach *= _FURTHER
            start, stop = max(0, first - reach), min(count, last + reach)
            image = self._attenuation(self._read(place, start, stop), start, stop)
        return without_gaps(image[None])[0, first - start : last - start]

    def _read(self, place: tuple[int, ...], start: int, stop: int) -> Array:
        *_, rows, columns = self.source.shape
        ends = ((0, rows), (start, stop)) if self.transposed else ((start, stop), (0, columns))
        corners = [*((k, k + 1) for k in place), *ends]
        found = self.source.read(Box(tuple(a for a, _ in corners), tuple(b for _, b in corners)))
        image = np.asarray(found).reshape(found.shape[-2:])
        return image.T if self.transposed else image


def _ends_in_values(image: Array, is_first: bool, is_last: bool) -> bool:
    """Whether rows beyond those of the image would not change how its gaps are filled."""
    above, below = (bool(np.isfinite(image[row]).any()) for row in (0, -1))
    return (above or is_first) and (below or is_last)


def complete(data: Any, source: Source, beam: Beam | None, *, transposed: bool, rows: int) -> Any:
    """(..., angles, rows, columns) attenuation, without gaps, of the data of a source.

    Args:
        data: as those of the source, NumPy or dask; of integers without a beam they stay as they are.
        beam: as it was passed.
        transposed: whether the axis of rotation is along the rows of the detector; else it is along the columns.
        rows: of a block of slices. Blocks have no more, so that what is beside them is not completed for nothing.
    """
    if beam is None and not np.issubdtype(data.dtype, np.floating):
        return data
    along, across = (-1, -2) if transposed else (-2, -1)
    lead = dict.fromkeys(range(data.ndim - 3), 1)
    if isinstance(data, da.Array):
        stored = max(data.chunks[along])
        lazy = data.rechunk({**lead, across: -1, **({along: rows} if stored > rows else {})})
    else:
        chunks = [1] * (data.ndim - 3) + [data.shape[-3], *data.shape[-2:]]
        chunks[along] = rows
        lazy = da.from_array(data, chunks=tuple(chunks))
    completing = Completing(source, transposed, beam if beam is None or not transposed else beam.swapped())
    parts = () if beam is None else (beam.flat, beam.dark)
    made = da.map_blocks(
        completing.block,
        lazy.swapaxes(-1, -2) if transposed else lazy,
        dtype=np.float32,
        meta=np.empty((0,) * data.ndim, np.float32),
        name=f"complete-{tokenize(lazy.name, transposed, *parts)}",
    )
    return made.swapaxes(-1, -2) if transposed else made
