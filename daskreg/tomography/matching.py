"""Reprojection matching: Gauss-Newton over the poses of projections and the volume together.

The volume is eliminated: for given poses it is the filtered back-projection, of which the reprojection H(p) is what all
projections together say of each. What is minimised is the residual p - H(p), by the poses. A motion of one projection
changes the volume too, so that the normal equations are those of (1 - H) J, not of J alone (variable projection, Golub
and Pereyra 1973). They couple all projections and are solved by GMRES, with the block of each projection as a
preconditioner. To leave H out, and to register each projection to its reprojection by itself, converges slowly for what
changes slowly with the angle: the volume follows it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.sparse.linalg import LinearOperator, gmres

from daskreg.geometry import Box
from daskreg.runtime.threads import shares
from daskreg.sampling.sample import sample
from daskreg.tomography.poses import Level, fitted_waves, increments
from daskreg.tomography.reprojection import Reprojection, wedge_is_missing

Floats = NDArray[np.float64]
Array = NDArray[Any]
Bools = NDArray[np.bool_]

SMOOTHING = 1.0  # sigma in pixels: sampling leaves little noise and little aliasing above it
SMOOTHED_NOISE = 1 / (
    2 * np.sqrt(np.pi) * SMOOTHING
)  # standard deviation of white noise of one, smoothed along both axes
# The derivatives are of images that are smoothed once more: their noise would look like signal, and shorten the steps.
_BASIS_SMOOTHING = 1.0
_SETTLED = 0.02  # pixels of the detector
_SETTLED_SIGMAS = 0.1
_SELDOM, _SHOWN = 0.8, 0.9  # of the projections: a slice that fewer show counts not at all, less, or fully
_INNER = 25  # iterations of GMRES
_INNER_TOLERANCE = 0.01
LEAST_ROWS = 8
"""Fewer rows do not show a shift along the axis."""


@dataclass(frozen=True)
class Problem:
    """Projections of one level.

    Args:
        data: (A, V, U) float32.
        valid: (A, V, U), pixels that count; None: all.
        radians: (A,).
        names: parameters of each projection.
        shared: parameters that all projections have in common.
        used: (A,) projections that take part; the others have no influence, and keep their poses.
    """

    data: Array
    valid: Array | None
    radians: Floats
    level: Level
    names: tuple[str, ...]
    shared: tuple[str, ...]
    used: Bools
    reproject: Reprojection = field(init=False)

    def __post_init__(self) -> None:
        radians = self.radians[self.used]
        wedge = wedge_is_missing(radians, self.data[self.used])
        found = Reprojection(radians, self.data.shape[2], float(self.level.middle[1]), wedge)
        object.__setattr__(self, "reproject", found)

    @property
    def factor(self) -> int:
        return self.level.factors[1]

    @property
    def wedge(self) -> bool:
        """Whether a wedge is missing; see `wedge_is_missing`."""
        return self.reproject.wedge


@dataclass(frozen=True)
class Linearised:
    """The problem at some poses, of the projections that are used.

    Args:
        residual: (A, U, V) aligned projections less their reprojections.
        basis: (P, A, U, V) derivatives by the parameters of the aligned frame, of a pixel of this level or a radian.
        weight: (A, U, V) of the pixels.
    """

    problem: Problem
    residual: Array
    aligned: Array
    basis: Array
    weight: Array

    @property
    def count(self) -> int:
        return len(self.problem.names)

    def changed(self, values: Floats, shared: Floats) -> Array:
        """(A, U, V) change of the aligned projections by (A, P) parameters and the shared ones."""
        own = np.einsum("ap,pauv->auv", values.astype(np.float32), self.basis[: self.count], optimize=True)
        for value, basis in zip(shared, self.basis[self.count :], strict=True):
            own += np.float32(value) * basis
        return np.asarray(own)

    def products(self, image: Array) -> tuple[Floats, Floats]:
        """The derivatives times an image: (A, P), and of the shared parameters."""
        image = image * self.weight
        own = np.einsum("pauv,auv->ap", self.basis[: self.count], image, optimize=True).astype(np.float64)
        return own, np.einsum("pauv,auv->p", self.basis[self.count :], image, optimize=True).astype(np.float64)

    def scales(self) -> tuple[Floats, Floats]:
        """(A, P, P) inverse Cholesky factors of the normal equations of each projection alone, and those of the shared
        parameters: in the units that they make, all parameters change the images by as much."""
        weighted = self.basis * self.weight
        own = np.einsum("pauv,qauv->apq", weighted[: self.count], self.basis[: self.count], optimize=True)
        own = own.astype(np.float64)
        diagonal = np.einsum("app->ap", own)
        own = own + (1e-6 * diagonal + np.maximum(1e-9 * diagonal.max(axis=0), 1e-30))[:, :, None] * np.eye(self.count)
        common = np.einsum("pauv,pauv->p", weighted[self.count :], self.basis[self.count :], optimize=True)
        return np.linalg.inv(np.linalg.cholesky(own)), 1 / np.sqrt(np.maximum(common.astype(np.float64), 1e-30))

    def solve(self, image: Array) -> tuple[Floats, Floats]:
        """The step (A, P) and the shared one after which the aligned projections have changed by `image`, but for what
        (1 - H) leaves out.

        Args:
            image: (A, U, V), of which (1 - H) has been taken.
        """
        own_scale, shared_scale = self.scales()
        size = (len(self.residual), self.count)
        split = size[0] * size[1]

        def scaled(residual: Array) -> Floats:
            own, shared = self.products(residual)
            return np.concatenate([np.einsum("apq,aq->ap", own_scale, own).ravel(), shared * shared_scale])

        def step_of(unknown: Floats) -> tuple[Floats, Floats]:
            own = np.einsum("aqp,aq->ap", own_scale, unknown[:split].reshape(size))
            return own, unknown[split:] * shared_scale

        def apply(unknown: Floats) -> Floats:
            change = self.changed(*step_of(unknown)) * self.weight
            return scaled(change - self.problem.reproject(change))

        right = scaled(image)
        operator = LinearOperator((len(right), len(right)), matvec=apply, dtype=np.float64)
        values, shared = step_of(gmres(operator, right, rtol=_INNER_TOLERANCE, restart=_INNER, maxiter=1)[0])
        return self._ungauged(values), shared

    def _ungauged(self, values: Floats) -> Floats:
        """Without the shifts that only move the volume.

        With a missing wedge, a constant column shift is nearly one of them, and what FBP lacks decides on it rather
        than the projections; so it stays as it was, where centres of mass are known.
        """
        values = values.copy()
        radians = self.problem.radians[self.problem.used]
        if "ty" in self.problem.names:
            values[:, self.problem.names.index("ty")] -= values[:, self.problem.names.index("ty")].mean()
        if "scale" in self.problem.names:
            values[:, self.problem.names.index("scale")] -= values[:, self.problem.names.index("scale")].mean()
        at = self.problem.names.index("tx")
        basis, parts = fitted_waves(values[:, at], radians)
        parts[0] = parts[0] if self.problem.wedge else 0.0
        values[:, at] -= basis @ parts
        return values


def linearised(problem: Problem, poses: Floats) -> Linearised:
    """The problem at the poses (of all projections), about the middle of the detector."""
    images, weight = aligned_images(problem, poses)
    if (weight < 1).any():
        # What is missing is taken from the reprojection, which is then made again.
        images += (1 - weight) * problem.reproject(images)
    seen = problem.reproject(images)
    residual = images - seen
    return Linearised(problem, residual, images, _derivatives(smoothed(seen, _BASIS_SMOOTHING), problem), weight)


def _derivatives(images: Array, problem: Problem) -> Array:
    rows = np.gradient(images, axis=2) if images.shape[2] > 1 else np.zeros_like(images)
    columns = np.gradient(images, axis=1)
    ratio = problem.level.factors[0] / problem.level.factors[1]
    v = (np.arange(images.shape[2], dtype=np.float32) - np.float32(problem.level.middle[0])) * np.float32(ratio)
    u = (np.arange(images.shape[1], dtype=np.float32) - np.float32(problem.level.middle[1]))[:, None]
    rows_here = rows / np.float32(ratio)
    found = {"ty": rows_here, "tx": columns, "theta": u * rows_here - v * columns, "scale": v * rows_here + u * columns}
    return np.stack([found[name] for name in (*problem.names, *problem.shared)])


def aligned_images(problem: Problem, poses: Floats) -> tuple[Array, Array]:
    """(A, U, V) used projections in the aligned frame, smoothed, and the weights of their pixels."""
    data, chosen = problem.data, np.flatnonzero(problem.used)
    matrices = problem.level.binned(poses)[chosen]
    rows, columns = data.shape[1:]
    box = Box.of((rows, columns))
    images = np.empty((len(chosen), columns, rows), np.float32)
    weight = np.ones_like(images)

    def pull(first: int, stop: int) -> None:
        for k in range(first, stop):
            a, matrix = chosen[k], matrices[k]
            values = data[a]
            valid = np.ones_like(values) if problem.valid is None else problem.valid[a].astype(np.float32)
            images[k] = sample(values, box, matrix, box, order=3, edge="clamp").T
            weight[k] = sample(valid, box, matrix, box, order=1, edge="clamp").T

    shares(pull, len(chosen), images.size)
    weight = (weight > 0.999).astype(np.float32)
    shown = _shown(matrices, rows, columns)
    return smoothed(images * weight) * shown, weight * shown


def _shown(matrices: Floats, rows: int, columns: int) -> Array:
    """(A, U, V) one where an aligned pixel is between the first and the last row of the detector, else zero.

    Beside the detector there is background, or what is missing is filled in; along the axis the specimen goes on. A
    slice that many projections do not show is not reconstructed, so that it does not count at all. Both change
    gradually, or the steps would not settle.
    """
    u, v = np.arange(columns)[:, None], np.arange(rows)
    place = matrices[:, 0, 0, None, None] * v + matrices[:, 0, 1, None, None] * u + matrices[:, 0, 2, None, None]
    shown = np.clip(np.minimum(place, rows - 1 - place) + 1, 0, 1).astype(np.float32)
    share = shown.mean(axis=(0, 1))
    often = np.clip((share - _SELDOM) / (_SHOWN - _SELDOM), 0, 1)
    # Shifts that are wrong by that much are of a start, from which the specimen has to be found first.
    return shown * often if 2 * often.sum() >= rows else np.ones_like(shown)


def smoothed(images: Array, sigma: float = SMOOTHING) -> Array:
    """(A, U, V), by a Gaussian filter; a few rows only along the columns."""
    images = gaussian_filter1d(images, sigma, axis=1, mode="nearest")
    if images.shape[2] >= LEAST_ROWS:
        images = gaussian_filter1d(images, sigma, axis=2, mode="nearest")
    return np.ascontiguousarray(images)


def step(problem: Problem, poses: Floats, held: Collection[str] = ()) -> tuple[Floats, bool, Linearised]:
    """One Gauss-Newton step: the poses after it, whether it was so short that it is the last one, and the problem.

    Short: by no more than _SETTLED pixels of the detector, or a tenth of what the residuals leave open.

    Args:
        held: parameters of each projection whose mean does not change.
    """
    at = linearised(problem, poses)
    values, shared = at.solve(-at.residual)
    for k, name in enumerate(problem.names):
        if name in held:
            values[:, k] -= values[:, k].mean()
    own, _ = at.scales()
    noise = float(np.sqrt((at.residual**2).mean(dtype=np.float64))) / SMOOTHED_NOISE
    column = problem.names.index("tx")
    sigma = noise * problem.factor * float(np.median(np.linalg.norm(own[:, :, column], axis=1)))
    last = largest(problem, values, shared) <= max(_SETTLED, _SETTLED_SIGMAS * sigma)
    return moved(problem, poses, values, shared), last, at


def moved(problem: Problem, poses: Floats, values: Floats, shared: Floats) -> Floats:
    """Poses after parameters of the aligned frame, (A used, P) and shared, in pixels of the level, were added."""
    names = (*problem.names, *problem.shared)
    full = np.zeros((len(poses), len(names)))
    full[problem.used, : len(problem.names)] = values
    full[:, len(problem.names) :] = shared
    for k, name in enumerate(names):
        full[:, k] *= problem.factor if name in ("ty", "tx") else 1.0
    return np.asarray(poses @ increments(full, names))


def largest(problem: Problem, values: Floats, shared: Floats) -> float:
    """By how many pixels of the detector a step moves a projection, at most.

    The turn of the axis converges more slowly, and counts at the whole width of the detector.
    """
    columns = problem.data.shape[2]
    reach = np.array([1.0 if name in ("ty", "tx") else columns / 2 for name in problem.names])
    common = float(np.abs(shared).sum()) * columns
    return float((float(np.abs(values * reach).max()) + common) * problem.factor)
