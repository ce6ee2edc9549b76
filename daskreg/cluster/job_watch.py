"""Watches the jobs of a cluster in the queue of the batch system: which wait, which have ended without a worker.

dask-jobqueue submits jobs and trusts that each becomes a worker. A job that waits in a busy queue, one that ends
before its worker has registered, and one that is refused look the same to it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daskreg.errors import NoWorkersError

log = logging.getLogger(__name__)

EVERY = 5.0
"""Seconds between two looks at the queue."""

ANSWER_WITHIN = 30.0
"""Seconds that the queue may take to answer."""

FAILURES = 3
"""Jobs that ended without a worker, one after another, after which no more are submitted."""


@dataclass(frozen=True)
class JobState:
    """What the batch system says of a job.

    Args:
        pending: whether it waits in the queue.
        text: its state, and why it waits, in the words of the batch system.
    """

    pending: bool
    text: str


@dataclass(frozen=True)
class BatchQueue:
    """How a batch system is asked for the states of jobs.

    Args:
        command: of some job numbers; it may fail where none of them is known any more.
        states: of what it prints: by number, those that wait or run.
    """

    command: Callable[[Sequence[str]], list[str]]
    states: Callable[[str], dict[str, JobState]]

    def ask(self, jobs: Sequence[str]) -> dict[str, JobState] | None:
        """The states of some jobs that have not ended; None where the batch system does not answer."""
        if not jobs:
            return {}
        try:
            done = subprocess.run(
                self.command(jobs), capture_output=True, text=True, timeout=ANSWER_WITHIN, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        unknown = re.search(r"invalid|unknown|not found|do not exist|has finished", done.stderr, re.IGNORECASE)
        if done.returncode and not done.stdout.strip() and not unknown:
            return None
        return {number: state for number, state in self.states(done.stdout).items() if number in jobs}


def job_states(
    rows: Iterable[Sequence[str]], *, pending: Container[str], running: Container[str]
) -> dict[str, JobState]:
    """The jobs that wait or run, by number.

    Args:
        rows: number, state, and why it waits, as far as the batch system says that.
        pending, running: the states of such jobs; those in other states have ended.
    """
    return {
        number: JobState(state in pending, f"{state}: {reason[0]}" if reason else f"state {state}")
        for number, state, *reason in (row for row in rows if len(row) > 1)
        if state in pending or state in running
    }


class JobWatch:
    """Replaces jobs that ended without a worker, and says what a cluster without workers waits for.

    Args:
        cluster: of dask_jobqueue.
        logs: folder of the jobs' output.
        wait: seconds that jobs may wait in the queue; None: without a limit.
    """

    def __init__(self, cluster: Any, queue: BatchQueue, *, logs: Path, wait: float | None = None) -> None:
        self._cluster = cluster
        self._logs = logs
        self._queue = queue
        self._wait = wait
        self._suspects: set[str] = set()
        self._failures = 0
        self._failed: str | None = None
        self._pending: list[str] = []
        self._waiting_since: float | None = None

    def submit(self, jobs: int) -> None:
        """Submit the first jobs, and wait until the batch system has taken them.

        Raises: NoWorkersError with the words of the batch system.
        """
        for _ in range(jobs):
            self._cluster.worker_spec.update(self._cluster.new_worker_spec())
        from distributed.core import Status

        try:
            self._cluster.sync(self._settle)
        except (RuntimeError, OSError, ValueError) as error:
            for job in self._cluster.workers.values():
                if not job.job_id:
                    job.status = Status.closed  # a cluster that has a job which was not started cannot be closed
            raise NoWorkersError(f"the batch system refused a job: {refusal(error)}") from error

    def start(self) -> None:
        """Look at the queue every few seconds, until the cluster is closed."""
        self._cluster.loop.add_callback(self._look_again_and_again)

    def awaited(self) -> str | None:
        """What the cluster waits for, while it has no worker: the jobs in the queue, in a line; None: nothing.

        Raises: NoWorkersError where several jobs ended without a worker, or the jobs have waited for too long.
        """
        if self._failed:
            raise NoWorkersError(self._failed)
        if not self._pending:
            self._waiting_since = None
            return None
        since = self._waiting_since = self._waiting_since or time.monotonic()
        text = f"{len(self._pending)} jobs wait in the queue ({self._pending[0]})"
        if self._wait is not None and time.monotonic() - since > self._wait:
            raise NoWorkersError(f"{text} for {self._wait:.0f} s, which is as long as wait: allows; run again later")
        return text

    async def _settle(self) -> None:
        await self._cluster

    async def _look_again_and_again(self) -> None:
        while self._cluster.status.name in {"created", "starting", "running"}:
            await asyncio.sleep(EVERY)
            try:
                await self._look()
            except Exception as error:
                log.warning("the jobs could not be looked after: %s", refusal(error))

    async def _look(self) -> None:
        """Note which jobs wait, and replace those that are gone in two looks and never became a worker."""
        jobs = {name: job.job_id for name, job in self._cluster.workers.items()}
        states = await asyncio.to_thread(self._queue.ask, [number for number in jobs.values() if number])
        if states is None:
            return
        self._pending = [state.text for state in states.values() if state.pending]
        present = self._with_worker()
        if present:
            self._failures = 0
        ended = {name for name, number in jobs.items() if number not in states and name not in present}
        lost, self._suspects = ended & self._suspects, ended - self._suspects
        if not lost or self._failed:
            return
        self._failures += len(lost)
        if self._failures >= FAILURES:
            self._failed = self._explanation(jobs[min(lost)])
            self._cluster.adapt(minimum=0, maximum=0)
            return
        for name in lost:
            log.warning("job %s ended before its worker had registered: another one is submitted", jobs[name])
            self._cluster.workers.pop(name, None)
        await self._settle()

    def _with_worker(self) -> set[str]:
        """Names of the jobs of which a worker is known to the scheduler."""
        known = {str(worker["name"]) for worker in self._cluster.scheduler_info["workers"].values()}
        return {name for name in self._cluster.workers if any(k == name or k.startswith(f"{name}-") for k in known)}

    def _explanation(self, number: str | None) -> str:
        text = f"{self._failures} jobs ended before their workers had registered"
        said = last_words(self._logs, number) if number else ""
        return f"{text}; the last one says: {said}" if said else f"{text}; look at their output (logs:)"


def refusal(error: BaseException) -> str:
    """What a batch system said, out of dask-jobqueue's error: the command, stdout and stderr, one below the other."""
    text = str(error)
    if "stderr:" in text:
        text = text.rsplit("stderr:", maxsplit=1)[1]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-2:]) or type(error).__name__


def last_words(folder: Path, number: str) -> str:
    """The last line that a job wrote, errors first."""
    for path in sorted(folder.glob(f"*{number}*"), key=lambda p: p.suffix != ".err"):
        lines = [
            line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
        ]
        if lines:
            return lines[-1][:500]
    return ""
