"""Poses of all slices from pairs: the pose graph of the reliable pairs, its solution, and what it leaves open.

Reliable pairs (enough overlap, a metric that chance does not explain) are the edges of a pose graph.
Where they leave the stack in several connected components, a weak edge of no motion joins each
component to the one before it, and the place is reported as a break. The graph is then solved for all
slices that have a reliable pair; the poses of the others are interpolated from their neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from daskreg.geometry.lie import Algebra
from daskreg.stacks.model import StackModel
from daskreg.stacks.pair_table import PairTable, reliable
from daskreg.stacks.pose_graph import PoseGraph, PoseGraphSolution, solve, triangle_errors
from daskreg.stacks.trajectory import interpolate_missing, shortest_path_poses
from daskreg.stacks.verdict.specimen_errors import hidden_covariance

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]
EdgeList = list[tuple[int, int]]

LEAST_WEIGHT = 0.05  # robust weight that one pair of a slice must keep, or the slice counts as not fitted
LOW_CORRELATION = 0.5  # below which direct neighbours without a closing triangle are searched again
CLOSED = 0.05  # closure error up to which a triangle closes, of the algebra's reach
GROWTH = 4  # power of the distance between slices by which the variance from changes of the specimen grows
FLOOR = 0.01  # voxels: standard deviation of a pair that image noise does not explain


@dataclass(frozen=True)
class PoseSolution:
    """One row for each slice.

    poses: (N, D+1, D+1) raw_from_aligned. fitted: by a pair or an anchor, not interpolated.
    scores: (N,). covariance: (N, P, P) of the free parameters. breaks: slices before which no
    motion was found. weight: (E,) final robust weight of each pair, 0 for unreliable ones.
    residual: (E,) world length by which each reliable pair disagrees with the poses, NaN for
    others. cycles: (N,) closure error, a world length, of the triangle of pairs about each slice.
    scale: factor by which pairs disagree more than their noise predicts, in standard deviations.
    explained: (N,) root mean square closure error, a world length, by the errors of the same triangles' pairs.
    """

    poses: Floats
    fitted: Bools
    scores: Floats
    covariance: Floats
    breaks: tuple[int, ...]
    weight: Floats
    residual: Floats
    cycles: Floats
    scale: float
    explained: Floats


def pairs_to_search(pairs: PairTable, blank: Bools, model: StackModel) -> EdgeList:
    """Pairs of slices that need a search over all rotations and shifts.

    These are pairs between connected components of the reliable pairs, pairs of slices that have no reliable
    pair, and direct neighbours whose correlation is low and of whose triangles none closes.
    """
    usable = reliable(pairs, model)
    between, _ = _weak_edges(len(blank), pairs.edges[usable])
    connected = set(pairs.edges[usable].ravel().tolist())
    neighbors = list(pairwise(np.flatnonzero(~blank).tolist()))
    wanted = set(between) | {(a, b) for a, b in neighbors if a not in connected or b not in connected}
    if model.metric == "ncc":
        algebra = model.algebra
        unknown = np.empty((len(pairs), algebra.size, algebra.size))
        triangles, closure = triangle_errors(PoseGraph(len(blank), pairs.edges, pairs.matrices, unknown, algebra))
        closes = np.zeros(len(pairs), bool)
        closes[triangles[closure < CLOSED * algebra.reach].ravel()] = True
        doubtful = {tuple(e) for e in pairs.edges[(pairs.scores < LOW_CORRELATION) & ~closes].tolist()}
        wanted |= doubtful & set(neighbors)
    return sorted(wanted)


def solve_poses(
    pairs: PairTable,
    blank: Bools,
    model: StackModel,
    *,
    first: bool = False,
    anchors: Mapping[int, Floats] | None = None,
) -> PoseSolution:
    """Poses of `len(blank)` slices.

    Args:
        first: the first slice with a reliable pair keeps its place (else the mean motion is the identity).
        anchors: fixed raw_from_aligned of slices, by number.
    """
    count, size = len(blank), model.grid.ndim + 1
    usable = reliable(pairs, model)
    anchors = dict(anchors or {})
    if not usable.any():
        return _without_pairs(pairs, blank, model, anchors)
    weak, breaks = _weak_edges(count, pairs.edges[usable])
    nodes = np.unique(np.concatenate([pairs.edges[usable].ravel(), np.array(sorted(anchors), dtype=np.intp)]))
    weak += _anchor_edges(nodes, pairs.edges[usable], weak)
    graph, measured = _pose_graph(pairs, usable, weak, nodes, model)
    similarity = np.append(pairs.similarity[usable], np.zeros(len(weak))) if model.metric == "ncc" else None
    initial, fixed = _initial_poses(graph, nodes, anchors, similarity, first=first)
    solution = solve(graph, initial, fixed)
    poses, fitted = np.full((count, size, size), np.nan), np.zeros(count, bool)
    poses[nodes] = solution.poses
    fitted[nodes] = _largest_weight(graph, solution, measured) >= LEAST_WEIGHT
    fitted[list(anchors)] = True
    covariance = np.full((count, len(model.pose.names), len(model.pose.names)), np.nan)
    free = np.ones(len(nodes), bool) if fixed is None else ~fixed
    hidden = hidden_covariance(pairs.take(usable), nodes, model, solution.poses, free)
    # Both contain the noise of the images.
    larger = np.trace(hidden, axis1=1, axis2=2) > np.trace(solution.covariance, axis1=1, axis2=2)
    whole = np.where(larger[:, None, None], hidden, solution.covariance)
    covariance[nodes] = _parameter_covariance(model, solution.poses, whole)
    covariance[~fitted] = np.nan
    weight, residual = np.zeros(len(pairs)), np.full(len(pairs), np.nan)
    weight[usable], residual[usable] = solution.weight[measured], solution.residual[measured]
    cycles, explained = _cycles(graph, nodes, count, _pair_covariance(pairs.take(usable), model))
    return PoseSolution(
        interpolate_missing(poses, fitted, model.projection) if fitted.any() else np.tile(np.eye(size), (count, 1, 1)),
        fitted,
        _scores(pairs, weight, count, fitted, first=first),
        covariance,
        breaks,
        weight,
        residual,
        cycles,
        math.sqrt(solution.scale),
        explained,
    )


def _pose_graph(
    pairs: PairTable, usable: Bools, weak: EdgeList, nodes: Ints, model: StackModel
) -> tuple[PoseGraph, Bools]:
    """The graph of `nodes` with the usable pairs and the weak edges, and which of its edges are pairs.

    A weak edge measures no motion, with a standard deviation of half the algebra's reach.
    """
    algebra = model.algebra
    some = pairs.take(usable)
    positions = np.searchsorted(nodes, some.edges)
    measurements, information = some.matrices, _information(some, positions, model, algebra)
    if weak:
        loose = np.eye(algebra.size) / (algebra.reach / 2) ** 2
        measurements = np.concatenate([measurements, np.tile(np.eye(measurements.shape[-1]), (len(weak), 1, 1))])
        information = np.concatenate([information, np.tile(loose, (len(weak), 1, 1))])
    edges = np.concatenate([some.edges, np.array(weak, dtype=np.intp).reshape(-1, 2)])
    measured = np.arange(len(edges)) < len(some)
    return PoseGraph(len(nodes), np.searchsorted(nodes, edges), measurements, information, algebra), measured


def _information(pairs: PairTable, positions: Ints, model: StackModel, algebra: Algebra) -> Floats:
    """(E, Q, Q) inverse covariance of the pairs' errors, in the algebra.

    The covariance is the sum of that of image noise, a floor, and that of changes of the specimen.

    Args:
        positions: (E, 2) of the pairs' slices among the nodes of the graph.
    """
    eye = np.eye(algebra.size)
    covariance = _pair_covariance(pairs, model) + (FLOOR * min(model.grid.spacing)) ** 2 * eye
    growth = np.abs(np.diff(positions, axis=1))[:, 0].astype(np.float64) ** GROWTH
    graph = PoseGraph(int(positions.max()) + 1, positions, pairs.matrices, covariance, algebra)
    change = _change_variance(graph, covariance, growth) * growth
    return np.asarray(np.linalg.inv(covariance + change[:, None, None] * eye))


def _pair_covariance(pairs: PairTable, model: StackModel) -> Floats:
    """(E, Q, Q) covariance of the pairs' errors by what the images show, in the algebra."""
    p = model.pose.from_matrices(pairs.matrices, model.centre, model.projection.half_extent).numpy()
    tangent = model.algebra.tangents(pairs.matrices, model.pose.motions(p, model.centre)[1])
    return np.asarray(tangent @ pairs.covariance @ np.swapaxes(tangent, 1, 2))


