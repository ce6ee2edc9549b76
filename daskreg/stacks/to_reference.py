"""Slices registered to one image, as a task: on a worker where there is one, so that voxels stay there."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from daskreg.blocks.tasks import run_tasks
from daskreg.runtime.device import resolve
from daskreg.stacks.execution import Execution, timed
from daskreg.stacks.pair_registration import batch_bytes
from daskreg.stacks.reference_registration import SlicePoses, SliceReading, register_to_mean, register_to_slice
from daskreg.stacks.slice_reader import CACHE_BYTES, TILE_BYTES
from daskreg.stacks.spans import StackSpec

_HERE = Execution(None)


@dataclass(frozen=True)
class ReferenceTask:
    """Register all slices to slice `reference` (None: the first that is not blank), or from `start` to their mean."""

    stack: StackSpec
    reference: int | None = None
    start: SlicePoses | None = None


def register_to_reference(task: ReferenceTask, execution: Execution) -> SlicePoses:
    """Run a task on a worker where there is a cluster, else here with progress."""
    if execution.client is None:
        return _run(task, execution)
    results: list[SlicePoses] = []
    run_tasks(_run, [task], client=execution.client, threads=1, on_done=results.append, label="stack")
    return results[0]


def tried_seconds(task: ReferenceTask, count: int) -> float | None:
    """Seconds of one thread for `count` slices, from a task of a few of them; None: too few of these are not blank."""
    found, seconds = timed(lambda: _run(task))
    registered = np.count_nonzero(~found.blank) - (task.start is None)
    return seconds / registered * count if registered > 0 else None


def reference_memory(stack: StackSpec) -> int:
    """Bytes of a process that runs a task, above one that does nothing: a batch of pairs, and slices that were read."""
    read = min(CACHE_BYTES, 4 * math.prod(stack.grid.shape) * stack.count)
    return batch_bytes(stack.grid, stack.count) + read + TILE_BYTES


def _run(task: ReferenceTask, execution: Execution = _HERE) -> SlicePoses:
    stack = task.stack
    options = replace(stack.options, device=resolve(stack.options.device))
    centre = stack.reader.whole.take(stack.keep).centre
    slices = SliceReading(stack.reader.read, stack.count, stack.grid, centre, options, execution.progress)
    return register_to_slice(slices, task.reference) if task.start is None else register_to_mean(slices, task.start)
