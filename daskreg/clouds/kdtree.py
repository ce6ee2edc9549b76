"""A k-d tree in 2D and 3D, for many questions about few neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskreg.clouds.kdtree_numba import grow, nearest
from daskreg.runtime.threads import pool_threads, shares, spread

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LEAF = 10
# Fewer answers are not worth waking a thread for.
_MANY = 4000
# Points from which a tree is grown by several threads, and more than the levels of any.
_LARGE, _DEEP = 30_000, 64


@dataclass(frozen=True, eq=False)
class Tree:
    """Points (N, D) sorted into the leaves of a tree; see `tree_numba.grow`.

    Attributes:
        points: (N, 3) in the order of the leaves, 2D ones with a third coordinate of zero.
        order: (N,) their rows.
        first, axes, cuts: the nodes.
        settled: whether the points came in that order, so that order is 0, 1, ...
    """

    points: Floats
    order: Ints
    first: Ints
    axes: Ints
    cuts: Floats
    settled: bool = False

    @classmethod
    def of(cls, points: Floats) -> Tree:
        points = solid(points)
        inner = 1
        while inner * _LEAF < len(points):
            inner *= 2
        inner -= 1
        order = np.arange(len(points))
        first = np.empty((2 * inner + 1, 2), dtype=np.int64)
        axes, cuts = np.empty(inner, dtype=np.int64), np.empty(inner)
        points = points.copy()
        first[0] = 0, len(points)
        alone = max(pool_threads() - 1, 0).bit_length() if len(points) > _LARGE else 0
        # The first levels at once, and what is below each of the last of these nodes by itself.
        grow(points, order, first, axes, cuts, 0, alone or _DEEP)
        if alone:
            roots = range(2**alone - 1, 2 ** (alone + 1) - 1)
            spread(pool_threads(), lambda root: grow(points, order, first, axes, cuts, root, _DEEP), roots)
        return cls(points, order, first, axes, cuts)

    def in_order(self) -> Tree:
        """The tree of the points in the order of the leaves."""
        return replace(self, order=np.arange(len(self.order)), settled=True)

    def query(self, asked: Floats, count: int, *, limit: float = np.inf) -> tuple[Floats, Ints]:
        """(N, count) distances, ascending, and rows of the nearest of each; infinity and N beyond the limit."""
        asked = solid(asked)
        distances, rows = np.empty((len(asked), count)), np.empty((len(asked), count), dtype=np.int64)
        tree = self.points, self.order, self.first, self.axes, self.cuts

        def part(a: int, b: int) -> None:
            nearest(asked[a:b], tree, limit**2, distances[a:b], rows[a:b])
            np.sqrt(distances[a:b], out=distances[a:b])

        if len(asked) * count < _MANY:
            part(0, len(asked))
        else:
            shares(part, len(asked))
        return distances, rows

    def query_own(self, count: int) -> tuple[Floats, Ints]:
        """Of its own points; neighbours are asked for one after the other, which caches like."""
        distances, rows = self.query(self.points, count)
        if self.settled:
            return distances, rows
        sorted_distances, sorted_rows = np.empty_like(distances), np.empty_like(rows)
        sorted_distances[self.order], sorted_rows[self.order] = distances, rows
        return sorted_distances, sorted_rows


def solid(points: Floats) -> Floats:
    """(N, 3), where 2D points get a zero."""
    if points.shape[1] == 3:
        return np.ascontiguousarray(points, dtype=np.float64)
    return np.column_stack([points, np.zeros(len(points))])
