"""Finished pairs in a file, so that an interrupted estimate can be continued.

One line of JSON for each span of slices, appended when the span is done; an incomplete last line is
ignored. The first line identifies the stack and the options that the pairs belong to. A line also says which stored
chunks its slices were read from, where that is known: of slices that were written again since, and of those whose pairs
they are in, it is not used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.source_state import identity, states_along
from daskreg.runtime.line_file import LineFile
from daskreg.stacks.pair_table import PairTable, SliceFeatures, packed, unpacked
from daskreg.stacks.spans import SpanResult, StackSpec, first_read, runs

SCHEMA, VERSION = "daskreg/pairs", 1

# Voxels along an axis from which some version reduces slices: the factors, which differ between versions, are then
# part of what the pairs depend on. Below, keys are those of earlier versions.
_REDUCED = 2048


class Checkpoint:
    """A file of finished spans.

    Chunks are looked up here, before slices are read: what is written again later is then taken for changed.

    Raises: LayoutMismatchError where the file is of another stack or other options; InputError where it
        is no checkpoint; SourceLostError.
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
        self._rows = states_along(stack.source, stack.position)
        self._depth, self._reach = stack.source.chunks[stack.position], stack.reach

    @property
    def path(self) -> Path:
        return self._file.path

    def load(self) -> list[SpanResult]:
        """Spans, or the parts of them whose slices are as they were."""
        return [part for _, entry in self._file.entries() for part in self._unchanged(entry)]

    def append(self, span: SpanResult) -> None:
        """Add a span. The line is on the disk when this returns."""
        rows = self._rows_of(span)
        self._file.append({**_entry(span), **({"chunks": list(rows)} if rows else {})})

    def _unchanged(self, entry: dict[str, Any]) -> Iterator[SpanResult]:
        span = _from_entry(entry)
        now, then = self._rows_of(span), entry.get("chunks", ())
        if not now or list(now) == then:
            yield span
            return
        if len(now) != len(then):  # a line of an earlier version, which did not say
            return
        first = first_read(span.start, self._reach) // self._depth
        changed = [number for number, (a, b) in enumerate(zip(now, then, strict=True), first) if a != b]
        kept = np.ones(span.stop - span.start, bool)
        for number in range(span.start, span.stop):
            low, high = span.first_read(number, self._reach) // self._depth, number // self._depth
            kept[number - span.start] = not any(low <= row <= high for row in changed)
        for start, stop in runs(kept):
            yield span.part(span.start + start, span.start + stop)

    def _rows_of(self, span: SpanResult) -> tuple[str, ...]:
        """The states of the chunks from which slices are read for a span; () where they are not known."""
        first = first_read(span.start, self._reach)
        return self._rows[first // self._depth : (span.stop - 1) // self._depth + 1]


def key_of(stack: StackSpec) -> str:
    """A hash of what all pairs depend on: the identity of the array and of the mask, and the options of the fits.

    Of stored slices, chunks are left out: a line says which ones it is of.
    """
    options = stack.options
    parts = (
        identity(stack.source, chunks=stack.source.is_graph),
        None if stack.mask is None else identity(stack.mask),
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
