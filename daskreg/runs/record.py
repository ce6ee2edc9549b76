"""`RunRecord`: what a run says of itself, in the file or object `state.json` beside its output.

The process that runs writes it every second. So any other process that sees the disk, or may read the object store,
can follow a run, ask it to stop (`cancel`), and learn how it ended; no connection to its scheduler is needed, and no
secret is in the record.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from daskreg import errors
from daskreg.blocks.record.ledger import Ledger
from daskreg.errors import DaskregError, RunError, StoreError
from daskreg.runs.place import Place, ProcessId
from daskreg.runtime.atomic import replace_text
from daskreg.runtime.messages import redact
from daskreg.runtime.paths import local_path
from daskreg.runtime.regular_files import read_small
from daskreg.sources.storage.access import is_object_url
from daskreg.sources.storage.object_bytes import ObjectBytes

SCHEMA, VERSION = "daskreg/run", 1
STATE, CANCEL = "state.json", "cancel"

WAITING, RUNNING = "waiting", "running"
DONE, FAILED, CANCELLED, INTERRUPTED = "done", "failed", "cancelled", "interrupted"
ENDED = (DONE, FAILED, CANCELLED, INTERRUPTED)
"""States of a run. A run whose process was killed could not write that it is interrupted: `runs.liveness` finds out."""

RecordFolder = Path | ObjectBytes
"""Where a run is recorded: a folder on a disk, or the objects below a URL."""

MOST_BYTES = 2**24
"""The size of a record."""

MOST_FAILURES = 20
"""Failed blocks that a record names."""


@dataclass(frozen=True)
class RunRecord:
    """A run, as far as it is.

    Args:
        kind: what it does: "write" or "align".
        place: where its scheduler is.
        process: the process that submits the blocks; empty while the run waits for a worker.
        beat: a number that grows while the process is there.
        began: seconds since the epoch, by the clock of its machine.
        seconds: how long it has been running.
        done, total: blocks; for "align", slices.
        skipped: those of the done ones that earlier runs had made.
        nbytes: of pixels written by this run.
        rate: blocks a second, over the last minute.
        retries: store calls that failed at first and were tried again.
        failed: number of blocks that failed; `failures` names some of them.
        error: type, arguments and message of what ended a run that failed.
        result: what a run that is done gives (`Written` as a mapping, or the file of a fit).
        command: of a terminal that began it; empty where Python did.
    """

    place: Place
    kind: str = "write"
    state: str = RUNNING
    process: ProcessId = field(default_factory=ProcessId)
    beat: int = 0
    began: float = 0.0
    seconds: float = 0.0
    done: int = 0
    total: int = 0
    skipped: int = 0
    nbytes: int = 0
    rate: float = 0.0
    retries: int = 0
    failed: int = 0
    failures: tuple[str, ...] = ()
    error: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    command: str = ""

    @property
    def token(self) -> str:
        return self.place.token

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def fraction(self) -> float:
        """The part that is done, from 0 to 1."""
        return self.done / self.total if self.total else float(self.state == DONE)

    @property
    def left(self) -> float | None:
        """Seconds until it is done at the rate of the last minute; None where that is not known."""
        return (self.total - self.done) / self.rate if self.rate > 0 and not self.ended else None


def read_record(folder: RecordFolder) -> RunRecord | None:
    """The record in a folder; None where there is none that can be read.

    Raises: StoreError where an object store does not answer, or forbids it.
    """
    try:
        data = json.loads(_read(folder, STATE, MOST_BYTES))
        if data.pop("schema") != SCHEMA or data.pop("version") > VERSION:
            return None
        place, process = _known(Place, data.pop("place")), _known(ProcessId, data.pop("process"))
        data["failures"] = tuple(map(str, data.get("failures", ())))
        return RunRecord(**{**_known_fields(RunRecord, data), "place": place, "process": process})
    except StoreError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, DaskregError):
        return None


def write_record(folder: RecordFolder, record: RunRecord) -> None:
    """Replace the record in a folder, which exists.

    Raises: OSError.
    """
    _replace(folder, STATE, json.dumps({"schema": SCHEMA, "version": VERSION, **asdict(record)}, indent=1))


def request_cancel(folder: RecordFolder, token: str) -> None:
    """Ask the run with this token to stop; it looks each time that it writes its record.

    Raises: OSError.
    """
    _replace(folder, CANCEL, token)


def cancel_requested(folder: RecordFolder, token: str) -> bool:
    """Whether somebody has asked the run with this token to stop."""
    try:
        return _read(folder, CANCEL, 1000).decode().strip() == token
    except (OSError, ValueError, DaskregError):
        return False


def _read(folder: RecordFolder, name: str, most: int) -> bytes:
    """Raises: OSError, ValueError, DaskregError."""
    if isinstance(folder, Path):
        return read_small(folder / name, most)
    data = folder.get(name, 0, most)
    if data is None:
        raise FileNotFoundError(folder.where(name))
    return bytes(data)


def _replace(folder: RecordFolder, name: str, text: str) -> None:
    """Raises: OSError."""
    if isinstance(folder, Path):
        replace_text(folder / name, text)
    else:
        folder.put(name, [text.encode()])


def error_facts(error: BaseException) -> dict[str, Any]:
    """An error as plain data, without credentials, from which `error_of` makes it again."""
    reduced = error.__reduce__()
    args = reduced[1] if isinstance(reduced, tuple) else error.args
    plain = [redact(arg) if isinstance(arg, str) else arg for arg in args if isinstance(arg, str | int | float)]
    return {"type": type(error).__name__, "args": plain, "message": redact(str(error) or type(error).__name__)}


def error_of(facts: Mapping[str, Any] | None) -> DaskregError:
    """The error that ended a run; a RunError that names the type where it is none of daskreg's."""
    facts = facts or {}
    name, message = str(facts.get("type", "RunError")), str(facts.get("message", "it failed"))
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, DaskregError):
        with suppress(TypeError):
            return kind(*facts.get("args", ()))
    return RunError(f"{name}: {message}")


def now() -> float:
    """Seconds since the epoch."""
    return time.time()


def output_ledger(path: str | os.PathLike[str]) -> Ledger:
    """The ledger of an output, whose place is the path without links, or the URL.

    Raises: OptionError for a URL that holds credentials, or of another scheme, and for a path that no file can have.
    """
    text = os.fspath(path)
    if is_object_url(text):
        return Ledger(text)
    path = local_path(text.removeprefix("file://"), room=len(".daskreg"))
    return Ledger(os.path.realpath(path.expanduser()))


def record_folder(path: str | os.PathLike[str] | Ledger) -> RecordFolder:
    """Where the run of an output is recorded: beside it, with its ledger.

    Raises: OptionError for a URL that holds credentials.
    """
    ledger = path if isinstance(path, Ledger) else output_ledger(path)
    return ledger.records if isinstance(ledger.records, ObjectBytes) else ledger.folder


def _known(kind: type[Any], data: Mapping[str, Any]) -> Any:
    return kind(**_known_fields(kind, data))


def _known_fields(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """What a class has fields for: later versions may write more."""
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in data.items() if name in names}
