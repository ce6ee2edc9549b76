"""Independent tasks with small results, a few at a time: on a cluster's workers, or in threads of this process."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from daskreg.blocks.in_flight import RETRIES
from daskreg.blocks.input_files import locations
from daskreg.cluster.capacity import Capacity
from daskreg.cluster.client import chosen_client
from daskreg.runtime.threads import in_threads
from daskreg.sources.source import Source
from daskreg.sources.store_options import share_options

T = TypeVar("T")
R = TypeVar("R")


def client_for(client: Any, *sources: Source) -> Any:
    """The client whose workers read the voxels of some sources, or None for local threads.

    Args:
        client: a distributed Client; False for threads; None for the current client, except for arrays
            that are in the memory of this process.

    Raises: OptionError for what is not a client.
    """
    if client is None and any(source.in_memory for source in sources):
        return None
    chosen = chosen_client(client)
    for source in sources if chosen is not None else ():
        share_options(chosen, locations(source))
    return chosen


def run_tasks(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    client: Any | None,
    threads: int,
    on_done: Callable[[R], None],
    label: str = "task",
    pool: ThreadPoolExecutor | None = None,
) -> None:
    """Call `function` on every item and `on_done`, in this thread, on each result, as they come.

    Args:
        client: a distributed Client, or None for local threads.
        threads: how many run here at once, where there is no client; 1 is this thread itself.
        label: what the tasks are called on a cluster.
        pool: of so many threads, for several calls; None: one for this call.

    The first error is raised at once; what has not begun is dropped, and `on_done` was called with the results
    that had come. Raises: NoWorkersError, SchedulerLostError as `Capacity` says.
    """
    if client is not None:
        _on_client(function, items, client, on_done, label)
    elif threads == 1:
        for item in items:
            on_done(function(item))
    else:
        with contextlib.closing(in_threads(threads, function, items, taken_ahead=threads + 1, pool=pool)) as results:
            for result in results:
                on_done(result)


def _on_client(
    function: Callable[[T], R], items: Iterable[T], client: Any, on_done: Callable[[R], None], label: str
) -> None:
    from distributed import wait

    waiting, run = iter(items), uuid.uuid4().hex[:8]
    running: list[Any] = []
    capacity = Capacity(client)
    number = 0
    try:
        while True:
            capacity.refresh()
            for item in islice(waiting, max(0, 2 * capacity.threads + 2 - len(running))):
                key = f"daskreg-{label}-{run}-{number}"
                running.append(client.submit(function, item, key=key, retries=RETRIES, pure=False))
                number += 1
            if not running:
                return
            try:
                done = wait(running, timeout=5, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                continue
            for future in done:
                running.remove(future)
                on_done(future.result())
                future.release()
    finally:
        if running:
            client.cancel(running, force=True)
