"""Points that belong to no surface: strewn about one, they are sparser than it is.

A scan of a surface with a haze of strays around it looks filled, and once voxels have evened out its density, as
many of them are haze as surface. Before that, distances to neighbours tell the two apart.
"""

from __future__ import annotations

import numpy as np

from daskreg.clouds.cloud import Floats
from daskreg.clouds.kdtree import KDTree

# The neighbour whose distance tells how dense a place is, and how many points are looked at to learn that.
_NEIGHBOUR, _LEARNED = 8, 50_000
# Both kinds differ by this factor in the distance, or there is only one.
_APART = 2.0


def without_strays(points: Floats) -> Floats:
    """The denser of two kinds of points (N, D), or all where there is one kind.

    The limit between them is the one that leaves the least variance of logarithms on either side (Otsu 1979).
    """
    some = points[:: -(-len(points) // _LEARNED)]
    if len(some) <= 2 * _NEIGHBOUR:
        return points
    tree = KDTree.of(some)

    def logarithms(asked: Floats) -> Floats:
        distances = tree.query(asked, _NEIGHBOUR + 1)[0][:, -1]
        return np.asarray(np.log(np.maximum(distances, 1e-300)))

    ordered = np.sort(logarithms(some))
    number = np.arange(1, len(ordered))
    below = np.cumsum(ordered)[:-1]
    lower, upper = below / number, (ordered.sum() - below) / (len(ordered) - number)
    split = int(np.argmax(number * (len(ordered) - number) * (upper - lower) ** 2))
    if upper[split] - lower[split] < np.log(_APART):
        return points
    limit = (ordered[split] + ordered[split + 1]) / 2
    return np.asarray(points[logarithms(points) <= limit])
