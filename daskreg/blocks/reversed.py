"""`Reversed`: the pixels of another task, with some axes stored in the opposite direction.

OME-Zarr states no negative scale. An axis that descends in the world is therefore stored from its other end, so
that every reader agrees where the voxels lie. The pixels are those of the inner task, bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.job import BlockStats, Job, Task
from daskreg.geometry import Box, Grid
from daskreg.sources.source import Source


@dataclass(frozen=True, eq=False)
class Reversed:
    """A `Task` that gives the voxels of a job in another order.

    Args:
        inner: the job.
        axes: positions, among the job's dims, of the axes that are reversed.
    """

    inner: Job
    axes: tuple[int, ...]

    @property
    def source(self) -> Source:
        return self.inner.source

    @property
    def grid(self) -> Grid:
        """The same voxels, counted from the other end along the reversed axes."""
        return upright(self.inner.grid)

    @property
    def dims(self) -> tuple[str, ...]:
        return self.inner.dims

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.inner.dtype

    def read_box(self, box: Box) -> Box:
        return self.inner.read_box(self._mirrored(box))

    def restrict(self, box: Box) -> Reversed:
        return replace(self, inner=self.inner.restrict(self._mirrored(box)))

    def with_source(self, source: Source) -> Reversed:
        """The same task on a part of its source."""
        return replace(self, inner=replace(self.inner, source=source))

    def fingerprint(self, box: Box) -> str:
        text = repr(("reversed", self.axes, self.inner.fingerprint(self._mirrored(box))))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def working_bytes(self, box: Box, part: Box, unit: Sequence[int]) -> int:
        """Bytes of the inner job, and of a part in the order in which it is stored."""
        inner = self.inner.working_bytes(self._mirrored(box), self._mirrored(part), unit)
        return inner + part.size * self.dtype.itemsize

    def run(self, parts: Sequence[Sequence[Box]], stats: BlockStats) -> Iterator[NDArray[Any]]:
        mirrored = [[self._mirrored(part) for part in slab] for slab in parts]
        for pixels in self.inner.run(mirrored, stats):
            yield np.ascontiguousarray(np.flip(pixels, self.axes))

    def _mirrored(self, box: Box) -> Box:
        """The same voxels in the indices of the inner job."""
        ends = [
            (n - b, n - a) if k in self.axes else (a, b)
            for k, (a, b, n) in enumerate(zip(box.start, box.stop, self.shape, strict=True))
        ]
        return Box(tuple(a for a, _ in ends), tuple(b for _, b in ends))


def descending(grid: Grid) -> tuple[int, ...]:
    """The axes of a grid that run against those of the world, where each runs along one; () where they are turned."""
    if not grid.separable:
        return ()
    return tuple(k for k, sign in enumerate(np.diag(grid.direction_matrix).tolist()) if sign < 0)


def upright(grid: Grid) -> Grid:
    """The same voxels, counted from the other end along the axes that descend."""
    axes = descending(grid)
    if not axes:
        return grid
    corner = [n - 1 if k in axes else 0 for k, n in enumerate(grid.shape)]
    return Grid(grid.shape, grid.spacing, grid.world(corner), None, grid.unit, grid.axes)


def stored_upright(job: Job) -> Job | Reversed:
    """The task that stores a job with all axes ascending in the world."""
    axes = descending(job.grid)
    if not axes:
        return job
    lead = len(job.dims) - job.grid.ndim
    return Reversed(job, tuple(k + lead for k in axes))


def with_source(task: Task, source: Source) -> Task:
    """The same task on another source of the same voxels, or on a part of its source."""
    return task.with_source(source) if isinstance(task, Reversed) else replace(task, source=source)  # type: ignore[type-var]


def job_of(task: object) -> Job | None:
    """The job by which a task makes its pixels; None where it makes them of the level below."""
    inner = task.inner if isinstance(task, Reversed) else task
    return inner if isinstance(inner, Job) else None
