"""`fit_points`: the motion between paired points."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import DegenerateImageError, InputError, OptionError, ShapeMismatchError
from daskreg.geometry import Affine, default_axes
from daskreg.landmarks.certainty import covariance, free_motions, jacobian
from daskreg.landmarks.consensus import Consensus, consensus
from daskreg.landmarks.fit import PointsFit, PointsStatus
from daskreg.landmarks.models import MODELS, Pairs, least_pairs, names_of, residuals
from daskreg.landmarks.outliers import outliers
from daskreg.landmarks.plausible import at_random, mirrored
from daskreg.reporting.recipe import remembers

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Points nearer than this to one place, line or plane, relative to their coordinates, are there but for rounding.
_FLAT = 1e-9


@remembers("fixed", "moving")
def fit_points(
    fixed: ArrayLike,
    moving: ArrayLike,
    model: str = "rigid",
    *,
    weights: ArrayLike | None = None,
    ransac: float | Literal["auto"] | None = None,
    axes: str | None = None,
    unit: str | None = None,
    seed: int = 0,
) -> PointsFit:
    """The motion that brings the fixed points to the moving points of the same rows, by weighted least squares.

    Rotation and scale are those of Kabsch and Umeyama. The result can be the `init` of `register`.

    Args:
        fixed, moving: (N, D) world points of both images, D in 2, 3, in array order (z, y, x) unless `axes` says
            otherwise. `daskreg.landmarks.read_pairs` reads them from files. A pair that is listed twice counts once.
        model: "translation", "rigid", "similarity" or "affine".
        weights: (N,) inverse variances of the pairs up to a factor; 0 leaves a pair out.
        ransac: the largest residual of a right pair, in the points' unit: pairs above it are left out. "auto": the
            limit is estimated, which works while fewer than half of the pairs are wrong. None: all pairs count.
        axes: order of the columns of both, such as "xyz"; by default "zyx", in 2D "yx".
        unit: of the points, such as "um"; None takes that of the images with which the motion is used.
        seed: of the samples of RANSAC and of the test against pairs at random. The same call gives the same result.

    Raises: ShapeMismatchError or InputError for points that are not paired, not finite or not 2D or 3D;
        DegenerateImageError where the moving points have no extent that the model needs; OptionError.
    """
    f, m = (_points(p, name, axes) for p, name in ((fixed, "fixed"), (moving, "moving")))
    if f.shape != m.shape:
        raise ShapeMismatchError(f"points come in pairs, but fixed has shape {f.shape} and moving {m.shape}")
    if model not in MODELS:
        raise OptionError(f"model {model!r} is unknown: use {', '.join(MODELS)}")
    pairs = Pairs(f, m, _weights(weights, len(f)))
    used = np.flatnonzero(pairs.weights > 0)
    used = used[_first_of_equal(pairs.take(used))]
    agreed = _agreed(model, pairs.take(used), ransac, seed)
    rows = used if agreed is None else used[agreed.inliers]
    some = pairs.take(rows)
    _check_extent(model, some)
    motion = Affine(some.motion(model), unit=unit)
    names = names_of(model, pairs.ndim)
    left = residuals(motion.matrix, f, m)
    freedom = len(some) * pairs.ndim - len(names)
    variance = some.misfit(motion.matrix) / freedom if freedom > 0 else np.inf
    centre = np.average(some.fixed, axis=0, weights=some.weights)
    change = jacobian(motion.matrix, names, centre, some.fixed)
    free = free_motions(model, motion(some.fixed), some.weights, variance)
    strange = rows[outliers(model, some, seed=seed)] if agreed is None else used[~agreed.inliers]
    return PointsFit(
        moving_from_fixed=motion,
        status=_status(model, some, motion.matrix, freedom, free=free, strange=strange, agreed=agreed, seed=seed),
        residuals=left,
        inliers=np.isin(np.arange(len(f)), rows),
        outliers=strange,
        rmse=float(np.sqrt((left[rows] ** 2).sum(axis=1).mean())),
        centre=centre,
        covariance=covariance(change, some.weights, variance),
        covariance_names=names,
        free=free,
        model=model,
        limit=None if agreed is None else agreed.limit,
        _fixed=f,
        _moving=m,
    )


def _status(
    model: str,
    pairs: Pairs,
    matrix: Floats,
    freedom: int,
    *,
    free: tuple[str, ...],
    strange: NDArray[np.intp],
    agreed: Consensus | None,
    seed: int,
) -> PointsStatus:
    """What speaks against the motion, the most serious first."""
    if mirrored(model, pairs, matrix, freedom):
        return PointsStatus.MIRRORED
    if at_random(model, pairs, freedom, seed=seed) if agreed is None else agreed.by_chance:
        return PointsStatus.CHANCE
    if free:
        return PointsStatus.UNDETERMINED
    if agreed is None and len(strange):
        return PointsStatus.OUTLIERS
    return PointsStatus.DETERMINED if freedom > 0 else PointsStatus.UNCHECKED


def _agreed(model: str, pairs: Pairs, ransac: float | str | None, seed: int) -> Consensus | None:
    """The consensus of the pairs; None without RANSAC, or where no pair is to spare."""
    if ransac is None:
        return None
    if ransac != "auto" and not (isinstance(ransac, int | float) and np.isfinite(ransac) and ransac > 0):
        raise OptionError(f"ransac must be a distance above 0, 'auto' or None, not {ransac!r}")
    if len(pairs) <= least_pairs(model, pairs.ndim):
        return None
    return consensus(model, pairs, None if ransac == "auto" else float(ransac), seed=seed)


def _check_extent(model: str, pairs: Pairs) -> None:
    """Raise DegenerateImageError where a motion would squeeze the fixed points onto fewer dimensions."""
    if model not in ("similarity", "affine"):
        return
    fixed, moving = (np.linalg.svd(p - p.mean(axis=0), compute_uv=False) for p in (pairs.fixed, pairs.moving))
    least = _FLAT * float(np.abs(pairs.moving).max())
    needed = slice(0, 1) if model == "similarity" else slice(None)
    if np.any((fixed[needed] > _FLAT * np.abs(pairs.fixed).max()) & (moving[needed] <= least)):
        raise DegenerateImageError(
            f"the moving points are at one place, on a line or in a plane: no {model} motion brings the others there"
        )


def _points(value: ArrayLike, name: str, axes: str | None) -> Floats:
    """(N, D) finite points in array order."""
    try:
        points = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of points (N, 2) or (N, 3), not {type(value).__name__}") from error
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise ShapeMismatchError(f"{name} points of shape (N, 2) or (N, 3) are needed, not {points.shape}")
    if not len(points):
        raise InputError(f"{name} has no points")
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        rows = ", ".join(map(str, bad[:8].tolist()))
        raise InputError(f"{name} points {rows} are not finite: leave these pairs out")
    order = default_axes(points.shape[1])
    given = order if axes is None else tuple(axes)
    if sorted(given) != sorted(order):
        raise OptionError(
            f"axes must name the columns, as {''.join(order)!r} or {''.join(order[::-1])!r}, not {axes!r}"
        )
    return np.ascontiguousarray(points[:, [given.index(axis) for axis in order]])


def _weights(value: ArrayLike | None, count: int) -> Floats:
    if value is None:
        return np.ones(count)
    weights = np.asarray(value, dtype=np.float64)
    if weights.shape != (count,):
        raise ShapeMismatchError(f"weights of shape ({count},) are needed, one for each pair, not {weights.shape}")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise OptionError("weights must be finite, not negative, and not all zero")
    return weights


def _first_of_equal(pairs: Pairs) -> Bools:
    """Rows whose pair is not that of an earlier row: the same pair twice is one measurement."""
    first = np.zeros(len(pairs), dtype=bool)
    first[np.unique(np.hstack([pairs.fixed, pairs.moving]), axis=0, return_index=True)[1]] = True
    return first
