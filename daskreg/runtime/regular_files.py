"""Files that are what they seem: regular ones, beside those that name them, and not larger than expected.

A FIFO or a device blocks who opens it, or does not end; and a file that names another one could have any file of the
user's read (a volume that shows a private key). So the first are refused, and the second has to stay in its folder.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from daskreg.errors import InputError, OutsideError

_TRIES = 3

_outside: ContextVar[bool] = ContextVar("daskreg_outside", default=False)


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuse a FIFO, a socket or a device. What does not exist is left to the one who opens it.

    Raises: InputError.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(f"{os.fspath(path)} is neither a file nor a folder (a pipe, a socket or a device)")


def read_small(path: Path, most: int) -> bytes:
    """The content of a regular file.

    Raises: OSError; ValueError for anything else than a file, and for one of more than `most` bytes.
    """
    check_regular(path)
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most} bytes")
    return data


@contextmanager
def allowing_outside(allowed: bool) -> Iterator[None]:
    """In this block, files may refer to others outside their folder, or not."""
    token = _outside.set(allowed)
    try:
        yield
    finally:
        _outside.reset(token)


def outside_allowed() -> bool:
    """Whether files may refer to others outside their folder."""
    return _outside.get()


def check_beside(path: str | os.PathLike[str], owner: str | os.PathLike[str]) -> None:
    """Refuse a file, named by another one, that is no regular file, or lies outside the folder of that other.

    Args:
        path: of the named file, or of a part of a store; symbolic links are followed.
        owner: the file that names it, or the folder of the store.

    Raises: OutsideError, unless `allowing_outside`; InputError for a FIFO or a device.
    """
    check_regular(path)
    if outside_allowed():
        return
    own = os.path.abspath(owner)
    roots = (own,) if os.path.isdir(own) else (os.path.dirname(own), os.path.dirname(os.path.realpath(own)))
    target = os.path.realpath(path)
    if not any(_inside(target, os.path.realpath(root)) for root in roots):
        raise _outside_error(own, target)


def open_inside(path: str | os.PathLike[str], root: str | None) -> IO[bytes]:
    """A regular file, opened for reading without a buffer.

    Args:
        root: the folder, without symbolic links, in which it must lie; None: anywhere.

    Raises: OSError as `open`, and with ESTALE for a file that others replace all the time; OutsideError; InputError for
        a FIFO or a device, which is not waited for.
    """
    for _ in range(_TRIES):
        file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                if stat.S_ISDIR(os.fstat(file).st_mode):
                    raise IsADirectoryError(errno.EISDIR, "is a folder", os.fspath(path))
                check_regular(path)
            if root is None or _inside(target := _opened_path(file, path), root):
                return os.fdopen(file, "rb", buffering=0)
            # A folder that was moved after its file had been opened is not there, or it is another one.
            if os.path.samestat(os.stat(path), os.fstat(file)):
                raise _outside_error(root, target)
        except BaseException:
            os.close(file)
            raise
        os.close(file)
    raise OSError(errno.ESTALE, "is replaced all the time", os.fspath(path))


def _opened_path(file: int, path: str | os.PathLike[str]) -> str:
    """Where an opened file lies, symbolic links followed: as the system knows it, or as its name says."""
    try:
        return os.readlink(f"/proc/self/fd/{file}")
    except OSError:
        return os.path.realpath(path)


def _inside(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(folder, ""))


def _outside_error(owner: str, target: str) -> OutsideError:
    return OutsideError(
        f"{owner} refers to {target}, which lies outside its folder: pass allow_outside=True (--allow-outside) if "
        "that is what you want"
    )
