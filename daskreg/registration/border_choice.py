"""Whether flat borders are background, which counts, or what an earlier warp filled, which must not count.

True background fits better than the rest of the voxels. Where the rest alone fits much better at the same
pose, or better still after it is solved again, the borders are fill.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.levenberg_marquardt import Iterate, LevelObjective, solve_level
from daskreg.registration.problem import Problem, SolverOptions
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.rejection import MIN_OBSERVABILITY, observability

Floats = NDArray[np.float64]

# (ratio of the costs of the rest and of all voxels below which the rest is solved again, ratio of the cost after
# and before that which is then needed to leave flat borders out).
_NEEDED = ((0.7, 1.001), (0.85, 0.97), (1.25, 0.5))
# Where the rest fits no better than this on a coarse level, flat borders count, and the finest level is not tested.
_NO_BETTER = 0.97
# Of two poses, the one without flat borders is taken where the product of its relative costs is below this.
_BY_FAR = 0.8


def borders_fit(problem: Problem, iterate: Iterate, full: PyramidLevel, borderless: PyramidLevel) -> bool:
    """Whether flat borders fit as well as the rest; a test for a coarse level, as the finest has many voxels."""
    return _cost_ratio(problem, iterate, full, borderless)[0] >= _NO_BETTER


def without_fill(
    problem: Problem,
    options: SolverOptions,
    iterate: Iterate,
    *,
    level: PyramidLevel,
    full: PyramidLevel,
    borderless: PyramidLevel,
) -> tuple[PyramidLevel, Iterate]:
    """`level`, or the level without flat borders where these contradict the other image; and the iterate there.

    The choice is the same for all pairs.

    Args:
        iterate: solved on `level`, the finest one with the outliers rejected.
        full: the finest level with all voxels. borderless: the same without flat borders, with the outliers rejected.
    """
    ratio, every, rest = _cost_ratio(problem, iterate, full, borderless)
    needed = next((better for limit, better in _NEEDED if ratio < limit), None)
    if needed is None:
        return level, iterate
    share = observability(problem, borderless, rest) / observability(problem, level, every)
    if share.min() < MIN_OBSERVABILITY:
        return level, iterate
    again = solve_level(
        problem,
        borderless,
        iterate.parameters,
        tolerance=options.tolerance,
        max_iterations=options.max_iterations,
        subset_only=True,
    )
    return (borderless, again) if again.cost.sum() <= needed * rest.cost.sum() else (level, iterate)


def prefers_borderless(
    problem: Problem, full: tuple[PyramidLevel, Floats], borderless: tuple[PyramidLevel, Floats]
) -> bool:
    """Whether to take the pose that was found without flat borders; each argument is a finest level and the pose there.

    If the borders were fill, the other voxels find the pose without them better by far; if
    they were background, all voxels find the pose with them better.
    """
    gains = []
    for level in (full[0], borderless[0]):
        objective = LevelObjective(problem, level)
        costs = [float(objective.evaluate(p).cost[0]) for p in (borderless[1], full[1])]
        gains.append(costs[0] / max(costs[1], 1e-9))
    return gains[0] * gains[1] < _BY_FAR


def _cost_ratio(
    problem: Problem, iterate: Iterate, full: PyramidLevel, borderless: PyramidLevel
) -> tuple[float, Iterate, Iterate]:
    """The cost without flat borders over that of all voxels at the same pose, and both iterates."""
    every, rest = (
        LevelObjective(problem, level).subsampled().evaluate(iterate.parameters) for level in (full, borderless)
    )
    return float(rest.cost.sum() / max(every.cost.sum(), 1e-12)), every, rest
