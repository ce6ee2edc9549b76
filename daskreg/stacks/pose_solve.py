"""Poses of all slices from pairs: which pairs to believe, where no way leads, and the solve.

A pair counts where enough overlaps and its metric beats chance. Good pairs make runs of slices;
where runs do not meet, no motion is assumed, and said. One pose graph is then solved for all
slices that a pair holds; the others stand in line with their neighbours.
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
from daskreg.stacks.model import Model
from daskreg.stacks.pair_table import PairTable, good
from daskreg.stacks.pose_graph import Graph, Solved, closures, solve
from daskreg.stacks.trajectory import bridged, chained

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

BELIEVED = 0.05  # the say that a slice's pairs must keep together
DOUBTFUL = 0.5  # correlation below which pairs whose triangles do not close are looked for again
CLOSE = 0.05  # of the reach
GROWTH = 4  # power of the distance between slices with which the variance grows that their change brings
FLOOR = 0.01  # voxels: the error of a pair that noise does not tell


@dataclass(frozen=True)
class Placed:
    """One row for each slice.

    poses: (N, D+1, D+1) raw_from_aligned. fitted: placed by a pair, not by its neighbours.
    scores: (N,). covariance: (N, P, P) of the free parameters. breaks: slices before which no
    motion was found. weight: (E,) what each pair had to say in the end, 0 for those that are not
    good. residual: (E,) world length by which each good pair disagrees with the result, NaN for
    others. cycles: (N,) world length by which the triangle of pairs about a slice does not close.
    scale: by which pairs disagree more than their noise says, in standard deviations.
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


def unmet(pairs: PairTable, blank: Bools, model: Model) -> list[tuple[int, int]]:
    """Pairs of slices to be looked for more widely.

    Between runs that no good pair joins, of slices that no good pair holds, and of direct
    neighbours that hardly agree and whose triangles do not close.
    """
    believed = good(pairs, model.grid, model.metric)
    links, _ = _links(len(blank), pairs.edges[believed])
    held = set(pairs.edges[believed].ravel().tolist())
    following = list(pairwise(np.flatnonzero(~blank).tolist()))
    wanted = set(links) | {(a, b) for a, b in following if a not in held or b not in held}
    if model.metric == "ncc":
        algebra = model.algebra
        none = np.empty((len(pairs), algebra.size, algebra.size))
        triangles, apart = closures(Graph(len(blank), pairs.edges, pairs.matrices, none, algebra))
        closes = np.zeros(len(pairs), bool)
        closes[triangles[apart < CLOSE * algebra.reach].ravel()] = True
        doubtful = {tuple(e) for e in pairs.edges[(pairs.scores < DOUBTFUL) & ~closes].tolist()}
        wanted |= doubtful & set(following)
    return sorted(wanted)


def place(
    pairs: PairTable,
    blank: Bools,
    model: Model,
    *,
    first: bool = False,
    anchors: Mapping[int, Floats] | None = None,
) -> Placed:
    """Solve for the poses of `len(blank)` slices.

    Args:
        first: the first slice that a pair holds keeps its place (else the mean motion is none).
        anchors: raw_from_aligned of slices that are known.
    """
    count, size = len(blank), model.grid.ndim + 1
    believed = good(pairs, model.grid, model.metric)
    pinned = dict(anchors or {})
    if not believed.any():
        return _nothing(pairs, blank, model, pinned)
    links, breaks = _links(count, pairs.edges[believed])
    nodes = np.unique(np.concatenate([pairs.edges[believed].ravel(), np.array(sorted(pinned), dtype=np.intp)]))
    links += _ties(nodes, pairs.edges[believed], links)
    graph, real = _graph(pairs, believed, links, nodes, model)
    likeness = np.append(pairs.likeness[believed], np.zeros(len(links))) if model.metric == "ncc" else None
    start, held = _start(graph, nodes, pinned, likeness, first=first)
    solved = solve(graph, start, held)
    poses, fitted = np.full((count, size, size), np.nan), np.zeros(count, bool)
    poses[nodes], fitted[nodes] = solved.poses, _say(graph, solved, real) | np.isin(nodes, list(pinned))
    covariance = np.full((count, len(model.pose.names), len(model.pose.names)), np.nan)
    covariance[nodes] = _of_parameters(model, solved.poses, solved.covariance)
    covariance[~fitted] = np.nan
    weight, residual = np.zeros(len(pairs)), np.full(len(pairs), np.nan)
    weight[believed], residual[believed] = solved.weight[real], solved.distance[real]
    return Placed(
        bridged(poses, fitted, model.frame) if fitted.any() else np.tile(np.eye(size), (count, 1, 1)),
        fitted,
        _scores(pairs, weight, count, fitted, first=first),
        covariance,
        breaks,
        weight,
        residual,
        _cycles(graph, nodes, count, real),
        math.sqrt(solved.scale),
    )


