"""The verdict on a pose: is it chance, has it rivals, and which motions are determined.

Each question is asked on a coarse level first, which takes a few milliseconds, and on a finer one only where the coarse
one did not settle it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.verdict.aligned import Aligned, aligned
from daskreg.registration.verdict.bands import bands_of
from daskreg.registration.verdict.evidence import evidence, needed
from daskreg.registration.verdict.information import information_of
from daskreg.registration.verdict.rivals import rival_shifts

Floats = NDArray[np.float64]

MOST_SIGMA = 2.0
"""Voxels of the finest level: the standard deviation of a motion that the gradients determine."""
MOST_ERROR = 4 / 3
"""Voxels of the finest level by which a corner may be off, as a standard deviation: an error bar that is too small by
half still promises two voxels."""
# Voxels along the longest side of the levels that are used, by number of dimensions.
_SIDES = {2: (30, 300), 3: (20, 96)}
# Levels of images that are long and thin are used up to this number of voxels while their short side has less than
# _THIN: on smaller ones nothing is left of it.
_MOST_VOXELS, _THIN = 2**20, 64


@dataclass(frozen=True)
class Verdict:
    """What the images say of a pose.

    evidence, needed: log-likelihood ratio of the pose against unrelated images, and what the best of all poses of
        unrelated images has, in nats.
    rivals: (R, D+1, D+1) motions that fit about as well.
    free: (F, P) directions of the parameters that are not determined; each moves the farthest corner by one voxel.
    sigma: (F,) voxels by which each may be off. units: (P,) voxels by which a unit of each parameter moves a corner.
    offset: voxels of the finest level from the pose to where all bands of frequency together put it, root mean square
        over the overlap.
    error: standard deviation of the farthest corner, in voxels of the finest level, from the covariance of the
        estimate; 0 where there is none.
    """

    evidence: float
    needed: float
    rivals: Floats
    free: Floats
    sigma: Floats
    units: Floats
    offset: float = 0.0
    error: float = 0.0

    @property
    def chance(self) -> bool:
        return not self.evidence > self.needed

    @property
    def contradicted(self) -> bool:
        """Whether the bands of frequency together put the pose elsewhere, by more than its error allows."""
        return math.hypot(self.error, self.offset) > MOST_ERROR

    @property
    def settled(self) -> bool:
        """Whether nothing speaks against the pose."""
        return not (self.chance or self.contradicted or len(self.rivals) or len(self.free))


def judge(
    levels: Sequence[PyramidLevel], names: tuple[str, ...], motions: Floats, derivatives: Floats
) -> list[Verdict]:
    """The verdicts on B pairs.

    Args:
        levels: of a pyramid, coarse to fine; those that are small enough are used.
        names: (P,) of the free parameters.
        motions: (B, D+1, D+1) `moving_from_fixed`. derivatives: (B, P, D+1, D+1) of them.
    """
    found: list[Verdict | None] = [None] * len(motions)
    finest = levels[-1].step
    for level in _suitable(levels):
        for row, earlier in enumerate(found):
            if earlier is None or not earlier.settled:
                one = level.take(torch.tensor([row]))
                found[row] = _verdict(aligned(one, names, motions[row], derivatives[row]), finest)
    return [verdict for verdict in found if verdict is not None]


def _suitable(levels: Sequence[PyramidLevel]) -> list[PyramidLevel]:
    ndim = levels[0].fixed.grid.ndim
    low, high = _SIDES.get(ndim, _SIDES[3])

    def is_used(shape: tuple[int, ...]) -> bool:
        thin = min((n for n in shape if n > 1), default=1) < _THIN
        return low <= max(shape) and (max(shape) <= high or (thin and math.prod(shape) <= _MOST_VOXELS))

    some = [level for level in levels if is_used(level.fixed.grid.shape)]
    return some or [min(levels, key=lambda level: abs(math.log(max(level.fixed.grid.shape) / low)))]


def _verdict(pair: Aligned, finest: float) -> Verdict:
    """On one level; `finest`: size of the voxels of the finest one."""
    size, p, needs = len(pair.motion), len(pair.names), needed(pair)
    bands = bands_of(pair)
    found = 0.0 if bands is None else evidence(bands)
    if bands is None or not found > needs:
        return Verdict(found, needs, np.zeros((0, size, size)), np.zeros((0, p)), np.zeros(0), pair.units)
    known, scale = information_of(pair, bands), pair.step / finest
    sigma = known.sigma * scale
    free = sigma > MOST_SIGMA
    return Verdict(
        found,
        needs,
        _shifted(pair, rival_shifts(bands, needs)),
        known.directions[free],
        sigma[free],
        pair.units,
        known.offset * scale,
    )


def _shifted(pair: Aligned, shifts: Floats) -> Floats:
    """(R, D+1, D+1) the motions of a pose after (R, D) shifts in voxels of the fixed image."""
    moves = np.tile(np.eye(len(pair.motion)), (len(shifts), 1, 1))
    moves[:, :-1, -1] = shifts @ pair.fixed.matrix[:-1, :-1].T
    return np.asarray(pair.motion @ moves)
