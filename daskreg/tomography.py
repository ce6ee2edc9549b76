"""What tomography needs before a reconstruction: where the axis of rotation is.

Projections that drift are aligned by `align_stack(projections, model="translation")`; along the
axis alone, free of parallax, by `common_line=`.
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
_MOST_ROWS = 32
_SURE = 0.9  # correlation of a projection with its mirrored opposite, above which pairs are believed
_LEAST_TRANSMISSION = 1e-4
_FINE = 0.25  # columns


def center_of_rotation(
    projections: Any,
    angles: ArrayLike | None = None,
    *,
    method: str = "auto",
    flats: Any = None,
    darks: Any = None,
    rows: slice | None = None,
) -> float:
    """The column of the detector that the axis of rotation, parallel to its rows' stack, projects to.

    Args:
        projections: (angles, rows, columns) or a sinogram (angles, columns); NumPy, dask or DataArray:
            only the rows that are used are read.
        angles: (angles,) in radians; by default evenly from 0 to a half turn, both included.
        method: "pairs": each projection and the mirrored one half a turn on are shifted onto each
            other; "sinogram": the Fourier transform of a whole turn, made of the sinogram and its
            mirror image, leaves a double wedge empty only at the right centre (Vo et al. 2014);
            "auto": pairs where there are any that agree, else the sinogram.
        flats, darks: (K, rows, columns) images without specimen and without beam; with flats the
            negative logarithm of the transmission is used, without the projections as they are.
        rows: of the detector; by default up to 32 in its middle.

    Returns: the column as an index, 0 at the centre of the first pixel; its mirror is n - 1 minus it.

    Raises: OptionError for unknown methods or angles without pairs; ShapeMismatchError;
        DegenerateImageError where the projections show nothing.
    """
    if method not in METHODS:
        raise OptionError(f"method={method!r}: use {', '.join(METHODS)}")
    data = _read(projections, flats, darks, rows)
    turns = np.linspace(0, np.pi, len(data)) if angles is None else np.asarray(angles, dtype=np.float64)
    if turns.shape != (len(data),):
        raise ShapeMismatchError(f"there are {len(data)} projections and angles of shape {turns.shape}")
    if not np.ptp(data) > 0:
        raise DegenerateImageError("the projections are constant")
    opposite = _opposite(turns)
    if method == "pairs" and not len(opposite):
        raise OptionError("no two projections are half a turn apart: use method='sinogram'")
    if method != "sinogram" and len(opposite):
        centre, score = _of_pairs(data, opposite)
        if method == "pairs" or score >= _SURE:
            return centre
    return _of_sinogram(data, turns)


def _read(projections: Any, flats: Any, darks: Any, rows: slice | None) -> Floats:
    """(angles, rows, columns) of attenuation, a few rows of the detector."""
    array = getattr(projections, "data", projections) if hasattr(projections, "dims") else projections
    if len(array.shape) == 2:
        array = array[:, None]
    if len(array.shape) != 3 or min(array.shape) < 1 or array.shape[0] < 2 or array.shape[2] < 8:
        raise ShapeMismatchError(f"projections of shape {tuple(array.shape)} are not (angles, rows, columns)")
    count = array.shape[1]
    first = max(0, (count - _MOST_ROWS) // 2)
    chosen = slice(first, first + _MOST_ROWS) if rows is None else rows
    data = np.asarray(array[:, chosen], dtype=np.float64)
    if flats is None:
        return np.nan_to_num(data)
    dark = np.zeros(()) if darks is None else _mean(darks, chosen)
    light = np.maximum(_mean(flats, chosen) - dark, 1e-9)
    return np.asarray(-np.log(np.clip((data - dark) / light, _LEAST_TRANSMISSION, None)))


def _mean(images: Any, rows: slice) -> Floats:
    array = images if len(images.shape) == 3 else images[:, None]
    return np.asarray(np.asarray(array[:, rows], dtype=np.float64).mean(axis=0))


def _opposite(turns: Floats) -> NDArray[np.intp]:
    """(K, 2) projections half a turn apart, or as nearly as any are: within a step of the angles."""
    step = float(np.median(np.abs(np.diff(turns))))
    apart = np.abs((turns[None, :] - turns[:, None]) % (2 * np.pi) - np.pi)
    one, other = np.nonzero(apart <= min(1.01 * step, float(apart.min()) + 0.1 * step))
    first = one < other
    return np.stack([one[first], other[first]], axis=1)


def _of_pairs(data: Floats, pairs: NDArray[np.intp]) -> tuple[float, float]:
    """The median centre of the pairs, and their median correlation."""
    columns = data.shape[2]
    found = []
    for a, b in pairs[:: max(1, len(pairs) // 64)]:
        # The opposite, mirrored, is the projection moved by twice what the axis is off the middle.
        shift, _, score, _ = fit_shift(data[b, :, ::-1].T, data[a].T, least_overlap=0.4)
        found.append(((columns - 1) / 2 + shift / 2, score))
    centres, scores = np.array(found).T
    known = np.isfinite(scores)
    if not known.any():
        return (columns - 1) / 2, -1.0
    return float(np.median(centres[known])), float(np.median(scores[known]))


def _of_sinogram(data: Floats, turns: Floats) -> float:
    """The centre at which the double wedge is emptiest: whole columns first, then parts, then a parabola."""
    span = np.ptp(turns) + np.median(np.abs(np.diff(np.sort(turns))))
    if span < np.pi * 0.95:
        raise OptionError(f"the angles span {np.degrees(span):.0f} degrees; the sinogram's centre needs a half turn")
    sinogram = data[np.argsort(turns)].mean(axis=1)
    half = sinogram[np.sort(turns) - turns.min() < np.pi - 1e-6]
    columns = half.shape[1]
    middle = (columns - 1) / 2
    coarse = np.arange(-columns // 4, columns // 4 + 1) + np.round(middle)
    at = float(coarse[int(np.argmin([_leak(half, c) for c in coarse]))])
    fine = at + np.arange(-6, 7) * _FINE
    leaks = np.array([_leak(half, c) for c in fine])
    k = int(np.clip(np.argmin(leaks), 1, len(fine) - 2))
    left, mid, right = leaks[k - 1 : k + 2]
    curve = left - 2 * mid + right
    return float(fine[k] + (0.5 * (left - right) / curve * _FINE if curve > 0 else 0.0))


def _leak(half: Floats, centre: float) -> float:
    """Mean magnitude in what must be empty, for a whole turn made of half a turn and its mirror image."""
    count, columns = half.shape
    reach = int(np.floor(min(centre, columns - 1 - centre)))
    x = centre + np.arange(-reach, reach + 1)
    low = np.clip(np.floor(x).astype(int), 0, columns - 2)
    part = x - low
    seen = half[:, low] * (1 - part) + half[:, low + 1] * part
    seen = (seen - seen.mean()) * np.hanning(len(x))
    whole = np.concatenate([seen, seen[:, ::-1]])
    magnitude = np.abs(np.fft.fft2(whole)) / (count * reach)
    turns = np.abs(np.fft.fftfreq(2 * count)) * 2 * count
    across = np.abs(np.fft.fftfreq(len(x)))
    empty = (across[None, :] < (turns[:, None] - 2) / (2 * np.pi * (reach + 1))) & (turns[:, None] > 4)
    return float(magnitude[empty].mean())
