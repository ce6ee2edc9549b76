"""Paths that no file system takes, refused before anything is done."""

from __future__ import annotations

import os

LONGEST_NAME = 255
"""Bytes of one name on common file systems (NAME_MAX)."""

LONGEST_PATH = 4095
"""Bytes of a whole path on Linux (PATH_MAX, with the zero at its end); elsewhere it is shorter."""


def unusable(path: str | os.PathLike[str], *, room: int = 0) -> str | None:
    """Why no file can have this path; None where one can.

    Args:
        room: bytes that are added to the last name, for a file beside it.
    """
    text = os.fspath(path)
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
    text = os.fspath(path).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return text if len(text) <= 120 else f"{text[:60]}...{text[-50:]}"
