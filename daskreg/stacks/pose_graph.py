"""Pose graphs: the poses of slices that agree best with the motions measured between pairs of slices.

Slices are nodes, pairs are edges. An edge measures `T_j T_i^-1` for the poses T (raw_from_aligned) of
its fixed slice i and its moving slice j, with an information matrix. The residual of an edge is

    log(measurement^-1 T_j T_i^-1)  ~  e + Ad(T_i) (eta_j - eta_i)       for T -> T exp(eta),

so the normal equations are a block Laplacian, sparse and banded (Gauss-Newton on the Lie
algebra, as in Kuemmerle et al., "g2o", 2011). A robust kernel, that of Geman and McClure, reduces the
weight of outlier edges by iterative reweighting. The kernel is wide at first and narrow at the end
(graduated non-convexity, Yang et al. 2020).

Gauge: a common motion of all slices changes no residual. Fixed nodes remove this freedom; without
any, the mean motion is made the identity (`Algebra.mean`: neither shift, rotation nor stretch).
Scale and shear have a weak prior as well, because all slices come from one specimen. It keeps them
near one, so that they do not grow along the stack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from daskreg.geometry.lie import Algebra

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

STRETCH_SIGMA = 0.05
"""Standard deviation of the prior on scale and shear of a slice."""

KERNEL_WIDTH = 3.0
"""Standard deviations at which an edge keeps a quarter of its weight."""

_MOST_STRETCH = 100.0  # of a pose, beyond which the solution has collapsed
_ITERATIONS = 40
_STEP_TOLERANCE = 1e-7  # of the algebra's reach
_LEAST_REDUNDANCY = 1e-9  # below it the graph is a chain, in which no edge can be checked by others
_INITIAL_WEIGHT_ITERATIONS = 4  # during which the weights stay those of the initial poses
_DENSE = 200  # unknowns up to which matrices are dense: a sparse one takes longer to make than to solve
_INLIER_WEIGHT = 0.25  # above it an edge counts when the scale of residuals is estimated


@dataclass(frozen=True)
class PoseGraph:
    """Nodes and edges.

    count: number of nodes. edges: (E, 2) node numbers (fixed, moving). measurements: (E, D+1, D+1)
    moving_from_fixed. information: (E, Q, Q) inverse covariance of the error e of
    `measurement exp(e)`, in the coordinates of `algebra`.
    """

    count: int
    edges: Ints
    measurements: Floats
    information: Floats
    algebra: Algebra

    @cached_property
    def inverse_measurements(self) -> Floats:
        """(E, D+1, D+1)."""
        return np.asarray(np.linalg.inv(self.measurements))


@dataclass(frozen=True)
class PoseGraphSolution:
    """poses: (N, D+1, D+1). weight: (E,) final robust weight of each edge, 0..1. residual: (E,)
    length of each edge's residual, world units. scale: factor, at least 1, by which squared residuals
    exceed what the information matrices predict. covariance: (N, Q, Q) of the error of the poses,
    T exp(error), with `scale` in it.
    """

    poses: Floats
    weight: Floats
    residual: Floats
    scale: float
    covariance: Floats


def solve(graph: PoseGraph, initial: Floats, fixed: Bools | None = None) -> PoseGraphSolution:
    """Poses of a connected graph.

    Args:
        initial: (N, D+1, D+1) approximate poses (see `trajectory.shortest_path_poses`).
        fixed: (N,) nodes that keep their initial pose; None: the mean motion is the identity.
    """
    free = np.ones(graph.count, bool) if fixed is None else ~fixed
    weight = None
    if np.count_nonzero(~free) > 1:
        # The weights are found with one fixed node only. Edges may disagree with fixed poses; that must not make them
        # outliers, so the disagreement is distributed over all edges.
        weight = solve(graph, initial, np.arange(graph.count) == 0).weight
    poses, weight, scale = _gauss_newton(graph, initial.copy(), free, weight)
    if _collapsed(poses):
        # Pairs that contradict each other entirely: none of them counts.
        none = np.zeros(len(graph.edges))
        unknown = np.full((graph.count, graph.algebra.size, graph.algebra.size), np.nan)
        return PoseGraphSolution(initial, none, np.full(len(none), np.nan), scale, unknown)
    covariance = pose_covariance(graph, poses, weight, free) * scale
    if free.all():
        mean = graph.algebra.mean(poses, np.ones(graph.count))
        poses = poses @ np.linalg.inv(mean)
        adjoint = graph.algebra.adjoint(mean[None])[0]
        covariance = adjoint @ covariance @ adjoint.T
    residual = np.linalg.norm(_residuals(graph, poses), axis=1)
    return PoseGraphSolution(poses, weight, residual, scale, covariance)


def _collapsed(poses: Floats) -> bool:
    """Whether a pose stretches or shrinks a direction beyond anything that slices of one specimen do."""
    linear = poses[:, :-1, :-1]
    if not np.isfinite(linear).all():
        return True
    singular = np.linalg.svd(linear, compute_uv=False)
    return bool(singular.max() > _MOST_STRETCH or singular.min() < 1 / _MOST_STRETCH)


def triangle_errors(graph: PoseGraph) -> tuple[Ints, Floats]:
    """Triangles a -> b -> c -> a of edges, and the closure error of each.

    Returns: (T, 3) numbers of the edges (a, b), (b, c) and (a, c) with a < b < c; (T,) lengths in world units.
    """
    number = {(int(a), int(b)): k for k, (a, b) in enumerate(graph.edges)}
    successors: dict[int, list[int]] = {}
    for a, b in graph.edges.tolist():
        successors.setdefault(a, []).append(b)
    found = [
        (number[a, b], number[b, c], number[a, c])
        for a, following in successors.items()
        for b in following
        for c in successors.get(b, ())
        if (a, c) in number
    ]
    triangles = np.array(found, dtype=np.intp).reshape(-1, 3)
    ab, bc, ac = (graph.measurements[triangles[:, k]] for k in range(3))
    return triangles, np.linalg.norm(graph.algebra.log(np.linalg.inv(ac) @ bc @ ab), axis=1)


def _gauss_newton(
    graph: PoseGraph, poses: Floats, free: Bools, fixed_weight: Floats | None
) -> tuple[Floats, Floats, float]:
    """Poses, weights and scale, by Gauss-Newton with reweighting, or with `fixed_weight` where it is given."""
    weight, scale, width = np.ones(len(graph.edges)), 1.0, np.inf
    redundancy = _redundancy(graph, free)
    for iteration in range(_ITERATIONS):
        residual = _residuals(graph, poses)
        chi2 = _mean_squares(graph, residual)
        if fixed_weight is not None:
            weight, final = fixed_weight, True
            scale = _scale(chi2[fixed_weight > _INLIER_WEIGHT], redundancy, graph.algebra.size)
        elif redundancy < _LEAST_REDUNDANCY:
            final = True
        elif iteration == 0 or iteration > _INITIAL_WEIGHT_ITERATIONS:
            inliers = weight > _INLIER_WEIGHT
            scale = _scale(chi2[inliers] if inliers.any() else chi2, redundancy, graph.algebra.size)
            narrow = KERNEL_WIDTH * np.sqrt(scale)
            # At the initial poses the kernel is narrow at once: it shows which edges contradict them. After the first
            # iterations it starts again from the width of the worst edge, so that all edges count, and is halved.
            worst = float(np.sqrt(chi2.max(initial=0.0)))
            wider = width / 2 if iteration > _INITIAL_WEIGHT_ITERATIONS + 1 else worst
            width = narrow if iteration == 0 else max(narrow, min(wider, worst))
            weight = (1 + chi2 / width**2) ** -2.0
            final = bool(width == narrow and iteration > 0)
        else:
            final = False
        step = _step(graph, poses, residual, weight, free)
        poses = poses @ graph.algebra.exp(step)
        if final and np.abs(step).max(initial=0.0) < _STEP_TOLERANCE * graph.algebra.reach:
            break
    return poses, weight, scale


def _residuals(graph: PoseGraph, poses: Floats) -> Floats:
    """(E, Q)."""
    i, j = graph.edges.T
    return graph.algebra.log(graph.inverse_measurements @ poses[j] @ np.linalg.inv(poses)[i])


def _mean_squares(graph: PoseGraph, residual: Floats) -> Floats:
    """(E,) mean squares of the residuals' coordinates, in standard deviations."""
    return np.asarray(np.einsum("ei,eij,ej->e", residual, graph.information, residual)) / graph.algebra.size


