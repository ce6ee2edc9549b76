"""The ledger beside an output: which blocks are finished, and what their files hold.

`OUT.zarr.daskreg/run.json` states the layout; `OUT.zarr.daskreg/<worker>.jsonl` has a line
for each finished block, appended after its files were written. Each process writes a file of
its own, so no process waits for a lock. What is no entry, such as a torn line, is ignored. Of several entries for one
block, that of the latest session counts, and in one file the last: the clocks of machines may differ.

`lock` is locked by the process that runs, so a second run of the same output is refused. `session`
changes each time that a run starts or resumes: a worker of an earlier run that is still alive (the run was stopped,
or the worker lost its client) sees that and writes nothing more.
"""

from __future__ import annotations

import errno
import json
import operator
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from daskreg.blocks.ledger_entry import LedgerEntry, parsed
from daskreg.errors import LayoutMismatchError, NotAVolumeError
from daskreg.runtime.atomic import replace_text
from daskreg.sources.storage.retrying import again

SCHEMA = "daskreg/ledger"
VERSION = 2  # 1 had the crc32c of files

_appending = Lock()


class Ledger:
    """The ledger of one output. Cheap to make; keeps no file open."""

    def __init__(self, output: str | os.PathLike[str]) -> None:
        self.output = Path(output)
        self.folder = self.output.with_name(self.output.name + ".daskreg")

    @property
    def exists(self) -> bool:
        return (self.folder / "run.json").is_file()

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    def create(self, layout: dict[str, Any]) -> None:
        """Start a ledger.

        Args:
            layout: "facts" must be the same when the run is resumed; "run" and "blocks" are this run's.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"schema": SCHEMA, "version": VERSION, "layout": layout}, indent=1)
        replace_text(self.folder / "run.json", text, sync=True)

    def new_session(self) -> str:
        """Start or resume the run: workers of earlier sessions stop writing."""
        try:
            before = session_number((self.folder / "session").read_text())
        except (OSError, ValueError):
            before = 0
        # A number that was lost, as after a power failure, is not used again.
        before = before or max((entry.session for entry in self.entries().values()), default=0)
        session = f"{uuid.uuid4().hex}-{before + 1}"
        replace_text(self.folder / "session", session)
        return session

    def session(self) -> str:
        """The current session.

        Raises: OSError.
        """
        return (self.folder / "session").read_text()

    def serves(self, session: str) -> bool:
        """Whether this session is the current one.

        If the session seems to have changed, the file is read again for some seconds, since network file systems show
        changes late.
        """
        for delay in (0.0, 0.1, 0.4, 1.5):
            time.sleep(delay)
            try:
                if again(self.session) == session:
                    return True
            except FileNotFoundError:
                continue
        return False

    def layout(self) -> dict[str, Any]:
        """The layout that the output was started with.

        Raises: NotAVolumeError where the file is not a ledger's.
        """
        try:
            data = json.loads((self.folder / "run.json").read_text())
            if data["schema"] != SCHEMA or data["version"] > VERSION:
                raise KeyError("schema")
            return dict(data["layout"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._broken() from error

    def block_shapes(self) -> list[tuple[int, ...]]:
        """The shape of a block of each level.

        Raises: NotAVolumeError where the ledger lacks them, or they do not fit its facts.
        """
        layout = self.layout()
        try:
            blocks = [tuple(operator.index(n) for n in level["block"]) for level in layout["blocks"]]
            ranks = [len(layout["facts"][f"level {k} shape"]) for k in range(layout["facts"]["number of levels"])]
            if [len(block) for block in blocks] != ranks or min(map(min, blocks)) < 1:
                raise ValueError("blocks")
        except (ValueError, KeyError, TypeError) as error:
            raise self._broken() from error
        return blocks

    def _broken(self) -> NotAVolumeError:
        return NotAVolumeError(
            f"{self.folder / 'run.json'} is not a ledger of daskreg, or is damaged: remove {self.output} and "
            f"{self.folder} to start again, or choose another path"
        )

    def check(self, facts: dict[str, Any]) -> None:
        """Raises: LayoutMismatchError naming the first thing that differs."""
        recorded = self.layout()["facts"]
        wanted = json.loads(json.dumps(facts))
        for key in [*wanted, *(k for k in recorded if k not in wanted)]:
            if recorded.get(key) != wanted.get(key):
                raise LayoutMismatchError(
                    f"{self.output}: {key} is {recorded.get(key)} in the unfinished output and {wanted.get(key)} now; "
                    "use the same options to resume, or overwrite=True to start again"
                )

    def append(self, entry: LedgerEntry) -> None:
        """Record a finished block: one write of one line to this process's own file.

        The line also begins with a newline, because what was written before may have been torn.
        """
        text = ("\n" + json.dumps(asdict(entry), separators=(",", ":")) + "\n").encode()
        path = self.folder / f"{_process_name(os.getpid())}.jsonl"

        def write() -> None:
            with _appending, path.open("ab", buffering=0) as file:
                if file.write(text) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        again(write)

    def entries(self) -> dict[tuple[int, tuple[int, ...]], LedgerEntry]:
        """The latest entry of each (level, block) that the run of this output made.

        Raises: NotAVolumeError where a file of entries cannot be read.
        """
        run = str(self.layout().get("run", ""))
        found: dict[tuple[int, tuple[int, ...]], LedgerEntry] = {}
        for file in self._journals():
            # Of entries of one session in several files, which may be of several machines, only the time tells.
            last = _last_of_file(file.read_bytes(), run)
            for key, entry in last.items():
                before = found.get(key)
                if before is None or (before.session, before.written) <= (entry.session, entry.written):
                    found[key] = entry
        return found

    def _journals(self) -> list[Path]:
        """The files of entries.

        Raises: NotAVolumeError where one is not a file: a folder, a link to nothing.
        """
        found = sorted(self.folder.glob("*.jsonl"))
        for path in found:
            if not path.is_file():
                raise NotAVolumeError(f"{path} is not a file of entries of the ledger: remove it, or restore it")
        return found

    def ends(self) -> dict[str, int]:
        """The size of each file of entries, for `entries_since`."""
        return {file.name: file.stat().st_size for file in self._journals()}

    def entries_since(self, ends: dict[str, int]) -> Iterator[LedgerEntry]:
        """Entries that were appended since `ends()` was called, one after another, also those of other runs."""
        for path in self._journals():
            with path.open("rb") as file:
                file.seek(ends.get(path.name, 0))
                for line in file:
                    entry = parsed(line)
                    if entry is not None:
                        yield entry

    def intact(self, entry: LedgerEntry) -> bool:
        """Whether the files of a finished block are there, with the size that was written."""
        try:
            return all((self.output / key).stat().st_size == size for key, _, size in entry.files)
        except OSError:
            return False

    def written_at(self, entry: LedgerEntry) -> float:
        """When the oldest file of a finished block was written, in seconds since the epoch."""
        return min(((self.output / key).stat().st_mtime for key, _, _ in entry.files), default=entry.written)


def session_number(session: str) -> int:
    """How many sessions the run had with this one; 0 where an earlier version did not count them."""
    return int(session.rpartition("-")[2]) if "-" in session else 0


def _last_of_file(data: bytes, run: str) -> dict[tuple[int, tuple[int, ...]], LedgerEntry]:
    """The last entry of each block among those of the latest session that has one."""
    found: dict[tuple[int, tuple[int, ...]], LedgerEntry] = {}
    for line in data.decode(errors="replace").split("\n"):
        entry = parsed(line)
        if entry is None or not entry.is_of(run):
            continue
        key = (entry.level, entry.block)
        if key not in found or found[key].session <= entry.session:
            found[key] = entry
    return found


@lru_cache(maxsize=4)
def _process_name(pid: int) -> str:
    """Unique to this process, also among machines that share a disk."""
    return f"{socket.gethostname()}-{pid}-{uuid.uuid4().hex[:8]}"
