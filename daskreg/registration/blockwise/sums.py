"""The sums of one block of the fixed image: what runs on a worker, or in a thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.geometry import Box
from daskreg.registration.blockwise.pair import LazyPair, tiles
from daskreg.registration.blockwise.slabs import slabs_of
from daskreg.registration.normal_equations.equations import NormalEquationsNumba
from daskreg.registration.normal_equations.part import Part
from daskreg.registration.normal_equations.sums import NormalSums
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel
from daskreg.registration.score_sums import CellSums, sums_of_part, together
from daskreg.runtime.device import library_threads, limit_threads
from daskreg.runtime.threads import use_threads

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

BRICK_MARGIN = 2
"""Voxels by which the pose may change while a brick has all that it reads of the moving image."""
_NORMAL, _CELLS = ("scalars", "j", "jw", "jd", "jj"), ("cells", "first", "cross", "slopes")
_BRICK = ("fixed", "fixed_weight", "moving", "moving_weight")


@dataclass(frozen=True)
class Brick:
    """A small box of voxels that is kept in memory.

    fixed, moving, and their weights: (1, *shape). part: where they lie in the images.
    """

    fixed: Singles
    fixed_weight: Singles | None
    moving: Singles
    moving_weight: Singles | None
    part: Part

    @classmethod
    def of(cls, level: PyramidLevel, part: Part) -> Brick:
        """Copies, which do not keep the arrays of a block in memory."""
        (fixed, fixed_weight), (moving, moving_weight) = (
            (image.values.numpy().copy(), None if image.weight is None else image.weight.numpy().copy())
            for image in (level.fixed, level.moving)
        )
        return cls(fixed, fixed_weight, moving, moving_weight, part)

    def level(self, pair: LazyPair) -> PyramidLevel:
        """As a level of the pair."""
        images = ((self.fixed, self.fixed_weight, pair.fixed), (self.moving, self.moving_weight, pair.moving))
        fixed, moving = (
            ImageBatch(torch.from_numpy(values), None if weight is None else torch.from_numpy(weight), image.grid)
            for values, weight, image in images
        )
        return PyramidLevel(fixed, moving, pair.step)


@dataclass(frozen=True)
class BlockTask:
    """A block to be summed.

    maps: (1, D, D+1) from xi to moving indices. cell: of the sums of the scores; None: these are not wanted.
    bricks: boxes whose voxels are returned.
    """

    number: int
    pair: LazyPair
    inside: Box
    maps: Floats
    cell: tuple[int, ...] | None = None
    bricks: tuple[Box, ...] = ()

    def carrying_little(self) -> BlockTask:
        """The same task with what it needs of arrays in memory, and no more."""
        return replace(self, pair=self.pair.restrict(self.maps, self.box))

    @property
    def box(self) -> Box:
        """The block with the bricks in it, which may reach beyond it."""
        box = self.inside
        for brick in self.bricks:
            box |= brick
        return box


@dataclass(frozen=True)
class BlockSums:
    """The sums of a block, or of several; None where no voxel overlaps."""

    number: int
    normal: NormalSums | None
    cells: tuple[CellSums, ...] = ()
    bricks: tuple[Brick, ...] = ()


def sum_block(task: BlockTask) -> BlockSums:
    """Read a block of both images and sum it, tile by tile."""
    with limit_threads(), use_threads(library_threads()):
        return _summed(task)


def _summed(task: BlockTask) -> BlockSums:
    pair, maps = task.pair, task.maps
    slabs = slabs_of(task.inside)
    bricks = [[brick for brick in task.bricks if _starts_in(brick, slab, task.inside)] for slab in slabs]
    boxes = [reduce(or_, some, slab) for slab, some in zip(slabs, bricks, strict=True)]
    normal: list[NormalSums] = []
    cells: list[CellSums] = []
    kept: list[Brick] = []
    for slab, some, stored in zip(slabs, bricks, pair.read_slabs(maps, boxes), strict=True):
        if stored is None:
            continue
        for tile in tiles(slab):
            found = pair.part(stored, maps, tile)
            if found is not None:
                normal.append(NormalEquationsNumba(*found)(maps))
                if task.cell is not None:
                    level, part = found
                    cells.append(sums_of_part(level, maps, task.cell, part))
        for box in some:
            found = pair.part(stored, maps, box, BRICK_MARGIN)
            if found is not None:
                kept.append(Brick.of(*found))
    return BlockSums(task.number, added(normal), () if not cells else (together(cells),), tuple(kept))


def _starts_in(brick: Box, slab: Box, block: Box) -> bool:
    """Whether a brick is read with a slab of a block, beyond which it may reach."""
    start = max(brick.start[0], block.start[0])
    return slab.start[0] <= start < slab.stop[0]


def no_sums(ndim: int) -> NormalSums:
    """The sums over no voxel."""
    q = ndim * (ndim + 1)
    return NormalSums(np.zeros((1, 6)), np.zeros((1, q)), np.zeros((1, q)), np.zeros((1, q)), np.zeros((1, q, q)))


def added(parts: Sequence[NormalSums]) -> NormalSums | None:
    """The sum in the order of the parts; None of none."""
    if not parts:
        return None
    return NormalSums(**{name: np.sum([getattr(part, name) for part in parts], axis=0) for name in _NORMAL})


def to_arrays(sums: BlockSums) -> dict[str, NDArray[Any]]:
    """The sums as named arrays, for a file."""
    named: dict[str, Any] = {}
    if sums.normal is not None:
        named |= {f"normal.{name}": getattr(sums.normal, name) for name in _NORMAL}
    for k, cells in enumerate(sums.cells):
        named |= {f"cells.{k}.{name}": getattr(cells, name) for name in _CELLS}
    for k, brick in enumerate(sums.bricks):
        named |= {f"bricks.{k}.{name}": getattr(brick, name) for name in _BRICK}
        boxes = (brick.part.fixed, brick.part.moving, brick.part.inside)
        named[f"bricks.{k}.part"] = [(box.start, box.stop) for box in boxes]
    return {name: np.asarray(array) for name, array in named.items() if array is not None}


def from_arrays(number: int, named: Mapping[str, NDArray[Any]]) -> BlockSums:
    """The sums that `to_arrays` was given.

    Raises: KeyError for other arrays.
    """
    normal = NormalSums(**{name: named[f"normal.{name}"] for name in _NORMAL}) if "normal.jj" in named else None
    cells, bricks = [], []
    for k in range(sum(name.startswith("cells.") and name.endswith(".cross") for name in named)):
        sums, first, cross, slopes = (named[f"cells.{k}.{name}"] for name in _CELLS)
        cells.append(CellSums(sums, tuple(first.tolist()), cross, slopes))
    for k in range(sum(name.startswith("bricks.") and name.endswith(".part") for name in named)):
        boxes = [Box(tuple(a), tuple(b)) for a, b in named[f"bricks.{k}.part"].tolist()]
        fixed, fixed_weight, moving, moving_weight = (named.get(f"bricks.{k}.{name}") for name in _BRICK)
        if fixed is None or moving is None:
            raise KeyError("a brick has no voxels")
        bricks.append(Brick(fixed, fixed_weight, moving, moving_weight, Part(*boxes)))
    return BlockSums(number, normal, tuple(cells), tuple(bricks))
