"""Threads of this process: how many compiled code uses, and the two ways to run calls in several threads.

`spread` (with `shares` and `ahead`) is for parts of one computation, which take milliseconds: the calling thread
takes part, the pool is made once and is kept, and a nested call cannot wait for a thread that waits for it. Compiled
code without the GIL is called so: unlike OpenMP's threads, these do not spin while they wait, so that this does
well where cores are shared.

`in_threads` is for independent jobs, which take seconds and may be many: they come from an iterator, of which only
a few are taken ahead, and results are handed over one by one. It has a pool of its own, since what it runs
may use `spread`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from itertools import islice, pairwise
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

    Each thread takes the next part when it is free, so nothing waits for a thread that is busy elsewhere. The first
    error is raised when the parts that were begun have ended; the others are not begun.

    Returns: the results, in the order of the parts.
    """
    items = list(parts)
    results: list[Any] = [None] * len(items)
    todo = iter(range(len(items)))

    def work() -> None:
        for i in todo:
            results[i] = function(items[i])

    helpers = [_pool(threads).submit(work) for _ in range(min(threads, len(items)) - 1)]
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
    """Begin `function` in a thread of the pool; the returned callable waits for its result.

    Where no thread of the pool has begun it (all are busy, or there is only one thread), the returned callable
    calls it itself.
    """
    threads = pool_threads()
    if threads <= 1:
        return function
    begun = _pool(threads).submit(function)
    return lambda: function() if begun.cancel() else begun.result()


def shares(function: Callable[[int, int], Any], count: int, voxels: int = _SMALL) -> None:
    """Call `function(first, stop)` with shares of `count` parts, by `pool_threads()` threads.

    Args:
        voxels: of all parts together; where there are few, this thread does all.
    """
    threads = min(pool_threads(), count) if voxels >= _SMALL else 1
    if threads <= 1:
        function(0, count)
        return
    ends = [count * k // threads for k in range(threads + 1)]
    spread(threads, lambda ends: function(*ends), pairwise(ends))


def in_threads(
    threads: int,
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    taken_ahead: int = 0,
    in_order: bool = False,
    pool: ThreadPoolExecutor | None = None,
) -> Generator[R, None, None]:
    """Results of independent calls, in `threads` threads of a pool of their own; the calling thread only waits.

    The first error is raised when its result is due. On an error, on Ctrl-C, and where the caller closes the
    iterator (`contextlib.closing`), calls that have not begun are dropped, and those that have begun are waited for.

    Args:
        taken_ahead: how many items are taken from `items` and not yet handed over, at most; 0: twice the threads.
        in_order: give results in the order of the items; else as they come.
        pool: to be used and kept, of so many threads. What the heaps of threads keep is not kept once more by others.
    """
    limit = taken_ahead or 2 * threads
    waiting = iter(items)
    running: list[Future[R]] = []
    used = pool or ThreadPoolExecutor(threads, thread_name_prefix="daskreg")
    try:
        while True:
            running += [used.submit(function, item) for item in islice(waiting, limit - len(running))]
            if not running:
                return
            if in_order:
                done = running[:1]
            else:
                finished = wait(running, return_when=FIRST_COMPLETED).done
                done = [future for future in running if future in finished]
            running = running[1:] if in_order else [future for future in running if future not in finished]
            for future in done:
                yield future.result()
    finally:
        if pool is None:
            used.shutdown(wait=True, cancel_futures=True)
        else:
            wait([future for future in running if not future.cancel()])


def _torch_threads() -> int:
    """How many threads torch may use in this thread, or would use where it is not loaded."""
    torch = loaded("torch")
    return torch.get_num_threads() if torch is not None else library_threads()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    # The calling thread is one of them. What a thread of the pool calls has that thread alone.
    return ThreadPoolExecutor(threads - 1, "daskreg", initializer=setattr, initargs=(_own, "count", 1))
