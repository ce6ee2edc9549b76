"""How many threads compiled code brings, and the pool that runs them.

Compiled code without the GIL is called from a small pool of our own: unlike OpenMP's, its
threads do not spin while they wait, so that it does well where cores are shared.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_own = threading.local()
# Fewer voxels than this are not worth waking a thread for.
_SMALL = 1 << 16


def pool_threads() -> int:
    """Threads for compiled code in the calling thread: what `use_threads` set, or as many as torch may use."""
    return int(getattr(_own, "count", 0)) or torch.get_num_threads()


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
    """`function` of each part, in a pool that is kept; most of it must release the GIL itself."""
    return list(_pool(threads).map(function, parts))


def ahead(function: Callable[[], R]) -> Callable[[], R]:
    """Begin `function` in a thread of the pool, if this one is not the only one; what is returned gives its result."""
    threads = pool_threads()
    return _pool(threads).submit(function).result if threads > 1 else function


def shares(function: Callable[[int, int], Any], count: int, voxels: int = _SMALL) -> None:
    """Call `function(first, stop)` with shares of `count` parts, at once where so many voxels in all pay."""
    threads = min(pool_threads(), count) if voxels >= _SMALL else 1
    if threads <= 1:
        function(0, count)
        return
    ends = [count * k // threads for k in range(threads + 1)]
    spread(threads, lambda ends: function(*ends), pairwise(ends))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    # What a thread of the pool calls has that thread: were it to wait for others, they might all wait.
    return ThreadPoolExecutor(threads, "daskreg", initializer=setattr, initargs=(_own, "count", 1))
