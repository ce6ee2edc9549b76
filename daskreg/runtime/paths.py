"""Paths that no file system takes, and URLs where a file is needed, refused before anything is done."""

from __future__ import annotations

import os
import re
from pathlib import Path

from daskreg.errors import OptionError
from daskreg.runtime.messages import redact

LONGEST_NAME = 255
"""Bytes of one name on common file systems (NAME_MAX)."""

LONGEST_PATH = 4095
"""Bytes of a whole path on Linux (PATH_MAX, with the zero at its end); elsewhere it is shorter."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How a URL begins, also one of which `Path` has made a path, with one slash; a Windows drive has one letter."""


def local_path(path: str | os.PathLike[str], *, room: int = 0) -> Path:
    """The path of a file or folder that has to be on a disk.

    Args:
        room: bytes that are added to its name, for a file beside it.

    Raises: OptionError for a URL, and for a path that no file can have.
    """
    if reason := unusable(path, room=room):
        raise OptionError(f"{shown(path)} cannot be used: {reason}")
    return Path(path)


def unusable(path: str | os.PathLike[str], *, room: int = 0) -> str | None:
    """Why no file can have this path; None where one can.

    Args:
        room: bytes that are added to the last name, for a file beside it.
    """
    text = os.fspath(path)
    if _URL.match(text):
        plain = (
            "give the path alone" if text.startswith("file:") else "use a path, and copy the file from or to the store"
        )
        return f"it is a URL, and this has to be a file or folder on a disk: {plain}"
    if "\0" in text:
        return "it contains the character NUL"
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        return "it contains half of a surrogate pair, which is no character"
    *folders, name = encoded.rstrip(b"/").split(b"/")
    longest = max((len(folder) for folder in folders), default=0)
    if max(longest, len(name) + room) > LONGEST_NAME:
        return f"a name in it is longer than {LONGEST_NAME - (room if longest <= LONGEST_NAME else 0)} bytes"
    if len(encoded) + room > LONGEST_PATH:
        return f"it is longer than {LONGEST_PATH} bytes"
    return None


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message, which it neither fills nor breaks."""
    text = redact(os.fspath(path)).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return text if len(text) <= 120 else f"{text[:60]}...{text[-50:]}"