def _change_variance(graph: PoseGraph, covariance: Floats, growth: Floats) -> float:
    """Variance of the error of direct neighbours that comes from changes of the specimen between them.

    A specimen that changes biases every pair, and more so the farther apart its slices are. Triangles
    then fail to close by more than noise predicts, which gives the variance. A bias that is the same
    in all pairs closes, and is not seen.

    Args:
        covariance: (E, Q, Q) of noise.
        growth: (E,) the variance of each pair as a multiple of this variance.
    """
    triangles, closure = triangle_errors(graph)
    if not len(triangles):
        return 0.0
    noise = np.trace(covariance, axis1=1, axis2=2)[triangles].sum(axis=1)
    excess = float(np.median((closure**2 - noise) / growth[triangles].sum(axis=1)))
    return max(0.0, excess) / graph.algebra.size


def _initial_poses(
    graph: PoseGraph, nodes: Ints, anchors: Mapping[int, Floats], similarity: Floats | None, *, first: bool
) -> tuple[Floats, Bools | None]:
    """Initial poses, and which of them are fixed.

    Poses are composed along shortest paths. An edge is short where its triangles close, its images are
    similar, and its slices are near each other.
    """
    triangles, closure = triangle_errors(graph)
    best = np.full(len(graph.edges), np.inf)
    for k in range(3):
        np.minimum.at(best, triangles[:, k], closure)
    typical = float(np.median(closure)) + 1e-3 * graph.algebra.reach if len(closure) else graph.algebra.reach
    doubt = np.where(np.isfinite(best), np.minimum(best / typical, 1e3), 1.0)
    gap = np.abs(np.diff(nodes[graph.edges], axis=1))[:, 0]
    doubt = doubt if similarity is None else np.hypot(doubt, 10 * (1 - similarity))
    root = int(np.searchsorted(nodes, min(anchors))) if anchors else 0
    poses = shortest_path_poses(graph.count, graph.edges, graph.measurements, gap * (1.0 + doubt**2), root=root)
    if anchors:
        poses = poses @ anchors[int(nodes[root])]
        at = np.searchsorted(nodes, np.array(sorted(anchors)))
        poses[at] = np.stack([anchors[k] for k in sorted(anchors)])
        return poses, np.isin(np.arange(graph.count), at)
    return poses, np.arange(graph.count) == 0 if first else None


