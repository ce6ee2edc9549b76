"""Write a volume as one file, slab after slab in bounded memory; the same call resumes an interrupted one.

The file is made of its whole size as `OUT.partial`, with a ledger of finished slabs beside it, and renamed to `OUT` at
the end. Slabs are computed on the workers of a client or in threads of this process, which writes them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daskreg.blocks.job import BlockStats
from daskreg.blocks.memory import Processes
from daskreg.blocks.record.lock import locked
from daskreg.blocks.run_levels import MOST_ROUNDS
from daskreg.blocks.source_watch import SourceWatch
from daskreg.errors import DaskregWarning, OutputBusyError, OutputExistsError, SourceChangedError
from daskreg.flat.image import FlatFormat, FlatImage
from daskreg.flat.slabs import MadeSlab, Slab, Task, from_threads, from_workers, slab_shape, slabs_at_once
from daskreg.flat.unfinished import UnfinishedFile, file_errors, record_of
from daskreg.geometry import Box, tile
from daskreg.runs.written import Written
from daskreg.runtime.progress import ByteProgress
from daskreg.sources.storage.object_tags import listed_tags

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FlatOptions:
    """The options of `daskreg.write` that concern a single file."""

    overwrite: bool = False
    resume: bool | str = True
    memory: str | int | None = None


def write_flat(
    task: Task,
    image: FlatImage,
    kind: FlatFormat,
    path: Path,
    options: FlatOptions,
    *,
    client: Any | None = None,
    progress: ByteProgress | None = None,
) -> Written:
    """Write the voxels of a task into a file.

    Raises: as `FlatFormat.check`; OutputError, OutputExistsError, OutputBusyError, LayoutMismatchError,
    MemoryBudgetError; StorageFullError, NoWorkersError, SchedulerLostError, SourceChangedError and errors of the
    source, after which the same call resumes.
    """
    kind.check(image)
    _refuse_existing(path, options)
    started = time.monotonic()
    with ExitStack() as stack:
        with file_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            free = stack.enter_context(locked(record_of(path)))
        if not free:
            raise OutputBusyError(f"another run is writing {path}: wait until it is done, or end it")
        _refuse_existing(path, options)  # another run may have ended since
        file = UnfinishedFile(path)
        stack.callback(file.tidy)
        run = _FlatRun(task, image, file, progress)
        run.make(kind, options, client)
        file.finish(overwrite=options.overwrite)
    entries = file.ledger.entries.values()
    return Written(
        str(path),
        (image.shape,),
        len(run.slabs) - run.skipped,
        run.skipped,
        run.changed,
        time.monotonic() - started,
        sum(one.bytes_read for one in run.stats.values()),
        run.written,
        path.stat().st_size,
        sum(one.clipped for one in run.stats.values()),
        run.retries,
        sum(entry.missing for entry in entries),
        tuple(sorted({name for entry in entries for name in entry.damaged})),
    )


def _refuse_existing(path: Path, options: FlatOptions) -> None:
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder, which no file replaces: remove it, or choose another path")
    if os.path.lexists(path) and not options.overwrite:
        raise OutputExistsError(f"{path} exists; overwrite=True replaces it")


class _FlatRun:
    """One run that makes the slabs of a file which are not finished.

    `slabs` are the boxes of all slabs by number; `skipped` and `changed` count those that an earlier run had finished,
    and those of them that are made again; `stats`, `retries` and `written` (bytes) are of this run.
    """

    def __init__(self, task: Task, image: FlatImage, file: UnfinishedFile, progress: ByteProgress | None) -> None:
        self._task, self._image, self._file, self._progress = task, image, file, progress
        self.slabs: dict[int, Box] = {}
        self.skipped = self.changed = self.retries = self.written = 0
        self.stats: dict[int, BlockStats] = {}

    def make(self, kind: FlatFormat, options: FlatOptions, client: Any | None) -> None:
        """Make what is not finished; make those slabs again whose source has changed meanwhile."""
        processes = Processes.of(client, options.memory)
        at_once, limit = processes.threads, processes.limit
        shape = self._begun(kind, options, limit, at_once)
        fit = slabs_at_once(self._task, shape, limit, at_once)
        self.slabs = {number: box for number, (_, box) in enumerate(tile(self._image.shape, shape))}
        watch = SourceWatch(self._task.source)
        todo = self._unfinished(redo_changed=options.resume == "changed")
        self.skipped = len(self.slabs) - len(todo)
        for _ in range(MOST_ROUNDS + 1):
            if client is None:
                self._put(from_threads(self._task, todo, fit))
            else:
                self._put(from_workers(client, self._task, todo, 2.0 if fit == at_once else fit / at_once))
            todo = self._changed(todo)
            if not todo:
                break
            log.warning("%s: %d slabs are made again: their source has changed", self._file.path, len(todo))
        else:
            raise SourceChangedError(
                f"{self._task.source.path} was written to while it was read; run the same command with "
                "resume='changed' when it is complete"
            )
        watch.check()

    def _begun(self, kind: FlatFormat, options: FlatOptions, limit: int, at_once: int) -> tuple[int, ...]:
        """Take the file up again, or make it; gives the shape of a slab.

        That of a file which is there is kept: another one would follow from the memory that is free at the moment.
        """
        task, image, file = self._task, self._image, self._file
        how: dict[str, Any] = {"overwrite": options.overwrite, "resume": options.resume}
        kept = file.slab(image.shape)
        if kept is not None and file.resumes(_facts(task, image, kind, kept), **how):
            return kept
        shape = slab_shape(task, limit, at_once)
        facts = _facts(task, image, kind, shape)
        if kept is None:
            file.resumes(facts, **how)
        file.begin(facts, lambda path: kind.create(path, image))
        return shape

    def _unfinished(self, *, redo_changed: bool) -> list[Slab]:
        """The slabs to make: those not written, and those whose source has changed, where that is asked for.

        Slabs that lack chunks of the source are always made again when these have come.
        """
        entries = self._file.ledger.entries
        done = [slab for slab in self.slabs.items() if slab[0] in entries]
        changed = self._changed(done)
        again = {number for number, _ in changed if redo_changed or entries[number].missing}
        if mixed := len(changed) - len(again):
            warnings.warn(
                f"{mixed} finished slabs of {self._file.path} were made of chunks that have changed since, and are "
                "kept; resume='changed' makes them again",
                DaskregWarning,
                stacklevel=6,
            )
        self.changed = len(again) if redo_changed else 0
        return [slab for slab in self.slabs.items() if slab[0] not in entries or slab[0] in again]

    def _changed(self, slabs: Sequence[Slab]) -> list[Slab]:
        """Those of finished slabs that would be made of other chunks of the source now."""
        source, entries = self._task.source, self._file.ledger.entries
        with listed_tags():
            return [
                (number, box)
                for number, box in slabs
                if (before := entries[number].source) and source.state(self._task.read_box(box)) not in {"", before}
            ]

    def _put(self, made: Iterator[MadeSlab]) -> None:
        """Write slabs as they come."""
        for slab in made:
            number = slab.entry.number
            self._file.put(slab.box, slab.pixels, self._image.shape, slab.entry)
            self.written += slab.pixels.nbytes
            self.stats[number] = slab.stats
            self.retries += slab.retries
            if self._progress is not None:
                self._progress(self.skipped + len(self.stats), len(self.slabs), self.written)


def _facts(task: Task, image: FlatImage, kind: FlatFormat, slab: tuple[int, ...]) -> dict[str, Any]:
    made_of = hashlib.sha256(repr((image.grid, image.lead, image.dims, image.name)).encode()).hexdigest()[:16]
    return {
        "format": kind.title,
        "shape": list(image.shape),
        "dtype": image.dtype.name,
        "metadata": made_of,
        "source and transform": task.fingerprint(Box.of(image.shape)),
        "slab": list(slab),
    }
