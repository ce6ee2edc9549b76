"""`BlockVoxels`: sums over all voxels of a pair, block by block; `Bricks`: over some that stay in memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box, box_corners
from daskreg.registration.blockwise.pair import LazyPair
from daskreg.registration.blockwise.sums import (
    BRICK_MARGIN,
    BlockSums,
    BlockTask,
    Brick,
    added,
    from_arrays,
    no_sums,
    sum_block,
    to_arrays,
)
from daskreg.registration.blockwise.work import Work
from daskreg.registration.normal_equations.equations import NormalEquationsNumba
from daskreg.registration.normal_equations.sums import NormalSums
from daskreg.registration.score_sums import CellSums, ScoreSums, joined

Floats = NDArray[np.float64]

# Voxels along a side of a brick by number of dimensions, and voxels of all bricks together. Many small bricks meet more
# independent structures of the images than a few large ones, so what they sum is nearer to the sums of all voxels.
_SIDE, _BRICK_VOXELS = {2: 24, 3: 8}, 1 << 19
# Multiples of powers of 1 / x, x**(D + 1) = x + 1, fill a box of D dimensions evenly (Roberts 2018).
_PLASTIC = {2: 1.3247179572, 3: 1.2207440846}


class Bricks:
    """Sums over the bricks, scaled up to all voxels."""

    def __init__(self, pair: LazyPair, bricks: Sequence[Brick], maps: Floats) -> None:
        self.pair, self.bricks, self.maps = pair, bricks, maps
        self._sums = [NormalEquationsNumba(brick.level(pair), brick.part) for brick in bricks]

    def take(self, index: NDArray[np.int64]) -> Bricks:
        """There is one pair only."""
        del index
        return self

    def subsampled(self, share: float) -> Bricks:
        """They are a subset already."""
        del share
        return self

    def __call__(self, maps: Floats) -> NormalSums:
        """The sums at (1, D, D+1) maps; a brick that does not have what it would read there is left out."""
        chosen = [k for k, brick in enumerate(self.bricks) if self.pair.holds(maps, brick.part)]
        summed = added([self._sums[k](maps) for k in chosen])
        count = sum(self.bricks[k].part.inside.size for k in chosen)
        if summed is None:
            return no_sums(len(self.pair.shape))
        scale = math.prod(self.pair.shape) / count
        return NormalSums(*(x * scale for x in (summed.scalars, summed.j, summed.jw, summed.jd, summed.jj)))


@dataclass
class BlockVoxels:
    """What `LevelObjective` sums over, each call a pass over all blocks.

    The bricks are read in the first pass, and again where the pose has moved far. The sums of the scores are made
    along with the others after the first pass: the last step then needs no pass of its own.

    cell: of the sums of the scores. passes: how many there were.
    """

    pair: LazyPair
    blocks: Sequence[Box]
    cell: tuple[int, ...]
    work: Work
    passes: int = 0
    _bricks: Bricks | None = None
    _scores: dict[tuple[bytes, tuple[int, ...]], list[CellSums]] = field(default_factory=dict)

    def take(self, index: NDArray[np.int64]) -> BlockVoxels:
        """There is one pair only."""
        del index
        return self

    def subsampled(self, share: float) -> Bricks:
        """The bricks of the last pass."""
        del share
        if self._bricks is None:
            raise RuntimeError("bricks are read in the first pass")
        return self._bricks

    def __call__(self, maps: Floats) -> NormalSums:
        """The sums at (1, D, D+1) maps from xi to moving indices."""
        with_scores = self.passes > 0
        with_bricks = self._bricks is None or self._moved(self._bricks.maps, maps) > BRICK_MARGIN / 2
        parts = self._pass(maps, with_scores=with_scores, with_bricks=with_bricks)
        if with_bricks:
            self._bricks = Bricks(self.pair, [brick for part in parts for brick in part.bricks], maps)
        return added([part.normal for part in parts if part.normal is not None]) or no_sums(len(self.pair.shape))

    def scores(self, maps: Floats, cell: tuple[int, ...]) -> ScoreSums:
        """The sums of the scores at maps: those of the last pass, or from a pass of their own."""
        cells = self._scores.get((maps.tobytes(), cell))
        if cells is None:
            self.cell = cell
            self._pass(maps, with_scores=True, with_bricks=False)
            cells = self._scores[maps.tobytes(), cell]
        return joined(cells, self.pair.shape, cell)

    def _pass(self, maps: Floats, *, with_scores: bool, with_bricks: bool) -> list[BlockSums]:
        self.passes += 1
        cell = self.cell if with_scores else None
        bricks = _by_block(bricks_of(self.pair.shape), self.blocks) if with_bricks else {}
        tasks = [BlockTask(k, self.pair, box, maps, cell, bricks.get(k, ())) for k, box in enumerate(self.blocks)]
        what = hashlib.sha256(repr((maps.tobytes(), cell, with_bricks)).encode()).hexdigest()[:16]
        label = f"pass {self.passes}"
        parts = self.work.run(f"sums-{what}", sum_block, tasks, label=label, store=to_arrays, restore=from_arrays)
        if with_scores:
            self._scores = {(maps.tobytes(), self.cell): [cells for part in parts for cells in part.cells]}
        return parts

    def _moved(self, one: Floats, other: Floats) -> float:
        """Voxels of the moving image between the images of the farthest corner at two maps."""
        corners = box_corners(-np.ones(len(self.pair.shape)), np.ones(len(self.pair.shape)))
        difference = one[0] - other[0]
        return float(np.linalg.norm(corners @ difference[:, :-1].T + difference[:, -1], axis=1).max())


def bricks_of(shape: tuple[int, ...]) -> list[Box]:
    """Boxes all over an image, one at a place of its own in each cell of a lattice."""
    side = [min(n, _SIDE[len(shape)]) for n in shape]
    wanted = max(1.0, min(_BRICK_VOXELS, math.prod(shape)) / math.prod(side))
    spacing = [float(n) for n in shape]
    while math.prod(n / s for n, s in zip(shape, spacing, strict=True)) < wanted:
        longest = max(range(len(shape)), key=lambda k: spacing[k] / side[k])
        if spacing[longest] / 2 < side[longest]:
            break
        spacing[longest] /= 2
    counts = [round(n / s) for n, s in zip(shape, spacing, strict=True)]
    found = []
    for number, index in enumerate(product(*map(range, counts))):
        # A place in each cell that has no period: stripes and chunks are met alike.
        places = [(number / _PLASTIC[len(shape)] ** (k + 1)) % 1 for k in range(len(shape))]
        start = [int(i * s + p * (s - e)) for i, s, p, e in zip(index, spacing, places, side, strict=True)]
        found.append(Box(tuple(start), tuple(a + e for a, e in zip(start, side, strict=True))))
    return found


def _by_block(bricks: Sequence[Box], blocks: Sequence[Box]) -> dict[int, tuple[Box, ...]]:
    """The bricks of each block: those whose middle lies in it."""
    starts, stops = (np.array([getattr(box, end) for box in blocks]) for end in ("start", "stop"))
    found: dict[int, tuple[Box, ...]] = {}
    for brick in bricks:
        middle = (np.array(brick.start) + brick.stop) // 2
        number = int(np.flatnonzero(np.all((starts <= middle) & (middle < stops), axis=1))[0])
        found[number] = (*found.get(number, ()), brick)
    return found
