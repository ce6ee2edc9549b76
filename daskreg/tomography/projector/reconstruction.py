"""Slices from their projections, in memory: filtered back-projection, SIRT and CGLS, on one projector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from daskreg.errors import OptionError
from daskreg.tomography.projector.slices import SliceProjector

Floats = NDArray[np.float64]
Array = NDArray[Any]

WINDOWS: dict[str, Callable[[Floats], Floats]] = {
    "ramp": np.ones_like,
    "shepp-logan": np.sinc,
    "cosine": lambda f: np.cos(np.pi * f),
    "hamming": lambda f: 0.54 + 0.46 * np.cos(2 * np.pi * f),
    "hann": lambda f: 0.5 + 0.5 * np.cos(2 * np.pi * f),
}
"""Of frequencies in cycles per column, up to 1/2; by what the ramp is multiplied."""

_WIDEST_GAP = 3.0
"""Medians of the gaps between angles: a wider one is a missing wedge, which its neighbours do not stand for."""

_RESTORED = 0.25  # cycles per pixel: of higher frequencies, noise, more would come back than there was
_PLACES, _NODES = 64, 5  # of which what interpolation leaves is the mean, and between pixels
_OWN_DETAIL = 0.65  # of the detail that is in one projection alone; the rest is for what it shares with its neighbours


def angle_weights(radians: Floats) -> Floats:
    """(A,) the angle that each projection stands for, radians: half of the gaps beside it, where directions half a turn
    apart are one. They sum to a half turn, or to less where a wedge is missing."""
    directions = np.mod(radians, np.pi)
    order = np.argsort(directions, kind="stable")
    gaps = np.diff(directions[order], append=directions[order[0]] + np.pi)
    typical = float(np.median(gaps[gaps > 1e-6])) if (gaps > 1e-6).any() else np.pi
    gaps = np.where(gaps > _WIDEST_GAP * typical, typical, gaps)
    weights = np.empty_like(directions)
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights


def ramp_filtered(sums: Array, window: str = "ramp") -> Array:
    """Projections (A, U, Z), filtered along U by the ramp (Kak and Slaney 1988, eq. 3.61), which is zero beyond them.

    Raises: OptionError for an unknown window.
    """
    return filtered(sums, _ramp(sums.shape[1], window)[None])


def filtered(sums: Array, response: Floats) -> Array:
    """Projections (A, U, Z) whose frequencies are multiplied by (A or 1, F)."""
    columns = sums.shape[1]
    size = padded(columns)
    spectrum = scipy.fft.rfft(sums, size, axis=1) * response.astype(sums.dtype)[..., None]
    return np.ascontiguousarray(scipy.fft.irfft(spectrum, size, axis=1)[:, :columns], dtype=sums.dtype)


def padded(columns: int) -> int:
    return int(scipy.fft.next_fast_len(2 * columns, real=True))


def _ramp(columns: int, window: str) -> Floats:
    """(F,)."""
    if window not in WINDOWS:
        raise OptionError(f"window={window!r}: use {', '.join(WINDOWS)}")
    size = padded(columns)
    place = np.minimum(np.arange(size), size - np.arange(size))
    kernel = np.where(place % 2 == 1, -1 / (np.pi * np.maximum(place, 1)) ** 2, 0.0)
    kernel[0] = 0.25
    return np.asarray(scipy.fft.rfft(kernel).real * WINDOWS[window](scipy.fft.rfftfreq(size)))


def fbp_response(radians: Floats, columns: int, *, window: str = "ramp", longest: float | None = None) -> Floats:
    """(A, F) by which filtered back-projection multiplies the frequencies of each projection.

    Args:
        longest: ray within the specimen, pixels. Detail that is finer than so many angles resolve is in one projection
            alone, and the reprojection then has no more of it than the projection; None: what the ramp makes of it.
    """
    weights, ramp = angle_weights(radians)[:, None], _ramp(columns, window)
    if longest is None:
        return np.asarray(weights * ramp)
    return np.asarray(np.minimum(weights * ramp, _OWN_DETAIL / longest))


def kept_by_interpolation(projector: SliceProjector) -> Floats:
    """(A, F) what linear interpolation leaves of the frequencies of each projection that is smeared and projected
    again; of high ones, of which that is little, as of the highest one of which it is not.

    To smear interpolates between columns, to project between voxels. Where the place between two of them is anywhere,
    a frequency is left by its squared sinc; along the axes of the slices it is the same place everywhere.
    """
    columns, side = projector.columns, min(projector.shape)
    frequencies = np.minimum(scipy.fft.rfftfreq(padded(columns)), _RESTORED)
    # Pairs that fill a square evenly (Roberts 2018, "The unreasonable effectiveness of quasirandom sequences").
    one, other = (np.floor((np.arange(1, _PLACES + 1) * step) % 1 * side) for step in (0.7548776662, 0.5698402910))
    cosine, sine = np.cos(projector.radians)[:, None], np.sin(projector.radians)[:, None]
    middle = side / 2 - 0.5
    seen = projector.axis + cosine * (one - middle) + sine * (other - middle)
    steep = np.abs(cosine) >= np.abs(sine)
    across, along = np.where(steep, cosine, sine), np.where(steep, sine, cosine)
    met = middle + (one - projector.axis - along * (other - middle)) / across  # `one` as the column of a ray
    return _left(seen, frequencies) * _left(met, np.abs(across) * frequencies)


def _left(places: Floats, frequencies: Floats) -> Floats:
    """(A, F) of frequencies (A or 1, F), what linear interpolation at (A, N) places leaves on average."""
    nearer = 0.5 - np.abs(places % 1 - 0.5)
    nodes = np.linspace(0, 0.5, _NODES)
    share = np.clip(1 - np.abs(nearer[..., None] - nodes) / nodes[1], 0, 1).mean(axis=1)
    phase = 2 * np.pi * np.atleast_2d(frequencies)[..., None]
    left = (1 - nodes) * np.cos(phase * nodes) + nodes * np.cos(phase * (1 - nodes))
    return np.asarray(np.matmul(left, share[..., None])[..., 0])


def fbp(projector: SliceProjector, sums: Array, *, window: str = "ramp") -> Array:
    """(Y, X, Z) slices by filtered back-projection of (A, U, Z)."""
    return projector.smear(filtered(sums, fbp_response(projector.radians, sums.shape[1], window=window)))


def sirt(
    projector: SliceProjector, sums: Array, *, iterations: int, start: Array | None = None, minimum: float | None = None
) -> Array:
    """Simultaneous iterative reconstruction: each step back-projects the residual, divided by the lengths of the rays.

    Args:
        minimum: of the voxels, such as 0; None: no limit.
    """
    ones = np.ones((*projector.shape, 1), sums.dtype)
    rays = _inverse(projector.project(ones))
    voxels = _inverse(projector.backproject(np.ones((*sums.shape[:2], 1), sums.dtype)))
    slices = np.zeros((*projector.shape, sums.shape[2]), sums.dtype) if start is None else start.copy()
    for _ in range(iterations):
        slices += voxels * projector.backproject(rays * (sums - projector.project(slices)))
        if minimum is not None:
            np.maximum(slices, minimum, out=slices)
    return slices


def cgls(projector: SliceProjector, sums: Array, *, iterations: int) -> Array:
    """Least squares by conjugate gradients, each slice for itself (Hestenes and Stiefel 1952); few iterations
    regularise."""
    residual = sums.copy()
    gradient = projector.backproject(residual)
    slices, direction, size = np.zeros_like(gradient), gradient.copy(), _squares(gradient)
    for _ in range(iterations):
        seen = projector.project(direction)
        step = _ratio(size, _squares(seen))
        slices += step * direction
        residual -= step * seen
        gradient = projector.backproject(residual)
        now = _squares(gradient)
        direction = gradient + _ratio(now, size) * direction
        size = now
    return slices


def _squares(values: Array) -> Array:
    return np.asarray(np.einsum("ijk,ijk->k", values, values))


def _ratio(one: Array, other: Array) -> Array:
    return np.asarray(np.divide(one, other, out=np.zeros_like(one), where=other > 0))


def _inverse(values: Array) -> Array:
    return np.asarray(np.divide(1, values, out=np.zeros_like(values), where=values > 1e-6))
