"""Where the matching of projections starts: the tilt of the axis, and the shifts, without a reconstruction.

The sums of a projection across the axis of rotation do not change with the angle (Penczek et al. 1996), which gives the
shifts along the axis, and the axis itself: with a wrong one, they do change. The centre of mass of a projection goes
with the cosine and the sine of the angle about the axis, which gives the shifts across it, if projections show all of
the specimen. If they do not, neighbouring projections are compared, or it is assumed that nothing moves; which of
these fits best is decided by the reprojections.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import csr_array

from daskreg.errors import DaskregError
from daskreg.stacks.common_line import fit_shift
from daskreg.tomography.matching import LEAST_ROWS, Problem, aligned_images, smoothed
from daskreg.tomography.poses import fitted_waves, increments
from daskreg.tomography.rotation_axis import center_of_rotation

Floats = NDArray[np.float64]
Array = NDArray[Any]

_WIDEST_TILT, _TILT_STEP = np.radians(12.0), np.radians(0.5)
_UPSAMPLED = 8  # per pixel, of the shifts between sums
_LEAST_OVERLAP = 0.6
_LINE_SMOOTHING = 1.5  # pixels


def start_poses(problem: Problem, turn: float | None, centre: float | None) -> Iterator[Floats]:
    """Poses (A, 3, 3) about the middle of the detector, one set for each assumption about the shifts across the axis.

    Args:
        turn: theta of the axis, radians; None: it is searched for.
        centre: shift of the axis from the middle of the detector, pixels; None: it is found with the shifts.
    """
    count = len(problem.data)
    if turn is None:
        turn = tilt_of_axis(problem.data[problem.used]) if problem.data.shape[1] >= LEAST_ROWS else 0.0
    turned = increments(np.full((count, 1), turn), ("theta",))
    seen = aligned_images(problem, turned)
    images = smoothed(seen.images * seen.known)
    rows = _row_shifts(images.mean(axis=1)) if images.shape[2] >= LEAST_ROWS else np.zeros(len(images))
    radians = problem.radians[problem.used]
    for columns in _column_shifts(images, rows, radians):
        across = _uncommon(columns, radians)
        if centre is not None:
            across += centre / problem.factor - columns_constant(columns, radians)
        shifts = np.zeros((count, 2))
        shifts[problem.used, 0] = (rows - rows.mean()) * problem.level.factors[0]
        shifts[problem.used, 1] = across * problem.factor
        yield turned @ increments(shifts, ("ty", "tx"))


def columns_constant(columns: Floats, radians: Floats) -> float:
    return float(fitted_waves(columns, radians)[1][0])


def _uncommon(columns: Floats, radians: Floats) -> Floats:
    """Column shifts without what goes with the cosine and the sine of the angle."""
    basis, parts = fitted_waves(columns, radians)
    return np.asarray(columns - basis[:, 1:] @ parts[1:])


def _column_shifts(images: Array, rows: Floats, radians: Floats) -> Iterator[Floats]:
    """By the centre of mass; by neighbours; by the centre of rotation alone. Pixels of the level."""
    place = np.arange(images.shape[1]) - (images.shape[1] - 1) / 2
    mass = images.sum(axis=(1, 2), dtype=np.float64)
    if (np.abs(mass) > 1e-6 * np.abs(images).sum(axis=(1, 2), dtype=np.float64)).all():
        centre = np.einsum("auv,u->a", images, place) / mass
        if np.abs(centre).max() < len(place) / 2:
            yield np.asarray(centre, dtype=np.float64)
    order = np.argsort(radians)
    chain = np.zeros(len(images))
    for before, after in pairwise(order):
        chain[after] = chain[before] + fit_shift(images[before], images[after], least_overlap=_LEAST_OVERLAP)[0]
    yield chain
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            column = center_of_rotation(images.transpose(0, 2, 1), radians, unit="radians")
    except DaskregError:
        column = (len(place) - 1) / 2
    yield np.full(len(images), column - (len(place) - 1) / 2)


def _row_shifts(sums: Array) -> Floats:
    """(A,) shifts of (A, V) sums, first to the middle one, then twice to the mean of the shifted ones."""
    reference, place = sums[len(sums) // 2].astype(np.float64), np.arange(sums.shape[1])
    shifts = np.zeros(len(sums))
    for _ in range(3):
        shifts = np.array([fit_shift(reference, line, least_overlap=_LEAST_OVERLAP)[0] for line in sums])
        reference = np.mean([np.interp(place + s, place, line) for s, line in zip(shifts, sums, strict=True)], axis=0)
    return shifts


def tilt_of_axis(data: Array) -> float:
    """Theta of the axis, radians, for which the sums across it change least with the angle, of (A, V, U)."""
    turns = np.arange(-_WIDEST_TILT, _WIDEST_TILT + _TILT_STEP / 2, _TILT_STEP)
    images = data.reshape(len(data), -1).T.astype(np.float64)
    misfits = np.array([_misfit((_sums_across(turn, *data.shape[1:]) @ images).T) for turn in turns])
    best = int(np.clip(misfits.argmin(), 1, len(turns) - 2))
    left, middle, right = misfits[best - 1 : best + 2]
    curvature = left - 2 * middle + right
    inside = float(np.clip(0.5 * (left - right) / curvature, -1, 1)) if curvature > 0 else 0.0
    return float(turns[best] + inside * _TILT_STEP)


def _sums_across(turn: float, rows: int, columns: int) -> Any:
    """(V, V * U) sparse: the rows of a projection that is turned back, summed."""
    v, u = np.mgrid[:rows, :columns].reshape(2, -1) - np.array([[(rows - 1) / 2], [(columns - 1) / 2]])
    place = np.cos(turn) * v - np.sin(turn) * u + (rows - 1) / 2
    low = np.floor(place).astype(np.intp)
    at = np.concatenate([low, low + 1])
    weight = np.concatenate([1 - (place - low), place - low])
    inside = (at >= 0) & (at < rows)
    pixel = np.tile(np.arange(rows * columns), 2)
    return csr_array((weight[inside], (at[inside], pixel[inside])), shape=(rows, rows * columns))


def _misfit(lines: Floats) -> float:
    """Of (A, V) lines, each at its best shift to the mean line: the variance that is left, as a share."""
    # The ends count little, where some projections show more of the specimen than others.
    lines = gaussian_filter1d(lines, _LINE_SMOOTHING, axis=1, order=1) * np.hanning(lines.shape[1] + 2)[1:-1]
    lines = lines / np.maximum(np.linalg.norm(lines, axis=1, keepdims=True), 1e-30)
    spectra = np.fft.rfft(lines, axis=1)
    frequency = np.fft.rfftfreq(lines.shape[1])
    size = lines.shape[1] * _UPSAMPLED
    reference = spectra[len(lines) // 2]
    for _ in range(2):
        correlation = np.fft.irfft(spectra * reference.conj(), size, axis=1)
        shifts = (correlation.argmax(axis=1) + size // 2) % size - size // 2
        moved = spectra * np.exp(2j * np.pi * frequency * (shifts / _UPSAMPLED)[:, None])
        reference = moved.mean(axis=0)
    return float((np.abs(moved - reference) ** 2).sum() / max((np.abs(moved) ** 2).sum(), 1e-30))
