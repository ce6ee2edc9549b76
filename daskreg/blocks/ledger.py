"""The ledger beside an output: which blocks are finished, and what their files hold.

`OUT.zarr.daskreg/run.json` states the layout; `OUT.zarr.daskreg/<worker>.jsonl` has a line
for each finished block, appended after its files were written. Each process writes a file of
its own, so no process waits for a lock; a torn last line is ignored, and a later line for the
same block replaces an earlier one.

`lock` is locked by the process that runs, so a second run of the same output is refused. `session`
changes each time that a run starts or resumes: a worker of an earlier run that is still alive (the run was stopped,
or the worker lost its client) sees that and writes nothing more.
"""

from __future__ import annotations

import errno
import json
import operator
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain, repeat
from pathlib import Path
from threading import Lock
from typing import Any

from daskreg.errors import LayoutMismatchError, NotAVolumeError
from daskreg.runtime.atomic import replace_text
from daskreg.sources.storage.retrying import again

SCHEMA = "daskreg/ledger"
VERSION = 1

_appending = Lock()


@dataclass(frozen=True)
class LostChunks:
    """Chunks of the source that a block shows as the fill value.

    Args:
        missing: how many are not stored.
        damaged: names of those that could not be decoded.
    """

    missing: int = 0
    damaged: tuple[str, ...] = ()


NOTHING_LOST = LostChunks()


@dataclass(frozen=True)
class LedgerEntry:
    """A finished block. The names of the fields are those in the file.

    Args:
        level: of the pyramid.
        block: its index in the tiling of the level.
        fingerprint: of the pixels (source, transform, sampling).
        files: (key in the store, crc32c, bytes) of each file that was written.
        clipped: voxels clamped when casting to integers.
        written: seconds since the epoch.
        lost: chunks of the source that it shows as the fill value.
        bytes_read: decoded bytes that came out of the source.
        retries: store calls that were tried again.
        run: id of the run that made it; empty in ledgers of earlier versions.
    """

    level: int
    block: tuple[int, ...]
    fingerprint: str
    files: tuple[tuple[str, int, int], ...]
    clipped: int = 0
    written: float = 0.0
    lost: LostChunks = NOTHING_LOST
    bytes_read: int = 0
    retries: int = 0
    run: str = ""

    def is_of(self, run: str) -> bool:
        """Whether a run made it, and not one whose output has been replaced since, by a task that went on."""
        return self.run in {run, ""}

    @property
    def stored(self) -> int:
        """Bytes of its files."""
        return sum(size for _, _, size in self.files)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LedgerEntry:
        files = tuple((str(k), int(crc), int(size)) for k, crc, size in data["files"])
        lost = data.get("lost") or {}
        return cls(
            int(data["level"]),
            tuple(int(i) for i in data["block"]),
            str(data["fingerprint"]),
            files,
            int(data["clipped"]),
            float(data["written"]),
            LostChunks(int(lost.get("missing", 0)), tuple(map(str, lost.get("damaged", ())))),
            int(data.get("bytes_read", 0)),
            int(data.get("retries", 0)),
            str(data.get("run", "")),
        )


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
        self._clear()  # left by a run that was killed while it removed its output
        text = json.dumps({"schema": SCHEMA, "version": VERSION, "layout": layout}, indent=1)
        replace_text(self.folder / "run.json", text)

    def new_session(self) -> str:
        """Start or resume the run: workers of earlier sessions stop writing."""
        session = uuid.uuid4().hex
        replace_text(self.folder / "session", session)
        return session

    def serves(self, session: str) -> bool:
        """Whether this session is the current one.

        If the session seems to have changed, the file is read again for some seconds, since network file systems show
        changes late.
        """
        for delay in (0.0, 0.1, 0.4, 1.5):
            time.sleep(delay)
            try:
                if again((self.folder / "session").read_text) == session:
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
        except (ValueError, KeyError, TypeError) as error:
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
        """Record a finished block: one write of one line to this process's own file."""
        line = (json.dumps(asdict(entry), separators=(",", ":")) + "\n").encode()
        path = self.folder / f"{_process_name(os.getpid())}.jsonl"
        starts = chain([b""], repeat(b"\n"))  # an earlier attempt may have left a part of the line

        def write() -> None:
            text = next(starts) + line
            with _appending, path.open("ab", buffering=0) as file:
                if file.write(text) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        again(write)

    def entries(self) -> dict[tuple[int, tuple[int, ...]], LedgerEntry]:
        """The latest entry of each (level, block) that the run of this output made."""
        run = str(self.layout().get("run", ""))
        found: dict[tuple[int, tuple[int, ...]], LedgerEntry] = {}
        for file in sorted(self.folder.glob("*.jsonl")):
            for line in file.read_bytes().split(b"\n"):
                entry = _parse(line)
                if entry is None or not entry.is_of(run):
                    continue
                key = (entry.level, entry.block)
                if key not in found or found[key].written <= entry.written:
                    found[key] = entry
        return found

    def ends(self) -> dict[str, int]:
        """The size of each file of entries, for `entries_since`."""
        return {file.name: file.stat().st_size for file in self.folder.glob("*.jsonl")}

    def entries_since(self, ends: dict[str, int]) -> Iterator[LedgerEntry]:
        """Entries that were appended since `ends()` was called, one after another, also those of other runs."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(ends.get(path.name, 0))
                for line in file:
                    entry = _parse(line)
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

    def remove_partials(self) -> None:
        """Remove temporary files that a killed process left in the store."""
        for orphan in self.output.rglob("*.partial"):
            orphan.unlink(missing_ok=True)

    def remove_output(self) -> None:
        """Remove the output and its ledger; only for outputs that daskreg made.

        The output is first moved into the ledger's folder, in one step, so that a kill never leaves half of it.
        """
        if self.output.exists():
            self.output.rename(self.folder / f"removed-{uuid.uuid4().hex}")
        self._clear()

    def _clear(self) -> None:
        """Empty the folder, except for the lock file, which this process has locked."""
        for item in self.folder.iterdir():
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            elif item != self.lock:
                item.unlink()


def entry_now(
    level: int,
    block: tuple[int, ...],
    fingerprint: str,
    files: dict[str, tuple[int, int]],
    *,
    clipped: int = 0,
    lost: LostChunks = NOTHING_LOST,
    bytes_read: int = 0,
    retries: int = 0,
    run: str = "",
) -> LedgerEntry:
    """The entry of a block whose files were written just now."""
    listed = tuple((key, crc, size) for key, (crc, size) in sorted(files.items()))
    return LedgerEntry(level, block, fingerprint, listed, clipped, time.time(), lost, bytes_read, retries, run)


def _parse(line: bytes) -> LedgerEntry | None:
    """The entry of a line; None for a blank or torn one."""
    try:
        return LedgerEntry.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError):
        return None


@lru_cache(maxsize=4)
def _process_name(pid: int) -> str:
    """Unique to this process, also among machines that share a disk."""
    return f"{socket.gethostname()}-{pid}-{uuid.uuid4().hex[:8]}"
