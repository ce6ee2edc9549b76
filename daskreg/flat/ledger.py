"""`SlabLedger`: which slabs of an unfinished file are written, in a small file of text beside it.

The first line states what is written, as JSON; each further one describes a finished slab. A torn last line, as
a kill may leave it, counts as no slab and is cut off, so that the next line does not continue it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class SlabEntry(NamedTuple):
    """A finished slab. The order of the fields is that of the values in a line of the ledger.

    Args:
        number: of the slab, in the order of the file.
        missing: how many chunks of the source it shows as the fill value because they are not stored.
        damaged: names of those that could not be decoded.
        source: changes when the chunks of the source do that it was made of; empty where that is not known.
    """

    number: int
    missing: int = 0
    damaged: tuple[str, ...] = ()
    source: str = ""


class SlabLedger:
    """The ledger of one unfinished file.

    Args:
        path: of the ledger, which may be missing or empty.

    `entries` are those of the finished slabs, by their numbers.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries: dict[int, SlabEntry] = {}

    def facts(self) -> dict[str, Any] | None:
        """What the unfinished file is; None where nothing is begun."""
        try:
            data = self._path.read_bytes()
            first, *rest = data.split(b"\n")
            facts = dict(json.loads(first))
        except (OSError, ValueError, TypeError):
            return None
        if not rest:
            return None
        if rest[-1]:
            os.truncate(self._path, len(data) - len(rest[-1]))
        for entry in filter(None, map(_entry, rest[:-1])):
            self.entries[entry.number] = entry
        return facts

    def clear(self) -> None:
        """Forget all: nothing is begun. It stays, since a lock may be on it."""
        self.entries.clear()
        with self._path.open("w") as file:
            os.fsync(file.fileno())

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Start anew."""
        self.entries.clear()
        with self._path.open("w", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def add(self, entry: SlabEntry) -> None:
        """Note a slab whose voxels are on the disk. The last line of a slab counts."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self.entries[entry.number] = entry


def _entry(line: bytes) -> SlabEntry | None:
    try:
        number, missing, damaged, source = json.loads(line)
        return SlabEntry(int(number), int(missing), tuple(map(str, damaged)), str(source))
    except (ValueError, TypeError):
        return None
