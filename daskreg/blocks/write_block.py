"""The one task of a run: compute a block where a worker is, write its files, record it in the ledger.

A `WriteBlock`, a small description, travels to a worker; the task returns nothing. Two tasks never write the same
file, so a task that is tried again overwrites what it left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from daskreg.blocks.job import BlockStats, Task
from daskreg.blocks.ledger import Ledger, session_number
from daskreg.blocks.ledger_entry import LostChunks, entry_now
from daskreg.blocks.level_writer import NO_SPACE, NOT_ALLOWED, LevelWriter
from daskreg.blocks.memory import keep_freed_memory
from daskreg.errors import OutputBusyError, OutputError, StorageFullError
from daskreg.geometry import Box
from daskreg.sources.storage.counters import count_events

Index = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class WriteBlock:
    """All that a worker needs to make one block of one level."""

    task: Task
    output: str
    run_id: str
    level: int
    index: Index
    box: Box
    fingerprint: str
    session: str

    @property
    def key(self) -> str:
        """The name of the dask task, which says which block it is; unique to the run."""
        index = "_".join(map(str, self.index))
        return f"daskreg-write-{self.run_id}-{self.session[:8]}-L{self.level}-{index}"


def write_block(item: WriteBlock) -> None:
    """Compute one block, write its files, and append it to the ledger. Runs on a worker.

    It returns nothing: the worker may have died before the result is fetched.
    The ledger holds all facts about the block.

    Raises: StorageFullError when the disk is full, OutputError where writing is not allowed,
    OutputBusyError where a later run has taken the output over.
    """
    keep_freed_memory()
    writer = _writer(item.output, item.run_id, item.level)
    stats = BlockStats()
    with count_events() as seen:
        pixels = item.task.run(writer.parts(item.box), stats)
        first = next(pixels)
        ledger = Ledger(item.output)
        if not ledger.serves(item.session):
            raise OutputBusyError(f"{item.output} was taken over by a later run, or removed: this one ends")
        with _named_errors(item.output):
            files = writer.write(item.box, chain([first], pixels))
            entry = entry_now(
                item.level,
                item.index,
                item.fingerprint,
                files,
                clipped=stats.clipped,
                lost=LostChunks(len(seen.missing), tuple(seen.damaged)),
                bytes_read=stats.bytes_read,
                retries=seen.retries,
                run=item.run_id,
                session=session_number(item.session),
            )
            ledger.append(entry)


@contextlib.contextmanager
def _named_errors(output: str) -> Iterator[None]:
    """Errors of the disk that every block would meet, as errors of the run."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StorageFullError(
                error.errno,
                f"no space left while writing {output}: finished blocks are kept; make room and run the same "
                "command again to resume",
            ) from error
        if error.errno in NOT_ALLOWED:
            raise OutputError(
                f"{output} cannot be written ({error}): give the workers permission and run the same command again"
            ) from error
        raise


@lru_cache(maxsize=8)
def _writer(output: str, run_id: str, level: int) -> LevelWriter:
    """The open array of a level in this process; `run_id` distinguishes runs at one path."""
    return LevelWriter(output, level)