def _largest_weight(graph: PoseGraph, solution: PoseGraphSolution, measured: Bools) -> Floats:
    """(nodes,) the largest robust weight among the pairs of each slice."""
    largest = np.zeros(graph.count)
    for k in range(2):
        np.maximum.at(largest, graph.edges[measured, k], solution.weight[measured])
    return largest


def _parameter_covariance(model: StackModel, poses: Floats, covariance: Floats) -> Floats:
    """(N, P, P) of the parameters, from (N, Q, Q) of the errors T exp(e)."""
    p = model.pose.from_matrices(poses, model.centre, model.projection.half_extent).numpy()
    jacobian = model.pose.motions(p, model.centre)[1]
    back = np.linalg.pinv(model.algebra.tangents(poses, jacobian))
    return np.asarray(back @ covariance @ np.swapaxes(back, 1, 2))


def _scores(pairs: PairTable, weight: Floats, count: int, fitted: Bools, *, first: bool) -> Floats:
    """(N,) mean metric of the nearest pairs of each slice; `first`: of the nearest one before it."""
    total, number, nearest = np.zeros(count), np.zeros(count), np.full(count, count)
    use = np.flatnonzero(weight > 0)
    use = use[np.argsort(np.diff(pairs.edges[use], axis=1)[:, 0], kind="stable")]
    for k in use.tolist():
        a, b = pairs.edges[k].tolist()
        for i in (b,) if first else (a, b):
            if b - a <= nearest[i]:
                nearest[i], total[i], number[i] = b - a, total[i] + pairs.scores[k], number[i] + 1
    return np.where((number > 0) & fitted, total / np.maximum(number, 1), np.nan)