def _redundancy(graph: PoseGraph, free: Bools) -> float:
    """The share of the measurements that the others already determine; zero in a chain."""
    unknown = int(free.sum()) - int(free.all())
    return max(0.0, 1 - unknown / max(1, len(graph.edges)))


def _scale(chi2: Floats, redundancy: float, size: int) -> float:
    """Factor by which squared residuals exceed what the information predicts, from their median; at least 1."""
    if redundancy < 0.1:
        return 1.0
    expected = (1 - 2 / (9 * size)) ** 3 * redundancy  # the median of chi squared over its `size` degrees of freedom
    return max(1.0, float(np.median(chi2)) / expected)


def _step(graph: PoseGraph, poses: Floats, residual: Floats, weight: Floats, free: Bools) -> Floats:
    """(N, Q) of one Gauss-Newton step."""
    normal, right = _normal_equations(graph, poses, weight, free, residual)
    step = np.zeros((graph.count, graph.algebra.size))
    if free.any():
        step[free] = _solved(normal, right).reshape(-1, graph.algebra.size)
    # Pairs that contradict each other by far may ask for steps beyond what the linear equations hold for.
    length = np.linalg.norm(step, axis=1, keepdims=True)
    return np.asarray(step * np.minimum(1.0, graph.algebra.reach / np.maximum(length, 1e-300)))


