"""`Run`: a run that goes on elsewhere; and `attach`, which finds it again from any process."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

from dask.utils import format_bytes, format_time

from daskreg.cluster.client import current_client
from daskreg.errors import DaskregError, NotAVolumeError, OptionError, OutputBusyError, RunInterruptedError, check_flags
from daskreg.runs.liveness import Liveness, ask_to_stop
from daskreg.runs.part_locks import part_folders
from daskreg.runs.place import CLUSTER, THREAD, dashboard_of
from daskreg.runs.record import (
    DONE,
    INTERRUPTED,
    WAITING,
    RecordFolder,
    RunRecord,
    error_of,
    output_ledger,
    read_record,
    record_folder,
)
from daskreg.runs.written import Written, warn_of
from daskreg.runtime.messages import redact
from daskreg.runtime.progress import bar_html, progress_bar
from daskreg.sources.store_options import use_options

log = logging.getLogger(__name__)

LOOK_EVERY = 0.25
"""Seconds between two looks at the record."""

_FITS = {"align": ("daskreg.stacks.elastic.fit", "load_fit")}
"""Where the function is that reads a fit, by the kind of its run: looked up when called, as fits build on this."""


@dataclass
class Outcome:
    """How a run in a thread of this process ended, with its error and result themselves."""

    result: Any = None
    error: BaseException | None = None
    there: threading.Event = field(default_factory=threading.Event)


class Run:
    """A run that goes on while this process does something else, or after it has ended.

    Made by `write(wait=False)`, `align_stack(wait=False)` and `attach`. It reads what the run records beside its output
    every second, so it needs no connection to a scheduler. `await run` is `run.wait()`.

    path: of what it makes.
    """

    def __init__(
        self,
        path: str,
        folder: RecordFolder,
        token: str,
        *,
        client: Any | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        self.path = path
        self._folder, self._token, self._client, self._outcome = folder, token, client, outcome
        self._watch = Liveness(client)

    @property
    def progress(self) -> RunRecord:
        """How far it is: `done`, `total`, `fraction`, `rate` (blocks a second), `left` (seconds), `retries`, `failed`,
        `failures`, `state`, and the `process` and `place` that it runs in.

        Raises: OutputBusyError where another run of the same output has begun since.
        """
        record = self._record()
        if not record.ended and self._watch.is_over(record):
            latest = self._record()  # it may have ended just now
            return latest if latest.ended else replace(latest, state=INTERRUPTED)
        return record

    @property
    def state(self) -> str:
        """ "waiting" (for a worker), "running", "done", "failed", "cancelled" or "interrupted" (it can be resumed)."""
        return self.progress.state

    @property
    def dashboard(self) -> str | None:
        """The page of its scheduler; None where it has none."""
        known = None if self._client is None else dashboard_of(self._client)
        return known or self._record().place.dashboard

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> Any:
        """Wait until it has ended.

        Ctrl-C ends the waiting; the run goes on, and a message says so.

        Args:
            timeout: seconds.
            progress: show a bar.

        Returns: what the call without `wait=False` gives: `Written`, or a `StackFit`.
        Raises: the error that ended the run; RunCancelledError; RunInterruptedError where its process or its scheduler
        ended before it; OutputBusyError where another run of this output has begun; TimeoutError.
        """
        check_flags(progress=progress)
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            with progress_bar(os.path.basename(self.path)) if progress else nullcontext() as show:
                while not (record := self.progress).ended:
                    if show is not None and record.total:
                        show(record.done, record.total, record.nbytes)
                    if deadline is not None and time.monotonic() > deadline:
                        raise TimeoutError(f"{self.path}: {record.done} of {record.total} done after {timeout} s")
                    time.sleep(LOOK_EVERY)
        except KeyboardInterrupt:
            log.warning("no longer waiting; the run of %s goes on: run.cancel() ends it", self.path)
            raise
        return self._result(record)

    def cancel(self) -> None:
        """Ask it to stop: it begins no further block, finishes those that are being made, and records them. It stops
        within some seconds, then `wait` raises RunCancelledError; the same call as before resumes it.
        """
        record = self.progress
        if not record.ended:
            ask_to_stop(self._folder, record, self._client)

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.to_thread(self.wait).__await__()

    def __repr__(self) -> str:
        try:
            record = self.progress
        except DaskregError as error:  # the output was removed, or another run has it now
            return f"Run({self.path}: {error})"
        return f"Run({self.path}: {summary(record)}; {whereabouts(record)})"

    def _repr_html_(self) -> str:
        """A bar with the same facts, for notebooks."""
        try:
            record = self.progress
        except DaskregError:
            return f"<pre>{escape(repr(self))}</pre>"
        text = f"{summary(record)}; {whereabouts(record)}"
        return bar_html(os.path.basename(self.path), record.fraction, text, self.dashboard)

    def _ipython_display_(self) -> None:
        """Show it in a notebook, where it is brought up to date until the run has ended."""
        from IPython.display import HTML, display

        shown = display(HTML(self._repr_html_()), display_id=True)
        if shown is not None and not self.progress.ended:
            threading.Thread(target=self._keep_shown, args=(shown, HTML), daemon=True).start()

    def _keep_shown(self, shown: Any, page: Callable[[str], Any]) -> None:
        ended = False
        while not ended:
            time.sleep(1)
            try:
                ended = self.progress.ended
            except DaskregError:
                ended = True
            shown.update(page(self._repr_html_()))

    def _record(self) -> RunRecord:
        record = read_record(self._folder)
        if record is None:
            raise RunInterruptedError(f"{self.path} has no record of the run any more: the output was removed")
        if record.token != self._token:
            raise OutputBusyError(
                f"another run of {self.path} has begun since, and this Run knows nothing of it: "
                f"daskreg.attach({self.path!r}) gives one that follows it, waits for it and cancels it"
            )
        return record

    def _result(self, record: RunRecord) -> Any:
        if self._outcome is not None:
            self._outcome.there.wait()
            if self._outcome.error is not None:
                raise self._outcome.error
            return self._outcome.result
        if record.state == DONE:
            result = _loaded(record.kind, record.result or {})
            if isinstance(result, Written):
                warn_of(result, dtype="the type of the output", stacklevel=3)
            return result
        if record.state == INTERRUPTED:
            raise RunInterruptedError(
                f"{self.path}: {whereabouts(record)}, which ended at {record.done} of {record.total}; finished parts "
                "are kept, and the same call as before resumes the run"
            )
        raise error_of(record.error)


def attach(path: str | os.PathLike[str], *, client: Any = None, storage_options: dict[str, Any] | None = None) -> Run:
    """The latest run that makes an output, from any process that sees its folder, or may read its object store.

    It may be a run of `write(wait=False)` on a cluster, of a process that waits for it, such as `daskreg warp` in a
    terminal, or one that has ended: then `wait` gives its result, or raises what ended it.

    Args:
        path: of the output of `write`, or of the file in which `align_stack(wait=False, save=)` leaves its fit.
        client: of the scheduler of the run, which is asked whether it still has it. By default the current one, or
            a new one; a scheduler with certificates that are not in files needs one.
        storage_options: for the object store of `path`, as in `write`.

    Raises: NotAVolumeError where no run is recorded beside `path`; OptionError where it is written in parts.
    """
    use_options(path, storage_options)
    ledger = output_ledger(path)
    folder = record_folder(ledger)
    record = read_record(folder)
    if record is None:
        if part_folders(folder):
            raise OptionError(f"{redact(str(path))} is written in parts: `daskreg status` shows them")
        raise NotAVolumeError(
            f"no run is recorded in {ledger.records.where()}: is {redact(str(path))} an output of daskreg?"
        )
    return Run(ledger.place, folder, record.token, client=client or _fitting(record))


def summary(record: RunRecord) -> str:
    """How far a run is, in words."""
    if record.state == WAITING:
        return "waiting for a worker" if record.place.kind == CLUSTER else "about to begin"
    words = [record.state, f"{record.done} of {record.total} ({record.fraction:.0%})"]
    if not record.ended and record.rate > 0:
        share = record.nbytes / max(1, record.done - record.skipped) * record.rate
        words.append(f"{record.rate:.3g}/s" + (f", {format_bytes(int(share))}/s" if share >= 1 else ""))
    if record.left is not None:
        words.append(f"{format_time(record.left)} left")
    words.append(f"after {format_time(record.seconds)}")
    words += [f"{record.retries} retries"] if record.retries else []
    words += [f"{record.failed} failed"] if record.failed else []
    return ", ".join(words)


def whereabouts(record: RunRecord) -> str:
    """Where a run takes place, in words."""
    place = record.place
    by = f"; workers of {place.scheduler}" if place.scheduler else ""
    if place.kind == CLUSTER and not record.process.pid:
        return f"on the cluster of {place.scheduler}"
    ends = ", with which it ends" if place.kind == THREAD and not record.ended else ""
    return f"in {record.process}{ends}{by}"


def _fitting(record: RunRecord) -> Any | None:
    """The current client, if it is of the run's scheduler."""
    client = current_client()
    return client if client is not None and client.scheduler.address == record.place.scheduler else None


def _loaded(kind: str, result: Mapping[str, Any]) -> Any:
    """The result of a run out of its record: the summary of what was written, or the fit in its file."""
    if kind in _FITS:
        module, name = _FITS[kind]
        return getattr(importlib.import_module(module), name)(result["path"])
    return Written.from_json(result)
