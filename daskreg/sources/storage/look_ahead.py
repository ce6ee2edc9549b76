"""Requests to an object store, some of them under way while the answer to an earlier one is worked on."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")

THREADS = 32
"""Requests of a process that are under way at one time. They wait for the network and take no processor time."""

AHEAD = 3
"""Answers that one thread has asked for ahead."""


def look_ahead(calls: Iterable[Callable[[], T]], ahead: int = AHEAD, *, finish: bool = False) -> Iterator[T]:
    """What calls return, in their order; the next `ahead` of them run while one result is used.

    Counters of the calling thread (`storage.counters`) count what happens in them.

    Args:
        finish: when one fails, wait for those that have begun.
    """
    waiting: deque[Future[T]] = deque()
    try:
        for call in calls:
            waiting.append(requests_pool().submit(copy_context().run, call))
            if len(waiting) > ahead:
                yield _first(waiting)
        while waiting:
            yield _first(waiting)
    finally:
        begun = [future for future in waiting if not future.cancel()]
        if finish:
            wait(begun)


def _first(waiting: deque[Future[T]]) -> T:
    """The next result; what an interruption leaves unfinished stays in the queue."""
    result = waiting[0].result()
    waiting.popleft()
    return result


def requests_pool() -> ThreadPoolExecutor:
    """The threads of this process that wait for stores."""
    return _pool(os.getpid())


@lru_cache(maxsize=1)
def _pool(pid: int) -> ThreadPoolExecutor:
    """One for each process: a fork has none of the threads."""
    del pid
    return ThreadPoolExecutor(THREADS, thread_name_prefix="daskreg-requests")
