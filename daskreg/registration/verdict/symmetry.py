"""Turns after which an object looks the same, by any angle: gears, wheels, flanges, crystals.

The magnitude of a spectrum does not depend on where an object lies, and turns with it. So its rings are correlated with
those of the other image over all angles (Reddy and Chatterji 1996). Maxima nearly as high as that of no turn are angles
at which both images are correlated by shifts; what agrees there by more than chance is a candidate, which has to be
refined and compared (`excluded`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from daskreg.geometry import Grid
from daskreg.registration.verdict.aligned import Aligned
from daskreg.registration.verdict.bands import Bands, padded_of
from daskreg.registration.verdict.evidence import log_likelihood
from daskreg.registration.verdict.rivals import correlations, spectra_of

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

# Angles over half a turn, and the smallest turn that is looked for, in degrees.
_ANGLES, _LEAST_TURN = 180, 6.0
# The correlation of rings, as a share of that without a turn, from which images are correlated by shifts:
# small marks on a large disc, which any turn leaves as it is, reach 0.4.
_ALIKE = 0.3
# Angles that are tried, and candidates, at most.
_MOST_ANGLES, _MOST = 4, 2
# The frequencies of rings: periods over the shortest side, and over a voxel.
_FIRST_RING, _LAST_RING = 2.0, 0.4
# Sigma in voxels of the mean that is subtracted before.
_WIDEST = 4.0


def angles_alike(pair: Aligned, *, reach: float) -> list[float]:
    """Turns in degrees, at most four, after which the magnitudes of the spectra of a 2D pair at a pose agree nearly as
    well as without; the best first.

    Args:
        reach: the largest turn of a motion that is looked for, in degrees.
    """
    first, second = (fft.rfft(_rings(image, pair.weight, pair.fixed), axis=0) for image in pair.images)
    alike = fft.irfft((first.conj() * second).sum(1), _ANGLES)
    alike = (alike + alike[-np.arange(_ANGLES)]) / 2  # of a symmetric object, turns either way
    if not alike[0] > 0:
        return []
    peaks = (alike > _ALIKE * alike[0]) & (alike == ndimage.maximum_filter1d(alike, 5, mode="wrap"))
    step, turn = 180 / _ANGLES, math.degrees(turn_of(pair.motion))
    # The magnitudes do not tell a turn from that and half a turn more.
    turns = {
        (float(k) * step + half + 180) % 360 - 180: float(alike[k])
        for k in np.flatnonzero(peaks)
        for half in (0.0, 180.0)
    }
    within = [a for a in turns if abs(a) >= _LEAST_TURN and abs((a + turn + 180) % 360 - 180) <= reach]
    return sorted(within, key=lambda a: (-round(turns[a] / alike[0], 1), abs(a)))[:_MOST_ANGLES]


def turned_alike(bands: Bands, pair: Aligned, needed: float, angles: Sequence[float]) -> Floats:
    """(C, D+1, D+1) motions after one of these turns that agree by more than chance, the best first.

    Args:
        bands: of the pair. needed: the evidence that is not chance.
    """
    grid, found = pair.fixed, []
    fixed = spectra_of(bands.fixed, bands.weight, bands.padded, bands.spectra[0])
    scale, middle = np.diag(grid.spacing), (np.array(grid.shape) - 1) / 2
    for angle in angles:
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        maps = np.linalg.inv(scale) @ np.array([[c, s], [-s, c]]) @ scale  # of y, x: x towards y
        origin = middle - maps @ middle
        image, weight = (
            np.stack([ndimage.affine_transform(band, maps, origin, order=1) for band in some])
            for some in (bands.warped, bands.weight)
        )
        whole = float(bands.weight[0].sum())
        turned = spectra_of(image, weight, bands.padded)
        ncc, overlap, _ = correlations(fixed, turned, bands.padded, 2, whole)
        agrees = log_likelihood(ncc, bands.samples[:, None, None] * np.minimum(overlap, 1)).sum(0)
        at: Any = np.unravel_index(agrees.argmax(), agrees.shape)
        if agrees[at] > needed:
            shift = np.where(np.array(at) > np.array(bands.padded) // 2, np.array(at) - bands.padded, at)
            moved = np.eye(3)
            moved[:-1, :-1], moved[:-1, -1] = maps, maps @ shift + origin
            found.append((agrees[at], pair.motion @ grid.matrix @ moved @ np.linalg.inv(grid.matrix)))
    found.sort(key=lambda one: -one[0])
    return np.stack([motion for _, motion in found[:_MOST]]) if found else np.zeros((0, 3, 3))


def turn_of(motion: Floats) -> float:
    """The turn of x towards y of a motion in 2D, in radians."""
    return math.atan2(motion[0, 1] - motion[1, 0], motion[0, 0] + motion[1, 1])


def _rings(image: Singles, weight: Singles, grid: Grid) -> Floats:
    """(_ANGLES, R) magnitudes of the spectrum on rings of one frequency, less the mean of each ring, of unit length."""
    smooth = [ndimage.gaussian_filter(x, _WIDEST, mode="constant", truncate=3.0) for x in (image * weight, weight)]
    fine = (image - smooth[0] / np.maximum(smooth[1], np.float32(1e-3))) * weight
    padded = padded_of(image.shape)
    magnitude = fft.fftshift(np.abs(fft.rfft2(fine, s=padded)), axes=0)
    lengths = np.array(padded) * grid.spacing
    side = float(min(np.array(grid.shape) * grid.spacing))
    rings = np.arange(_FIRST_RING / side, _LAST_RING / max(grid.spacing), 0.7 / side)
    angles = np.radians(np.arange(_ANGLES) * 180 / _ANGLES - 90)[:, None]
    places = np.stack([rings * np.sin(angles) * lengths[0] + padded[0] // 2, rings * np.cos(angles) * lengths[1]])
    values = ndimage.map_coordinates(magnitude, places, order=1, mode="nearest")
    values = values - values.mean(0)
    return np.asarray(values / np.maximum(np.sqrt((values**2).mean(0) / rings), 1e-20))
