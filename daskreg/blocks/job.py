"""What a block computes: `Job` (warp or copy) and `Downsample` (the next pyramid level).

Both are small frozen descriptions that travel to the workers, and answer the same
questions: which source box does an output box need, what identifies its result, how much
memory does it take, and what is it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from itertools import chain, product
from operator import or_
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.source_buffer import Course, Room, Window, course, lent_room, slabs
from daskreg.errors import OptionError
from daskreg.geometry import Box, Grid, IndexMap
from daskreg.runtime.device import count_gpus
from daskreg.sampling.cast import CAST_PIECE, cast
from daskreg.sampling.downsample import block_reduce, reduce_scratch
from daskreg.sampling.sample import halo
from daskreg.sampling.tiles import Tile, on_device
from daskreg.sources.source import IN_MEMORY, Source

Pixels = NDArray[Any]


@dataclass
class BlockStats:
    """What one block has to report besides its pixels."""

    bytes_read: int = 0
    clipped: int = 0


class Task(Protocol):
    """A description of output pixels, computable in boxes, in any order and any number of times."""

    @property
    def source(self) -> Source: ...
    @property
    def grid(self) -> Grid: ...
    @property
    def dims(self) -> tuple[str, ...]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def read_box(self, box: Box) -> Box: ...
    def restrict(self, box: Box) -> Task: ...
    def fingerprint(self, box: Box) -> str: ...
    def working_bytes(self, box: Box, part: Box, unit: Sequence[int]) -> int: ...
    def run(self, parts: Sequence[Sequence[Box]], stats: BlockStats) -> Iterator[Pixels]: ...


@dataclass(frozen=True, eq=False)
class Job:
    """One lazy warp: `source` sampled through `mapping` on `grid`.

    Args:
        mapping: output indices to source indices.
        order: 0 nearest, 1 linear, 3 cubic spline.
        fill: value outside the source.
        device: "auto", "cpu" or "cuda[:i]"; resolved where the block runs.
        token: identifies the result; the dask name is made of it.
    """

    source: Source
    mapping: IndexMap
    grid: Grid
    order: int
    fill: float
    dtype: np.dtype[Any]
    device: str = "auto"
    token: str = ""

    @property
    def dims(self) -> tuple[str, ...]:
        return self.source.dims

    @property
    def lead_shape(self) -> tuple[int, ...]:
        return self.source.shape[: len(self.source.dims) - self.source.grid.ndim]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.lead_shape + self.grid.shape

    @cached_property
    def _source_print(self) -> str:
        return self.source.fingerprint()

    @property
    def computed_dtype(self) -> np.dtype[Any]:
        """In what the kernel works: the source's type, a wider one for the fill, or float where the output is."""
        if self.dtype.kind == "f" and self.source.dtype.kind != "f":
            return np.dtype(np.float64 if self.source.dtype.itemsize > 2 else np.float32)
        if self.source.dtype.kind != "f" and cast(np.asarray([self.fill]), self.source.dtype)[1]:
            return np.promote_types(self.source.dtype, self.dtype)
        return self.source.dtype

    def read_box(self, box: Box) -> Box:
        """The source box that `box` needs; empty where it is fill only."""
        return self.mapping.read_box(box, self.source.shape, halo(self.order))

    def restrict(self, box: Box) -> Job:
        """The same job carrying only what `box` needs."""
        return replace(self, mapping=self.mapping.restrict(box), source=self.source.restrict(self.read_box(box)))

    def fingerprint(self, box: Box) -> str:
        """Identifies the pixels of `box`: its source, its own part of the index map, and how it is sampled."""
        numbers, layout = self.mapping.restrict(box).identity()
        digest = hashlib.sha256()
        for part in (
            self._source_print,
            numbers,
            (*layout, box.start, box.stop),
            (self.order, float(self.fill), self.dtype.str),
        ):
            digest.update(part if isinstance(part, bytes) else repr(part).encode())
        return digest.hexdigest()[:32]

    def working_bytes(self, box: Box, part: Box, unit: Sequence[int]) -> int:
        """Bytes of what is held of the source, and of computing the largest part (a slab of the block, for a GPU)."""
        cut = slabs(box, unit)
        if self.device.startswith("cuda") or (self.device == "auto" and count_gpus() > 0):
            part = cut[0]
        seen = self.read_box(part)
        total = self._held_bytes(cut) + part.size * self.computed_dtype.itemsize + self.mapping.coordinate_bytes(part)
        if self.order == 3:
            sampled = [seen.shape[k] for k in self.mapping.sampled]
            batch = math.prod(seen.shape[k] for k in self.mapping.batch)
            total += 3 * 8 * math.prod(n + 24 for n in sampled) * batch
        if self.computed_dtype != self.dtype:
            total += part.size * self.dtype.itemsize + 20 * min(part.size, CAST_PIECE)
        return total

    def _held_bytes(self, cut: Sequence[Box]) -> int:
        held = self.course(cut)
        total = math.prod(held.shape) * self.computed_dtype.itemsize
        if self.source.kind != "zarr":  # read in one piece and then put there
            thick = max(b - a for a, b in held.spans)
            total += held.whole.size // max(1, held.whole.shape[held.axis]) * thick * self.source.dtype.itemsize
        return total

    def course(self, cut: Sequence[Box]) -> Course:
        """How the source is held while the slabs of a block are made; a graph is computed once."""
        needs = [self.read_box(slab) for slab in cut]
        if self.source.kind in IN_MEMORY:
            needs = [reduce(or_, needs)] * len(needs)
        return course(needs, self.source.chunks, self.computed_dtype.itemsize)

    def run(self, parts: Sequence[Sequence[Box]], stats: BlockStats) -> Iterator[Pixels]:
        """The pixels of each of the parts of each slab of a block, whose source is read once."""
        with lent_room() as room:
            yield from _run_slabs(self, parts, stats=stats, room=room)


