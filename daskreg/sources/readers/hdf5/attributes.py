"""Attributes of HDF5 objects, read so that damaged texts do not hang the process.

Values of variable length, as h5py writes texts, are read through a second handle of the same file, a
`HeapCheckedFile`. Where many are read, `reading_attributes` keeps these handles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from daskreg.runtime.hdf5_heaps import HeapCheckedFile

_MOST_OPEN = 32


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """An attribute of a file, group or dataset.

    Raises: OSError for one that is damaged.
    """
    if name not in node.attrs:
        return default
    if not node.attrs.get_id(name).dtype.hasobject:
        return node.attrs[name]
    with reading_attributes() as files:
        return files.same(node).attrs[name]


def text_attribute(node: Any, name: str) -> str:
    """An attribute as text; "" where there is none. Raises: OSError."""
    return as_text(attribute(node, name))


def as_text(value: Any) -> str:
    """A value of an attribute as text; "" for None."""
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class CheckedFiles:
    """Second handles of files, whose heaps are checked, by path."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._files: dict[str, Any] = {}

    def same(self, node: Any) -> Any:
        """The same object, in a checked file."""
        import h5py

        path = node.file.filename
        if path not in self._files:
            if len(self._files) >= _MOST_OPEN:
                self._stack.close()
                self._files.clear()
            with ExitStack() as opening:
                checked = opening.enter_context(HeapCheckedFile(path))
                self._files[path] = opening.enter_context(h5py.File(checked, "r"))
                self._stack.enter_context(opening.pop_all())
        return self._files[path][node.ref]


_opened: ContextVar[CheckedFiles | None] = ContextVar("daskreg_hdf5_attributes", default=None)


@contextmanager
def reading_attributes(kept: CheckedFiles | None = None) -> Iterator[CheckedFiles]:
    """Within it, the handles through which attributes and links are read are kept.

    kept: handles that are there before and after.
    """
    if kept is None and (outer := _opened.get()) is not None:
        yield outer
        return
    with ExitStack() as stack:
        files = CheckedFiles(stack) if kept is None else kept
        token = _opened.set(files)
        try:
            yield files
        finally:
            _opened.reset(token)
