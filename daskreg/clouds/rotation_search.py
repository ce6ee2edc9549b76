"""Candidate poses where no initial pose is known: every rotation is tried, and most are dropped early.

All candidates run some iterations of trimmed point-to-point ICP. Nearest points come from a table over a grid of
cells (by a distance transform from the occupied cells), which costs one look-up for each point. The best candidates of
each stage continue with more points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from daskreg.clouds.cloud import Floats, robust_radius, without_far_points
from daskreg.clouds.icp import count_after_trim, homogeneous
from daskreg.clouds.icp_numba import trimmed_icp
from daskreg.geometry.rotations import plane_rotation, super_fibonacci_rotations
from daskreg.runtime.threads import shares

# (candidates, points of the source, iterations of ICP) of each stage; None: all candidates.
_STAGES = ((None, 48, 2), (512, 160, 6), (64, 400, 12))
# Of the search for symmetries: cells along the longest axis of the table, directions of axes, stages as above, and the
# trim. After a stage, poses with a root mean square distance above so many times that of the given pose are dropped.
_SYMMETRY_CELLS, _SYMMETRY_AXES, _SYMMETRY_TRIM = {2: 128, 3: 28}, 80, 0.35
_SYMMETRY_STAGES = ((None, 48, 4, 4.0), (24, 160, 6, 2.5), (24, 160, 6, 2.5))
_ALIKE = {2: 2.0, 3: 1.45}


@dataclass(frozen=True, eq=False)
class NearestTable:
    """The nearest point of a cloud, to within a cell, by look-up in a grid.

    Attributes:
        low: (D,) corner of the grid, which has a margin around the cloud.
        cell: side of a cell.
        shape: cells along each axis.
        nearest: (cells, D) float32, the mean of the points in the nearest occupied cell.
    """

    low: Floats
    cell: float
    shape: tuple[int, ...]
    nearest: NDArray[np.float32]

    @classmethod
    def of(cls, points: Floats, cells: int = 0) -> NearestTable:
        """A table with `cells` along the longest axis (default: 48 in 3D, 256 in 2D)."""
        ndim = points.shape[1]
        low, high = points.min(axis=0), points.max(axis=0)
        margin = 0.25 * float(np.linalg.norm(high - low))
        cell = float(np.max(high - low + 2 * margin)) / (cells or (256 if ndim == 2 else 48))
        shape = tuple(int(n) for n in np.ceil((high - low + 2 * margin) / cell) + 1)
        flat = np.ravel_multi_index(tuple(((points - low + margin) / cell).astype(np.int64).T), shape)
        size = int(np.prod(shape))
        counts = np.bincount(flat, minlength=size)
        sums = np.stack([np.bincount(flat, column, minlength=size) for column in points.T], axis=1)
        means = sums / np.maximum(counts, 1)[:, None]
        occupied = ndimage.distance_transform_edt(
            (counts == 0).reshape(shape), return_distances=False, return_indices=True
        )
        rows = np.ravel_multi_index(tuple(occupied.reshape(ndim, -1)), shape)
        return cls(low - margin, cell, shape, means[rows].astype(np.float32))


def rotations(ndim: int, step: float = 15.0) -> Floats:
    """(N, D, D) rotations such that any rotation is within about `step` degrees of one of them.

    2D: the circle. 3D: super-Fibonacci spirals, a deterministic and nearly even covering of
    SO(3) (Alexa, "Super-Fibonacci Spirals", CVPR 2022). The identity comes first.
    """
    if ndim == 2:
        angle = np.radians(np.arange(0.0, 360.0, step))
        return np.stack([plane_rotation(a) for a in angle])
    return np.concatenate([np.eye(3)[None], super_fibonacci_rotations(round(4600 * (15.0 / step) ** 3))])


def search_rotations(
    target: Floats,
    source: Floats,
    *,
    scale: float = 1.0,
    trims: Sequence[float] = (0.1, 0.35),
    seed: int = 0,
    count: int = 6,
) -> Floats:
    """The best candidate poses, (N, D+1, D+1), target from source: up to `count` for each trim.

    Args:
        target, source: (N, D) points, any numbers of rows.
        scale: of the candidates.
        trims: shares of the correspondences left out as the worst. A small one uses the most of clouds
            that overlap well, a large one is robust to outliers; neither finds all poses.
        seed: of the random subsets of `source`.
    """
    table = NearestTable.of(without_far_points(target))
    extent = robust_radius(target)
    points = np.random.default_rng(seed).permutation(source)
    target_centre, source_centre = robust_centre(target), robust_centre(source)
    turns = scale * rotations(target.shape[1])
    all_candidates = np.stack([homogeneous(turn, target_centre - turn @ source_centre) for turn in turns])
    found = []
    for trim in trims:
        candidates = all_candidates
        for most, used, iterations in _STAGES:
            candidates, scores = advance(table, points[:used], candidates[:most], iterations, trim)
            candidates = candidates[np.argsort(scores, kind="stable")]
            # Nearly all candidates of the first stage still differ, and there are too many to compare.
            candidates = candidates if most is None else distinct_poses(candidates, extent)
        found.append(candidates[:count])
    return np.concatenate(found)


def symmetric_poses(target: Floats, source: Floats, pose: Floats, *, seed: int = 0) -> Floats:
    """(S, D+1, D+1) other poses that may fit as well as `pose`, because the body has a symmetry; the best first.

    The source is turned about its centre: in 2D by any angle. In 3D by 180 degrees about any axis, and by the third,
    fifth and seventh part of a turn about its principal axes: every group of rotations of a body has one of them
    (those of prisms and of Platonic solids have half-turns; one axis alone is a principal one), up to 11-fold axes.
    """
    ndim = target.shape[1]
    table = NearestTable.of(without_far_points(target), _SYMMETRY_CELLS[ndim])
    points = np.random.default_rng(seed).permutation(source)
    centre, extent = robust_centre(source), robust_radius(target)
    candidates = np.tile(pose, (1 + len(turns := _turns_of_symmetries(points - centre)), 1, 1))
    candidates[1:, :-1, :-1] = pose[:-1, :-1] @ turns
    candidates[1:, :-1, -1] += (pose[:-1, :-1] - candidates[1:, :-1, :-1]) @ centre
    for most, used, iterations, limit in _SYMMETRY_STAGES:
        candidates, scores = advance(table, points[:used], candidates[:most], iterations, _SYMMETRY_TRIM)
        order = np.r_[0, 1 + np.argsort(scores[1:], kind="stable")]
        order = order[scores[order] <= limit**2 * scores[0]]
        candidates = distinct_poses(candidates[order], extent, angle=15.0, shift=0.2)
        if len(candidates) == 1:
            return candidates[1:]
    candidates, scores = advance(table, points[:used], candidates, 1, _SYMMETRY_TRIM)
    return np.asarray(candidates[1:][scores[1:] <= _ALIKE[ndim] ** 2 * scores[0]])


def _turns_of_symmetries(points: Floats) -> Floats:
    """(N, D, D) rotations; see `symmetric_poses`."""
    if points.shape[1] == 2:
        return rotations(2)[1:]
    number = np.arange(_SYMMETRY_AXES) + 0.5
    height, angle = number / _SYMMETRY_AXES, np.pi * (1 + np.sqrt(5)) * number  # a spiral over half of the sphere
    around = np.sqrt(1 - height**2)
    axis = np.stack([around * np.cos(angle), around * np.sin(angle), height], axis=1)
    half_turns = 2 * np.einsum("ni,nj->nij", axis, axis) - np.eye(3)
    near = without_far_points(points, limit=3.0)
    axes = np.linalg.eigh(near.T @ near)[1]
    frames = np.stack([np.roll(axes * [np.linalg.det(axes), 1, 1], first, axis=1) for first in range(3)])
    parts = [plane_rotation(2 * np.pi / count, ndim=3) for count in (2, 3, 5, 7)]
    return np.concatenate([half_turns, *(frames @ turn @ frames.swapaxes(1, 2) for turn in parts)])


def robust_centre(points: Floats) -> Floats:
    """The mean without far points, so that outliers do not change it."""
    return np.asarray(without_far_points(points, limit=3.0).mean(axis=0))


def advance(
    table: NearestTable, source: Floats, candidates: Floats, iterations: int, trim: float
) -> tuple[Floats, Floats]:
    """`iterations` of trimmed ICP from every candidate; the poses and their trimmed mean squares."""
    matrices, scores = candidates.copy(), np.empty(len(candidates))
    points, shape = np.ascontiguousarray(source), np.array(table.shape)
    used = count_after_trim(trim, *points.shape)

    def part(first: int, stop: int) -> None:
        grid = table.nearest, table.low, table.cell, shape
        scores[first:stop] = trimmed_icp(*grid, points, matrices[first:stop], iterations, used)

    shares(part, len(candidates))
    return matrices, scores


def distinct_poses(matrices: Floats, extent: float, *, angle: float = 5.0, shift: float = 0.05) -> Floats:
    """Those poses that are not near an earlier one that is in the result (`angle` in degrees, `shift` of `extent`)."""
    flat = matrices[:, :-1, :-1].reshape(len(matrices), -1)
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    # For rotations R, Q in D dimensions, |R - Q| = 2 sqrt(2) sin(angle / 2) in Frobenius norm.
    turned = 2 - 2 * flat @ flat.T < (8 / (matrices.shape[1] - 1)) * np.sin(np.radians(angle) / 2) ** 2
    offsets = matrices[:, :-1, -1]
    moved = np.linalg.norm(offsets[:, None] - offsets[None], axis=-1) < shift * extent
    alike = turned & moved
    chosen, near_chosen = list[int](), np.zeros(len(matrices), dtype=bool)
    for i in range(len(matrices)):
        if not near_chosen[i]:
            chosen.append(i)
            near_chosen |= alike[i]
    return matrices[chosen]
