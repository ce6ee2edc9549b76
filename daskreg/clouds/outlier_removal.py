"""Outliers scattered around a surface; they are sparser than its points.

A scan of a surface with such outliers around it seems to fill a volume, and once voxels have evened out its density,
as many of its points are outliers as belong to the surface. Before that, distances to neighbours tell the two apart.
"""

from __future__ import annotations

import numpy as np

from daskreg.clouds.cloud import Floats
from daskreg.clouds.kdtree import KDTree

# The neighbour whose distance measures the local density, and the number of points that the threshold is found from.
_NEIGHBOUR, _SAMPLE = 8, 50_000
# The two kinds of points differ by at least this factor in that distance; else there is one kind only.
_LEAST_RATIO = 2.0


def remove_outliers(points: Floats) -> Floats:
    """The denser of two kinds of points (N, D), or all points where there is one kind.

    The threshold is the one that leaves the least variance of the logarithms of distances on either side (Otsu 1979).
    """
    sample = points[:: -(-len(points) // _SAMPLE)]
    if len(sample) <= 2 * _NEIGHBOUR:
        return points
    tree = KDTree.of(sample)

    def log_distances(queries: Floats) -> Floats:
        distances = tree.query(queries, _NEIGHBOUR + 1)[0][:, -1]
        return np.asarray(np.log(np.maximum(distances, 1e-300)))

    ordered = np.sort(log_distances(sample))
    number = np.arange(1, len(ordered))
    below = np.cumsum(ordered)[:-1]
    lower, upper = below / number, (ordered.sum() - below) / (len(ordered) - number)
    split = int(np.argmax(number * (len(ordered) - number) * (upper - lower) ** 2))
    if upper[split] - lower[split] < np.log(_LEAST_RATIO):
        return points
    threshold = (ordered[split] + ordered[split + 1]) / 2
    return np.asarray(points[log_distances(points) <= threshold])
