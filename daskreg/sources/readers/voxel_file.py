"""`VoxelFile`: voxels that lie one after another in a file, read in boxes.

They are read and not mapped into memory: where a file is cut while it is mapped, the system ends the whole process
(SIGBUS), here the box has an error. Files that others cannot cut, such as temporary ones, are mapped (`mapped`).
"""

from __future__ import annotations

import math
import os
import weakref
from itertools import product
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError
from daskreg.sources.reader import box_of
from daskreg.sources.source import ArrayIndex

MOST_SKIPPED = 2**15
"""Bytes between two runs of voxels up to which they are read, too: that takes less time than a second call."""

MOST_AT_ONCE = 2**24
"""Bytes that are read at once with such gaps, at most."""


class VoxelFile:
    """An array in a file. `file[index]` reads a box, as of a NumPy array; it is safe among threads.

    Args:
        shape: of the stored array, slowest axis first.
        offset: of the first voxel, in bytes.
        axes: the stored axes in the order in which they are given; () for their own.

    Raises: ChunkReadError for a file that is too short; OSError where it cannot be opened.
    """

    def __init__(
        self, path: str, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int, axes: tuple[int, ...] = ()
    ) -> None:
        self._path, self.dtype, self._stored, self._offset = path, dtype, shape, offset
        self._axes = axes or tuple(range(len(shape)))
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._file)
        self._lock = Lock()
        self._strides = tuple(dtype.itemsize * math.prod(shape[k + 1 :]) for k in range(len(shape)))
        end = offset + math.prod(shape) * dtype.itemsize
        if os.fstat(self._file).st_size < end:
            raise ChunkReadError(f"{path} is shorter than its header says ({end} bytes)")

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of voxels along the axes, in the order in which they are read."""
        return tuple(self._stored[k] for k in self._axes)

    def transpose(self, *axes: int) -> VoxelFile:
        """The same voxels with their axes in another order."""
        return VoxelFile(self._path, self.dtype, self._stored, self._offset, tuple(self._axes[k] for k in axes))

    def __getitem__(self, index: ArrayIndex) -> NDArray[Any]:
        whole = zip(index, self.shape, strict=True)
        box = box_of(tuple(slice(*s.indices(n)) if isinstance(s, slice) else s for s, n in whole))
        back = np.argsort(self._axes)
        start, stop = ([corner[k] for k in back] for corner in (box.start, box.stop))
        voxels = self._read(start, stop).transpose(self._axes)
        return voxels[tuple(slice(None) if isinstance(s, slice) else 0 for s in index)]

    def _read(self, start: list[int], stop: list[int]) -> NDArray[Any]:
        """The box of the stored axes."""
        shape = tuple(b - a for a, b in zip(start, stop, strict=True))
        out = np.empty(shape, self.dtype)
        if not out.size:
            return out
        # From `inner` on, the voxels of the box are one run in the file, or one with small gaps.
        inner, span = len(shape), self.dtype.itemsize
        exact = True
        while inner > 0:
            gap = self._strides[inner - 1] - span if shape[inner - 1] > 1 else 0
            longer = (shape[inner - 1] - 1) * self._strides[inner - 1] + span
            if gap > MOST_SKIPPED or (longer > MOST_AT_ONCE and not (exact and gap == 0)):
                break
            inner, span, exact = inner - 1, longer, exact and gap == 0
        within = sum(a * s for a, s in zip(start[inner:], self._strides[inner:], strict=True))
        for outer in product(*map(range, shape[:inner])):
            at = sum((a + i) * s for a, i, s in zip(start, outer, self._strides, strict=False)) + within
            target = out[outer]
            if exact:
                self._fill(target.reshape(-1).view(np.uint8).data, at)
                continue
            scratch = np.empty(span, np.uint8)
            self._fill(scratch.data, at)
            target[...] = np.ndarray(shape[inner:], self.dtype, scratch, strides=self._strides[inner:])
        return out

    def _fill(self, target: memoryview, offset: int) -> None:
        """Fill `target` with the bytes from an offset on.

        Raises: ChunkReadError where the file ends before.
        """
        offset += self._offset
        while target:
            count = self._read_at(target, offset)
            if not count:
                raise ChunkReadError(f"{self._path} ends at byte {offset}: it was cut, or is still written to")
            target, offset = target[count:], offset + count

    def _read_at(self, target: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file, [target], offset)
        with self._lock:  # Windows
            os.lseek(self._file, offset, os.SEEK_SET)
            data = os.read(self._file, len(target))
            target[: len(data)] = data
            return len(data)
