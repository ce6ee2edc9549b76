"""How many tasks a cluster can run: the threads of its running workers, and for how long there were none."""

from __future__ import annotations

import logging
import time
from typing import Any

import dask
from dask.utils import parse_timedelta

from daskreg.cluster.handshake import check_workers
from daskreg.errors import NoWorkersError, SchedulerLostError
from daskreg.runtime.private_apis import workers_of

log = logging.getLogger(__name__)

ASK_EVERY = 1.0
"""Seconds between two questions to the scheduler."""

ANSWER_WITHIN = 15.0
"""Seconds that the scheduler may take to answer."""

PATIENCE = 60.0
"""Seconds without a worker that can run a task after which a run gives up, where
`distributed.scheduler.no-workers-timeout` is not set."""


class Capacity:
    """The capacity of a cluster, asked for at most once a second. No question waits without a limit.

    Args:
        client: a `distributed.Client`.
        resource: what a worker must have, such as "GPU". Where no worker declares it, the
            scheduler cannot tell which workers have it, and all count.

    `threads` is how many tasks can run at once, `resource` what tasks have to ask for (None: nothing).
    """

    def __init__(self, client: Any, resource: str | None = None) -> None:
        self._client = client
        self._wanted = resource
        self._address = client.scheduler.address
        self._patience = _patience()
        self._asked = -ASK_EVERY
        self._had_threads = self._answered = time.monotonic()
        self._reason = "has no worker"
        self._said: str | None = None
        self.threads = 0
        self.resource: str | None = None
        self.refresh()

    def refresh(self) -> None:
        """Ask again, if a second has passed since the last question.

        Raises: SchedulerLostError where the scheduler is gone, or silent for too long;
        NoWorkersError where no worker could run a task for too long; UnfitWorkerError for a worker that has
        another daskreg, or none.
        """
        now = time.monotonic()
        if now - self._asked < ASK_EVERY:
            return
        workers = self._workers()
        self._asked = time.monotonic()
        if workers is None:
            if self._client.status == "closed" or self._asked - self._answered > self._patience:
                raise SchedulerLostError(
                    f"the scheduler at {self._address} is gone: finished blocks are kept; start a cluster and run the "
                    "same command again to resume"
                )
            self._had_threads = self._asked
            return
        self._answered = self._asked
        check_workers(self._client, [worker["address"] for worker in workers])
        self._count(workers)
        if self.threads or self._waits():
            self._had_threads = self._asked
        elif self._asked - self._had_threads > self._patience:
            raise NoWorkersError(
                f"the cluster at {self._address} {self._reason}, for {self._patience:.0f} s: finished blocks are kept; "
                "start workers and run the same command again to resume"
            )

    def _waits(self) -> bool:
        """Whether workers are on their way: jobs in the queue of a batch system.

        Raises: NoWorkersError where they cannot come.
        """
        awaited = getattr(self._client, "awaited_workers", None)
        text = awaited() if awaited is not None else None
        if text is not None and text != self._said:
            log.warning("waiting for workers: %s", text)
        self._said = text
        return text is not None

    def _count(self, workers: list[dict[str, Any]]) -> None:
        if self._wanted and any(self._wanted in worker["resources"] for worker in workers):
            self.resource = self._wanted
        if self.resource:
            workers = [worker for worker in workers if self.resource in worker["resources"]]
        running = [worker for worker in workers if worker["status"] == "running"]
        self.threads = sum(int(worker["nthreads"]) for worker in running)
        if workers and not running:
            states = ", ".join(sorted({str(worker["status"]) for worker in workers}))
            self._reason = f"has {len(workers)} workers, all of them {states} (a paused worker is out of memory)"
        else:
            self._reason = f"has no worker with a {self.resource}" if self.resource else "has no worker"

    def _workers(self) -> list[dict[str, Any]] | None:
        """What the scheduler knows of its workers; None where it does not answer."""
        if self._client.status != "running":
            return None
        try:
            return workers_of(self._client, timeout=ANSWER_WITHIN)
        except (OSError, TimeoutError, AttributeError):
            return None


def _patience() -> float:
    timeout = dask.config.get("distributed.scheduler.no-workers-timeout", None)
    return PATIENCE if timeout is None else float(parse_timedelta(timeout))
