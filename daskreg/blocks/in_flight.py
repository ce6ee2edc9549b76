"""Blocks on a `distributed` cluster: a bounded number in flight; workers and the scheduler may fail.

A block is described in a kilobyte, short blocks share a task (`packed_task`), and each is recorded on its own. The
future of a task is released at once, and its result is hardly ever fetched: if a result were kept, the scheduler would
compute it again when its worker dies, and a client that fetches a result waits for the dead worker. The
scheduler only ever knows a few tasks for each thread, so its memory does not depend on the number of blocks.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

import dask
import numpy as np

from daskreg.blocks.memory import release_memory
from daskreg.blocks.packed_task import Left, Quick, TaskSize, run_packed, task_seconds
from daskreg.blocks.write_block import WriteBlock
from daskreg.cluster.capacity import Capacity
from daskreg.errors import NoWorkersError, SchedulerLostError
from daskreg.runtime.private_apis import (
    cancel,
    forget_ended_tasks,
    forget_task_names,
    keep_no_messages,
    on_done,
    on_workers,
)

RETRIES = 3
"""Times that a task which raised is tried again, on top of the retries of each store call."""

AHEAD = 4
"""Tasks in flight for each thread: one runs, the others wait at the workers and the scheduler."""

LEAST = 64
"""Tasks in flight at least: a message for many of them costs the scheduler less, and a cluster
that has no workers yet sees that there is work."""

CARRIED_BYTES = 64 * 2**20
"""Bytes of voxels in flight at most, where the source is in memory and travels with the blocks
(but always two blocks for each thread)."""

NAMES_KEPT = 10_000
"""Tasks after which the scheduler is asked to forget them: dask caches 100,000 names (0.3 kB each)."""

NO_WORKER_ERRORS = ("NoValidWorkerError", "NoWorkerError")
"""Errors of a scheduler that found no worker for a task within its own time; by name, since versions differ."""

LOST_AT_MOST = 5
"""Times that a run goes on after its scheduler was lost and came back."""

ANSWER_WITHIN = 5.0
"""Seconds that a request to the scheduler may take whose answer is not needed."""

Finish = Callable[[WriteBlock, BaseException | None], None]


class InFlightWindow:
    """Keeps a bounded number of tasks in flight on a client, each of one block or of several short ones.

    Args:
        work: the task, a function of one item that returns None.
        finish: called with each item that is done, and its error if there was one.
        resource: what a worker must have to run a task, such as "GPU", if any worker declares it.
        check: called about once a second; what it raises ends the run.
    """

    def __init__(
        self,
        client: Any,
        work: Callable[[Any], Any],
        finish: Finish,
        *,
        resource: str | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        self._client = client
        self._check = check
        self._work = work
        self._finish = finish
        self._capacity = Capacity(client, resource)
        self._running: dict[str, tuple[Any, list[WriteBlock]]] = {}
        self._done: SimpleQueue[Any] = SimpleQueue()
        self._waiting: deque[WriteBlock] = deque()  # what tasks have left, or lost with their scheduler
        self._alone: deque[WriteBlock] = deque()  # what was in a task that killed its workers
        self._returned = 0
        self._task_size = TaskSize()
        self._losses = 0
        self._carried = 0
        self._named = 0
        self._told = 0

    def run(self, items: Iterator[WriteBlock]) -> None:
        """Run all items; returns when each has been finished.

        Raises: what `finish` and `check` raise; NoWorkersError, SchedulerLostError. Then, and on
        Ctrl-C, what was submitted is cancelled.
        """
        try:
            while True:
                if self._client.status == "running" and not self._fill(items):
                    return
                for future in self._wait(1.0):
                    self._take(future)
                self._capacity.refresh()
                if self._check is not None:
                    self._check()
        finally:
            if self._running:
                self._cancel()
            with contextlib.suppress(Exception):  # a worker that does not answer keeps its memory
                on_workers(self._client, release_memory, timeout=ANSWER_WITHIN)

    def _size(self) -> int:
        """Tasks that may be in flight."""
        return max(LEAST, AHEAD * self._capacity.threads)

    def _fill(self, items: Iterator[WriteBlock]) -> bool:
        """Submit up to the size of the window, once half of it is free: one message for many tasks.

        Returns: whether anything is in flight.
        """
        free = self._size() - len(self._running)
        if 2 * free < self._size():
            return True
        tasks = [[item] for item in itertools.islice(_popped(self._alone), free)]
        self._carried += sum(_carried(item) for [item] in tasks)
        tasks += self._cut(itertools.chain(_popped(self._waiting), items), free - len(tasks))
        if tasks:
            self._forget_ended()
            self._submit(tasks)
            self._named += len(tasks)
        return bool(self._running)

    def _forget_ended(self) -> None:
        """Let this process and the scheduler keep nothing of tasks that have ended. The scheduler is told for the
        connections that it has: again when there are other workers.
        """
        keep_no_messages(self._client)
        if self._named < NAMES_KEPT and self._told == self._capacity.threads:
            return
        self._named, self._told = 0, self._capacity.threads
        forget_task_names()
        with contextlib.suppress(Exception):  # a scheduler that does not answer forgets when it restarts
            forget_ended_tasks(self._client, timeout=ANSWER_WITHIN)

    def _cut(self, items: Iterator[WriteBlock], most: int) -> list[list[WriteBlock]]:
        """The next tasks, at most so many. The last blocks are shared out among all threads."""
        threads, together = max(1, self._capacity.threads), self._task_size.next()
        batch: list[WriteBlock] = []
        for item in itertools.islice(items, most * together):
            batch.append(item)
            self._carried += _carried(item)
            if self._carried > CARRIED_BYTES and len(batch) + len(self._running) > 2 * threads:
                break
        together = max(1, min(together, len(batch) // (2 * threads)))
        return [batch[k : k + together] for k in range(0, len(batch), together)]

    def _submit(self, tasks: list[list[WriteBlock]]) -> None:
        from distributed.protocol.pickle import dumps

        resource, seconds = self._capacity.resource, task_seconds(self._capacity.threads)
        # A name that was used before may still be that of a task which has ended.
        again = f"-{self._returned}" if self._returned else ""
        # dask warns of large graphs. Here that is intended: voxels that exist in memory only travel with the tasks.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": sys.maxsize}):
            futures = self._client.map(
                run_packed,
                # Anything but bytes would be unpacked and packed again by the scheduler.
                [dumps((self._work, items, seconds)) for items in tasks],
                key=[items[0].key + again for items in tasks],
                retries=RETRIES,
                pure=False,
                resources={resource: 1} if resource else None,
            )
        for future, items in zip(futures, tasks, strict=True):
            self._running[future.key] = (future, items)
            on_done(self._client, future, self._done.put)

    def _wait(self, seconds: float) -> Iterator[Any]:
        """Futures that are done: waits for the first, then gives the others that are there."""
        with contextlib.suppress(Empty):
            yield self._done.get(timeout=seconds)
            while True:
                yield self._done.get_nowait()

    def _take(self, future: Any) -> None:
        _, items = self._running.pop(future.key)
        self._carried -= sum(map(_carried, items))
        status, error = future.status, future.exception() if future.status == "error" else None
        done = _finished_items(future, len(items)) if status == "finished" else 0
        result = future.type if done == len(items) else Left
        future.release()
        name = type(error).__name__
        if name in NO_WORKER_ERRORS:
            raise NoWorkersError(f"{error}: finished blocks are kept; run the same command again to resume")
        for item in items[:done]:
            self._finish(item, None)
        if status not in ("finished", "error"):
            self._note_loss()
            self._put_back(self._waiting, items)
        elif name == "KilledWorker" and len(items) > 1:  # one of them: which is not known
            self._put_back(self._alone, items)
        elif error is not None:
            self._put_back(self._waiting, items[1:])
            self._finish(items[0], error)
        else:
            self._put_back(self._waiting, items[done:])
            self._task_size.saw(len(items), result)

    def _put_back(self, where: deque[WriteBlock], items: list[WriteBlock]) -> None:
        self._returned += bool(items)
        where.extend(items)

    def _note_loss(self) -> None:
        """Count a task whose scheduler was lost and came back.

        Raises: SchedulerLostError where that has happened too often.
        """
        if self._losses > LOST_AT_MOST * self._size():
            raise SchedulerLostError(
                "the scheduler was lost: finished blocks are kept; start a cluster and run the same command again to "
                "resume"
            )
        self._losses += 1

    def _cancel(self) -> None:
        """Cancel what is in flight, without waiting for a scheduler that does not answer."""
        futures = [future for future, _ in self._running.values()]
        with contextlib.suppress(Exception):
            cancel(self._client, futures, timeout=ANSWER_WITHIN)


def _carried(item: WriteBlock) -> int:
    """Bytes of voxels that travel with an item, because they are in memory only."""
    array = item.task.source.array
    return array.nbytes if isinstance(array, np.ndarray) else 0


def _finished_items(future: Any, count: int) -> int:
    """How many of the items of a finished task are finished: the first ones. None, where that cannot be learned.

    Where the client does not know the type of the result, as after it has connected again, the result is fetched.
    """
    if future.type in (Quick, type(None)):
        return count
    try:
        result = future.result(timeout=ANSWER_WITHIN)
    except Exception:  # its worker is gone, for example
        return 0
    return result.done if isinstance(result, Left) else count


def _popped(items: deque[WriteBlock]) -> Iterator[WriteBlock]:
    while items:
        yield items.popleft()
