"""`icp(target, source)`: bring one point cloud onto another, from any starting pose."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.clouds.cloud import some_of
from daskreg.clouds.global_registration import PARTNERS, Start, find
from daskreg.clouds.icp import Matched, Options, apply, parameter_names
from daskreg.clouds.inputs import as_points
from daskreg.clouds.multiresolution import Levels, descend
from daskreg.clouds.observability import Evidence, by_chance, judge
from daskreg.clouds.surface_consistency import Agreement, agreement
from daskreg.errors import InvalidTransformError, OptionError, ShapeMismatchError
from daskreg.geometry import Affine, as_affine
from daskreg.reporting.fit import Fit
from daskreg.runtime.device import resolve
from daskreg.runtime.threads import ahead

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

METHODS = ("auto", "point_to_point", "point_to_plane", "generalized")
STARTS = ("auto", "identity", "global")
_LEAST_FITNESS = 0.3
# Beyond these the surfaces of a pose do not belong together: of one that was given, and of one that was searched
# for, of which the best of many wrong ones is snugger than a wrong one that was given.
_SNUG = {"strain": 1.5, "conflicts": 0.12}
_SNUG_OF_MANY = {"strain": 1.25, "conflicts": 0.06}


class CloudStatus(Enum):
    """How an ICP ended; the value says what to do."""

    CONVERGED = "the pairs settled and hold the motion in every direction"
    UNSETTLED = "points still moved when the iterations ran out: raise max_iterations, or give a nearer init"
    UNDETERMINED = (
        "the shape leaves a motion free (fit.free names it; a line, plane, cylinder or sphere does): "
        "add points with more structure, or take only the motion that is determined"
    )
    CHANCE = (
        "the nearest points are as far apart as in clouds that have nothing to do with each other: "
        "use init='global', or clouds in which the same points were measured"
    )
    MISFIT = (
        "the surfaces cross, or stick out where the other one goes on, as in a pose that only happens to be snug: "
        "use init='global', give a pose near enough, or cut the clouds to what they share"
    )
    AMBIGUOUS = (
        "another pose fits about as well (fit.rivals), and none was given to choose by: give an init, "
        "or clouds that show what breaks the symmetry"
    )
    LOW_OVERLAP = (
        "few source points have a target point near them: raise max_distance, use init='global', "
        "or cut the clouds to what they share"
    )


@dataclass(frozen=True, eq=False, repr=False)
class CloudFit(Fit):
    """The result of `icp`.

    Attributes:
        target_from_source: the motion, `fit.target_from_source(source)` lies on the target;
            it acts on the columns of the points in their order.
        status: how it ended; `ok` is whether to trust it.
        rmse: root mean square distance of the inliers to their nearest target points.
        fitness: share of the source points that are inliers: within `max_distance`, or,
            where none was given, within what the search found partners to be within, or within
            five times the lower quartile of all distances.
        covariance: (P, P) of `covariance_names`: turns (radians) about the centroid of the
            inliers, shifts, and the logarithm of the scale if it was asked for.
        rivals: other poses that fit about as well, where poses were searched for: those that
            competed in the end, so that a body of many symmetries has more than are listed.
        free: motions that the clouds do not determine, in words.
        method, iterations, seconds: what was run, for how long.
    """

    kind: ClassVar[str] = "cloud"
    target_from_source: Affine
    status: CloudStatus
    rmse: float
    fitness: float
    covariance: Floats
    covariance_names: tuple[str, ...]
    rivals: tuple[Affine, ...]
    free: tuple[str, ...]
    method: str
    iterations: int
    seconds: float
    _target: Floats = field(repr=False)
    _source: Floats = field(repr=False)

    @property
    def ok(self) -> bool:
        return self.status is CloudStatus.CONVERGED

    @property
    def scale(self) -> float:
        """The common scale, 1 unless `with_scale` was asked for."""
        linear = self.target_from_source.linear
        return float(np.linalg.det(linear) ** (1 / len(linear)))

    @property
    def rotation(self) -> Floats:
        """(D, D) proper rotation."""
        return np.asarray(self.target_from_source.linear / self.scale)

    @property
    def translation(self) -> Floats:
        """(D,) such that target = scale * rotation @ source + translation."""
        return np.asarray(self.target_from_source.offset)

    @property
    def transform(self) -> Affine:
        return self.target_from_source

    @property
    def pull(self) -> Affine:
        return self.target_from_source.inverse()

    def facts(self) -> dict[str, Any]:
        hidden = ("target_from_source",)
        names = [f.name for f in fields(self) if not f.name.startswith("_") and f.name not in hidden]
        return {name: getattr(self, name) for name in names}

    def plot(self) -> Figure:
        """Both clouds before and after, and the distances that are left."""
        from daskreg.reporting import plots

        return plots.cloud(self, self._target, self._source)

    def __repr__(self) -> str:
        ending = "" if self.ok else f"\n  {self.status.value}" + "".join(f"\n  free: {f}" for f in self.free)
        return (
            f"CloudFit({self.status.name.lower()}: rmse {self.rmse:.4g}, fitness {self.fitness:.0%}, {self.method}, "
            f"{self.iterations} iterations, {self.seconds:.2g} s\n  {self.target_from_source.describe()}{ending})"
        )


def icp(
    target: ArrayLike,
    source: ArrayLike,
    *,
    method: str = "auto",
    init: str | Affine | ArrayLike = "auto",
    max_distance: float | None = None,
    trim: float | None = None,
    with_scale: bool = False,
    max_iterations: int = 100,
    seed: int = 0,
    device: str = "auto",
) -> CloudFit:
    """Find the motion that brings `source` onto `target` (iterative closest points).

    Args:
        target, source: (N, D) points, D in 2, 3, in any order and number: arrays, tensors, or
            Dask arrays, which are thinned out of core. Columns are coordinates in the order given, and
            the motion acts on them in that order. Rows with NaN or infinity are dropped with a warning.
        method: "point_to_point"; "point_to_plane" and "generalized" (plane to plane), which
            use the local shape; "auto": generalized where both clouds are locally surfaces
            (in 2D, curves), else point_to_point.
        init: "identity"; "global": every rotation is tried from aligned centroids; "auto":
            both, and a motion further from identity must win clearly; an Affine (or a fit), of
            which the nearest rotation (with a scale, if that is fitted) is where it starts.
        max_distance: pairs further apart never count. None: the limit follows the pairs,
            and shrinks with their distances.
        trim: share of the source points without a partner, 0 to < 1; that many of the worst
            pairs are left out. None: a robust weight (Tukey's) decides.
        with_scale: also fit one common scale.
        max_iterations: of the last refinement.
        seed: of the random subsets that large clouds are thinned to.
        device: "auto" and "cpu" search a k-d tree; "cuda" compares all pairs on the GPU.

    Raises:
        ShapeMismatchError: not (N, D) points with the same D, 2 or 3.
        DegenerateImageError: fewer points than dimensions, or all at one place.
        OptionError: a keyword's value is not known.
        InvalidTransformError: init mirrors the source, or is of other dimensions.
    """
    begun = time.perf_counter()
    fixed, moving = as_points(target, "target"), as_points(source, "source")
    if fixed.shape[1] != moving.shape[1]:
        raise ShapeMismatchError(f"the target is {fixed.shape[1]}D and the source {moving.shape[1]}D")
    _check_options(method, init, max_distance, trim, max_iterations)
    where = "cpu" if device == "auto" else resolve(device)
    # Far from the origin, as maps are, a turn about it moves everything, and digits are lost.
    frames = Frames.of(fixed, moving)
    local = frames.target_from_source(np.eye(fixed.shape[1] + 1))
    searched = isinstance(init, str) and init != "identity"
    pair = fixed - frames.target, moving - frames.source
    levels = Levels(*pair, local, where, seed, alike=not with_scale, given=not searched)
    if method == "auto":
        method = "generalized" if levels.surface else "point_to_point"
    options = Options(method, with_scale, max_distance, trim)
    start = find(levels, options, near=init == "auto") if searched else _given(levels, init, options, frames)
    if start.limit is not None:
        options = replace(options, max_distance=start.limit)
    found = descend(levels, start.matrix, options, max_iterations=max_iterations, refined=start.refined)
    evidence, agreed = _judged(levels, found, options)
    names = parameter_names(fixed.shape[1], with_scale=with_scale)
    return CloudFit(
        target_from_source=Affine(frames.world(found.matrix)),
        status=_status(found, evidence, agreed, start, searched=searched),
        rmse=evidence.rmse,
        fitness=evidence.fitness,
        covariance=evidence.covariance,
        covariance_names=names,
        rivals=tuple(Affine(frames.world(m)) for m in start.rivals),
        free=tuple(_in_words(direction, names) for direction in evidence.free),
        method=method,
        iterations=found.iterations,
        seconds=time.perf_counter() - begun,
        _target=fixed,
        _source=moving,
    )


def similar(matrix: Floats, options: Options) -> Floats:
    """The rotation, and the common scale if it is fitted, nearest to the linear part of a start."""
    linear = matrix[:-1, :-1]
    if not np.linalg.det(linear) > 0:
        raise InvalidTransformError("init mirrors, or flattens, the source; a rotation is needed")
    u, values, vt = np.linalg.svd(linear)
    nearest = matrix.copy()
    nearest[:-1, :-1] = u @ vt * (np.mean(values) if options.with_scale else 1.0)
    return nearest


def _check_options(
    method: str, init: object, max_distance: float | None, trim: float | None, max_iterations: int
) -> None:
    if method not in METHODS:
        raise OptionError(f"method {method!r} is none of {', '.join(METHODS)}")
    if isinstance(init, str) and init not in STARTS:
        raise OptionError(f"init {init!r} is none of {', '.join(STARTS)}, nor an Affine")
    if max_distance is not None and (not isinstance(max_distance, Real) or not max_distance > 0):
        raise OptionError(f"max_distance must be above zero, not {max_distance!r}")
    if trim is not None and (not isinstance(trim, Real) or not 0 <= trim < 1):
        raise OptionError(f"trim is the share of points without a partner, 0 to below 1, not {trim!r}")
    if max_iterations < 0:
        raise OptionError(f"max_iterations must not be negative, not {max_iterations}")


@dataclass(frozen=True, eq=False)
class Frames:
    """Where the clouds are: (D,) middles that become their origins."""

    target: Floats
    source: Floats

    @classmethod
    def of(cls, target: Floats, source: Floats) -> Frames:
        middles = (np.median(some_of(points), axis=0) for points in (target, source))
        return cls(*middles)

    def target_from_source(self, world: Floats) -> Floats:
        """What a motion (D+1, D+1) is between the origins."""
        local = world.copy()
        local[:-1, -1] = apply(world, self.source[None])[0] - self.target
        return local

    def world(self, local: Floats) -> Floats:
        world = local.copy()
        world[:-1, -1] += self.target - local[:-1, :-1] @ self.source
        return world


def _given(levels: Levels, init: str | Affine | ArrayLike, options: Options, frames: Frames) -> Start:
    ndim = levels.target.shape[1]
    if isinstance(init, str):
        matrix = levels.unmoved
    else:
        matrix = similar(frames.target_from_source(as_affine(init, ndim, "init").matrix), options)
    return Start(matrix, np.zeros((0, ndim + 1, ndim + 1)), near=True)


def _judged(levels: Levels, found: Matched, options: Options) -> tuple[Evidence, Agreement | None]:
    """What the pairs say, and where they are two samples of a surface, how these agree."""
    match = ahead(partial(agreement, *levels.middle, found.matrix)) if levels.surface else None
    asked = levels.fine[0] is levels.measured and levels.fine[1] is levels.judged
    evidence = judge(
        levels.measured,
        apply(found.matrix, levels.judged.points),
        nearest=(found.distances, found.indices) if asked else None,
        surface=levels.surface,
        pointwise=options.method == "point_to_point",
        max_distance=options.max_distance,
        with_scale=options.with_scale,
    )
    return evidence, match() if match and evidence.surface else None


def _status(
    found: Matched, evidence: Evidence, match: Agreement | None, start: Start, *, searched: bool
) -> CloudStatus:
    least = _LEAST_FITNESS if start.limit is None else PARTNERS  # more than chance brings together
    if evidence.fitness < least or not np.isfinite(evidence.rmse):
        return CloudStatus.LOW_OVERLAP
    # Of surfaces that do not belong together, the free motions mean nothing.
    if match is not None and not match.within(**_SNUG):
        return CloudStatus.MISFIT
    if len(evidence.free):
        return CloudStatus.UNDETERMINED
    if searched and match is not None and not match.within(**_SNUG_OF_MANY):
        return CloudStatus.MISFIT
    if not evidence.surface and evidence.rmse > by_chance(evidence.pairs) * evidence.spacing:
        return CloudStatus.CHANCE
    if len(start.rivals) and not start.near:
        return CloudStatus.AMBIGUOUS
    return CloudStatus.CONVERGED if found.settled else CloudStatus.UNSETTLED


def _in_words(direction: Floats, names: tuple[str, ...]) -> str:
    """A direction of motion by its larger parts, such as "turn about 2" or "0.8 shift along 0, ..."."""
    parts = sorted(zip(np.abs(direction), direction, names, strict=True), reverse=True)
    told = [(value, name) for size, value, name in parts if size > 0.1]
    return told[0][1] if len(told) == 1 else ", ".join(f"{value:+.2f} {name}" for value, name in told)
