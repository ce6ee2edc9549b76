"""What a pair of warped slices contributes to the problem: residual, normal equations, noise, and local agreement.

The residual is the difference of both warped slices, with contrasts made equal. Its derivative by a displacement of
one slice, and by the opposite one of the other, is the mean of both gradients. In this mean, and in the difference, the
noise of both slices has the same part, so that the two are not correlated and noise does not bias a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from daskreg.geometry import Grid
from daskreg.registration.deformable.cell_sums import Residuals, cell_sums
from daskreg.registration.deformable.noise_model import LEAST_SHARE, NoiseModel, correlated_voxels, middle_of
from daskreg.registration.deformable.splines.control_grid import ControlGrid
from daskreg.stacks.elastic.slice_images import WarpedSlice, block_index

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]


@dataclass(frozen=True)
class PairTerms:
    """square: of `cell_sums`, empty where it was not asked for. linear: (D, *nodes). mean_square, total: of the
    weighted residual. correlation: of the pair. noise: None where it was not asked for."""

    square: Singles
    linear: Floats
    mean_square: float
    total: float
    correlation: float
    noise: NoiseModel | None


@dataclass(frozen=True)
class _Difference:
    """residual, weight: (*shape). one, other, gradient: (D, *shape) of both slices with equal contrasts, and their
    mean. mean_square, total: of the weighted residual. correlation."""

    residual: Singles
    weight: Singles
    one: Singles
    other: Singles
    gradient: Singles
    mean_square: float
    total: float
    correlation: float


def _difference(a: WarpedSlice, b: WarpedSlice, robust: Singles | None, *, matched: bool) -> _Difference:
    """Of a less b."""
    weight = a.weight * b.weight
    if robust is not None:
        weight = weight * robust
    total = max(float(weight.sum(dtype=np.float64)), 1e-9)

    def mean(values: Singles) -> float:
        return float((weight * values).sum(dtype=np.float64)) / total

    ma, mb = mean(a.values), mean(b.values)
    va = max(mean(a.values * a.values) - ma * ma, 1e-12)
    vb = max(mean(b.values * b.values) - mb * mb, 1e-12)
    correlation = (mean(a.values * b.values) - ma * mb) / float(np.sqrt(va * vb))
    gain = float(np.sqrt(va / vb)) if matched else 1.0
    offset = ma - gain * mb if matched else 0.0
    residual = np.asarray(a.values - (np.float32(gain) * b.values + np.float32(offset)), np.float32)
    other = np.asarray(np.float32(gain) * b.gradient, np.float32)
    gradient = np.asarray((a.gradient + other) / np.float32(2), np.float32)
    return _Difference(residual, weight, a.gradient, other, gradient, mean(residual * residual), total, correlation)


def pair_terms(
    a: WarpedSlice,
    b: WarpedSlice,
    robust: Singles | None,
    control: ControlGrid,
    grid: Grid,
    *,
    coefficients: Floats,
    matched: bool,
    with_square: bool,
) -> PairTerms:
    """Of a less b.

    Args:
        robust: (*shape) weights, or None. coefficients: (D, *nodes) the mean of both slices' current layers, by whose
            derivative the gradients of the warped slices are turned into those by the coefficients. matched: whether
            contrasts are made equal.
    """
    d = _difference(a, b, robust, matched=matched)
    bent = coefficients if np.any(coefficients) else None
    voxels = Residuals(d.gradient, d.residual, d.weight)
    sums = cell_sums(voxels, control, grid, grid.box, coefficients=bent, with_square=with_square)
    noise = _noise(d) if with_square else None
    return PairTerms(sums.square, sums.linear, d.mean_square, d.total, d.correlation, noise)


def noise_sums(
    a: WarpedSlice,
    b: WarpedSlice,
    robust: Singles | None,
    control: ControlGrid,
    grid: Grid,
    *,
    rng: np.random.Generator,
    coefficients: Floats,
    matched: bool,
    count: int,
) -> Floats:
    """(count, D, *nodes) the linear sums of white noise in place of the residual: their covariance is `square`."""
    d = _difference(a, b, robust, matched=matched)
    bent = coefficients if np.any(coefficients) else None
    scale = np.where(d.weight > 0, 1 / np.sqrt(np.maximum(d.weight, np.float32(1e-12))), np.float32(0))
    found = []
    for _ in range(count):
        white = scale * rng.standard_normal(scale.shape, dtype=np.float32)
        voxels = Residuals(d.gradient, white.astype(np.float32, copy=False), d.weight)
        found.append(cell_sums(voxels, control, grid, grid.box, coefficients=bent, with_square=False).linear)
    return np.stack(found)


def _noise(d: _Difference) -> NoiseModel:
    """Noise that is independent in both gradients is not in the sum of their products."""
    square = float((d.weight * d.gradient * d.gradient).sum(dtype=np.float64))
    common = float((d.weight * d.one * d.other).sum(dtype=np.float64))
    shared = min(max(common / max(square, 1e-30), LEAST_SHARE), 1.0)
    box = middle_of(d.residual.shape)
    score = d.weight[box] * d.residual[box] * d.gradient[(slice(None), *box)]
    return NoiseModel(max(d.mean_square, 1e-12), correlated_voxels(score), shared)


def local_agreement(a: WarpedSlice, b: WarpedSlice, blocks: Sequence[int]) -> Floats:
    """(*blocks) correlations of two warped slices in windows of three blocks; NaN where nothing is known."""
    weight = a.weight * b.weight
    index = block_index(weight.shape, blocks)

    def sums(values: Singles) -> Floats:
        found: Floats = values.astype(np.float64)
        for axis, starts in enumerate(index):
            found = np.add.reduceat(found, starts, axis=axis)
        return np.asarray(uniform_filter(found, 3, mode="constant"))

    total = sums(weight)
    known = total > 0.1 * total.max()
    safe = np.where(known, total, 1.0)
    ma, mb = sums(weight * a.values) / safe, sums(weight * b.values) / safe
    va = sums(weight * a.values * a.values) / safe - ma * ma
    vb = sums(weight * b.values * b.values) / safe - mb * mb
    covariance = sums(weight * a.values * b.values) / safe - ma * mb
    found = covariance / np.sqrt(np.maximum(va * vb, 1e-12))
    return np.asarray(np.where(known, found, np.nan))
