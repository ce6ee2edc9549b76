"""The voxels of a block, slab after slab along the first axis of the fixed image.

Blocks are large, so that few chunks lie in two of them. Of a block only what a slab needs is in memory: a buffer for
each image moves along with the slabs, and no chunk is decoded twice for that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from daskreg.blocks.source_buffer import BufferLayout, ScratchBuffer, SourceBuffer, buffer_layout
from daskreg.geometry import Box
from daskreg.registration.blockwise.image import LazyImage, StoredVoxels
from daskreg.sources.source import Source

SLAB_BYTES = 40 << 20
"""Bytes of voxels, as stored, that are held of each image at most."""
_THICK = 24
"""Voxels of a slab along the first axis: few, since a buffer is longer by a chunk anyway."""


def slabs_of(inside: Box) -> list[Box]:
    """A box in slabs along its first axis, in order."""
    first, stop = inside.start[0], inside.stop[0]
    ends = [(a, min(a + _THICK, stop)) for a in range(first, stop, _THICK)]
    return [Box((a, *inside.start[1:]), (b, *inside.stop[1:])) for a, b in ends]


def stored_slabs(
    images: tuple[LazyImage, LazyImage], needs: Sequence[tuple[Box, Box]]
) -> Iterator[tuple[StoredVoxels, StoredVoxels] | None]:
    """What boxes of both levels need, one after another; each is valid until the next one.

    Args:
        needs: boxes of fixed and moving. None comes for an empty box of moving, and nothing is read.
    """
    used = [pair for pair in needs if not pair[1].empty]
    buffers = [_ImageBuffer(image, [pair[k] for pair in used]) for k, image in enumerate(images)] if used else []
    number = 0
    for _, moving in needs:
        if moving.empty:
            yield None
        else:
            yield buffers[0].load(number), buffers[1].load(number)
            number += 1


def held_bytes(image: LazyImage, boxes: Sequence[Box]) -> int:
    """The least memory of the buffers for boxes of a level one after another."""
    needs = [image.stored_box(box) for box in boxes if not box.empty]
    if not needs:
        return 0
    sources = [source for source in (image.source, image.mask) if source is not None]
    return sum(math.prod(_layout(source, needs, 0).shape) * source.dtype.itemsize for source in sources)


class _ImageBuffer:
    """The voxels of one image, and its mask, for one box of the level after another."""

    def __init__(self, image: LazyImage, boxes: Sequence[Box]) -> None:
        self._image, self._boxes = image, boxes
        self._needs = [image.stored_box(box) for box in boxes]
        self._values = self._buffer(image.source)
        self._mask = None if image.mask is None else self._buffer(image.mask)

    def load(self, number: int) -> StoredVoxels:
        mask = None if self._mask is None else self._loaded(self._mask, number) > 0
        return self._image.held(self._boxes[number], self._loaded(self._values, number), mask)

    def _buffer(self, source: Source) -> SourceBuffer:
        return SourceBuffer(source, _layout(source, self._needs, SLAB_BYTES), source.dtype, ScratchBuffer())

    def _loaded(self, buffer: SourceBuffer, number: int) -> np.ndarray[Any, Any]:
        values, box = buffer.load(number)
        return values[self._needs[number].within(box).slices]


def _layout(source: Source, needs: Sequence[Box], target: int) -> BufferLayout:
    return buffer_layout(needs, source.chunks, source.dtype.itemsize, target)
