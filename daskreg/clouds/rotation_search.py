"""Where to start ICP when nothing is known: every rotation is tried, most are dropped early.

All starts advance by trimmed point-to-point ICP. Nearest points come
from a table of cells (the distance transform of the occupied ones), which costs a look-up
a point; the survivors of each round go on with more points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from daskreg.clouds.cloud import Floats, core, radius
from daskreg.clouds.icp import homogeneous, kept_after
from daskreg.clouds.icp_numba import advance as advance_all
from daskreg.geometry.rotations import plane_rotation, super_fibonacci_rotations
from daskreg.runtime.threads import shares

# (starts kept, points of the source, rounds of ICP) of each stage.
_STAGES = ((None, 48, 2), (512, 160, 6), (64, 400, 12))


@dataclass(frozen=True, eq=False)
class NearestTable:
    """The nearest point of a cloud, to within a cell, by look-up.

    Attributes:
        low: corner of the table, one padding below the cloud.
        cell: side of a cell.
        shape: cells along each axis.
        near: (cells, D) float32, the mean of the points in the nearest occupied cell.
    """

    low: Floats
    cell: float
    shape: tuple[int, ...]
    near: NDArray[np.float32]

    @classmethod
    def of(cls, points: Floats, cells: int = 0) -> NearestTable:
        """A table with `cells` along the longest axis (default: 48 in 3D, 256 in 2D)."""
        ndim = points.shape[1]
        low, high = points.min(axis=0), points.max(axis=0)
        padding = 0.25 * float(np.linalg.norm(high - low))
        cell = float(np.max(high - low + 2 * padding)) / (cells or (256 if ndim == 2 else 48))
        shape = tuple(int(n) for n in np.ceil((high - low + 2 * padding) / cell) + 1)
        flat = np.ravel_multi_index(tuple(((points - low + padding) / cell).astype(np.int64).T), shape)
        size = int(np.prod(shape))
        counts = np.bincount(flat, minlength=size)
        sums = np.stack([np.bincount(flat, column, minlength=size) for column in points.T], axis=1)
        means = sums / np.maximum(counts, 1)[:, None]
        occupied = ndimage.distance_transform_edt(
            (counts == 0).reshape(shape), return_distances=False, return_indices=True
        )
        nearest = np.ravel_multi_index(tuple(occupied.reshape(ndim, -1)), shape)
        return cls(low - padding, cell, shape, means[nearest].astype(np.float32))


def rotations(ndim: int, step: float = 15.0) -> Floats:
    """(N, D, D) rotations no two neighbours of which are further apart than about `step` degrees.

    2D: the circle. 3D: super-Fibonacci spirals, a deterministic, nearly even covering of
    SO(3) (Alexa, "Super-Fibonacci Spirals", CVPR 2022). The identity comes first.
    """
    if ndim == 2:
        angle = np.radians(np.arange(0.0, 360.0, step))
        return np.stack([plane_rotation(a) for a in angle])
    return np.concatenate([np.eye(3)[None], super_fibonacci_rotations(round(4600 * (15.0 / step) ** 3))])


def sweep(
    target: Floats,
    source: Floats,
    *,
    scale: float = 1.0,
    trims: Sequence[float] = (0.1, 0.35),
    seed: int = 0,
    count: int = 6,
) -> Floats:
    """The most promising starts, (N, D+1, D+1), target from source: up to `count` for each trim.

    Args:
        target, source: (N, D) points, any numbers of rows.
        scale: of the starts.
        trims: shares of the pairs left out as the worst. A small one sees the most of clouds
            that overlap well, a large one copes with outliers; neither finds all.
        seed: of the random subsets of `source`.
    """
    table = NearestTable.of(core(target))
    extent = radius(target)
    points = np.random.default_rng(seed).permutation(source)
    centre_t, centre_s = centre(target), centre(source)
    turns = scale * rotations(target.shape[1])
    everywhere = np.stack([homogeneous(turn, centre_t - turn @ centre_s) for turn in turns])
    found = []
    for trim in trims:
        starts = everywhere
        for kept, used, rounds in _STAGES:
            starts, scores = advance(table, points[:used], starts[:kept], rounds, trim)
            starts = starts[np.argsort(scores, kind="stable")]
            # Nearly all starts of the first round still differ, and there are too many to compare.
            starts = starts if kept is None else distinct(starts, extent)
        found.append(starts[:count])
    return np.concatenate(found)


def centre(points: Floats) -> Floats:
    """The mean of the core, which outliers do not pull away."""
    return np.asarray(core(points, reach=3.0).mean(axis=0))


def advance(table: NearestTable, source: Floats, starts: Floats, rounds: int, trim: float) -> tuple[Floats, Floats]:
    """`rounds` of trimmed ICP from every start; the motions and their trimmed mean squares."""
    matrices, scores = starts.copy(), np.empty(len(starts))
    points, shape = np.ascontiguousarray(source), np.array(table.shape)
    kept = kept_after(trim, *points.shape)

    def part(first: int, stop: int) -> None:
        found = advance_all(table.near, table.low, table.cell, shape, points, matrices[first:stop], rounds, kept)
        scores[first:stop] = found

    shares(part, len(starts))
    return matrices, scores


def distinct(matrices: Floats, extent: float, *, angle: float = 5.0, shift: float = 0.05) -> Floats:
    """Those that are not near one further up the list (`angle` in degrees, `shift` of `extent`)."""
    flat = matrices[:, :-1, :-1].reshape(len(matrices), -1)
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    # For rotations R, Q in D dimensions, |R - Q| = 2 sqrt(2) sin(angle / 2) in Frobenius norm.
    turned = 2 - 2 * flat @ flat.T < (8 / (matrices.shape[1] - 1)) * np.sin(np.radians(angle) / 2) ** 2
    offsets = matrices[:, :-1, -1]
    moved = np.linalg.norm(offsets[:, None] - offsets[None], axis=-1) < shift * extent
    alike = turned & moved
    chosen: list[int] = []
    for i in range(len(matrices)):
        if not alike[i, chosen].any():
            chosen.append(i)
    return matrices[chosen]
