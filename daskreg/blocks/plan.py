"""The plan of a run: which blocks there are and what they will cost. No pixel is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dask.utils import format_bytes, format_time

from daskreg.blocks.job import Downsample, Task
from daskreg.blocks.memory import projected_bytes
from daskreg.blocks.reversed import job_of
from daskreg.errors import MemoryBudgetError, OptionError
from daskreg.geometry import Box
from daskreg.geometry.notebook_table import lines_table
from daskreg.sources.chunking import sizes_per_axis

BLOCK_TARGET = 240 * 2**20
"""Bytes of working memory of a block that is enlarged to read less, at most."""

MOST_OUTPUT = 512 * 2**20
"""Bytes of output of a block that is enlarged, at most: so much is computed again when a worker dies."""

MANY_FILES, SHARD_BYTES = 4096, 64 * 2**20
"""More chunks than this are gathered in shards of up to so many bytes before compression: file systems list, copy and
remove thousands of files slowly, and a block, which writes whole shards, should stay small."""

MOST_FILES = 50_000
"""More files than this are not made: shards are then larger."""

LEAST_OBJECT, MOST_OBJECT, MANY_OBJECTS = 4 * 2**20, 32 * 2**20, 64
"""Bytes of an object before compression: enough that its transfer takes longer than its request (about 0.05 s), and not
so many that an image makes fewer than 64 objects, which workers write at the same time."""

SAMPLED_BLOCKS = 2048
"""Of more blocks than this, the bytes read and the memory are estimated from this many."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How an array is stored; `as_objects`: in an object store."""

    dims: tuple[str, ...]
    shape: Shape
    dtype: np.dtype[Any]
    chunks: Shape
    shards: Shape | None
    as_objects: bool = False

    @property
    def unit(self) -> Shape:
        """The shape that one file holds, which no two tasks may share: a shard, or a chunk without shards."""
        return self.shards or self.chunks

    @property
    def files(self) -> int:
        return math.prod(-(-n // u) for n, u in zip(self.shape, self.unit, strict=True))

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class LevelPlan:
    """One pyramid level: what is computed, how it is stored, and in which blocks.

    Args:
        block_shape: of what one task writes: whole units, `layout.unit`.
        bytes_read: decoded bytes of the source chunks that the blocks touch.
        memory: projected peak of the most demanding block, above an idle process.
        exact: whether bytes_read and memory come from every block or from a sample.
    """

    level: int
    task: Task
    layout: Layout
    block_shape: Shape
    bytes_read: int
    memory: int
    exact: bool

    @property
    def block_count(self) -> int:
        return math.prod(-(-n // b) for n, b in zip(self.layout.shape, self.block_shape, strict=True))


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run will do. Print it.

    Args:
        threads: blocks that a process works on at a time.
        workers: processes.
        seconds: how long it will take, where a block was tried (`plan(..., probe=True)`).
    """

    path: str
    levels: tuple[LevelPlan, ...]
    memory_limit: int
    threads: int
    workers: int = 1
    seconds: float | None = None

    @property
    def bytes_read(self) -> int:
        """Decoded bytes of the source, for level 0 (the others read the level below)."""
        return self.levels[0].bytes_read

    @property
    def bytes_written(self) -> int:
        """Bytes of all levels before compression."""
        return sum(level.layout.nbytes for level in self.levels)

    @property
    def amplification(self) -> float:
        """Decoded bytes of the source for each voxel of the output, in voxels of the source."""
        level = self.levels[0]
        per_voxel = level.task.source.dtype.itemsize / level.layout.dtype.itemsize
        return level.bytes_read / max(1.0, level.layout.nbytes * per_voxel)

    @property
    def memory(self) -> int:
        """Projected peak bytes of one process above idle, all of whose threads work on a block."""
        return max(level.memory for level in self.levels) * self.threads

    @property
    def files(self) -> int:
        return sum(level.layout.files for level in self.levels)

    @property
    def block_count(self) -> int:
        return sum(level.block_count for level in self.levels)

    def to_json(self) -> dict[str, Any]:
        """The plan in JSON's types; bytes, and seconds where a block was tried."""
        levels = [
            {
                "shape": level.layout.shape,
                "chunks": level.layout.chunks,
                "shards": level.layout.shards,
                "block_shape": level.block_shape,
                "blocks": level.block_count,
                "files": level.layout.files,
            }
            for level in self.levels
        ]
        first = self.levels[0].layout
        counted = ("bytes_read", "bytes_written", "files", "memory", "memory_limit", "threads", "workers", "seconds")
        return {
            "type": "Plan", "path": self.path, "dims": first.dims, "dtype": str(first.dtype), "levels": levels,
            "blocks": self.block_count, "exact": all(level.exact for level in self.levels),
        } | {name: getattr(self, name) for name in counted}  # fmt: skip

    def __repr__(self) -> str:
        first = self.levels[0]
        layout = first.layout
        about = "" if all(level.exact for level in self.levels) else "about "
        size = " x ".join(f"{d} {n}" for d, n in zip(layout.dims, layout.shape, strict=True))
        at_once = f"{self.threads} at a time" + (f" in each of {self.workers} processes" if self.workers > 1 else "")
        sizes = ", ".join("x".join(map(str, level.layout.shape)) for level in self.levels)
        lines = [
            f"Plan: {size}, {layout.dtype} -> {self.path}",
            f"  reads    {about}{format_bytes(self.bytes_read)} of the source, {self.amplification:.2f} times what "
            "the output holds of it",
            f"  writes   {format_bytes(self.bytes_written)} before compression, as {self.files:,} files",
            f"  levels   {sizes}",
            f"  blocks   {self.block_count:,} of up to {first.block_shape}, {at_once}",
            f"  chunks   {layout.chunks}, " + (f"shards {layout.shards}" if layout.shards else "no shards"),
            f"  memory   {about}{format_bytes(self.memory)} a process above idle, of a limit of "
            f"{format_bytes(self.memory_limit)}",
        ]
        if self.seconds is None:
            lines.append("  time     not known: daskreg.plan(..., probe=True) tries one block")
        else:
            lines.append(f"  time     about {format_time(self.seconds)}, judging by one block")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return lines_table(repr(self))


def make_layout(task: Task, chunks: Any, shards: Any, *, as_objects: bool = False) -> Layout:
    """Chunks and shards for the output of a task; "auto" chooses.

    Args:
        as_objects: for an object store, where each file costs a request.

    Raises: OptionError where they do not fit the array or one another.
    """
    shape = task.shape
    chunk = _sizes(chunks, task, "chunks")
    if isinstance(shards, str) and shards == "auto":
        item = task.dtype.itemsize
        shard = _auto_shards(shape, chunk, SHARD_BYTES // item, _voxels_of_objects(shape, item) if as_objects else 0)
    elif shards is None:
        shard = None
    else:
        # Where a chunk holds the whole axis, so does the shard.
        sizes = _sizes(shards, task, "shards", clip=False)
        shard = tuple(c if c >= n else s for s, c, n in zip(sizes, chunk, shape, strict=True))
        for name, s, c in zip(task.dims, shard, chunk, strict=True):
            if s % c:
                raise OptionError(f"shards along {name} are {s}, which is no multiple of the chunks' {c}")
    return Layout(task.dims, shape, task.dtype, chunk, shard, as_objects)


def plan_level(
    level: int,
    task: Task,
    layout: Layout,
    *,
    limit: int,
    threads: int,
    workers: int = 1,
    block: Shape | None = None,
) -> LevelPlan:
    """Choose the blocks of a level that read few bytes and stay under the memory limit.

    Args:
        limit: bytes of one process.
        threads, workers: blocks that a process works on at a time, and processes.
        block: the shape of a block, which is then not chosen.

    Raises: MemoryBudgetError where not even one shard fits, saying what would.
    """
    budget = limit // threads
    block = block or _grow_block(task, layout, min(budget, BLOCK_TARGET), fewest=2 * threads * workers)
    boxes, share = representative_boxes(layout.shape, block, SAMPLED_BLOCKS)
    need = _need(task, layout, boxes)
    if need > budget:
        raise MemoryBudgetError(
            f"a block of {block} takes {format_bytes(need)}, but a process with {threads} at a time may use "
            f"{format_bytes(limit)} (chunks {layout.chunks}, shards {layout.shards}); what would fit: "
            + ", or ".join(_what_fits(task, layout, need, limit=limit, threads=threads))
        )
    touched = sum(decoded_bytes(task, box) for box in boxes)
    return LevelPlan(level, task, layout, block, round(touched * share), need, share == 1.0)


def _need(task: Task, layout: Layout, boxes: Sequence[Box]) -> int:
    """Projected peak of the most demanding of some blocks."""
    return max(_projected(task, layout, box) for box in boxes)


def _projected(task: Task, layout: Layout, box: Box) -> int:
    return projected_bytes(task, box, layout.chunks, layout.shards, as_objects=layout.as_objects)


def _what_fits(task: Task, layout: Layout, need: int, *, limit: int, threads: int) -> Iterator[str]:
    """Options, as a user types them, with which a block of `need` bytes fits."""
    yield f"memory='{-(-need * threads // 2**20)} MiB'"
    if limit >= need:
        yield f"workers of {limit // need} thread{'s' if limit >= 2 * need else ''}"
    smaller = _fitting(task, layout, limit // threads)
    if smaller is not None:
        yield f"chunks={smaller.chunks} and shards={smaller.shards}"


def _fitting(task: Task, layout: Layout, budget: int) -> Layout | None:
    """The layout with shards, then chunks, halved until a block of one of them fits; None where none does."""
    while True:
        if layout.shards is not None:
            times = [s // c for s, c in zip(layout.shards, layout.chunks, strict=True)]
            axis = times.index(max(times))
            times[axis] = -(-times[axis] // 2)
            shards = tuple(t * c for t, c in zip(times, layout.chunks, strict=True))
            layout = replace(layout, shards=shards if max(times) > 1 else None)
        elif max(layout.chunks) > 1:
            axis = layout.chunks.index(max(layout.chunks))
            layout = replace(layout, chunks=tuple(-(-c // 2) if k == axis else c for k, c in enumerate(layout.chunks)))
        else:
            return None
        if _projected(task, layout, _middle_box(layout.shape, layout.unit)) > budget:
            continue  # without a look at thousands of blocks
        if _need(task, layout, representative_boxes(layout.shape, layout.unit, SAMPLED_BLOCKS)[0]) <= budget:
            return layout


def _grow_block(task: Task, layout: Layout, target: int, *, fewest: int) -> Shape:
    """Double one unit along the axis that saves most reading, again and again, while that saves 0.5 % and fits.

    Args:
        target: bytes of working memory.
        fewest: blocks that must be left, so that all threads have some.
    """
    block = layout.unit
    cost = _amplification(task, layout, block)
    while cost > 1.02:
        best: tuple[float, Shape] | None = None
        for axis in range(len(block)):
            if block[axis] >= layout.shape[axis]:
                continue
            wider = tuple(2 * b if k == axis else b for k, b in enumerate(block))
            count = math.prod(-(-n // b) for n, b in zip(layout.shape, wider, strict=True))
            sample = _middle_box(layout.shape, wider)
            if count < fewest or sample.size * layout.dtype.itemsize > MOST_OUTPUT:
                continue
            if _projected(task, layout, sample) > target:
                continue
            candidate = (_amplification(task, layout, wider), wider)
            best = min(best, candidate) if best else candidate
        if best is None or best[0] > 0.995 * cost:
            break
        cost, block = best
    return block


def _amplification(task: Task, layout: Layout, block: Shape) -> float:
    boxes, _ = representative_boxes(layout.shape, block, 64)
    return sum(decoded_bytes(task, b) for b in boxes) / max(1, sum(b.size for b in boxes)) / task.source.dtype.itemsize


def decoded_bytes(task: Task, box: Box) -> int:
    read = task.read_box(box)
    if read.empty:
        return 0
    if not task.source.in_memory:
        read = read.align(task.source.chunks).clip(task.source.shape)
    return read.size * task.source.dtype.itemsize


def representative_boxes(shape: Shape, block: Shape, most: int) -> tuple[list[Box], float]:
    """Boxes of all blocks, or of `most` evenly spread ones; and how many blocks each stands for."""
    counts = [-(-n // b) for n, b in zip(shape, block, strict=True)]
    total = math.prod(counts)
    picks = np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(np.int64))
    boxes = []
    for index in zip(*np.unravel_index(picks, counts), strict=True):
        start = tuple(int(i) * b for i, b in zip(index, block, strict=True))
        boxes.append(Box(start, tuple(a + b for a, b in zip(start, block, strict=True))).clip(shape))
    return boxes, total / len(boxes)


def _middle_box(shape: Shape, block: Shape) -> Box:
    start = tuple((n // 2) // b * b for n, b in zip(shape, block, strict=True))
    return Box(start, tuple(a + b for a, b in zip(start, block, strict=True))).clip(shape)


def _auto_chunks(task: Task) -> Shape:
    """Chunks of a few MiB: as the source along carried axes, 512 in a plane, 128 in a volume.

    Those of a coarser level are as those of the level below, so that none of these is decoded for several chunks.
    """
    if isinstance(task, Downsample):
        return tuple(min(n, c) for n, c in zip(task.shape, task.source.chunks, strict=True))
    lead = len(task.shape) - task.grid.ndim
    job = job_of(task)
    sampled = tuple(range(lead, len(task.shape))) if job is None else job.mapping.sampled
    edge = {1: 2**20, 2: 512}.get(len(sampled), 128)
    chunks = []
    for axis, n in enumerate(task.shape):
        if axis < lead:
            size = 1
        elif axis in sampled:
            size = edge if task.grid.ndim > 2 or len(sampled) > 2 else 1024
        else:
            stored = task.source.chunks[axis]
            size = stored if 1 < stored <= 64 else 16
        chunks.append(min(n, size))
    return tuple(chunks)


def _voxels_of_objects(shape: Shape, itemsize: int) -> int:
    """Voxels that an object of an image should hold at most."""
    return min(max(math.prod(shape) * itemsize // MANY_OBJECTS, LEAST_OBJECT), MOST_OBJECT) // itemsize


def _auto_shards(shape: Shape, chunks: Shape, most: int, voxels: int = 0) -> Shape | None:
    """None, or shards large enough that there are few files.

    Args:
        most: voxels of a shard, at most, where there are no more than MOST_FILES files.
        voxels: of a shard, about, also where there are few files.
    """
    counts = [-(-n // c) for n, c in zip(shape, chunks, strict=True)]
    times = [1] * len(shape)

    def too_small() -> bool:
        files = math.prod(-(-n // t) for n, t in zip(counts, times, strict=True))
        twice = 2 * math.prod(chunks) * math.prod(times)
        return files > MOST_FILES or (files > MANY_FILES and twice <= most) or (files > 1 and twice <= voxels)

    while too_small():
        widest = max(range(len(shape)), key=lambda k: counts[k] / times[k])
        times[widest] *= 2
    if max(times) == 1:
        return None
    return tuple(c * t for c, t in zip(chunks, times, strict=True))


def _sizes(value: Any, task: Task, what: str, *, clip: bool = True) -> Shape:
    """One size for the spatial axes (1 for t and c in front), or one for each axis, by position or name."""
    space = task.grid.ndim
    lead = len(task.shape) - space
    return sizes_per_axis(
        value,
        task.dims,
        task.shape,
        auto=_auto_chunks(task),
        unnamed=(1,) * lead + task.shape[lead:],
        optional=len(task.shape),
        space=space,
        what=what,
        clip=clip,
    )
