"""Errors of the disk as errors of an output."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from daskreg.errors import DaskregError, OutputError, StorageFullError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_errors(*, full: str, failed: Callable[[OSError], str]) -> Iterator[None]:
    """Errors of the file system as StorageFullError and OutputError.

    Args:
        full: the text where no space is left.
        failed: gives the text for any other error.
    """
    try:
        yield
    except DaskregError:
        raise
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StorageFullError(error.errno, full) from error
        raise OutputError(failed(error)) from error
