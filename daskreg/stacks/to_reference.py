"""Slices against one image, as a task: where a worker is, so that voxels stay there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.tasks import run_tasks
from daskreg.runtime.device import resolve
from daskreg.stacks.execution import Execution
from daskreg.stacks.slice_statistics import Found, Slices, against_mean, against_one
from daskreg.stacks.spans import StackSpec

Floats = NDArray[np.float64]


_HERE = Execution(None)


@dataclass(frozen=True)
class AgainstOne:
    """To slice `root` (None: the first that is not blank), or with `found` to the mean of the aligned slices."""

    stack: StackSpec
    root: int | None = None
    found: Found | None = None


def fitted_to_image(item: AgainstOne, execution: Execution) -> Found:
    """Run on a worker where there is a cluster, else here with the progress shown."""
    if execution.client is None:
        return _fit(item, execution)
    results: list[Found] = []
    run_tasks(_fit, [item], client=execution.client, threads=1, on_done=results.append, label="stack")
    return results[0]


def _fit(item: AgainstOne, execution: Execution = _HERE) -> Found:
    stack = item.stack
    options = replace(stack.options, device=resolve(stack.options.device))
    centre = stack.reader.whole.take(stack.keep).centre
    slices = Slices(stack.reader.read, stack.count, stack.grid, centre, options, execution.progress)
    return against_one(slices, item.root) if item.found is None else against_mean(slices, item.found)
