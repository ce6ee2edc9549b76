"""Reprojection matching: Gauss-Newton over the poses of projections and the volume together.

The volume is eliminated: for given poses it is the filtered back-projection, of which the reprojection H(p) is what all
projections together say of each. What is minimised is the residual p - H(p), by the poses. A motion of one projection
changes the volume too, so that the normal equations are those of (1 - H) J, not of J alone (variable projection, Golub
and Pereyra 1973). They couple all projections and are solved by GMRES, with the block of each projection as a
preconditioner. To leave H out, and to register each projection to its reprojection by itself, converges slowly for what
changes slowly with the angle: the volume follows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, spline_filter1d

from daskreg.geometry import Box
from daskreg.runtime.threads import shares
from daskreg.sampling.sample import sample
from daskreg.tomography.normal_equations import SAMPLED_ROWS, Coupling, Sums
from daskreg.tomography.poses import Level, fitted_waves, spans_half_a_turn
from daskreg.tomography.projector.projector_numba import pull_cubic
from daskreg.tomography.reprojection import Reprojection, is_cut_off
from daskreg.tomography.series import noise_of

Floats = NDArray[np.float64]
Array = NDArray[Any]
Bools = NDArray[np.bool_]

SMOOTHING = 1.0  # sigma in pixels: sampling leaves little noise and little aliasing above it
# The derivatives are of images that are smoothed once more: their noise would look like signal, and shorten the steps.
_BASIS_SMOOTHING = 1.0
_KNOWN = 0.999  # of the weight of a pixel, interpolated from those that count
_LEAST_SHARE = 0.1  # of the projections, by whose reprojection others are filled
_FILLED_AGAIN = 2
_FEW = 17  # columns, of which the share of projections that show a row is the mean
_SELDOM, _SHOWN = 0.8, 0.9  # of the projections: a slice that fewer show counts not at all, less, or fully
_MANY = 18  # projections, of which filtered back-projection is nearly the volume in least squares
LEAST_ROWS = 8
"""Fewer rows do not show a shift along the axis."""


@dataclass(frozen=True)
class Problem:
    """Projections of one level, or some of their rows.

    Args:
        data: (A, V, U) float32.
        valid: (A, V, U), pixels that count; None: all.
        radians: (A,).
        names: parameters of each projection.
        shared: parameters that all projections have in common.
        used: (A,) projections that take part; the others have no influence, and keep their poses.
        cut_off: whether the specimen is wider than the detector; None: see `is_cut_off`.
    """

    data: Array
    valid: Array | None
    radians: Floats
    level: Level
    names: tuple[str, ...]
    shared: tuple[str, ...]
    used: Bools
    cut_off: bool | None = None
    reproject: Reprojection = field(init=False)

    def __post_init__(self) -> None:
        radians = self.radians[self.used]
        if self.cut_off is None:
            object.__setattr__(self, "cut_off", is_cut_off(self.data[self.used]))
        iterated = not self.cut_off and (self.wedge or len(radians) < _MANY)
        found = Reprojection(radians, self.data.shape[2], float(self.level.middle[1]), iterated)
        object.__setattr__(self, "reproject", found)

    @cached_property
    def wedge(self) -> bool:
        """Whether one is missing, that a volume which explains the projections could fill."""
        return not self.cut_off and not spans_half_a_turn(self.radians[self.used])

    @property
    def factor(self) -> int:
        return self.level.factors[1]

    @cached_property
    def noise(self) -> float:
        """Standard deviation of the noise of a pixel."""
        return noise_of(self.data[self.used])

    def using(self, used: Bools) -> Problem:
        """The problem, of other projections."""
        return self if np.array_equal(used, self.used) else replace(self, used=used)

    def solve(self, sums: Sums, coupling: Coupling, *, exact: bool = False) -> tuple[Floats, Floats]:
        """The step (A, P) and the shared one, without the shifts that only move the volume; see `Coupling.solve`.

        With a missing wedge, a constant column shift is nearly one of them, and what FBP lacks decides on it rather
        than the projections; so it stays as it was, where centres of mass are known, and the rest is as if it followed.
        """
        radians, columns = self.radians[self.used], self.names.index("tx")
        alike = [self.names.index(name) for name in ("ty", "scale") if name in self.names]
        basis = fitted_waves(np.zeros(len(radians)), radians)[0]
        gauge = np.zeros((len(alike) + 2, len(radians), len(self.names)))
        gauge[np.arange(len(alike)), :, alike] = 1.0
        gauge[len(alike) :, :, columns] = basis[:, 1:].T
        values, shared = coupling.solve(sums, self.reproject, gauge, exact=exact)
        values[:, alike] -= values[:, alike].mean(axis=0)
        moving = slice(0 if self.wedge else 1, 3)
        values[:, columns] -= basis[:, moving] @ fitted_waves(values[:, columns], radians)[1][moving]
        return values, shared


def without_images(problem: Problem) -> Problem:
    """The problem, without the memory of its projections."""
    count, _, columns = problem.data.shape
    return replace(problem, data=np.empty((count, 0, columns), problem.data.dtype), valid=None)


@dataclass(frozen=True)
class Linearised:
    """The problem at some poses, of the projections that are used.

    Args:
        residual: (A, U, V) aligned projections less their reprojections.
        basis: (P + S, A, U, V) derivatives by the parameters of the aligned frame, of a pixel of this level or a
            radian.
        weight: (A, U, V) of the pixels.
    """

    problem: Problem
    residual: Array
    aligned: Array
    basis: Array
    weight: Array

    @cached_property
    def coupling(self) -> Coupling:
        few = self.basis.shape[3] <= SAMPLED_ROWS
        return self.every if few else Coupling.of(self.basis, self.weight, len(self.problem.names))

    @cached_property
    def every(self) -> Coupling:
        """The coupling of all rows."""
        return Coupling(self.basis, self.weight, len(self.problem.names))

    def sums(self, image: Array) -> Sums:
        """Of all rows: the right side is that of an (A, U, V) image by which the aligned projections are to change, but
        for what (1 - H) leaves out, and of which (1 - H) has been taken."""
        found = self.every.sums(image)
        return replace(
            found,
            left=(self.residual**2).sum(axis=(1, 2), dtype=np.float64),
            power=(self.aligned**2).sum(axis=(1, 2), dtype=np.float64),
            weight=float(self.weight.sum(dtype=np.float64)),
            pixels=int(np.prod(self.residual.shape[1:])),
        )

    def solve(self, image: Array) -> tuple[Floats, Floats]:
        """After what motion the aligned projections have changed by the image, exactly; see `sums`."""
        return self.problem.solve(self.sums(image), self.every, exact=True)


def linearised(problem: Problem, poses: Floats) -> Linearised:
    """The problem at the poses (of all projections), about the middle of the detector."""
    seen = aligned_images(problem, poses)
    images = smoothed(_filled(problem, seen))
    reprojected = problem.reproject(images)
    residual = (images - reprojected) * seen.often
    basis = derivatives(reprojected, problem)
    return Linearised(problem, residual, images * seen.often, basis, seen.known * seen.often)


def _filled(problem: Problem, seen: Aligned) -> Array:
    """(A, U, V) images, with what is missing taken from the reprojection of what is not.

    Of slices that not all projections show that is little, and done again. Images are smoothed after that: the mean of
    the known pixels beside a gap would be that of another place.
    """
    missing = 1 - seen.known
    if not missing.any():
        return seen.images
    images = seen.images * seen.known
    filled = images + missing * (problem.reproject(images) / np.maximum(seen.share, _LEAST_SHARE))
    rows = np.flatnonzero(seen.share < 1)
    if len(rows):
        for _ in range(_FILLED_AGAIN):
            again = problem.reproject(np.ascontiguousarray(filled[..., rows]))
            filled[..., rows] = images[..., rows] + missing[..., rows] * again
    return filled


def derivatives(seen: Array, problem: Problem) -> Array:
    """(P + S, A, U, V) of reprojections, by the parameters."""
    images = smoothed(seen, _BASIS_SMOOTHING)
    rows = np.gradient(images, axis=2) if images.shape[2] > 1 else np.zeros_like(images)
    columns = np.gradient(images, axis=1)
    ratio = problem.level.factors[0] / problem.level.factors[1]
    v = (np.arange(images.shape[2], dtype=np.float32) - np.float32(problem.level.middle[0])) * np.float32(ratio)
    u = (np.arange(images.shape[1], dtype=np.float32) - np.float32(problem.level.middle[1]))[:, None]
    rows_here = rows / np.float32(ratio)
    found = {"ty": rows_here, "tx": columns, "theta": u * rows_here - v * columns, "scale": v * rows_here + u * columns}
    return np.stack([found[name] for name in (*problem.names, *problem.shared)])


@dataclass(frozen=True)
class Aligned:
    """Used projections in the aligned frame.

    Args:
        images: (A, U, V).
        known: (A, U, V) one where pixels count, zero where they do not, and between at the first and last row.
        share: (V,) of the projections, that show a slice.
        often: (V,) weights of slices by that share.
    """

    images: Array
    known: Array
    share: Array
    often: Array


def aligned_images(problem: Problem, poses: Floats) -> Aligned:
    chosen = np.flatnonzero(problem.used)
    matrices = problem.level.binned(poses)[chosen]
    rows, columns = problem.data.shape[1:]
    images = np.empty((len(chosen), columns, rows), np.float32)
    known = np.empty_like(images)
    coefficients = spline_coefficients(problem.data[chosen])
    shares(partial(pull_cubic, coefficients, matrices[:, :2], images, known), len(chosen), images.size)
    if problem.valid is not None:
        box = Box.of((rows, columns))
        for k, a in enumerate(chosen):
            valid = problem.valid[a].astype(np.float32)
            known[k] *= sample(valid, box, matrices[k], box, order=1, edge="clamp").T > _KNOWN
    shown, share, often = _shown(matrices, problem.level, columns)
    return Aligned(images, known * shown, share, often)


def spline_coefficients(images: Array) -> Array:
    """(A, V, U) of cubic splines that are reflected about the faces of the images; of one row along the columns."""
    found = spline_filter1d(images, 3, axis=2, output=np.float32, mode="reflect")
    return found if images.shape[1] == 1 else spline_filter1d(found, 3, axis=1, output=np.float32, mode="reflect")


def _shown(matrices: Floats, level: Level, columns: int) -> tuple[Array, Array, Array]:
    """What is beyond the first and the last row of the detector.

    Beside the detector there is background, or what is missing is filled in; along the axis the specimen goes on. A
    slice that many projections do not show does not count. Both change gradually, or the steps would not settle.

    Returns: (A, U, V) one where an aligned pixel is between the first and the last row, else zero; (V,) the share
        of the projections that show a slice, and its weight.
    """
    here, whole = level.binned_shape[0], level.whole_rows

    def share_of(u: Array, v: Array) -> Array:
        """Of (first, last) rows of the whole detector."""
        m = matrices[:, 0, :, None, None].astype(np.float32)
        place = m[:, 0] * (v - level.first) + m[:, 1] * u[:, None] + (m[:, 2] + np.float32(level.first))
        return np.asarray(np.clip(2 * np.minimum(place, whole - 1 - place) + 1, 0, 1))

    few = np.linspace(0, columns - 1, min(columns, _FEW), dtype=np.float32)
    share = share_of(few, np.arange(whole, dtype=np.float32)).mean(axis=(0, 1))
    often = np.clip((share - _SELDOM) / (_SHOWN - _SELDOM), 0, 1).astype(np.float32)
    rows = np.arange(level.first, level.first + here)
    shown = share_of(np.arange(columns, dtype=np.float32), rows.astype(np.float32))
    if 2 * often.sum() < whole:  # shifts that are wrong by that much are of a start, that is to find the specimen first
        return np.ones_like(shown), np.ones(here, np.float32), np.ones(here, np.float32)
    return shown, share[rows], often[rows]


def smoothed_noise(rows: int) -> float:
    """Standard deviation of white noise of one that is `smoothed`, of so many rows."""
    both_axes = 1 / (2 * float(np.sqrt(np.pi)) * SMOOTHING)
    return both_axes if rows >= LEAST_ROWS else float(np.sqrt(both_axes))


def smoothed(images: Array, sigma: float = SMOOTHING) -> Array:
    """(A, U, V), by a Gaussian filter; a few rows only along the columns."""
    images = gaussian_filter1d(images, sigma, axis=1, mode="nearest")
    if images.shape[2] >= LEAST_ROWS:
        images = gaussian_filter1d(images, sigma, axis=2, mode="nearest")
    return np.ascontiguousarray(images)
