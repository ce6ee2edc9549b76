"""Clusters that `connect` starts: they end with their client."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

START_SECONDS = 30
"""How long local workers may take to start."""


def give_up_workers_after(time: str) -> None:
    """How long a cluster waits for a worker that has gone before it stops its nanny, unless the user has set that."""
    import dask

    dask.config.update_defaults({"distributed": {"deploy": {"lost-worker-timeout": time}}})


def owning_client(
    cluster: Any,
    workers: int,
    *,
    awaited: Callable[[], str | None] | None = None,
    ended: Callable[[], object] = lambda: None,
) -> Client:
    """A client that ends its cluster when it is closed.

    Args:
        workers: how many to wait for; 0: none.
        awaited: what a cluster without workers waits for, in a line (see `JobWatch.awaited`); None: nothing.
        ended: called after the cluster has ended.
    """
    from distributed import Client

    class ClusterClient(Client):
        awaited_workers: Callable[[], str | None] | None = None

        def close(self, *args: Any, **options: Any) -> None:
            owned, self._owned = getattr(self, "_owned", None), None
            super().close(*args, **options)
            if owned is not None:
                try:
                    owned.close()
                finally:
                    ended()

    try:
        client = ClusterClient(cluster)
        if workers:
            client.wait_for_workers(workers, timeout=START_SECONDS)
    except BaseException:
        cluster.close()
        raise
    client._owned = cluster
    client.awaited_workers = awaited
    return client
