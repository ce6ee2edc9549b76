"""`LazyImage`: one image of a pair that is read box by box, as the finest level of a pyramid would hold it.

Voxels pass through the same steps as those of an image in memory, by the same code: level and code of gaps, mask,
mean and scale, means over blocks of voxels, Gaussians. A box is read with what the filters reach, so that every voxel
has the value that it has in the whole level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.geometry import Box, Grid
from daskreg.registration.images import as_float32
from daskreg.registration.pyramids import filters
from daskreg.registration.pyramids.pyramid import ImageBatch, image_batch, shrink, smooth
from daskreg.sources.source import Source

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Region:
    """Where an image takes part, as it is known on a coarse level: one entry for `factors` voxels along each axis.

    start: of the first entry, in voxels of the coarse level.
    """

    inside: Bools
    factors: tuple[int, ...]
    start: tuple[int, ...]

    def box(self, box: Box, level_factors: Sequence[int]) -> Box:
        """The entries, counted over all, that a box of voxels of a finer level lies in."""
        last = [a + n for a, n in zip(self.start, self.inside.shape, strict=True)]
        index = zip(box.start, box.stop, level_factors, self.factors, last, strict=True)
        ends = [(min(a * f // w, n - 1), min((b * f - 1) // w, n - 1) + 1) for a, b, f, w, n in index]
        return Box(tuple(a for a, _ in ends), tuple(b for _, b in ends))

    def cut(self, box: Box) -> Region:
        """Only the entries of a box that are counted over all."""
        return replace(self, inside=self.inside[box.within(Box(self.start, self.start)).slices], start=box.start)

    def weight(self, box: Box, level_factors: Sequence[int]) -> NDArray[np.float32] | None:
        """1 inside and 0 outside, of a box of voxels of a finer level; None where all are inside."""
        entries = self.box(box, level_factors)
        part = self.cut(entries).inside
        if part.all():
            return None
        for axis, (a, b, f, w) in enumerate(zip(box.start, box.stop, level_factors, self.factors, strict=True)):
            index = np.arange(a, b) * f // w - entries.start[axis]
            part = part.take(np.minimum(index, part.shape[axis] - 1), axis)
        return part.astype(np.float32)


@dataclass(frozen=True)
class StoredVoxels:
    """Voxels as they are stored, of a box of the level, and where they count."""

    box: Box
    values: NDArray[Any]
    mask: Bools | None


@dataclass(frozen=True)
class LazyImage:
    """An image of a pair.

    source: its dims are the spatial ones. keep: those that are longer than one. mask: true where voxels count.
    grid: of the level, of which one voxel is the mean of `factors` of the source. sigmas: of Gaussians, one after
    another, in voxels of the level. offset, code: what is subtracted from the voxels, and the value of gaps.
    mean, scale: of the voxels less the offset.
    """

    source: Source
    keep: tuple[int, ...]
    mask: Source | None
    grid: Grid
    factors: tuple[int, ...]
    sigmas: tuple[tuple[float, ...], ...] = ()
    offset: float = 0.0
    code: float | None = None
    mean: float = 0.0
    scale: float = 1.0
    region: Region | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.grid.shape

    @property
    def chunks(self) -> tuple[int, ...]:
        """Voxels of the level along a stored chunk."""
        return tuple(-(-self.source.chunks[k] // f) for k, f in zip(self.keep, self.factors, strict=True))

    @property
    def bytes_per_voxel(self) -> int:
        """As stored, of one voxel of the level, with those of the mask."""
        return (self.source.dtype.itemsize + (self.mask is not None)) * math.prod(self.factors)

    @property
    def radii(self) -> tuple[int, ...]:
        """Voxels that the Gaussians reach along each axis."""
        reach = [[len(filters.gaussian_taps(s, n - 1)) // 2 for s, n in zip(one, self.shape, strict=True)]
                 for one in self.sigmas]  # fmt: skip
        return tuple(sum(r) for r in zip(*reach, strict=True)) if reach else (0,) * self.grid.ndim

    def smoothed_by(self, *sigmas: tuple[float, ...]) -> LazyImage:
        """The same with these Gaussians."""
        return replace(self, sigmas=tuple(s for s in sigmas if any(s)))

    def read(self, box: Box) -> StoredVoxels:
        """What the voxels of a box of the level need; the box may reach outside."""
        stored = self.stored_box(box)
        mask = None if self.mask is None else self.mask.read(stored) > 0
        return self.held(box, self.source.read(stored), mask)

    def stored_box(self, box: Box) -> Box:
        """The voxels of the source that a box of the level needs; the box may reach outside."""
        return self._stored(box.grow(self.radii).clip(self.shape))

    def held(self, box: Box, values: NDArray[Any], mask: Bools | None) -> StoredVoxels:
        """What was read of the `stored_box` of a box."""
        wide = box.grow(self.radii).clip(self.shape)
        return StoredVoxels(wide, self._kept(values), None if mask is None else self._kept(mask))

    def level(self, stored: StoredVoxels, box: Box) -> ImageBatch:
        """The voxels of a box as the level holds them, (1, *box.shape), with the grid of the whole level."""
        wide = box.grow(self.radii).clip(self.shape)
        index = Box(*(tuple(i * f for i, f in zip(ends, self.factors, strict=True))
                      for ends in (wide.within(stored.box).start, wide.within(stored.box).stop))).slices  # fmt: skip
        values, _ = as_float32(stored.values[index], self.offset, self.code)
        mask = None if stored.mask is None else torch.from_numpy(stored.mask[index])[None]
        batch = image_batch(torch.from_numpy(values)[None], Grid(values.shape), mask, find_borders=False)
        del values  # no array is kept beside the next one
        mean, scale = (torch.tensor([x], dtype=torch.float64) for x in (self.mean, self.scale))
        batch = replace(batch, values=filters.scaled(batch.values, batch.weight, mean, scale, in_place=True))
        batch = shrink(batch, self.factors)
        for sigmas in self.sigmas:
            batch = smooth(batch, sigmas)
        inner: Any = (slice(None), *box.within(wide).slices)
        region = None if self.region is None else self.region.weight(box, self.factors)
        weight = None if batch.weight is None else batch.weight[inner]
        if region is not None:
            weight = torch.from_numpy(region)[None] * (1.0 if weight is None else weight)
        return ImageBatch(batch.values[inner], weight, self.grid)

    def restrict(self, box: Box) -> LazyImage:
        """The same image, carrying only what reading inside `box` needs."""
        stored = self.stored_box(box)
        mask = None if self.mask is None else self.mask.restrict(stored)
        region = None if self.region is None else self.region.cut(self.region.box(box.clip(self.shape), self.factors))
        return replace(self, source=self.source.restrict(stored), mask=mask, region=region)

    def _stored(self, box: Box) -> Box:
        """Voxels of the source of a box of the level."""
        start, stop = [0] * self.source.ndim, [1] * self.source.ndim
        for k, f, a, b in zip(self.keep, self.factors, box.start, box.stop, strict=True):
            start[k], stop[k] = a * f, b * f
        return Box(tuple(start), tuple(stop))

    def _kept(self, values: NDArray[Any]) -> NDArray[Any]:
        return values.reshape([values.shape[k] for k in self.keep])
