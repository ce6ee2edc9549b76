"""The course of poses along a stack: chain pairs, bridge gaps, and tell slow from fast.

Matrices are homogeneous maps of world points, (N, D+1, D+1), one for each slice. Averages
of poses are averages of their matrices about a centre, brought back to the model by
`Pose.from_matrices`; neighbours along a stack turn little against each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.csgraph import dijkstra

from daskreg.registration.pose import Pose

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]


def chained(count: int, edges: Ints, moving_from_fixed: Floats, cost: Floats, *, root: int) -> Floats:
    """Compose pairs outwards from one slice, along the way of least total cost.

    Args:
        count: number of slices.
        edges: (P, 2) indices (fixed, moving).
        moving_from_fixed: (P, D+1, D+1).
        cost: (P,) positive; infinite for pairs not to be used.
        root: the slice whose pose is the identity.

    Returns: (N, D+1, D+1) slice_from_root, NaN where no way leads.
    """
    size = moving_from_fixed.shape[-1]
    poses = np.full((count, size, size), np.nan)
    poses[root] = np.eye(size)
    use = np.flatnonzero(np.isfinite(cost))
    number = {(int(edges[k, 0]), int(edges[k, 1])): int(k) for k in use}
    graph: Any = scipy.sparse.csr_array((np.maximum(cost[use], 1e-12), edges[use].T), shape=(count, count))
    found, ways = dijkstra(graph, directed=False, indices=[root], return_predecessors=True)
    distance, before = found[0], ways[0]
    for i in np.argsort(distance, kind="stable").tolist():
        if i == root or not np.isfinite(distance[i]):
            continue
        j = int(before[i])
        forward = (j, i) in number
        k = number[(j, i) if forward else (i, j)]
        step = moving_from_fixed[k] if forward else np.linalg.inv(moving_from_fixed[k])
        poses[i] = step @ poses[j]
    return poses


@dataclass(frozen=True)
class Frame:
    """What averages of poses need: the model, the centre of a slice and half its extents (world)."""

    pose: Pose
    centre: Floats
    reach: Floats

    def nearest(self, matrices: Floats) -> Floats:
        """The poses of the model nearest to (N, D+1, D+1) matrices."""
        found = self.pose.from_matrices(matrices, self.centre, self.reach)
        return np.asarray(self.pose.matrices(found, self.centre).numpy())

    def entries(self, poses: Floats) -> Floats:
        """(N, K) entries of the matrices that act about the centre."""
        to = self._to_centre
        return np.asarray(np.linalg.inv(to) @ poses @ to).reshape(len(poses), -1)

    def poses(self, entries: Floats) -> Floats:
        """The poses nearest to (N, K) entries about the centre."""
        to = self._to_centre
        return self.nearest(to @ entries.reshape(-1, *to.shape) @ np.linalg.inv(to))

    @property
    def _to_centre(self) -> Floats:
        shift = np.eye(len(self.centre) + 1)
        shift[:-1, -1] = self.centre
        return shift


def bridged(poses: Floats, found: Bools, frame: Frame) -> Floats:
    """Poses of the slices that were not found, in a straight line between those that were.

    Args:
        poses: (N, D+1, D+1); rows that were not found are not looked at.
        found: (N,).
    """
    if found.all():
        return poses
    known, index = np.flatnonzero(found), np.arange(len(poses))
    line = np.stack([np.interp(index, known, column) for column in frame.entries(poses[known]).T], axis=1)
    return np.where(found[:, None, None], poses, frame.poses(line))


def slow_part(poses: Floats, weight: Floats, period: float, frame: Frame) -> Floats:
    """The course of the poses slower than `period` slices (half the amplitude there).

    Whittaker's smoother with second differences (Whittaker 1922, Eilers 2003): a straight
    course is kept as it is up to both ends, and slices of weight zero are filled in.
    """
    return frame.poses(whittaker(frame.entries(poses), weight, period))


def whittaker(values: Floats, weight: Floats, period: float) -> Floats:
    """(N, K) `values` without what is faster than `period` rows; (N,) `weight` in 0..1."""
    n = len(values)
    if np.count_nonzero(weight) < 3:
        return values
    stiffness = (2 - 2 * np.cos(2 * np.pi / max(period, 2.0))) ** -2
    difference = scipy.sparse.diags_array([1.0, -2.0, 1.0], offsets=[0, 1, 2], shape=(n - 2, n))
    penalty = stiffness * (difference.T @ difference)
    banded = np.zeros((3, n))
    for k in range(3):
        banded[2 - k, k:] = penalty.diagonal(k)
    banded[2] += weight
    return np.asarray(scipy.linalg.solveh_banded(banded, values * weight[:, None]))
