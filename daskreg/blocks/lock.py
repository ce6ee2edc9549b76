"""A lock on a file. The system releases it when its process ends, also when it is killed.

Why not `filelock` (tried with 4.2.11): where a file system has no locks (some NFS and Lustre mounts), it raises
OSError (EOPNOTSUPP, ENOLCK) or falls back to a lock that is the existence of a file (ENOSYS). Such a file stays
when its machine dies, and no other machine can then resume the run. Here a run goes on with a warning: the
session in the ledger still stops an earlier run. So the lock here is one call of flock.
"""

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

_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Lock a file, which is made where it is missing, until the block ends; gives whether it was free.

    The kernel unlocks it when the process dies, so no stale lock is ever left. The lock works between
    machines that share the disk, where the file system supports that; where it supports no locks, a warning is
    logged and the block runs without. On Windows there is no lock.

    Raises: OSError where the file cannot be made.
    """
    if fcntl is None:
        yield True
        return
    while True:
        with path.open("a") as file:
            free = _take(file.fileno(), path)
            if free and not _same(file.fileno(), path):
                continue  # the process that had it locked removed the file meanwhile
            yield free
            return


def _take(descriptor: int, path: Path) -> bool:
    """Lock an open file if it is free, without waiting."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        log.warning("%s: this file system has no locks (%s); make sure that no other run writes", path, error)
    return True


def _same(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
