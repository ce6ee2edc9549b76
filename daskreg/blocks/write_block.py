"""The one task of a run: compute a block where a worker is, write its files, record it in the ledger.

A `WriteBlock`, a small description, travels to a worker; the task returns nothing. Two tasks never write the same
file, so a task that is tried again overwrites what it left.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

from daskreg.blocks.disk_errors import NO_SPACE
from daskreg.blocks.job import BlockStats, Task
from daskreg.blocks.level_writer import NOT_ALLOWED, LevelWriter
from daskreg.blocks.memory import keep_freed_memory
from daskreg.blocks.record.ledger import Ledger, session_number
from daskreg.blocks.record.ledger_entry import LostChunks, entry_now
from daskreg.errors import DaskregError, OutputBusyError, OutputError, StorageFullError
from daskreg.geometry import Box
from daskreg.sources.storage.counters import count_events

Index = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class WriteBlock:
    """All that a worker needs to make one block of one level.

    Args:
        made_of: identifies what it is made of, where that is known beforehand (`blocks.made_of`); "" otherwise.
    """

    task: Task
    output: str
    run_id: str
    level: int
    index: Index
    box: Box
    fingerprint: str
    session: str
    made_of: str = ""

    @property
    def key(self) -> str:
        """The name of the dask task, which says which block it is; unique to the run."""
        index = "_".join(map(str, self.index))
        return f"daskreg-write-{self.run_id}-{self.session[:8]}-L{self.level}-{index}"


def write_block(item: WriteBlock) -> None:
    """Compute one block, write its files, and append it to the ledger. Runs on a worker.

    It returns nothing: the worker may have died before the result is fetched.
    The ledger holds all facts about the block.

    Raises: StorageFullError when the disk is full, OutputError where writing is not allowed or fails again and again,
    OutputBusyError where a later run has taken the output over; errors of the source.
    """
    keep_freed_memory()
    writer = _writer(item.output, item.run_id, item.level)
    stats = BlockStats()
    with count_events() as seen:
        # Before anything is read: a change that comes later is then seen.
        made_of = item.made_of or item.task.source.state(item.task.read_box(item.box))
        pixels = _apart(item.task.run(writer.parts(item.box), stats))
        ledger = Ledger(item.output)
        with _named_errors(item.output, writer):
            first = next(pixels)
            if not ledger.serves(item.session):
                raise OutputBusyError(f"{item.output} was taken over by a later run, or removed: this one ends")
            writer.check_there()
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
                source=made_of,
            )
            ledger.append(entry)


class _PixelsError(Exception):
    """The pixels could not be made. So the reason is not taken for an error of writing them."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(reason)
        self.reason = reason


def _apart(pixels: Iterator[Any]) -> Iterator[Any]:
    """The same pixels; an OSError of what makes them as the cause of another error."""
    try:
        yield from pixels
    except OSError as error:
        raise _PixelsError(error) from error


@contextlib.contextmanager
def _named_errors(output: str, writer: LevelWriter) -> Iterator[None]:
    """Errors of the disk that every block would meet, as errors of the run.

    A call that failed has been tried again for some seconds (`sources.storage.retrying`), and on a cluster the block
    has been, too.
    """
    try:
        yield
    except _PixelsError as error:
        raise error.reason from error.reason.__cause__
    except DaskregError:
        raise
    except OSError as error:
        if error.errno == errno.ENOENT:
            writer.check_there()  # the output itself may be gone
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
        raise OutputError(
            f"{output} cannot be written ({error}), after several tries: finished blocks are kept; look after its disk "
            "and run the same command again to resume"
        ) from error


@lru_cache(maxsize=8)
def _writer(output: str, run_id: str, level: int) -> LevelWriter:
    """The open array of a level in this process; `run_id` distinguishes runs at one path."""
    return LevelWriter(output, level)
