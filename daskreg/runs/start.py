"""Begin a run without waiting for it: on the cluster where that outlives this process, else in a thread."""

from __future__ import annotations

import logging
import shutil
import threading
import uuid
import weakref
from pathlib import Path
from typing import Any

from daskreg.cluster.capacity import Capacity
from daskreg.runs.coordinator import record_error, submit_coordinator
from daskreg.runs.place import CLUSTER, THREAD, Place, ProcessId, ends_with_this_process, place_of
from daskreg.runs.record import WAITING, RunRecord, now, write_record
from daskreg.runs.run import Outcome, Run
from daskreg.runs.work import Work

log = logging.getLogger(__name__)


def start(work: Work, client: Any | None, *, temporary: bool = False) -> Run:
    """Begin work; the folder of its record exists.

    Args:
        client: whose workers compute; None for threads of this process.
        temporary: the folder is for this process alone, which removes it: so the run ends with it in any case.

    Raises: OptionError where the input is too large to be kept at the scheduler; UnfitWorkerError.
    """
    token = uuid.uuid4().hex
    if temporary or ends_with_this_process(client):
        place = place_of(client, token, THREAD)
        write_record(
            work.folder, RunRecord(place, work.kind, WAITING, ProcessId.own(), began=now(), command=work.command)
        )
        outcome = Outcome()
        if temporary and isinstance(work.folder, Path):
            weakref.finalize(outcome, shutil.rmtree, work.folder, ignore_errors=True)
        # It is waited for as the interpreter ends, which the record sees: running blocks are finished, none is begun.
        threading.Thread(target=_in_thread, args=(work, client, place, outcome), name="daskreg-run").start()
        resumes = "" if temporary else "; the same call then resumes"
        log.warning("%s goes on in this process and ends with it%s", work.label, resumes)
        return Run(work.path, work.folder, token, client=client, outcome=outcome)
    Capacity(client)  # refuses workers that are not fit
    place = place_of(client, token, CLUSTER)
    write_record(work.folder, _waiting(work, place, ProcessId()))
    try:
        submit_coordinator(work, place, client)
    except BaseException as error:
        record_error(work, place, error)
        raise
    return Run(work.path, work.folder, token, client=client)


def _waiting(work: Work, place: Place, process: ProcessId) -> RunRecord:
    return RunRecord(place, work.kind, WAITING, process, began=now(), command=work.command)


def _in_thread(work: Work, client: Any | None, place: Place, outcome: Outcome) -> None:
    try:
        outcome.result = work.perform(client, place)
    except BaseException as error:
        record_error(work, place, error)
        outcome.error = error
    finally:
        outcome.there.set()
