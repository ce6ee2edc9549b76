"""A look at a few aligned slices, where the voxels are: do they repeat themselves, does a pattern hide their motion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.tasks import run_tasks
from daskreg.geometry import Box, Grid, index_matrix
from daskreg.sampling.sample import sample
from daskreg.stacks.execution import Execution
from daskreg.stacks.spans import StackSpec, exclusive, options_here
from daskreg.stacks.verdict.fixed_pattern import CHANCE, LITTLE, MUCH, PULLS, fixed_share, hidden_motion, pull_of
from daskreg.stacks.verdict.rivals import rival_shift
from daskreg.stacks.verdict.stripes import stripes_hide_motion

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Pixels = NDArray[np.float32]

SIDE = {2: 96, 3: 32}
"""Voxels along the longest axis to which slices are reduced, or that are cut out of their middle, by dimensions."""

_SLICES = 8


@dataclass(frozen=True)
class Findings:
    """rival: (D,) world shift by which the slices agree as well, or None. pattern: something fixed hides the motion.
    fixed: slices and their (N, D+1, D+1) poses with which a part of them stays with the detector, or None.
    stripes: the slices move otherwise without the means of their rows and columns.
    """

    rival: Floats | None = None
    pattern: bool = False
    fixed: tuple[tuple[int, ...], Floats] | None = None
    stripes: bool = False


NO_FINDINGS = Findings()


@dataclass(frozen=True)
class SlicesTask:
    """Consecutive slices (all but the blank ones) and their (N, D+1, D+1) poses, raw_from_aligned."""

    stack: StackSpec
    slices: tuple[int, ...]
    poses: Floats


def examine(stack: StackSpec, poses: Floats, fitted: Bools, execution: Execution) -> Findings:
    """Findings from the slices in the middle of the stack that were fitted."""
    used = np.flatnonzero(fitted)
    first = max(0, (len(used) - _SLICES) // 2)
    some = used[first : first + _SLICES]
    if len(some) < 2 or stack.line is not None:
        return NO_FINDINGS
    part = stack.restricted(int(some[0]), int(some[-1]) + 1)
    found: list[Findings] = []
    task = SlicesTask(part, tuple(some.tolist()), poses[some])
    run_tasks(findings_of, [task], client=execution.client, threads=1, on_done=found.append, label="verdict")
    return found[0]


def findings_of(task: SlicesTask) -> Findings:
    """Runs on a worker."""
    stack = task.stack
    images = np.concatenate([stack.tensor(a, b).numpy() for a, b in _runs(task.slices)])
    grid, side = stack.grid, SIDE[stack.grid.ndim]
    small, coarse = _reduced(images, grid, math.ceil(max(grid.shape) / side))
    centre = np.append(grid.centre, 1)
    moved = np.stack([coarse.index((pose @ centre)[None, :-1])[0] for pose in task.poses])
    aligned = _aligned(small, coarse, task.poses, Box.of(coarse.shape))
    hidden, fixed = hidden_motion(small, aligned, moved - moved.mean(axis=0)), None
    pattern = hidden is not None
    if hidden is not None:
        fixed = tuple(task.slices[k] for k in hidden), _translations(coarse, np.stack(list(hidden.values())))
    start = [max(0, (n - side) // 2) for n in grid.shape]
    middle = Box(tuple(start), tuple(min(n, a + side) for n, a in zip(grid.shape, start, strict=True)))
    views = [(aligned, coarse)]
    if coarse.shape != grid.shape:
        views.append((_aligned(images, grid, task.poses, middle), grid.crop(middle)))
    for here, its_grid in views:
        much, some = _fixed_part(here, its_grid, task.poses)
        pattern |= much
        if some and fixed is None:
            fixed = task.slices, task.poses
    with exclusive(stack):
        stripes = not stack.striped and stripes_hide_motion(images, grid, task.poses, options_here(stack), middle)
    shifts = ((rival_shift(here), its_grid) for here, its_grid in views)
    rival = next((_world_shift(shift, its_grid) for shift, its_grid in shifts if shift is not None), None)
    return Findings(rival, pattern, fixed, stripes)


def _runs(slices: Sequence[int]) -> list[tuple[int, int]]:
    """Starts and stops of the runs of consecutive numbers."""
    ends = [k for k in range(1, len(slices)) if slices[k] != slices[k - 1] + 1]
    return [(slices[a], slices[b - 1] + 1) for a, b in pairwise([0, *ends, len(slices)])]


def _fixed_part(aligned: Pixels, grid: Grid, poses: Floats) -> tuple[bool, bool]:
    """Whether much, and whether anything of what the specimen leaves of aligned slices stays with the detector.

    What changes slowly in a specimen is left in several slices, too, but it is no more at rest where the raw slices
    have it than where slices would have it that were moved the opposite way. What stays with the detector is.
    """
    count, mean = len(aligned), _mean(aligned)
    back = np.asarray(np.linalg.inv(poses), np.float64)
    box = Box.of(grid.shape)
    share, rest = fixed_share(_aligned(aligned - mean, grid, back, box))
    if share <= CHANCE / count:
        return False, False
    pull = pull_of(rest, _aligned(np.stack([mean] * count), grid, back, box))
    opposite = fixed_share(_aligned(aligned - mean, grid, poses, box))[0]
    much = share > max(MUCH, 2 / count) and pull > PULLS
    return much, share > CHANCE * opposite and pull > LITTLE


def _world_shift(voxels: Floats, grid: Grid) -> Floats:
    return np.asarray(np.asarray(grid.direction_matrix) @ (voxels * np.asarray(grid.spacing)))


def _translations(grid: Grid, voxels: Floats) -> Floats:
    """(N, D+1, D+1) motions by (N, D) voxels."""
    motions = np.tile(np.eye(grid.ndim + 1), (len(voxels), 1, 1))
    motions[:, :-1, -1] = voxels @ grid.matrix[:-1, :-1].T
    return motions


def _reduced(images: Pixels, grid: Grid, factor: int) -> tuple[Pixels, Grid]:
    """Means over blocks of `factor` voxels along axes that are long enough, and their grid; NaN counts as masked."""
    factors = [factor if n >= 2 * factor else 1 for n in grid.shape]
    shape = [n // f for n, f in zip(grid.shape, factors, strict=True)]
    used = Box.of([n * f for n, f in zip(shape, factors, strict=True)])
    cut = images[(slice(None), *(slice(0, n) for n in used.shape))]
    blocks = cut.reshape(len(cut), *(k for n, f in zip(shape, factors, strict=True) for k in (n, f)))
    axes = tuple(range(2, blocks.ndim, 2))
    known = np.isfinite(blocks)
    count = known.sum(axis=axes)
    total = np.where(known, blocks, np.float32(0)).sum(axis=axes)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    return means, grid.crop(used).downsample(factors)


def _aligned(images: Pixels, grid: Grid, poses: Floats, box: Box) -> Pixels:
    """The slices within a box of the aligned stack."""
    whole = Box.of(grid.shape)
    maps = [index_matrix(pose, grid, grid) for pose in poses]
    return np.stack(
        [
            np.asarray(sample(image, whole, matrix, box, fill=float("nan")), dtype=np.float32)
            for image, matrix in zip(images, maps, strict=True)
        ]
    )


def _mean(aligned: Pixels) -> Pixels:
    """Of the slices that have a voxel."""
    known = np.isfinite(aligned)
    count = known.sum(axis=0)
    total = np.where(known, aligned, np.float32(0)).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
