"""Which motions two aligned images determine, from the gradients that both of them show.

The curvature of the correlation of f and w by the parameters is the sum of products of a gradient of f with one of w,
and the noise of f and that of w are independent, so that noise alone adds nothing to it on average. (A product of
gradients of the same image has the square of its noise, as if noise determined the pose.) What noise adds by chance
is bounded by the sums over cells t_k: where they are independent and as likely negative as positive, their sum
exceeds z times the root of the sum of their squares with a probability below exp(-z^2 / 2) (Efron 1969). Where cells
are few but the gradients agree closely, the lower end of the confidence interval of their correlation (Fisher 1921)
says more.

Differences of neighbours turn a gradient a little where the image varies quickly, and what this error may add along
an edge is subtracted too.

The pose was found by the metric, over all voxels and frequencies alike. One Gauss-Newton step of the log-likelihood,
in which each band counts by its samples and its residual, says how far the images themselves put it from there: a
gain that varies over the image, or another brightness with "mse", moves the optimum of the metric and little else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.verdict.aligned import Aligned
from daskreg.registration.verdict.bands import Bands, axes_of, cell_sums

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

# z: so many times the root of the sum of squares is what noise may add.
_CHANCE = 3.0
# Radians per voxel of a band of sigma 1; the error of a difference over five voxels at k radians is k^4 / 30.
_FREQUENCY = 1.5
# Voxels of the sides of the cells, in sigmas of a band: farther apart, products are independent.
_CELL = 2.0
# Directions of less curvature than this share of the largest say nothing of the offset.
_LEAST_CURVATURE = 1e-2
# The least part of a band's variance that the pose may leave unexplained.
_LEAST_RESIDUAL = 1e-4


@dataclass(frozen=True)
class Information:
    """sigma: (P,) standard deviations in voxels of P directions, smallest first.
    directions: (P, P) rows in units of the parameters; each moves the farthest corner by about one voxel.
    offset: voxels from the pose to where all bands together put it, root mean square over the overlap.
    """

    sigma: Floats
    directions: Floats
    offset: float


def information_of(pair: Aligned, bands: Bands) -> Information:
    """What the gradients of both images say of the motions of a pose."""
    unit = pair.units
    fields = _displacements(pair, unit)
    used = np.flatnonzero((bands.samples > 1) & (bands.ncc > 0))
    slopes = [[_along(slopes[:, band], fields) for slopes in bands.slopes] for band in used]
    gains = [_gain(bands, band) for band in used.tolist()]
    curvature = sum((gain * (f @ w.T) for gain, (f, w) in zip(gains, slopes, strict=True)), np.zeros((len(unit),) * 2))
    values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
    slope = sum((g * _slope(bands, k, *s) for g, k, s in zip(gains, used.tolist(), slopes, strict=True)), 0 * values)
    known = values > _LEAST_CURVATURE * max(float(values[-1]), 1e-12)
    step = vectors[:, known] @ ((vectors.T @ slope)[known] / values[known])
    offset = _size(np.tensordot(step, fields, 1), pair.weight)
    information, turn = np.zeros(len(unit)), vectors.T.astype(np.float32)
    for gain, band, (f, w) in zip(gains, used, slopes, strict=True):
        first, second = turn @ f, turn @ w
        products = (first * second).reshape(-1, *pair.weight.shape)
        side = max(2, round(_CELL * bands.sigmas[band]))
        cells = cell_sums(products, [side] * pair.weight.ndim)
        total, size = cells.sum(axes_of(cells)), np.sqrt((first**2).sum(1) * (second**2).sum(1))
        least = total - _CHANCE * np.sqrt((cells**2).sum(axes_of(cells)))
        z = np.arctanh(np.clip(total / np.maximum(size, 1e-30), 0, 0.999999))
        least = np.maximum(least, size * np.tanh(z - _CHANCE / np.sqrt(bands.samples[band])))
        turned = ((_FREQUENCY / bands.sigmas[band]) ** 4 / 30) ** 2
        information += gain * np.maximum(least - turned * total.max(), 0)
    sigma = 1 / np.sqrt(np.maximum(information, 1e-12))
    order = np.argsort(sigma)
    return Information(sigma[order], vectors.T[order] / unit, offset)


def _slope(bands: Bands, band: int, first: Singles, second: Singles) -> Floats:
    """(P,) half the gradient of the sum of squared residuals of a band, with the mean of both images' gradients."""
    f, w = bands.fixed[band].ravel(), bands.warped[band].ravel()
    gain = float(bands.ncc[band]) * np.sqrt(float(f @ f) / max(float(w @ w), 1e-30))
    return np.asarray((first + second) @ (f - np.float32(gain) * w) / 2, np.float64)


def _gain(bands: Bands, band: int) -> float:
    """What a product of gradients in a band adds to the curvature of the log-likelihood (see `evidence`)."""
    size = np.sqrt(np.sum(bands.fixed[band] ** 2, dtype=float) * np.sum(bands.warped[band] ** 2, dtype=float))
    r = float(bands.ncc[band])
    return float(bands.samples[band]) * r / max(1 - r * r, _LEAST_RESIDUAL) / float(size)


def _displacements(pair: Aligned, unit: Floats) -> Floats:
    """(P, D, D+1) displacements, in voxels of the fixed image, of the point of a voxel, by its index and 1."""
    inverse = np.linalg.inv(pair.fixed.matrix[:-1, :-1] @ np.diag(np.ones(pair.fixed.ndim)))
    moves = np.linalg.inv(pair.motion[:-1, :-1]) @ (pair.derivatives / unit[:, None, None])[:, :-1]
    return np.asarray(inverse @ moves @ pair.fixed.matrix)


def _size(field: Floats, weight: Singles) -> float:
    """The root mean square of an affine displacement (D, D+1) of the index and 1, in voxels, over weighted voxels."""
    points = np.argwhere(weight > 0)
    moved = points @ field[:, :-1].T + field[:, -1]
    return float(np.sqrt(np.average((moved**2).sum(1), weights=weight[weight > 0])))


def _along(slopes: NDArray[np.float32], fields: Floats) -> NDArray[np.float32]:
    """(P, N) the derivatives of an image by the parameters, from those along the axes and the displacements."""
    shape = slopes.shape[1:]
    middle = (np.array(shape) - 1) / 2  # coordinates from there on are small, and so are their rounding errors
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    places = [np.asarray(x - c, np.float32) for x, c in zip(axes, middle, strict=True)]
    by_place = np.stack([(slope * place).ravel() for slope in slopes for place in (*places, np.float32(1))])
    centred = fields.copy()
    centred[..., -1] += fields[..., :-1] @ middle
    return np.asarray(centred.reshape(len(fields), -1).astype(np.float32) @ by_place)
