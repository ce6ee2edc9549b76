"""Run the blocks of a level: on a cluster, a bounded number in flight, or in threads of this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from daskreg.blocks.in_flight import InFlightWindow
from daskreg.blocks.memory import release_memory
from daskreg.blocks.write_block import Index, WriteBlock, write_block
from daskreg.errors import OptionError, OutputError, SourceChangedError, SourceLostError, StorageFullError, StoreError
from daskreg.runtime.device import cores
from daskreg.runtime.threads import in_threads

FATAL = (StorageFullError, StoreError, OutputError, OptionError, ImportError, SourceLostError, SourceChangedError)
"""Errors that end a run at once: the errors that every block would have."""


@dataclass(frozen=True)
class BlockFailure:
    """A block that could not be made."""

    level: int
    index: Index
    error: BaseException

    def __str__(self) -> str:
        return f"level {self.level}, block {self.index}: {type(self.error).__name__}: {self.error}"


def run_blocks(
    items: Iterator[WriteBlock],
    *,
    client: Any | None,
    on_done: Callable[[WriteBlock], None],
    resource: str | None = None,
    work: Callable[[WriteBlock], None] = write_block,
    on_failed: Callable[[BlockFailure], None] | None = None,
    check: Callable[[], None] | None = None,
) -> list[BlockFailure]:
    """Run all items, a bounded number at a time, on `client` or in local threads.

    A failing block does not stop the others. An error that every block would have (a full disk, an
    option that no worker can follow) stops the run. On Ctrl-C, running blocks are waited for (threads) or
    cancelled (cluster), and the ledger knows which are finished.

    Args:
        on_done: called in this thread with each block that is finished.
        resource: what a worker must have to run a block, such as "GPU", if any worker declares it.
        work: the task.
        on_failed: called in this thread with each failure.
        check: called about once a second; what it raises ends the run as Ctrl-C does.

    Returns: the failures, empty when all went well.
    Raises: NoWorkersError when no worker could run a block for a minute, SchedulerLostError.
    """
    failures: list[BlockFailure] = []

    def finish(item: WriteBlock, error: BaseException | None) -> None:
        if error is None:
            on_done(item)
            return
        failures.append(BlockFailure(item.level, item.index, error))
        if on_failed is not None:
            on_failed(failures[-1])
        if isinstance(error, FATAL):
            raise _RunEnded

    def attempt(item: WriteBlock) -> tuple[WriteBlock, BaseException | None]:
        try:
            work(item)
        except BaseException as error:
            return item, error
        return item, None

    with contextlib.suppress(_RunEnded):
        if client is None:
            try:
                with contextlib.closing(in_threads(cores(), attempt, items)) as outcomes:
                    for item, error in outcomes:
                        finish(item, error)
                        if check is not None:
                            check()
            finally:
                release_memory()
        else:
            InFlightWindow(client, work, finish, resource=resource, check=check).run(items)
    return failures


class _RunEnded(Exception):  # noqa: N818 (it is no error: the failure is on the list)
    """No further block is worth trying."""
