"""Nearest points for queries that move little from one time to the next, as in the rounds of ICP."""

from __future__ import annotations

import numpy as np

from daskreg.clouds.cloud import Cloud, Floats, Ints
from daskreg.clouds.cloud_numba import nearest_of_cached

# Nearest points that are stored for each query.
_STORED = 4


class CachedSearch:
    """Nearest points of a cloud for the same rows of points each time.

    The few points that were nearest at the last search of the tree are stored. One of them is still the nearest as
    long as it is nearer than any other point can have become by the motion since then (after Nuchter et al.,
    "Cached k-d tree search", 2007). Other queries search the tree again.
    """

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.searched: Floats | None = None  # the queries, where they were when the tree was searched

    def __call__(self, points: Floats) -> tuple[Floats, Ints]:
        """As `Cloud.nearest`."""
        cloud = self.cloud
        if cloud.device != "cpu" or len(cloud) <= _STORED:
            return cloud.nearest(points)
        if self.searched is None:
            self.searched = points.copy()
            self.stored = cloud.tree.query(points, _STORED)
            distances, rows = self.stored
            return distances[:, 0].copy(), rows[:, 0].copy()
        distances, rows = np.empty(len(points)), np.empty(len(points), dtype=np.int64)
        unsure = np.empty(len(points), dtype=np.bool_)
        nearest_of_cached(points, self.searched, *self.stored, cloud.points, rows, distances, unsure)
        again = np.flatnonzero(unsure)
        if len(again):
            found_distances, found_rows = cloud.tree.query(points[again], _STORED)
            self.searched[again] = points[again]
            self.stored[0][again], self.stored[1][again] = found_distances, found_rows
            distances[again], rows[again] = found_distances[:, 0], found_rows[:, 0]
        return distances, rows
