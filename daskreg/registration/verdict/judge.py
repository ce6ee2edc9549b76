"""The verdict on a pose: is it chance, has it rivals, and which motions are determined.

Each question is asked on a coarse level first, which takes a few milliseconds, and on a finer one only where the coarse
one did not settle it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.verdict.aligned import Aligned, aligned
from daskreg.registration.verdict.bands import Bands, bands_of
from daskreg.registration.verdict.evidence import evidence, needed
from daskreg.registration.verdict.information import information_of
from daskreg.registration.verdict.rivals import rivals_of
from daskreg.runtime.threads import ahead

Floats = NDArray[np.float64]

MOST_SIGMA = 2.0
"""Voxels of the finest level: the standard deviation of a motion that the gradients determine."""
MOST_ERROR = 4 / 3
"""Voxels of the finest level by which a corner may be off, as a standard deviation: an error bar that is too small by
half still promises two voxels."""
CERTAIN = 8.0
"""Times the evidence that is needed, from which on a large error bar is stated and does not make a fit fail: other
content in one image, such as another person's head, widens it while the pose is not in doubt."""
ANY_TURN = 180.0
"""The reach of a search over all rotations, in degrees."""
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
        estimate; 0 where there is none, or where the evidence leaves no doubt.
    candidates: (C, D+1, D+1) motions that may fit about as well after a turn, by the first level that is not chance;
        once they were refined, those that do.
    moved_by_brightness: whether another gain or offset has moved a pose of "mse", as `offset` then says.
    """

    evidence: float
    needed: float
    rivals: Floats
    free: Floats
    sigma: Floats
    units: Floats
    offset: float = 0.0
    error: float = 0.0
    candidates: Floats = field(default_factory=lambda: np.zeros((0, 3, 3)))
    moved_by_brightness: bool = False

    @property
    def chance(self) -> bool:
        return not self.evidence > self.needed

    @property
    def contradicted(self) -> bool:
        """Whether the bands of frequency together put the pose elsewhere, by more than its error allows."""
        return math.hypot(self.error, self.offset) > MOST_ERROR or self.moved_by_brightness

    @property
    def settled(self) -> bool:
        """Whether nothing speaks against the pose."""
        return not (self.chance or self.contradicted or len(self.rivals) or len(self.free))


def judge(
    levels: Sequence[PyramidLevel], names: tuple[str, ...], motions: Floats, derivatives: Floats, *, turns: bool = False
) -> list[Verdict]:
    """The verdicts on B pairs.

    Args:
        levels: of a pyramid, coarse to fine; those that are small enough are used.
        names: (P,) of the free parameters.
        motions: (B, D+1, D+1) `moving_from_fixed`. derivatives: (B, P, D+1, D+1) of them.
        turns: also look for poses turned by 90 and 180 degrees.
    """
    found: list[Verdict | None] = [None] * len(motions)
    finest = levels[-1].step
    for level in suitable(levels):
        for row, earlier in enumerate(found):
            if earlier is None or not earlier.settled:
                one = level.take(torch.tensor([row]))
                first = earlier is None or earlier.chance
                verdict = _verdict(aligned(one, names, motions[row], derivatives[row]), finest, turns=turns and first)
                found[row] = verdict if earlier is None or first else replace(verdict, candidates=earlier.candidates)
    return [verdict for verdict in found if verdict is not None]


def suitable(levels: Sequence[PyramidLevel]) -> list[PyramidLevel]:
    """The levels on which pairs are judged."""
    ndim = levels[0].fixed.grid.ndim
    low, high = _SIDES.get(ndim, _SIDES[3])

    def is_used(shape: tuple[int, ...]) -> bool:
        thin = min((n for n in shape if n > 1), default=1) < _THIN
        return low <= max(shape) and (max(shape) <= high or (thin and math.prod(shape) <= _MOST_VOXELS))

    some = [level for level in levels if is_used(level.fixed.grid.shape)]
    return some or [min(levels, key=lambda level: abs(math.log(max(level.fixed.grid.shape) / low)))]


def may_turn(names: tuple[str, ...]) -> bool:
    """Whether a model both shifts and turns."""
    return {"tx", "ty"} < set(names) and bool({"theta", "rx", "ry", "rz"} & set(names))


def _verdict(pair: Aligned, finest: float, *, turns: bool) -> Verdict:
    """On one level; `finest`: size of the voxels of the finest one. turns: look for turned poses."""
    size, p, needs = len(pair.motion), len(pair.names), needed(pair)
    bands = bands_of(pair)
    found = 0.0 if bands is None else evidence(bands)
    if bands is None or not found > needs:
        return Verdict(found, needs, np.zeros((0, size, size)), np.zeros((0, p)), np.zeros(0), pair.units)
    rivals = ahead(lambda: _rivals(pair, bands, needs, turns=turns))
    known, scale = information_of(pair, bands), pair.step / finest
    sigma = known.sigma * scale
    free = sigma > MOST_SIGMA
    shifts, turned = rivals()
    return Verdict(
        found,
        needs,
        shifts,
        known.directions[free],
        sigma[free],
        pair.units,
        known.offset * scale,
        candidates=turned,
    )


def _rivals(pair: Aligned, bands: Bands, needs: float, *, turns: bool) -> tuple[Floats, Floats]:
    """(R, D+1, D+1) and (T, D+1, D+1) other motions that fit about as well: after shifts, and after turns."""
    turns = turns and may_turn(pair.names)
    cubes = math.isclose(min(pair.fixed.spacing), max(pair.fixed.spacing), rel_tol=1e-3)
    found, grid = rivals_of(bands, needs, turns=turns, quarters=cubes), pair.fixed.matrix
    shifts, turned = (pair.motion @ grid @ maps @ np.linalg.inv(grid) for maps in (found.shifts, found.turns))
    return np.asarray(shifts), np.asarray(turned)
