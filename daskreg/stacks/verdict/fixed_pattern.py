"""Whether what stays with the detector hides a motion of the specimen.

A pattern that is the same in all slices (a dim rim, column stripes, dust on a window) agrees best without motion, and
may outweigh the specimen. The mean of the slices contains it; without their mean, only what moves is left. If this
moves along, in shifts that add up around triangles of slices, by other amounts than the fit says, the fit is that of
the pattern. Without such a motion, the shifts of what is left are random, and triangles do not close.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import scipy.fft
import scipy.sparse
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]

# Voxels by which triangles close, and by which a shift differs from that of the fit: peaks are located to a third of a
# voxel or so.
_CLOSED, _OTHER = 0.75, 1.0
# Share of the triangles that must close, with shifts unlike those of the fit. By chance, hardly one does.
_LEAST_SHARE = 0.25
_LEAST_SLICES, _LEAST_PLACES = 4, 3
MUCH, PULLS = 0.4, 0.4
"""Share of the variance of what the specimen leaves that is fixed, and its squared gradients relative to those of the
specimen, from which a pattern may have moved poses by more than `sigma`."""
CHANCE, LITTLE = 1.5, 0.01
"""So many times 1 / N, the share of independent rests of N slices, and so many times the share of the same rests moved
the opposite way, from which something is fixed; and gradients from which it is subtracted. Of stacks without a pattern
(photographs, anatomy, tissue, random specimens that change), the two shares had ratios of 0.8 to 1.2, of those with
column stripes of half a standard deviation 2.5 to 4."""
# Standard deviations of the F statistic by which a pattern must explain more than noise; voxels of one independent
# value, of which linear interpolation averages up to four.
_SIGNIFICANT, _AREA = 5.0, 4.0
_ROUNDS = 30
# Every so many rounds it is seen how much they leave.
_LOOK = 3
# Frequency, in cycles per voxel, at which the phase correlation is damped.
_DAMPED = 0.2


def hidden_motion(images: Pixels, aligned: Pixels, found: Floats) -> dict[int, Floats] | None:
    """How slices without their mean move, if that is not as found and, with a pattern, explains them better; else None.

    Args:
        images: (N, *shape) raw slices, NaN where masked.
        aligned: the same aligned by the fit, NaN where there is no voxel.
        found: (N, D) voxels by which the fit says that the middle of each slice has moved.

    Returns: (D,) voxels by slice, of those whose motion is seen; their mean is zero.
    """
    if len(images) < _LEAST_SLICES:
        return None
    pairs = list(combinations(range(len(images)), 2))
    shifts = dict(zip(pairs, _shifts(_without_mean(images), pairs), strict=True))
    triangles = list(combinations(range(len(images)), 3))
    hidden, closing = 0, set()
    for i, j, k in triangles:
        sides = [(i, j), (j, k), (i, k)]
        ab, bc, ac = (shifts[side] for side in sides)
        other = [np.linalg.norm(shifts[a, b] - (found[b] - found[a])) > _OTHER for a, b in sides]
        if np.linalg.norm(ab + bc - ac) <= _CLOSED and sum(other) >= 2:
            hidden += 1
            closing.update(sides)
    if hidden < _LEAST_SHARE * len(triangles):
        return None
    covered = sorted({i for pair in closing for i in pair})
    motion = _consensus(covered, {pair: shifts[pair] for pair in closing})
    if _places(motion) < _LEAST_PLACES:
        return None  # a specimen and a pattern explain any images at two places
    some = _filled(images[covered])
    # Over noise, a pattern of so many independent values lowers the sum of squares by an F statistic of the additional
    # parameters that has a mean of one and a variance of about 2 / values.
    n, values = len(covered), _inner(some)[0].size / _AREA
    chance = (1 + _SIGNIFICANT * math.sqrt(2 / values)) / (n - 2)
    enough = (n - 1) * _variance(aligned[covered]) / (1 + chance) / (n - 2)
    with_other = _explained(some, motion, enough)
    if not with_other < enough:
        return None
    # A pattern explains more also with the motion of the fit, unless that has rotations.
    with_it = _explained(some, found[covered] - found[covered].mean(axis=0))
    return dict(zip(covered, motion, strict=True)) if with_other < with_it / (1 + chance) else None


def fixed_share(rest: Pixels) -> tuple[float, Floats]:
    """The share of what the specimen leaves of the slices that stays with the detector, and its mean (inner voxels).

    Args:
        rest: (N, *shape) slices less the mean of the aligned ones, where the raw slices have it; NaN where unknown.

    Rests that are independent have a mean of 1 / N of their variance; a fixed pattern is its own mean.
    """
    inner = _inner(rest.astype(np.float64))
    known = np.isfinite(inner).all(axis=0)
    if len(rest) < _LEAST_SLICES or known.mean() < 1 / 4:
        return 0.0, np.zeros(inner.shape[1:])
    inner = np.where(known, inner - inner[:, known].mean(axis=1).reshape(-1, *[1] * known.ndim), np.nan)
    pattern, variance = inner.mean(axis=0), float(inner[:, known].var())
    return float(pattern[known].var()) / max(variance, 1e-300), pattern


def pull_of(pattern: Floats, specimen: Pixels) -> float:
    """How much a pattern (inner voxels) pulls poses: its squared gradients relative to those of the specimen.

    Args:
        specimen: (N, *shape) the mean of the aligned slices, where the raw slices have it.
    """
    return _steepness(pattern) / max(_steepness(_inner(specimen.astype(np.float64)).mean(axis=0)), 1e-300)


def _steepness(image: Floats) -> float:
    """The mean squared gradient."""
    return float(sum(np.nanmean(np.diff(image, axis=k) ** 2) for k in range(image.ndim)))


def _consensus(slices: list[int], shifts: dict[tuple[int, int], Floats]) -> Floats:
    """(N, D) motions of slices whose differences are the (D,) shifts of pairs, by least squares; their mean is zero."""
    rows = np.zeros((len(shifts) + 1, len(slices)))
    for row, (a, b) in zip(rows, shifts, strict=False):
        row[slices.index(a)], row[slices.index(b)] = -1, 1
    rows[-1] = 1
    right = np.stack([*shifts.values(), np.zeros(len(next(iter(shifts.values()))))])
    return np.asarray(np.linalg.lstsq(rows, right, rcond=None)[0])


def _places(motion: Floats) -> int:
    """How many of (N, D) motions differ."""
    kept: list[Floats] = []
    for one in motion:
        if all(np.linalg.norm(one - other) > _CLOSED for other in kept):
            kept.append(one)
    return len(kept)


def _explained(images: Floats, motion: Floats, enough: float = np.inf) -> float:
    """Variance that a specimen with this motion and a fixed pattern leave, by alternating means of the rests.

    The rounds are those of a least-squares problem, whose steps shrink: they end early where what the rounds before
    gained each would not lead to `enough` any more.
    """
    shape = images.shape[1:]
    values = images.reshape(len(images), -1)
    there, back = ([_shift_operator(shape, sign * m) for m in motion] for sign in (1, -1))
    pattern, left = values.mean(axis=0), np.inf
    for number in range(_ROUNDS):
        specimen = np.mean([shift @ v for shift, v in zip(there, values - pattern, strict=True)], axis=0)
        moved = np.stack([shift @ specimen for shift in back])
        pattern = (values - moved).mean(axis=0)
        if number % _LOOK == 0 or number == _ROUNDS - 1:
            rest = _inner((values - moved - pattern).reshape(images.shape))
            before, left = left, float(rest.var(axis=0, ddof=2).mean())
            if left - (before - left) / _LOOK * (_ROUNDS - 1 - number) > enough:
                break
    return left


def _shift_operator(shape: tuple[int, ...], shift: Floats) -> Any:
    """Sparse matrix that maps a flattened image to image(x + shift): linear interpolation, the borders repeated."""
    columns, weights = np.zeros((1, 1), np.intp), np.ones((1, 1))
    for n, by in zip(shape, shift.tolist(), strict=True):
        at = np.clip(np.arange(n) + by, 0, n - 1)
        low = np.minimum(at.astype(np.intp), max(n - 2, 0))
        both, share = np.stack([low, np.minimum(low + 1, n - 1)], axis=1), np.stack([1 - at + low, at - low], axis=1)
        size = len(columns) * n
        columns = (columns[:, None, :, None] * n + both[None, :, None, :]).reshape(size, -1)
        weights = (weights[:, None, :, None] * share[None, :, None, :]).reshape(size, -1)
    starts = np.arange(0, columns.size + 1, columns.shape[1])
    return scipy.sparse.csr_array((weights.ravel(), columns.ravel(), starts), (len(columns), len(columns)))


def _variance(aligned: Pixels) -> float:
    """Of the same voxel in different slices, where all of them have it."""
    values = _inner(aligned.astype(np.float64))
    known = np.isfinite(values).all(axis=0)
    return float(values[:, known].var(axis=0, ddof=1).mean()) if known.any() else np.inf


def _inner(images: Floats) -> Floats:
    """Without the borders, beyond which motion brings what no slice has."""
    return images[(slice(None), *(slice(n // 6, n - n // 6) for n in images.shape[1:]))]


def _filled(images: Pixels) -> Floats:
    """Masked voxels get the mean of the slice."""
    axes = tuple(range(1, images.ndim))
    known = np.isfinite(images)
    count = np.maximum(known.sum(axis=axes, keepdims=True), 1)
    mean = np.where(known, images, 0).sum(axis=axes, keepdims=True, dtype=np.float64) / count
    return np.where(known, images, mean)


def _without_mean(images: Pixels) -> Pixels:
    """The slices, with mean 0 and variance 1, less their mean; zero where masked and falling to zero at borders."""
    known = np.isfinite(images)
    values = np.where(known, images, 0).astype(np.float64)
    axes = tuple(range(1, images.ndim))
    count = np.maximum(known.sum(axis=axes, keepdims=True), 1)
    values = np.where(known, values - values.sum(axis=axes, keepdims=True) / count, 0)
    values /= np.maximum(np.sqrt((values**2).sum(axis=axes, keepdims=True) / count), 1e-12)
    rest = np.where(known, values - values.sum(axis=0) / np.maximum(known.sum(axis=0), 1), 0)
    for axis, n in enumerate(images.shape[1:], start=1):
        window = np.sin(np.pi * (np.arange(n) + 0.5) / n)
        rest *= window.reshape([-1 if k == axis else 1 for k in range(images.ndim)])
    return rest.astype(np.float32)


def _shifts(images: Pixels, pairs: list[tuple[int, int]]) -> list[Floats]:
    """(D,) shifts of each pair by a correlation between phase and cross-correlation, high frequencies damped."""
    shape = images.shape[1:]
    axes = tuple(range(1, images.ndim))
    size = [scipy.fft.next_fast_len(n + n // 2, real=True) for n in shape]
    spectra = scipy.fft.rfftn(images, s=size, axes=axes)
    # Half whitened: a sharp peak, though noise is strong where little of the specimen is.
    spectra /= np.sqrt(np.maximum(np.abs(spectra), 1e-6 * np.abs(spectra).max(axis=axes, keepdims=True) + 1e-12))
    frequencies = [scipy.fft.fftfreq(n) for n in size[:-1]] + [scipy.fft.rfftfreq(size[-1])]
    square = sum(f**2 for f in np.meshgrid(*frequencies, indexing="ij", sparse=True))
    damping = np.exp(-np.asarray(square) / _DAMPED**2).astype(np.float32)
    found = []
    for a, b in pairs:
        surface = scipy.fft.irfftn(spectra[a].conj() * spectra[b] * damping, s=size)
        at = np.unravel_index(int(surface.argmax()), surface.shape)
        whole = [i if i <= n // 2 else i - n for i, n in zip(at, size, strict=True)]
        found.append(np.array([i + _beside(surface, at, k) for k, i in enumerate(whole)]))
    return found


def _beside(surface: Floats, at: tuple[Any, ...], axis: int) -> float:
    """How far beside a highest value the peak is along an axis, by a parabola."""
    n = surface.shape[axis]
    low, here, high = (float(surface[(*at[:axis], (at[axis] + k) % n, *at[axis + 1 :])]) for k in (-1, 0, 1))
    curvature = low + high - 2 * here
    return (low - high) / (2 * curvature) if curvature < 0 else 0.0
