"""Where the lines of a ledger are kept: appended to files, or in objects of an object store.

Each line is on the disk, or in the store, when `append` returns.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock

from daskreg.blocks.record.ledger_entry import parsed_lines
from daskreg.errors import NotAVolumeError
from daskreg.sources.storage.byte_store import ByteStore
from daskreg.sources.storage.look_ahead import look_ahead
from daskreg.sources.storage.retrying import again

ENTRIES = "entries/"
"""How the keys of objects with lines begin."""

MOST_OBJECTS = 16
"""More objects than this are put together in one."""

REQUESTS = 16
"""Objects that are read at one time."""

AT_ONCE = 2**20
"""Bytes of new lines that are read at one time."""

_appending = Lock()
_numbers = itertools.count()


class Journals(ABC):
    """The lines of one ledger."""

    @abstractmethod
    def append(self, line: str) -> None:
        """Keep a line.

        Raises: OSError.
        """

    @abstractmethod
    def texts(self) -> Iterator[bytes]:
        """All lines, file by file; what is no line of ours, such as a torn one, is among them.

        Raises: NotAVolumeError where one cannot be read.
        """

    @abstractmethod
    def ends(self) -> dict[str, int]:
        """How far the files go now, for `since`."""

    @abstractmethod
    def since(self, ends: dict[str, int]) -> Iterator[bytes]:
        """What was added since `ends()`; some of it may have been there before."""

    def compact(self) -> None:
        """Put many small files together, where there are any. Only for who has claimed the output."""
        return


class FileJournals(Journals):
    """Each process appends to a file of its own, so no process waits for a lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, line: str) -> None:
        """One write of one line. It also begins with a newline, because what was written before may have been torn."""
        text = f"\n{line}\n".encode()
        path = self._folder / f"{_process_name(os.getpid())}.jsonl"

        def write() -> None:
            with _appending, path.open("ab", buffering=0) as file:
                if file.write(text) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        again(write)

    def texts(self) -> Iterator[bytes]:
        return (file.read_bytes() for file in self._files())

    def ends(self) -> dict[str, int]:
        return {file.name: file.stat().st_size for file in self._files()}

    def since(self, ends: dict[str, int]) -> Iterator[bytes]:
        for path in self._files():
            with path.open("rb") as file:
                file.seek(ends.get(path.name, 0))
                while lines := file.readlines(AT_ONCE):
                    yield b"".join(lines)

    def _files(self) -> list[Path]:
        found = sorted(self._folder.glob("*.jsonl"))
        for path in found:
            if not path.is_file():
                raise NotAVolumeError(f"{path} is not a file of entries of the ledger: remove it, or restore it")
        return found


class ObjectJournals(Journals):
    """Lines in objects that are never written again.

    Lines that come while an object is put go into the next one together. So a process that finishes many blocks at
    a time puts few objects.
    """

    def __init__(self, records: ByteStore) -> None:
        self._records = records

    def append(self, line: str) -> None:
        batch = _batch_of(self._records)
        with batch.adding:
            batch.waiting.append(line)
            mine = batch.begun
        with batch.putting:
            if batch.finished > mine:
                return  # another thread has put it
            with batch.adding:
                lines, batch.waiting = batch.waiting, []
                batch.begun += 1
            try:
                if lines:
                    self._put(lines)
            except BaseException:
                with batch.adding:  # whoever waits with one of these lines puts it
                    batch.waiting = [other for other in lines if other is not line] + batch.waiting
                    batch.begun -= 1
                raise
            batch.finished = batch.begun

    def texts(self) -> Iterator[bytes]:
        return self.since({})

    def ends(self) -> dict[str, int]:
        return dict.fromkeys(self._records.listing(ENTRIES), 0)

    def since(self, ends: dict[str, int]) -> Iterator[bytes]:
        seen = set(ends)
        while True:
            keys = [key for key in self._records.listing(ENTRIES) if key not in seen]
            found = look_ahead((partial(self._records.get, key) for key in keys), ahead=REQUESTS)
            complete = True
            for data in found:
                if data is None:  # put together with others just now
                    complete = False
                else:
                    yield bytes(data)
            seen.update(keys)
            if complete:
                return

    def compact(self) -> None:
        keys = [key for key in self._records.listing(ENTRIES) if not key.startswith(f"{ENTRIES}many-")]
        if len(keys) <= MOST_OBJECTS:
            return
        found = look_ahead((partial(self._records.get, key) for key in keys), ahead=REQUESTS)
        entries = [
            entry for data in found if data is not None for entry in parsed_lines(bytes(data).decode(errors="replace"))
        ]
        # Within one object, the last line of a block counts; among objects, only the time tells.
        entries.sort(key=lambda entry: (entry.session, entry.written))
        lines = "\n".join(entry.line for entry in entries).encode()
        self._records.put(f"{ENTRIES}many-{_process_name(os.getpid())}-{next(_numbers)}.jsonl", [lines])
        self._records.delete(keys)

    def _put(self, lines: list[str]) -> None:
        key = f"{ENTRIES}{_process_name(os.getpid())}-{next(_numbers)}.jsonl"
        self._records.put(key, ["\n".join(lines).encode()])


class _Batch:
    """Lines of this process that wait to be put into one object; `begun` and `finished` count those objects."""

    def __init__(self) -> None:
        self.adding, self.putting = Lock(), Lock()
        self.waiting: list[str] = []
        self.begun = self.finished = 0


@lru_cache(maxsize=16)
def _batch(place: str, pid: int) -> _Batch:
    del place, pid
    return _Batch()


def _batch_of(records: ByteStore) -> _Batch:
    return _batch(records.where(), os.getpid())


@lru_cache(maxsize=4)
def _process_name(pid: int) -> str:
    """Unique to this process, also among machines that share a disk."""
    return f"{socket.gethostname()}-{pid}-{uuid.uuid4().hex[:8]}"