def run_block(job: Job, box: Box, *, parallel: bool = False) -> Pixels:
    """The pixels of one output box: read what it needs, sample it.

    Args:
        parallel: use all cores for this block (one in-memory call, not inside Dask tasks).
    """
    return next(_run_slabs(job, [[box]], stats=BlockStats(), parallel=parallel))


def _run_slabs(
    job: Job, parts: Sequence[Sequence[Box]], *, stats: BlockStats, room: Room | None = None, parallel: bool = False
) -> Iterator[Pixels]:
    """One part after another is computed, when it is asked for, out of what its slab needs.

    So a block needs no memory for its output, but that of one part. GPUs are given a slab at once.
    """
    cut = [reduce(or_, slab) for slab in parts]
    device = _device_here(job.device)
    held = Window(job.source, job.course(cut), job.computed_dtype, room)
    for number, (slab, whole) in enumerate(zip(parts, cut, strict=True)):
        data, read = held.hold(number)
        stats.bytes_read = held.voxels_read * job.source.dtype.itemsize
        if device == "cpu":
            for part in slab:
                # Nothing here may hold on to a part while the next is made.
                yield _cast(_pixels(job, part, data, read, device=device, parallel=parallel), job, stats)
            continue
        pixels = _cast(_pixels(job, whole, data, read, device=device, parallel=parallel), job, stats)
        yield from (pixels[part.within(whole).slices] for part in slab)


def _cast(pixels: Pixels, job: Job, stats: BlockStats) -> Pixels:
    result, clipped = cast(pixels, job.dtype)
    stats.clipped += clipped
    return result


def _pixels(job: Job, box: Box, data: Pixels, read: Box, *, device: str, parallel: bool) -> Pixels:
    """The voxels of `box` in the type of the kernel, out of `data`, the voxels of the source in `read`."""
    pieces = list(job.mapping.pieces(box, job.source.shape, halo(job.order)))
    out = np.empty(box.shape, job.computed_dtype)
    if sum(piece.out.size for piece in pieces) < box.size:  # pieces are disjoint; the rest is fill
        out[...] = _fill_value(job.fill, job.computed_dtype)
    sampled, axes = job.mapping.sampled, (*job.mapping.carried, *job.mapping.sampled)
    plain = data.flags.c_contiguous
    with on_device(device, parallel=parallel) as sampler:
        for piece in pieces:
            # Whole planes need no copy; a GPU is sent what it reads.
            seen = _whole_planes(piece.read, read, sampled) if device == "cpu" and plain else piece.read
            block = data[seen.within(read).slices].transpose(axes)
            view = Tile(block, seen.take(sampled), piece.coordinates, piece.out.take(sampled), job.order, job.fill)
            sampler.put(view, out[piece.out.within(box).slices].transpose(axes))
    return out


def _whole_planes(part: Box, whole: Box, sampled: Sequence[int]) -> Box:
    """`part`, as wide as `whole` along the sampled axes."""
    start = tuple(w if k in sampled else p for k, (p, w) in enumerate(zip(part.start, whole.start, strict=True)))
    stop = tuple(w if k in sampled else p for k, (p, w) in enumerate(zip(part.stop, whole.stop, strict=True)))
    return Box(start, stop)


