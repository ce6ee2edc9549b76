"""`LayerPair`: a pair of lazy images and layers of B-splines between them, box by box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from daskreg.fields.index_map import DisplacedIndexMap
from daskreg.geometry import Box, Transform
from daskreg.registration.blockwise.image import StoredVoxels
from daskreg.registration.blockwise.pair import LazyPair
from daskreg.registration.blockwise.slabs import stored_slabs
from daskreg.registration.deformable.level_images import LevelImages, slopes_of, without_edges
from daskreg.registration.normal_equations.part import Part
from daskreg.runtime.threads import pool_threads
from daskreg.sampling.sample import sample

Singles = NDArray[np.float32]

_ORDER = 3
# Voxels beyond those of linear interpolation from which the splines of the moving image are made. What is farther away
# counts 0.27 to this power: 1e-4.
_MARGIN = 7


@dataclass(frozen=True)
class LayerPair:
    """The images; the maps from voxels of fixed to voxels of moving: the first one counts, others are only compared.

    matched: whether gain and offset are free.
    """

    pair: LazyPair
    maps: tuple[DisplacedIndexMap, ...]
    matched: bool

    @classmethod
    def of(cls, pair: LazyPair, transforms: Sequence[Transform], *, matched: bool) -> LayerPair:
        """From transforms, the first of which counts.

        Raises: TypeError for one without a displacement field.
        """
        grids = pair.fixed.grid, pair.moving.grid
        maps = [transform.index_map(*grids, grids[1].names) for transform in transforms]
        displaced = tuple(one for one in maps if isinstance(one, DisplacedIndexMap))
        if len(displaced) < len(maps):
            raise TypeError("transforms with a displacement field are needed")
        return cls(pair, displaced, matched)

    def needs(self, inside: Box) -> tuple[Box, Box]:
        """The voxels of both levels that a box of the fixed one needs; those of moving may be none."""
        boxes = [one.read_box(inside, self.pair.moving.shape, _MARGIN) for one in self.maps]
        return self.pair.around(inside), reduce(lambda a, b: a | b, boxes)

    def restrict(self, inside: Box) -> LayerPair:
        """The same, carrying only what a box needs."""
        fixed, moving = self.needs(inside)
        pair = replace(self.pair, fixed=self.pair.fixed.restrict(fixed), moving=self.pair.moving.restrict(moving))
        return replace(self, pair=pair, maps=tuple(one.restrict(inside) for one in self.maps))

    def read_slabs(self, slabs: Sequence[Box]) -> Iterator[tuple[StoredVoxels, StoredVoxels] | None]:
        """What one box after another needs; None where the images do not overlap."""
        return stored_slabs((self.pair.fixed, self.pair.moving), [self.needs(slab) for slab in slabs])

    def images(self, stored: tuple[StoredVoxels, StoredVoxels], inside: Box) -> LevelImages | None:
        """A box of both images as the level in memory has them; None where they do not overlap there."""
        around, where = self.needs(inside)
        if where.empty:
            return None
        fixed, moving = self.pair.fixed.level(stored[0], around), self.pair.moving.level(stored[1], where)
        inner = inside.within(around).slices
        weight = reduce(np.multiply.outer, Part(around, where, around).axis_weights(self.pair.shape))
        if fixed.weight is not None:
            weight = without_edges(weight * fixed.weight[0].numpy())
        values, other = fixed.values[0].numpy(), moving.values[0].numpy()
        if moving.weight is not None:
            other = np.where(moving.weight[0].numpy() > 0.5, other, np.float32(np.nan))
        gradient = slopes_of(values, self.pair.fixed.grid.spacing)
        return LevelImages(
            np.ascontiguousarray(values[inner]),
            np.ascontiguousarray(weight[inner]),
            np.ascontiguousarray(gradient[(slice(None), *inner)]),
            np.ascontiguousarray(other),
            self.pair.fixed.grid.crop(inside),
            self.pair.moving.grid.crop(where),
            self.matched,
            self.pair.step,
        )

    def warp(self, images: LevelImages, inside: Box, number: int = 0) -> Singles:
        """(*inside.shape) the moving image by one of the maps, NaN where it is unknown."""
        pull, threads = self.maps[number].coordinates(inside), pool_threads() > 1
        where = self.needs(inside)[1]
        found = sample(images.moving, where, pull, inside, order=_ORDER, fill=np.nan, parallel=threads)
        return np.asarray(found)
