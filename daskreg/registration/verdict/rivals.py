"""Other poses of the warped image that fit about as well: periods of a texture, and turns of a symmetric object.

The likelihood ratio of the pose against a shift of it is D = 1/2 sum n_b log((1 - r_b(shift)^2) / (1 - r_b(0)^2)),
where n_b is the number of independent samples of band b that overlap at the shift. The shifts with a small D are the
confidence region of the pose (Wilks 1938). Parts of it that are not connected with no shift are rivals. Where the
model turns, the same is asked of all shifts of the image after half a turn about each axis, and in 2D a quarter of one;
the best of these are candidates, which have to be refined and compared again (`excluded`).

Of a symmetric object with noise in both images, D varies about zero: with a variance of 2 n r^2 / (1 + r)^2, where r is
the share of the signal, since the products of the noise of both images differ between the two poses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from daskreg.registration.verdict.bands import Bands, padded_of
from daskreg.registration.verdict.evidence import evidence, log_likelihood

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Spectra = NDArray[np.complex64]

# Shifts at which less than this share of the overlap is left are not compared.
_LEAST_OVERLAP = 0.3
# A shift that is less likely by this factor is excluded: a thousandth, in nats.
_EXCLUDED = math.log(1000)
# Standard deviations of D that noise explains.
_DEVIATIONS = 3.0
# The largest number of rivals that are reported.
_MOST = 4


@dataclass(frozen=True)
class Rivals:
    """(R, D+1, D+1) affine maps of the index, after which the pose is about as likely as before, the best first.

    shifts: rivals. turns: candidates, each with the shift at which it fits best.
    """

    shifts: Floats
    turns: Floats


def rivals_of(bands: Bands, needed: float, *, turns: bool = False, quarters: bool = False) -> Rivals:
    """The other poses that fit about as well, of the images of a pair at a pose.

    Args:
        needed: the evidence of a pose that is more than chance (see `evidence`). A shift with little overlap is
            compared over this overlap only, so it must have as much evidence of its own, less what tells two poses
            apart.
        turns: look for turns. quarters: also for quarter turns, of voxels that are as high as wide.
    """
    ndim, shape = bands.weight.ndim - 1, bands.weight.shape[1:]
    fixed = spectra_of(bands.fixed, bands.weight, bands.padded, bands.spectra[0])
    warped = spectra_of(bands.warped, bands.weight, bands.padded, bands.spectra[1])
    ncc, overlap, whole = correlations(fixed, warped, bands.padded, ndim)
    slack = _between_voxels(ncc, overlap).reshape(-1, *[1] * ndim)
    unexplained = 1 - ncc[(slice(None), *[slice(1)] * ndim)] ** 2 + slack

    def worse_of(ncc: Floats, overlap: Floats, shape: tuple[int, ...]) -> Floats:
        samples = bands.samples.reshape(slack.shape) * overlap
        worse = (0.5 * samples * np.log((1 - ncc**2 + slack) / unexplained)).sum(0)
        worse[overlap < _LEAST_OVERLAP] = np.inf
        worse[(samples * log_likelihood(ncc, np.ones(()))).sum(0) < needed - _EXCLUDED] = np.inf
        for axis, n in enumerate(shape):
            worse.swapaxes(0, axis)[n // 2 + 1 : worse.shape[axis] - n // 2] = np.inf  # these wrap around
        return np.asarray(worse)

    shifts = [_shift(s) for s in _separate_minima(np.fft.fftshift(worse_of(ncc, overlap, shape)))]
    found = []
    for turn, image, weight in _turned(bands, quarters) if turns else ():
        larger = tuple(np.maximum(image.shape[1:], shape).tolist())
        padded = padded_of(larger)
        spectra = fixed if padded == bands.padded else spectra_of(bands.fixed, bands.weight, padded)
        ncc, overlap, _ = correlations(spectra, spectra_of(image, weight, padded), padded, ndim, whole)
        worse = worse_of(ncc, overlap, larger)
        if worse.min() < _limit(bands, bands.samples):
            at = np.array(np.unravel_index(worse.argmin(), worse.shape))
            found.append(turn @ _shift(np.where(at > np.array(padded) // 2, at - padded, at)))
    return Rivals(*(np.reshape(some, (-1, ndim + 1, ndim + 1)) for some in (shifts, found)))


def excluded(bands: Bands, other: Bands | None, needed: float) -> bool:
    """Whether another pose, which was refined, is chance or less likely than this one, by their bands on one level.

    D is that of the samples that overlap at the other pose.
    """
    if other is None or evidence(other) < needed:
        return True
    number = min(len(bands.ncc), len(other.ncc))
    samples = other.samples[:number]
    here, there = (log_likelihood(some.ncc[:number], samples).sum() for some in (bands, other))
    return bool(here - there > _limit(bands, samples))


def _limit(bands: Bands, samples: Floats) -> float:
    """D beyond which a pose that differs by more than a shift is excluded, for (K,) samples of the bands."""
    r = np.clip(bands.ncc[: len(samples)], 0, 1)
    return _EXCLUDED + _DEVIATIONS * math.sqrt(float((2 * samples * (r / (1 + r)) ** 2).sum()))


def spectra_of(image: Singles, weight: Singles, padded: tuple[int, ...], known: Spectra | None = None) -> Spectra:
    """(3, K, *padded) of weighted bands, of their squares, and of the weight.

    A band has been multiplied by the weight: its square once with it, and once with that of the other image's voxel.

    Args:
        known: the first of them, where it is known.
    """
    axes = tuple(range(2, image.ndim + 1))
    squares: NDArray[Any] = image**2 / np.maximum(weight, np.float32(1e-3))
    parts: list[NDArray[Any]] = [squares, weight] if known is not None else [image, squares, weight]
    spectra = fft.rfftn(np.stack(parts), s=padded, axes=axes)
    return np.asarray(spectra if known is None else np.concatenate([known[None], spectra]))


def correlations(
    fixed: Spectra, warped: Spectra, padded: tuple[int, ...], ndim: int, whole: float | None = None
) -> tuple[Floats, Floats, float]:
    """(K, *padded) correlations at shifts s, of fixed[x] beside warped[x + s], (*padded) shares of the overlap, and
    the overlap without a shift.

    Args:
        whole: the overlap of which shares are; None: that without a shift.
    """
    (f, ff, fv), (w, ww, wv) = fixed, warped
    products = np.concatenate([f.conj() * w, ff.conj() * wv, fv.conj() * ww, fv[:1].conj() * wv[:1]])
    sums = fft.irfftn(products, s=padded, axes=tuple(range(1, ndim + 1)))
    product, first, second = sums[:-1].reshape(3, -1, *padded)
    floor = [1e-4 * x.max(axis=tuple(range(1, ndim + 1)), keepdims=True) + 1e-20 for x in (first, second)]
    power = np.maximum(first, floor[0]) * np.maximum(second, floor[1])
    whole = float(sums[-1][(0,) * ndim]) if whole is None else whole
    return np.clip(product / np.sqrt(power), 0, 1), np.maximum(sums[-1] / whole, 0), whole


def _turned(bands: Bands, quarters: bool) -> Iterator[tuple[Floats, Singles, Singles]]:
    """(D+1, D+1) map of the index of a turned image to that before, and the warped bands and their weight turned."""
    shape = bands.weight.shape[1:]
    for a in range(len(shape)):
        for b in range(a + 1, len(shape)):
            for number in (1, 2, 3) if quarters and len(shape) == 2 else (2,):
                image, weight = (np.rot90(x, number, (a + 1, b + 1)) for x in (bands.warped, bands.weight))
                turn = np.eye(len(shape) + 1)
                turn[[a, b], [a, b]] = 0
                # rot90: [i, j] is [j, n - 1 - i] of the image before.
                quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
                turn[np.ix_([a, b], [a, b])] = np.linalg.matrix_power(quarter, number)
                middle = [(np.array(s)[[a, b]] - 1) / 2 for s in (shape, image.shape[1:])]
                turn[[a, b], -1] = middle[0] - turn[np.ix_([a, b], [a, b])] @ middle[1]
                yield turn, image, weight


def _shift(shift: Floats) -> Floats:
    moved = np.eye(len(shift) + 1)
    moved[:-1, -1] = shift
    return moved


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