def _device_here(device: str) -> str:
    """What "auto" means in this process, found once for a block: its pieces may be thousands.

    Raises: OptionError for a CUDA device that is not there.
    """
    if device == "cpu":
        return "cpu"
    found = count_gpus()
    if device == "auto":
        return "cuda" if found else "cpu"
    number = device.partition(":")[2] or "0"
    if found and int(number) >= found:
        raise OptionError(f"device={device!r}: there is no such CUDA device here, but {found}, counted from 0")
    if not found:
        raise OptionError(f"device={device!r}: there is no CUDA device here; use 'auto' or 'cpu'")
    return device


def _fill_value(fill: float, dtype: np.dtype[Any]) -> Any:
    return cast(np.asarray([fill], dtype=np.float64), dtype)[0][0]


@dataclass(frozen=True, eq=False)
class Downsample:
    """A pyramid level out of the one below: blocks of `factors` voxels become one.

    Shape ceil(n / f); at the far ends the mean (or mode) is over the voxels that exist.

    Args:
        method: "mean", "nearest" (the middle voxel) or "mode" (the most frequent label).
        parents: fingerprints of the blocks of the level below, so that a
            block is made again when what it is made of was.
    """

    source: Source
    factors: tuple[int, ...]
    grid: Grid
    method: str
    parents: Prints | None = field(default=None, repr=False)

    @property
    def dims(self) -> tuple[str, ...]:
        return self.source.dims

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(-(-n // f) for n, f in zip(self.source.shape, self.factors, strict=True))

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    def read_box(self, box: Box) -> Box:
        return Box(
            tuple(a * f for a, f in zip(box.start, self.factors, strict=True)),
            tuple(b * f for b, f in zip(box.stop, self.factors, strict=True)),
        ).clip(self.source.shape)

    def restrict(self, box: Box) -> Downsample:
        return replace(self, source=self.source.restrict(self.read_box(box)), parents=None)

    def fingerprint(self, box: Box) -> str:
        digest = hashlib.sha256(repr((self.method, self.factors, box.start, box.stop)).encode())
        for print_ in self.parents.within(self.read_box(box)) if self.parents else ():
            digest.update(print_.encode())
        return digest.hexdigest()[:32]

    def working_bytes(self, box: Box, part: Box, unit: Sequence[int]) -> int:
        """Bytes of reading and computing one part."""
        read = self.read_box(part)
        return (read.size + part.size) * self.dtype.itemsize + reduce_scratch(read.shape, self.factors)

    def run(self, parts: Sequence[Sequence[Box]], stats: BlockStats) -> Iterator[Pixels]:
        with lent_room() as room:
            for part in chain.from_iterable(parts):
                box = self.read_box(part)
                data = room.array(box.shape, self.dtype)
                self.source.read_into(box, data)
                stats.bytes_read += data.nbytes
                yield block_reduce(data, self.factors, self.method)


class Prints:
    """Fingerprints of the blocks of a level, each made when it is first asked for.

    So a run of a million blocks starts at once. They are kept in 32 bytes each.
    """

    def __init__(self, task: Task, block_shape: tuple[int, ...]) -> None:
        self._task = task
        self._block_shape = block_shape
        self.counts = tuple(-(-n // b) for n, b in zip(task.shape, block_shape, strict=True))
        self._known = np.zeros(self.counts, dtype="S32")

    def __contains__(self, index: tuple[int, ...]) -> bool:
        """Whether there is a block of this index."""
        return len(index) == len(self.counts) and all(0 <= i < n for i, n in zip(index, self.counts, strict=True))

    def __getitem__(self, index: tuple[int, ...]) -> str:
        if not self._known[index]:
            start = tuple(i * b for i, b in zip(index, self._block_shape, strict=True))
            stop = tuple(a + b for a, b in zip(start, self._block_shape, strict=True))
            self._known[index] = self._task.fingerprint(Box(start, stop).clip(self._task.shape)).encode()
        return bytes(self._known[index]).decode()

    def within(self, box: Box) -> Iterator[str]:
        """Those of the blocks that `box` touches, in C order."""
        ranges = [range(a // b, -(-z // b)) for a, z, b in zip(box.start, box.stop, self._block_shape, strict=True)]
        return (self[index] for index in product(*ranges))