def _graph(
    pairs: PairTable, believed: Bools, links: list[tuple[int, int]], nodes: Ints, model: Model
) -> tuple[Graph, Bools]:
    """The good pairs and links without motion as a graph of `nodes`; which of its edges are pairs."""
    algebra = model.algebra
    some = pairs.take(believed)
    places = np.searchsorted(nodes, some.edges)
    steps, information = some.matrices, _information(some, places, model, algebra)
    if links:
        loose = np.eye(algebra.size) / (algebra.reach / 2) ** 2
        steps = np.concatenate([steps, np.tile(np.eye(steps.shape[-1]), (len(links), 1, 1))])
        information = np.concatenate([information, np.tile(loose, (len(links), 1, 1))])
    edges = np.concatenate([some.edges, np.array(links, dtype=np.intp).reshape(-1, 2)])
    real = np.arange(len(edges)) < len(some)
    return Graph(len(nodes), np.searchsorted(nodes, edges), steps, information, algebra), real


def _information(pairs: PairTable, places: Ints, model: Model, algebra: Algebra) -> Floats:
    """(E, Q, Q) inverse covariance of the pairs' errors in the algebra: noise, a floor, and how slices change.

    places: (E, 2) of the pairs' slices among those that pairs hold.
    """
    p = model.pose.from_matrices(pairs.matrices, model.centre, model.frame.reach).numpy()
    change = model.pose.motions(p, model.centre)[1]
    tangent = algebra.tangents(pairs.matrices, change)
    eye = np.eye(algebra.size)
    covariance = tangent @ pairs.covariance @ np.swapaxes(tangent, 1, 2)
    covariance = covariance + (FLOOR * min(model.grid.spacing)) ** 2 * eye
    growth = np.abs(np.diff(places, axis=1))[:, 0].astype(np.float64) ** GROWTH
    graph = Graph(int(places.max()) + 1, places, pairs.matrices, covariance, algebra)
    return np.asarray(np.linalg.inv(covariance + (_unlike(graph, covariance, growth) * growth)[:, None, None] * eye))


def _unlike(graph: Graph, covariance: Floats, growth: Floats) -> float:
    """Variance of the error that direct neighbours have for not being the same.

    A specimen that changes misleads every pair, and the more the farther apart its slices are; so triangles
    fail to close by more than noise says. What misleads all alike, they cannot tell.

    Args:
        covariance: (E, Q, Q) of noise.
        growth: (E,) how many times this variance each pair has.
    """
    triangles, apart = closures(graph)
    if not len(triangles):
        return 0.0
    noise = np.trace(covariance, axis1=1, axis2=2)[triangles].sum(axis=1)
    excess = float(np.median((apart**2 - noise) / growth[triangles].sum(axis=1)))
    return max(0.0, excess) / graph.algebra.size


