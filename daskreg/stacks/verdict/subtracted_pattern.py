"""What stays with the detector, as an image that is subtracted from all slices.

Slices are the sum of a specimen, which moves, and of a pattern, which does not. With known motions, both are found by
turns: the specimen is the mean of the aligned slices less the pattern, the pattern the mean of what the specimen leaves
of the slices (backfitting, Breiman & Friedman 1985). What does not tell them apart, since the specimen has not moved by
more than its size, is left to the specimen. Noise of a variance v adds v / N to a pattern of N slices, so a pattern is
subtracted only where it is more than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.tasks import run_tasks
from daskreg.geometry import Box, index_matrix
from daskreg.sampling.sample import sample
from daskreg.stacks.execution import Execution
from daskreg.stacks.spans import StackSpec

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]

# Slices, evenly spread over the stack, from which the pattern is found, at most; and turns.
_SLICES, _TURNS = 48, 4


@dataclass(frozen=True)
class PatternTask:
    """Slices and their (N, D+1, D+1) poses, raw_from_aligned."""

    stack: StackSpec
    slices: tuple[int, ...]
    poses: Floats


def without_pattern(stack: StackSpec, slices: Sequence[int], poses: Floats, execution: Execution) -> StackSpec:
    """The stack with the pattern of its detector subtracted.

    Args:
        slices: from which the pattern is found; of many, some.
        poses: (N, D+1, D+1) of these, raw_from_aligned.
    """
    some = np.unique(np.linspace(0, len(slices) - 1, min(len(slices), _SLICES)).round().astype(int))
    found: list[Pixels] = []
    task = PatternTask(stack, tuple(int(slices[k]) for k in some), poses[some])
    run_tasks(pattern_of, [task], client=execution.client, threads=1, on_done=found.append, label="pattern")
    before = stack.pattern
    return replace(stack, pattern=found[0] if before is None else before + found[0])


def pattern_of(task: PatternTask) -> Pixels:
    """The pattern, with a mean of zero, on the grid of the slices as read. Runs on a worker."""
    shape = task.stack.grid.shape
    pattern: Pixels = np.zeros(shape, np.float32)
    inverse = np.asarray(np.linalg.inv(task.poses), np.float64)
    for _ in range(_TURNS):
        specimen = _mean((_moved(image - pattern, task, pose) for image, pose in _slices(task)), shape)
        rests = (image - _moved(specimen, task, back) for (image, _), back in zip(_slices(task), inverse, strict=True))
        pattern = _mean(rests, shape)
        pattern -= np.float32(np.nanmean(pattern)) if np.isfinite(pattern).any() else np.float32(0)
        pattern = np.nan_to_num(pattern)
    return pattern


def _slices(task: PatternTask) -> Iterator[tuple[Pixels, Floats]]:
    for i, pose in zip(task.slices, task.poses, strict=True):
        yield task.stack.tensor(i, i + 1)[0].numpy(), pose


def _moved(image: Pixels, task: PatternTask, pose: Floats) -> Pixels:
    """The image at the points that a pose gives; NaN where it has none."""
    grid = task.stack.grid
    whole = Box.of(grid.shape)
    return np.asarray(sample(image, whole, index_matrix(pose, grid, grid), whole, fill=float("nan")), np.float32)


def _mean(images: Iterable[Pixels], shape: tuple[int, ...]) -> Pixels:
    """The mean where there are values, else NaN."""
    total, count = np.zeros(shape), np.zeros(shape, np.int64)
    for image in images:
        known = np.isfinite(image)
        total += np.where(known, image, 0)
        count += known
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
