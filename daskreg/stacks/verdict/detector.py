"""The voxels of a stack's detector that are masked, as a task where the voxels are."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np

from daskreg.blocks.tasks import run_tasks
from daskreg.errors import DaskregWarning
from daskreg.geometry import Box
from daskreg.stacks.execution import Execution
from daskreg.stacks.spans import StackSpec
from daskreg.stacks.verdict.bad_voxels import CODE_SIDE, EXAMINED, BadVoxels, code_of, find

_MOST_VOXELS = 1 << 25  # that are read at once


def with_bad_voxels(stack: StackSpec, execution: Execution) -> StackSpec:
    """The stack with the voxels that its detector does not measure, and a warning where there are any."""
    first = stack.restricted(0, min(EXAMINED, stack.count))
    found: list[BadVoxels | None] = []
    run_tasks(bad_voxels_of, [first], client=execution.client, threads=1, on_done=found.append, label="detector")
    bad = found[0]
    if bad is None:
        return stack
    total = math.prod(stack.reader.grid.shape)
    what = "" if bad.code is None else f", gaps of the value {bad.code:.10g} among them"
    warnings.warn(
        f"{bad.count} of {total} voxels of a slice are hot, dead or gaps of the detector{what}: they are masked",
        DaskregWarning,
        stacklevel=3,
    )
    return replace(stack, bad=bad)


def bad_voxels_of(stack: StackSpec) -> BadVoxels | None:
    """The bad voxels of the first slices. Runs on a worker."""
    grid = stack.reader.grid
    count = min(stack.count, EXAMINED, _MOST_VOXELS // math.prod(grid.shape))
    if count < 2:
        return None
    code = code_of(np.moveaxis(stack.source.read(_middle(stack, count)), stack.position, 0))
    nothing = bytes(-(-math.prod(grid.shape) // 8))
    reader = replace(stack, bad=BadVoxels(code, nothing, 0)).reader
    return find(reader.span(0, count).reshape(count, *stack.grid.shape), code)


def _middle(stack: StackSpec, count: int) -> Box:
    """The middle of the first `count` slices as stored."""
    shape = stack.source.shape
    lower = [max(0, (n - CODE_SIDE) // 2) for n in shape]
    upper = [min(n, a + CODE_SIDE) for n, a in zip(shape, lower, strict=True)]
    lower[stack.position], upper[stack.position] = 0, count
    return Box(tuple(lower), tuple(upper))
