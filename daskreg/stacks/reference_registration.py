"""Slices of a stack registered to one image: a chosen slice, or the mean of the aligned slices.

In batches, read as they are needed. Both give `SlicePoses`: a pose for each slice,
raw_from_aligned, and what is known about it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.errors import DegenerateImageError
from daskreg.geometry import Box, Grid, index_matrix
from daskreg.registration.estimate import BatchEstimate
from daskreg.registration.problem import half_extent
from daskreg.sampling.sample import sample
from daskreg.stacks.model import StackModel
from daskreg.stacks.pair_registration import PairOptions, batch_size, blank_images, register_pairs
from daskreg.stacks.pair_table import PairTable, reliable, table_of
from daskreg.stacks.trajectory import PoseProjection, interpolate_missing

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ROUNDS = 4
"""How often the mean is computed, at most."""
# The mean is final when its slices move by less than this many voxels.
_STILL = 0.05


@dataclass(frozen=True)
class SliceReading:
    """The slices of a stack, and how they are registered.

    read: indices -> (B, *shape with axes of length one) float32, NaN where voxels are masked.
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
class SlicePoses:
    """One row for each slice.

    poses: (N, D+1, D+1) raw_from_aligned. fitted: (N,) estimated, not interpolated from the neighbours.
    blank: (N,) without contrast. scores: (N,). covariance: (N, P, P) of the free parameters.
    """

    poses: Floats
    fitted: Bools
    blank: Bools
    scores: Floats
    covariance: Floats


def register_to_slice(slices: SliceReading, reference: int | None) -> SlicePoses:
    """Register each slice to slice `reference`, or to the first that is not blank.

    Raises: DegenerateImageError where slice `reference` is blank.
    """
    fixed: torch.Tensor | None = None
    if reference is not None:
        fixed = slices.tensor([reference])
        if blank_images(fixed)[0]:
            raise DegenerateImageError(f"slice {reference}, the reference, is constant; choose another")
    edges: list[tuple[int, int]] = []
    estimates: list[BatchEstimate] = []
    blank = np.zeros(slices.count, bool)
    for first in range(0, slices.count, slices.batch):
        indices = range(first, min(first + slices.batch, slices.count))
        images = slices.tensor(indices)
        flat = blank_images(images)
        blank[indices.start : indices.stop] = flat
        if fixed is None and not flat.all():
            at = int(np.argmin(flat))
            reference, fixed = first + at, images[at : at + 1].clone()
        moving = [i for i in indices if not flat[i - first] and i != reference]
        if fixed is not None and moving:
            estimates += register_pairs(fixed, images[[i - first for i in moving]], slices.grid, slices.options)
            edges += [(int(reference or 0), i) for i in moving]
        slices.done(indices.stop, slices.count)
    if not estimates:
        return _identity(slices, blank)
    return _poses_of(slices, table_of(edges, estimates), blank, reference)


def register_to_mean(slices: SliceReading, start: SlicePoses) -> SlicePoses:
    """Register each slice to the mean of the aligned slices, starting at its own pose.

    This is repeated until the poses no longer change, at most `ROUNDS` times.
    """
    current = start
    if not current.fitted.any():
        return current
    for _ in range(ROUNDS):
        before = current.poses
        mean = _mean(slices, current)
        current = _poses_of(slices, _pairs_with_mean(slices, mean, current), current.blank, None)
        if not current.fitted.any() or _displacement(slices, before, current.poses) < _STILL:
            break
    return current


def _poses_of(slices: SliceReading, pairs: PairTable, blank: Bools, reference: int | None) -> SlicePoses:
    """The poses of the moving slices of pairs with one fixed image; slice `reference` has the identity."""
    n, size, parameters = slices.count, slices.grid.ndim + 1, len(slices.options.pose.names)
    accepted = reliable(pairs, StackModel(slices.options.pose, slices.centre, slices.grid, slices.options.metric))
    if not accepted.any():
        return _identity(slices, blank)
    moving = pairs.edges[:, 1]
    poses, scores = np.full((n, size, size), np.nan), np.full(n, np.nan)
    covariance = np.full((n, parameters, parameters), np.nan)
    poses[moving[accepted]] = pairs.matrices[accepted]
    scores[moving] = pairs.scores
    covariance[moving[accepted]] = pairs.covariance[accepted]
    if reference is not None:
        poses[reference], covariance[reference] = np.eye(size), 0.0
    fitted = np.isfinite(poses[:, 0, 0])
    return SlicePoses(interpolate_missing(poses, fitted, slices.frame), fitted, blank, scores, covariance)


def _pairs_with_mean(slices: SliceReading, mean: torch.Tensor, start: SlicePoses) -> PairTable:
    """Pairs of the mean, as slice -1, with each slice that is not blank."""
    estimates: list[BatchEstimate] = []
    used = np.flatnonzero(~start.blank).tolist()
    for first in range(0, len(used), slices.batch):
        some = used[first : first + slices.batch]
        poses = start.poses[some]
        estimates += register_pairs(mean[None], slices.tensor(some), slices.grid, slices.options, poses)
        slices.done(first + len(some), len(used))
    return table_of([(-1, i) for i in used], estimates)


def _mean(slices: SliceReading, current: SlicePoses) -> torch.Tensor:
    """The mean of the aligned slices where there are any, NaN elsewhere."""
    box = Box.of(slices.grid.shape)
    total = torch.zeros(slices.grid.shape, dtype=torch.float64)
    count = torch.zeros(slices.grid.shape, dtype=torch.float64)
    fitted = np.flatnonzero(current.fitted).tolist()
    for first in range(0, len(fitted), slices.batch):
        some = fitted[first : first + slices.batch]
        for i, image in zip(some, slices.tensor(some), strict=True):
            matrix = index_matrix(current.poses[i], slices.grid, slices.grid)
            warped = torch.from_numpy(sample(image.numpy(), box, matrix, box, fill=float("nan"), parallel=True))
            valid = torch.isfinite(warped)
            total += torch.where(valid, warped, 0)
            count += valid
    return torch.where(count > 0, total / count, torch.nan).to(torch.float32)


def _displacement(slices: SliceReading, before: Floats, after: Floats) -> float:
    """Voxels by which the slices moved relative to each other, root mean square over centre and ends of the axes."""
    points = np.eye(slices.grid.ndim + 1)
    points[:-1, :-1] *= slices.frame.half_extent
    points[:-1, -1] = slices.centre
    points[-1] = 1
    moves = ((after - before) @ points)[:, :-1]
    moves -= moves.mean(axis=0)
    return float(np.sqrt((moves**2).sum(axis=1).mean()) / min(slices.grid.spacing))


def _identity(slices: SliceReading, blank: Bools) -> SlicePoses:
    """Identity for all slices, of which only one without others to register to counts as fitted."""
    n, size, parameters = slices.count, slices.grid.ndim + 1, len(slices.options.pose.names)
    alone = (~blank).sum() == 1
    poses = np.tile(np.eye(size), (n, 1, 1))
    unknown = np.full((n, parameters, parameters), np.nan)
    return SlicePoses(poses, ~blank & alone, blank, np.full(n, np.nan), unknown)
