"""Slices of a stack against a reference: in batches, read as they are needed.

`against_previous` walks along the stack, `against_one` holds each slice against a chosen one,
`against_mean` against the mean of the aligned slices. All give `Found`: a pose for each slice,
raw_from_aligned, and what is known of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from daskreg.errors import DegenerateImageError
from daskreg.geometry import Box, Grid, index_matrix
from daskreg.kernels.course import Frame, bridged, chained
from daskreg.kernels.descend import Descent, half_extent
from daskreg.kernels.pairs import PairOptions, batch_size, fit_pairs, fit_row
from daskreg.kernels.sampling import sample

__all__ = ["Found", "PairOptions", "Slices", "against_mean", "against_one", "against_previous"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LEAST_OVERLAP = 0.15
LEAST_SCORE, LEAST_SHARE = 0.1, 0.3  # of correlation, and of the median of the stack's correlations
CHANCE = 5  # standard deviations by which a correlation must beat that of noise
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
    def frame(self) -> Frame:
        return Frame(self.options.pose, self.centre, half_extent(self.grid))

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
    blank: without contrast. scores: (N,). variance: (N, P) of the free parameters.
    breaks: slices before which no fit was found.
    """

    poses: Floats
    fitted: Bools
    blank: Bools
    scores: Floats
    variance: Floats
    breaks: tuple[int, ...] = ()


@dataclass
class Pairs:
    """Fits so far, in lists: (fixed, moving) indices, and one entry for each pair."""

    edges: list[tuple[int, int]] = field(default_factory=list)
    matrices: list[Floats] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    variance: list[Floats] = field(default_factory=list)
    overlap: list[float] = field(default_factory=list)

    def add(self, edges: Sequence[tuple[int, int]], fits: Sequence[Descent]) -> None:
        self.edges += edges
        for fit in fits:
            self.matrices += list(fit.matrices)
            self.scores += fit.after.tolist()
            self.overlap += fit.overlap.tolist()
            unknown = np.full(fit.parameters.shape, np.nan)
            self.variance += list(unknown if fit.covariance is None else np.diagonal(fit.covariance, axis1=1, axis2=2))

    def good(self, slices: Slices) -> Bools:
        """Which pairs say something: enough overlap, and a correlation that is not chance."""
        scores, overlap = np.asarray(self.scores), np.asarray(self.overlap)
        good = np.isfinite(scores) & (overlap >= LEAST_OVERLAP)
        if slices.options.metric == "ncc" and good.any():
            # Noise smoothed by a Gaussian of one voxel has this many independent values.
            values = math.prod(slices.grid.shape) / (4 * math.pi) ** (slices.grid.ndim / 2)
            chance = np.minimum(CHANCE / np.sqrt(values * np.maximum(overlap, LEAST_OVERLAP)), 0.5)
            good &= scores >= np.maximum(chance, max(LEAST_SCORE, LEAST_SHARE * float(np.median(scores[good]))))
        return np.asarray(good)


def against_previous(slices: Slices) -> Found:
    """Each slice against the last one before it that is not blank; poses in the first one's frame."""
    pairs, blank = Pairs(), np.zeros(slices.count, bool)
    last: tuple[int, torch.Tensor] | None = None
    for first in range(0, slices.count, slices.batch):
        indices = range(first, min(first + slices.batch, slices.count))
        images = slices.tensor(indices)
        flat = _blank(images)
        blank[indices.start : indices.stop] = flat
        kept = [(i, images[i - first]) for i in indices if not flat[i - first]]
        row = kept if last is None else [last, *kept]
        if len(row) > 1:
            fit = fit_row(torch.stack([image for _, image in row]), slices.grid, slices.options)
            pairs.add([(a, b) for (a, _), (b, _) in pairwise(row)], fit)
        last = (row[-1][0], row[-1][1].clone()) if row else last
        slices.done(indices.stop, slices.count)
    _detour(slices, pairs, np.flatnonzero(~blank))
    return _composed(slices, pairs, blank)


def _detour(slices: Slices, pairs: Pairs, kept: NDArray[np.intp]) -> None:
    """Where a pair failed, try to go past either of its slices."""
    bad = [e for e, good in zip(pairs.edges, pairs.good(slices), strict=True) if not good]
    where = {int(i): k for k, i in enumerate(kept)}
    wanted = set()
    for a, b in bad:
        before, after = where[a] - 1, where[b] + 1
        if before >= 0:
            wanted.add((int(kept[before]), b))
        if after < len(kept):
            wanted.add((a, int(kept[after])))
    edges = sorted(wanted)
    for first in range(0, len(edges), slices.batch):
        some = edges[first : first + slices.batch]
        fixed, moving = (slices.tensor([e[k] for e in some]) for k in (0, 1))
        pairs.add(some, fit_pairs(fixed, moving, slices.grid, slices.options))


def _composed(slices: Slices, pairs: Pairs, blank: Bools) -> Found:
    """Poses along the ways that good pairs make, bridges where none leads."""
    n, size = slices.count, slices.grid.ndim + 1
    good = pairs.good(slices)
    if not good.any():
        return _nothing(slices, blank)
    edges = np.asarray(pairs.edges, dtype=np.intp).reshape(-1, 2)
    matrices = np.asarray(pairs.matrices).reshape(-1, size, size)
    variance = np.asarray(pairs.variance).reshape(len(edges), -1)
    linked, breaks = _links(n, edges[good])
    cost = np.where(good, (edges[:, 1] - edges[:, 0]).astype(np.float64), np.inf)
    root = int(min(edges[good].min(), min((a for a, _ in linked), default=n)))
    chain = chained(
        n,
        np.concatenate([edges, np.asarray(linked, dtype=np.intp).reshape(-1, 2)]),
        np.concatenate([matrices, np.tile(np.eye(size), (len(linked), 1, 1))]),
        np.concatenate([cost, np.full(len(linked), float(n))]),
        np.concatenate([variance, np.full((len(linked), variance.shape[1]), np.nan)]),
        root=root,
    )
    scores = np.append(pairs.scores, [np.nan] * (len(linked) + 1))[chain.pair]
    fitted = np.isfinite(chain.poses[:, 0, 0])
    poses = bridged(chain.poses, fitted, slices.frame)
    return Found(poses, fitted, blank, scores, chain.variance, breaks)


