"""`LineFile`: lines of JSON that are added one by one, so that interrupted work can be continued.

The first line says what the others are about. A line that was torn by an interruption is left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from daskreg.errors import InputError, LayoutMismatchError
from daskreg.runtime.paths import local_path


class LineFile:
    """A file of objects, as lines of JSON.

    Args:
        path: of the file, which need not exist.
        schema, version: of the lines. key: of what they are about.
        foreign, other: what messages say that a file of another schema or version is not, and that one of another key
            is.

    Raises: OptionError for a path that no file can have.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, schema: str, version: int, key: str, foreign: str, other: str
    ) -> None:
        self.path = local_path(path)
        self._head = {"schema": schema, "version": version, "key": key}
        self._foreign, self._other = foreign, other

    def entries(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each object after the first line, and where its line begins.

        Raises: LayoutMismatchError for a file of another key; InputError for one that is something else.
        """
        if not self.path.exists() or not self.path.stat().st_size:
            return
        with self.path.open("rb") as file:
            head = _parsed(file.readline())
            if head is None or any(head.get(name) != self._head[name] for name in ("schema", "version")):
                raise InputError(f"{self.path} is not {self._foreign}: give another path")
            if head.get("key") != self._head["key"]:
                raise LayoutMismatchError(f"{self.path} {self._other}: remove it or name another")
            at = file.tell()
            while line := file.readline():
                if (entry := _parsed(line)) is not None:
                    yield at, entry
                at = file.tell()

    def entry_at(self, place: int) -> dict[str, Any]:
        """The object whose line begins at a place; {} where it cannot be read."""
        with self.path.open("rb") as file:
            file.seek(place)
            return _parsed(file.readline()) or {}

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an object, after the first line where the file is new. It is on the disk when this returns."""
        line = json.dumps(entry).encode() + b"\n"
        with self.path.open("a+b") as file:
            if file.seek(0, os.SEEK_END) == 0:
                line = json.dumps(self._head).encode() + b"\n" + line
            else:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # an interrupted write left an incomplete line
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object of a line of JSON; None for another or an incomplete one."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
