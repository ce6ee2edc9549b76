"""`Recorder`: while a process runs, it keeps the record beside the output, and looks whether it is to stop."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from daskreg.errors import RunCancelledError
from daskreg.runs.place import THREAD, Place, ProcessId
from daskreg.runs.record import (
    CANCELLED,
    DONE,
    FAILED,
    INTERRUPTED,
    RecordFolder,
    RunRecord,
    cancel_requested,
    error_facts,
    now,
    write_record,
)
from daskreg.runtime.private_apis import process_ends
from daskreg.runtime.progress import ByteProgress

BEAT = 1.0
"""Seconds between two records: the time that a request to cancel waits, and little work for a shared disk."""

REMOTE = 3
"""Times that this is longer in an object store, where each record and each look is a request that is paid for."""

WINDOW = 60
"""Records over which the rate is taken."""


class Recorder:
    """The record of a run, kept in a `with` block by the process that runs; its end says how the run ended.

    A record that cannot be written (a full disk) ends no run.

    Args:
        folder: beside the output; it exists.
        place: where the run takes place.
        kind: what it does.
        command: of a terminal that began it.
        shown: also called with the progress.
        counted: gives fields of the record that the run counts, such as retries; called in another thread.
    """

    def __init__(
        self,
        folder: RecordFolder,
        place: Place,
        *,
        kind: str = "write",
        command: str = "",
        shown: ByteProgress | None = None,
        counted: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._folder, self._shown, self._counted = folder, shown, counted
        self._record = RunRecord(place, kind, process=ProcessId.own(), began=now(), command=command)
        self._started = time.monotonic()
        self._window: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._changing = threading.Lock()
        self._stop: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="daskreg-record")
        self.result: Mapping[str, Any] | None = None

    def __enter__(self) -> Recorder:
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        state, facts = self._ending(error)
        self._write(state=state, error=facts, result=self.result if error is None else None)

    def progress(self, done: int, total: int, nbytes: int) -> None:
        """Note how far the run is: blocks done, blocks in all, bytes."""
        with self._changing:
            self._record = replace(self._record, done=done, total=total, nbytes=nbytes)
        if self._shown is not None:
            self._shown(done, total, nbytes)

    def check(self) -> None:
        """Raises: RunCancelledError where the run is to stop."""
        if self._stop is not None:
            raise RunCancelledError(self._stop)

    def _ending(self, error: BaseException | None) -> tuple[str, dict[str, Any] | None]:
        if error is None:
            return DONE, None
        if isinstance(error, KeyboardInterrupt | SystemExit) or _process_ends(self._record.place):
            return INTERRUPTED, None
        return CANCELLED if isinstance(error, RunCancelledError) else FAILED, error_facts(error)

    def _beat(self) -> None:
        pause = BEAT if isinstance(self._folder, Path) else BEAT * REMOTE
        while not self._over.wait(pause):
            if self._stop is None and cancel_requested(self._folder, self._record.token):
                self._stop = "the run was cancelled: finished blocks are kept, and the same call resumes"
            elif self._stop is None and _process_ends(self._record.place):
                self._stop = "the process ends: finished blocks are kept, and the same call resumes"
            self._write()

    def _write(self, **changes: Any) -> None:
        with self._changing:
            record = replace(self._record, **self._counted(), **changes)
            seconds = time.monotonic() - self._started
            self._window.append((seconds, record.done - record.skipped))
            self._record = replace(record, seconds=seconds, rate=self._rate(), beat=record.beat + 1)
            with suppress(OSError):
                write_record(self._folder, self._record)

    def _rate(self) -> float:
        """Blocks a second, over the last minute."""
        (before, first), (later, last) = self._window[0], self._window[-1]
        return max(0.0, (last - first) / (later - before)) if later > before else 0.0


def _process_ends(place: Place) -> bool:
    """Whether a run in a thread has to end with its process."""
    return place.kind == THREAD and process_ends()
