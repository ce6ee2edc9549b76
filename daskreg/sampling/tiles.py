"""Sample NumPy blocks on the device of choice, and give NumPy back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box, touched_box
from daskreg.sampling.sample import halo, sample

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Pixels = NDArray[Any]

TILE_BYTES = 32 * 2**20
"""What a GPU is given at once: while one tile is computed, the next is on its way."""

LANES = 3
"""Tiles on their way: one up, one being computed, one down."""

_MUCH, _SEVERAL = 1 << 20, 16
_own = threading.local()


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

    # A thread's belt is used again: a stream keeps the device memory that its work took, and each belt has its own.
    belts = _own.__dict__.setdefault("belts", {})
    belt = belts.pop(device, None) or Belt(torch.device(device))
    yield belt
    belt.finish()
    belts[device] = belt  # unless something failed


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

    A tile is computed when the next one is on its way, since sampling may look at the voxels first and
    so waits until they are there. Out of memory on the GPU, a tile is cut in halves, as often as it takes,
    and said in the log. On a CPU the same goes without pinned memory and streams.
    """

    def __init__(self, device: torch.device, *, tile_bytes: int = TILE_BYTES, lanes: int = LANES) -> None:
        self._lanes = [_Lane(device) for _ in range(lanes)]
        self._device = device
        self._tile_bytes = tile_bytes
        self._next = 0
        self._sent: _Lane | None = None

    def put(self, piece: Tile, out: Pixels) -> None:
        """Sample `piece` into `out`, until `finish`; the block may be overwritten at once."""
        if max(piece.block.nbytes, out.nbytes) > self._tile_bytes:
            halves = _halves(piece, out)
            if halves is not None:
                for half, part in halves:
                    self.put(half, part)
                return
        before, lane = self._sent, self._free()
        self._sent = None  # whatever happens to it, it is not begun twice
        if before is lane:  # there is but one
            self._compute(lane)
            lane.finish()
        if self._sends(lane, piece, out):
            self._sent = lane
        if before is not None and before is not lane:
            self._compute(before)

    def finish(self) -> None:
        """Wait for all that is under way."""
        last, self._sent = self._sent, None
        if last is not None:
            self._compute(last)
        for lane in self._lanes:
            lane.finish()

    def _free(self) -> _Lane:
        """The lane whose turn it is, with nothing under way but what was sent and not begun."""
        lane = self._lanes[self._next]
        self._next = (self._next + 1) % len(self._lanes)
        lane.finish()
        return lane

    def _sends(self, lane: _Lane, piece: Tile, out: Pixels) -> bool:
        """Whether there is room for the voxels; else they were sampled in halves."""
        import torch

        # Halves come after the `except`: until it ends, the error keeps what the failed call had on the GPU.
        with suppress(torch.cuda.OutOfMemoryError):
            lane.send(piece, out)
            return True
        self._split(piece, out)
        return False

    def _compute(self, lane: _Lane) -> None:
        import torch

        with suppress(torch.cuda.OutOfMemoryError):
            lane.compute()
            return
        for piece, out in lane.given_up():
            self._split(piece, out)

    def _split(self, piece: Tile, out: Pixels) -> None:
        """A tile that the GPU has no room for, alone and in halves.

        Raises: OutOfMemoryError where it is a single voxel.
        """
        import torch

        halves = _halves(piece, out)
        if halves is None:
            raise torch.cuda.OutOfMemoryError(f"{self._device} has no room for a single voxel of {piece.out_box}")
        log.warning("out of memory on %s: trying again with half of the tile %s", self._device, piece.out_box)
        for lane in self._lanes:
            lane.finish()
        torch.cuda.empty_cache()
        for half, part in halves:
            alone = _Lane(self._device)
            if self._sends(alone, half, part):
                self._compute(alone)
                alone.finish()


class _Lane:
    """One tile on its way, with a stream and staging memory of its own, which is used again."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self._room: dict[str, torch.Tensor] = {}
        self._sent: tuple[Tile, torch.Tensor, Pixels] | None = None
        self._waiting: tuple[torch.Tensor, Pixels] | None = None

    def send(self, piece: Tile, out: Pixels) -> None:
        """The voxels start for the device."""
        import torch

        staged = self._staging("up", piece.block.shape, piece.block.dtype)
        _copy(piece.block, staged.numpy())
        with torch.cuda.stream(self._stream):  # None: does nothing
            tensor = staged.to(self._device, non_blocking=True)
        self._sent = (replace(piece, block=staged.numpy()), tensor, out)

    def compute(self) -> None:
        """What was sent is sampled, and starts for home."""
        import torch

        if self._sent is None:
            return
        piece, tensor, out = self._sent
        back = self._staging("down", out.shape, out.dtype)
        with torch.cuda.stream(self._stream):
            result = sample(tensor, piece.read_box, piece.matrix, piece.out_box, order=piece.order, fill=piece.fill)
            back.copy_(result, non_blocking=True)
        self._sent, self._waiting = None, (back, out)

    def given_up(self) -> list[tuple[Tile, Pixels]]:
        """What was sent and not sampled, in memory of its own."""
        sent, self._sent = self._sent, None
        if self._stream is not None:
            self._stream.synchronize()
        return [] if sent is None else [(replace(sent[0], block=sent[0].block.copy()), sent[2])]

    def finish(self) -> None:
        if self._waiting is None:
            return
        if self._stream is not None:
            self._stream.synchronize()
        back, out = self._waiting
        _copy(back.numpy(), out)
        self._waiting = None

    def _staging(self, way: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> torch.Tensor:
        import torch

        nbytes = int(np.prod(shape)) * dtype.itemsize
        room = self._room.get(way)
        if room is None or len(room) < nbytes:
            room = self._room[way] = torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._cuda)
        kind = torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype
        return room[:nbytes].view(kind).reshape(shape)


def _copy(source: Pixels, target: Pixels) -> None:
    """By several threads where there is much to copy: one alone is slower than the bus."""
    if source.nbytes < _MUCH:
        target[...] = source
        return
    from daskreg.runtime.threads import shares

    long = (k for k, n in enumerate(source.shape) if n >= _SEVERAL)
    before = (slice(None),) * next(long, int(np.argmax(source.shape)))

    def part(first: int, stop: int) -> None:
        some = (*before, slice(first, stop))
        target[some] = source[some]

    shares(part, source.shape[len(before)])


def _halves(piece: Tile, out: Pixels) -> list[tuple[Tile, Pixels]] | None:
    """Two pieces that make up one, each with only what it reads; None where there is but one voxel."""
    if piece.block.ndim > piece.read_box.ndim and len(piece.block) > 1:
        middle = len(piece.block) // 2
        return [(replace(piece, block=piece.block[s]), out[s]) for s in (slice(middle), slice(middle, None))]
    # Whole rows, where there is else to cut: copies of half rows, out of an image of 384^3, took three times as long.
    *others, row = piece.out_box.shape
    axis = int(np.argmax(others)) if max(others) >= min(row, _SEVERAL) else len(others)
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
