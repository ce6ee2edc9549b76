"""The ledger beside an output: which blocks are finished, and what their files hold.

`OUT.zarr.daskreg/run.json` states the layout; `OUT.zarr.daskreg/<worker>.jsonl` has a line
for each finished block, appended after its shard was written. Each process writes a file of
its own, so nobody waits for a lock; a torn last line is ignored, and a later line for the
same block replaces an earlier one.

`lock` is held by the process that runs, so a second run of the same output is refused. `session`
changes each time that a run is taken up: a worker that outlived its own run (stopped, or cut
off from its client) sees that and writes nothing more.
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
from daskreg.sources.storage.retrying import again

SCHEMA = "daskreg/ledger"
VERSION = 1

_appending = Lock()


@dataclass(frozen=True)
class Lost:
    """Chunks of the source that a block shows as the fill value, since they could not be had.

    Args:
        missing: how many are not stored.
        damaged: names of those that could not be read.
    """

    missing: int = 0
    damaged: tuple[str, ...] = ()


NOTHING_LOST = Lost()


@dataclass(frozen=True)
class Entry:
    """A finished block.

    Args:
        level: of the pyramid.
        block: its index in the tiling of the level.
        fingerprint: of the pixels (source, transform, sampling).
        files: (key in the store, crc32c, bytes) of each file that was written.
        clipped: voxels clamped when casting to integers.
        written: seconds since the epoch.
        lost: chunks of the source that it lacks.
        bytes_read: decoded bytes that came out of the source.
        retries: store calls that were tried again.
    """

    level: int
    block: tuple[int, ...]
    fingerprint: str
    files: tuple[tuple[str, int, int], ...]
    clipped: int = 0
    written: float = 0.0
    lost: Lost = NOTHING_LOST
    bytes_read: int = 0
    retries: int = 0

    @property
    def stored(self) -> int:
        """Bytes of its files."""
        return sum(size for _, _, size in self.files)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Entry:
        files = tuple((str(k), int(crc), int(size)) for k, crc, size in data["files"])
        lost = data.get("lost") or {}
        return cls(
            int(data["level"]),
            tuple(int(i) for i in data["block"]),
            str(data["fingerprint"]),
            files,
            int(data["clipped"]),
            float(data["written"]),
            Lost(int(lost.get("missing", 0)), tuple(map(str, lost.get("damaged", ())))),
            int(data.get("bytes_read", 0)),
            int(data.get("retries", 0)),
        )


class Ledger:
    """The ledger of one output. Cheap to make; holds no open file."""

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
        """Start a ledger: `layout` has what must agree under "facts", and whatever else a run keeps."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._clear()  # what a run left that was killed while it removed its output
        text = json.dumps({"schema": SCHEMA, "version": VERSION, "layout": layout}, indent=1)
        self._replace("run.json", text)

    def new_session(self) -> str:
        """Take the run up: whoever worked for an earlier session stops."""
        session = uuid.uuid4().hex
        self._replace("session", session)
        return session

    def serves(self, session: str) -> bool:
        """Whether this session is the current one; a no is asked again for some seconds, since network
        file systems show changes late."""
        for delay in (0.0, 0.1, 0.4, 1.5):
            time.sleep(delay)
            try:
                if again((self.folder / "session").read_text) == session:
                    return True
            except FileNotFoundError:
                continue
        return False

    def _replace(self, name: str, text: str) -> None:
        partial = self.folder / f"{name}.{uuid.uuid4().hex}.partial"
        partial.write_text(text)
        partial.replace(self.folder / name)

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

        Raises: NotAVolumeError where the ledger does not say so, or not in agreement with its facts.
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
        mine = self.layout()["facts"]
        wanted = json.loads(json.dumps(facts))
        for key in [*wanted, *(k for k in mine if k not in wanted)]:
            if mine.get(key) != wanted.get(key):
                raise LayoutMismatchError(
                    f"{self.output}: {key} is {mine.get(key)} in the unfinished output and {wanted.get(key)} now; "
                    "use the same options to resume, or overwrite=True to start again"
                )

    def append(self, entry: Entry) -> None:
        """Record a finished block: one write of one line to this process's own file."""
        line = (json.dumps(asdict(entry), separators=(",", ":")) + "\n").encode()
        path = self.folder / f"{_process_name(os.getpid())}.jsonl"
        starts = chain([b""], repeat(b"\n"))  # what a failed attempt left of the line is ended

        def write() -> None:
            text = next(starts) + line
            with _appending, path.open("ab", buffering=0) as file:
                if file.write(text) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        again(write)

    def entries(self) -> dict[tuple[int, tuple[int, ...]], Entry]:
        """The latest entry of each (level, block)."""
        found: dict[tuple[int, tuple[int, ...]], Entry] = {}
        for file in sorted(self.folder.glob("*.jsonl")):
            for line in file.read_bytes().split(b"\n"):
                entry = _parse(line)
                if entry is None:
                    continue
                key = (entry.level, entry.block)
                if key not in found or found[key].written <= entry.written:
                    found[key] = entry
        return found

    def ends(self) -> dict[str, int]:
        """How long each file of entries is now."""
        return {file.name: file.stat().st_size for file in self.folder.glob("*.jsonl")}

    def entries_since(self, ends: dict[str, int]) -> Iterator[Entry]:
        """Entries that were appended since `ends()` was asked for, one after another."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(ends.get(path.name, 0))
                for line in file:
                    entry = _parse(line)
                    if entry is not None:
                        yield entry

    def intact(self, entry: Entry) -> bool:
        """Whether the files of a finished block are there, with the size they had."""
        try:
            return all((self.output / key).stat().st_size == size for key, _, size in entry.files)
        except OSError:
            return False

    def written_at(self, entry: Entry) -> float:
        """When the oldest file of a finished block was written, in seconds since the epoch."""
        return min(((self.output / key).stat().st_mtime for key, _, _ in entry.files), default=entry.written)

    def remove_partials(self) -> None:
        """Remove temporary files that a killed process left in the store."""
        for orphan in self.output.rglob("*.partial"):
            orphan.unlink(missing_ok=True)

    def remove_output(self) -> None:
        """Remove the output and its ledger; for outputs that are known to be ours.

        The output moves into the ledger's folder first, in one step: half of it is never left.
        """
        if self.output.exists():
            self.output.rename(self.folder / f"removed-{uuid.uuid4().hex}")
        self._clear()

    def _clear(self) -> None:
        """Empty the folder, but for the lock, which is held."""
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
    lost: Lost = NOTHING_LOST,
    bytes_read: int = 0,
    retries: int = 0,
) -> Entry:
    """An entry for a block whose files were written just now."""
    listed = tuple((key, crc, size) for key, (crc, size) in sorted(files.items()))
    return Entry(level, block, fingerprint, listed, clipped, time.time(), lost, bytes_read, retries)


def _parse(line: bytes) -> Entry | None:
    """The entry of a line; None for a blank or torn one."""
    try:
        return Entry.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError):
        return None


@lru_cache(maxsize=4)
def _process_name(pid: int) -> str:
    """Unique to this process, also among machines that share a disk."""
    return f"{socket.gethostname()}-{pid}-{uuid.uuid4().hex[:8]}"
