"""The axis from a sinogram of half a turn (Vo et al. 2014, doi:10.1364/OE.22.019078).

Half a turn and its mirror image make a whole turn. Its Fourier transform has an empty double wedge, but only where the
mirror image is taken about the right column.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import OptionError
from daskreg.tomography.opposite_pairs import AxisFit
from daskreg.tomography.poses import span_of, spans_half_a_turn

Floats = NDArray[np.float64]

_COARSE_COLUMNS = 256
_FINE_STEP = 0.25  # columns


def fit_sinogram(data: Floats, radians: Floats) -> AxisFit:
    """The centre with the least magnitude in the double wedge: by whole columns, by fractions, then by a parabola.

    Raises: OptionError where the angles span less than half a turn.
    """
    if not spans_half_a_turn(radians):
        degrees = np.degrees(span_of(radians))
        raise OptionError(f"the angles span {degrees:.0f} degrees; the sinogram's centre needs a half turn")
    sinogram = data[np.argsort(radians)].mean(axis=1)
    half = sinogram[np.sort(radians) - radians.min() < np.pi - 1e-6]
    columns = half.shape[1]
    factor = -(-columns // _COARSE_COLUMNS)
    binned = half[:, : columns // factor * factor].reshape(len(half), -1, factor).mean(axis=2)
    width = binned.shape[1]
    coarse = np.arange(width // 8, width - width // 8).astype(np.float64)
    best = int(np.argmin([_extended_magnitude(binned, c) for c in coarse]))
    near = np.round(_unbinned(coarse[best], factor)) + np.arange(-factor, factor + 1)
    near = near[(near >= columns // 16) & (near < columns - columns // 16)]
    column = near[int(np.argmin([_wedge_magnitude(half, c) for c in near]))]
    fine = column + np.arange(-6, 7) * _FINE_STEP
    values = np.array([_wedge_magnitude(half, c) for c in fine])
    k = int(np.clip(np.argmin(values), 1, len(fine) - 2))
    left, mid, right = values[k - 1 : k + 2]
    curvature = left - 2 * mid + right
    centre = float(fine[k] + (0.5 * (left - right) / curvature * _FINE_STEP if curvature > 0 else 0.0))
    searched = (_unbinned(coarse[0], factor), _unbinned(coarse[-1], factor))
    return AxisFit(centre, np.nan, searched, best in (0, 1, len(coarse) - 2, len(coarse) - 1))


def _unbinned(column: float, factor: int) -> float:
    """The column of the detector at a column of means of `factor` columns."""
    return float((column + 0.5) * factor - 0.5)


def _extended_magnitude(half: Floats, centre: float) -> float:
    """Mean magnitude in the double wedge at the full width, per column that the mirror image shares with the half turn.

    Columns that the mirror image lacks are taken from the half turn in reverse order of angles, which continues it
    without a step, so that centres with narrow and wide overlaps can be compared.
    """
    count, columns = half.shape
    x = 2 * centre - np.arange(columns)
    mirrored = _at(half, x)
    outside = (x < 0) | (x > columns - 1)
    mirrored[:, outside] = half[::-1, outside]
    full = np.concatenate([half, mirrored])
    magnitude = np.abs(np.fft.rfft2(full - full.mean())) / (count * columns)
    return float(magnitude[_wedge(count, columns, columns)].mean() / (1 - outside.mean()))


def _wedge_magnitude(half: Floats, centre: float) -> float:
    """Mean magnitude in the double wedge, of the columns about the centre that both halves have."""
    count, columns = half.shape
    radius = int(np.floor(min(centre, columns - 1 - centre)))
    centred = _at(half, centre + np.arange(-radius, radius + 1))
    centred = (centred - centred.mean()) * np.hanning(centred.shape[1])
    full = np.concatenate([centred, centred[:, ::-1]])
    magnitude = np.abs(np.fft.rfft2(full)) / (count * radius)
    return float(magnitude[_wedge(count, centred.shape[1], radius + 1)].mean())


def _wedge(count: int, columns: int, radius: float) -> NDArray[np.bool_]:
    """The frequencies of a whole turn of 2 count projections that a specimen of this radius leaves empty."""
    along = np.abs(np.fft.fftfreq(2 * count)) * 2 * count
    across = np.fft.rfftfreq(columns)
    return np.asarray((across[None, :] < (along[:, None] - 2) / (2 * np.pi * radius)) & (along[:, None] > 4))


def _at(half: Floats, x: NDArray[np.floating[Any]]) -> Floats:
    """(angles, len(x)) values at fractional columns, linearly interpolated."""
    low = np.clip(np.floor(x).astype(int), 0, half.shape[1] - 2)
    fraction = x - low
    return np.asarray(half[:, low] * (1 - fraction) + half[:, low + 1] * fraction)
