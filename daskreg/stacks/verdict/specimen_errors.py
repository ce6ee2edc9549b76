"""Errors of poses that cycles of pairs do not show: a specimen that changes, and the noise of each slice.

Such errors close: where b differs from a, the pairs (a, b) and (b, c) err in a way that (a, c) repeats, so that cycles
do not show them, and more pairs do not reduce them. Two kinds differ in how they grow with the distance of the slices:
the error of the place of each slice by its noise (not at all), and that by change (with each step, a random walk). The
variances v1 and v2 of pairs that are one and two steps apart tell them apart. Where v2 > 2 v1, as in real anatomy, the
errors of consecutive steps are correlated, by v2 / (2 v1) - 1, and the walk is that of an autoregression. The variances
are those of the pairs (see `pair_errors`); this module says only how the errors of pairs add up to those of poses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskreg.stacks.model import StackModel
from daskreg.stacks.pair_table import PairTable
from daskreg.stacks.pose_graph import PoseGraph, pose_covariance

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

# Correlation of the errors of consecutive steps, at most: from pairs of one and two steps no more can be told.
_MOST_ALIKE = 0.5


def hidden_covariance(pairs: PairTable, nodes: Ints, model: StackModel, poses: Floats, free: Bools) -> Floats:
    """(N, Q, Q) covariance of the poses, in the algebra, from errors that cycles do not show.

    Args:
        pairs: those that are used.
        nodes: (N,) slices of the graph.
        poses: (N, D+1, D+1) of these.
        free: (N,) all, or those that are not fixed.
    """
    algebra = model.algebra
    out = np.zeros((len(nodes), algebra.size, algebra.size))
    positions = np.searchsorted(nodes, pairs.edges)
    step = np.diff(positions, axis=1)[:, 0]
    if model.axis is not None or not (step == 1).any():
        return out
    p = model.pose.from_matrices(pairs.matrices, model.centre, model.projection.half_extent).numpy()
    tangent = algebra.tangents(pairs.matrices, model.pose.motions(p, model.centre)[1])
    covariance = tangent @ pairs.covariance @ np.swapaxes(tangent, 1, 2)
    size = np.trace(covariance, axis1=1, axis2=2)
    one, two = (float(np.median(size[step == k])) if (step == k).any() else np.nan for k in (1, 2))
    growth = two / one if np.isfinite(two) and one > 0 else 2.0
    own = float(np.clip(2 - growth, 0, 1))
    alike = float(np.clip(growth / 2 - 1, 0, _MOST_ALIKE))
    long = (1 + alike) / (1 - alike)
    near = np.flatnonzero(step == 1)
    number = np.zeros(len(nodes))
    for k in range(2):
        np.add.at(out, positions[near, k], covariance[near] * own / 2)
        np.add.at(number, positions[near, k], 1)
    out /= np.maximum(number, 1)[:, None, None]
    out[~free] = 0
    # Gaps between slices that no direct pair joins are as wide as the widest step.
    missing = np.setdiff1d(np.arange(len(nodes) - 1), positions[near, 0])
    widest = covariance[near[size[near].argmax()]]
    every = np.concatenate([covariance[near], np.tile(widest, (len(missing), 1, 1))]) * max(1 - own, 1e-6) * long
    edges = np.concatenate([positions[near], np.stack([missing, missing + 1], axis=1)])
    eye = np.tile(np.eye(poses.shape[-1]), (len(edges), 1, 1))
    floor = (1e-6 * algebra.reach) ** 2 * np.eye(algebra.size)
    chain = PoseGraph(len(nodes), edges, eye, np.asarray(np.linalg.inv(every + floor), np.float64), algebra)
    return np.asarray(out + pose_covariance(chain, poses, np.ones(len(edges)), free))
