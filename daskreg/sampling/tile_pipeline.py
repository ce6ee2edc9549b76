"""Tiles to a GPU and back through pinned memory, so that copies overlap with computing. Imported for a GPU only."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from daskreg.geometry import Box, touched_box
from daskreg.runtime.threads import shares
from daskreg.sampling.displacements import Displaced
from daskreg.sampling.sample import halo, sample
from daskreg.sampling.tiles import Pixels, Tile

log = logging.getLogger(__name__)

TILE_BYTES = 32 * 2**20
"""Bytes of a tile, at most, of its block and of its output."""

STREAMS = 3
"""Tiles in flight: one on its way to the GPU, one being computed, one on its way back."""

_LARGE_COPY, _FEW_ROWS = 1 << 20, 16
_own = threading.local()


@contextmanager
def thread_pipeline(device: str) -> Iterator[TilePipeline]:
    """The pipeline of this thread to a device; all tiles are done when the context ends.

    It is kept for the next time: torch keeps freed device memory by stream, and new streams would take more.
    """
    pipelines: dict[str, TilePipeline] = getattr(_own, "pipelines", {})
    _own.pipelines = pipelines
    pipeline = pipelines.pop(device, None) or TilePipeline(torch.device(device))
    yield pipeline
    pipeline.finish()
    pipelines[device] = pipeline  # not where an error was raised


class TilePipeline:
    """Samples tiles on a device, several of them in flight, each with a stream of its own.

    A tile is computed when the next one has been sent, since sampling may first examine the voxels and
    then waits until they have arrived. A tile for which the GPU has too little memory is halved, as often as it takes,
    and the log says so. On a CPU the same code runs without pinned memory and streams.
    """

    def __init__(self, device: torch.device, *, tile_bytes: int = TILE_BYTES, streams: int = STREAMS) -> None:
        self._streams = [_TileStream(device) for _ in range(streams)]
        self._device = device
        self._tile_bytes = tile_bytes
        self._next = 0
        self._sent: _TileStream | None = None

    def put(self, tile: Tile, out: Pixels) -> None:
        """Sample `tile` into `out`, at the latest in `finish`; the block may be overwritten at once."""
        if max(tile.block.nbytes, out.nbytes) > self._tile_bytes:
            halves = _halves(tile, out)
            if halves is not None:
                for half, part in halves:
                    self.put(half, part)
                return
        before, stream = self._sent, self._free_stream()
        self._sent = None  # so that it is not computed twice, whatever is raised
        if before is stream:  # there is only one
            self._compute(stream)
            stream.finish()
        if self._send(stream, tile, out):
            self._sent = stream
        if before is not None and before is not stream:
            self._compute(before)

    def finish(self) -> None:
        """Wait for all tiles."""
        last, self._sent = self._sent, None
        if last is not None:
            self._compute(last)
        for stream in self._streams:
            stream.finish()

    def _free_stream(self) -> _TileStream:
        """The next stream in turn, whose result has been copied out; a tile that was sent may still be on it."""
        stream = self._streams[self._next]
        self._next = (self._next + 1) % len(self._streams)
        stream.finish()
        return stream

    def _send(self, stream: _TileStream, tile: Tile, out: Pixels) -> bool:
        """Whether the voxels were sent; False where they did not fit and the tile was sampled in halves."""
        # Halves come after the `except`: until it ends, the error keeps what the failed call had on the GPU.
        with suppress(torch.cuda.OutOfMemoryError):
            stream.send(tile, out)
            return True
        self._split(tile, out)
        return False

    def _compute(self, stream: _TileStream) -> None:
        with suppress(torch.cuda.OutOfMemoryError):
            stream.compute()
            return
        for tile, out in stream.take_back():
            self._split(tile, out)

    def _split(self, tile: Tile, out: Pixels) -> None:
        """Sample the halves of a tile for which the GPU has too little memory, one after the other.

        Raises: OutOfMemoryError where it is a single voxel.
        """
        halves = _halves(tile, out)
        if halves is None:
            raise torch.cuda.OutOfMemoryError(f"{self._device} has no room for a single voxel of {tile.out_box}")
        log.warning("out of memory on %s: trying again with half of the tile %s", self._device, tile.out_box)
        for stream in self._streams:
            stream.finish()
        torch.cuda.empty_cache()
        for half, part in halves:
            alone = _TileStream(self._device)
            if self._send(alone, half, part):
                self._compute(alone)
                alone.finish()


class _TileStream:
    """One tile in flight: a CUDA stream, and staging memory (pinned) that is reused."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self._staged: dict[str, torch.Tensor] = {}
        self._sent: tuple[Tile, torch.Tensor, Pixels] | None = None
        self._returning: tuple[torch.Tensor, Pixels] | None = None

    def send(self, tile: Tile, out: Pixels) -> None:
        """Begin to copy the voxels to the device."""
        staged = self._staging("up", tile.block.shape, tile.block.dtype)
        _copy(tile.block, staged.numpy())
        with torch.cuda.stream(self._stream):  # None: does nothing
            tensor = staged.to(self._device, non_blocking=True)
        self._sent = (replace(tile, block=staged.numpy()), tensor, out)

    def compute(self) -> None:
        """Sample what was sent, and begin to copy the result back."""
        if self._sent is None:
            return
        tile, tensor, out = self._sent
        back = self._staging("down", out.shape, out.dtype)
        with torch.cuda.stream(self._stream):
            boxes = tile.read_box, tile.matrix, tile.out_box
            result = sample(tensor, *boxes, order=tile.order, fill=tile.fill, edge=tile.edge)
            back.copy_(result, non_blocking=True)
        self._sent, self._returning = None, (back, out)

    def take_back(self) -> list[tuple[Tile, Pixels]]:
        """The tile that was sent and not computed, with a block of its own; empty where there is none."""
        sent, self._sent = self._sent, None
        if self._stream is not None:
            self._stream.synchronize()
        return [] if sent is None else [(replace(sent[0], block=sent[0].block.copy()), sent[2])]

    def finish(self) -> None:
        """Wait for the result and copy it to its array."""
        if self._returning is None:
            return
        if self._stream is not None:
            self._stream.synchronize()
        back, out = self._returning
        _copy(back.numpy(), out)
        self._returning = None

    def _staging(self, direction: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> torch.Tensor:
        nbytes = int(np.prod(shape)) * dtype.itemsize
        memory = self._staged.get(direction)
        if memory is None or len(memory) < nbytes:
            memory = self._staged[direction] = torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._cuda)
        kind = torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype
        return memory[:nbytes].view(kind).reshape(shape)


