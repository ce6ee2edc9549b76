"""Pose graphs: poses of slices that agree best, together, with the motions found between pairs.

Slices are nodes; a pair says `step = T_j T_i^-1` for the poses T (raw_from_aligned) of its fixed
slice i and moving slice j, with an information matrix. The residual of a pair is

    log(step^-1 T_j T_i^-1)  ~  e + Ad(T_i) (eta_j - eta_i)       for T -> T exp(eta),

so the normal equations are a block Laplacian, sparse and banded (Gauss-Newton on the Lie
algebra, as in Kuemmerle et al., "g2o", 2011). Wrong pairs lose their say by iterative
reweighting with Geman and McClure's function, from a wide one to a narrow one (graduated
non-convexity, Yang et al. 2020).

A common motion of all slices changes no residual: pinned slices fix it, or the mean motion is
none (`Algebra.mean`: neither shift, turn nor stretch). Stretches also know that slices come
from one specimen: a weak prior keeps them near one, so that along a chain they do not grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from daskreg.geometry.lie import Algebra

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

STRETCH = 0.05
"""Standard deviation of the prior on scale and shear of a slice."""

NARROW = 3.0
"""Standard deviations at which a pair keeps a quarter of its say."""

_ITERATIONS = 40
_STILL = 1e-7  # of the reach
_CHAIN = 1e-9  # redundancy below which no pair tells of another
_TRUSTED = 4  # iterations in which pairs have the say that the start gives them


@dataclass(frozen=True)
class Graph:
    """What pairs say of slices.

    edges: (E, 2) node numbers (fixed, moving). steps: (E, D+1, D+1) moving_from_fixed.
    information: (E, Q, Q) inverse covariance of `algebra`'s coordinates of an error `step exp(e)`.
    """

    count: int
    edges: Ints
    steps: Floats
    information: Floats
    algebra: Algebra


@dataclass(frozen=True)
class Solved:
    """poses: (N, D+1, D+1). weight: (E,) what is left of each pair's say, 0..1. distance: (E,)
    world length of each pair's residual. scale: by which residuals exceed what information
    says, at least 1. covariance: (N, Q, Q) of the poses, T exp(error), scale included.
    """

    poses: Floats
    weight: Floats
    distance: Floats
    scale: float
    covariance: Floats


def solve(graph: Graph, start: Floats, pinned: Bools | None = None) -> Solved:
    """Poses of a connected graph.

    Args:
        start: (N, D+1, D+1), about right (see `chained`).
        pinned: (N,) nodes that keep their start; none: the mean motion is the identity.
    """
    free = np.ones(graph.count, bool) if pinned is None else ~pinned
    gauge = bool(free.all())
    held = free
    # What is wrong is told without the pins: a pin at odds with the pairs is right, and all give way a little.
    told = solve(graph, start, np.arange(graph.count) == 0).weight if np.count_nonzero(~free) > 1 else None
    poses, weight, scale = _descended(graph, start.copy(), held, told)
    covariance = _covariance(graph, poses, weight, held) * scale
    if gauge:
        mean = graph.algebra.mean(poses, np.ones(graph.count))
        poses = poses @ np.linalg.inv(mean)
        turn = graph.algebra.adjoint(mean[None])[0]
        covariance = turn @ covariance @ turn.T
    distance = np.linalg.norm(_errors(graph, poses), axis=1)
    return Solved(poses, weight, distance, scale, covariance)


def _descended(graph: Graph, poses: Floats, held: Bools, told: Floats | None) -> tuple[Floats, Floats, float]:
    """Gauss-Newton with reweighting, or with weights that are told: poses, weights and scale."""
    weight, scale, width = np.ones(len(graph.edges)), 1.0, np.inf
    spare = _redundancy(graph, held)
    for number in range(_ITERATIONS):
        error = _errors(graph, poses)
        chi = _squares(graph, error)
        if told is not None:
            weight, scale, settled = told, _scale(chi[told > 0.25], spare, graph.algebra.size), True
        elif spare < _CHAIN:
            settled = True
        elif number == 0 or number > _TRUSTED:
            kept = chi[weight > 0.25] if (weight > 0.25).any() else chi
            scale = _scale(kept, spare, graph.algebra.size)
            narrow = NARROW * np.sqrt(scale)
            # The start tells at once which pairs are at odds with it; later all come in again, and leave one by one.
            worst = float(np.sqrt(chi.max(initial=0.0)))
            width = narrow if number == 0 else max(narrow, min(width / 2 if number > _TRUSTED + 1 else worst, worst))
            weight = (1 + chi / width**2) ** -2.0
            settled = bool(width == narrow and number > 0)
        else:
            settled = False
        step = _step(graph, poses, error, weight, held)
        poses = poses @ graph.algebra.exp(step)
        if settled and np.abs(step).max(initial=0.0) < _STILL * graph.algebra.reach:
            break
    return poses, weight, scale


def closures(graph: Graph) -> tuple[Ints, Floats]:
    """Triangles a -> b -> c -> a of pairs, and how far each is from closing, in the world.

    Returns: (T, 3) numbers of the pairs (a, b), (b, c) and (a, c) with a < b < c; (T,) lengths.
    """
    number = {(int(a), int(b)): k for k, (a, b) in enumerate(graph.edges)}
    after: dict[int, list[int]] = {}
    for a, b in graph.edges.tolist():
        after.setdefault(a, []).append(b)
    found = [
        (number[a, b], number[b, c], number[a, c])
        for a, following in after.items()
        for b in following
        for c in after.get(b, ())
        if (a, c) in number
    ]
    triangles = np.array(found, dtype=np.intp).reshape(-1, 3)
    ab, bc, ac = (graph.steps[triangles[:, k]] for k in range(3))
    return triangles, np.linalg.norm(graph.algebra.log(np.linalg.inv(ac) @ bc @ ab), axis=1)


def _errors(graph: Graph, poses: Floats) -> Floats:
    i, j = graph.edges.T
    return graph.algebra.log(np.linalg.inv(graph.steps) @ poses[j] @ np.linalg.inv(poses[i]))


def _squares(graph: Graph, error: Floats) -> Floats:
    """(E,) mean squared residuals in standard deviations."""
    return np.asarray(np.einsum("ei,eij,ej->e", error, graph.information, error)) / graph.algebra.size


def _redundancy(graph: Graph, held: Bools) -> float:
    """The share of what pairs say that others say as well; zero in a chain."""
    unknown = int(held.sum()) - int(held.all())
    return max(0.0, 1 - unknown / max(1, len(graph.edges)))


def _scale(chi: Floats, spare: float, size: int) -> float:
    """How much larger squared residuals are than information says, from their median; at least 1."""
    if spare < 0.1:
        return 1.0
    expected = (1 - 2 / (9 * size)) ** 3 * spare
    return max(1.0, float(np.median(chi)) / expected)


def _step(graph: Graph, poses: Floats, error: Floats, weight: Floats, held: Bools) -> Floats:
    """(N, Q) of one Gauss-Newton step."""
    normal, right = _normal(graph, poses, weight, held, error)
    step = np.zeros((graph.count, graph.algebra.size))
    if held.any():
        step[held] = splu(normal).solve(right).reshape(-1, graph.algebra.size)
    return step


def _normal(graph: Graph, poses: Floats, weight: Floats, held: Bools, error: Floats) -> tuple[Any, Floats]:
    """The sparse normal matrix of the nodes that move, and the right-hand side."""
    q = graph.algebra.size
    i, j = graph.edges.T
    turn = graph.algebra.adjoint(poses)[i]
    weighted = np.swapaxes(turn, 1, 2) @ (graph.information * weight[:, None, None])
    block, pull = weighted @ turn, np.einsum("eij,ej->ei", weighted, error)
    prior = np.where(graph.algebra.rigid, 0.0, (STRETCH * graph.algebra.reach) ** -2.0)
    own = np.tile(np.diag(prior), (graph.count, 1, 1))
    if held.all():
        # One slice neither moves nor turns while the others do; then all move together.
        own[graph.count // 2] += np.diag(graph.algebra.rigid * np.median(np.trace(block, axis1=1, axis2=2)))
    number = np.cumsum(held) - 1
    rows = np.concatenate([i, j, i, j, np.arange(graph.count)])
    columns = np.concatenate([i, j, j, i, np.arange(graph.count)])
    blocks = np.concatenate([block, block, -block, -block, own])
    use = held[rows] & held[columns]
    rows, columns, blocks = number[rows[use]], number[columns[use]], blocks[use]
    at = (rows[:, None, None] * q + np.arange(q)[:, None], columns[:, None, None] * q + np.arange(q))
    index = tuple(np.broadcast_to(a, blocks.shape).ravel() for a in at)
    size = int(held.sum()) * q
    normal = scipy.sparse.coo_array((blocks.ravel(), index), shape=(size, size)).tocsc()
    right = np.zeros((graph.count, q))
    np.add.at(right, i, pull)
    np.add.at(right, j, -pull)
    if prior.any():
        right -= prior * graph.algebra.log(poses)
    return normal, right[held].ravel()


def _covariance(graph: Graph, poses: Floats, weight: Floats, held: Bools) -> Floats:
    """(N, Q, Q) blocks of the inverse normal matrix, in the gauge where the mean error is none."""
    q = graph.algebra.size
    out = np.zeros((graph.count, q, q))
    if not held.any():
        return out
    normal, _ = _normal(graph, poses, weight, held, np.zeros((len(graph.edges), q)))
    out[held] = _inverse_blocks(normal, q, _span(graph, held))
    if held.all():
        each = np.tile(np.eye(q), (int(held.sum()), 1)) / graph.count
        shared = np.zeros((graph.count, q, q))
        shared[held] = splu(normal).solve(each).reshape(-1, q, q)
        out = out - shared - np.swapaxes(shared, 1, 2) + shared.mean(axis=0)
    return out


def _span(graph: Graph, held: Bools) -> int:
    """How many nodes apart the nodes of a pair are, at most."""
    number = np.cumsum(held) - 1
    both = graph.edges[held[graph.edges].all(axis=1)]
    return int(np.abs(np.diff(number[both], axis=1)).max(initial=1))


def _inverse_blocks(matrix: Any, size: int, span: int) -> Floats:
    """(N, size, size) diagonal blocks of the inverse of a block-banded matrix, in time linear in N.

    The band is cut into blocks that meet their neighbours only; each is what is left when all
    before it and all after it are eliminated.
    """
    wide = size * span
    count = -(-matrix.shape[0] // wide)
    spare = count * wide - matrix.shape[0]
    if spare:
        matrix = scipy.sparse.block_diag([matrix, scipy.sparse.eye_array(spare)], format="csc")
    rows = matrix.tocsr()

    def block(a: int, b: int) -> Floats:
        return np.asarray(rows[a * wide : (a + 1) * wide, b * wide : (b + 1) * wide].toarray())

    own = [block(k, k) for k in range(count)]
    off = [block(k + 1, k) for k in range(count - 1)]
    before = [np.zeros((wide, wide))]
    for k in range(count - 1):
        before.append(off[k] @ np.linalg.solve(own[k] - before[k], off[k].T))
    after, found = np.zeros((wide, wide)), []
    for k in range(count - 1, -1, -1):
        found.append(np.linalg.inv(own[k] - before[k] - after))
        if k:
            after = off[k - 1].T @ np.linalg.solve(own[k] - after, off[k - 1])
    blocks = [b for wider in reversed(found) for b in _split(wider, size)]
    return np.stack(blocks[: len(blocks) - spare // size])


def _split(matrix: Floats, size: int) -> Iterator[Floats]:
    for k in range(0, len(matrix), size):
        yield matrix[k : k + size, k : k + size]
