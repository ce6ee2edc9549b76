"""The fields of all slices from coarse to fine: control points and levels of the pyramid together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Affine, Grid
from daskreg.registration.deformable.coarse_to_fine import schedule
from daskreg.registration.deformable.splines.control_grid import control_grids
from daskreg.registration.noise import with_best_smoothing
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.stacks.elastic.layers import StackLayers
from daskreg.stacks.elastic.robust import robust_weights
from daskreg.stacks.elastic.slice_images import SliceImages
from daskreg.stacks.elastic.solve import Pairs, StackState, agreements, solve_stack

Floats = NDArray[np.float64]

_COARSE_TOLERANCE = 0.05
# Steps on the finest level with a cubic interpolation, which has no bias between voxels.
_LAST_STEPS = 3
# Blocks for each cell of the finest control points, along an axis, in which agreement is measured.
_BLOCKS = 2


@dataclass(frozen=True)
class ElasticEstimate:
    """What was found, on the finest level.

    state: of the solver. images: of the finest level. pairs: with their last weights. agreement: (E, *blocks) local
    correlations in the end. iterations: of all levels. converged: whether the last steps
    were small, with either interpolation.
    """

    state: StackState
    images: SliceImages
    pairs: Pairs
    agreement: Floats
    iterations: int
    determined: dict[float, float]
    converged: bool


def estimate_fields(
    levels: Sequence[PyramidLevel],
    image: Grid,
    bases: tuple[Affine, ...],
    pairs: Pairs,
    *,
    spacing: Sequence[float],
    metric: str,
    tolerance: float,
    max_iterations: int,
    progress: Callable[[int, int], None] | None = None,
) -> ElasticEstimate:
    """Estimate a transform base . layers for each slice.

    Args:
        levels: coarse to fine, all slices as `fixed`. image: the grid of a slice. bases: raw_from_aligned.
        pairs: of slices. spacing: (D,) of the finest control points.
        tolerance: voxels; steps end when their root mean square is less.
    """
    grids, matched = control_grids(image, spacing), metric != "mse"
    plan = schedule(grids, levels)
    layers, weight, iterations = StackLayers.start(bases, grids[0]), 0.0, 0
    blocks = tuple(_BLOCKS * n for n in grids[-1].cells)
    edges = pairs.edges
    determined: dict[float, float] = {}
    for done, (grid, number) in enumerate(plan):
        layers = layers if grid is layers.control else layers.refined(grid)
        images, last = SliceImages.of(levels[number]), done == len(plan) - 1
        state = solve_stack(
            images,
            layers,
            pairs,
            weight,
            matched=matched,
            tolerance=tolerance if last else max(tolerance, _COARSE_TOLERANCE),
            max_iterations=max_iterations,
        )
        iterations += state.iterations
        layers, weight = state.layers, state.weight
        if grid is grids[-1]:
            found = agreements(images, layers, edges, blocks, order=1)
            pairs = replace(pairs, robust=robust_weights(found, edges))
        determined[images.step] = state.determined
        if progress:
            progress(done + 1, len(plan) + 1)
    level = with_best_smoothing(levels[-1], np.array([state.costs[-1] / 2])) or levels[-1]
    images = SliceImages.of(level)
    last_state = solve_stack(
        images, layers, pairs, weight, matched=matched, tolerance=tolerance, max_iterations=_LAST_STEPS, order=3
    )
    determined[images.step] = last_state.determined
    found = agreements(images, last_state.layers, edges, blocks, order=3)
    pairs = replace(pairs, robust=robust_weights(found, edges))
    if progress:
        progress(len(plan) + 1, len(plan) + 1)
    return ElasticEstimate(
        replace(last_state, costs=[*state.costs, *last_state.costs]),
        images,
        pairs,
        found,
        iterations + last_state.iterations,
        determined,
        state.converged or last_state.converged,
    )
