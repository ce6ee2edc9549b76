"""`icp(target, source)`: register one point cloud to another, from any initial pose."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.clouds.cloud import every_nth
from daskreg.clouds.fit import CloudFit, CloudStatus
from daskreg.clouds.global_registration import LEAST_OVERLAP, GlobalPose, find_initial_pose
from daskreg.clouds.icp import IcpOptions, IcpResult, parameter_names, transform_points
from daskreg.clouds.inputs import as_points
from daskreg.clouds.multiresolution import CloudPyramid, build_pyramid, refine_coarse_to_fine
from daskreg.clouds.observability import Observability, chance_rmse, observability
from daskreg.clouds.surface_consistency import ConsistencyLimits, SurfaceConsistency, surface_consistency
from daskreg.errors import (
    DegenerateImageError,
    InvalidTransformError,
    OptionError,
    ShapeMismatchError,
    check_flags,
    check_solver,
    check_whole,
)
from daskreg.geometry import Affine, as_affine
from daskreg.reporting.fit import Fit
from daskreg.reporting.recipe import remembers
from daskreg.runtime.device import resolve
from daskreg.runtime.progress import Progress, shows_progress
from daskreg.runtime.threads import ahead

Floats = NDArray[np.float64]

METHODS = ("auto", "point_to_point", "point_to_plane", "generalized")
INITS = ("auto", "identity", "global")
_LEAST_FITNESS = 0.3
_NOTHING_DETERMINED = (
    "the correspondences determine no motion: give a nearer init, a larger max_distance, or with_scale=False"
)
# Beyond these limits the surfaces do not belong together: for a pose that was an input, and for one that was searched
# for. The best of many wrong poses is more consistent than a single wrong one, so its limits are lower.
_CONSISTENT = ConsistencyLimits(residual_ratio=1.5, conflicts=0.12)
_CONSISTENT_OF_MANY = ConsistencyLimits(residual_ratio=1.25, conflicts=0.06)


@shows_progress("registering points")
@remembers("target", "source")
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
    axes: Sequence[str] | None = None,
    progress: bool | Progress | None = None,
) -> CloudFit:
    """Estimate the motion that brings `source` onto `target` (iterative closest points).

    Args:
        target, source: (N, D) points, D in 2, 3, in any order and number: arrays, tensors, or
            Dask arrays, which are downsampled out of core. The motion acts on the columns in
            their order, which `axes` names. Rows with NaN or infinity are dropped with a warning.
        method: "point_to_point"; "point_to_plane" and "generalized" (plane to plane), which
            use the local shape; "auto": generalized where both clouds are locally surfaces
            (in 2D, curves), else point_to_point.
        init: "identity"; "global": candidate poses in every rotation are compared; "auto":
            both, and a larger motion is taken only if it is clearly better; an Affine (or a fit), of
            which the nearest rotation (with a scale, if that is estimated) is the initial pose.
        max_distance: correspondences further apart never count. None: the limit follows from
            their distances, and shrinks with them.
        trim: share of the source points without a counterpart, 0 to < 1; that many of the worst
            correspondences are left out. None: robust weights (Tukey's).
        with_scale: also estimate one common scale.
        max_iterations: of the last refinement.
        seed: of the random samples of large clouds.
        device: "auto" and "cpu" search a k-d tree; "cuda" compares all pairs on the GPU.
        axes: names of the columns, for what is printed and drawn; None: x, y, z. Points of `points_from` are "zyx",
            in 2D "yx".
        progress: True shows a bar; or called with (steps done, steps): the clouds are made coarser, an initial pose is
            found, it is refined, and it is judged.

    Raises:
        ShapeMismatchError: not (N, D) points with the same D, 2 or 3.
        DegenerateImageError: fewer points than dimensions, all at one place, or so that no motion can be computed.
        OptionError: a keyword's value is not known.
        InvalidTransformError: init mirrors the source, or is of other dimensions.
    """
    check_flags(with_scale=with_scale)
    begun = time.perf_counter()
    fixed, moving = as_points(target, "target"), as_points(source, "source")
    if fixed.shape[1] != moving.shape[1]:
        raise ShapeMismatchError(f"the target is {fixed.shape[1]}D and the source {moving.shape[1]}D")
    _check_options(method, init, max_distance, trim)
    check_solver(max_iterations=max_iterations)
    check_whole("seed", seed)
    report = progress if callable(progress) else _unheard
    columns = _checked_axes(axes, fixed.shape[1])
    with _typed_errors():
        origins = Origins.of(fixed, moving)
        searched = isinstance(init, str) and init != "identity"
        pyramid = build_pyramid(
            fixed - origins.target,
            moving - origins.source,
            origins.local(np.eye(fixed.shape[1] + 1)),
            device="cpu" if device == "auto" else resolve(device),
            seed=seed,
            same_scale=not with_scale,
            one_pose=not searched,
        )
        report(1, 4)
        if method == "auto":
            method = "generalized" if pyramid.surface else "point_to_point"
        options = IcpOptions(method, with_scale, max_distance, trim)
        if searched:
            pose = find_initial_pose(pyramid, options, near=init == "auto")
        else:
            pose = _pose_of(init, pyramid, options, origins)
        report(2, 4)
        if pose.max_distance is not None:
            options = replace(options, max_distance=pose.max_distance)
        result = refine_coarse_to_fine(
            pyramid, pose.matrix, options, max_iterations=max_iterations, refined=pose.refined
        )
        report(3, 4)
        observed, consistency = _assess(pyramid, result, options)
        report(4, 4)
    names = parameter_names(columns, with_scale=with_scale)
    try:
        motion = Affine(origins.world(result.matrix), axes=columns)
    except InvalidTransformError as error:  # with a scale, all points may be drawn to one
        raise DegenerateImageError(_NOTHING_DETERMINED) from error
    return CloudFit(
        target_from_source=motion,
        status=_status(result, observed, consistency, pose, searched=searched),
        rmse=observed.rmse,
        fitness=observed.fitness,
        centre=motion.inverse()(observed.centre + origins.target),
        covariance=observed.covariance,
        covariance_names=names,
        rivals=tuple(Affine(origins.world(m), axes=columns) for m in pose.alternatives),
        free=tuple(_in_words(direction, names) for direction in observed.free),
        method=method,
        iterations=result.iterations,
        seconds=time.perf_counter() - begun,
        _target=fixed,
        _source=moving,
    )


def _unheard(done: int, total: int) -> None:
    """Progress that nobody asked for."""


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except np.linalg.LinAlgError as error:
        raise DegenerateImageError(_NOTHING_DETERMINED) from error


def _checked_axes(axes: Sequence[str] | None, ndim: int) -> tuple[str, ...]:
    names = tuple(axes) if axes is not None else tuple("xyz"[:ndim])
    if sorted(names) != list("xyz"[:ndim]):
        raise OptionError(f"axes={axes!r}: name the {ndim} columns {', '.join('xyz'[:ndim])} in their order")
    return names


def nearest_rigid(matrix: Floats, options: IcpOptions) -> Floats:
    """The matrix with the nearest rotation as its linear part, times the mean scale if a scale is estimated."""
    linear = matrix[:-1, :-1]
    if not np.linalg.det(linear) > 0:
        raise InvalidTransformError("init mirrors, or flattens, the source; a rotation is needed")
    u, values, vt = np.linalg.svd(linear)
    nearest = matrix.copy()
    nearest[:-1, :-1] = u @ vt * (np.mean(values) if options.with_scale else 1.0)
    return nearest


def _check_options(method: str, init: object, max_distance: float | None, trim: float | None) -> None:
    if method not in METHODS:
        raise OptionError(f"method {method!r} is none of {', '.join(METHODS)}")
    if isinstance(init, str) and init not in INITS:
        raise OptionError(f"init {init!r} is none of {', '.join(INITS)}, nor an Affine")
    if max_distance is not None and (not isinstance(max_distance, Real) or not max_distance > 0):
        raise OptionError(f"max_distance must be above zero, not {max_distance!r}")
    if trim is not None and (not isinstance(trim, Real) or not 0 <= trim < 1):
        raise OptionError(f"trim is the share of points without a counterpart, 0 to below 1, not {trim!r}")


@dataclass(frozen=True, eq=False)
class Origins:
    """(D,) median points of the clouds, which become the origins of their coordinates.

    Far from the origin, as on maps, a turn about it moves all points far, and digits are lost.
    """

    target: Floats
    source: Floats

    @classmethod
    def of(cls, target: Floats, source: Floats) -> Origins:
        medians = (np.median(every_nth(points), axis=0) for points in (target, source))
        return cls(*medians)

    def local(self, world: Floats) -> Floats:
        """A motion (D+1, D+1) between world coordinates, as the motion between those about the origins."""
        local = world.copy()
        local[:-1, -1] = transform_points(world, self.source[None])[0] - self.target
        return local

    def world(self, local: Floats) -> Floats:
        """The inverse of `local`."""
        world = local.copy()
        world[:-1, -1] += self.target - local[:-1, :-1] @ self.source
        return world


def _pose_of(
    init: str | Affine | ArrayLike, pyramid: CloudPyramid, options: IcpOptions, origins: Origins
) -> GlobalPose:
    ndim = len(pyramid.identity) - 1
    if isinstance(init, str):
        matrix = pyramid.identity
    else:
        motion = as_affine(init.push if isinstance(init, Fit) else init, ndim, "init")
        matrix = nearest_rigid(origins.local(motion.matrix), options)
    return GlobalPose(matrix, np.zeros((0, ndim + 1, ndim + 1)), given=True)


def _assess(
    pyramid: CloudPyramid, result: IcpResult, options: IcpOptions
) -> tuple[Observability, SurfaceConsistency | None]:
    """What the correspondences determine, and for two samples of a surface their consistency."""
    matrix, (target, source) = result.matrix, pyramid.fine
    consistency = ahead(partial(surface_consistency, *pyramid.middle, matrix)) if pyramid.surface else None
    same = target is pyramid.whole_target and source is pyramid.assessed_source
    observed = observability(
        pyramid.whole_target,
        transform_points(matrix, pyramid.assessed_source.points),
        nearest=(result.distances, result.rows) if same else None,
        surface=pyramid.surface,
        point_to_point=options.method == "point_to_point",
        max_distance=options.max_distance,
        with_scale=options.with_scale,
        even=pyramid.middle[0],
    )
    return observed, consistency() if consistency and observed.across_surface else None


def _status(
    result: IcpResult,
    observed: Observability,
    consistency: SurfaceConsistency | None,
    pose: GlobalPose,
    *,
    searched: bool,
) -> CloudStatus:
    # A limit on distances comes from a search that found more common points than chance brings together.
    least = _LEAST_FITNESS if pose.max_distance is None else LEAST_OVERLAP
    if observed.fitness < least or not np.isfinite(observed.rmse):
        return CloudStatus.LOW_OVERLAP
    # Where surfaces do not belong together, the free motions mean nothing.
    if consistency is not None and not consistency.within(_CONSISTENT):
        return CloudStatus.MISFIT
    if len(observed.free):
        return CloudStatus.UNDETERMINED
    if searched and consistency is not None and not consistency.within(_CONSISTENT_OF_MANY):
        return CloudStatus.MISFIT
    if not observed.across_surface and observed.rmse > chance_rmse(observed.inliers) * observed.spacing:
        return CloudStatus.CHANCE
    if len(pose.alternatives) and not pose.given:
        return CloudStatus.AMBIGUOUS
    return CloudStatus.CONVERGED if result.converged else CloudStatus.UNSETTLED


def _in_words(direction: Floats, names: tuple[str, ...]) -> str:
    """A direction of motion by its larger parts, such as "turn about z" or "+0.80 shift along x, ..."."""
    parts = sorted(zip(np.abs(direction), direction, names, strict=True), reverse=True)
    large = [(value, name) for size, value, name in parts if size > 0.2]
    return large[0][1] if len(large) == 1 else ", ".join(f"{value:+.2f} {name}" for value, name in large)
