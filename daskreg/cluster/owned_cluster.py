"""Clusters that `connect` starts: they end with their client."""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

START_SECONDS = 30
"""How long local workers may take to start."""


def give_up_workers_after(time: str) -> None:
    """How long a cluster waits for a worker that has gone before it stops its nanny, unless the user has set that."""
    import dask

    dask.config.update_defaults({"distributed": {"deploy": {"lost-worker-timeout": time}}})


CLOSE_SECONDS = 10
"""How long a client, and then a cluster, may take to close; then its local workers are killed."""

CLOSE_JOBS_SECONDS = 60
"""The same where workers are jobs, or processes of other machines, which are ended through other programs."""

_running: dict[int, Any] = {}
"""Clients whose clusters have not been closed, by id: they are closed when the interpreter exits."""


def owning_client(
    cluster: Any,
    workers: int,
    *,
    awaited: Callable[[], str | None] | None = None,
    ended: Callable[[], object] = lambda: None,
    same_environment: bool = False,
) -> Client:
    """A client that ends its cluster when it is closed, or when the interpreter exits.

    A second Ctrl-C while it closes kills local workers: otherwise the exit would wait for them without a limit.

    Args:
        workers: how many to wait for; 0: none.
        awaited: what a cluster without workers waits for, in a line (see `JobWatch.awaited`); None: nothing.
        ended: called after the cluster has ended.
        same_environment: whether the workers are processes of this machine with this interpreter.
    """
    from distributed import Client

    class ClusterClient(Client):
        awaited_workers: Callable[[], str | None] | None = None
        same_environment: bool = False

        def close(self, *args: Any, **options: Any) -> None:
            owned, self._owned = getattr(self, "_owned", None), None
            if owned is None:
                super().close(*args, **options)
                return
            pids = _worker_pids(owned)
            if not args:
                options.setdefault("timeout", CLOSE_SECONDS)
            try:
                super().close(*args, **options)
                owned.close(timeout=CLOSE_SECONDS if pids else CLOSE_JOBS_SECONDS)
            except TimeoutError:
                log.warning("the cluster did not close within %d s: its workers are killed", CLOSE_SECONDS)
            finally:
                _kill(pids)
                _running.pop(id(self), None)
                ended()

    try:
        client = ClusterClient(cluster)
        if workers:
            client.wait_for_workers(workers, timeout=START_SECONDS)
    except BaseException:
        pids = _worker_pids(cluster)
        try:
            cluster.close(timeout=CLOSE_SECONDS)
        finally:
            _kill(pids)
        raise
    client._owned = cluster
    client.awaited_workers = awaited
    client.same_environment = same_environment
    if not _running:
        # Functions that are registered later are called earlier: before distributed and multiprocessing wait.
        atexit.unregister(_close_all)
        atexit.register(_close_all)
    _running[id(client)] = client
    return client


def _close_all() -> None:
    for client in list(_running.values()):
        with contextlib.suppress(Exception, KeyboardInterrupt):
            client.close(timeout=CLOSE_SECONDS)


def _worker_pids(cluster: Any) -> list[int]:
    """Process ids of the workers of a local cluster; none of others."""
    pids = (getattr(worker, "pid", None) for worker in getattr(cluster, "workers", {}).values())
    return [pid for pid in pids if isinstance(pid, int)]


def _kill(pids: list[int]) -> None:
    """Kill those of the processes that still run."""
    children = {child.pid: child for child in multiprocessing.active_children()}
    for pid in pids:
        if pid in children:  # not a later process of the same number
            children[pid].kill()
