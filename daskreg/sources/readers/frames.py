"""`Frames`: an image that a library gives frame by frame, each of them whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError
from daskreg.sources.reader import box_of
from daskreg.sources.source import ArrayIndex


@dataclass(frozen=True, eq=False)
class Frames:
    """An image of an opened file; safe among threads.

    Args:
        shape, dtype: of the stored array.
        outer: number of its first axes, of which an index of each chooses a frame.
        frame: (index of the outer axes) -> a frame, of the shape of the other axes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    outer: int
    frame: Callable[[tuple[int, ...]], NDArray[Any]]
    _lock: Any = field(default_factory=Lock, repr=False)

    def read(self, index: ArrayIndex) -> NDArray[Any]:
        """`image[index]`.

        Raises: ChunkReadError for a frame of another size than the file states.
        """
        box = box_of(index)
        out = np.empty(box.shape, self.dtype)
        inner, size = box.slices[self.outer :], self.shape[self.outer :]
        for place in product(*(range(n) for n in box.shape[: self.outer])):
            at = tuple(a + k for a, k in zip(box.start, place, strict=False))
            with self._lock:
                frame = self.frame(at)
            if frame.size != np.prod(size) or frame.dtype.itemsize != self.dtype.itemsize:
                raise ChunkReadError(f"frame {at} has {frame.size} voxels of {frame.dtype}, and {size} are stated")
            out[place] = frame.reshape(size)[inner]
        return out[tuple(slice(None) if isinstance(s, slice) else 0 for s in index)]


def frame_chunks(shape: tuple[int, ...], outer: int) -> tuple[int, ...]:
    """The chunks of such an image: whole frames."""
    return (1,) * outer + shape[outer:]
