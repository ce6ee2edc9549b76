"""`Pyramid`: the levels of an image, whose voxels are computed when they are asked for.

Level 0 is what a task makes, and each level the mean, mode or middle of blocks of voxels of the level below, as `write`
makes them: the same voxels, bit for bit. A chunk of a coarse level takes all chunks below it, however many these are,
unless it is sampled from a coarse level of the source (`coarse_source`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from numpy.typing import NDArray

from daskreg.blocks.job import BlockStats, Downsample, Job, Task
from daskreg.blocks.levels import downsample_method, level_factors, next_level
from daskreg.blocks.plan import Layout, Plan, make_layout
from daskreg.blocks.reversed import job_of, with_source
from daskreg.geometry import Box, Grid
from daskreg.sampling.downsample import block_reduce
from daskreg.viewing.by_chunks import chunk_box, read_by_chunks
from daskreg.viewing.chunk_cache import ChunkCache
from daskreg.viewing.coarse_source import sampled_levels
from daskreg.viewing.held_source import held

EDGES = {2: 512, 3: 64}
"""Voxels of a chunk along each axis, by the number of axes along which voxels are interpolated."""

MOST = 2**26
"""Voxels that are computed for a chunk, about a second: coarser levels are sampled from those of the source."""

AT_ONCE = 2**22
"""Voxels of level 0 that are computed as one box for a chunk of a coarse level, in half the time that they take by
chunks; of more, the chunks of the level below are made, which are held."""

Voxels = NDArray[Any]
Index = tuple[int, ...]


class Pyramid(ABC):
    """The levels of an image.

    Args:
        layouts: how each level is stored, without shards.
        grids: where the voxels of each level lie.
        factors: for each level, voxels of the level below that make one along each axis.
        method: how levels are made.
        cache: of its chunks, also of other pyramids.

    Attributes:
        task: makes the image; None for one that is made of other images.
        sampled: levels that are not made of the level below, but sampled from coarse levels of the source.
    """

    task: Task | None = None
    sampled: Collection[int] = ()

    def __init__(
        self,
        layouts: Sequence[Layout],
        grids: Sequence[Grid],
        factors: Sequence[Index],
        method: str,
        cache: ChunkCache,
    ) -> None:
        self.layouts, self.grids, self.factors, self.method = tuple(layouts), tuple(grids), tuple(factors), method
        self.cache = cache

    @abstractmethod
    def _made(self, level: int, box: Box) -> Voxels:
        """The voxels of a chunk."""

    @property
    def lead(self) -> Index:
        """Lengths of the axes in front of those of space: times, channels."""
        return self.layouts[0].shape[: -self.grids[0].ndim]

    def box(self, level: int, index: Index) -> Box:
        """The voxels of a chunk, as far as the level has them."""
        return chunk_box(index, self.layouts[level].chunks, self.layouts[level].shape)

    def chunk(self, level: int, index: Index) -> Voxels:
        """The voxels of one chunk, which nobody must write to."""
        box = self.box(level, index)
        return self.cache.get((id(self), level, index), lambda: self._made(level, box))

    def read(self, level: int, box: Box) -> Voxels:
        """The voxels of any box of a level, out of its chunks."""
        layout = self.layouts[level]
        return read_by_chunks(box, layout.chunks, layout.shape, layout.dtype, lambda index, _: self.chunk(level, index))

    def chunk_count(self, level: int) -> int:
        layout = self.layouts[level]
        return math.prod(-(-n // c) for n, c in zip(layout.shape, layout.chunks, strict=True))

    def voxels_for(self, level: int) -> int:
        """Voxels that are computed for a chunk of a level."""
        if level in self.sampled:
            return math.prod(self.layouts[level].chunks)
        factors = math.prod(math.prod(factor) for factor in self.factors[: level + 1])
        return math.prod(self.layouts[level].chunks) * factors


class ComputedPyramid(Pyramid):
    """The levels of what a task makes; the arguments are those of `Pyramid`."""

    def __init__(self, task: Task, *levels: Any, exact: bool) -> None:
        super().__init__(*levels)
        self.task = task
        self._tasks = {0: with_source(task, held(task.source, self.cache))}
        huge = [k for k in range(len(self.layouts)) if self.voxels_for(k) > MOST]
        if isinstance(task, Job) and not exact:
            found = sampled_levels(task, self.grids, huge)
            self._tasks |= {k: with_source(one, held(one.source, self.cache)) for k, one in found.items()}
            self.sampled = tuple(found)

    def _made(self, level: int, box: Box) -> Voxels:
        if level in self._tasks:
            return next(self._tasks[level].restrict(box).run([[box]], BlockStats()))
        factors = self.factors[level]
        needed = Box(
            tuple(a * f for a, f in zip(box.start, factors, strict=True)),
            tuple(b * f for b, f in zip(box.stop, factors, strict=True)),
        ).clip(self.layouts[level - 1].shape)
        at_once = self.voxels_for(level) <= AT_ONCE
        below = self._made(level - 1, needed) if at_once else self.read(level - 1, needed)
        return block_reduce(below, factors, self.method)


def pyramid_of_task(
    task: Task, *, chunks: Any, levels: int | str, downsample: str, exact: bool, cache: ChunkCache
) -> ComputedPyramid:
    """The levels that `write` would make with these options; by default in chunks that are quickly computed."""
    job = job_of(task)
    if isinstance(chunks, str) and chunks == "auto":
        chunks = _small_chunks(task)
    method = downsample_method(downsample, labels=job is not None and job.makes_labels)
    layouts, grids, factors = [make_layout(task, chunks, None)], [task.grid], [(1,) * len(task.shape)]
    for factor in islice(level_factors(task.grid, levels), 1, None):
        above = next_level(layouts[-1], grids[-1], "", factor, method)
        factors.append(above.factors)
        layouts.append(make_layout(above, chunks, None))
        grids.append(above.grid)
    return ComputedPyramid(task, layouts, grids, factors, method, cache, exact=exact)


def _small_chunks(task: Task) -> dict[str, int]:
    """Chunks of a few hundred thousand voxels: 512 x 512 in slices that stay in their plane, else 64 x 64 x 64."""
    job = job_of(task)
    sampled = range(len(task.shape)) if job is None else job.mapping.sampled
    lead = len(task.shape) - task.grid.ndim
    space = [k for k in range(lead, len(task.shape)) if k in sampled]
    edge = EDGES.get(len(space), 2**18)
    return {d: min(n, edge) if k in space else 1 for k, (d, n) in enumerate(zip(task.dims, task.shape, strict=True))}


def pyramid_of_plan(plan: Plan, cache: ChunkCache, *, exact: bool) -> ComputedPyramid:
    """The levels that a plan has, in its chunks."""
    first = plan.levels[0]
    above = [level.task for level in plan.levels[1:] if isinstance(level.task, Downsample)]
    return ComputedPyramid(
        first.task,
        [replace(level.layout, shards=None) for level in plan.levels],
        [level.task.grid for level in plan.levels],
        [(1,) * len(first.layout.shape), *(task.factors for task in above)],
        above[-1].method if above else "mean",
        cache,
        exact=exact,
    )
