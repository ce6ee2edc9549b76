"""Whether a run that has not ended is still going on.

Its process says so by a growing number in the record. On its own machine the process is looked up; on another one the
number is watched, since clocks are not compared. The coordinator of a cluster may also be on its way from a worker that
has died to another one, or wait for its first worker: then the scheduler is asked whether it still has it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from daskreg.cluster.network import security_of
from daskreg.cluster.options import Tls
from daskreg.errors import DaskregError, RunCancelledError
from daskreg.runs.coordinator import task_name
from daskreg.runs.place import CLUSTER
from daskreg.runs.record import (
    CANCELLED,
    INTERRUPTED,
    WAITING,
    RecordFolder,
    RunRecord,
    error_facts,
    read_record,
    request_cancel,
    write_record,
)

QUIET = 20.0
"""Seconds without a new record after which the process that wrote it is taken for dead, as for a claim of an output.
Network file systems show a change some seconds late."""

ANSWER_WITHIN = 5.0
"""Seconds that a scheduler may take to answer."""

ASK_EVERY = 2.0
"""Seconds between two questions to a scheduler."""


class Liveness:
    """Watches one run.

    Args:
        client: of its scheduler, if there is one here.
    """

    def __init__(self, client: Any | None = None) -> None:
        self._client = client
        self._beat: tuple[int, str, int] | None = None
        self._changed = self._asked = 0.0
        self._answer: bool | None = None
        self._over = False

    def is_over(self, record: RunRecord) -> bool | None:
        """Whether the run has ended without saying so; None where that is not known yet."""
        now = time.monotonic()
        beat = (record.beat, record.process.host, record.process.pid)
        if beat != self._beat:
            first, self._beat, self._changed, self._over = self._beat is None, beat, now, False
            if not first:
                return False
        over = True if self._over else self._judged(record, now)
        self._over = bool(over)
        return over

    def _judged(self, record: RunRecord, now: float) -> bool | None:
        process = record.process
        if process.pid and process.is_here and process.runs:
            return False
        if record.place.kind != CLUSTER and process.is_here:
            return True
        quiet = now - self._changed > QUIET
        if record.place.kind == CLUSTER and (quiet or process.is_here or not process.pid):
            if now - self._asked > ASK_EVERY:
                self._answer, self._asked = self._scheduler_has_it(record), now
            if self._answer is not None:
                return not self._answer
        if not quiet:
            return None
        return None if not process.pid else True

    def _scheduler_has_it(self, record: RunRecord) -> bool | None:
        """Whether the scheduler has the coordinator, which has not failed there; None where it cannot be asked."""
        name = task_name(record.token)
        with _client_of(record, self._client) as client:
            if client is None:
                return None
            if client is _GONE:
                return False
            with suppress(OSError, TimeoutError):
                if name not in client.list_datasets(callback_timeout=ANSWER_WITHIN):
                    return False
                future = client.get_dataset(name, callback_timeout=ANSWER_WITHIN)
                # Its state comes a moment later.
                deadline = time.monotonic() + 0.5
                while future.status == "pending" and time.monotonic() < deadline:
                    time.sleep(0.05)
                return future.status not in ("error", "cancelled", "lost")
            return None  # it is busy


_GONE: Any = object()


@contextmanager
def _client_of(record: RunRecord, known: Any | None) -> Iterator[Any | None]:
    """A client of the scheduler of a run: the known one if it is, else a new one.

    _GONE where its address refuses connections, None where nothing is known: it is busy, or asks for certificates.
    """
    address = record.place.scheduler
    if known is not None and known.status == "running" and known.scheduler.address == address:
        yield known
        return
    if address is None or (address.startswith("tls://") and record.place.tls is None):
        yield None
        return
    from distributed import Client

    try:
        security = security_of(Tls(**record.place.tls)) if record.place.tls else None
    except (DaskregError, TypeError):
        yield None  # the files are not there, or are others
        return
    if _refuses(address):
        yield _GONE
        return
    try:
        client = Client(address, security=security, set_as_default=False, timeout=ANSWER_WITHIN)
    except (OSError, TimeoutError):
        yield None
        return
    try:
        yield client
    finally:
        client.close(timeout=ANSWER_WITHIN)


def _refuses(address: str) -> bool:
    """Whether the machine of an address says that nothing listens there."""
    host, _, port = address.partition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_WITHIN).close()
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError):
        return False
    return False


def ask_to_stop(folder: RecordFolder, record: RunRecord, client: Any | None) -> None:
    """Ask a run to stop; one that waits for a worker is taken back from its scheduler, and is over at once.

    Raises: OSError.
    """
    request_cancel(folder, record.token)
    if record.state != WAITING or record.place.kind != CLUSTER:
        return
    with _client_of(record, client) as found, suppress(Exception):
        if found is None or found is _GONE:
            return
        found.unpublish_dataset(task_name(record.token), callback_timeout=ANSWER_WITHIN)
        if read_record(folder) == record:  # no worker has begun meanwhile; one that begins now looks at this first
            error = RunCancelledError("the run was cancelled before it began: the same call begins it again")
            write_record(folder, replace(record, state=CANCELLED, error=error_facts(error)))


def settled(folder: RecordFolder, client: Any | None, seconds: float = QUIET + 5) -> RunRecord | None:
    """The record of a run once it is known whether it goes on; as "interrupted" where it does not."""
    watch = Liveness(client)
    deadline = time.monotonic() + seconds
    while True:
        record = read_record(folder)
        if record is None or record.ended:
            return record
        over = watch.is_over(record)
        if over:
            latest = read_record(folder)
            return latest if latest != record else replace(record, state=INTERRUPTED)
        if over is False or time.monotonic() > deadline:
            return record
        time.sleep(0.2)
