"""Two clouds at several resolutions, and the refinement of a pose from the coarse level to the fine one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from daskreg.clouds.cloud import Cloud, Floats, without_far_points
from daskreg.clouds.icp import IcpOptions, IcpResult, refine
from daskreg.clouds.outlier_removal import remove_outliers
from daskreg.clouds.voxel_grid import (
    SURFACE_TEST_POINTS,
    is_surface,
    random_sample,
    voxel_downsample,
    voxel_size_for,
)
from daskreg.runtime.threads import ahead, pool_threads, spread

CloudPair = tuple[Cloud, Cloud]

# Points of a surface on the middle and the fine level.
_MIDDLE, _FINE = 6000, 20_000
# Surfaces of up to so many points have no level between the coarse and the fine one, where one pose is refined.
_NO_MIDDLE = 12_000
# Source points of clouds that fill a volume, on the coarse and the fine level.
_VOLUME_COARSE, _VOLUME_FINE = 1000, 50_000
# Points further out, in median distances from the median point, are outliers.
_FAR = 20.0
# Noise above this many spacings hides the details that finer sampling would show.
_NOISY = 0.52
# Points in a neighbourhood on the fine level, and on the middle one, where noise is smoothed.
_NEIGHBOURS_FINE, _NEIGHBOURS_MIDDLE = 14, 20
# Fewest points of a surface after outliers were removed.
_FEWEST = 100


@dataclass(frozen=True, eq=False)
class CloudPyramid:
    """Two clouds at several resolutions; pairs are (target, source).

    Surfaces (in 2D, curves) are downsampled by voxels of one size. Of clouds that fill a volume only rows of the source
    are left out: a point has its counterpart in the target or none, and means of voxels have none.

    Attributes:
        points: (N, D) and (M, D), all points of both.
        identity: (D+1, D+1), the matrix of no motion: the origins of the two clouds differ.
        seed: of random samples.
        surface: whether both clouds are surfaces.
        coarse: where candidate poses are tried first.
        middle: where surfaces are compared, and candidates of volumes.
        refinement: where candidates are refined: the middle level, or the fine one where noise would slow this down.
        fine: where the last refinement is done, no finer than noise allows to see details.
        whole_target: the target without downsampling.
        assessed_source: points of the source that the result is assessed by, as they were measured, downsampled.
    """

    points: tuple[Floats, Floats]
    identity: Floats
    seed: int
    surface: bool
    coarse: CloudPair
    middle: CloudPair
    refinement: CloudPair
    fine: CloudPair
    whole_target: Cloud
    assessed_source: Cloud

    def coarse_with_middle_normals(self) -> CloudPair:
        """The coarse clouds with normals of the middle ones."""
        (target, source), (target_middle, source_middle) = self.coarse, self.middle
        return target.with_normals_of(target_middle), source.with_normals_of(source_middle)


def build_pyramid(
    target: Floats,
    source: Floats,
    identity: Floats,
    *,
    device: str = "cpu",
    seed: int = 0,
    same_scale: bool = True,
    one_pose: bool = False,
) -> CloudPyramid:
    """The levels of a target (N, D) and a source (M, D).

    Args:
        identity: (D+1, D+1), see `CloudPyramid`.
        device: of the clouds.
        same_scale: whether one size of voxels does for both clouds.
        one_pose: whether one pose is refined, and not many candidates are compared.
    """
    sampling = _Sampling(device, same_scale, _NO_MIDDLE if one_pose else _MIDDLE)
    levels = _surface_levels(target, source, sampling)
    if levels is None:
        coarse = Cloud(target, device), Cloud(random_sample(source, _VOLUME_COARSE, seed))
        fine = coarse[0], Cloud(random_sample(source, _VOLUME_FINE, seed))
        return CloudPyramid((target, source), identity, seed, False, coarse, coarse, coarse, fine, fine[0], fine[1])
    fine, refinement = levels.dense, levels.middle
    if _is_noisy(levels.middle):
        smooth = levels.middle[0].moved_onto_planes(), levels.middle[1].moved_onto_planes()
        fine = refinement = smooth
    whole = levels.whole[0] if len(levels.whole[0]) == len(target) else Cloud(target, device)
    return CloudPyramid(
        (target, source),
        identity,
        seed,
        True,
        levels.coarse,
        levels.middle,
        refinement,
        fine,
        whole,
        levels.middle[1],
    )


@dataclass(frozen=True)
class _Sampling:
    """How surfaces are downsampled: `build_pyramid`'s arguments, and the most points without a middle level."""

    device: str
    same_scale: bool
    no_middle: int


@dataclass(frozen=True, eq=False)
class _SurfaceLevels:
    """The pairs of two surfaces, without far points, each downsampled from the one before."""

    whole: CloudPair
    dense: CloudPair
    middle: CloudPair
    coarse: CloudPair


