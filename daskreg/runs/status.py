"""`RunStatus`: a run in numbers, from its record while it goes on, and from the ledger when it does not."""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from dask.utils import format_bytes, format_time

from daskreg.blocks.record.ledger import Ledger
from daskreg.errors import NotAVolumeError, OptionError
from daskreg.runs.liveness import ask_to_stop, settled
from daskreg.runs.part_locks import part_folders
from daskreg.runs.record import DONE, RUNNING, RecordFolder, RunRecord, output_ledger, read_record, record_folder
from daskreg.runs.run import whereabouts

INCOMPLETE = "incomplete"
"""The state of an output of which some blocks are missing, and nobody makes them: parts that have not been begun."""


@dataclass(frozen=True)
class PartStatus:
    """One part of a run in parts (`write(part=)`)."""

    number: int
    of: int
    state: str
    done: int
    total: int
    where: str


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Args:
        state: "waiting", "running", "done", "failed", "cancelled", "interrupted", or "incomplete" (parts are missing).
        done, total: blocks; slices of a stack that is aligned.
        rate: blocks a second over the last minute, bytes_rate the same in bytes of pixels; 0 where nobody works.
        left: seconds until it is done at this rate; None where nobody works.
        retries: store calls that failed at first and were tried again, by this run or those before it.
        failed: blocks that failed in the latest run; `failures` names some.
        error: what ended it.
        where: the process that runs it, or ran it.
        scheduler, dashboard: of the Dask cluster whose workers compute; None for threads.
        stored: bytes of the files that are finished.
        parts: those that have been begun.
        command: of a terminal that began the latest run; empty where Python did.
    """

    path: str
    state: str
    done: int
    total: int
    rate: float = 0.0
    bytes_rate: float = 0.0
    left: float | None = None
    retries: int = 0
    failed: int = 0
    failures: tuple[str, ...] = ()
    error: str | None = None
    where: str = ""
    scheduler: str | None = None
    dashboard: str | None = None
    stored: int = 0
    parts: tuple[PartStatus, ...] = ()
    command: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The same as lines of text."""
        share = self.done / self.total if self.total else 0.0
        rows = [f"{self.path}: {self.state}, {self.done} of {self.total} done ({share:.0%})"]
        if self.rate:
            speed = f"  {self.rate:.3g} a second"
            speed += f", {format_bytes(int(self.bytes_rate))}/s" if self.bytes_rate >= 1 else ""
            rows.append(speed + (f", {format_time(self.left)} left" if self.left is not None else ""))
        rows += [f"  {self.where}"] if self.where else []
        rows += [f"  scheduler {self.scheduler}"] if self.scheduler else []
        rows += [f"  dashboard {self.dashboard}"] if self.dashboard else []
        rows += [f"  {self.retries} store calls were tried again"] if self.retries else []
        rows += [f"  {self.failed} failed"] if self.failed else []
        rows += [f"    {text}" for text in self.failures]
        rows += [f"  {self.error}"] if self.error else []
        rows += [f"  part {p.number}/{p.of}: {p.state}, {p.done} of {p.total}, {p.where}" for p in self.parts]
        rows += [f"  command: {self.command}"] if self.command else []
        if self.state not in (DONE, RUNNING, "waiting"):
            which = "the commands of all parts complete" if self.parts else "the same command as before resumes"
            begins_anew = " (without --overwrite, which begins anew)" if "--overwrite" in self.command else ""
            rows.append(f"  {which} it{begins_anew}")
        return rows


