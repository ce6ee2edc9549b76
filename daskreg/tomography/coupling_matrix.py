"""How the poses of projections are coupled by the volume, as a matrix: sums of images of each projection times the
reprojections of those of each other.

That is what `normal_equations` solves. To apply the reprojection to one direction after the other, as an iterative
solver does, takes as long for each as the whole matrix does here: within a disk, what one projection adds to a ray of
another is a sum of its filtered columns from one end of the chord to the other, a difference of two running sums.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from daskreg.runtime.threads import shares
from daskreg.tomography.projector import projector_numba as kernels
from daskreg.tomography.projector.reconstruction import padded

Floats = NDArray[np.float64]
Array = NDArray[Any]

_FINER = 2  # samples of the running sums per column: what is between them is interpolated linearly
_RAYS = 2  # columns from one ray to the next, of images that are smooth: their products hardly change between
_BYTES_AT_ONCE = 64 << 20  # of the spectra of some rows
_LEAST_SINE = 1e-3  # of projections from the same direction: their pieces are no shorter


def coupling_matrix(images: Array, radians: Floats, response: Array, axis: float, radius: float) -> Floats:
    """(A, P, A, P) products of smooth (P, A, U, Z) images with the reprojections of all of them, summed over columns
    and rows: of the image of the first two indices with what that of the last two, smeared, shows there.

    Args:
        radians: (A,) angles.
        response: (A, F) of filtered back-projection; see `fbp_response`.
        axis: its column.
        radius: of the disk in which slices are, pixels.
    """
    count, angles, columns, rows = images.shape
    apart = radians[:, None] - radians
    sine = np.maximum(np.abs(np.sin(apart)), _LEAST_SINE)
    turns = np.stack([np.cos(apart), sine, _RAYS / (_FINER * sine)], axis=-1)
    place = np.arange(0, columns, _RAYS) - axis
    half = np.sqrt(np.maximum(radius**2 - place**2, 0))
    # A running sum is up to the middle between two samples.
    chords = _FINER * np.stack([place, half, np.full(len(place), axis + 0.5 / _FINER)])
    total = np.zeros((angles, count, angles, count))
    at_once = max(1, _BYTES_AT_ONCE // (16 * angles * padded(columns) * count))
    for first in range(0, rows, at_once):
        some = np.ascontiguousarray(images[..., first : first + at_once].transpose(1, 2, 0, 3))
        some = some.reshape(angles, columns, -1)
        running, rays = _running_sums(some, response), some[:, ::_RAYS].copy()
        if rays.shape[2] == 1:
            running, rays, turns, chords = (
                np.ascontiguousarray(array, np.float32) for array in (running[..., 0], rays[..., 0], turns, chords)
            )
            work = partial(kernels.couple_slice, running, rays, turns, chords, total[:, 0, :, 0])
        else:
            work = partial(kernels.couple_slices, running, rays, turns, chords, total)
        shares(work, angles)
    return total


def _running_sums(images: Array, response: Array) -> Array:
    """(A, M + 1, N) of the filtered (A, U, N) images, of samples finer than the columns; the last one twice."""
    angles, columns, number = images.shape
    size = padded(columns)
    spectrum = scipy.fft.rfft(images, size, axis=1) * response[:, :, None]
    fine = scipy.fft.irfft(spectrum, _FINER * size, axis=1)[:, : _FINER * columns] * np.float32(_FINER)
    sums = np.zeros((angles, _FINER * columns + 2, number), np.float32)
    np.cumsum(fine, axis=1, out=sums[:, 1:-1])
    sums[:, -1] = sums[:, -2]
    return sums
