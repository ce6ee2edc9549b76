"""Poses far from a pose that may fit about as well: of another turn, or of another overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.verdict.aligned import aligned
from daskreg.registration.verdict.bands import bands_of
from daskreg.registration.verdict.elsewhere import elsewhere, leaves_room
from daskreg.registration.verdict.evidence import needed
from daskreg.registration.verdict.judge import may_turn
from daskreg.registration.verdict.symmetry import angles_alike, turned_alike

Floats = NDArray[np.float64]

# Voxels along the longest side of the level that is used, at least: teeth and strips must be resolved.
_DETAILED = {2: 60, 3: 20}
# Levels of more voxels, of long and thin images, are left out.
_MOST_VOXELS = 2**17


def candidates_of(
    levels: Sequence[PyramidLevel], names: tuple[str, ...], motion: Floats, derivatives: Floats, *, reach: float
) -> Floats:
    """(C, D+1, D+1) motions that agree by more than chance, to be refined and compared (`excluded`).

    Args:
        levels: of one pair, coarse to fine. names: (P,) of the parameters.
        motion: `moving_from_fixed`, the pose. derivatives: (P, D+1, D+1) of it.
        reach: the largest turn that a motion may have, in degrees; 0 for none.
    """
    none, ndim = np.zeros((0, *motion.shape)), len(motion) - 1
    least = _DETAILED.get(ndim, _DETAILED[3])
    level = next((some for some in levels if max(some.fixed.grid.shape) >= least), levels[-1])
    if max(math.prod(image.grid.shape) for image in (level.fixed, level.moving)) > _MOST_VOXELS:
        return none
    pair = aligned(level, names, motion, derivatives)
    found = []
    if reach and ndim == 2 and may_turn(names):
        angles = angles_alike(pair, reach=reach)
        bands = bands_of(pair) if angles else None
        if bands is not None:
            found.append(turned_alike(bands, pair, needed(pair), angles))
    if leaves_room(level, pair.weight):
        # On a coarse level, also what is scaled or turned a little agrees.
        for some in {id(one): one for one in (levels[0], level)}.values():
            pair = aligned(some, names, motion, derivatives)
            bands = bands_of(pair)
            if bands is not None:
                found.append(elsewhere(some, motion, bands, needed(pair)))
    return np.concatenate([none, *found])
