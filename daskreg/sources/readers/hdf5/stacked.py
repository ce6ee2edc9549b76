"""Datasets of one HDF5 file that are one volume: those of times and channels, each a z, y, x array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError
from daskreg.geometry import Box
from daskreg.sources.readers.hdf5.attributes import CheckedFiles, reading_attributes
from daskreg.sources.readers.hdf5.links import member
from daskreg.sources.readers.hdf5.storage import Storage
from daskreg.sources.storage.counters import count_missing


@dataclass
class StackedDatasets:
    """A volume with the axes t, c, z, y, x; safe among threads.

    Args:
        file: opened.
        name: of the dataset of a time and a channel.
        shape: of the volume; datasets may be longer along z, y, x.
        dtype: of the values; that of a dataset may have another sign.
    """

    file: Any
    name: Callable[[int, int], str]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    _opened: dict[str, tuple[Any, Storage] | None] = field(default_factory=dict)
    _lock: Any = field(default_factory=Lock)
    _checked: CheckedFiles = field(init=False)

    def __post_init__(self) -> None:
        stack = ExitStack()
        self._checked = CheckedFiles(stack)
        finalize(self, stack.close)

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box; a dataset that is not there is 0, and counted as missing.

        Raises: ChunkReadError for a dataset of another type or a smaller one.
        """
        out = np.zeros(box.shape, self.dtype)
        inside = Box(box.start[2:], box.stop[2:])
        for t in range(box.start[0], box.stop[0]):
            for c in range(box.start[1], box.stop[1]):
                found = self._dataset(self.name(t, c))
                if found is None:
                    count_missing(self.name(t, c))
                    continue
                dataset, storage = found
                stored = np.asarray(dataset[inside.slices])
                native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
                out[t - box.start[0], c - box.start[1]] = native.view(self.dtype)
                for absent in storage.absent(inside):
                    count_missing(absent)
        return out

    def _dataset(self, name: str) -> tuple[Any, Storage] | None:
        with self._lock:
            if name not in self._opened:
                self._opened[name] = self._open(name)
            return self._opened[name]

    def _open(self, name: str) -> tuple[Any, Storage] | None:
        try:
            with reading_attributes(self._checked):
                dataset = member(self.file, name)
        except OSError as error:
            raise ChunkReadError(f"cannot read {name} of {self.file.filename}: {error}") from error
        if dataset is None:
            return None
        sizes: Sequence[int] = getattr(dataset, "shape", ())
        if len(sizes) != 3 or any(a < b for a, b in zip(sizes, self.shape[2:], strict=True)):
            raise ChunkReadError(f"{name} of {self.file.filename} has the shape {sizes}, not {self.shape[2:]}")
        stored = dataset.dtype
        same_kind = stored.kind == self.dtype.kind or {stored.kind, self.dtype.kind} == {"i", "u"}
        if stored.itemsize != self.dtype.itemsize or not same_kind:
            raise ChunkReadError(f"{name} of {self.file.filename} has the type {stored}, not {self.dtype}")
        return dataset, Storage.of(dataset)