def _surface_levels(target: Floats, source: Floats, sampling: _Sampling) -> _SurfaceLevels | None:
    """The levels of two surfaces, where needed without the outliers around them; None: they are no surfaces."""
    levels = _downsampled_levels(target, source, sampling)
    flat = spread(pool_threads(), is_surface, levels.coarse)
    if all(flat):
        return levels
    clean = [c.points if f else remove_outliers(c.points) for c, f in zip(levels.whole, flat, strict=True)]
    if min(map(len, clean)) >= _FEWEST:
        cleaned = _downsampled_levels(clean[0], clean[1], sampling)
        if all(is_surface(cloud) for cloud in cleaned.coarse):
            return cleaned
    # Walls may be thinner than the coarse spacing.
    closely = partial(is_surface, closely=True)
    return levels if all(spread(pool_threads(), closely, levels.middle)) else None


def _downsampled_levels(target: Floats, source: Floats, sampling: _Sampling) -> _SurfaceLevels:
    def inner(points: Floats) -> Cloud:
        # A far point would be a voxel of its own, and the extent that voxel sizes are searched from.
        inside = without_far_points(points, limit=_FAR)
        neighbours = _NEIGHBOURS_FINE if len(inside) > sampling.no_middle else 0
        cloud = Cloud(inside, sampling.device, neighbours=neighbours)
        return cloud.in_leaf_order() if len(cloud) <= _FINE else cloud

    whole = _pair(spread(pool_threads(), inner, (target, source)))
    dense = _downsample_pair(whole, _FINE, sampling, neighbours=_NEIGHBOURS_FINE)
    middle = dense
    if max(map(len, dense)) > sampling.no_middle:
        middle = _downsample_pair(dense, _MIDDLE, sampling, neighbours=_NEIGHBOURS_MIDDLE)
    return _SurfaceLevels(whole, dense, middle, _downsample_pair(middle, SURFACE_TEST_POINTS, sampling))


def _downsample_pair(clouds: CloudPair, count: int, sampling: _Sampling, *, neighbours: int = 0) -> CloudPair:
    """Both clouds by voxels that leave about `count` points; unchanged where neither has more."""
    if max(map(len, clouds)) <= count:
        return clouds
    found = spread(pool_threads(), lambda cloud: voxel_size_for(cloud, min(count, len(cloud))), clouds)
    sizes = [size for size, _ in found]
    if sampling.same_scale:
        sizes = [float(np.sqrt(sizes[0] * sizes[1]))] * 2

    def part(of: tuple[Cloud, tuple[float, Cloud], float]) -> Cloud:
        # The substitute for a cloud is good for voxels from the size that it was found for.
        cloud, (own, substitute), size = of
        return voxel_downsample(substitute if size >= own else cloud, size, neighbours=neighbours).in_leaf_order()

    return _pair(spread(pool_threads(), part, zip(clouds, found, sizes, strict=True)))


def _pair(clouds: Sequence[Cloud]) -> CloudPair:
    target, source = clouds
    return target, source


def _is_noisy(clouds: CloudPair) -> bool:
    return min(cloud.roughness / (cloud.spacing or 1.0) for cloud in clouds) > _NOISY


def refine_coarse_to_fine(
    pyramid: CloudPyramid, initial: Floats, options: IcpOptions, *, max_iterations: int, refined: bool = False
) -> IcpResult:
    """Refine the pose `initial` (D+1, D+1) on each level, and last on the fine one.

    Args:
        max_iterations: on the fine level; at most 30 on the others.
        refined: whether `initial` was refined on the refinement level already.
    """
    matrix = initial
    if pyramid.surface and not refined:
        # Meanwhile another thread computes normals of the fine level, which takes longer than the coarse levels.
        target, source = pyramid.fine
        target_normals = ahead(partial(getattr, target, "normals"))
        # Steps below the error of a level (`least_gain`) are left to the next one, which is more exact.
        level = partial(refine_on_level, options=options, max_iterations=max_iterations, least_gain=4.0)
        matrix = level(pyramid.coarse_with_middle_normals(), matrix)
        if pyramid.fine is not pyramid.refinement:
            matrix = level(pyramid.refinement, matrix)
        source.normals  # noqa: B018 (computed by this thread, and by the other once it is free)
        target_normals()
    tree = ahead(partial(getattr, pyramid.whole_target, "tree"))
    result = refine(*pyramid.fine, matrix, options, max_iterations=max_iterations)
    tree()
    return result


def refine_on_level(
    clouds: CloudPair, initial: Floats, options: IcpOptions, *, max_iterations: int = 30, least_gain: float = 0.1
) -> Floats:
    """The pose (D+1, D+1) after refinement on a level before the last one."""
    wide = options.reaching(2 * clouds[0].spacing)
    iterations = min(30, max_iterations)
    return refine(*clouds, initial, wide, max_iterations=iterations, tolerance=3e-4, least_gain=least_gain).matrix
