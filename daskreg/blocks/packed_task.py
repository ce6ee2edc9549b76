"""Several items in one Dask task. The module imports no other of daskreg, since the scheduler imports it to read tasks.

A task costs Dask about 2 ms, mostly messages and transitions at the scheduler. So short items share one. How many
is learned from the tasks themselves: the scheduler tells the client the type of each result, and that says whether a
task was quick. A task returns before its last item if it takes long, so that a long item does not wait behind others
and a run that is cancelled ends soon; and if an item fails, so that an error is always that of a task's first item.
"""

from __future__ import annotations

import time

LEAST_SECONDS = 0.25
"""About how long a task takes, if its items take less and there are few threads."""

SECONDS_PER_THREAD = 0.004
"""A task takes longer where there are many threads: the scheduler, with 2 ms a task, is then busy half of the time."""

MOST_ITEMS = 64
"""Items of one task at most."""


class Quick:
    """The result of a task that took less than half of the time that a task should take."""


class Left:
    """The result of a task that returned before its last item: `done` is how many are finished."""

    def __init__(self, done: int) -> None:
        self.done = done


def run_packed(packed: bytes) -> Quick | Left | None:
    """Call a function with each of some items.

    Args:
        packed: (function, items, seconds that the task should take) pickled, so that only the worker imports what is
            needed.

    Raises: what the function raises for the first item; another item that fails is left to a task of its own.
    """
    from distributed.protocol.pickle import loads

    work, items, seconds = loads(packed)
    began = time.monotonic()
    for done, item in enumerate(items):
        if done and time.monotonic() - began > 2 * seconds:
            return Left(done)
        try:
            work(item)
        except Exception:
            if not done:
                raise
            return Left(done)
    return Quick() if time.monotonic() - began < seconds / 2 else None


def task_seconds(threads: int) -> float:
    """How long a task of several items should take on a cluster with so many threads."""
    return max(LEAST_SECONDS, SECONDS_PER_THREAD * threads)


class TaskSize:
    """How many items make a task of about the time that it should take: 1 until tasks prove to be quick."""

    def __init__(self) -> None:
        self._items = 1
        self._quick = self._others = 0

    def saw(self, items: int, result: type | None) -> None:
        """Note that a task of this many items has ended, and the type of its result, where it is known."""
        if result is Left:
            self._items = max(1, min(self._items, items // 2))
        if result is not Quick:
            self._others += 1
        elif items >= self._items:  # shorter tasks say nothing about one of this size
            self._quick += 1

    def next(self) -> int:
        """The size of the tasks that are submitted now: twice that of before, if most of those were quick."""
        if self._quick > self._others:
            self._items = min(MOST_ITEMS, 2 * self._items)
        self._quick = self._others = 0
        return self._items
