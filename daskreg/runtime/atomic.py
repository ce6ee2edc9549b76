"""Files that appear as a whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daskreg.errors import InputError
from daskreg.runtime.paths import shown, unusable

_SUFFIX = len(".0123456789abcdef.partial")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, `<name>.<random>.partial`, which replaces `path` when the block ends.

    Where the block raises, the temporary file is removed and `path` stays as it was. A process that is killed
    leaves the temporary file behind.

    Raises: InputError for a path that no file can have.
    """
    if reason := unusable(path, room=_SUFFIX):
        raise InputError(f"{shown(path)} cannot be written: {reason}")
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def replace_file(path: Path, parts: Iterable[Any], *, sync: bool = False, parents: bool = True) -> None:
    """Write a file out of several buffers of bytes, atomically.

    Args:
        sync: wait until the bytes and the name are on the disk (fsync), so that a power failure does not leave an
            empty file.
        parents: make the folder where it is missing; False raises FileNotFoundError.

    Raises: OSError.
    """
    with replacing(path) as partial:
        try:
            file = partial.open("xb", buffering=0)
        except FileNotFoundError:
            if not parents:
                raise
            path.parent.mkdir(parents=True, exist_ok=True)
            file = partial.open("xb", buffering=0)
        with file:
            for part in parts:
                _write_all(file.fileno(), memoryview(part))
            if sync:
                os.fsync(file.fileno())
    if sync:
        _sync_folder(path.parent)


def replace_text(path: Path, text: str, *, sync: bool = False) -> None:
    """`replace_file` of a text, in UTF-8, into a folder that exists."""
    replace_file(path, [text.encode()], sync=sync, parents=False)


def _write_all(file: int, data: memoryview) -> None:
    """`os.write` may write less than it is asked to."""
    while data:
        data = data[os.write(file, data) :]


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems
        pass
    finally:
        os.close(descriptor)
