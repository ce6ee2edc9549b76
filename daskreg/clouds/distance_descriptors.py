"""Candidate motions from distances between neighbours, for clouds in which the same points were measured.

A descriptor of a point holds the six distances among it and three of its neighbours, which no rotation changes (beads
are matched in this way in microscopy: Preibisch et al., 2010). Each point is described with every three of its nearest
few, so that a neighbour that is missing, or does not belong there, spoils some descriptors, not all. Groups of matches
that preserve each other's distances give the motions (`consensus`). This registers clouds that share only a part, or
that have more outliers than inliers; aligning centroids does not help there. Any number of dimensions.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from daskreg.clouds.cloud import Cloud, Floats, Ints
from daskreg.clouds.consensus import consensus
from daskreg.clouds.icp import fit_rigid
from daskreg.runtime.threads import pool_threads

# Points of the source that are described, and matches that are compared.
_DESCRIBED, _MATCHES = 1000, 800
# (points, nearest neighbours of which threes are taken): fewer in larger clouds, where it would take long.
_NEIGHBOURS = ((20_000, 5), (100_000, 4), (np.inf, 3))
# In spacings: matches agree where distances differ by less than the first; distances below the second say nothing.
_LENGTHS, _LEAST_LENGTH = 0.35, 1.0


def motions_by_distances(target: Cloud, source: Cloud, *, scale: float = 1.0, seed: int = 0) -> Floats:
    """(S, D+1, D+1) motions, target from source, each fitted to a group of matches that agree.

    Args:
        target, source: all points that were measured: downsampling removes the neighbours of points.
        scale: of the motions.
        seed: of the sample of a large source that is described.
    """
    ndim, largest = target.ndim, max(len(target), len(source))
    neighbours = next(k for most, k in _NEIGHBOURS if largest <= most)
    neighbours = min(neighbours, len(target) - 1, len(source) - 1)
    if neighbours < 3:
        return np.zeros((0, ndim + 1, ndim + 1))
    sample = np.random.default_rng(seed).permutation(len(source))[:_DESCRIBED]
    target_descriptors, target_rows = describe(target, np.arange(len(target)), neighbours)
    source_descriptors, source_rows = describe(source, sample, neighbours)
    # SciPy's tree: ours has 2 or 3 dimensions, descriptors have six.
    tree = cKDTree(target_descriptors)
    answer: tuple[Any, Any] = tree.query(scale * source_descriptors, 2, workers=pool_threads())
    distances, found = answer
    # Matches whose second best is much worse come first; of those of the same two points one is used.
    order = np.argsort(distances[:, 0] / np.maximum(distances[:, 1], 1e-300), kind="stable")
    pairs = np.stack([target_rows[found[order, 0]], source_rows[order]], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    pairs = pairs[np.sort(first)][:_MATCHES]
    p, q = target.points[pairs[:, 0]], scale * source.points[pairs[:, 1]]
    spacing = max(target.spacing, scale * source.spacing)
    between_p, between_q = _distance_matrix(p), _distance_matrix(q)
    compatible = np.abs(between_p - between_q) < _LENGTHS * spacing
    compatible &= np.minimum(between_p, between_q) > _LEAST_LENGTH * spacing
    groups, weights = consensus(compatible.astype(np.float32), least=ndim + 2)
    matrices = fit_rigid(p[groups], q[groups], weights)
    matrices[:, :-1, :-1] *= scale
    return matrices


def describe(cloud: Cloud, rows: Ints, neighbours: int) -> tuple[Floats, Ints]:
    """(K, 6) distances among a point and three of its neighbours, nearer ones first, and (K,) the row of the point."""
    _, near = cloud.tree.query(cloud.points[rows], neighbours + 1)
    threes = np.array(list(combinations(range(1, neighbours + 1), 3)))
    four = np.concatenate([np.zeros((len(threes), 1), dtype=np.int64), threes], axis=1)
    corners = cloud.points[near[:, four]].reshape(-1, 4, cloud.ndim)
    pairs = list(combinations(range(4), 2))
    sides = np.stack([np.linalg.norm(corners[:, a] - corners[:, b], axis=1) for a, b in pairs], axis=1)
    return sides, np.repeat(rows, len(threes))


def _distance_matrix(points: Floats) -> Floats:
    return np.asarray(np.linalg.norm(points[:, None] - points[None], axis=-1))
