"""Slices of a stack against one image: a chosen slice, or the mean of the aligned slices.

In batches, read as they are needed. Both give `Found`: a pose for each slice,
raw_from_aligned, and what is known of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.errors import DegenerateImageError
from daskreg.geometry import Box, Grid, index_matrix
from daskreg.registration.multiresolution import Descent, half_extent
from daskreg.sampling.sample import sample
from daskreg.stacks.pair_registration import PairOptions, batch_size, fit_pairs
from daskreg.stacks.pair_table import PairTable, reliable, table_of
from daskreg.stacks.trajectory import PoseProjection, interpolate_missing

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ROUNDS = 4  # of the mean, at most
_STILL = 0.05  # voxels by which the mean's slices still move when it stops


@dataclass(frozen=True)
class Slices:
    """The slices, and how they are fitted.

    read: indices -> (B, *shape with axes of length one) float32, NaN where nothing counts.
    grid: of a slice as read, without axes of length one. centre: world point about which
    poses are given.
    """

    read: Callable[[Sequence[int]], NDArray[np.float32]]
    count: int
    grid: Grid
    centre: Floats
    options: PairOptions
    progress: Callable[[int, int], None] | None = None

    @property
    def frame(self) -> PoseProjection:
        return PoseProjection(self.options.pose, self.centre, half_extent(self.grid))

    @property
    def batch(self) -> int:
        return batch_size(self.grid, self.options.device)

    def tensor(self, indices: Sequence[int]) -> torch.Tensor:
        values = self.read(indices)
        return torch.from_numpy(np.ascontiguousarray(values)).reshape(len(values), *self.grid.shape)

    def done(self, count: int, total: int) -> None:
        if self.progress is not None:
            self.progress(count, total)


@dataclass(frozen=True)
class Found:
    """One row for each slice.

    poses: (N, D+1, D+1) raw_from_aligned. fitted: placed by a fit, not by its neighbours.
    blank: without contrast. scores: (N,). covariance: (N, P, P) of the free parameters.
    """

    poses: Floats
    fitted: Bools
    blank: Bools
    scores: Floats
    covariance: Floats


def against_one(slices: Slices, root: int | None) -> Found:
    """Each slice against slice `root`, or against the first that is not blank.

    Raises: DegenerateImageError where slice `root` is blank.
    """
    fixed: torch.Tensor | None = None
    if root is not None:
        fixed = slices.tensor([root])
        if blank_images(fixed)[0]:
            raise DegenerateImageError(f"slice {root}, the reference, is constant; choose another")
    edges: list[tuple[int, int]] = []
    fits: list[Descent] = []
    blank = np.zeros(slices.count, bool)
    for first in range(0, slices.count, slices.batch):
        indices = range(first, min(first + slices.batch, slices.count))
        images = slices.tensor(indices)
        flat = blank_images(images)
        blank[indices.start : indices.stop] = flat
        if fixed is None and not flat.all():
            at = int(np.argmin(flat))
            root, fixed = first + at, images[at : at + 1].clone()
        moving = [i for i in indices if not flat[i - first] and i != root]
        if fixed is not None and moving:
            fits += fit_pairs(fixed, images[[i - first for i in moving]], slices.grid, slices.options)
            edges += [(int(root or 0), i) for i in moving]
        slices.done(indices.stop, slices.count)
    return _composed_on(slices, table_of(edges, fits), blank, root) if fits else _nothing(slices, blank)


def against_mean(slices: Slices, found: Found) -> Found:
    """Each slice against the mean of the aligned slices, from where they are until they hardly move."""
    if not found.fitted.any():
        return found
    for _ in range(ROUNDS):
        before = found.poses
        mean = _mean(slices, found)
        found = _composed_on(slices, _to_mean(slices, mean, found), found.blank, None)
        if not found.fitted.any() or _moved(slices, before, found.poses) < _STILL:
            break
    return found


def blank_images(images: torch.Tensor) -> Bools:
    """Which of (B, *shape) images are constant where they count."""
    flat: Any = images.flatten(1)
    low = torch.where(torch.isnan(flat), torch.inf, flat).amin(1)
    high = torch.where(torch.isnan(flat), -torch.inf, flat).amax(1)
    return np.asarray((~(high > low)).numpy())


def _composed_on(slices: Slices, pairs: PairTable, blank: Bools, root: int | None) -> Found:
    """Poses straight from pairs whose moving slice is each in turn; `root` stays where it is."""
    n, size, parameters = slices.count, slices.grid.ndim + 1, len(slices.options.pose.names)
    believed = reliable(pairs, slices.grid, slices.options.metric)
    if not believed.any():
        return _nothing(slices, blank)
    moving = pairs.edges[:, 1]
    poses, scores = np.full((n, size, size), np.nan), np.full(n, np.nan)
    covariance = np.full((n, parameters, parameters), np.nan)
    poses[moving[believed]] = pairs.matrices[believed]
    scores[moving] = pairs.scores
    covariance[moving[believed]] = pairs.covariance[believed]
    if root is not None:
        poses[root], covariance[root] = np.eye(size), 0.0
    fitted = np.isfinite(poses[:, 0, 0])
    return Found(interpolate_missing(poses, fitted, slices.frame), fitted, blank, scores, covariance)


def _to_mean(slices: Slices, mean: torch.Tensor, found: Found) -> PairTable:
    fits: list[Descent] = []
    kept = np.flatnonzero(~found.blank).tolist()
    for first in range(0, len(kept), slices.batch):
        some = kept[first : first + slices.batch]
        fits += fit_pairs(mean[None], slices.tensor(some), slices.grid, slices.options, found.poses[some])
        slices.done(first + len(some), len(kept))
    return table_of([(-1, i) for i in kept], fits)


def _mean(slices: Slices, found: Found) -> torch.Tensor:
    """The mean of the aligned slices where there are any, NaN elsewhere."""
    box = Box.of(slices.grid.shape)
    total = torch.zeros(slices.grid.shape, dtype=torch.float64)
    count = torch.zeros(slices.grid.shape, dtype=torch.float64)
    kept = np.flatnonzero(found.fitted).tolist()
    for first in range(0, len(kept), slices.batch):
        some = kept[first : first + slices.batch]
        for i, image in zip(some, slices.tensor(some), strict=True):
            matrix = index_matrix(found.poses[i], slices.grid, slices.grid)
            warped = torch.from_numpy(sample(image.numpy(), box, matrix, box, fill=float("nan"), parallel=True))
            valid = torch.isfinite(warped)
            total += torch.where(valid, warped, 0)
            count += valid
    return torch.where(count > 0, total / count, torch.nan).to(torch.float32)


def _moved(slices: Slices, before: Floats, after: Floats) -> float:
    """Voxels by which the slices moved against each other, root mean square over centre and ends."""
    points = np.eye(slices.grid.ndim + 1)
    points[:-1, :-1] *= slices.frame.half_extent
    points[:-1, -1] = slices.centre
    points[-1] = 1
    moves = ((after - before) @ points)[:, :-1]
    moves -= moves.mean(axis=0)
    return float(np.sqrt((moves**2).sum(axis=1).mean()) / min(slices.grid.spacing))


def _nothing(slices: Slices, blank: Bools) -> Found:
    """No motion, and nothing fitted but a slice that is alone."""
    n, size, parameters = slices.count, slices.grid.ndim + 1, len(slices.options.pose.names)
    alone = (~blank).sum() == 1
    poses = np.tile(np.eye(size), (n, 1, 1))
    unknown = np.full((n, parameters, parameters), np.nan)
    return Found(poses, ~blank & alone, blank, np.full(n, np.nan), unknown)
