"""The loops of a k-d tree: building it, and queries of nearest points.

The tree is balanced, over points (N, 3); the points of a leaf lie next to each other. The code is compiled to run
without the GIL and has no threads of its own; callers divide the rows among a small pool. No result depends
on how they are divided.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import inner, jit

# No tree has more levels.
_MAX_LEVELS = 64


@jit
def build(points: Any, order: Any, ranges: Any, axes: Any, cuts: Any, root: Any, levels: Any) -> None:
    """Sort points and their rows into leaves. Node n is halved across its widest axis into nodes 2 n + 1 and 2 n + 2.

    Args:
        points: (N, 3), sorted in place.
        order: (N,) rows, sorted in the same way.
        ranges: (nodes, 2), filled with the first row and the end of the rows of each node; of the root they are inputs.
        axes, cuts: (inner nodes,), filled with the axis that a node is cut across, and the coordinate of the cut.
        root, levels: the node to begin with, and how many levels to cut.
    """
    for level in range(levels):
        first = (root + 1) * 2**level - 1
        if first >= len(axes):
            return
        for node in range(first, first + 2**level):
            begin, end = ranges[node]
            axis = _widest_axis(points, begin, end)
            middle = (begin + end) // 2
            _partition(points, order, axis, begin, end - 1, middle)
            axes[node], cuts[node] = axis, points[middle, axis]
            ranges[2 * node + 1, 0], ranges[2 * node + 1, 1] = begin, middle
            ranges[2 * node + 2, 0], ranges[2 * node + 2, 1] = middle, end


@inner
def _widest_axis(points: Any, begin: Any, end: Any) -> Any:
    """The axis along which the extent of the points is largest."""
    x0 = y0 = z0 = np.inf
    x1 = y1 = z1 = -np.inf
    for i in range(begin, end):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        # Plain comparisons: min and max would also test for NaN.
        x0, y0, z0 = x if x < x0 else x0, y if y < y0 else y0, z if z < z0 else z0
        x1, y1, z1 = x if x > x1 else x1, y if y > y1 else y1, z if z > z1 else z1
    width = max(x1 - x0, y1 - y0, z1 - z0)
    return 0 if x1 - x0 == width else 1 if y1 - y0 == width else 2


@inner
def _partition(points: Any, order: Any, axis: Any, left: Any, right: Any, middle: Any) -> None:
    """Partial sort along an axis: rows before `middle` are not above it, rows after it not below (Hoare's FIND)."""
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
def nearest(queries: Any, tree: Any, limit: Any, squares: Any, rows: Any) -> None:
    """Fill squared distances (N, K), ascending, and rows (N, K) of the K points nearest to each query (N, 3).

    Args:
        tree: sorted points (M, 3), order, ranges, axes, cuts; see `build`.
        limit: only points at a smaller squared distance count; infinity and M where there are fewer than K.
    """
    points, order, ranges, axes, cuts = tree
    inner, count = len(axes), squares.shape[1]
    # A stack of nodes still to visit: the squared distance from the query to each node's box, and its part per axis.
    nodes, gaps, offsets = np.empty(_MAX_LEVELS, dtype=np.int64), np.empty(_MAX_LEVELS), np.empty((_MAX_LEVELS, 3))
    best, found = np.empty(count), np.empty(count, dtype=np.int64)
    last = count - 1
    for q in range(len(queries)):
        x, y, z = queries[q, 0], queries[q, 1], queries[q, 2]
        best[:], found[:] = limit, -1
        nodes[0], gaps[0], offsets[0, 0], offsets[0, 1], offsets[0, 2] = 0, 0.0, 0.0, 0.0, 0.0
        top = 1
        while top:
            top -= 1
            node, gap = nodes[top], gaps[top]
            if gap >= best[last]:
                continue
            a, b, c = offsets[top, 0], offsets[top, 1], offsets[top, 2]
            while node < inner:
                axis = axes[node]
                off = (x if axis == 0 else y if axis == 1 else z) - cuts[node]
                before = a if axis == 0 else b if axis == 1 else c
                beyond = gap - before * before + off * off
                near = 2 * node + (1 if off < 0 else 2)
                if beyond < best[last]:
                    nodes[top], gaps[top] = 4 * node + 3 - near, beyond
                    offsets[top, 0], offsets[top, 1], offsets[top, 2] = a, b, c
                    offsets[top, axis] = off
                    top += 1
                node = near
            for i in range(ranges[node, 0], ranges[node, 1]):
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
