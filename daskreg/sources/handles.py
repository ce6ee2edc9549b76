"""Opened arrays, few and shared: specs travel, handles stay where they were opened."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from types import ModuleType
from typing import Any

from daskreg.errors import ChunkReadError, MissingExtraError, RunError
from daskreg.sources.storage.redact import is_url, redact

# One module for each kind of stored source. It has `open_handle(path) -> handle` and
# `read(handle, index, source) -> array`.
READERS = {"zarr": "daskreg.sources.readers.zarr_read"} | {
    kind: f"daskreg.sources.readers.{kind}" for kind in ("tiff", "nifti", "itk", "mrc", "hdf5")
}

MAX_OPEN = 32

_lock = Lock()
_open: OrderedDict[Hashable, Any] = OrderedDict()
_opening: dict[Hashable, Lock] = {}


def reader_of(kind: str) -> ModuleType:
    """The module that reads this kind of source."""
    return importlib.import_module(READERS[kind])


def opened(kind: str, path: str, array: Any = None, stamp: str = "") -> Any:
    """The handle of a stored array, from the cache or opened now. Safe among threads.

    Where the spec holds an opened object itself (an array in a MemoryStore), that is it.
    Of several threads one opens, which may take a while (unpacking), and the others wait.

    Raises: ChunkReadError where it cannot be opened (any more).
    """
    if array is not None:
        return array
    key = (kind, path, stamp)
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
            handle = _opened(kind, path)
            with _lock:
                _open[key] = handle
                while len(_open) > MAX_OPEN:
                    _open.popitem(last=False)
        finally:
            with _lock:
                _opening.pop(key, None)
    return handle


def _opened(kind: str, path: str) -> Any:
    try:
        return reader_of(kind).open_handle(path)
    except Exception as error:
        if isinstance(error, RunError | MissingExtraError | MemoryError):
            raise
        message = f"{redact(path)} cannot be opened any more ({type(error).__name__}: {redact(str(error))})"
        raise ChunkReadError(message) from (None if is_url(path) else error)


def forget() -> None:
    """Empty the cache (files are closed once nobody reads from them any more)."""
    with _lock:
        _open.clear()
