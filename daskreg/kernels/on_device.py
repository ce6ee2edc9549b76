"""Sample NumPy blocks on the device of choice, and give NumPy back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box, touched_box
from daskreg.kernels.sampling import halo, sample

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Pixels = NDArray[Any]

TILE_BYTES = 32 * 2**20
"""What a GPU is given at once: while one tile is computed, the next is on its way."""

LANES = 3
"""Tiles on their way: one up, one being computed, one down."""


@dataclass(frozen=True)
class Tile:
    """Voxels of `out_box` seen through `matrix` in `block` (*batch, *read_box.shape)."""

    block: Pixels
    read_box: Box
    matrix: NDArray[np.float64]
    out_box: Box
    order: int
    fill: float


class Sampler(Protocol):
    """What `on_device` gives."""

    def put(self, piece: Tile, out: Pixels) -> None:
        """Sample `piece` into `out`, at the latest when the context is left."""


@contextmanager
def on_device(device: str, *, parallel: bool = False) -> Iterator[Sampler]:
    """A sampler for "cpu" (numba) or "cuda[:i]" (torch); what was put in is done when the context ends.

    Args:
        parallel: use several threads for each piece (CPU).
    """
    if device == "cpu":
        yield OnCpu(parallel)
        return
    import torch

    belt = Belt(torch.device(device))
    yield belt
    belt.finish()


@dataclass(frozen=True)
class OnCpu:
    """Samples at once, in this thread or in several."""

    parallel: bool

    def put(self, piece: Tile, out: Pixels) -> None:
        direct = out if out.flags.c_contiguous else None
        result = sample(
            np.ascontiguousarray(piece.block),
            piece.read_box,
            piece.matrix,
            piece.out_box,
            order=piece.order,
            fill=piece.fill,
            out=direct,
            parallel=self.parallel,
        )
        if direct is None:
            out[...] = result


class Belt:
    """Brings tiles to a GPU and back through pinned memory, so that copies overlap with computing.

    Out of memory on the GPU, a tile is cut in halves, as often as it takes, and said in the log.
    On a CPU the same goes without pinned memory and streams.
    """

    def __init__(self, device: torch.device, *, tile_bytes: int = TILE_BYTES, lanes: int = LANES) -> None:
        self._lanes = [_Lane(device) for _ in range(lanes)]
        self._device = device
        self._tile_bytes = tile_bytes
        self._next = 0

    def put(self, piece: Tile, out: Pixels) -> None:
        if max(piece.block.nbytes, out.nbytes) > self._tile_bytes:
            halves = _halves(piece, out)
            if halves is not None:
                for half, part in halves:
                    self.put(half, part)
                return
        self._start(piece, out)

    def _start(self, piece: Tile, out: Pixels) -> None:
        import torch

        lane = self._lanes[self._next]
        self._next = (self._next + 1) % len(self._lanes)
        lane.finish()
        try:
            lane.start(piece, out)
        except torch.cuda.OutOfMemoryError:
            halves = _halves(piece, out)
            if halves is None:
                raise
            self.finish()
            log.warning("out of memory on %s: trying again with half of the tile %s", self._device, piece.out_box)
            torch.cuda.empty_cache()
            for half, part in halves:
                self._start(half, part)

    def finish(self) -> None:
        """Wait for all that is under way."""
        for lane in self._lanes:
            lane.finish()


class _Lane:
    """One tile on its way, with a stream and staging memory of its own, which is used again."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self._room: dict[str, torch.Tensor] = {}
        self._waiting: tuple[torch.Tensor, Pixels] | None = None

    def start(self, piece: Tile, out: Pixels) -> None:
        import torch

        staged = self._staging("up", piece.block.shape, piece.block.dtype)
        staged.numpy()[...] = piece.block
        back = self._staging("down", out.shape, out.dtype)
        with torch.cuda.stream(self._stream):  # None: does nothing
            tensor = staged.to(self._device, non_blocking=True)
            result = sample(tensor, piece.read_box, piece.matrix, piece.out_box, order=piece.order, fill=piece.fill)
            back.copy_(result, non_blocking=True)
        self._waiting = (back, out)

    def finish(self) -> None:
        if self._waiting is None:
            return
        if self._stream is not None:
            self._stream.synchronize()
        back, out = self._waiting
        out[...] = back.numpy()
        self._waiting = None

    def _staging(self, way: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> torch.Tensor:
        import torch

        nbytes = int(np.prod(shape)) * dtype.itemsize
        room = self._room.get(way)
        if room is None or len(room) < nbytes:
            room = self._room[way] = torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._cuda)
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        return room[:nbytes].view(kind).reshape(shape)


def _halves(piece: Tile, out: Pixels) -> list[tuple[Tile, Pixels]] | None:
    """Two pieces that make up one, each with only what it reads; None where there is but one voxel."""
    if piece.block.ndim > piece.read_box.ndim and len(piece.block) > 1:
        middle = len(piece.block) // 2
        return [(replace(piece, block=piece.block[s]), out[s]) for s in (slice(middle), slice(middle, None))]
    axis = int(np.argmax(piece.out_box.shape))
    start, stop = piece.out_box.start, piece.out_box.stop
    middle = (start[axis] + stop[axis]) // 2
    if middle == start[axis]:
        return None
    halves = []
    for a, b in ((start[axis], middle), (middle, stop[axis])):
        half = Box((*start[:axis], a, *start[axis + 1 :]), (*stop[:axis], b, *stop[axis + 1 :]))
        read = touched_box(piece.matrix, half, piece.read_box.stop, halo(piece.order)) & piece.read_box
        seen: tuple[Any, ...] = (..., *read.within(piece.read_box).slices)
        into: tuple[Any, ...] = (..., *half.within(piece.out_box).slices)
        halves.append((replace(piece, block=piece.block[seen], read_box=read, out_box=half), out[into]))
    return halves