def _copy(source: Pixels, target: Pixels) -> None:
    """Copy by several threads where there is much to copy: one alone is slower than the bus."""
    if source.nbytes < _LARGE_COPY:
        target[...] = source
        return
    long = (k for k, n in enumerate(source.shape) if n >= _FEW_ROWS)
    before = (slice(None),) * next(long, int(np.argmax(source.shape)))

    def part(first: int, stop: int) -> None:
        some = (*before, slice(first, stop))
        target[some] = source[some]

    shares(part, source.shape[len(before)])


def _halves(tile: Tile, out: Pixels) -> list[tuple[Tile, Pixels]] | None:
    """Two tiles that make up one, each with only what it reads; None where there is only one voxel."""
    if tile.block.ndim > tile.read_box.ndim and len(tile.block) > 1:
        middle = len(tile.block) // 2
        return [(replace(tile, block=tile.block[s]), out[s]) for s in (slice(middle), slice(middle, None))]
    # Rows are cut last: copies of half rows, out of an image of 384^3, took three times as long.
    *others, row = tile.out_box.shape
    axis = int(np.argmax(others)) if max(others) >= min(row, _FEW_ROWS) else len(others)
    start, stop = tile.out_box.start, tile.out_box.stop
    middle = (start[axis] + stop[axis]) // 2
    if middle == start[axis]:
        return None
    halves = []
    for a, b in ((start[axis], middle), (middle, stop[axis])):
        half = Box((*start[:axis], a, *start[axis + 1 :]), (*stop[:axis], b, *stop[axis + 1 :]))
        read = tile.read_box
        if not isinstance(tile.matrix, Displaced):
            read = touched_box(tile.matrix, half, tile.read_box.stop, halo(tile.order)) & read
        source: tuple[Any, ...] = (..., *read.within(tile.read_box).slices)
        target: tuple[Any, ...] = (..., *half.within(tile.out_box).slices)
        halves.append((replace(tile, block=tile.block[source], read_box=read, out_box=half), out[target]))
    return halves
