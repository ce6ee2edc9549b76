"""`LazyPair`: both images of a pair, the boxes that a block of the fixed one needs, and its division into blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box, box_corners
from daskreg.registration.blockwise.image import LazyImage, StoredVoxels
from daskreg.registration.blockwise.slabs import SLAB_BYTES, held_bytes, slabs_of, stored_slabs
from daskreg.registration.normal_equations.edge_weights import scaling
from daskreg.registration.normal_equations.part import Part
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.score_sums_numba import AFTER

Floats = NDArray[np.float64]

# Voxels of the moving image beyond those that a box of the fixed one is mapped to: a voxel for rounding, and twice what
# the interpolation of the last step and the mask of what it reads need.
_MARGIN = 1 + 2 * AFTER
# Voxels whose numbers are computed at a time.
_TILE = 1 << 19
# Blocks of an image, so that several workers can share it, and little is lost with one that is interrupted.
_SHARES = 8


@dataclass(frozen=True)
class LazyPair:
    """The images, and the size of a voxel of the level in the world."""

    fixed: LazyImage
    moving: LazyImage
    step: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.fixed.shape

    def moving_box(self, maps: Floats, fixed: Box, margin: int = _MARGIN) -> Box:
        """The voxels of the moving image that a box of the fixed one reads at (1, D, D+1) maps; empty if none."""
        low, high = self._reach(maps, fixed)
        shape = np.asarray(self.moving.shape)
        if np.any(high <= -0.5) or np.any(low >= shape - 0.5):
            return Box((0,) * len(shape), (0,) * len(shape))
        # Positions outside are clamped to the image. The last voxel is read as the upper neighbour of the one before.
        first = np.clip(np.floor(low), 0, np.maximum(shape - 2, 0)) - margin
        last = np.clip(np.floor(high) + 1, 1, shape - 1) + 1 + margin
        return Box(tuple(map(int, first)), tuple(map(int, last))).clip(self.moving.shape)

    def holds(self, maps: Floats, part: Part) -> bool:
        """Whether the part has all voxels that are read at these maps."""
        return self.moving_box(maps, part.fixed, 0) in part.moving

    def _reach(self, maps: Floats, box: Box) -> tuple[Floats, Floats]:
        """Least and largest indices of the moving image at the voxels of a box."""
        from_index = maps[0] @ np.linalg.inv(scaling(self.shape))
        corners = box_corners(np.asarray(box.start, float), np.asarray(box.stop, float) - 1)
        points = corners @ from_index[:, :-1].T + from_index[:, -1]
        return points.min(0), points.max(0)

    def around(self, inside: Box) -> Box:
        """The box with the voxels that the gradients need."""
        return inside.grow(1).clip(self.shape)

    def read(self, maps: Floats, inside: Box, margin: int = _MARGIN) -> tuple[StoredVoxels, StoredVoxels] | None:
        """What summing a box needs of both images; None where they do not overlap there."""
        moving = self.moving_box(maps, self.around(inside), margin)
        return None if moving.empty else (self.fixed.read(self.around(inside)), self.moving.read(moving))

    def read_slabs(self, maps: Floats, slabs: Sequence[Box]) -> Iterator[tuple[StoredVoxels, StoredVoxels] | None]:
        """`read` for one box after another, for which no chunk is decoded twice; each is valid until the next one."""
        return stored_slabs((self.fixed, self.moving), [self.needs(maps, slab) for slab in slabs])

    def needs(self, maps: Floats, inside: Box) -> tuple[Box, Box]:
        """The voxels of both levels that summing a box needs; those of moving may be none."""
        return self.around(inside), self.moving_box(maps, self.around(inside))

    def part(
        self, stored: tuple[StoredVoxels, StoredVoxels], maps: Floats, inside: Box, margin: int = _MARGIN
    ) -> tuple[PyramidLevel, Part] | None:
        """The level of a box, which lies in what was read; None where the images do not overlap there."""
        fixed, moving = self.around(inside), self.moving_box(maps, self.around(inside), margin)
        if moving.empty:
            return None
        level = PyramidLevel(self.fixed.level(stored[0], fixed), self.moving.level(stored[1], moving), self.step)
        return level, Part(fixed, moving, inside)

    def restrict(self, maps: Floats, inside: Box, margin: int = _MARGIN) -> LazyPair:
        """The pair, carrying only what summing a box needs."""
        moving = self.moving_box(maps, self.around(inside), margin)
        return replace(self, fixed=self.fixed.restrict(self.around(inside)), moving=self.moving.restrict(moving))


def halved(size: Sequence[int], fits: Callable[[Sequence[int]], bool]) -> list[int]:
    """A size whose longest side is halved until it fits, or is one voxel."""
    size = list(size)
    while not fits(size) and max(size) > 1:
        longest = size.index(max(size))
        size[longest] = -(-size[longest] // 2)
    return size


def tiles(inside: Box, most: int = _TILE) -> Iterator[Box]:
    """The box in parts of about as long sides, of so many voxels at most, whose numbers are in memory at a time."""
    shape = halved(inside.shape, lambda size: math.prod(size) <= most)
    for start in product(*(range(a, b, n) for a, b, n in zip(inside.start, inside.stop, shape, strict=True))):
        yield Box(start, tuple(a + n for a, n in zip(start, shape, strict=True))) & inside


def blocks_of(pair: LazyPair, maps: Floats, most_bytes: int) -> list[Box]:
    """`blocks_for` an affine map."""
    return blocks_for(
        pair, lambda inside: (pair.around(inside), pair.moving_box(maps, pair.around(inside))), most_bytes
    )


def blocks_for(
    pair: LazyPair,
    needs: Callable[[Box], tuple[Box, Box]],
    most_bytes: int,
    allowed: Callable[[Box], bool] = lambda box: True,
) -> list[Box]:
    """Boxes of the fixed level, of whole chunks where these fit, as large as memory allows.

    They end in the middle of chunks: so the voxels around a block are mostly in chunks that it reads anyway.

    Args:
        needs: the boxes of both levels that a box of the fixed one needs.
        most_bytes: of the voxels of a block, as stored, in each image. An image is divided into `_SHARES` at least,
            unless these would be smaller than what is held of it.
        allowed: whether the sums of a box take little memory.
    """
    shape = pair.shape
    share = math.prod(shape) * pair.fixed.bytes_per_voxel // _SHARES
    most = min(most_bytes, max(share, SLAB_BYTES))

    def fits(size: Sequence[int]) -> bool:
        box = Box.of([min(s, n) for s, n in zip(size, shape, strict=True)])
        box = box.shift([(n - s) // 2 for n, s in zip(shape, box.shape, strict=True)])
        images = pair.fixed, pair.moving
        if any(one.size * image.bytes_per_voxel > most for one, image in zip(needs(box), images, strict=True)):
            return False
        if not allowed(box):
            return False
        slabs = [needs(slab) for slab in slabs_of(box)]
        return all(held_bytes(image, [slab[k] for slab in slabs]) <= SLAB_BYTES for k, image in enumerate(images))

    return divided(shape, pair.fixed.chunks, fits, shifted=True)


def divided(
    shape: Sequence[int], chunks: Sequence[int], fits: Callable[[Sequence[int]], bool], *, shifted: bool = False
) -> list[Box]:
    """Boxes of several whole chunks, as large as `fits` allows; parts of chunks where one does not fit.

    Args:
        shifted: let them end in the middle of chunks.
    """
    chunk = [min(c, n) for c, n in zip(chunks, shape, strict=True)]
    size = halved(chunk, fits)
    while True:
        longer = [[s + (chunk[k] if k == axis else 0) for k, s in enumerate(size)] for axis in range(len(size))
                  if chunk[axis] <= size[axis] < shape[axis]]  # fmt: skip
        longer = [one for one in longer if fits(one)]
        if not longer:
            break
        size = min(longer, key=max)
    ends = [[0, *_cuts(n, s, c if shifted else 0), n] for n, s, c in zip(shape, size, chunk, strict=True)]
    intervals = [list(pairwise(one)) for one in ends]
    return [Box(tuple(a for a, _ in one), tuple(b for _, b in one)) for one in product(*intervals)]


def _cuts(n: int, size: int, chunk: int) -> list[int]:
    """Where an axis of n voxels is cut into as few pieces of at most `size` as possible.

    Args:
        chunk: cut in the middle of chunks of so many voxels, and into pieces of about the same size; 0: anywhere.
    """
    half = chunk // 2 if chunk <= size < n else 0
    if not half:
        return list(range(size, n, size))
    greedy = list(range(half + (size - half) // chunk * chunk, n, size))
    pieces = len(greedy) + 1
    even = [half + round((k * n / pieces - half) / chunk) * chunk for k in range(1, pieces)]
    longest = max(b - a for a, b in pairwise([0, *even, n]))
    return even if longest <= size else greedy
