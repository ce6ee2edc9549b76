"""A lock on a file that ends with its process, however that ends."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a file, which is made where it is missing; gives whether it was free.

    The kernel lets go of it when the process dies, so nothing is left to be cleared away. It
    holds among the machines that share the disk, where the file system can do so; where it
    cannot, this says so in the log and goes on without.

    Raises: OSError where the file cannot be made.
    """
    if fcntl is None:
        yield True
        return
    while True:
        with path.open("a") as file:
            free = _take(file.fileno(), path)
            if free and not _same(file.fileno(), path):
                continue  # its last holder removed it meanwhile
            yield free
            return


def _take(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        log.warning("%s: this file system has no locks (%s); make sure that no other run writes", path, error)
    return True


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
