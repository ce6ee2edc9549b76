"""What blocks were made of, and whether that has changed since: chunks of the source, or blocks of the level below.

The ledger's entry of a block has a text for it (`LedgerEntry.source`), which is made again and compared. No
clock is compared with another one.
"""

from __future__ import annotations

import hashlib
from itertools import product

import numpy as np

from daskreg.blocks.plan import LevelPlan
from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.record.ledger_entry import LedgerEntry
from daskreg.geometry import Box


class Contents:
    """The checksums of the finished blocks of a level, 8 bytes for each.

    Args:
        counts: number of its blocks along each axis.
        block_shape: shape of a block.
    """

    def __init__(self, counts: tuple[int, ...], block_shape: tuple[int, ...]) -> None:
        self._block_shape = block_shape
        self._hashes = np.zeros(counts, "S8")

    def put(self, entry: LedgerEntry) -> None:
        """Note the checksums of a block's files."""
        # An array of S8 drops zeros at the end: hexadecimal digits have none.
        self._hashes[entry.block] = hashlib.sha256(repr(entry.files).encode()).hexdigest()[:8].encode()

    def within(self, box: Box) -> str:
        """A text that changes when one of the blocks that `box` touches gets other contents."""
        ranges = [range(a // b, -(-z // b)) for a, z, b in zip(box.start, box.stop, self._block_shape, strict=True)]
        digest = hashlib.sha256()
        for index in product(*ranges):
            digest.update(bytes(self._hashes[index]))
        return digest.hexdigest()[:16]


class MadeOf:
    """What the blocks of a level are made of.

    Args:
        below: contents of the level below; None for level 0, which is made of the source.
    """

    def __init__(self, level: LevelPlan, below: Contents | None) -> None:
        self._level, self._below = level, below

    def of_level_below(self, box: Box) -> str:
        """The text for a block `box` that is made of the level below; "" for level 0."""
        return "" if self._below is None else self._below.within(self._level.task.read_box(box))

    def is_current(self, entry: LedgerEntry, ledger: Ledger, *, every_source: bool) -> bool:
        """Whether a finished block would be made of the same now.

        Args:
            every_source: look at the source of every block; False: of those alone that lacked chunks of it.
        """
        box = self._box(entry.block)
        if self._below is not None:
            return entry.source in ("", self.of_level_below(box))
        if not every_source and not entry.lost.missing:
            return True
        source, read = self._level.task.source, self._level.task.read_box(box)
        state = source.state(read)
        if entry.source:
            return state in ("", entry.source)
        # An entry of an earlier version, which compared times.
        return float(state.partition("@")[2] or 0) <= ledger.written_at(entry)

    def _box(self, index: tuple[int, ...]) -> Box:
        shape = self._level.block_shape
        start = tuple(i * b for i, b in zip(index, shape, strict=True))
        return Box(start, tuple(a + b for a, b in zip(start, shape, strict=True))).clip(self._level.layout.shape)
