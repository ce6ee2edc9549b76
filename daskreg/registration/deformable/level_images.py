"""A pair on one level of a pyramid: the moving image warped by a transform, and its difference from the fixed one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from daskreg.fields.index_map import DisplacedIndexMap
from daskreg.geometry import Box, Grid, Transform
from daskreg.registration.deformable.cell_sums import Residuals
from daskreg.registration.deformable.comparison_numba import sum_known, sum_residual
from daskreg.registration.deformable.mutual_information import Bins, Dependence, dependence
from daskreg.registration.local_contrast.match import LocalMatch, local_match
from daskreg.registration.local_contrast.windows import Windows
from daskreg.registration.normal_equations.edge_weights import fixed_weight
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.runtime.threads import pool_threads, shares
from daskreg.sampling.arrays import CUBIC_REACH, Spline, spline_of
from daskreg.sampling.sample import sample

Singles = NDArray[np.float32]

# Times as many spline coefficients as voxels, which are not kept: those around thin images.
_MUCH = 2.0
# Correlations below this count as if they were this high: steps go towards a positive one.
_MIN_CORRELATION = 0.3


@dataclass(frozen=True)
class Evaluated:
    """What a transform makes of a pair.

    warped, residual, weight: (*shape) of the fixed grid; the residual is fixed - (gain warped + offset); for "mi",
    fixed less the mean of the fixed values of voxels with the same warped value. mean_square: of the residual. total:
    of the weight. correlation: of the images. gain: 1 for "mse". local: for "lncc", of which mean_square and
    correlation are those in windows. dependence: for "mi".
    """

    warped: Singles
    residual: Singles
    weight: Singles
    mean_square: float
    total: float
    correlation: float
    gain: float
    local: LocalMatch | None = None
    dependence: Dependence | None = None

    @property
    def predicted(self) -> Singles:
        """(*shape) the fixed image that the warped one lets expect; where gain and offset are the same everywhere, the
        warped image."""
        if self.dependence is not None:
            return self.dependence.predicted
        return self.warped if self.local is None else np.asarray(self.warped * self.local.gain + self.local.offset)

    def in_windows(self, local: LocalMatch) -> Evaluated:
        """The same pair with gain and offset around each voxel."""
        correlation = float(np.sqrt(1 - local.left))
        return replace(self, residual=local.residual, mean_square=local.misfit, correlation=correlation, local=local)

    @property
    def variance(self) -> float:
        """Of the residual that the normal equations have."""
        return self.mean_square if self.dependence is None else 1.0

    @property
    def residual_variance(self) -> float:
        """Of the residual in units of the fixed image: `mean_square` of "lncc" is one in windows."""
        if self.local is None:
            return self.mean_square
        return float((self.weight * self.residual * self.residual).sum(dtype=np.float64)) / self.total

    @property
    def misfit(self) -> float:
        """What is minimised: twice the negative log likelihood of a voxel times `variance`, but for a constant."""
        return self.mean_square if self.dependence is None else 2 * self.dependence.left

    @property
    def score(self) -> tuple[float, float]:
        """Correlation, or the negative mutual information in nats; and the misfit."""
        return self.correlation if self.dependence is None else -self.dependence.nats, self.misfit


@dataclass(frozen=True)
class Match:
    """How a warped image is brought nearest to the fixed one: gain warped + offset, and the correlation of both."""

    gain: float
    offset: float
    correlation: float

    @classmethod
    def of(cls, f: float, w: float, ff: float, fw: float, ww: float, *, matched: bool) -> Match:
        """From the means of fixed and warped, of their squares and of their product.

        Args:
            matched: whether gain and offset are free; else they are 1 and 0.
        """
        ff, fw, ww = max(ff - f * f, 1e-12), fw - f * w, max(ww - w * w, 1e-12)
        correlation = float(fw / np.sqrt(ff * ww))
        if not matched:
            return cls(1.0, 0.0, correlation)
        gain = max(correlation, _MIN_CORRELATION) * float(np.sqrt(ff / ww))
        return cls(gain, f - gain * w, correlation)


@dataclass(frozen=True)
class LevelImages:
    """One pair on one level.

    fixed: (*shape). weight: (*shape), 0..1, zero also beside masked voxels, where there is no gradient. gradient:
    (D, *shape) of fixed, by world units along the axes of its grid. moving: NaN where masked. ends: of the values of
    both images, for "mi".
    """

    fixed: Singles
    weight: Singles
    gradient: Singles
    moving: Singles
    fixed_grid: Grid
    moving_grid: Grid
    matched: bool
    step: float
    ends: tuple[Bins, Bins] | None = None
    windows: Windows | None = None

    @classmethod
    def of(cls, level: PyramidLevel, metric: str, spacing: Sequence[float] | None = None) -> LevelImages:
        """From a level of one pair.

        Args:
            metric: "ncc", "lncc", "mse" or "mi".
            spacing: of the control points, world units, for the windows of "lncc"; None: these are small.
        """
        weight = fixed_weight(level)[0].numpy().copy()
        fixed, moving = level.fixed.values[0].numpy(), level.moving.values[0].numpy()
        masks = [None if p.weight is None else p.weight[0].numpy() for p in (level.fixed, level.moving)]
        if masks[0] is not None:
            weight = without_edges(weight)
        if masks[1] is not None:
            moving = np.where(masks[1] > 0.5, moving, np.float32(np.nan))
        grid = level.fixed.grid
        gradient, moving = slopes_of(fixed, grid.spacing), np.ascontiguousarray(moving)
        ends = (Bins.of(fixed, weight > 0), Bins.of(moving, np.isfinite(moving))) if metric == "mi" else None
        apart = [0.0] * grid.ndim if spacing is None else np.divide(spacing, grid.spacing).tolist()
        windows = Windows.for_control(grid.shape, apart) if metric == "lncc" else None
        matched = metric != "mse"
        return cls(fixed, weight, gradient, moving, grid, level.moving.grid, matched, level.step, ends, windows)

    def warp(self, transform: Transform, *, order: int = 1, box: Box | None = None) -> Singles:
        """(*shape) the moving image on the fixed grid, or in a box of it, NaN where it is unknown."""
        where = transform.index_map(self.fixed_grid, self.moving_grid, self.moving_grid.names)
        if not isinstance(where, DisplacedIndexMap):
            raise TypeError("a transform with a displacement field is needed")
        box, read, threads = box or self.fixed_grid.box, self.moving_grid.box, pool_threads() > 1
        spline = self._spline if order == 3 else None
        pull = where.coordinates(box)
        found = sample(self.moving, read, pull, box, order=order, fill=np.nan, parallel=threads, spline=spline)
        return np.asarray(found)

    @cached_property
    def _spline(self) -> Spline | None:
        """None where it would hold many more numbers than there are voxels."""
        read = self.moving_grid.box
        if math.prod(n + 2 * CUBIC_REACH for n in read.shape) >= _MUCH * self.moving.size:
            return None
        return spline_of(self.moving, read, fill=np.nan, parallel=pool_threads() > 1)

    def evaluate(self, transform: Transform, *, order: int = 1) -> Evaluated:
        """Warp and compare; gain and offset are those of the best fit but for "mse"."""
        found = self.compare(self.warp(transform, order=order))
        if self.windows is not None:
            return found.in_windows(local_match(self.fixed, found.warped, found.weight, self.windows))
        if self.ends is None:
            return found
        shared = dependence(self.fixed, found.warped, found.weight, self.ends)
        residual = self.fixed - shared.predicted
        square = float((found.weight * residual * residual).sum(dtype=np.float64)) / found.total
        return replace(found, residual=residual, mean_square=square, dependence=shared)

    def compare(self, warped: Singles) -> Evaluated:
        """With the warped image, NaN where it is unknown, by squares of differences."""
        known, (total, *products) = self.known(warped)
        total = max(total, 1e-9)
        match = Match.of(*(one / total for one in products), matched=self.matched)
        fixed, residual = self.fixed.reshape(-1, warped.shape[-1]), np.empty(warped.shape, np.float32)
        images, both = (fixed, known.reshape(2, *fixed.shape)), np.array([match.gain, match.offset], np.float32)
        squares = np.empty(len(fixed))
        shares(partial(sum_residual, images, both, residual.reshape(fixed.shape), squares), len(fixed), fixed.size)
        square = float(squares.sum()) / total
        return Evaluated(known[0], residual, known[1], square, total, match.correlation, match.gain)

    def known(self, warped: Singles) -> tuple[Singles, list[float]]:
        """What is known of the warped image, NaN where it is not.

        Returns: (2, *shape) the warped image and the weight, both zero there; and sums of the weight, and of the weight
            times fixed, warped, fixed squared, fixed times warped, warped squared.
        """
        images = tuple(image.reshape(-1, warped.shape[-1]) for image in (self.fixed, warped, self.weight))
        rows = len(images[0])
        found, sums = np.empty((2, *images[0].shape), np.float32), np.empty((rows, 6))
        shares(partial(sum_known, images, found, sums), rows, warped.size)
        return found.reshape(2, *warped.shape), sums.sum(0).tolist()

    def residuals(self, found: Evaluated) -> Residuals:
        """What the normal equations are summed from."""
        if found.local is not None:
            return Residuals(self.gradient, *found.local.shared(found.weight))
        if (d := found.dependence) is None:
            return Residuals(self.gradient, found.residual, found.weight)
        # To move the warped image by u is to move the fixed one by -u.
        return Residuals(self.gradient, -d.by_fixed / d.information, found.weight * d.information)

    def slopes(self, found: Evaluated) -> Residuals:
        """What the derivative of the metric by displacements is summed from, with the gradient of the warped image."""
        gradient, weight = slopes_of(found.warped, self.fixed_grid.spacing), without_edges(found.weight)
        if (d := found.dependence) is None:
            return Residuals(gradient, np.float32(found.gain) * found.residual, weight)
        return Residuals(gradient, d.by_warped, weight)


def slopes_of(image: Singles, spacing: Sequence[float]) -> Singles:
    """(D, *shape) central differences, by world units."""
    parts = []
    for axis, (n, h) in enumerate(zip(image.shape, spacing, strict=True)):
        parts.append(np.gradient(image, np.float32(h), axis=axis) if n > 1 else np.zeros_like(image))
    return np.stack(parts).astype(np.float32, copy=False)


def without_edges(weight: Singles) -> Singles:
    """The weight, zero also for voxels with a neighbour along an axis whose weight is zero."""
    known = weight > 0
    inner = known.copy()
    for axis in range(weight.ndim):
        ahead, behind = np.moveaxis(inner, axis, 0), np.moveaxis(known, axis, 0)
        ahead[1:] &= behind[:-1]
        ahead[:-1] &= behind[1:]
    return np.where(inner, weight, np.float32(0))
