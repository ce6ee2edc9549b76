"""The centre of rotation of tomographic projections, which a reconstruction needs.

Projections that drift are aligned by `align_stack(projections, model="translation")`, or, along the
rotation axis only and without parallax, with `common_line=`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import DegenerateImageError, OptionError, ShapeMismatchError
from daskreg.stacks.common_line import fit_shift

__all__ = ["center_of_rotation"]

Floats = NDArray[np.float64]

METHODS = ("auto", "pairs", "sinogram")
_MAX_ROWS = 32
_MIN_CORRELATION = 0.9  # of a projection with its mirrored opposite, for "auto" to use the pairs
_MIN_TRANSMISSION = 1e-4
_FINE_STEP = 0.25  # columns


def center_of_rotation(
    projections: Any,
    angles: ArrayLike | None = None,
    *,
    method: str = "auto",
    flats: Any = None,
    darks: Any = None,
    rows: slice | None = None,
) -> float:
    """The column of the detector onto which the axis of rotation projects; the axis is parallel to the columns.

    Args:
        projections: (angles, rows, columns) or a sinogram (angles, columns); NumPy, dask or DataArray.
            Only the rows that are used are read.
        angles: (angles,) in radians; by default evenly from 0 to a half turn, both included.
        method: "pairs": the shift between each projection and the mirrored projection half a turn
            later; "sinogram": the Fourier transform of a full turn, which is made of the sinogram and
            its mirror image, has an empty double wedge only at the right centre (Vo et al. 2014);
            "auto": pairs where there are pairs that correlate, else the sinogram.
        flats, darks: (K, rows, columns) images without specimen and without beam. With flats, the
            negative logarithm of the transmission is used; without them, the projections as they are.
        rows: of the detector; by default up to 32 in its middle.

    Returns: the column as an index, 0 at the centre of the first pixel; its mirror is n - 1 minus it.

    Raises: OptionError for unknown methods or angles without pairs; ShapeMismatchError;
        DegenerateImageError where the projections are constant.
    """
    if method not in METHODS:
        raise OptionError(f"method={method!r}: use {', '.join(METHODS)}")
    data = _read(projections, flats, darks, rows)
    radians = np.linspace(0, np.pi, len(data)) if angles is None else np.asarray(angles, dtype=np.float64)
    if radians.shape != (len(data),):
        raise ShapeMismatchError(f"there are {len(data)} projections and angles of shape {radians.shape}")
    if not np.ptp(data) > 0:
        raise DegenerateImageError("the projections are constant")
    opposite = _opposite_pairs(radians)
    if method == "pairs" and not len(opposite):
        raise OptionError("no two projections are half a turn apart: use method='sinogram'")
    if method != "sinogram" and len(opposite):
        centre, score = _from_pairs(data, opposite)
        if method == "pairs" or score >= _MIN_CORRELATION:
            return centre
    return _from_sinogram(data, radians)


def _read(projections: Any, flats: Any, darks: Any, rows: slice | None) -> Floats:
    """(angles, rows, columns) of attenuation, of a few rows of the detector."""
    array = getattr(projections, "data", projections) if hasattr(projections, "dims") else projections
    if len(array.shape) == 2:
        array = array[:, None]
    if len(array.shape) != 3 or min(array.shape) < 1 or array.shape[0] < 2 or array.shape[2] < 8:
        raise ShapeMismatchError(f"projections of shape {tuple(array.shape)} are not (angles, rows, columns)")
    count = array.shape[1]
    first = max(0, (count - _MAX_ROWS) // 2)
    chosen = slice(first, first + _MAX_ROWS) if rows is None else rows
    data = np.asarray(array[:, chosen], dtype=np.float64)
    if flats is None:
        return np.nan_to_num(data)
    dark = np.zeros(()) if darks is None else _mean(darks, chosen)
    light = np.maximum(_mean(flats, chosen) - dark, 1e-9)
    return np.asarray(-np.log(np.clip((data - dark) / light, _MIN_TRANSMISSION, None)))


def _mean(images: Any, rows: slice) -> Floats:
    array = images if len(images.shape) == 3 else images[:, None]
    return np.asarray(np.asarray(array[:, rows], dtype=np.float64).mean(axis=0))


def _opposite_pairs(radians: Floats) -> NDArray[np.intp]:
    """(K, 2) projections that are half a turn apart to within a step of the angles."""
    step = float(np.median(np.abs(np.diff(radians))))
    apart = np.abs((radians[None, :] - radians[:, None]) % (2 * np.pi) - np.pi)
    one, other = np.nonzero(apart <= min(1.01 * step, float(apart.min()) + 0.1 * step))
    first = one < other
    return np.stack([one[first], other[first]], axis=1)


def _from_pairs(data: Floats, pairs: NDArray[np.intp]) -> tuple[float, float]:
    """The median centre of the pairs, and their median correlation."""
    columns = data.shape[2]
    matches = []
    for a, b in pairs[:: max(1, len(pairs) // 64)]:
        # The mirrored opposite is the projection shifted by twice the distance of the axis from the middle column.
        shift, _, score, _ = fit_shift(data[b, :, ::-1].T, data[a].T, least_overlap=0.4)
        matches.append(((columns - 1) / 2 + shift / 2, score))
    centres, scores = np.array(matches).T
    valid = np.isfinite(scores)
    if not valid.any():
        return (columns - 1) / 2, -1.0
    return float(np.median(centres[valid])), float(np.median(scores[valid]))


def _from_sinogram(data: Floats, radians: Floats) -> float:
    """The centre with the least magnitude in the double wedge: by whole columns, by fractions, then by a parabola."""
    span = np.ptp(radians) + np.median(np.abs(np.diff(np.sort(radians))))
    if span < np.pi * 0.95:
        raise OptionError(f"the angles span {np.degrees(span):.0f} degrees; the sinogram's centre needs a half turn")
    sinogram = data[np.argsort(radians)].mean(axis=1)
    half = sinogram[np.sort(radians) - radians.min() < np.pi - 1e-6]
    columns = half.shape[1]
    middle = (columns - 1) / 2
    coarse = np.arange(-columns // 4, columns // 4 + 1) + np.round(middle)
    at = float(coarse[int(np.argmin([_wedge_magnitude(half, c) for c in coarse]))])
    fine = at + np.arange(-6, 7) * _FINE_STEP
    magnitudes = np.array([_wedge_magnitude(half, c) for c in fine])
    k = int(np.clip(np.argmin(magnitudes), 1, len(fine) - 2))
    left, mid, right = magnitudes[k - 1 : k + 2]
    curvature = left - 2 * mid + right
    return float(fine[k] + (0.5 * (left - right) / curvature * _FINE_STEP if curvature > 0 else 0.0))


def _wedge_magnitude(half: Floats, centre: float) -> float:
    """Mean magnitude in the double wedge, of the full turn that half a turn and its mirror image make."""
    count, columns = half.shape
    radius = int(np.floor(min(centre, columns - 1 - centre)))
    x = centre + np.arange(-radius, radius + 1)
    low = np.clip(np.floor(x).astype(int), 0, columns - 2)
    fraction = x - low
    centred = half[:, low] * (1 - fraction) + half[:, low + 1] * fraction
    centred = (centred - centred.mean()) * np.hanning(len(x))
    full = np.concatenate([centred, centred[:, ::-1]])
    magnitude = np.abs(np.fft.fft2(full)) / (count * radius)
    along = np.abs(np.fft.fftfreq(2 * count)) * 2 * count
    across = np.abs(np.fft.fftfreq(len(x)))
    wedge = (across[None, :] < (along[:, None] - 2) / (2 * np.pi * (radius + 1))) & (along[:, None] > 4)
    return float(magnitude[wedge].mean())