def _normal_equations(
    graph: PoseGraph, poses: Floats, weight: Floats, free: Bools, residual: Floats
) -> tuple[Any, Floats]:
    """The normal matrix of the free nodes, sparse where it is large, and the right-hand side."""
    q = graph.algebra.size
    i, j = graph.edges.T
    adjoint = graph.algebra.adjoint(poses)[i]
    weighted = np.swapaxes(adjoint, 1, 2) @ (graph.information * weight[:, None, None])
    block, gradient = weighted @ adjoint, np.einsum("eij,ej->ei", weighted, residual)
    prior = np.where(graph.algebra.rigid, 0.0, (STRETCH_SIGMA * graph.algebra.reach) ** -2.0)
    own = np.tile(np.diag(prior), (graph.count, 1, 1))
    if free.all():
        # Without fixed nodes the matrix is singular: hold one node in place. `solve` then moves all nodes together.
        own[graph.count // 2] += np.diag(graph.algebra.rigid * np.median(np.trace(block, axis1=1, axis2=2)))
    number = np.cumsum(free) - 1
    rows = np.concatenate([i, j, i, j, np.arange(graph.count)])
    columns = np.concatenate([i, j, j, i, np.arange(graph.count)])
    blocks = np.concatenate([block, block, -block, -block, own])
    use = free[rows] & free[columns]
    rows, columns, blocks = number[rows[use]], number[columns[use]], blocks[use]
    at = (rows[:, None, None] * q + np.arange(q)[:, None], columns[:, None, None] * q + np.arange(q))
    index = tuple(np.broadcast_to(a, blocks.shape).ravel() for a in at)
    size = int(free.sum()) * q
    normal: Any
    if size <= _DENSE:
        flat = np.ravel_multi_index(index, (size, size))
        normal = np.bincount(flat, weights=blocks.ravel(), minlength=size * size).reshape(size, size)
    else:
        normal = scipy.sparse.coo_array((blocks.ravel(), index), shape=(size, size)).tocsc()
    right = np.zeros((graph.count, q))
    np.add.at(right, i, gradient)
    np.add.at(right, j, -gradient)
    if prior.any():
        right -= prior * graph.algebra.log(poses)
    return normal, right[free].ravel()


def pose_covariance(graph: PoseGraph, poses: Floats, weight: Floats, free: Bools) -> Floats:
    """(N, Q, Q) diagonal blocks of the inverse normal matrix; without fixed nodes, in the gauge of zero mean error."""
    q = graph.algebra.size
    out = np.zeros((graph.count, q, q))
    if not free.any():
        return out
    normal, _ = _normal_equations(graph, poses, weight, free, np.zeros((len(graph.edges), q)))
    out[free] = _inverse_blocks(normal, q, _bandwidth(graph, free))
    if free.all():
        each = np.tile(np.eye(q), (int(free.sum()), 1)) / graph.count
        shared = np.zeros((graph.count, q, q))
        shared[free] = _solved(normal, each).reshape(-1, q, q)
        out = out - shared - np.swapaxes(shared, 1, 2) + shared.mean(axis=0)
    return out


def _solved(normal: Any, right: Floats) -> Floats:
    """The solution of the normal equations."""
    dense = isinstance(normal, np.ndarray)
    return np.asarray(np.linalg.solve(normal, right) if dense else splu(normal).solve(right))


def _bandwidth(graph: PoseGraph, free: Bools) -> int:
    """The largest difference between the numbers of two free nodes that share an edge."""
    number = np.cumsum(free) - 1
    both = graph.edges[free[graph.edges].all(axis=1)]
    return int(np.abs(np.diff(number[both], axis=1)).max(initial=1))


def _inverse_blocks(matrix: Any, size: int, bandwidth: int) -> Floats:
    """(N, size, size) diagonal blocks of the inverse of a block-banded matrix, in time linear in N.

    The matrix is cut into large blocks of `bandwidth` nodes, so that it is block tridiagonal. Each
    block of the inverse is the inverse of the Schur complement that is left when all blocks before
    it and all after it are eliminated. A small matrix is inverted as it is.
    """
    if isinstance(matrix, np.ndarray):
        return np.stack(list(_split(np.linalg.inv(matrix), size)))
    width = size * bandwidth
    count = -(-matrix.shape[0] // width)
    padding = count * width - matrix.shape[0]
    if padding:
        matrix = scipy.sparse.block_diag([matrix, scipy.sparse.eye_array(padding)], format="csc")
    rows = matrix.tocsr()

    def block(a: int, b: int) -> Floats:
        return np.asarray(rows[a * width : (a + 1) * width, b * width : (b + 1) * width].toarray())

    diagonal = [block(k, k) for k in range(count)]
    lower = [block(k + 1, k) for k in range(count - 1)]
    before = [np.zeros((width, width))]
    for k in range(count - 1):
        before.append(lower[k] @ np.linalg.solve(diagonal[k] - before[k], lower[k].T))
    after, inverses = np.zeros((width, width)), []
    for k in range(count - 1, -1, -1):
        inverses.append(np.linalg.inv(diagonal[k] - before[k] - after))
        if k:
            after = lower[k - 1].T @ np.linalg.solve(diagonal[k] - after, lower[k - 1])
    blocks = [b for large in reversed(inverses) for b in _split(large, size)]
    return np.stack(blocks[: len(blocks) - padding // size])


def _split(matrix: Floats, size: int) -> Iterator[Floats]:
    """Diagonal blocks of `size` rows."""
    for k in range(0, len(matrix), size):
        yield matrix[k : k + size, k : k + size]
