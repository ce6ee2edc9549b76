"""Opened files and arrays, few and shared in a process: sources travel, handles stay where they were opened."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Any, NamedTuple

from daskreg.errors import ChunkReadError, MissingExtraError, OutsideError, RunError
from daskreg.runtime.messages import reason
from daskreg.runtime.regular_files import allowing_outside
from daskreg.sources.reader import reader_of
from daskreg.sources.stamps import FileWatch, lost, stamp_of
from daskreg.sources.storage.redact import is_url, redact

MAX_OPEN = 32


class Opened(NamedTuple):
    """What boxes are read from, and the files behind it as they were before they were opened."""

    handle: Any
    watch: FileWatch = FileWatch((), "")


_lock = Lock()
_open: OrderedDict[Hashable, Opened] = OrderedDict()
_opening: dict[Hashable, Lock] = {}


def opened(name: str, path: str, stamp: str = "", allow_outside: bool = False) -> Opened:
    """The handle of a stored array, from the cache or opened now. Safe among threads.

    One thread opens it, which may take a while (unpacking), and the others wait.

    Args:
        name: of the format.
        path, stamp, allow_outside: as in `StoredSource`.

    Raises: SourceLostError where it is not there any more, ChunkReadError where it cannot be opened any more.
    """
    key = (name, path, stamp, allow_outside)
    with _lock:
        if key in _open:
            _open.move_to_end(key)
            return _open[key]
        gate = _opening.setdefault(key, Lock())
    with gate:
        with _lock:
            if key in _open:
                return _open[key]
        try:
            with allowing_outside(allow_outside):
                handle = _opened_now(name, path)
            with _lock:
                _open[key] = handle
                while len(_open) > MAX_OPEN:
                    _open.popitem(last=False)
        finally:
            with _lock:
                _opening.pop(key, None)
    return handle


def _opened_now(name: str, path: str) -> Opened:
    reader = reader_of(name)
    try:
        files = reader.files(path)
        watch = FileWatch(files, stamp_of(files))
        return Opened(reader.open(path), watch)
    except Exception as error:
        if isinstance(error, RunError | OutsideError | MissingExtraError | MemoryError):
            raise
        if not reader.is_there(path):
            raise lost(redact(path), redact(str(error))) from (None if is_url(path) else error)
        message = f"{redact(path)} cannot be opened any more ({type(error).__name__}: {reason(error)})"
        raise ChunkReadError(message) from (None if is_url(path) else error)


def forget() -> None:
    """Empty the cache (files are closed once nobody reads from them any more)."""
    with _lock:
        _open.clear()
