"""What a block computes: `Job` (a warp or a copy) and `Downsample` (the next pyramid level).

Both are small frozen descriptions that travel to the workers and implement `Task`: which source box
an output box needs, what identifies its pixels, how much memory they take, and the pixels themselves.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from itertools import chain
from operator import or_
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.fingerprints import BlockFingerprints
from daskreg.blocks.source_buffer import BufferLayout, ScratchBuffer, SourceBuffer, buffer_layout, slabs, thread_scratch
from daskreg.geometry import Box, Grid, IndexMap
from daskreg.runtime.device import count_gpus, resolve_in_task
from daskreg.sampling.cast import CAST_PIECE, cast
from daskreg.sampling.downsample import block_reduce, reduce_scratch
from daskreg.sampling.sample import halo
from daskreg.sampling.tile_sampler import tile_sampler
from daskreg.sampling.tiles import Tile
from daskreg.sources.source import Source

Pixels = NDArray[Any]


@dataclass
class BlockStats:
    """Counts of one block: decoded bytes that came out of the source, and voxels clamped by the cast."""

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
        edge: what the outer half of the outermost voxels shows; see `sampling.sample`.
    """

    source: Source
    mapping: IndexMap
    grid: Grid
    order: int
    fill: float
    dtype: np.dtype[Any]
    device: str = "auto"
    edge: str = "fill"

    @property
    def dims(self) -> tuple[str, ...]:
        return self.source.dims

    @property
    def makes_labels(self) -> bool:
        """Whether no mean of voxels must be taken: they are bool, or integers that are not interpolated."""
        return self.dtype.kind == "b" or (self.dtype.kind in "iu" and self.order == 0)

    @property
    def lead_shape(self) -> tuple[int, ...]:
        return self.source.shape[: len(self.source.dims) - self.source.grid.ndim]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.lead_shape + self.grid.shape

    @cached_property
    def _source_fingerprint(self) -> str:
        return self.source.fingerprint()

    @property
    def computed_dtype(self) -> np.dtype[Any]:
        """The type that is sampled in: the source's, a wider one that holds the fill, or float where the output is."""
        if self.dtype.kind == "f" and self.source.dtype.kind != "f":
            return np.dtype(np.float64 if self.source.dtype.itemsize > 2 else np.float32)
        if self.source.dtype.kind != "f" and cast(np.asarray([self.fill]), self.source.dtype)[1]:
            return np.promote_types(self.source.dtype, self.dtype)
        return self.source.dtype

    @property
    def stored_fill(self) -> Any:
        """The fill as the output has it, in its type."""
        return _fill_value(self.fill, self.dtype)

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
            self._source_fingerprint,
            numbers,
            (*layout, box.start, box.stop),
            (self.order, float(self.fill), self.dtype.str),
            *((self.edge,) if self.edge != "fill" else ()),
        ):
            digest.update(part if isinstance(part, bytes) else repr(part).encode())
        return digest.hexdigest()[:32]

    def working_bytes(self, box: Box, part: Box, unit: Sequence[int]) -> int:
        """Bytes of the source buffer, and of computing the largest part (on a GPU: a slab of the block)."""
        cut = slabs(box, unit)
        if self.device.startswith("cuda") or (self.device == "auto" and count_gpus() > 0):
            part = cut[0]
        read = self.read_box(part)
        total = self._buffer_bytes(cut) + part.size * self.computed_dtype.itemsize + self.mapping.coordinate_bytes(part)
        if self.order == 3:
            sampled = [read.shape[k] for k in self.mapping.sampled]
            batch = math.prod(read.shape[k] for k in self.mapping.batch)
            total += 3 * 8 * math.prod(n + 24 for n in sampled) * batch
        if self.computed_dtype != self.dtype:
            total += part.size * self.dtype.itemsize + 20 * min(part.size, CAST_PIECE)
        return total

    def _buffer_bytes(self, cut: Sequence[Box]) -> int:
        layout = self.buffer_layout(cut)
        total = math.prod(layout.shape) * self.computed_dtype.itemsize
        if not self.source.reads_into_buffers:  # read into an array of its own and then copied to the buffer
            longest = max(b - a for a, b in layout.spans)
            total += layout.whole.size // max(1, layout.whole.shape[layout.axis]) * longest * self.source.dtype.itemsize
        return total

    def buffer_layout(self, cut: Sequence[Box]) -> BufferLayout:
        """How the source is buffered while the slabs of a block are computed. A dask graph is computed only once."""
        needs = [self.read_box(slab) for slab in cut]
        if self.source.carries_data:
            needs = [reduce(or_, needs)] * len(needs)
        return buffer_layout(needs, self.source.chunks, self.computed_dtype.itemsize)

    def run(self, parts: Sequence[Sequence[Box]], stats: BlockStats) -> Iterator[Pixels]:
        """The pixels of each of the parts of each slab of a block, whose source is read once."""
        with thread_scratch() as scratch:
            yield from _run_slabs(self, parts, stats=stats, scratch=scratch)


