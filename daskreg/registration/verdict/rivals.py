"""Other shifts of the warped image that fit about as well as none: periods of a texture.

The likelihood ratio of the pose against a shift of it is D = 1/2 sum n_b log((1 - r_b(shift)^2) / (1 - r_b(0)^2)),
where n_b is the number of independent samples of band b that overlap at the shift. The shifts with a small D are the
confidence region of the pose (Wilks 1938). Parts of it that are not connected with no shift are rivals.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from daskreg.registration.verdict.bands import Bands
from daskreg.registration.verdict.evidence import log_likelihood

Floats = NDArray[np.float64]

# Shifts at which less than this share of the overlap is left are not compared.
_LEAST_OVERLAP = 0.3
# A shift that is less likely by this factor is excluded: a thousandth, in nats.
_EXCLUDED = math.log(1000)
# The largest number of rivals that are reported.
_MOST = 4


def rival_shifts(bands: Bands, needed: float) -> Floats:
    """(R, D) shifts in voxels that are about as likely as none, of the images of a pair at a pose.

    The best shift of each part of the confidence region that is not connected with no shift; the most likely first.

    Args:
        needed: the evidence of a pose that is more than chance (see `evidence`). A shift with little overlap is
            compared over this overlap only, so it must have as much evidence of its own, less what tells two poses
            apart.
    """
    ndim = bands.weight.ndim - 1
    # Both bands have been multiplied by the weight: their squares with it once, and with that of the other voxel once.
    once = 1 / np.maximum(bands.weight, np.float32(1e-3))
    squares = np.stack([bands.fixed**2 * once, bands.warped**2 * once, bands.weight])
    fixed, warped, weight = fft.rfftn(squares, s=bands.padded, axes=tuple(range(2, ndim + 2)))
    f, w = bands.spectra
    # Of shift s: fixed[x] beside warped[x + s].
    products = np.stack([f.conj() * w, fixed.conj() * weight, weight.conj() * warped])
    product, first, second = fft.irfftn(products, s=bands.padded, axes=tuple(range(2, ndim + 2)))
    overlap = fft.irfftn(np.abs(weight[:1]) ** 2, s=bands.padded, axes=tuple(range(1, ndim + 1)))
    none = (slice(None), *[slice(1)] * ndim)
    power = np.maximum(first, 1e-4 * first[none] + 1e-20) * np.maximum(second, 1e-4 * second[none] + 1e-20)
    ncc = np.clip(product / np.sqrt(power), 0, 1)
    overlap = np.clip(overlap / overlap[none], 0, 1)
    samples = bands.samples.reshape(-1, *[1] * ndim)
    unexplained = 1 - ncc**2 + _between_voxels(ncc, overlap[0]).reshape(samples.shape)
    worse = (0.5 * samples * overlap * np.log(unexplained / unexplained[none])).sum(0)
    worse[overlap[0] < _LEAST_OVERLAP] = np.inf
    worse[(samples * overlap * log_likelihood(ncc, np.ones(()))).sum(0) < needed - _EXCLUDED] = np.inf
    for axis, n in enumerate(bands.weight.shape[1:]):
        worse.swapaxes(0, axis)[n // 2 + 1 : worse.shape[axis] - n // 2] = np.inf  # these wrap around
    return _separate_minima(np.fft.fftshift(worse))


def _between_voxels(ncc: Floats, overlap: Floats) -> Floats:
    """(K,) by how much r^2 falls half a voxel away along each axis: shifts are compared at whole voxels only.

    Along a thin axis, the images do not overlap a voxel away.
    """
    ndim = ncc.ndim - 1
    here = ncc.reshape(len(ncc), -1)[:, 0]
    fall = np.zeros(len(ncc))
    for axis in range(ndim):
        for side in (1, -1):
            there: Any = tuple(side if k == axis else 0 for k in range(ndim))
            if overlap[there] >= _LEAST_OVERLAP:
                fall += (here - ncc[(slice(None), *there)]) / 2
    return np.asarray(np.maximum(2 * here * fall / 4, 1e-4))


def _separate_minima(worse: Floats) -> Floats:
    """(R, D) shifts, of D at all shifts with no shift in the middle."""
    middle = tuple(n // 2 for n in worse.shape)
    inside = worse < _EXCLUDED
    inside[middle] = True
    labels, count = ndimage.label(inside, structure=np.ones((3,) * worse.ndim))
    others = [k for k in range(1, count + 1) if k != labels[middle]]
    best: Any = ndimage.minimum_position(worse, labels, others) if others else []
    values = np.array([worse[tuple(at)] for at in best])
    order = np.argsort(values)[:_MOST]
    return np.asarray(np.reshape(best, (-1, worse.ndim))[order] - np.array(middle), dtype=np.float64)
