"""The levels of a multiscale image: each is planned from the one below, and they run one after another."""

from __future__ import annotations

import logging
import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from daskreg.blocks.fingerprints import BlockFingerprints
from daskreg.blocks.job import Downsample, Job, Task
from daskreg.blocks.ledger import Ledger
from daskreg.blocks.ledger_entry import LedgerEntry
from daskreg.blocks.memory import memory_limit, threads_per_process
from daskreg.blocks.output import OutputRun
from daskreg.blocks.plan import LevelPlan, Plan, make_layout, plan_level
from daskreg.blocks.run import BlockFailure, run_blocks
from daskreg.blocks.write_block import WriteBlock
from daskreg.errors import OptionError, OutputExistsError
from daskreg.geometry import Box, Grid, tile
from daskreg.runtime.progress import ByteProgress
from daskreg.sampling.downsample import METHODS
from daskreg.sources.file_formats import ZARR
from daskreg.sources.stored import StoredSource

log = logging.getLogger(__name__)

SMALLEST_LEVEL = 256
"""Levels are added until no spatial axis is longer than this."""

GROUP = 64
"""Blocks for which a Dask graph is culled at once."""

Shape = tuple[int, ...]
Sizes = str | int | Sequence[int] | Mapping[str, int]


@dataclass(frozen=True)
class RunOptions:
    """How an image is cut and stored; the options of `daskreg.write`."""

    chunks: Sizes = "auto"
    shards: Sizes | None = "auto"
    levels: int | str = "auto"
    downsample: str = "auto"
    memory: str | int | None = None


