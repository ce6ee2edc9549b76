"""The coordinator of a run on a cluster: a task on a worker that submits the blocks, so that no client is needed.

It leaves the worker's thread pool (`secede`), so that it takes no place of a block, and has a client of its own. Where
its worker dies, Dask gives the task to another one: the run then goes on from the ledger, as soon as the lock of the
dead process is free. The task is published under the run's name, so the scheduler keeps it without any client, and
others can ask whether it still has it.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from daskreg.errors import OptionError, OutputBusyError, RunCancelledError
from daskreg.runs.coordinator_task import coordinate
from daskreg.runs.place import Place
from daskreg.runs.record import (
    CANCELLED,
    FAILED,
    RUNNING,
    cancel_requested,
    error_facts,
    read_record,
    write_record,
)
from daskreg.runs.work import Work

log = logging.getLogger(__name__)

MOST_BYTES = 256 * 2**20
"""Bytes of a description, which the scheduler keeps in its memory for as long as the run takes, at most."""

HAND_OVER = 180.0
"""Seconds for which a coordinator waits for the lock of the one before it, whose worker has died. A server of NFS keeps
the locks of a client that is gone for its lease, 90 s as a rule (RFC 8881, section 8.3)."""


@dataclass(frozen=True)
class Coordinated:
    """Work, and where it takes place."""

    work: Any
    place: Place


def task_name(token: str) -> str:
    """The name under which a scheduler has the coordinator of a run."""
    return f"daskreg-coordinator-{token}"


def submit_coordinator(work: Work, place: Place, client: Any) -> None:
    """Give the work to a worker. It goes on without this client.

    Raises: OptionError where voxels that are only in memory would have to wait at the scheduler.
    """
    import dask
    from distributed.protocol.pickle import dumps

    packed = dumps((run_coordinator, Coordinated(work, place)))
    if len(packed) > MOST_BYTES:
        raise OptionError(
            f"wait=False: the input is in the memory of this process, and its {len(packed) >> 20} MiB would have to be "
            f"kept at the scheduler ({MOST_BYTES >> 20} MiB at most): store it first, or wait for the run"
        )
    name = task_name(place.token)
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": sys.maxsize}):
        future = client.submit(coordinate, packed, key=name, pure=False, priority=10)
    client.publish_dataset(future, name=name)
    future.release()


def run_coordinator(job: Coordinated) -> None:
    """Perform the work. Runs on a worker; errors are in the record, which is where all others look."""
    from distributed import get_worker, secede

    worker = get_worker()
    secede()
    work, place = job.work, job.place
    try:
        with _own_client(worker) as client, client.as_current():
            try:
                _perform(work, place, client)
            finally:
                with suppress(Exception):  # a scheduler that is gone has forgotten it
                    client.unpublish_dataset(task_name(place.token))
    except Exception as error:
        log.info("%s: %s", work.label, error)
        record_error(work, place, error)


def _perform(work: Work, place: Place, client: Any) -> None:
    """Perform the work, once the coordinator before this one has left its lock.

    Raises: what the work raises; RunCancelledError.
    """
    began = read_record(work.folder)
    if began is None or began.token != place.token or began.ended:
        return  # another run has taken over, or the worker died as the run was done
    deadline = time.monotonic() + (HAND_OVER if began.state == RUNNING else 0)
    while True:
        if cancel_requested(work.folder, place.token):
            raise RunCancelledError("the run was cancelled before it began")
        try:
            work.perform(client, place)
            return
        except OutputBusyError:
            now = read_record(work.folder)
            if now is None or now.token != place.token or now.ended or time.monotonic() > deadline:
                raise
        time.sleep(1)


def record_error(work: Work, place: Place, error: BaseException) -> None:
    """Record an error that came before the work had a record of its own."""
    before = read_record(work.folder)
    if before is None or before.token != place.token or before.ended:
        return
    state = CANCELLED if isinstance(error, RunCancelledError) else FAILED
    with suppress(OSError):
        write_record(work.folder, replace(before, state=state, error=error_facts(error)))


def _own_client(worker: Any) -> Any:
    """A client of the worker's scheduler, with the worker's certificates.

    Not `distributed.get_client()`: that one shares the worker's event loop, which a busy client must not block.
    """
    from distributed import Client
    from distributed.security import Security

    given, security = worker.security, None
    cert = given.tls_client_cert or given.tls_worker_cert
    if given.tls_ca_file and cert:
        security = Security(
            tls_ca_file=given.tls_ca_file,
            tls_client_cert=cert,
            tls_client_key=given.tls_client_key or given.tls_worker_key,
            require_encryption=True,
        )
    return Client(worker.scheduler.address, security=security, set_as_default=False, timeout=30, name="daskreg-run")
