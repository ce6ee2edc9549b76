"""The estimate of a pair that is larger than memory: a coarse start, then every voxel, block by block.

The normal equations are sums over voxels. So blocks are read and summed wherever there is a worker, and what comes back
is as small for a terabyte as for a megabyte. Added in a fixed order, the sums are those of the level in memory, and
the same code solves them.

1. The coarse images, means over blocks of voxels, are registered as images in memory are: candidates, pyramid,
   rejection of outlier regions, flat borders, verdict.
2. From them come the mean and the scale of the images, and the regions that do not take part at full resolution. How
   much is smoothed there is found from the noise of one block in the middle.
3. Passes over all blocks. The first one is at the coarse pose, and returns bricks: small boxes of voxels all over the
   image, which stay in memory. They are solved with what the other voxels add to both sides, until a pass moves the
   pose by less than the tolerance (`levenberg_marquardt`). The last pass also sums the scores, for the last step and
   the covariance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.geometry import Grid
from daskreg.registration.blockwise import noise
from daskreg.registration.blockwise.image import LazyImage, Region
from daskreg.registration.blockwise.noise import NoiseTask, best_smoothing, smoothed_by
from daskreg.registration.blockwise.pair import LazyPair, blocks_of
from daskreg.registration.blockwise.voxels import BlockVoxels
from daskreg.registration.blockwise.work import Work
from daskreg.registration.covariance import cell_of, last_step_by
from daskreg.registration.estimate import BatchEstimate
from daskreg.registration.images import Image
from daskreg.registration.levenberg_marquardt import Iterate, LevelObjective, corrected_by_all_voxels, minimise
from daskreg.registration.normal_equations.edge_weights import possible_overlap, scaling
from daskreg.registration.problem import Problem, SolverOptions
from daskreg.registration.pyramids.filters import mean_and_variance
from daskreg.registration.pyramids.pyramid import FinestLevel, ImageBatch, PyramidLevel
from daskreg.registration.verdicts import with_errors

Floats = NDArray[np.float64]

BLOCK_BYTES = 512 << 20
"""Bytes of voxels, as stored, that a block reads of each image at most. Not all are in memory at once (`slabs`)."""
PASSES = 2
"""Passes over all blocks that an estimate takes as a rule."""
# Passes where these do not converge.
_MOST_PASSES = 8


@dataclass(frozen=True)
class CoarsePair:
    """The coarse images, and what was found on them: of one pair, with its finest level."""

    images: tuple[Image, Image]
    batches: tuple[ImageBatch, ImageBatch]
    found: BatchEstimate


def estimate_all_voxels(
    problem: Problem,
    options: SolverOptions,
    images: tuple[LazyImage, LazyImage],
    coarse: CoarsePair,
    work: Work,
) -> BatchEstimate:
    """The estimate of every voxel, from the coarse one on; the coarse one where little overlaps at full resolution."""
    finest = FinestLevel.of(images[0].grid, images[1].grid, options.smoothing)
    pair = _lazy_pair(problem, images, coarse, finest)
    start = np.asarray(coarse.found.parameters, dtype=np.float64)
    maps = _maps(problem, start, *finest.grids)
    task = NoiseTask.of(problem, smoothed_by(pair, finest.sigmas, 1.0), maps, start, finest.sigmas)
    [smoothing] = work.run(
        "noise", best_smoothing, [task], label="noise", store=noise.to_arrays, restore=noise.from_arrays
    )
    pair = smoothed_by(pair, finest.sigmas, smoothing.factor)
    blocks = blocks_of(pair, maps, BLOCK_BYTES)
    work.expected = work.done + PASSES * len(blocks)
    voxels = BlockVoxels(pair, blocks, cell_of(pair.shape), work)
    objective = LevelObjective.over(
        problem, voxels, _possible(coarse, finest), fixed=finest.grids[0], moving=finest.grids[1], step=finest.step
    )
    iterate = _solved(objective, start, options)
    if not np.isfinite(iterate.cost).all():
        return coarse.found
    step, covariance, _ = last_step_by(voxels.scores, objective, iterate)
    parameters = iterate.parameters + step
    found = replace(
        coarse.found,
        matrices=problem.pose.motions(parameters, problem.centre)[0],
        parameters=parameters,
        covariance=covariance,
        overlap=iterate.overlap,
        iterations=coarse.found.iterations + voxels.passes,
        converged=iterate.converged,
        losses=np.stack(iterate.losses),
        step=finest.step,
        level=None,
    )
    grid = images[0].grid
    return replace(
        found, verdicts=with_errors(problem, found.verdicts, covariance, parameters, grid=grid, step=finest.step)
    )


def _solved(objective: LevelObjective, start: Floats, options: SolverOptions) -> Iterate:
    # The last step replaces a step of LM that is as short as this, and saves the pass that would confirm it.
    iterate = corrected_by_all_voxels(
        objective, start, options.tolerance, options.max_iterations, least=options.tolerance
    )
    if iterate.converged.all() or not np.isfinite(iterate.cost).all():
        return iterate
    return minimise(objective, iterate.parameters, options.tolerance, min(options.max_iterations, _MOST_PASSES))


def _lazy_pair(
    problem: Problem, images: tuple[LazyImage, LazyImage], coarse: CoarsePair, finest: FinestLevel
) -> LazyPair:
    """The images at the finest level, with the regions of the coarse ones."""
    level = coarse.found.level
    regions: list[Region | None] = [None, None]
    for k, batch in enumerate((level.fixed, level.moving) if level is not None else ()):
        read = coarse.images[k]
        halved = np.rint(np.divide(batch.grid.spacing, read.grid.spacing)).astype(int)
        regions[k] = region_of(batch.weight, tuple((np.array(read.reduced) * halved).tolist()))
    return lazy_pair(images, coarse.images, coarse.batches, (regions[0], regions[1]), finest, metric=problem.metric)


def lazy_pair(
    images: tuple[LazyImage, LazyImage],
    coarse: tuple[Image, Image],
    batches: tuple[ImageBatch, ImageBatch],
    regions: tuple[Region | None, Region | None],
    finest: FinestLevel,
    *,
    metric: str,
) -> LazyPair:
    """The images at the finest level, with the mean and the scale of the coarse ones.

    Args:
        coarse: the images; batches: of these, one pair. regions: where the images take part.
    """
    statistics = [mean_and_variance(batch.values, batch.weight) for batch in batches]
    if metric == "mse":
        statistics[1] = statistics[0]
    made = []
    for k, image in enumerate(images):
        mean, variance = (float(x[0]) for x in statistics[k])
        scale = variance**-0.5 if variance > 0 else 1.0
        one = replace(image, grid=finest.grids[k], factors=finest.factors[k], offset=coarse[k].offset)
        made.append(replace(one, mean=mean, scale=scale, region=regions[k]))
    return LazyPair(made[0], made[1], finest.step)


def region_of(weight: torch.Tensor | None, factors: tuple[int, ...]) -> Region | None:
    """Where a coarse level has weight; None where it has it everywhere."""
    if weight is None or bool((weight > 0).all()):
        return None
    return Region((weight[0] > 0).numpy(), factors, (0,) * len(factors))


def _maps(problem: Problem, p: Floats, fixed: Grid, moving: Grid) -> Floats:
    """(1, D, D+1) maps from xi to moving indices at (1, P) parameters."""
    world_from_xi = fixed.matrix @ scaling(fixed.shape)
    return np.asarray(moving.inverse_matrix[:-1] @ problem.pose.motions(p, problem.centre)[0] @ world_from_xi)


def _possible(coarse: CoarsePair, finest: FinestLevel) -> Floats:
    """(1,) the total weight of the smaller image: exact without masks, else the part of it on the coarse level."""
    empty = torch.empty(0)
    whole = PyramidLevel(
        ImageBatch(empty, None, finest.grids[0]), ImageBatch(empty, None, finest.grids[1]), finest.step
    )
    level = coarse.found.level
    if level is None or (level.fixed.weight is None and level.moving.weight is None):
        return possible_overlap(whole)
    bare = replace(level, fixed=replace(level.fixed, weight=None), moving=replace(level.moving, weight=None))
    return possible_overlap(whole) * possible_overlap(level) / possible_overlap(bare)