def status(path: str | os.PathLike[str], *, client: Any = None) -> RunStatus:
    """How far the latest run of an output is, and where it runs.

    It takes some seconds to find out that a run of another machine has ended without saying so.

    Args:
        path: of the output of `write`, or of the file in which `align_stack(wait=False, save=)` leaves its fit.
        client: of the scheduler of the run; see `attach`.

    Raises: NotAVolumeError where no run is recorded beside `path`.
    """
    ledger = output_ledger(path)
    folder = record_folder(ledger)
    record = settled(folder, client)
    parts = {part: found for part, one in part_folders(folder).items() if (found := settled(one, client)) is not None}
    if record is None and not ledger.exists:
        raise _no_run(ledger)
    working = [one for one in (record, *parts.values()) if one is not None and not one.ended]
    done, total, retries, stored = _counts(ledger, record)
    latest = _latest(record, parts)
    rate = sum(one.rate for one in working)
    return RunStatus(
        path=ledger.place,
        state=_state(latest, working, done, total),
        done=done,
        total=total,
        rate=rate,
        bytes_rate=sum(one.rate * one.nbytes / max(1, one.done - one.skipped) for one in working),
        left=(total - done) / rate if rate > 0 else None,
        retries=retries,
        failed=latest.failed if latest else 0,
        failures=latest.failures if latest else (),
        error=None if latest is None or latest.error is None else _first_line(latest.error.get("message", "")),
        where=whereabouts(latest) if latest else "",
        scheduler=latest.place.scheduler if latest else None,
        dashboard=latest.place.dashboard if latest and not latest.ended else None,
        stored=stored,
        parts=tuple(
            PartStatus(*part, state=one.state, done=one.done, total=one.total, where=whereabouts(one))
            for part, one in parts.items()
        ),
        command=latest.command if latest else "",
    )


def cancel_run(path: str | os.PathLike[str], *, client: Any = None, timeout: float | None = None) -> list[RunRecord]:
    """Ask the run of an output, or all of its parts, to stop, and wait until they have.

    Args:
        timeout: seconds to wait; 0: not at all.

    Returns: how the runs ended that were asked; empty where none was going on.
    Raises: NotAVolumeError where no run is recorded beside `path`; TimeoutError.
    """
    ledger = output_ledger(path)
    folder = record_folder(ledger)
    if not (ledger.exists or read_record(folder)):
        raise _no_run(ledger)
    if timeout is not None and timeout < 0:
        raise OptionError(f"timeout={timeout}: use seconds from 0, or None")
    asked: dict[RecordFolder, RunRecord] = {}
    for one in (folder, *part_folders(folder).values()):
        record = settled(one, client)
        if record is not None and not record.ended:
            ask_to_stop(one, record, client)
            asked[one] = record
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    while timeout != 0:
        now = {one: settled(one, client) or record for one, record in asked.items()}
        going = [one for one, record in now.items() if not record.ended and record.token == asked[one].token]
        asked = now
        if not going:
            break
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path}: {len(going)} runs have not stopped after {timeout} s")
        time.sleep(0.2)
    return list(asked.values())


def _no_run(ledger: Ledger) -> NotAVolumeError:
    return NotAVolumeError(f"no run is recorded in {ledger.records.where()}: is {ledger.place} an output of daskreg?")


def _counts(ledger: Ledger, record: RunRecord | None) -> tuple[int, int, int, int]:
    """Blocks done and in all, store calls tried again, and bytes stored."""
    if not ledger.exists:
        return (record.done, record.total, record.retries, 0) if record is not None else (0, 0, 0, 0)
    facts, entries = ledger.layout()["facts"], ledger.entries()
    total = sum(
        math.prod(-(-n // b) for n, b in zip(facts[f"level {level} shape"], block, strict=True))
        for level, block in enumerate(ledger.block_shapes())
    )
    retries = sum(entry.retries for entry in entries.values())
    return len(entries), total, retries, sum(entry.stored for entry in entries.values())


def _latest(record: RunRecord | None, parts: dict[tuple[int, int], RunRecord]) -> RunRecord | None:
    """The record that says most: of a run that goes on, else of one that failed, else the last one."""
    known = [one for one in (record, *parts.values()) if one is not None]
    return max(known, key=lambda one: (not one.ended, one.began), default=None)


def _state(latest: RunRecord | None, working: list[RunRecord], done: int, total: int) -> str:
    if working:
        return RUNNING if any(one.state == RUNNING for one in working) else working[0].state
    if latest is None:
        return DONE if done >= total else INCOMPLETE
    return INCOMPLETE if latest.state == DONE and done < total else latest.state


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
