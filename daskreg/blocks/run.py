"""Run blocks: compute each where a worker is, write its shard, record it, in a bounded window.

`write_block` is the only task. What travels to a worker is a small description; what comes
back is that it is done. Two tasks never write one file, so a retry is an overwrite.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Any

from daskreg.blocks.in_flight import Window
from daskreg.blocks.job import BlockStats, Task
from daskreg.blocks.ledger import Ledger, Lost, entry_now
from daskreg.blocks.memory import keep_freed_memory
from daskreg.blocks.store import NO_SPACE, NOT_ALLOWED, Target
from daskreg.errors import OptionError, OutputBusyError, OutputError, StorageFullError
from daskreg.geometry import Box
from daskreg.runtime.device import cores
from daskreg.sources.storage.counters import count_events

FATAL = (StorageFullError, OutputError, OptionError, ImportError)
"""What ends a run at once, since every block would meet it."""

Index = tuple[int, ...]
Progress = Callable[[int, int, int], None]
"""Called with (blocks done, blocks in all, bytes written so far)."""


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
        """The name of the task, which says which block it is; unique to the run."""
        index = "_".join(map(str, self.index))
        return f"daskreg-write-{self.run_id}-{self.session[:8]}-L{self.level}-{index}"


@dataclass(frozen=True)
class Failure:
    """A block that could not be made."""

    level: int
    index: Index
    error: BaseException

    def __str__(self) -> str:
        return f"level {self.level}, block {self.index}: {type(self.error).__name__}: {self.error}"


def write_block(item: WriteBlock) -> None:
    """Compute one block, write its shards, and append it to the ledger. Runs on a worker.

    It returns nothing: a result would have to be fetched from its worker, which may be dead by then.
    What there is to tell stands in the ledger.

    Raises: StorageFullError when the disk is full, OutputError where writing is not allowed,
    OutputBusyError where this run is not the current one any more.
    """
    keep_freed_memory()
    target = _target(item.output, item.run_id, item.level)
    stats = BlockStats()
    with count_events() as seen:
        pixels = item.task.run(target.parts(item.box), stats)
        first = next(pixels)
        ledger = Ledger(item.output)
        if not ledger.serves(item.session):
            raise OutputBusyError(f"{item.output} was taken over by a later run, or removed: this one ends")
        with _named_errors(item.output):
            files = target.write(item.box, chain([first], pixels))
            entry = entry_now(
                item.level,
                item.index,
                item.fingerprint,
                files,
                clipped=stats.clipped,
                lost=Lost(len(seen.missing), tuple(seen.damaged)),
                bytes_read=stats.bytes_read,
                retries=seen.retries,
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


def run_blocks(
    items: Iterator[WriteBlock],
    *,
    client: Any | None,
    on_done: Callable[[WriteBlock], None],
    resource: str | None = None,
    work: Callable[[WriteBlock], None] = write_block,
) -> list[Failure]:
    """Run all items, a bounded number at a time, on `client` or in local threads.

    A failing block does not stop the others; what every block would meet (a full disk, an
    option that no worker can follow) does. On Ctrl-C what runs is left to end or is
    cancelled, and the ledger knows what was finished.

    Args:
        resource: what a worker must have to run a block, such as "GPU", if any declares it.
        work: the task.

    Returns: the failures, empty when all went well.
    Raises: NoWorkersError when nobody could run a block for a minute, SchedulerLostError.
    """
    failures: list[Failure] = []

    def finish(item: WriteBlock, error: BaseException | None) -> None:
        if error is None:
            on_done(item)
            return
        failures.append(Failure(item.level, item.index, error))
        if isinstance(error, FATAL):
            raise _Ended

    with contextlib.suppress(_Ended):
        if client is None:
            _run_threads(items, work, finish)
        else:
            Window(client, work, finish, resource=resource).run(items)
    return failures


class _Ended(Exception):  # noqa: N818 (it is no error: the failure is on the list)
    """No further block is worth trying."""


def _run_threads(
    items: Iterator[WriteBlock],
    work: Callable[[WriteBlock], None],
    finish: Callable[[WriteBlock, BaseException | None], None],
) -> None:
    threads = cores()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="daskreg")
    running: dict[Future[None], WriteBlock] = {}
    try:
        while True:
            for item in islice(items, 2 * threads - len(running)):
                running[pool.submit(work, item)] = item
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                finish(running.pop(future), future.exception())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@lru_cache(maxsize=8)
def _target(output: str, run_id: str, level: int) -> Target:
    """The open output array of a level in this process; `run_id` tells runs at one path apart."""
    return Target(output, level)