def _cycles(graph: PoseGraph, nodes: Ints, count: int, covariance: Floats) -> tuple[Floats, Floats]:
    """(N,) the smallest closure error of the triangles of pairs in which a slice is the middle one, and (N,) the root
    mean square that errors of these three pairs would have.

    Args:
        covariance: (E, Q, Q) of the pairs, which are the first edges; the others are weak ones.
    """
    triangles, closure = triangle_errors(graph)
    out, explained = np.full(count, np.nan), np.full(count, np.nan)
    variance = np.trace(covariance, axis1=1, axis2=2)
    whole = (triangles < len(covariance)).all(axis=1)
    for three, length in zip(triangles[whole], closure[whole], strict=True):
        middle = int(nodes[graph.edges[three[0], 1]])
        if not out[middle] <= length:
            out[middle], explained[middle] = length, np.sqrt(variance[three].sum())
    return out, explained


def _weak_edges(count: int, edges: Ints) -> tuple[EdgeList, tuple[int, ...]]:
    """Edges that join the connected components of more than one slice, and the first slice of each but the first."""
    graph: Any = csr_array((np.ones(len(edges)), edges.T), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    components = [np.flatnonzero(labels == k) for k in np.flatnonzero(np.bincount(labels) > 1)]
    components.sort(key=lambda slices: int(slices[0]))
    firsts = [int(slices[0]) for slices in components[1:]]
    connected = np.concatenate(components) if components else np.empty(0, dtype=np.intp)
    return [(int(connected[connected < b].max()), b) for b in firsts], tuple(firsts)


def _anchor_edges(nodes: Ints, edges: Ints, weak: EdgeList) -> EdgeList:
    """Edges from anchored slices without a reliable pair to the nearest connected slice, so that the graph is one."""
    connected = set(edges.ravel().tolist()) | {i for edge in weak for i in edge}
    lone = [int(i) for i in nodes if int(i) not in connected]
    others = np.array(sorted(connected))
    return [tuple(sorted((int(others[np.abs(others - i).argmin()]), i))) for i in lone]  # type: ignore[misc]


def _without_pairs(pairs: PairTable, blank: Bools, model: StackModel, anchors: Mapping[int, Floats]) -> PoseSolution:
    """No motion but that of the anchors. Fitted are anchors, and a slice that is the only one not blank."""
    n, size, p = len(blank), model.grid.ndim + 1, len(model.pose.names)
    poses = np.tile(np.eye(size), (n, 1, 1))
    fitted = ~blank & ((~blank).sum() == 1)
    if anchors:
        known = np.isin(np.arange(n), list(anchors))
        for i, pose in anchors.items():
            poses[i] = pose
        poses, fitted = interpolate_missing(poses, known, model.projection), fitted | known
    unknown = np.full(len(pairs), np.nan)
    covariance = np.full((n, p, p), np.nan)
    return PoseSolution(
        poses, fitted, np.full(n, np.nan), covariance, (), np.zeros(len(pairs)), unknown, np.full(n, np.nan), 1.0,
        np.full(n, np.nan),
    )  # fmt: skip
