"""Finished pairs in a file, so that an interrupted estimate can be continued.

One line of JSON for each span of slices, appended when the span is done; an incomplete last line is
ignored. The first line identifies the stack and the options that the pairs belong to.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InputError, LayoutMismatchError
from daskreg.runtime.paths import local_path
from daskreg.stacks.pair_table import PairTable, SliceFeatures, packed, unpacked
from daskreg.stacks.spans import SpanResult, StackSpec

SCHEMA, VERSION = "daskreg/pairs", 1

# Voxels along an axis from which some version reduces slices: the factors, which differ between versions, are then
# part of what the pairs depend on. Below, keys are those of earlier versions.
_REDUCED = 2048


class Checkpoint:
    """A file of finished spans.

    Raises: LayoutMismatchError where the file is of another stack or other options; InputError where it
        is no checkpoint.
    """

    def __init__(self, path: str | os.PathLike[str], stack: StackSpec) -> None:
        self.path, self._key = local_path(path), key_of(stack)

    def load(self) -> list[SpanResult]:
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
        entries = [self._parsed(line) for line in lines[1:] if line]
        return [_from_entry(entry) for entry in entries if isinstance(entry, dict)]

    def append(self, span: SpanResult) -> None:
        """Add a span, after the first line where the file is new. The line is on the disk when this returns."""
        lines = [_line(span)]
        fresh = not self.path.exists() or not self.path.stat().st_size
        if fresh:
            lines.insert(0, json.dumps({"schema": SCHEMA, "version": VERSION, "key": self._key}))
        with self.path.open("a+b") as file:
            if not fresh:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # an interrupted write left an incomplete line
                    file.write(b"\n")
            file.write(("\n".join(lines) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _parsed(line: str) -> Any:
        """The value of a line of JSON; None for an incomplete one."""
        try:
            return json.loads(line)
        except ValueError:
            return None


def key_of(stack: StackSpec) -> str:
    """A hash of what pairs depend on: the identity of the voxels, and the options of the fits."""
    options = stack.options
    parts = (
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
        *(() if stack.bad is None else (stack.bad.code, stack.bad.packed)),
        *(("striped",) if stack.striped else ()),
        *(("factors", stack.reader.factors) if max(stack.reader.whole.shape) >= _REDUCED else ()),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


# In files, features are called "looks": checkpoints of earlier versions stay readable.


def _line(span: SpanResult) -> str:
    return json.dumps(
        {"start": span.start, "stop": span.stop, "pairs": packed(span.pairs), "looks": packed(span.features)}
    )


def _from_entry(entry: dict[str, Any]) -> SpanResult:
    before: NDArray[np.uint64] = np.empty(0, np.uint64)
    pairs, features = unpacked(PairTable, entry["pairs"]), unpacked(SliceFeatures, entry["looks"])
    return SpanResult(int(entry["start"]), int(entry["stop"]), pairs, features, before)
