"""The levels of a multiscale image, each planned from the one below."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from daskreg.blocks.job import Downsample, Task
from daskreg.blocks.memory import Processes
from daskreg.blocks.plan import Layout, LevelPlan, Plan, make_layout, plan_level
from daskreg.blocks.reversed import job_of
from daskreg.errors import OptionError
from daskreg.geometry import Grid
from daskreg.sampling.downsample import METHODS
from daskreg.sources.file_formats import ZARR
from daskreg.sources.storage.access import is_object_url
from daskreg.sources.stored import StoredSource

SMALLEST_LEVEL = 256
"""Levels are added until no spatial axis is longer than this."""

Shape = tuple[int, ...]
Sizes = str | int | Sequence[int] | Mapping[str, int]


@dataclass(frozen=True)
class RunOptions:
    """How an image is cut and stored; the options of `daskreg.write`."""

    chunks: Sizes = "auto"
    shards: Sizes | None = "auto"
    levels: int | str = "auto"
    downsample: str = "auto"


def plan_levels(
    task: Task, path: str, options: RunOptions, processes: Processes, *, blocks: Sequence[Shape] | None = None
) -> Plan:
    """Plan all levels of the image that `task` makes.

    Args:
        blocks: block shapes of a run that is resumed; by default they are chosen.

    Raises: MemoryBudgetError where a block does not fit; OptionError for an unknown option.
    """
    limit, threads, workers = processes.limit, processes.threads, processes.workers
    job = job_of(task)
    method = downsample_method(options.downsample, labels=job is not None and job.makes_labels)
    plans: list[LevelPlan] = []
    for level, factors in enumerate(level_factors(task.grid, options.levels)):
        if level:
            below = plans[-1]
            task = next_level(below.layout, below.task.grid, os.path.join(path, str(below.level)), factors, method)
        layout = make_layout(task, options.chunks, options.shards, as_objects=is_object_url(path))
        block = tuple(blocks[level]) if blocks is not None and level < len(blocks) else None
        if block is not None and not _of_whole_files(block, layout):
            block = None  # of another image, which was removed, or is refused before anything is written
        plans.append(plan_level(level, task, layout, limit=limit, threads=threads, workers=workers, block=block))
    return Plan(path, tuple(plans), limit, threads, workers)


def _of_whole_files(block: Shape, layout: Layout) -> bool:
    """Whether no two blocks of this shape share a file."""
    return len(block) == len(layout.shape) and all(
        b % unit == 0 or b >= n for b, unit, n in zip(block, layout.unit, layout.shape, strict=True)
    )


def level_factors(grid: Grid, levels: int | str) -> Iterator[Shape]:
    """The factor of each spatial axis from one level to the next; level 0 is all ones.

    An axis is halved while its spacing is no more than 1.5 times the finest.
    """
    if not (levels == "auto" or (isinstance(levels, int) and not isinstance(levels, bool) and levels >= 1)):
        raise OptionError(f"levels={levels!r}: give 'auto' or a number of at least 1")
    wanted = levels if isinstance(levels, int) else math.inf
    yield (1,) * grid.ndim
    count = 1
    while count < wanted and (wanted < math.inf or max(grid.shape) > SMALLEST_LEVEL):
        divisible = [s for s, n in zip(grid.spacing, grid.shape, strict=True) if n > 1]
        if not divisible:
            return
        limit = 1.5 * min(divisible)
        factors = tuple(2 if s <= limit and n > 1 else 1 for s, n in zip(grid.spacing, grid.shape, strict=True))
        yield factors
        grid = grid.downsample(factors)
        count += 1


def downsample_method(downsample: str, *, labels: bool) -> str:
    """How levels are made.

    Raises: OptionError.
    """
    if downsample == "auto":
        return "mode" if labels else "mean"
    if downsample not in METHODS:
        raise OptionError(f"downsample={downsample!r}: use 'auto', {', '.join(METHODS)}")
    return downsample


def next_level(layout: Layout, grid: Grid, path: str, factors: Shape, method: str) -> Downsample:
    """The level above one that is stored at `path`, with this layout and grid."""
    lead = len(layout.shape) - grid.ndim
    source = StoredSource(
        format=ZARR.name,
        path=path,
        dims=layout.dims,
        shape=layout.shape,
        dtype=layout.dtype,
        chunks=layout.chunks,
        grid=grid,
        stamp=uuid.uuid4().hex,  # of this run, so that no open handle of an earlier output at this path is reused
    )
    return Downsample(source, (1,) * lead + factors, grid.downsample(factors), method)
