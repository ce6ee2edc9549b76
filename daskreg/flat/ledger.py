"""`SlabLedger`: which slabs of an unfinished file are written, in a small file of text beside it.

The first line states what is written, as JSON; each further one is the number of a finished slab. A torn last line, as
a kill may leave it, counts as no slab and is cut off, so that the next number does not continue it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class SlabLedger:
    """The ledger of one unfinished file.

    Args:
        path: of the ledger, which may be missing or empty.
        count: of slabs.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self.done: NDArray[np.bool_] = np.zeros(count, bool)

    def facts(self) -> dict[str, Any] | None:
        """What the unfinished file is; None where nothing is begun."""
        try:
            text = self._path.read_text(encoding="utf-8")
            first, *rest = text.split("\n")
            facts = dict(json.loads(first))
        except (OSError, ValueError, TypeError):
            return None
        if not rest:
            return None
        if rest[-1]:
            os.truncate(self._path, len(text.encode()) - len(rest[-1].encode()))
        for line in rest[:-1]:
            if line.isdigit() and int(line) < len(self.done):
                self.done[int(line)] = True
        return facts

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Start anew."""
        self.done[:] = False
        with self._path.open("w", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def add(self, number: int) -> None:
        """Note a slab whose voxels are written."""
        self.done[number] = True
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{number}\n")
