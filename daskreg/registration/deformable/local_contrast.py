"""Images of which brightness and contrast vary, for the metric "lncc".

For affine maps and the verdict, both images are normalised by the mean and the standard deviation around each voxel
before they are compared (local normalised correlation, as in Cachier & Pennec 2000, with the windows of each image its
own). Where the contrast is no more than that of the noise, it is suppressed as by Wiener's filter instead of being
amplified.

For layers, gain and offset are fitted. Around each node of a grid, fixed = gain warped + offset + noise, by weighted
least squares; the weights are the cubic B-splines of the nodes, by which the results are interpolated, too. What is
minimised is the mean of 1 - correlation^2 over these windows. So a voxel counts by the inverse of the variance of its
window, and its gradient as far as both images have it in common: where they share nothing, noise is no information.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from daskreg.registration.deformable.bending import along
from daskreg.registration.deformable.cell_sums import Residuals
from daskreg.sampling.spline_weights import cubic_weights

Singles = NDArray[np.float32]

_SIGMA = 4.0
"""Voxels of the level: of the Gaussian window."""
_WIDE = 6.0
"""Voxels of sigma, above which a window is a box."""
_LEAST = 1e-3
"""Of the variance of the image: the least local variance."""

_APART = {2: (8, 8), 3: (5, 10)}
"""Voxels between nodes, at least and at most, by number of dimensions."""
_LEAST_VARIANCE = 0.02
"""By which the variance of windows is greater, as a share of the mean, so that flat ones do not count most."""
_FEW = 16.0
"""Voxels of a window that count as much as what is known without them."""
_REPEATS = 2


def normalised(image: Singles, mask: Singles | None, sigma: float = _SIGMA) -> Singles:
    """(*shape) the image less its local mean, divided by its local standard deviation; zero where masked.

    Args:
        sigma: of the window, voxels.
    """
    known = np.ones_like(image) if mask is None else (mask > 0.5).astype(np.float32)
    total = np.maximum(_window(known, sigma), np.float32(1e-3))
    mean = _window(image * known, sigma) / total
    away = (image - mean) * known
    variance = _window(away * away, sigma) / total
    overall = float((away * away).sum(dtype=np.float64)) / max(float(known.sum(dtype=np.float64)), 1e-9)
    noise = noise_variance(image, known)
    signal = np.maximum(variance - np.float32(2 * noise), 0)
    floor = np.float32(_LEAST * overall + 1e-12)
    return np.asarray(away * np.sqrt(signal / (variance + floor)) / np.sqrt(variance + floor))


def noise_variance(image: Singles, known: Singles) -> float:
    """Of white noise, from the median size of differences of second order along the last axis.

    What is flat or changes linearly cancels; the median leaves out edges (Immerkaer 1996, with a median).
    """
    if image.shape[-1] < 3:
        return 0.0
    bent = image[..., 2:] - 2 * image[..., 1:-1] + image[..., :-2]
    some = known[..., 1:-1] > 0
    if not some.any():
        return 0.0
    return float((1.4826 * np.median(np.abs(bent[some]))) ** 2 / 6)


def _window(values: NDArray[Any], sigma: float) -> Singles:
    """Means over a Gaussian window, zero outside; over a box of the same variance where the window is wide."""
    if sigma > _WIDE:
        return np.asarray(ndimage.uniform_filter(values, round(12**0.5 * sigma), mode="constant"))
    return np.asarray(ndimage.gaussian_filter(values, sigma, mode="constant", truncate=3.0))


@dataclass(frozen=True)
class Windows:
    """splines: (n, m) the values of the cubic B-splines of the nodes at the voxels, for each axis."""

    splines: tuple[Singles, ...]

    @classmethod
    def of(cls, shape: Sequence[int], spacing: Sequence[float]) -> Windows:
        """Of an image of this shape, with nodes about so many voxels apart along each axis."""
        return cls.of_cells(shape, _cells(shape, spacing))

    @classmethod
    def of_cells(cls, shape: Sequence[int], cells: Sequence[int]) -> Windows:
        """Of an image of this shape, with so many distances of nodes along each axis."""
        return cls.at([(np.arange(n) + 0.5) * m / n for n, m in zip(shape, cells, strict=True)], cells)

    @classmethod
    def at(cls, places: Sequence[NDArray[np.float64]], cells: Sequence[int]) -> Windows:
        """Of voxels at these places along each axis, in distances of nodes from the border of an image of so many."""
        return cls(tuple(_splines(place, m) for place, m in zip(places, cells, strict=True)))

    @classmethod
    def for_control(cls, shape: Sequence[int], spacing: Sequence[float]) -> Windows:
        """Of an image of this shape, in which control points are so many voxels apart along each axis.

        The nodes are as far apart, within limits: small windows take for gain and offset what the field can still
        align, and large ones average these.
        """
        least, most = _APART[len(shape)]
        return cls.of(shape, [min(max(least, s), most) for s in spacing])

    @property
    def cells(self) -> tuple[int, ...]:
        """How many distances of nodes fit along each axis of the image."""
        return tuple(splines.shape[1] - 3 for splines in self.splines)

    def sums(self, values: NDArray[Any]) -> Singles:
        """(*nodes) sums over the voxels around each node."""
        for axis in reversed(range(values.ndim)):
            values = along(self.splines[axis].T, values, axis)
        return np.asarray(values, np.float32)

    def at_voxels(self, values: NDArray[Any]) -> Singles:
        """(*shape) values of nodes between these."""
        for axis in range(values.ndim):
            values = along(self.splines[axis], values, axis)
        return np.asarray(values, np.float32)


@dataclass(frozen=True)
class LocalMatch:
    """Of a pair at one transform.

    residual: (*shape) fixed - (gain warped + offset). gain, offset: (*shape). precision: (*shape) the inverse of the
    variance of the fixed image. common: (*shape) the correlation, 0..1. left: the mean of 1 - correlation^2, of gain
    and offset that are the same in a window. misfit: the mean of the residual, squared, times the precision. nodes:
    (4, *nodes) from which gain, offset, precision and common were interpolated.
    """

    residual: Singles
    gain: Singles
    offset: Singles
    precision: Singles
    common: Singles
    left: float
    misfit: float
    nodes: Singles

    @classmethod
    def given(
        cls,
        images: tuple[Singles, Singles],
        weight: Singles,
        nodes: Singles,
        windows: Windows,
        left: float | None = None,
    ) -> LocalMatch:
        """Of a fixed and a warped image, with gain, offset, precision and common of these nodes.

        Args:
            left: None where it is not known: the misfit is less, for its gain and offset vary in a window.
        """
        fixed, warped = images
        gain, offset, precision, common = (windows.at_voxels(one) for one in nodes)
        residual = fixed - (gain * warped + offset)
        square = float((weight * precision * residual * residual).sum(dtype=np.float64))
        misfit = square / max(float(weight.sum(dtype=np.float64)), 1e-9)
        left = min(misfit, 1.0) if left is None else left
        return cls(residual, gain, offset, precision, common, left, misfit, nodes)

    def residuals(self, gradient: Singles, weight: Singles) -> Residuals:
        """What the normal equations are summed from: the part of the gradient (D, *shape) that both images share, and
        the residual of all of it."""
        return Residuals(gradient, self.residual / self.common, weight * self.precision * self.common**2)


def local_match(
    fixed: Singles, warped: Singles, weight: Singles, windows: Windows, *, repeats: int = _REPEATS
) -> LocalMatch:
    """weight: (*shape) 0 where a voxel does not count. repeats: of the fit to what is left of the residual."""
    wf, ww = weight * fixed, weight * warped
    n, f, w, ff, fw, sq = (windows.sums(x) for x in (weight, wf, ww, wf * fixed, wf * warped, ww * warped))
    total = max(float(n.sum(dtype=np.float64)), 1e-9)
    count: Singles = np.asarray(np.maximum(n, 1e-3), np.float32)
    f, w = f / count, w / count
    ff, fw, sq = ff / count - f * f, fw / count - f * w, sq / count - w * w

    def mean(values: NDArray[Any]) -> float:
        return float((n * values).sum(dtype=np.float64)) / total

    # What is known without the voxels of a window: what all windows have in common.
    few = np.float32(_FEW) / (count + np.float32(_FEW))

    def steadied(values: Singles) -> Singles:
        return np.asarray(np.maximum(values, 0) * (1 - few) + few * max(mean(values), 1e-12), np.float32)

    ff, fw, sq = steadied(ff), steadied(fw), steadied(sq)
    gain = fw / sq
    left = np.maximum(ff - gain * fw, 0)
    common = np.sqrt(np.clip(1 - left / ff, 1e-4, 1))
    spread = ff + np.float32(_LEAST_VARIANCE * mean(ff))
    offset = f - gain * w
    residual = fixed - (windows.at_voxels(gain) * warped + windows.at_voxels(offset))
    for _ in range(repeats):  # means of windows, interpolated, are smoother than gain and offset are: add what is left
        wr = weight * residual
        r, rw = windows.sums(wr) / count, windows.sums(wr * warped) / count
        more = (1 - few) * (rw - r * w) / sq
        more_offset = r - more * w
        gain, offset = gain + more, offset + more_offset
        residual = residual - (windows.at_voxels(more) * warped + windows.at_voxels(more_offset))
    nodes = np.stack([gain, offset, 1 / spread, common])
    return LocalMatch.given((fixed, warped), weight, nodes, windows, min(mean(left / spread), 1.0))


def window_fit(sums: NDArray[Any], left: tuple[NDArray[Any], NDArray[Any]]) -> tuple[Singles, float]:
    """What `local_match` finds, from sums of windows alone, where gain and offset are known but for a little.

    Args:
        sums: (6, *nodes) of the weight, fixed, warped, fixed squared, fixed times warped, warped squared.
        left: (*nodes) sums of what the known gain and offset leave of the fixed image, and of that times the warped
            image.

    Returns: (4, *nodes) what is to be added to gain and offset, precision and common, see `LocalMatch`; and `left` of
        that.
    """
    n, f, w, ff, fw, sq = sums
    total, count = max(float(n.sum(dtype=np.float64)), 1e-9), np.maximum(n, 1e-3)
    f, w = f / count, w / count
    few = _FEW / (count + _FEW)

    def mean(values: NDArray[Any]) -> float:
        return float((n * values).sum(dtype=np.float64)) / total

    def steadied(values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.maximum(values, 0) * (1 - few) + few * max(mean(values), 1e-12))

    ff, fw, sq = (steadied(x) for x in (ff / count - f * f, fw / count - f * w, sq / count - w * w))
    variance = np.maximum(ff - fw * fw / sq, 0)
    spread = ff + _LEAST_VARIANCE * mean(ff)
    r, rw = (x / count for x in left)
    gain = (1 - few) * (rw - r * w) / sq
    common = np.sqrt(np.clip(1 - variance / ff, 1e-4, 1))
    nodes = np.stack([gain, r - gain * w, 1 / spread, common]).astype(np.float32)
    return nodes, min(mean(variance / spread), 1.0)


def cells_for_control(shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
    """How many distances of nodes fit along each axis, see `Windows.for_control`."""
    least, most = _APART[len(shape)]
    return _cells(shape, [min(max(s, least), most) for s in spacing])


def _cells(shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
    return tuple(max(1, round(n / apart)) for n, apart in zip(shape, spacing, strict=True))


def _splines(place: NDArray[np.float64], cells: int) -> Singles:
    """(n, m) cubic B-splines at places along an axis of so many cells."""
    cell = np.clip(np.floor(place).astype(int), 0, cells - 1)
    found = np.zeros((len(place), cells + 3), np.float32)
    for k, column in enumerate(cubic_weights(place - cell)[0].T):
        found[np.arange(len(place)), cell + k] = column
    return found
