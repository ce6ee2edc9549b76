"""Blocks on a `distributed` cluster: a bounded number in flight, whatever happens to the machines.

A task is described in a kilobyte and returns nothing. Its future is released at once: results that are
held would be computed again when their worker dies, and one that is fetched from a dead worker is
waited for. The scheduler only ever knows a few tasks for each thread, so its memory does not
depend on the number of blocks.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import dask
import numpy as np

from daskreg.cluster.capacity import Capacity
from daskreg.errors import NoWorkersError, SchedulerLostError

if TYPE_CHECKING:
    from daskreg.blocks.run import WriteBlock

RETRIES = 3
"""Times that a task which raised is tried again, on top of the retries of each store call."""

AHEAD = 4
"""Blocks in flight for each thread: one runs, the others wait at the workers and the scheduler."""

LEAST = 64
"""Blocks in flight at least: a message for many of them costs the scheduler less, and a cluster
that has no workers yet sees that there is work."""

CARRIED = 64 * 2**20
"""Bytes of voxels in flight at most, where the source is in memory and travels with the blocks
(but always a block or two for each thread)."""

NAMES_KEPT = 10_000
"""Blocks after which the scheduler is asked to forget their names, of which dask caches 100,000 (0.3 kB each)."""

NOBODY = ("NoValidWorkerError", "NoWorkerError")
"""Errors of a scheduler that found nobody for a task within its own time; by name, since versions differ."""

LOST_AT_MOST = 5
"""Times that a run goes on after its scheduler was lost and came back."""

Outcome = Callable[["WriteBlock", BaseException | None], None]


class Window:
    """Keeps a bounded number of blocks in flight on a client.

    Args:
        work: the task, a function of one item that returns None.
        finish: called with each item that is done, and its error if there was one.
        resource: what a worker must have to run a task, such as "GPU", if any worker declares it.
    """

    def __init__(
        self, client: Any, work: Callable[[Any], Any], finish: Outcome, *, resource: str | None = None
    ) -> None:
        self._client = client
        self._work = work
        self._finish = finish
        self._capacity = Capacity(client, resource)
        self._running: dict[str, tuple[Any, WriteBlock]] = {}
        self._arrived: SimpleQueue[Any] = SimpleQueue()
        self._again: list[WriteBlock] = []
        self._losses = 0
        self._carried = 0
        self._named = 0

    def run(self, items: Iterator[WriteBlock]) -> None:
        """Run all items; returns when each has been finished.

        Raises: what `finish` raises; NoWorkersError, SchedulerLostError. Then, and on
        Ctrl-C, what was submitted is cancelled.
        """
        try:
            while True:
                if self._client.status == "running" and not self._fill(items):
                    return
                for future in self._wait(1.0):
                    self._take(future)
                self._capacity.look()
        finally:
            if self._running:
                self._cancel()

    def _fill(self, items: Iterator[WriteBlock]) -> bool:
        """Submit up to the size of the window, once half of it is free: a message for many blocks.

        Returns: whether anything is in flight.
        """
        size = max(LEAST, AHEAD * self._capacity.threads)
        if len(self._running) > size // 2:
            return True
        batch: list[WriteBlock] = []
        for item in itertools.islice(itertools.chain(_popped(self._again), items), size - len(self._running)):
            batch.append(item)
            self._carried += _carried(item)
            if self._carried > CARRIED and len(batch) + len(self._running) > 2 * self._capacity.threads:
                break
        if batch:
            self._submit(batch)
            self._named += len(batch)
        if self._named >= NAMES_KEPT:
            self._named = 0
            _forget_names()
            with contextlib.suppress(Exception):  # a scheduler that is away forgets anyway
                self._client.sync(self._client._run_on_scheduler, _forget_names, callback_timeout=5)
        return bool(self._running)

    def _submit(self, batch: list[WriteBlock]) -> None:
        keys = [item.key for item in batch]
        from distributed.client import done_callback
        from distributed.protocol.pickle import dumps

        resource = self._capacity.resource
        # The warning about large graphs tells of what is meant here: voxels that exist in memory only.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": sys.maxsize}):
            futures = self._client.map(
                partial(_run_packed, self._work),
                [dumps(item) for item in batch],  # the scheduler would unpack and pack again what is not bytes
                key=keys,
                retries=RETRIES,
                pure=False,
                resources={resource: 1} if resource else None,
            )
        for future, item in zip(futures, batch, strict=True):
            self._running[future.key] = (future, item)
            # `future.add_done_callback` would go through a thread of its own.
            self._client.loop.add_callback(done_callback, future, self._arrived.put)

    def _wait(self, seconds: float) -> Iterator[Any]:
        """Futures that are done: waits for the first, then gives what else is there."""
        with contextlib.suppress(Empty):
            yield self._arrived.get(timeout=seconds)
            while True:
                yield self._arrived.get_nowait()

    def _take(self, future: Any) -> None:
        _, item = self._running.pop(future.key)
        self._carried -= _carried(item)
        status, error = future.status, future.exception() if future.status == "error" else None
        future.release()
        if status not in ("finished", "error"):
            self._lost(item)
        elif type(error).__name__ in NOBODY:
            raise NoWorkersError(f"{error}: finished blocks are kept; run the same command again to resume")
        else:
            self._finish(item, error)

    def _lost(self, item: WriteBlock) -> None:
        """Do a block again whose scheduler went away and came back."""
        if self._losses > LOST_AT_MOST * max(LEAST, AHEAD * self._capacity.threads):
            raise SchedulerLostError(
                "the scheduler was lost: finished blocks are kept; start a cluster and run the same command again to "
                "resume"
            )
        self._losses += 1
        self._again.append(item)

    def _cancel(self) -> None:
        """Cancel what is in flight, without waiting for a scheduler that does not answer."""
        futures = [future for future, _ in self._running.values()]
        with contextlib.suppress(Exception):
            self._client.sync(self._client._cancel, futures, force=True, callback_timeout=5)


def _run_packed(work: Callable[[Any], None], packed: bytes) -> None:
    """The task, on a worker."""
    from distributed.protocol.pickle import loads

    work(loads(packed))


def _forget_names() -> None:
    """Empty dask's cache of what task names begin with: a run has many names, each used once."""
    from dask.utils import key_split

    key_split.cache_clear()


def _carried(item: WriteBlock) -> int:
    """Bytes of voxels that travel with an item, because they are in memory only."""
    array = item.task.source.array
    return array.nbytes if isinstance(array, np.ndarray) else 0


def _popped(items: list[WriteBlock]) -> Iterator[WriteBlock]:
    while items:
        yield items.pop()
