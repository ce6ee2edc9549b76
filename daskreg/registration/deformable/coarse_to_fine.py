"""Layers of cubic B-splines from coarse to fine: control points and levels of the pyramid together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from daskreg.geometry import Transform
from daskreg.registration.deformable.contradictions import Contradictions, contradictions_of
from daskreg.registration.deformable.level_images import LevelImages
from daskreg.registration.deformable.local_minima import out_of_local_minima
from daskreg.registration.deformable.noise_model import total_information
from daskreg.registration.deformable.solve_level import FEW_SIGMAS, LevelEstimate, solve_level
from daskreg.registration.deformable.splines.control_grid import ControlGrid
from daskreg.registration.deformable.splines.layers import Layers
from daskreg.registration.deformable.splines.one_layer import next_start
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.rejection import with_inliers
from daskreg.registration.verdict.judge import Verdict

LEAST_TOLERANCE = 0.01
"""Voxels: root mean square of the last step."""
_CELL = 25
"""The least voxels of a level in a cell of control points, where a finer level has them."""
_COARSE_TOLERANCE = 0.05
"""Voxels of a level by which steps move at the end, where a finer level goes on."""
_LEAST_LAYER = 0.5
"""Voxels of a level, by which finer levels move a field more easily than another layer does."""
_NOT_ALIGNED, _ALIGNED = 0.1, 0.5
"""Contradictions are looked for again if the misfit, as a share of the variance of the image, was larger than the first
of these, and falls to less than the second part of that."""
ENOUGH_SIGMAS = 0.2
"""Standard deviations of the coefficients: steps end where they gain no more than that. With "mi" they go on, for the
last steps are too few to make up for the bias of a linear interpolation."""
SETTLED_SIGMAS = 0.5
"""The same where the misfit hardly falls any more."""


def schedule(grids: Sequence[ControlGrid], levels: Sequence[PyramidLevel]) -> list[tuple[ControlGrid, int]]:
    """Which control points are estimated on which level, in order.

    Each grid on the coarsest level on which a cell has enough voxels, and the finest also on all finer levels.
    """
    plan: list[tuple[ControlGrid, int]] = []
    number = 0
    for grid in grids:
        side = _CELL ** (1 / grid.ndim)
        enough = [k for k, level in enumerate(levels) if min(grid.spacing) >= side * level.step]
        number = max(number, enough[0] if enough else len(levels) - 1)
        plan.append((grid, number))
    return plan + [(grids[-1], k) for k in range(number + 1, len(levels))]


@dataclass(frozen=True)
class Solved:
    """The levels so far.

    state: of the solver on the last level. number: of that level. iterations: of all. determined: how many coefficients
    the images determined on each level, by its step. contradicting: where the aligned images contradict each other.
    late: whether it took a finer level than the first with the finest control points to align the images. final: the
    images of the last level, if they were interpolated with cubic splines and nothing in them contradicts. earlier: how
    many layers the base of the state holds beyond what all began from. verdict: for the status, if it is not the one on
    this.
    """

    state: LevelEstimate
    number: int
    iterations: int
    determined: dict[float, float]
    contradicting: Contradictions
    late: bool
    final: LevelImages | None = None
    earlier: int = 0
    verdict: Verdict | None = None

    @property
    def transform(self) -> Transform:
        return self.state.layers.transform


def coarse_to_fine(
    levels: Sequence[PyramidLevel],
    plan: Sequence[tuple[ControlGrid, int]],
    layers: Layers,
    *,
    metric: str,
    tolerance: float,
    max_iterations: int,
    on_done: Callable[[int], None] = lambda done: None,
    stiffens: bool = True,
    most: int | None = None,
) -> Solved:
    """Solve level after level; for "mi", as long as finer ones tell more.

    Modalities share little at fine scale: a level that tells less than the one before would replace what is known by
    chance. Nor does a level go on from one whose solution tells nothing: it begins where that one began.

    stiffens: whether the weight of the prior may grow. What the coarsest control points cannot follow is noise to them,
    so that the field has next to no energy there, and the weight grows until the finer ones do not move, either.
    most: how many entries of the plan are solved, as if the others were; None: all.
    """
    weight, iterations, known, number, misfit = 0.0, 0, 0.0, plan[0][1], 0.0
    state: LevelEstimate | None = None
    contradicting: Contradictions | None = None
    determined: dict[float, float] = {}
    late = escaped = False
    for done, (grid, finer) in enumerate(plan[:most], 1):
        refined = layers if grid is layers.control else layers.refined(grid)
        inliers = None if contradicting is None else contradicting.inliers
        current = LevelImages.of(with_inliers(levels[finer], inliers), metric, grid.spacing)
        last = done == len(plan)
        # A cubic interpolation has no bias between voxels. With "mi" it is not known yet which level is the last.
        order = 3 if last and metric != "mi" else 1
        found = current.evaluate(refined.transform, order=order)
        if metric == "mi" and finer > number and total_information(current, found) < known:
            break
        images, layers, number = current, refined, finer
        solve = partial(
            solve_level,
            tolerance=tolerance if last else max(tolerance, _COARSE_TOLERANCE),
            max_iterations=max_iterations,
            few_sigmas=FEW_SIGMAS if metric == "mi" else ENOUGH_SIGMAS,
            settled_sigmas=0.0 if metric == "mi" else SETTLED_SIGMAS,
            order=order,
            least_layer=0.0 if last or metric == "mi" else _LEAST_LAYER,
            stiffens=stiffens,
        )
        state = solve(images, layers, weight, found=found)
        aligned = contradicting is not None and misfit > _NOT_ALIGNED and state.found.misfit < _ALIGNED * misfit
        late = late or aligned
        if grid is plan[-1][0] and (contradicting is None or aligned or escaped):
            if inliers is not None:
                images = LevelImages.of(levels[finer], metric, grid.spacing)
                state.found = images.evaluate(state.layers.transform, order=order)
            agreeing = None
            if metric != "mi":
                before = state
                state, agreeing = out_of_local_minima(levels[finer], metric, images, state, solve)
                escaped = state is not before
            contradicting, misfit = contradictions_of(images, state, agreeing), state.found.misfit
        iterations += state.iterations
        determined[levels[number].step] = state.determined
        known = total_information(images, state.found) if metric == "mi" else np.inf
        if known:
            layers, weight = next_start(state.layers, images.step), state.weight
        on_done(done)
    if state is None:
        raise RuntimeError("the first level is always solved")
    contradicting = contradicting or contradictions_of(images, state)
    final = images if order == 3 and contradicting.inliers is inliers else None
    return Solved(state, number, iterations, determined, contradicting, late, final)
