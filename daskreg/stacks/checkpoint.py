"""Finished pairs in a file, so that an interrupted estimate can be continued.

One line of JSON for each span of slices, appended when the span is done; an incomplete last line is
ignored. The first line identifies the stack and the options that the pairs belong to.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.runtime.line_file import LineFile
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
        self._file = LineFile(
            path,
            schema=SCHEMA,
            version=VERSION,
            key=key_of(stack),
            foreign="a checkpoint of daskreg's",
            other="holds pairs of another stack, or found with other options",
        )

    @property
    def path(self) -> Path:
        return self._file.path

    def load(self) -> list[SpanResult]:
        return [_from_entry(entry) for _, entry in self._file.entries()]

    def append(self, span: SpanResult) -> None:
        """Add a span. The line is on the disk when this returns."""
        self._file.append(_entry(span))


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


def _entry(span: SpanResult) -> dict[str, Any]:
    return {"start": span.start, "stop": span.stop, "pairs": packed(span.pairs), "looks": packed(span.features)}


def _from_entry(entry: dict[str, Any]) -> SpanResult:
    before: NDArray[np.uint64] = np.empty(0, np.uint64)
    pairs, features = unpacked(PairTable, entry["pairs"]), unpacked(SliceFeatures, entry["looks"])
    return SpanResult(int(entry["start"]), int(entry["stop"]), pairs, features, before)