def run_block(job: Job, box: Box, *, parallel: bool = False) -> Pixels:
    """The pixels of one output box: read what it needs, sample it.

    Args:
        parallel: use all cores for this block (one in-memory call, not inside Dask tasks).
    """
    return next(_run_slabs(job, [[box]], stats=BlockStats(), parallel=parallel))


def _run_slabs(
    job: Job,
    parts: Sequence[Sequence[Box]],
    *,
    stats: BlockStats,
    scratch: ScratchBuffer | None = None,
    parallel: bool = False,
) -> Iterator[Pixels]:
    """The pixels of each part, computed when it is asked for, so that a block takes the memory of one part only.

    A GPU computes a whole slab at once.
    """
    cut = [reduce(or_, slab) for slab in parts]
    device = resolve_in_task(job.device)  # once for a block: its pieces may be thousands
    source = SourceBuffer(job.source, job.buffer_layout(cut), job.computed_dtype, scratch)
    for number, (slab, whole) in enumerate(zip(parts, cut, strict=True)):
        data, read = source.load(number)
        stats.bytes_read = source.voxels_read * job.source.dtype.itemsize
        if device == "cpu":
            for part in slab:
                # No variable here may refer to a part while the next one is computed.
                yield _cast(_pixels(job, part, data, read, device=device, parallel=parallel), job, stats)
            continue
        pixels = _cast(_pixels(job, whole, data, read, device=device, parallel=parallel), job, stats)
        yield from (pixels[part.within(whole).slices] for part in slab)


def _cast(pixels: Pixels, job: Job, stats: BlockStats) -> Pixels:
    result, clipped = cast(pixels, job.dtype)
    stats.clipped += clipped
    return result


def _pixels(job: Job, box: Box, data: Pixels, read: Box, *, device: str, parallel: bool) -> Pixels:
    """The voxels of `box` in `job.computed_dtype`, out of `data`, the voxels of the source in `read`."""
    pieces = list(job.mapping.pieces(box, job.source.shape, halo(job.order)))
    out = np.empty(box.shape, job.computed_dtype)
    if sum(piece.out.size for piece in pieces) < box.size:  # pieces are disjoint; the rest is fill
        out[...] = _fill_value(job.fill, job.computed_dtype)
    sampled, axes = job.mapping.sampled, (*job.mapping.carried, *job.mapping.sampled)
    contiguous = data.flags.c_contiguous
    with tile_sampler(device, parallel=parallel) as sampler:
        for piece in pieces:
            # Whole planes need no copy; a GPU gets only what it reads.
            part = _whole_planes(piece.read, read, sampled) if device == "cpu" and contiguous else piece.read
            block = data[part.within(read).slices].transpose(axes)
            boxes = part.take(sampled), piece.coordinates, piece.out.take(sampled)
            one = Tile(block, *boxes, job.order, job.fill, job.edge)
            sampler.put(one, out[piece.out.within(box).slices].transpose(axes))
    return out


def _whole_planes(part: Box, whole: Box, sampled: Sequence[int]) -> Box:
    """`part`, as wide as `whole` along the sampled axes."""
    start = tuple(w if k in sampled else p for k, (p, w) in enumerate(zip(part.start, whole.start, strict=True)))
    stop = tuple(w if k in sampled else p for k, (p, w) in enumerate(zip(part.stop, whole.stop, strict=True)))
    return Box(start, stop)


def _fill_value(fill: float, dtype: np.dtype[Any]) -> Any:
    return cast(np.asarray([fill], dtype=np.float64), dtype)[0][0]


@dataclass(frozen=True, eq=False)
class Downsample:
    """A pyramid level out of the one below: blocks of `factors` voxels become one.

    Shape ceil(n / f); at the far ends the mean (or mode) is over the voxels that exist.

    Args:
        method: "mean", "nearest" (the middle voxel) or "mode" (the most frequent label).
        parents: fingerprints of the blocks of the level below. Those of this level are made of them, so
            that a block is computed again when the blocks below it were.
    """

    source: Source
    factors: tuple[int, ...]
    grid: Grid
    method: str
    parents: BlockFingerprints | None = field(default=None, repr=False)

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
        for parent in self.parents.within(self.read_box(box)) if self.parents else ():
            digest.update(parent.encode())
        return digest.hexdigest()[:32]

    def working_bytes(self, box: Box, part: Box, unit: Sequence[int]) -> int:
        """Bytes of reading and reducing one part."""
        read = self.read_box(part)
        return (read.size + part.size) * self.dtype.itemsize + reduce_scratch(read.shape, self.factors)

    def run(self, parts: Sequence[Sequence[Box]], stats: BlockStats) -> Iterator[Pixels]:
        with thread_scratch() as scratch:
            for part in chain.from_iterable(parts):
                box = self.read_box(part)
                data = scratch.array(box.shape, self.dtype)
                self.source.read_into(box, data)
                stats.bytes_read += data.nbytes
                yield block_reduce(data, self.factors, self.method)
