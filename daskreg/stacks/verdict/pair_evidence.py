"""Whether a pair of slices shows one specimen, by all that its bands of frequency have in common.

What `by_chance` asks of every pair takes no time, but sees little of slices far apart, whose fields agree here and not
there. What it refuses is asked as `register` asks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.verdict.aligned import aligned
from daskreg.registration.verdict.bands import bands_of
from daskreg.registration.verdict.evidence import evidence, needed


def relative_evidence(problem: Problem, levels: Sequence[PyramidLevel], p: NDArray[np.float64]) -> float:
    """The evidence of one pair at (1, P) parameters, as a multiple of what unrelated images reach at their best pose.

    Args:
        levels: of the pair, coarse to fine; the first on which it is more than that decides, else the best one.
    """
    best = 0.0
    if not np.isfinite(p).all():
        return best
    motions, derivatives = problem.pose.motions(p, problem.centre)
    for level in levels:
        pair = aligned(level, problem.pose.names, motions[0], derivatives[0])
        bands = bands_of(pair)
        best = max(best, 0.0 if bands is None else evidence(bands) / needed(pair))
        if best > 1:
            break
    return best
