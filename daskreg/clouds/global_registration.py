"""The initial pose where none is known: candidates are proposed and compared, and the best are refined.

Candidates of 3D surfaces come from matches of their local shape (`fpfh`). Curves, and clouds that fill a
volume, have no such shape: where the same points were measured in both, neighbours are matched
(`distance_descriptors`). Where this finds nothing good, every rotation is tried (`rotation_search`).
Surfaces are compared by their consistency (`surface_consistency`), other clouds by the distances of correspondences.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from daskreg.clouds.cloud import NEAR, Cloud, Floats, norms
from daskreg.clouds.distance_descriptors import motions_by_distances
from daskreg.clouds.fpfh import motions_by_fpfh
from daskreg.clouds.icp import IcpOptions, IcpResult, count_after_trim, homogeneous, refine, transform_points
from daskreg.clouds.multiresolution import CloudPyramid, refine_on_level
from daskreg.clouds.rotation_search import distinct_poses, robust_centre, search_rotations, symmetric_poses
from daskreg.clouds.surface_consistency import ConsistencyLimits, surface_consistency
from daskreg.clouds.voxel_grid import random_sample

# Points of the source that many candidates are compared with, and candidates of each kind that are refined.
_FEW, _ON_COARSE, _ON_MIDDLE = 200, 6, 4
# Poses by a symmetry that are refined at once.
_FIRST_RIVALS = 3
# A pose within these limits is taken without comparison with others: the near pose, or the best by shape.
_GOOD = ConsistencyLimits(residual_ratio=1.15, conflicts=0.055)
# On the coarse level: a pose within these limits is refined on the next level.
_PROMISING = ConsistencyLimits(residual_ratio=1.5, conflicts=0.15)
# Fewest points of surfaces that descriptors are computed for.
_FEWEST_DESCRIBED = 200
# Share of correspondences left out while candidates are compared, where no trim is given.
_COMPARISON_TRIM = 0.3
_SEARCH_TRIMS = (0.1, 0.35)
# Poses within these factors of the best score, and of the best distance, count as equally good: of these the smallest
# motion is taken.
_EQUAL_SCORE, _EQUAL_DISTANCE = 0.95, 0.9
# Candidates whose score on the coarse level is this much below the best are dropped.
_DROPPED_BELOW = 0.25
# Consistent surfaces with this share of the best pose's inliers are a rival of it.
_RIVAL_INLIERS = 0.65
# Volumes: candidates with more than the best distance divided by this are not refined further.
_WORTH = 0.5
# In spacings: points nearer than the first count as matched; correspondences above the second do not count.
_MATCHED, _LIMIT = 0.35, 0.6
# Least share of the source points that have counterparts.
LEAST_OVERLAP = 0.2
# Volumes of more points are first registered by a sample of so many.
_DENSE, _SPARSE = 50_000, 5000


@dataclass(frozen=True, eq=False)
class GlobalPose:
    """The pose to refine, and what is known of it.

    Attributes:
        matrix: (D+1, D+1), target from source.
        alternatives: (S, D+1, D+1) other poses that are about as good.
        given: whether it was an input, which decides between alternatives.
        refined: whether it was refined on the refinement level.
        max_distance: the limit for correspondences, where it is known which points have counterparts.
    """

    matrix: Floats
    alternatives: Floats
    given: bool = False
    refined: bool = False
    max_distance: float | None = None


def find_initial_pose(pyramid: CloudPyramid, options: IcpOptions, *, near: bool) -> GlobalPose:
    """The best pose where none is an input.

    Args:
        near: try no motion, and aligned centroids, first. What they lead to is taken if it is good and no symmetry of
            the body leads to others, and otherwise if no other candidate is clearly better.
    """
    target, source = pyramid.coarse
    scale = target.radius / source.radius if options.with_scale else 1.0
    starts = np.zeros((0, target.ndim + 1, target.ndim + 1))
    if near:
        shift = robust_centre(target.points) - scale * robust_centre(source.points)
        starts = np.stack([pyramid.identity, homogeneous(scale * np.eye(target.ndim), shift)])
    if not pyramid.surface:
        return _of_volumes(pyramid, options, starts, scale)
    for start in starts[: 0 if options.with_scale else 1]:
        matrix = refine_on_level(pyramid.coarse_with_middle_normals(), start, options, max_iterations=20)
        if surface_consistency(target, source, matrix).within(_PROMISING):
            matrix = refine_on_level(pyramid.refinement, matrix, options)
            if surface_consistency(*pyramid.middle, matrix).within(_GOOD):
                alike = _rivals_by_symmetry(pyramid, matrix, options)
                if not len(alike):
                    return GlobalPose(matrix, starts[:0], refined=True)
                return _best_on_middle(pyramid, matrix[None], alike, options)
    described = target.ndim == 3 and min(len(target), len(source)) >= _FEWEST_DESCRIBED
    found = _candidates_by_shape(target, source, scale) if described else starts[:0]
    if len(found):
        pose = _best_by_consistency(pyramid, found, starts, options)
        if surface_consistency(*pyramid.middle, pose.matrix).within(_GOOD):
            return pose
        starts = np.concatenate([starts, pose.matrix[None], pose.alternatives])
    return _best_by_consistency(pyramid, _candidates_by_rotation(pyramid, options, scale), starts, options)


def _candidates_by_rotation(pyramid: CloudPyramid, options: IcpOptions, scale: float) -> Floats:
    target, source = pyramid.coarse
    trims = _SEARCH_TRIMS if options.trim is None else (options.trim,)
    return search_rotations(target.points, source.points, scale=scale, trims=trims, seed=pyramid.seed)


def _candidates_by_shape(target: Cloud, source: Cloud, scale: float) -> Floats:
    """Candidates, the best first."""
    spacing = max(target.spacing, scale * source.spacing)
    found = motions_by_fpfh(target, source.scaled(scale), spacing)
    if not len(found):
        return found
    found[:, :-1, :-1] *= scale
    scores = near_shares(target, source.subsample(_FEW), found, NEAR * spacing)
    return found[np.argsort(-scores, kind="stable")]


def near_shares(target: Cloud, source: Cloud, matrices: Floats, limit: float) -> Floats:
    """Share of a surface that is near the other one under each of (S, D+1, D+1): 0 to 1.

    A point counts less the further it is from its nearest, nothing beyond `limit`, and as the
    square of the cosine between the normals.
    """
    moved = np.concatenate([transform_points(m, source.points) for m in matrices])
    normals = np.concatenate([source.normals @ m[:-1, :-1].T for m in matrices])
    distances, rows = target.nearest(moved)
    cosines = np.einsum("ij,ij->i", normals, target.normals[rows]) / np.maximum(norms(normals), 1e-300)
    near = np.maximum(0.0, 1 - (distances / limit) ** 2) * cosines**2
    return np.asarray(near.reshape(len(matrices), -1).mean(axis=1))


def _best_by_consistency(pyramid: CloudPyramid, found: Floats, starts: Floats, options: IcpOptions) -> GlobalPose:
    """Refine `starts` and the first distinct ones of `found`; of those about equally good, the smallest motion."""
    few = np.concatenate([starts, distinct_poses(found, pyramid.coarse[0].radius, angle=10.0, shift=0.1)[:_ON_COARSE]])
    tried = _on_coarse(pyramid, few, options, max_iterations=8)
    scores = np.array([surface_consistency(*pyramid.coarse, m).score for m in tried])
    tried = tried[np.argsort(-scores, kind="stable")]
    likely = tried[: np.count_nonzero(scores >= scores.max() - _DROPPED_BELOW)]
    # Candidates need not hold every pose that a symmetric body has.
    return _best_on_middle(pyramid, likely, _rivals_by_symmetry(pyramid, likely[0], options), options)


def _on_coarse(pyramid: CloudPyramid, poses: Floats, options: IcpOptions, *, max_iterations: int) -> Floats:
    refined = [refine_on_level(pyramid.coarse, m, options, max_iterations=max_iterations) for m in poses]
    return np.reshape(refined, poses.shape)


def _rivals_by_symmetry(pyramid: CloudPyramid, pose: Floats, options: IcpOptions) -> Floats:
    """(S, D+1, D+1) other poses that are consistent on the coarse level because the body has a symmetry; best first."""
    target, source = pyramid.coarse
    alike, rivals = symmetric_poses(target.points, source.points, pose, seed=pyramid.seed), list[tuple[float, int]]()
    for first in range(0, len(alike), _FIRST_RIVALS):
        some = slice(first, first + _FIRST_RIVALS)
        alike[some] = _on_coarse(pyramid, alike[some], options, max_iterations=4)
        compared = [surface_consistency(target, source, m) for m in alike[some]]
        rivals += [(c.residual_ratio, first + i) for i, c in enumerate(compared) if c.within(_PROMISING)]
        if not rivals:  # a body without a symmetry; one with nearly equal sides has rivals that only look alike, too
            break
    return alike[[row for _, row in sorted(rivals)]]


def _best_on_middle(pyramid: CloudPyramid, likely: Floats, rivals: Floats, options: IcpOptions) -> GlobalPose:
    """Refine poses of the coarse level; of those about equally good, the smallest motion, with its rivals.

    Args:
        likely, rivals: (S, D+1, D+1), the best first. The first of `likely` is always refined.
    """
    target, middle = pyramid.coarse[0], pyramid.middle
    first = refine_on_level(pyramid.refinement, likely[0], options, max_iterations=15)
    rivals = rivals[:_FIRST_RIVALS]
    poses = np.concatenate([likely[:1], rivals, likely[1:]])
    others = distinct_poses(poses, target.radius, angle=4.0, shift=0.04)[1 : _ON_MIDDLE + len(rivals)]
    best = np.stack([first, *(refine_on_level(pyramid.refinement, m, options, max_iterations=15) for m in others)])
    compared = [surface_consistency(*middle, m) for m in best]
    scores = np.array([c.score for c in compared])
    most = compared[int(np.argmax(scores))].inliers
    equal = scores >= scores.max() - (1 - _EQUAL_SCORE) * abs(scores.max())
    pose = _smallest_motion(best[equal], pyramid)
    # Of a symmetric body that was seen in part, a wrong pose may have more in common, or less, than the true one.
    as_good = np.array([c.within(_GOOD) and c.inliers >= _RIVAL_INLIERS * most for c in compared])
    distinct = distinct_poses(np.concatenate([pose.matrix[None], best[equal | as_good]]), target.radius)
    return replace(pose, alternatives=distinct[1:], refined=True)


def _of_volumes(pyramid: CloudPyramid, options: IcpOptions, starts: Floats, scale: float) -> GlobalPose:
    """For clouds that fill a volume: the candidate with the nearest correspondences."""
    matched = _by_common_points(pyramid, options, starts, scale)
    if matched is not None:
        return matched
    target, source = pyramid.coarse
    few = np.concatenate([starts, _candidates_by_rotation(pyramid, options, scale)])
    trim = _COMPARISON_TRIM if options.trim is None else options.trim
    comparison = IcpOptions(options.method, trim=trim)
    dense = len(target) > _DENSE
    if dense:
        few = np.concatenate([few, _candidates_by_outline(pyramid, options, few)])
    tried = [refine(target, source, m, comparison, max_iterations=20) for m in few]

    def distance(result: IcpResult) -> float:
        """Root mean square of the distances that the trim leaves."""
        count = count_after_trim(trim, len(result.distances), source.ndim)
        return float(np.sqrt(np.mean(np.partition(result.distances, count - 1)[:count] ** 2)))

    # Candidates that would still move to a better pose are no alternatives of it.
    limit = min(map(distance, tried)) / _WORTH
    tried = [
        t if t.converged or distance(t) > limit else refine(target, source, t.matrix, comparison, max_iterations=80)
        for t in tried
    ]
    distances = np.array([distance(t) for t in tried])
    matrices = np.stack([t.matrix for t in tried])
    if dense:  # a sample of the source converges before its points are near their counterparts
        best = int(np.argmin(distances))
        closer = refine(target, pyramid.fine[1], matrices[best], options, max_iterations=80)
        matrices[best], distances[best] = closer.matrix, distance(closer)
    good = matrices[distances * _EQUAL_DISTANCE <= distances.min() + 1e-9 * target.radius]
    return _smallest_motion(good, pyramid)


def _candidates_by_outline(pyramid: CloudPyramid, options: IcpOptions, starts: Floats) -> Floats:
    """(S, D+1, D+1) poses that `starts` lead to, for starts that are further away than the spacing.

    For such starts only the shape of the whole cloud leads to the pose; samples of few points show this shape best.
    """
    target, source = (Cloud(random_sample(points, _SPARSE, pyramid.seed)) for points in pyramid.points)
    sparse = [refine(target, source, m, options, max_iterations=50).matrix for m in starts]
    return np.stack([refine(pyramid.coarse[0], source, m, options, max_iterations=50).matrix for m in sparse])


def _by_common_points(pyramid: CloudPyramid, options: IcpOptions, starts: Floats, scale: float) -> GlobalPose | None:
    """The pose that brings more points to counterparts than chance does, if there is one."""
    target, source = pyramid.coarse
    found = motions_by_distances(target, Cloud(pyramid.points[1]), scale=scale, seed=pyramid.seed)
    if not len(found):
        return None
    near = _MATCHED * target.spacing
    limit = min(options.max_distance or np.inf, _LIMIT * target.spacing)
    sample = source.points[:_FEW]
    moved = np.concatenate([transform_points(m, sample) for m in found])
    distances = target.nearest(moved)[0].reshape(len(found), -1)
    found = found[np.argsort(-np.mean(distances < near, axis=1), kind="stable")]
    few = np.concatenate([starts, distinct_poses(found, target.radius)[:_ON_COARSE]])
    limited = replace(options, max_distance=limit, trim=None)
    tried = [refine(target, source, m, limited, max_iterations=30) for m in few]
    numbers = np.array([np.count_nonzero(t.distances < near) for t in tried])
    # Half of the points of a cloud have a neighbour within the spacing: by chance this share has one within `near`.
    share = 1 - 2.0 ** -(_MATCHED**target.ndim)
    chance = share * len(source) + 5 * np.sqrt(share * len(source)) + target.ndim + 2
    if numbers.max() < max(chance, LEAST_OVERLAP * len(source)):
        return None
    matrices = np.stack([t.matrix for t in tried])
    good = matrices[numbers >= _EQUAL_DISTANCE * numbers.max()]
    return replace(_smallest_motion(good, pyramid), max_distance=limit)


def _smallest_motion(good: Floats, pyramid: CloudPyramid) -> GlobalPose:
    """The smallest motion among the good ones; the distinct others are the alternatives."""
    target, source = pyramid.coarse
    unmoved = transform_points(pyramid.identity, source.points)
    motions = [float(np.mean((transform_points(m, source.points) - unmoved) ** 2)) for m in good]
    first = int(np.argmin(motions))
    distinct = distinct_poses(np.concatenate([good[first : first + 1], np.delete(good, first, axis=0)]), target.radius)
    return GlobalPose(distinct[0], distinct[1:])