def _links(count: int, edges: NDArray[np.intp]) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
    """Links without motion between runs of slices that no pair connects, and where the runs begin."""
    graph: Any = csr_array((np.ones(len(edges)), edges.T), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    runs = [np.flatnonzero(labels == k) for k in np.flatnonzero(np.bincount(labels) > 1)]
    runs.sort(key=lambda run: int(run[0]))
    begins = [int(run[0]) for run in runs[1:]]
    inside = np.concatenate(runs) if runs else np.empty(0, dtype=np.intp)
    return [(int(inside[inside < b].max()), b) for b in begins], tuple(begins)


def against_one(slices: Slices, root: int | None) -> Found:
    """Each slice against slice `root`, or against the first that is not blank.

    Raises: DegenerateImageError where slice `root` is blank.
    """
    fixed: torch.Tensor | None = None
    if root is not None:
        fixed = slices.tensor([root])
        if _blank(fixed)[0]:
            raise DegenerateImageError(f"slice {root}, the reference, is constant; choose another")
    pairs, blank = Pairs(), np.zeros(slices.count, bool)
    for first in range(0, slices.count, slices.batch):
        indices = range(first, min(first + slices.batch, slices.count))
        images = slices.tensor(indices)
        flat = _blank(images)
        blank[indices.start : indices.stop] = flat
        if fixed is None and not flat.all():
            at = int(np.argmin(flat))
            root, fixed = first + at, images[at : at + 1].clone()
        moving = [i for i in indices if not flat[i - first] and i != root]
        if fixed is not None and moving:
            fit = fit_pairs(fixed, images[[i - first for i in moving]], slices.grid, slices.options)
            pairs.add([(int(root or 0), i) for i in moving], fit)
        slices.done(indices.stop, slices.count)
    if root is None or not pairs.good(slices).any():
        return _nothing(slices, blank)
    return _composed_on(slices, pairs, blank, root)


def _composed_on(slices: Slices, pairs: Pairs, blank: Bools, root: int | None) -> Found:
    """Poses straight from pairs whose moving slice is each in turn; `root` stays where it is."""
    n, size = slices.count, slices.grid.ndim + 1
    good = pairs.good(slices)
    moving = np.asarray(pairs.edges, dtype=np.intp)[:, 1]
    poses, scores = np.full((n, size, size), np.nan), np.full(n, np.nan)
    variance = np.full((n, len(slices.options.pose.names)), np.nan)
    poses[moving[good]] = np.asarray(pairs.matrices)[good]
    scores[moving] = pairs.scores
    variance[moving[good]] = np.asarray(pairs.variance)[good]
    if root is not None:
        poses[root], variance[root] = np.eye(size), 0.0
    fitted = np.isfinite(poses[:, 0, 0])
    poses = bridged(poses, fitted, slices.frame)
    return Found(poses, fitted, blank, scores, variance)


def against_mean(slices: Slices) -> Found:
    """Each slice against the mean of the aligned slices, until they hardly move.

    Begins where `against_previous` ends, so that a long drift does not blur the first mean.
    """
    found = against_previous(slices)
    if not found.fitted.any():
        return found
    for _ in range(ROUNDS):
        before = found.poses
        mean = _mean(slices, found)
        found = _composed_on(slices, _to_mean(slices, mean, found), found.blank, None)
        if not found.fitted.any():
            return _nothing(slices, found.blank)
        if _moved(slices, before, found.poses) < _STILL:
            break
    return found


def _to_mean(slices: Slices, mean: torch.Tensor, found: Found) -> Pairs:
    pairs = Pairs()
    kept = np.flatnonzero(~found.blank).tolist()
    for first in range(0, len(kept), slices.batch):
        some = kept[first : first + slices.batch]
        fit = fit_pairs(mean[None], slices.tensor(some), slices.grid, slices.options, found.poses[some])
        pairs.add([(-1, i) for i in some], fit)
        slices.done(first + len(some), len(kept))
    return pairs


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
    points[:-1, :-1] *= slices.frame.reach
    points[:-1, -1] = slices.centre
    points[-1] = 1
    moves = ((after - before) @ points)[:, :-1]
    moves -= moves.mean(axis=0)
    return float(np.sqrt((moves**2).sum(axis=1).mean()) / min(slices.grid.spacing))


def _nothing(slices: Slices, blank: Bools) -> Found:
    """No motion, and nothing fitted but a slice that is alone."""
    n, size = slices.count, slices.grid.ndim + 1
    alone = (~blank).sum() == 1
    unknown = np.full((n, len(slices.options.pose.names)), np.nan)
    poses = np.tile(np.eye(size), (n, 1, 1))
    return Found(poses, ~blank & alone, blank, np.full(n, np.nan), unknown)


def _blank(images: torch.Tensor) -> Bools:
    """Which of (B, *shape) images are constant where they count."""
    flat: Any = images.flatten(1)
    low = torch.where(torch.isnan(flat), torch.inf, flat).amin(1)
    high = torch.where(torch.isnan(flat), -torch.inf, flat).amax(1)
    return np.asarray((~(high > low)).numpy())
