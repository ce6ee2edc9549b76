"""A lock on a file. The system releases it when its process ends, also when it is killed.

Why not `filelock` (tried with 4.2.11): where a file system has no locks (some NFS and Lustre mounts), it raises
OSError (EOPNOTSUPP, ENOLCK) or falls back to a lock that is the existence of a file (ENOSYS). Such a file stays
when its machine dies, and no other machine can then resume the run. Here the lock is one call of flock, and
where there are no locks a claim (`blocks.record.claim`), which ends with its process too.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daskreg.blocks.record.claim import claimed
from daskreg.sources.storage.folder_bytes import FolderBytes

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
    machines that share the disk, where the file system supports that; where it supports no locks (or the system
    has none, as Windows), the folder of the file is claimed instead.

    Raises: OSError where the file cannot be made.
    """
    while True:
        with path.open("a") as file:
            free = _take(file.fileno(), path)
            if free is None:
                with claimed(FolderBytes(path.parent)) as claim_is_free:
                    yield claim_is_free
                return
            if free and not _same(file.fileno(), path):
                continue  # the process that had it locked removed the file meanwhile
            yield free
            return


def _take(descriptor: int, path: Path) -> bool | None:
    """Lock an open file if it is free, without waiting; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        log.warning("%s: this file system has no locks (%s); the run is claimed by a file beside it", path, error)
        return None
    return True


def _same(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
