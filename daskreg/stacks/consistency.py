"""How well the pairs of a stack agree: triangle closure, and the error of pairs where the truth is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry.lie import Algebra
from daskreg.stacks.pair_table import PairTable
from daskreg.stacks.pose_graph import PoseGraph, triangle_errors

Floats = NDArray[np.float64]


def pair_consistency(pairs: PairTable, count: int, algebra: Algebra, truth: Floats | None) -> dict[str, float]:
    """Figures of `StackFit.consistency`, by name.

    Args:
        pairs: those that count.
        count: number of slices.
        truth: (N, D+1, D+1) raw_from_clean, or None.
    """
    unknown = np.empty((len(pairs), algebra.size, algebra.size))
    triangles, closure = triangle_errors(PoseGraph(count, pairs.edges, pairs.matrices, unknown, algebra))
    figures = {
        "triangles": float(len(closure)),
        "median": float(np.median(closure)) if len(closure) else float("nan"),
        "worst": float(closure.max()) if len(closure) else float("nan"),
    }
    if truth is None:
        return figures
    true_motions = truth[pairs.edges[:, 1]] @ np.linalg.inv(truth[pairs.edges[:, 0]])
    error = np.linalg.norm(algebra.log(np.linalg.inv(true_motions) @ pairs.matrices), axis=1)
    gap = np.diff(pairs.edges, axis=1)[:, 0]
    figures["pair_error"] = float(np.median(error[gap == gap.min()]))
    if len(triangles):
        ab, bc, ac = triangles.T
        cycle = np.linalg.inv(true_motions[ac]) @ pairs.matrices[bc] @ pairs.matrices[ab]
        figures["cycle_error"] = float(np.median(np.linalg.norm(algebra.log(cycle), axis=1)))
    return figures


def worst_neighbors(pairs: PairTable, metric: str, most: int) -> list[tuple[int, int, float]]:
    """Of each slice and the next one that it is paired with, those that agree least: (slice, next slice, score)."""
    nearest: dict[int, tuple[int, int, float]] = {}
    for (a, b), score in zip(pairs.edges.tolist(), pairs.scores.tolist(), strict=True):
        if a not in nearest or b < nearest[a][1]:
            nearest[a] = (a, b, score)
    sign = 1 if metric == "ncc" else -1
    return sorted(nearest.values(), key=lambda pair: sign * pair[2])[:most]
