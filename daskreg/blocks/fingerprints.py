"""Fingerprints of the blocks of a level, each computed when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from daskreg.geometry import Box

Index = tuple[int, ...]


class BlockFingerprints:
    """Maps the index of a block to its fingerprint, 32 hexadecimal digits.

    A run of a million blocks starts at once, since nothing is computed ahead. Known ones take 32 bytes each.

    Args:
        fingerprint: of an output box (`Task.fingerprint`).
        shape: of the level.
        block_shape: of its blocks.
    """

    def __init__(self, fingerprint: Callable[[Box], str], shape: Index, block_shape: Index) -> None:
        self._fingerprint = fingerprint
        self._shape = shape
        self._block_shape = block_shape
        self.counts = tuple(-(-n // b) for n, b in zip(shape, block_shape, strict=True))
        self._known = np.zeros(self.counts, dtype="S32")

    def __contains__(self, index: Index) -> bool:
        """Whether there is a block of this index."""
        return len(index) == len(self.counts) and all(0 <= i < n for i, n in zip(index, self.counts, strict=True))

    def __getitem__(self, index: Index) -> str:
        if not self._known[index]:
            start = tuple(i * b for i, b in zip(index, self._block_shape, strict=True))
            stop = tuple(a + b for a, b in zip(start, self._block_shape, strict=True))
            self._known[index] = self._fingerprint(Box(start, stop).clip(self._shape)).encode()
        return bytes(self._known[index]).decode()

    def within(self, box: Box) -> Iterator[str]:
        """Those of the blocks that `box` touches, in C order."""
        ranges = [range(a // b, -(-z // b)) for a, z, b in zip(box.start, box.stop, self._block_shape, strict=True)]
        return (self[index] for index in product(*ranges))
