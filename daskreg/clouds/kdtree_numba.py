"""The loops of a k-d tree: building it, and asking for nearest points.

A balanced tree over points (N, 3), of which those of a leaf lie next to each other. Compiled without the
GIL and without threads of its own; callers share rows among a small pool, and every result is
independent of how they were shared.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import jit

# More than the levels of any tree.
_DEEP = 64


@jit
def grow(points: Any, order: Any, first: Any, axes: Any, cuts: Any, root: Any, levels: Any) -> None:
    """Sort points and their rows into leaves: n has the parts 2 n + 1 and 2 n + 2, halves across the widest axis.

    Args:
        points: (N, 3), to sort.
        order: (N,) rows, to sort alike.
        first: (nodes, 2), to fill with where the rows of a node begin and end; those of the root are given.
        axes, cuts: (inner nodes,), to fill with the axis that a node is cut across, and where.
        root, levels: the node to begin with, and how many levels to cut.
    """
    for level in range(levels):
        begins = (root + 1) * 2**level - 1
        if begins >= len(axes):
            return
        for node in range(begins, begins + 2**level):
            begin, end = first[node]
            axis = _widest(points, begin, end)
            middle = (begin + end) // 2
            _halve(points, order, axis, begin, end - 1, middle)
            axes[node], cuts[node] = axis, points[middle, axis]
            first[2 * node + 1, 0], first[2 * node + 1, 1] = begin, middle
            first[2 * node + 2, 0], first[2 * node + 2, 1] = middle, end


@jit
def _widest(points: Any, begin: Any, end: Any) -> Any:
    """The axis along which the points reach furthest."""
    x0 = y0 = z0 = np.inf
    x1 = y1 = z1 = -np.inf
    for i in range(begin, end):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        # Comparisons as processors make them: min and max also look for NaN.
        x0, y0, z0 = x if x < x0 else x0, y if y < y0 else y0, z if z < z0 else z0
        x1, y1, z1 = x if x > x1 else x1, y if y > y1 else y1, z if z > z1 else z1
    width = max(x1 - x0, y1 - y0, z1 - z0)
    return 0 if x1 - x0 == width else 1 if y1 - y0 == width else 2


@jit
def _halve(points: Any, order: Any, axis: Any, left: Any, right: Any, middle: Any) -> None:
    """Sort so far that what comes before `middle` is not above it, and what comes after not below (Hoare's find)."""
    while left < right:
        a, b, c = points[left, axis], points[(left + right) // 2, axis], points[right, axis]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = left, right
        while i <= j:
            while points[i, axis] < pivot:
                i += 1
            while points[j, axis] > pivot:
                j -= 1
            if i <= j:
                for d in range(3):
                    points[i, d], points[j, d] = points[j, d], points[i, d]
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if j < middle:
            left = i
        if middle < i:
            right = j


@jit
def nearest(asked: Any, tree: Any, limit: Any, squares: Any, rows: Any) -> None:
    """Fill squared distances (N, K), ascending, and rows (N, K) of the K nearest of each of `asked` (N, 3).

    Args:
        tree: ordered points (M, 3), order, first, axes, cuts.
        limit: the square below which to look; infinity and M where there is none.
    """
    points, order, first, axes, cuts = tree
    inner, count = len(axes), squares.shape[1]
    nodes, gaps, aside = np.empty(_DEEP, dtype=np.int64), np.empty(_DEEP), np.empty((_DEEP, 3))
    best, found = np.empty(count), np.empty(count, dtype=np.int64)
    last = count - 1
    for q in range(len(asked)):
        x, y, z = asked[q, 0], asked[q, 1], asked[q, 2]
        best[:], found[:] = limit, -1
        nodes[0], gaps[0], aside[0, 0], aside[0, 1], aside[0, 2] = 0, 0.0, 0.0, 0.0, 0.0
        top = 1
        while top:
            top -= 1
            node, gap = nodes[top], gaps[top]
            if gap >= best[last]:
                continue
            a, b, c = aside[top, 0], aside[top, 1], aside[top, 2]
            while node < inner:
                axis = axes[node]
                off = (x if axis == 0 else y if axis == 1 else z) - cuts[node]
                before = a if axis == 0 else b if axis == 1 else c
                beyond = gap - before * before + off * off
                near = 2 * node + (1 if off < 0 else 2)
                if beyond < best[last]:
                    nodes[top], gaps[top] = 4 * node + 3 - near, beyond
                    aside[top, 0], aside[top, 1], aside[top, 2] = a, b, c
                    aside[top, axis] = off
                    top += 1
                node = near
            for i in range(first[node, 0], first[node, 1]):
                u, v, w = x - points[i, 0], y - points[i, 1], z - points[i, 2]
                square = u * u + v * v + w * w
                if square < best[last]:
                    at = last
                    while at > 0 and best[at - 1] > square:
                        best[at], found[at] = best[at - 1], found[at - 1]
                        at -= 1
                    best[at], found[at] = square, i
        for k in range(count):
            missing = found[k] < 0
            squares[q, k] = np.inf if missing else best[k]
            rows[q, k] = len(order) if missing else order[found[k]]
