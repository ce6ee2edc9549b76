"""Results of finished blocks in a file, so that an interrupted estimate can be continued.

One line of JSON for each block of a pass, appended when it is done; an incomplete last line is ignored. The first line
identifies the images and the options. A pass is named by what is asked of its blocks, so that a resumed estimate takes
only results of the very same question, and comes to the very same answer.
"""

from __future__ import annotations

import base64
import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InputError, LayoutMismatchError, OptionError
from daskreg.runtime.paths import local_path, shown

SCHEMA, VERSION = "daskreg/register", 1

Arrays = Mapping[str, NDArray[Any]]


class Checkpoint:
    """A file of results.

    Args:
        key: of the images and the options.

    Raises: OptionError for a path that is no file; LayoutMismatchError where the file is of other images or other
        options; InputError where it is no checkpoint.
    """

    def __init__(self, path: str | os.PathLike[str], key: str) -> None:
        self.path = local_path(path)
        if self.path.is_dir() or not self.path.parent.is_dir():
            raise OptionError(f"checkpoint {shown(path)} has to be a file in a folder that exists")
        self._head = {"schema": SCHEMA, "version": VERSION, "key": key}
        self._lines: dict[tuple[str, int], int] = {}
        if self.path.exists() and self.path.stat().st_size:
            self._index()

    def _index(self) -> None:
        """Where the line of each result begins."""
        with self.path.open("rb") as file:
            head = _parsed(file.readline())
            if head is None or (head.get("schema"), head.get("version")) != (SCHEMA, VERSION):
                raise InputError(f"{self.path} is not a checkpoint of daskreg's register: give another path")
            if head.get("key") != self._head["key"]:
                raise LayoutMismatchError(
                    f"{self.path} is of other images, or of another estimate of them: remove it or name another"
                )
            at = file.tell()
            while line := file.readline():
                entry = _parsed(line)
                block = None if entry is None else entry.get("block")
                if entry is not None and isinstance(block, int):
                    self._lines[str(entry.get("pass")), block] = at
                at = file.tell()

    def load(self, name: str, block: int) -> Arrays | None:
        """The result of a block in the pass of this name; None where there is none that can be read."""
        at = self._lines.get((name, block))
        if at is None:
            return None
        with self.path.open("rb") as file:
            file.seek(at)
            entry = _parsed(file.readline())
        try:
            with np.load(
                io.BytesIO(base64.b64decode((entry or {})["data"], validate=True)), allow_pickle=False
            ) as data:
                return dict(data)
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile):
            return None

    def append(self, name: str, block: int, arrays: Arrays) -> None:
        """Add the result of a block. The line is on the disk when this returns."""
        buffer = io.BytesIO()
        named: Any = dict(arrays)
        np.savez(buffer, **named)
        entry = {"pass": name, "block": block, "data": base64.b64encode(buffer.getvalue()).decode("ascii")}
        with self.path.open("a+b") as file:
            if file.seek(0, os.SEEK_END) == 0:
                file.write(json.dumps(self._head).encode() + b"\n")
            else:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # an interrupted write left an incomplete line
                    file.write(b"\n")
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object of a line of JSON; None for another or an incomplete one."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
