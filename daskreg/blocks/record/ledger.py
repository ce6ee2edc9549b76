"""The ledger beside an output: which blocks are finished, and what their files hold.

`OUT.zarr.daskreg/run.json` states the layout; `OUT.zarr.daskreg/<worker>.jsonl` has a line
for each finished block, appended after its files were written. Each process writes a file of
its own, so no process waits for a lock. What is no entry, such as a torn line, is ignored. Of several entries for one
block, that of the latest session counts, and in one file the last: the clocks of machines may differ.

`lock` is locked by the process that runs, so a second run of the same output is refused. `session`
changes each time that a run starts or resumes: a worker of an earlier run that is still alive (the run was stopped,
or the worker lost its client) sees that and writes nothing more.

In an object store, the lines are in objects below `entries/`, and a claim takes the place of the lock.
"""

from __future__ import annotations

import errno
import json
import operator
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from daskreg.blocks.record.journals import FileJournals, Journals, ObjectJournals
from daskreg.blocks.record.ledger_entry import LedgerEntry, parsed_lines
from daskreg.errors import LayoutMismatchError, NotAVolumeError
from daskreg.runtime.memory import without_collector
from daskreg.sources.storage.access import is_object_url
from daskreg.sources.storage.byte_store import ByteStore
from daskreg.sources.storage.folder_bytes import FolderBytes
from daskreg.sources.storage.object_bytes import ObjectBytes
from daskreg.sources.storage.retrying import EmptyValueError, again

SCHEMA = "daskreg/ledger"
VERSION = 3  # 1 had the crc32c of files, 1 and 2 the names of fields in each line

Entries = dict[tuple[int, tuple[int, ...]], LedgerEntry]
"""The entry of each block, by its level and its index."""


