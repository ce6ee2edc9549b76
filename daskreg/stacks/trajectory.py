"""The trajectory of the poses along a stack: shortest paths of pairs, interpolated gaps, and its slow part.

Matrices are homogeneous maps of world points, (N, D+1, D+1), one for each slice. Averages of
poses are averages of the entries of their matrices about a centre, projected back to the model by
`Pose.from_matrices`. This is accurate because neighbours along a stack differ by small rotations.
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


def shortest_path_poses(count: int, edges: Ints, moving_from_fixed: Floats, cost: Floats, *, root: int) -> Floats:
    """Poses composed from pairs along the path of least total cost from one slice to each other slice.

    Args:
        count: number of slices.
        edges: (P, 2) indices (fixed, moving).
        moving_from_fixed: (P, D+1, D+1).
        cost: (P,) positive; infinite for pairs not to be used.
        root: the slice whose pose is the identity.

    Returns: (N, D+1, D+1) slice_from_root, NaN for slices that no path reaches.
    """
    size = moving_from_fixed.shape[-1]
    poses = np.full((count, size, size), np.nan)
    poses[root] = np.eye(size)
    use = np.flatnonzero(np.isfinite(cost))
    number = {(int(edges[k, 0]), int(edges[k, 1])): int(k) for k in use}
    graph: Any = scipy.sparse.csr_array((np.maximum(cost[use], 1e-12), edges[use].T), shape=(count, count))
    distances, predecessors = dijkstra(graph, directed=False, indices=[root], return_predecessors=True)
    distance, predecessor = distances[0], predecessors[0]
    for i in np.argsort(distance, kind="stable").tolist():
        if i == root or not np.isfinite(distance[i]):
            continue
        j = int(predecessor[i])
        forward = (j, i) in number
        k = number[(j, i) if forward else (i, j)]
        motion = moving_from_fixed[k] if forward else np.linalg.inv(moving_from_fixed[k])
        poses[i] = motion @ poses[j]
    return poses


@dataclass(frozen=True)
class PoseProjection:
    """Poses of a model as vectors that can be averaged, and back by projection to the nearest poses.

    pose: the model. centre: (D,) of a slice, world. half_extent: (D,) of a slice, world.
    """

    pose: Pose
    centre: Floats
    half_extent: Floats

    def project(self, matrices: Floats) -> Floats:
        """The poses of the model nearest to (N, D+1, D+1) matrices."""
        parameters = self.pose.from_matrices(matrices, self.centre, self.half_extent)
        return np.asarray(self.pose.matrices(parameters, self.centre).numpy())

    def entries(self, poses: Floats) -> Floats:
        """(N, K) entries of the matrices that act about the centre."""
        to = self._to_centre
        return np.asarray(np.linalg.inv(to) @ poses @ to).reshape(len(poses), -1)

    def from_entries(self, entries: Floats) -> Floats:
        """The poses nearest to (N, K) entries about the centre."""
        to = self._to_centre
        return self.project(to @ entries.reshape(-1, *to.shape) @ np.linalg.inv(to))

    @property
    def _to_centre(self) -> Floats:
        shift = np.eye(len(self.centre) + 1)
        shift[:-1, -1] = self.centre
        return shift


def interpolate_missing(poses: Floats, known: Bools, projection: PoseProjection) -> Floats:
    """The poses, with those that are not known interpolated linearly between those that are.

    Beyond the first and the last known slice the pose is constant.

    Args:
        poses: (N, D+1, D+1); rows that are not known are ignored.
        known: (N,).
    """
    if known.all():
        return poses
    at, index = np.flatnonzero(known), np.arange(len(poses))
    line = np.stack([np.interp(index, at, column) for column in projection.entries(poses[at]).T], axis=1)
    return np.where(known[:, None, None], poses, projection.from_entries(line))


def slow_part(poses: Floats, weight: Floats, period: float, projection: PoseProjection) -> Floats:
    """The part of the trajectory slower than `period` slices (a wave of that period keeps half its amplitude).

    Whittaker's smoother with second differences (Whittaker 1922, Eilers 2003): a straight
    trajectory stays as it is up to both ends, and slices of weight zero are filled in.
    """
    return projection.from_entries(whittaker(projection.entries(poses), weight, period))


def whittaker(values: Floats, weight: Floats, period: float) -> Floats:
    """(N, K) `values` without what changes faster than `period` rows; (N,) `weight` in 0..1."""
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
