"""`read_by_chunks`: the voxels of any box, out of whole chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from daskreg.geometry import Box

Index = tuple[int, ...]


def chunk_box(index: Index, chunks: Sequence[int], shape: Sequence[int]) -> Box:
    """The voxels of a chunk, as far as an array of this shape has them."""
    start = tuple(i * c for i, c in zip(index, chunks, strict=True))
    return Box(start, tuple(a + c for a, c in zip(start, chunks, strict=True))).clip(shape)


def read_by_chunks(
    box: Box,
    chunks: Sequence[int],
    shape: Sequence[int],
    dtype: DTypeLike,
    chunk: Callable[[Index, Box], NDArray[Any]],
) -> NDArray[Any]:
    """The voxels of a box.

    Args:
        chunk: gives the voxels of one chunk, by its index and its box.
    """
    out = np.empty(box.shape, dtype)
    whole = box.align(chunks)
    for index in product(*(range(a // c, b // c) for a, b, c in zip(whole.start, whole.stop, chunks, strict=True))):
        held = chunk_box(index, chunks, shape)
        part = held & box
        out[part.within(box).slices] = chunk(index, held)[part.within(held).slices]
    return out