def _start(
    graph: Graph, nodes: Ints, pinned: Mapping[int, Floats], likeness: Floats | None, *, first: bool
) -> tuple[Floats, Bools | None]:
    """Poses along the pairs that others confirm, or that are most alike, and which of them stay."""
    triangles, apart = closures(graph)
    best = np.full(len(graph.edges), np.inf)
    for k in range(3):
        np.minimum.at(best, triangles[:, k], apart)
    typical = float(np.median(apart)) + 1e-3 * graph.algebra.reach if len(apart) else graph.algebra.reach
    doubt = np.where(np.isfinite(best), np.minimum(best / typical, 1e3), 1.0)
    span = np.abs(np.diff(nodes[graph.edges], axis=1))[:, 0]
    doubt = doubt if likeness is None else np.hypot(doubt, 10 * (1 - likeness))
    root = int(np.searchsorted(nodes, min(pinned))) if pinned else 0
    start = chained(graph.count, graph.edges, graph.steps, span * (1.0 + doubt**2), root=root)
    if pinned:
        start = start @ pinned[int(nodes[root])]
        at = np.searchsorted(nodes, np.array(sorted(pinned)))
        start[at] = np.stack([pinned[k] for k in sorted(pinned)])
        return start, np.isin(np.arange(graph.count), at)
    held = np.arange(graph.count) == 0
    return start, held if first else None


def _say(graph: Graph, solved: Solved, real: Bools) -> Bools:
    """(nodes,) whether the pairs of a slice kept enough of their say."""
    total = np.zeros(graph.count)
    for k in range(2):
        np.maximum.at(total, graph.edges[real, k], solved.weight[real])
    return np.asarray(total >= BELIEVED)


def _of_parameters(model: Model, poses: Floats, covariance: Floats) -> Floats:
    """(N, P, P) of the parameters, from (N, Q, Q) of the errors T exp(e)."""
    p = model.pose.from_matrices(poses, model.centre, model.frame.reach).numpy()
    change = model.pose.motions(p, model.centre)[1]
    back = np.linalg.pinv(model.algebra.tangents(poses, change))
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


def _cycles(graph: Graph, nodes: Ints, count: int, real: Bools) -> Floats:
    """(N,) the worst-closing of the tightest triangles in which a slice is the middle one."""
    triangles, apart = closures(graph)
    out = np.full(count, np.nan)
    whole = real[triangles].all(axis=1)
    for (ab, _, _), length in zip(triangles[whole], apart[whole], strict=True):
        middle = int(nodes[graph.edges[ab, 1]])
        out[middle] = length if np.isnan(out[middle]) else min(out[middle], length)
    return out


def _links(count: int, edges: Ints) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
    """Links without motion between runs of slices that no pair connects, and where the runs begin."""
    graph: Any = csr_array((np.ones(len(edges)), edges.T), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    runs = [np.flatnonzero(labels == k) for k in np.flatnonzero(np.bincount(labels) > 1)]
    runs.sort(key=lambda run: int(run[0]))
    begins = [int(run[0]) for run in runs[1:]]
    inside = np.concatenate(runs) if runs else np.empty(0, dtype=np.intp)
    return [(int(inside[inside < b].max()), b) for b in begins], tuple(begins)


def _ties(nodes: Ints, edges: Ints, links: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Links to anchored slices that no pair holds, so that the graph is one."""
    held = set(edges.ravel().tolist()) | {i for link in links for i in link}
    lone = [int(i) for i in nodes if int(i) not in held]
    others = np.array(sorted(held))
    return [tuple(sorted((int(others[np.abs(others - i).argmin()]), i))) for i in lone]  # type: ignore[misc]


def _nothing(pairs: PairTable, blank: Bools, model: Model, pinned: Mapping[int, Floats]) -> Placed:
    """No motion but that of anchors, and nothing fitted but a slice that is alone."""
    n, size, p = len(blank), model.grid.ndim + 1, len(model.pose.names)
    poses = np.tile(np.eye(size), (n, 1, 1))
    fitted = ~blank & ((~blank).sum() == 1)
    if pinned:
        known = np.isin(np.arange(n), list(pinned))
        for i, pose in pinned.items():
            poses[i] = pose
        poses, fitted = bridged(poses, known, model.frame), fitted | known
    unknown = np.full(len(pairs), np.nan)
    covariance = np.full((n, p, p), np.nan)
    return Placed(
        poses, fitted, np.full(n, np.nan), covariance, (), np.zeros(len(pairs)), unknown, np.full(n, np.nan), 1.0
    )
