"""Finished pairs in a file, so that an estimate that was cut off goes on where it was.

One line of JSON for each span of slices, appended when it is done; a torn last line is ignored.
The first line says which stack and which options the pairs are of.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InputError, LayoutMismatchError
from daskreg.stacks.pair_table import Looks, PairTable, packed, unpacked
from daskreg.stacks.spans import SpanDone, StackSpec

SCHEMA, VERSION = "daskreg/pairs", 1


class Checkpoint:
    """Spans that are done, in a file of their own.

    Raises: LayoutMismatchError where the file is of another stack or other options; InputError where it
        is no checkpoint.
    """

    def __init__(self, path: str | os.PathLike[str], stack: StackSpec) -> None:
        self.path, self._key = Path(path), key_of(stack)

    def load(self) -> list[SpanDone]:
        if not self.path.exists() or not self.path.stat().st_size:
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")
        head = self._parsed(lines[0])
        if not isinstance(head, dict) or head.get("schema") != SCHEMA or head.get("version") != VERSION:
            raise InputError(f"{self.path} is not a checkpoint of daskreg's: give another path")
        if head.get("key") != self._key:
            raise LayoutMismatchError(
                f"{self.path} holds pairs of another stack, or found with other options: remove it or name another"
            )
        found = [self._parsed(line) for line in lines[1:] if line]
        return [_done(entry) for entry in found if isinstance(entry, dict)]

    def append(self, done: SpanDone) -> None:
        """Add a span; the file is begun with it. A line is on the disk when this returns."""
        lines = [_line(done)]
        fresh = not self.path.exists() or not self.path.stat().st_size
        if fresh:
            lines.insert(0, json.dumps({"schema": SCHEMA, "version": VERSION, "key": self._key}))
        with self.path.open("a+b") as file:
            if not fresh:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # what a kill left half written
                    file.write(b"\n")
            file.write(("\n".join(lines) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _parsed(line: str) -> Any:
        try:
            return json.loads(line)
        except ValueError:
            return None


def key_of(stack: StackSpec) -> str:
    """What pairs depend on: the voxels' identity, and how they are fitted."""
    options = stack.options
    known = (
        stack.source.fingerprint(),
        None if stack.mask is None else stack.mask.fingerprint(),
        stack.position,
        stack.reach,
        options.pose.groups,
        options.pose.common_scale,
        options.metric,
        options.max_iterations,
        options.tolerance,
        stack.line,
    )
    return hashlib.sha256(repr(known).encode()).hexdigest()[:32]


def _line(done: SpanDone) -> str:
    return json.dumps(
        {"start": done.start, "stop": done.stop, "pairs": packed(done.pairs), "looks": packed(done.looks)}
    )


def _done(entry: dict[str, Any]) -> SpanDone:
    before: NDArray[np.uint64] = np.empty(0, np.uint64)
    pairs, looks = unpacked(PairTable, entry["pairs"]), unpacked(Looks, entry["looks"])
    return SpanDone(int(entry["start"]), int(entry["stop"]), pairs, looks, before)
