"""Projections as attenuation: a few rows of the detector, without what is not of the specimen."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label, median_filter

from daskreg.errors import DegenerateImageError, ShapeMismatchError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_MAX_ROWS = 32
_MIN_TRANSMISSION = 1e-4
_LEAST_BEAM = 1e-3  # of the median of the flats: a pixel with less is dead
_WIDEST_DEAD = 8  # columns beside each other
_STRIPE_WINDOW = 9  # columns: what is narrower in the mean of all projections is of the detector
_SAME_DETAIL = 0.5
_LEAST_PROJECTIONS = 16  # whose mean shows the detector and not the specimen


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
    if flats is not None:
        data = attenuation(
            data, mean_image(flats, chosen), np.zeros(()) if darks is None else mean_image(darks, chosen)
        )
    data, kept = _interpolated(data)
    if not np.ptp(data) > 0:
        raise DegenerateImageError("the projections are constant")
    return _without_stripes(data), kept


def mean_image(images: Any, rows: slice) -> Floats:
    """(rows, columns) mean of the finite voxels, NaN where there are none."""
    array = images if len(images.shape) == 3 else images[:, None]
    values = np.asarray(array[:, rows], dtype=np.float64)
    finite = np.isfinite(values)
    count = finite.sum(axis=0)
    return np.where(count > 0, np.where(finite, values, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def attenuation(data: Floats, flat: Floats, dark: Floats) -> Floats:
    beam = flat - dark
    finite = beam[np.isfinite(beam)]
    if not finite.size or not np.median(finite) > 0:
        raise DegenerateImageError("the flats are not brighter than the darks")
    beam = np.where(beam > _LEAST_BEAM * np.median(finite), beam, np.nan)
    return np.asarray(-np.log(np.maximum((data - dark) / beam, _MIN_TRANSMISSION)))  # NaN stays NaN


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
    x = np.arange(data.shape[2])
    for i, j in np.argwhere(missing.any(axis=2)):
        gaps = missing[i, j]
        data[i, j, gaps] = np.interp(x[gaps], x[~gaps], data[i, j, ~gaps])
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