class Ledger:
    """The ledger of one output. Cheap to make; keeps no file open.

    `place` is the path or URL of the output, `image` what is stored there, `records` what is kept beside it. On a disk,
    `output` and `folder` are their paths; an object store has neither.
    """

    def __init__(self, output: str | os.PathLike[str]) -> None:
        self.place = os.fspath(output)
        self.remote = is_object_url(self.place)
        self.image: ByteStore
        self.records: ByteStore
        self._journals: Journals
        if self.remote:
            self.place = self.place.rstrip("/")
            self.image, self.records = ObjectBytes(self.place), ObjectBytes(f"{self.place}.daskreg")
            self._journals = ObjectJournals(self.records)
            return
        self.output = Path(output)
        self.folder = self.output.with_name(self.output.name + ".daskreg")
        self.image, self.records = FolderBytes(self.output), FolderBytes(self.folder)
        self._journals = FileJournals(self.folder)

    @property
    def exists(self) -> bool:
        if self.remote:
            return self._record("run.json") is not None
        return (self.folder / "run.json").is_file()

    @property
    def lock(self) -> Path:
        """The file on a disk that the process which runs has locked."""
        return self.folder / "lock"

    def metadata(self, name: str) -> bytes:
        """A metadata file of the output; nothing where it is missing or, as after a power failure, empty.

        Raises: OSError.
        """
        if self.remote:
            with suppress(EmptyValueError):
                return bytes(self.image.get(name) or b"")
            return b""
        file = self.output / name
        return file.read_bytes() if file.is_file() else b""

    @property
    def holds_something(self) -> bool:
        """Whether there is anything at the place of the output."""
        if isinstance(self.image, ObjectBytes):
            return bool(self.image.names(""))
        return self.output.is_dir() and any(self.output.iterdir())

    @property
    def output_exists(self) -> bool:
        return self.holds_something if self.remote else self.output.exists()

    def create(self, layout: dict[str, Any]) -> None:
        """Start a ledger.

        Args:
            layout: "facts" must be the same when the run is resumed; "run" and "blocks" are this run's.
        """
        text = json.dumps({"schema": SCHEMA, "version": VERSION, "layout": layout}, indent=1)
        self.records.put("run.json", [text.encode()], sync=True)

    def new_session(self) -> str:
        """Start or resume the run: workers of earlier sessions stop writing."""
        try:
            before = session_number(self.session())
        except (OSError, ValueError):
            before = 0
        # A number that was lost, as after a power failure, is not used again.
        before = before or max((entry.session for entry in self.entries().values()), default=0)
        session = f"{uuid.uuid4().hex}-{before + 1}"
        self.records.put("session", [session.encode()])
        return session

    def session(self) -> str:
        """The current session.

        Raises: OSError.
        """
        return self._existing("session").decode()

    def _existing(self, name: str) -> bytes:
        data = self._record(name)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.records.where(name))
        return data

    def _record(self, name: str) -> bytes | None:
        """What is kept under a name; None where nothing is."""
        try:
            if self.remote:
                data = self.records.get(name)
                return None if data is None else bytes(data)
            return again((self.folder / name).read_bytes)
        except FileNotFoundError:
            return None
        except EmptyValueError:
            return b""

    def serves(self, session: str) -> bool:
        """Whether this session is the current one.

        If the session seems to have changed, the file is read again for some seconds, since network file systems show
        changes late.
        """
        for delay in (0.0, 0.1, 0.4, 1.5):
            time.sleep(delay)
            with suppress(FileNotFoundError):
                if self.session() == session:
                    return True
        return False

    def layout(self) -> dict[str, Any]:
        """The layout that the output was started with.

        Raises: NotAVolumeError where the file is not a ledger's.
        """
        try:
            data = json.loads(self._existing("run.json"))
            if data["schema"] != SCHEMA or data["version"] > VERSION:
                raise KeyError("schema")
            return dict(data["layout"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._broken() from error

    def facts(self) -> dict[str, Any]:
        """What must be the same when the run is resumed: of each level the shape, the dtype, the chunks and the shards.

        Raises: NotAVolumeError where the ledger lacks them, or they describe no arrays.
        """
        layout = self.layout()
        try:
            facts = dict(layout["facts"])
            for level in range(operator.index(facts["number of levels"])):
                shape = facts[f"level {level} shape"]
                for name in ("shape", "chunks", "shards"):
                    numbers = [operator.index(n) for n in facts.get(f"level {level} {name}") or ()]
                    if (name != "shards" or numbers) and (len(numbers) != len(shape) or min(numbers) < 1):
                        raise ValueError(name)
                if not isinstance(facts[f"level {level} dtype"], str):
                    raise ValueError("dtype")
        except (ValueError, KeyError, TypeError) as error:
            raise self._broken() from error
        return facts

    def block_shapes(self) -> list[tuple[int, ...]]:
        """The shape of a block of each level.

        Raises: NotAVolumeError where the ledger lacks them, or they do not fit its facts.
        """
        layout, facts = self.layout(), self.facts()
        try:
            blocks = [tuple(operator.index(n) for n in level["block"]) for level in layout["blocks"]]
            ranks = [len(facts[f"level {k} shape"]) for k in range(facts["number of levels"])]
            if [len(block) for block in blocks] != ranks or min(map(min, blocks)) < 1:
                raise ValueError("blocks")
        except (ValueError, KeyError, TypeError) as error:
            raise self._broken() from error
        return blocks

    def _broken(self) -> NotAVolumeError:
        return NotAVolumeError(
            f"{self.records.where('run.json')} is not a ledger of daskreg, or is damaged: remove {self.place} and "
            f"{self.records.where()} to start again, or choose another path"
        )

    def check(self, facts: dict[str, Any]) -> None:
        """Raises: LayoutMismatchError naming the first thing that differs."""
        recorded = self.layout()["facts"]
        wanted = json.loads(json.dumps(facts))
        for key in [*wanted, *(k for k in recorded if k not in wanted)]:
            if recorded.get(key) != wanted.get(key):
                raise LayoutMismatchError(
                    f"{self.place}: {key} is {recorded.get(key)} in the output that is there and {wanted.get(key)} "
                    "now; use the same options to resume, or overwrite=True to start again"
                )

    def append(self, entry: LedgerEntry) -> None:
        """Record a finished block, whose files are written."""
        self._journals.append(entry.line)

    def entries(self) -> dict[tuple[int, tuple[int, ...]], LedgerEntry]:
        """The latest entry of each (level, block) that the run of this output made.

        Raises: NotAVolumeError where a file of entries cannot be read.
        """
        run = str(self.layout().get("run", ""))
        found: Entries = {}
        with without_collector():
            for text in self._journals.texts():
                # Of entries of one session in several files, which may be of several machines, only the time tells.
                last = _last_of_file(text, run)
                if not found:
                    found = last
                    continue
                for key, entry in last.items():
                    before = found.get(key)
                    if before is None or (before.session, before.written) <= (entry.session, entry.written):
                        found[key] = entry
        return found

    def ends(self) -> dict[str, int]:
        """How far the files of entries go, for `entries_since`."""
        return self._journals.ends()

    def entries_since(self, ends: dict[str, int]) -> Iterator[LedgerEntry]:
        """Entries that were added since `ends()` was called, one after another, also those of other runs."""
        for text in self._journals.since(ends):
            yield from parsed_lines(text.decode(errors="replace"))

    def compact(self) -> None:
        """Put many small files of entries together, so that the next run opens them sooner.

        Only for who has claimed the output.
        """
        self._journals.compact()

    def intact(self, entry: LedgerEntry) -> bool:
        """Whether the files of a finished block are there, with the size that was written.

        An object store keeps what it has confirmed, and to ask for each of a million objects takes hours: there, what
        is recorded is there. `verify` looks.
        """
        if self.remote:
            return True
        try:
            return all((self.output / key).stat().st_size == size for key, _, size in entry.files)
        except OSError:
            return False

    def written_at(self, entry: LedgerEntry) -> float:
        """When the oldest file of a finished block was written, in seconds since the epoch."""
        if self.remote:
            return entry.written
        return min(((self.output / key).stat().st_mtime for key, _, _ in entry.files), default=entry.written)


def session_number(session: str) -> int:
    """How many sessions the run had with this one; 0 where an earlier version did not count them."""
    return int(session.rpartition("-")[2]) if "-" in session else 0


def _last_of_file(data: bytes, run: str) -> Entries:
    """The last entry of each block among those of the latest session that has one."""
    found: Entries = {}
    for entry in parsed_lines(data.decode(errors="replace")):
        if not entry.is_of(run):
            continue
        key = entry[:2]  # level and block
        before = found.get(key)
        if before is None or before.session <= entry.session:
            found[key] = entry
    return found
