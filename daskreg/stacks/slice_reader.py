"""`SliceReader`: the slices of a stack as float32, downsampled while they are read.

Estimates on a stack larger than memory read a few slices at a time. These are read in tiles and
downsampled by block means; masked voxels are NaN.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box, Grid
from daskreg.registration.pyramids.flat_borders import SMALLEST
from daskreg.sources.level import level_of
from daskreg.sources.source import Source
from daskreg.stacks.verdict.bad_voxels import BadVoxels

Pixels = NDArray[np.float32]

TILE_BYTES = 64 * 2**20
CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class SliceReader:
    """Slices of `source` along one of its dims, as means over blocks of `factors` voxels.

    Args:
        source: all its dims are `stack` or those of a slice.
        stack: position among the source's dims of the axis along which the slices are stacked.
        factors: for each dim of a slice; incomplete blocks at the end are left out.
        mask: a source of the same dims as `source`, or of a slice, that is true where voxels count.
        depth: how many slices are read together.
        offset: subtracted from the voxels before they become float32; None: that of `offset_of`.
        bad: voxels that hold nothing of the specimen, which are masked.
        striped: subtract the means of the lines of each slice, which hold the stripes of a detector.
        pattern: of the shape of a slice as read, subtracted from all after that.
    """

    source: Source
    stack: int
    factors: tuple[int, ...]
    mask: Source | None
    depth: int
    offset: float | None = None
    bad: BadVoxels | None = None
    striped: bool = False
    pattern: Pixels | None = field(default=None, compare=False)
    _blocks: OrderedDict[int, Pixels] = field(default_factory=OrderedDict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        source: Source,
        stack: int,
        *,
        mask: Source | None = None,
        most: int = 1024,
        offset: float | None = None,
        bad: BadVoxels | None = None,
        striped: bool = False,
        pattern: Pixels | None = None,
    ) -> SliceReader:
        """A reader whose slices have about as many voxels as with `most` along each axis, at most twice that."""
        shape = [n for k, n in enumerate(source.shape) if k != stack]
        factors = _factors(shape, most)
        size = 4 * math.prod(n // f for n, f in zip(shape, factors, strict=True))
        # Whole chunks where they fit in the cache, so that none is decoded twice.
        depth = min(max(source.chunks[stack], 16), source.shape[stack], max(1, CACHE_BYTES // (3 * size)))
        return cls(source, stack, factors, mask, depth, offset, bad, striped, pattern)

    @property
    def count(self) -> int:
        return self.source.shape[self.stack]

    @cached_property
    def whole(self) -> Grid:
        """The grid of one slice as stored."""
        lead = len(self.source.lead)
        return self.source.grid.take([k for k in range(self.source.grid.ndim) if k + lead != self.stack])

    @cached_property
    def grid(self) -> Grid:
        """The grid of one slice as read."""
        whole = self.whole
        used = Box.of([n // f * f for n, f in zip(whole.shape, self.factors, strict=True)])
        return whole.crop(used).downsample(self.factors)

    def read(self, indices: Sequence[int]) -> Pixels:
        """(len(indices), *slice shape); NaN where voxels are masked."""
        return np.stack([self._block(i // self.depth)[i % self.depth] for i in indices])

    def span(self, start: int, stop: int) -> Pixels:
        """(stop - start, *slice shape) consecutive slices, which are not cached."""
        return self._read(start, stop)

    def _block(self, number: int) -> Pixels:
        """`depth` slices; the last three blocks are cached."""
        if number not in self._blocks:
            while len(self._blocks) >= 3:
                self._blocks.popitem(last=False)
            start = number * self.depth
            self._blocks[number] = self._read(start, min(start + self.depth, self.count))
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _read(self, start: int, stop: int) -> Pixels:
        shape = self.grid.shape
        out = np.empty((stop - start, *shape), np.float32)
        rows = self._rows(stop - start)
        for first in range(0, shape[0], rows):
            last = min(first + rows, shape[0])
            inside = Box((first, *(0,) * (len(shape) - 1)), (last, *shape[1:]))
            out[:, first:last] = self._tile(start, stop, inside)
        if self.bad is not None:
            out[:, self.bad.fixed(shape)] = np.nan
        if self.striped:
            out = without_line_means(out)
        if self.pattern is not None:
            out -= self.pattern.reshape(shape)
        return out

    def _rows(self, depth: int) -> int:
        """Rows of a downsampled slice that are read at once: whole chunks where they fit."""
        dims = [k for k in range(self.source.ndim) if k != self.stack]
        row = depth * math.prod(self.source.shape[k] for k in dims[1:]) * max(4, self.source.dtype.itemsize)
        chunk = self.source.chunks[dims[0]]
        fit = max(1, TILE_BYTES // row)
        return max(1, (fit // chunk * chunk if fit >= chunk else fit) // self.factors[0])

    def _tile(self, start: int, stop: int, inside: Box) -> Pixels:
        box = _stacked(inside, self.factors, self.stack, start, stop)
        raw = np.moveaxis(self.source.read(box), self.stack, 0)
        with np.errstate(over="ignore"):  # what is too large for float32 counts as masked
            block = (raw.astype(np.float64) - self._subtracted if self._subtracted else raw).astype(np.float32)
        if self.bad is not None and self.bad.code is not None:
            block[raw == self.bad.code] = np.nan
        if self.mask is not None:
            block[~self._in_mask(box, inside)] = np.nan
        return _means(block, self.factors)

    @cached_property
    def _subtracted(self) -> float:
        return offset_of(self.source, self.stack) if self.offset is None else self.offset

    def _in_mask(self, box: Box, inside: Box) -> NDArray[np.bool_]:
        mask: Any = self.mask
        if mask.ndim == self.source.ndim:
            return np.asarray(np.moveaxis(mask.read(box), self.stack, 0), dtype=bool)
        full = Box(*(tuple(i * f for i, f in zip(e, self.factors, strict=True)) for e in (inside.start, inside.stop)))
        one = mask.read(full).astype(bool)
        return np.asarray(np.broadcast_to(one, (box.shape[self.stack], *one.shape)))


def without_line_means(images: Pixels) -> Pixels:
    """(N, *shape) images less the mean of each line of voxels along each axis in turn; NaN counts as masked."""
    for axis in range(1, images.ndim):
        known = np.isfinite(images)
        total = np.where(known, images, np.float32(0)).sum(axis=axis, keepdims=True, dtype=np.float64)
        images = images - (total / np.maximum(known.sum(axis=axis, keepdims=True), 1)).astype(np.float32)
    return images


def _factors(shape: Sequence[int], most: int) -> tuple[int, ...]:
    """How many voxels along each axis become one.

    Block means resolve less, and alias more, the longer they are: a shift is known to a hundredth of a block or so. So
    the factor of an image is one for both axes, from its number of voxels, and long images keep their resolution.
    A short axis keeps the voxels that shifts along it need; the other one then makes up for its part of the memory.
    Volumes are reduced along each axis by itself, as their number of voxels grows faster.
    """
    if sum(n > 1 for n in shape) == 2:
        factor = int(math.sqrt(math.prod(shape)) / most)
        short = max(1, min(factor, min(n for n in shape if n > 1) // SMALLEST))
        if short < factor:
            factor = max(factor, math.ceil(math.prod(shape) / (short * (2 * most) ** 2)))
        return tuple(max(1, min(factor, n // SMALLEST)) for n in shape)
    return tuple(max(1, n // most) for n in shape)


def offset_of(source: Source, stack: int) -> float:
    """The level of the middle slice, for all slices (see `sources.level`)."""
    middle = source.shape[stack] // 2
    start, stop = list(Box.of(source.shape).start), list(source.shape)
    start[stack], stop[stack] = middle, middle + 1
    return level_of(source.read, Box(tuple(start), tuple(stop)), source.dtype)


def _stacked(inside: Box, factors: Sequence[int], stack: int, start: int, stop: int) -> Box:
    """The box, along all dims, of slices start..stop and of a box of downsampled voxels."""
    lower = [i * f for i, f in zip(inside.start, factors, strict=True)]
    upper = [i * f for i, f in zip(inside.stop, factors, strict=True)]
    lower.insert(stack, start)
    upper.insert(stack, stop)
    return Box(tuple(lower), tuple(upper))


def _means(block: Pixels, factors: Sequence[int]) -> Pixels:
    """Means over complete blocks of the axes after the first; NaN and infinity count as masked."""
    finite = np.isfinite(block)
    clean = bool(finite.all())
    if all(f == 1 for f in factors):
        return block if clean else np.where(finite, block, np.float32(np.nan))
    if clean:
        return _block_mean(block, factors)
    share = _block_mean(finite.astype(np.float32), factors)
    total = _block_mean(np.where(finite, block, np.float32(0)), factors)
    return np.where(share > 0, total / np.maximum(share, np.float32(1e-6)), np.float32(np.nan))


def _block_mean(block: Pixels, factors: Sequence[int]) -> Pixels:
    split = [k for n, f in zip(block.shape[1:], factors, strict=True) for k in (n // f, f)]
    means = block.reshape(len(block), *split).mean(axis=tuple(range(2, 2 * len(factors) + 1, 2)), dtype=np.float32)
    return np.asarray(means, dtype=np.float32)
