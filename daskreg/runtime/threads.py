"""How many threads compiled code brings, and the pool that runs them.

Compiled code without the GIL is called from a small pool of our own: unlike OpenMP's, its
threads do not spin while they wait, so that it does well where cores are shared.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

from daskreg.runtime.device import library_threads, loaded

T = TypeVar("T")
R = TypeVar("R")

_own = threading.local()
# Fewer voxels than this are not worth waking a thread for.
_SMALL = 1 << 16


def pool_threads() -> int:
    """Threads for compiled code in the calling thread: what `use_threads` set, or as many as torch may use."""
    return int(getattr(_own, "count", 0)) or _torch_threads()


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Let compiled code that is called from this thread use `count` threads, whatever torch may use."""
    before = getattr(_own, "count", 0)
    _own.count = count
    try:
        yield
    finally:
        _own.count = before


def spread(threads: int, function: Callable[[T], R], parts: Iterable[T]) -> list[R]:
    """`function` of each part, by the calling thread and those of a pool; most of it must release the GIL itself.

    Each takes the next part as it comes, so that nothing waits for a thread that is busy elsewhere.
    """
    given = list(parts)
    results: list[Any] = [None] * len(given)
    todo = iter(range(len(given)))

    def work() -> None:
        for i in todo:
            results[i] = function(given[i])

    helpers = [_pool(threads).submit(work) for _ in range(min(threads, len(given)) - 1)]
    try:
        work()
    finally:
        for _ in todo:  # where a part failed, the rest is left
            pass
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()
    return results


def ahead(function: Callable[[], R]) -> Callable[[], R]:
    """Begin `function` in a thread of the pool; what is returned gives its result.

    It is called there and then where no thread has come to it: all are busy, or this is the only one.
    """
    threads = pool_threads()
    if threads <= 1:
        return function
    begun = _pool(threads).submit(function)
    return lambda: function() if begun.cancel() else begun.result()


def shares(function: Callable[[int, int], Any], count: int, voxels: int = _SMALL) -> None:
    """Call `function(first, stop)` with shares of `count` parts, at once where so many voxels in all pay."""
    threads = min(pool_threads(), count) if voxels >= _SMALL else 1
    if threads <= 1:
        function(0, count)
        return
    ends = [count * k // threads for k in range(threads + 1)]
    spread(threads, lambda ends: function(*ends), pairwise(ends))


def _torch_threads() -> int:
    """How many threads torch may use in this thread, or would use where it is not loaded."""
    torch = loaded("torch")
    return torch.get_num_threads() if torch is not None else _library_threads()


@cache
def _library_threads() -> int:
    """`library_threads`, asked once: it reads files of the system, and small calls ask often."""
    return library_threads()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    # The calling thread is one of them. What a thread of the pool calls has that thread alone.
    return ThreadPoolExecutor(threads - 1, "daskreg", initializer=setattr, initargs=(_own, "count", 1))
