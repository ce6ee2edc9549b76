"""Stamps of files: texts that change when a file is replaced, cut or appended to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from daskreg.errors import SourceChangedError, SourceLostError

_MOST_IN_FULL = 3


def file_stamp(path: str) -> str:
    """Time of change and size of a file."""
    state = os.stat(path)
    return f"{state.st_mtime_ns}-{state.st_size}"


def stamp_of(files: Sequence[str]) -> str:
    """The stamp of a volume that is in one or more files.

    Args:
        files: the one that was named first; the others, which hold voxels too, may be missing.

    Raises: OSError where the first one cannot be found.
    """
    if not files:
        return ""
    stamps = [file_stamp(files[0]), *map(_stamp_if_there, files[1:])]
    if len(stamps) > _MOST_IN_FULL:
        return hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:32]
    return "+".join(stamps)


@dataclass(frozen=True)
class FileWatch:
    """The files of a source as they were when it was opened in this process.

    Times of change are compared within a process only: machines may see them with other precisions.
    """

    files: tuple[str, ...]
    stamp: str

    def check(self, what: str) -> None:
        """Look whether the files are what they were.

        Raises: SourceLostError, SourceChangedError.
        """
        if not self.files:
            return
        try:
            now = stamp_of(self.files)
        except OSError as error:
            raise lost(what, error) from error
        if now != self.stamp:
            raise changed(what)


def lost(what: str, reason: object) -> SourceLostError:
    """The error of a source that is not there any more."""
    return SourceLostError(
        f"{what} is gone ({reason}): what was read before is kept; bring it back (mount its disk) and run the same "
        "command again"
    )


def changed(what: str) -> SourceChangedError:
    """The error of a source that was changed while it was read."""
    return SourceChangedError(
        f"{what} was changed while it was read: open it again when it is complete; blocks that were made before are "
        "redone by resume='changed'"
    )


def _stamp_if_there(path: str) -> str:
    try:
        return file_stamp(path)
    except OSError:
        return "missing"