@dataclass
class RunTotals:
    """Totals of a run so far; each finished block is reported to `progress`."""

    total: int
    progress: ByteProgress | None = None
    done: int = 0
    blocks: int = 0
    skipped: int = 0
    changed: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    stored: int = 0
    clipped: int = 0
    retries: int = 0
    missing: int = 0
    damaged: set[str] = field(default_factory=set)

    def add(self, block: WriteBlock) -> None:
        """Count a block that is done."""
        self.blocks += 1
        self.bytes_written += block.box.size * block.task.dtype.itemsize
        self._advance(1)

    def add_entries(self, entries: Iterator[LedgerEntry], counts: Shape) -> None:
        """Add what the ledger says about a level's blocks; one that was made twice counts once.

        Args:
            counts: number of the level's blocks along each axis.
        """
        seen = np.zeros(counts, dtype=bool)
        for entry in entries:
            self.retries += entry.retries
            if seen[entry.block]:
                continue
            seen[entry.block] = True
            self.stored += entry.stored
            self.clipped += entry.clipped
            if entry.level == 0:  # the other levels read the level below, not the source
                self.bytes_read += entry.bytes_read
                self.missing += entry.lost.missing
                self.damaged.update(entry.lost.damaged)

    def skip(self, count: int) -> None:
        """Count blocks that an earlier run has finished."""
        self.skipped += count
        if count:
            self._advance(count)

    def _advance(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(self.done, self.total, self.bytes_written)


def plan_levels(
    task: Task, path: str, options: RunOptions, *, client: Any | None, blocks: Sequence[Shape] | None = None
) -> Plan:
    """Plan all levels of the image that `task` makes.

    Args:
        blocks: block shapes of a run that is resumed; by default they are chosen.

    Raises: MemoryBudgetError where a block does not fit; OptionError for an unknown option.
    """
    limit = memory_limit(options.memory, client)
    threads = threads_per_process(client)
    workers = max(1, len(client.scheduler_info(n_workers=-1)["workers"])) if client is not None else 1
    method = _method(options.downsample, labels=isinstance(task, Job) and task.makes_labels)
    plans: list[LevelPlan] = []
    for level, factors in enumerate(level_factors(task.grid, options.levels)):
        if level:
            task = _next_level(plans[-1], path, factors, method)
        layout = make_layout(task, options.chunks, options.shards)
        block = tuple(blocks[level]) if blocks is not None and level < len(blocks) else None
        if block is not None and len(block) != len(layout.shape):
            block = None  # of another image, which is refused before anything is written
        plans.append(plan_level(level, task, layout, limit=limit, threads=threads, workers=workers, block=block))
    return Plan(path, tuple(plans), limit, threads, workers)


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


def run_levels(
    plan: Plan,
    run: OutputRun,
    *,
    client: Any | None,
    totals: RunTotals,
    redo_changed: bool,
) -> list[BlockFailure]:
    """Run the levels one after another, since each reads the one below; skip finished blocks.

    Args:
        redo_changed: make finished blocks again whose source or transform has changed.

    Returns: the failures of the first level that has any; empty when all is done.
    Raises: OutputExistsError where blocks have changed and `redo_changed` is False.
    """
    ledger = Ledger(plan.path)
    entries = ledger.entries()
    fingerprints: BlockFingerprints | None = None
    for level in plan.levels:
        task = level.task
        if isinstance(task, Downsample):
            task = replace(task, parents=fingerprints)
        fingerprints = BlockFingerprints(task.fingerprint, task.shape, level.block_shape)
        finished, stale = _finished(ledger, entries, level.level, fingerprints)
        if redo_changed:
            replaced = {index for index in finished if _source_is_newer(ledger, entries[level.level, index], level)}
            finished, stale = finished - replaced, stale | replaced
        if stale and redo_changed:
            log.info(
                "level %d: %d of %d blocks have changed and are made again", level.level, len(stale), level.block_count
            )
        if stale and not redo_changed:
            raise OutputExistsError(
                f"{plan.path}: {len(stale)} finished blocks of level {level.level} were made from another source or "
                "transform; resume='changed' redoes them, overwrite=True starts again"
            )
        totals.skip(len(finished))
        totals.changed += len(stale)
        ends = ledger.ends()
        items = unfinished_items(level, task, fingerprints, finished, plan.path, run)
        while True:
            failures = run_blocks(items, client=client, on_done=totals.add, resource=_resource(task))
            foreign: set[str] = set()
            made = _own_entries(ledger.entries_since(ends), level.level, run.run_id, fingerprints, foreign)
            totals.add_entries(made, fingerprints.counts)
            if failures:
                return failures
            if not foreign:
                break
            made = _own_entries(ledger.entries_since(ends), level.level, run.run_id, fingerprints, set())
            again = {entry.block for entry in chain(entries.values(), made) if _holds_any(entry, level.level, foreign)}
            log.warning("level %d: %d blocks were written over by a run that had ended", level.level, len(again))
            ends = ledger.ends()
            items = (
                item
                for item in unfinished_items(level, task, fingerprints, set(), plan.path, run)
                if item.index in again
            )
    return []


def _resource(task: Task) -> str | None:
    """The Dask resource that a worker must have for a task: a GPU, where the user asked for one."""
    return "GPU" if isinstance(task, Job) and task.device.startswith("cuda") else None


def unfinished_items(  # noqa: PLR0917
    level: LevelPlan,
    task: Task,
    fingerprints: BlockFingerprints,
    finished: set[Shape],
    path: str,
    run: OutputRun,
) -> Iterator[WriteBlock]:
    """The blocks of a level that are not finished, described one after another as they are asked for."""
    for part, blocks in grouped_blocks(task, level.layout.shape, level.block_shape):
        for index, box in blocks:
            if index not in finished:
                own = part.restrict(box)
                yield WriteBlock(own, path, run.run_id, level.level, index, box, fingerprints[index], run.session)


def grouped_blocks(task: Task, shape: Shape, block: Shape) -> Iterator[tuple[Task, Iterator[tuple[Shape, Box]]]]:
    """All blocks (index, output box), in groups, each group with a task that is restricted to it.

    A Dask graph has as many tasks as the whole volume has blocks. So it is culled once for a group of blocks, and
    that part of it is culled again for each block. Other sources need no culling and are one group.
    """
    if not task.source.is_graph:
        yield task, tile(shape, block)
        return
    counts = [-(-n // b) for n, b in zip(shape, block, strict=True)]
    sizes: list[int] = []
    left = GROUP
    for count in reversed(counts):
        sizes.insert(0, min(count, left))
        left = max(1, left // count)
    for _, group in tile(tuple(counts), tuple(sizes)):
        start = tuple(a * b for a, b in zip(group.start, block, strict=True))
        box = Box(start, tuple(a * b for a, b in zip(group.stop, block, strict=True))).clip(shape)
        part: Any = replace(task, source=task.source.restrict(task.read_box(box)))  # type: ignore[type-var]
        yield part, ((_plus(group.start, index), one.shift(box.start)) for index, one in tile(box.shape, block))


def _plus(first: Shape, second: Shape) -> Shape:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _finished(
    ledger: Ledger, entries: dict[tuple[int, Shape], LedgerEntry], level: int, fingerprints: BlockFingerprints
) -> tuple[set[Shape], set[Shape]]:
    """Blocks of a level that are finished and whose files are there: those that are current, and stale ones."""
    current: set[Shape] = set()
    stale: set[Shape] = set()
    for (number, index), entry in entries.items():
        if number == level and index in fingerprints and ledger.intact(entry):
            (current if entry.fingerprint == fingerprints[index] else stale).add(index)
    return current, stale


def _own_entries(
    entries: Iterator[LedgerEntry], level: int, run: str, fingerprints: BlockFingerprints, foreign: set[str]
) -> Iterator[LedgerEntry]:
    """Entries of a level that this run made; the files of others are added to `foreign`.

    A task looks whether its run is still the current one just before it writes. If its run is replaced just then, it
    writes into the new output, and says so in the ledger.
    """
    for entry in entries:
        if entry.level != level:
            continue
        if entry.is_of(run) and entry.block in fingerprints and entry.fingerprint == fingerprints[entry.block]:
            yield entry
        else:
            foreign.update(key for key, _, _ in entry.files)


def _holds_any(entry: LedgerEntry, level: int, files: set[str]) -> bool:
    return entry.level == level and not files.isdisjoint(key for key, _, _ in entry.files)


def _source_is_newer(ledger: Ledger, entry: LedgerEntry, level: LevelPlan) -> bool:
    """Whether a chunk that a finished block was made of has been written since."""
    start = tuple(i * b for i, b in zip(entry.block, level.block_shape, strict=True))
    box = Box(start, tuple(a + b for a, b in zip(start, level.block_shape, strict=True))).clip(level.layout.shape)
    return level.task.source.written_at(level.task.read_box(box)) > ledger.written_at(entry)


def _method(downsample: str, *, labels: bool) -> str:
    if downsample == "auto":
        return "mode" if labels else "mean"
    if downsample not in METHODS:
        raise OptionError(f"downsample={downsample!r}: use 'auto', {', '.join(METHODS)}")
    return downsample


def _next_level(below: LevelPlan, path: str, factors: Shape, method: str) -> Downsample:
    layout, grid = below.layout, below.task.grid
    lead = len(layout.shape) - grid.ndim
    source = StoredSource(
        format=ZARR.name,
        path=os.path.join(path, str(below.level)),
        dims=layout.dims,
        shape=layout.shape,
        dtype=layout.dtype,
        chunks=layout.chunks,
        grid=grid,
        stamp=uuid.uuid4().hex,  # of this run, so that no open handle of an earlier output at this path is reused
    )
    return Downsample(source, (1,) * lead + factors, grid.downsample(factors), method)
