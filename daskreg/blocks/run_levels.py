"""Run the levels of an image one after another, each from the one below; look afterwards that it is all there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.fingerprints import BlockFingerprints
from daskreg.blocks.job import Downsample, Task
from daskreg.blocks.made_of import Contents, MadeOf
from daskreg.blocks.output import OutputRun
from daskreg.blocks.plan import LevelPlan, Plan
from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.record.ledger_entry import NOTHING_LOST, LedgerEntry, LostChunks
from daskreg.blocks.reversed import job_of, with_source
from daskreg.blocks.run import BlockFailure, run_blocks
from daskreg.blocks.write_block import WriteBlock
from daskreg.errors import OutputError, OutputExistsError, SourceChangedError
from daskreg.geometry import Box, tile
from daskreg.runtime.progress import ByteProgress
from daskreg.sources.storage.object_tags import listed_tags

log = logging.getLogger(__name__)

GROUP = 64
"""Blocks for which a Dask graph is culled at once."""

MOST_ROUNDS = 3
"""Times that blocks of a level are made again at once, because what they were made of, or their files, had changed."""

Shape = tuple[int, ...]


@dataclass
class RunTotals:
    """Totals of a run so far; each finished block is reported to `progress`.

    `missing` and `damaged` also count what the blocks of earlier runs show as fill.

    Args:
        check: called about once a second; what it raises ends the run.
    """

    total: int
    progress: ByteProgress | None = None
    check: Callable[[], None] | None = None
    failures: list[BlockFailure] = field(default_factory=list)
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

    def add_entry(self, entry: LedgerEntry) -> None:
        """Add what the ledger says about a block that was made in this run."""
        self.stored += entry.stored
        self.clipped += entry.clipped
        if entry.level == 0:  # the other levels read the level below, not the source
            self.bytes_read += entry.bytes_read

    def add_lost(self, lost: LostChunks) -> None:
        """Add what a block of level 0 shows as fill."""
        self.missing += lost.missing
        self.damaged.update(lost.damaged)

    def skip(self, count: int) -> None:
        """Count blocks that an earlier run has finished."""
        self.skipped += count
        if count:
            self._advance(count)

    def _advance(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total, self.bytes_written)


def run_levels(
    plan: Plan,
    run: OutputRun,
    *,
    client: Any | None,
    totals: RunTotals,
    redo_changed: bool,
    owned: Sequence[NDArray[np.bool_]] | None = None,
) -> list[BlockFailure]:
    """Run the levels one after another, since each reads the one below; skip finished blocks.

    Args:
        redo_changed: make finished blocks again whose source or transform has changed.
        owned: for each level, which of its blocks are made here; the others are left alone. None: all.

    Returns: the failures of the first level that has any; empty when all is done.
    Raises: OutputExistsError where blocks have changed and `redo_changed` is False; SourceChangedError where the source
    changes again and again; OutputError where files of the output vanish.
    """
    ledger = Ledger(plan.path)
    entries = ledger.entries()
    below: Contents | None = None
    fingerprints: BlockFingerprints | None = None
    for level in plan.levels:
        task = level.task
        if isinstance(task, Downsample):
            task = replace(task, parents=fingerprints)
        fingerprints = BlockFingerprints(task.fingerprint, task.shape, level.block_shape)
        own = None if owned is None else owned[level.level]
        runner = _LevelRun(plan.path, level, task, fingerprints, MadeOf(level, below), run, client, totals, own)
        with listed_tags():
            finished, stale = runner.finished(entries, redo_changed=redo_changed)
        if stale and not redo_changed:
            raise OutputExistsError(
                f"{plan.path}: {len(stale)} finished blocks of level {level.level} were made from another source or "
                "transform; resume='changed' redoes them, overwrite=True starts again"
            )
        if stale:
            log.info(
                "level %d: %d of %d blocks have changed and are made again", level.level, len(stale), level.block_count
            )
        totals.skip(len(finished))
        totals.changed += len(stale)
        kept = {index: entries[level.level, index] for index in finished}
        failures = runner.make(kept)
        if level.level == 0:
            for lost in runner.lost.values():
                totals.add_lost(lost)
        if failures:
            return failures
        below = runner.contents
    return []


class _LevelRun:
    """One level in one run.

    Args:
        made_of: what its blocks are made of.
        owned: which of its blocks this run makes; None: all.

    `contents` are the checksums of the blocks that are finished, `lost` what some of them show as fill.
    """

    def __init__(  # noqa: PLR0917
        self,
        path: str,
        level: LevelPlan,
        task: Task,
        fingerprints: BlockFingerprints,
        made_of: MadeOf,
        run: OutputRun,
        client: Any | None,
        totals: RunTotals,
        owned: NDArray[np.bool_] | None = None,
    ) -> None:
        self._path, self._level, self._task, self._fingerprints = path, level, task, fingerprints
        self._made_of, self._run, self._client, self._totals = made_of, run, client, totals
        self._owned = owned
        self._ledger = Ledger(path)
        self.lost: dict[Shape, LostChunks] = {}
        self.contents = Contents(fingerprints.counts, level.block_shape)

    def finished(
        self, entries: dict[tuple[int, Shape], LedgerEntry], *, redo_changed: bool
    ) -> tuple[set[Shape], set[Shape]]:
        """Blocks that are finished and whose files are there: those that are current, and stale ones."""
        current: set[Shape] = set()
        stale: set[Shape] = set()
        for (number, index), entry in entries.items():
            if number != self._level.level or not self._makes(index) or not self._ledger.intact(entry):
                continue
            if entry.fingerprint != self._fingerprints[index]:
                stale.add(index)
            elif not self._made_of.is_current(entry, self._ledger, every_source=redo_changed):
                if redo_changed or (self._level.level == 0 and not entry.lost.missing):
                    stale.add(index)  # else its chunks have come, or the level below was made again: as not finished
            else:
                current.add(index)
        return current, stale

    def make(self, kept: dict[Shape, LedgerEntry]) -> list[BlockFailure]:
        """Make the blocks that are not finished; make those again whose source or files have changed meanwhile.

        Args:
            kept: entries of the finished blocks.

        Returns: the failures; empty when all is done.
        """
        for entry in kept.values():
            self._note(entry)
        items = self._items(set(kept))
        counted: set[Shape] = set()
        for _ in range(MOST_ROUNDS + 1):
            ends = self._ledger.ends()
            failures = run_blocks(
                items,
                client=self._client,
                on_done=self._totals.add,
                resource=_resource(self._task),
                on_failed=self._totals.failures.append,
                check=self._totals.check,
            )
            changed, vanished = self._look_at(ends, kept, counted)
            again = changed | vanished
            if failures or not again:
                return failures
            log.warning("level %d: %d blocks are made again: %s", self._level.level, len(again), _some(again))
            items = (item for item in self._items(set()) if item.index in again)
        raise self._still_changing(changed, vanished)

    def _look_at(
        self, ends: dict[str, int], kept: dict[Shape, LedgerEntry], counted: set[Shape]
    ) -> tuple[set[Shape], set[Shape]]:
        """The blocks made since `ends`: those whose source has changed since, and those whose files are not theirs.

        A task looks whether its run is still the current one just before it writes. If its run is replaced just then,
        it writes into the new output, and says so in the ledger: its files are foreign.
        """
        foreign: set[str] = set()
        changed: set[Shape] = set()
        vanished: set[Shape] = set()
        made: dict[Shape, LedgerEntry] = {}
        for entry in self._own_entries(ends, foreign):
            self._totals.retries += entry.retries
            made[entry.block] = entry
            self._note(entry)
            if entry.block not in counted:
                counted.add(entry.block)
                self._totals.add_entry(entry)
        with listed_tags():
            for index, entry in made.items():
                if not self._ledger.intact(entry):
                    vanished.add(index)
                elif not self._made_of.is_current(entry, self._ledger, every_source=True):
                    changed.add(index)
        if foreign:
            both = chain(kept.values(), made.values())
            vanished |= {e.block for e in both if not foreign.isdisjoint(key for key, _, _ in e.files)}
        return changed, vanished

    def _note(self, entry: LedgerEntry) -> None:
        self.contents.put(entry)
        self.lost.pop(entry.block, None)
        if entry.lost != NOTHING_LOST:
            self.lost[entry.block] = entry.lost

    def _own_entries(self, ends: dict[str, int], foreign: set[str]) -> Iterator[LedgerEntry]:
        """Entries of the level that this run has made since `ends`; the files of others are added to `foreign`."""
        known = self._fingerprints
        for entry in self._ledger.entries_since(ends):
            if entry.level != self._level.level or (entry.block in known and not self._makes(entry.block)):
                continue  # of another level, or of another process that writes this image, too
            if entry.is_of(self._run.run_id) and entry.block in known and entry.fingerprint == known[entry.block]:
                yield entry
            else:
                foreign.update(key for key, _, _ in entry.files)

    def _makes(self, index: Shape) -> bool:
        """Whether this is a block of the level that this run makes."""
        return index in self._fingerprints and (self._owned is None or bool(self._owned[index]))

    def _items(self, finished: set[Shape]) -> Iterator[WriteBlock]:
        items = unfinished_items(
            self._level, self._task, self._fingerprints, finished, self._path, self._run, made_of=self._made_of
        )
        return items if self._owned is None else (item for item in items if self._makes(item.index))

    def _still_changing(self, changed: set[Shape], vanished: set[Shape]) -> Exception:
        if vanished:
            return OutputError(
                f"{self._path}: files of {len(vanished)} blocks of level {self._level.level} vanish while it is "
                f"written ({_some(vanished)}): find out what removes them, and run the same command again"
            )
        return SourceChangedError(
            f"{self._task.source.path} was written to while it was read: {len(changed)} blocks of level "
            f"{self._level.level} hold voxels of before and after ({_some(changed)}); run the same command with "
            "resume='changed' when it is complete"
        )


def _some(blocks: set[Shape], most: int = 5) -> str:
    listed = ", ".join(map(str, sorted(blocks)[:most]))
    return listed + (f" and {len(blocks) - most} more" if len(blocks) > most else "")


def _resource(task: Task) -> str | None:
    """The Dask resource that a worker must have for a task: a GPU, where the user asked for one."""
    job = job_of(task)
    return "GPU" if job is not None and job.device.startswith("cuda") else None


def unfinished_items(  # noqa: PLR0917
    level: LevelPlan,
    task: Task,
    fingerprints: BlockFingerprints,
    finished: set[Shape],
    path: str,
    run: OutputRun,
    made_of: MadeOf | None = None,
) -> Iterator[WriteBlock]:
    """The blocks of a level that are not finished, described one after another as they are asked for."""
    for part, blocks in grouped_blocks(task, level.layout.shape, level.block_shape):
        for index, box in blocks:
            if index not in finished:
                own = part.restrict(box)
                below = made_of.of_level_below(box) if made_of is not None else ""
                yield WriteBlock(
                    own, path, run.run_id, level.level, index, box, fingerprints[index], run.session, made_of=below
                )


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
        cut = task.source.restrict(task.read_box(box))
        part = with_source(task, cut)
        yield part, ((_plus(group.start, index), one.shift(box.start)) for index, one in tile(box.shape, block))


def _plus(first: Shape, second: Shape) -> Shape:
    return tuple(a + b for a, b in zip(first, second, strict=True))
