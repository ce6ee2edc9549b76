"""Motions proposed by constellations: for clouds of which the same points were measured twice.

A point with three of its neighbours is told by the six distances among the four, which no rotation
changes (as beads are matched in microscopy: Preibisch et al., 2010). Each point is described with every three of
its nearest few, so that one that is missing, or does not belong there, spoils some descriptors, not
all. Matches that preserve each other's distances vote, as those of surfaces do (`icp_features`). So
clouds are found that share a part only, or hold more strangers than partners, which
moving their middles together does not help. Any number of dimensions.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from daskreg.clouds.cloud import Cloud, Floats, Ints
from daskreg.clouds.fpfh import consensus
from daskreg.clouds.icp import closest_rigid
from daskreg.runtime.threads import pool_threads

# Points of the source that are described, and matches that vote.
_ASKED, _MATCHES = 1000, 800
# Nearest points of which threes are taken: fewer where there are so many points that it would take long.
_AROUND = ((20_000, 5), (100_000, 4), (np.inf, 3))
# A true pair of matches preserves distances to this share of the spacing, and is further apart than that.
_LENGTHS, _APART = 0.35, 1.0


def constellations(target: Cloud, source: Cloud, *, scale: float = 1.0, seed: int = 0) -> Floats:
    """(S, D+1, D+1) motions, target from source, each solved from matches that support each other.

    Args:
        target, source: with all the points that were measured: thinning leaves points without their neighbours.
        scale: of the motions.
        seed: of the points of a large source that are described.
    """
    ndim = target.ndim
    around = min(
        next(k for most, k in _AROUND if max(len(target), len(source)) <= most), len(target) - 1, len(source) - 1
    )
    if around < 3:
        return np.zeros((0, ndim + 1, ndim + 1))
    rows = np.random.default_rng(seed).permutation(len(source))[:_ASKED]
    known, owners = _described(target, np.arange(len(target)), around)
    asked, askers = _described(source, rows, around)
    answer: tuple[Any, Any] = cKDTree(known).query(scale * asked, 2, workers=pool_threads())
    distances, found = answer
    order = np.argsort(distances[:, 0] / np.maximum(distances[:, 1], 1e-300), kind="stable")
    pairs = np.stack([owners[found[order, 0]], askers[order]], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    pairs = pairs[np.sort(first)][:_MATCHES]
    p, q = target.points[pairs[:, 0]], scale * source.points[pairs[:, 1]]
    spacing = max(target.spacing, scale * source.spacing)
    between_p, between_q = _between(p), _between(q)
    support = np.abs(between_p - between_q) < _LENGTHS * spacing
    support &= np.minimum(between_p, between_q) > _APART * spacing
    best, weights = consensus(support.astype(np.float32), least=ndim + 2)
    matrices = closest_rigid(p[best], q[best], weights)
    matrices[:, :-1, :-1] *= scale
    return matrices


def _described(cloud: Cloud, rows: Ints, around: int) -> tuple[Floats, Ints]:
    """(K, 6) distances among a point and three of its neighbours, the nearer first, and (K,) its row."""
    _, near = cloud.tree.query(cloud.points[rows], around + 1)
    threes = np.array(list(combinations(range(1, around + 1), 3)))
    four = np.concatenate([np.zeros((len(threes), 1), dtype=np.int64), threes], axis=1)
    corners = cloud.points[near[:, four]].reshape(-1, 4, cloud.ndim)
    pairs = list(combinations(range(4), 2))
    sides = np.stack([np.linalg.norm(corners[:, a] - corners[:, b], axis=1) for a, b in pairs], axis=1)
    return sides, np.repeat(rows, len(threes))


def _between(points: Floats) -> Floats:
    return np.asarray(np.linalg.norm(points[:, None] - points[None], axis=-1))
