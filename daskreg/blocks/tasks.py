"""Independent tasks with small results, a few at a time: on a cluster's workers, or in threads here."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, TypeVar

from daskreg.blocks.in_flight import RETRIES
from daskreg.cluster.capacity import Capacity

T = TypeVar("T")
R = TypeVar("R")


def run_tasks(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    client: Any | None,
    threads: int,
    on_done: Callable[[R], None],
    label: str = "task",
) -> None:
    """Call `function` on every item and `on_done`, in this thread, on each result, as they come.

    Args:
        client: a distributed Client, or None for local threads.
        threads: how many run here at once, where there is no client.
        label: what the tasks are called on a cluster.

    The first error is raised at once; what has not begun is dropped, and results that have come are
    with `on_done` already. Raises: NoWorkersError, SchedulerLostError as `Capacity` says.
    """
    if client is not None:
        _on_client(function, items, client, on_done, label)
    elif threads == 1:
        for item in items:
            on_done(function(item))
    else:
        _in_threads(function, items, threads, on_done)


def current_client() -> Any | None:
    """The `distributed.Client` that is current, without importing distributed where it is not in use."""
    # Another thread may be importing it right now: then it has no Client yet.
    client_type = getattr(sys.modules.get("distributed"), "Client", None)
    if client_type is None:
        return None
    try:
        return client_type.current()
    except ValueError:
        return None


def _in_threads(function: Callable[[T], R], items: Iterable[T], threads: int, on_done: Callable[[R], None]) -> None:
    waiting = iter(items)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="daskreg")
    running: set[Future[R]] = set()
    try:
        while True:
            running |= {pool.submit(function, item) for item in islice(waiting, threads + 1 - len(running))}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                on_done(future.result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _on_client(
    function: Callable[[T], R], items: Iterable[T], client: Any, on_done: Callable[[R], None], label: str
) -> None:
    from distributed import wait as wait_for

    waiting, run = iter(items), uuid.uuid4().hex[:8]
    running: list[Any] = []
    capacity = Capacity(client)
    number = 0
    try:
        while True:
            capacity.look()
            for item in islice(waiting, max(0, 2 * capacity.threads + 2 - len(running))):
                key = f"daskreg-{label}-{run}-{number}"
                running.append(client.submit(function, item, key=key, retries=RETRIES, pure=False))
                number += 1
            if not running:
                return
            try:
                done = wait_for(running, timeout=5, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                continue
            for future in done:
                running.remove(future)
                on_done(future.result())
                future.release()
    finally:
        if running:
            client.cancel(running, force=True)
