"""The fields of a stack, as a task: on a worker where there is one, so that voxels stay there."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.blocks.tasks import run_tasks
from daskreg.errors import MemoryBudgetError
from daskreg.geometry import Affine
from daskreg.registration.deformable.cell_sums import square_bytes
from daskreg.registration.deformable.splines.control_grid import ControlGrid, control_grids
from daskreg.registration.pose import Pose
from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.pyramid import pyramid, standardised
from daskreg.runtime.memory import available_memory
from daskreg.stacks.elastic import judge
from daskreg.stacks.elastic.estimate import estimate_fields
from daskreg.stacks.elastic.solve import Pairs
from daskreg.stacks.elastic.uncertainty import field_sigma
from daskreg.stacks.execution import Execution, timed
from daskreg.stacks.pair_registration import blank_images, slice_batch
from daskreg.stacks.spans import StackSpec
from daskreg.stacks.trajectory import whittaker

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

LEAST_TOLERANCE = 0.01
"""Voxels: root mean square of the last step."""
# Bytes for each voxel of a slice, as measured: it, its levels, their masks and smoothed copies, and what is warped.
_BYTES_PER_VOXEL = 64
_SMOOTHING = 0.5


@dataclass(frozen=True, eq=False)
class ElasticTask:
    """spec: the stack. poses: (N, D+1, D+1) raw_from_aligned before. spacing: (D,) of the finest control points.
    kept: slices that keep their pose. first: the first slice does so, too. mirrored: slices that are left out, since no
    field turns them."""

    spec: StackSpec
    poses: Floats
    spacing: tuple[float, ...]
    kept: tuple[int, ...]
    first: bool
    mirrored: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class ElasticResult:
    """layers: with the coefficients of each (N, D, *nodes), in the order of the product. control: the finest grid, on
    which are total, the coefficients of all layers as far as they add, and sigma, (N, D, *nodes) both.

    scores: (N,) mean correlation with the nearest slices. rejected: (N,) share of the places. chance: (E,).
    determined: how many coefficients the images determine. affine: how many they would, had they no bending energy.
    converged: whether the last steps were small.
    """

    layers: tuple[tuple[ControlGrid, Floats], ...]
    control: ControlGrid
    total: Floats
    sigma: Floats
    scores: Floats
    rejected: Floats
    chance: Bools
    useful: Bools
    edges: Ints
    blank: Bools
    determined: float
    affine: int
    iterations: int
    converged: bool


def run(task: ElasticTask, execution: Execution) -> ElasticResult:
    """Run it on a worker where there is a cluster, else here with progress."""
    if execution.client is None:
        return _run(task, execution)
    results: list[ElasticResult] = []
    run_tasks(_run, [task], client=execution.client, threads=1, on_done=results.append, label="elastic")
    return results[0]


def _run(task: ElasticTask, execution: Execution | None = None) -> ElasticResult:
    spec = task.spec
    grid, options = spec.grid, spec.options
    check_memory(spec, task.spacing)
    images = spec.tensor(0, spec.count)
    blank = blank_images(images)
    batch = slice_batch(images, grid, "cpu")
    batch, _, _ = standardised(batch, batch, "mse" if options.metric == "mse" else "ncc")
    one = batch.take(torch.tensor([0])) if len(images) > 1 else batch
    levels = list(pyramid(batch, one, smoothing=_SMOOTHING))
    lost = blank.copy()
    lost[list(task.mirrored)] = True
    edges = pairs_of(lost, spec.reach)
    if not len(edges):
        return _without_pairs(task, blank)
    free = ~lost
    free[list(task.kept)] = False
    if task.first:
        free[np.flatnonzero(~lost)[:1]] = False
    found = estimate_fields(
        levels,
        grid,
        tuple(Affine(pose, unit=grid.unit) for pose in task.poses),
        Pairs(edges, None, free),
        spacing=task.spacing,
        metric=options.metric,
        tolerance=max(options.tolerance, LEAST_TOLERANCE),
        max_iterations=options.max_iterations,
        progress=None if execution is None else execution.report,
    )
    state, pairs = found.state, found.pairs
    problem = Problem(Pose.of("affine", grid.ndim), grid.centre, options.metric)
    chance = judge.chance_pairs(levels, state.layers, edges, problem, determined=found.determined)
    robust = np.ones_like(found.agreement) if pairs.robust is None else pairs.robust
    rejected = judge.rejected_shares(robust, found.agreement, edges, spec.count)
    whole = free & ~np.isin(np.arange(spec.count), list(judge.kinds_of({}, rejected, chance, edges)))
    correlations = np.array([term.correlation for term in state.terms])
    return ElasticResult(
        state.layers.layers,
        state.layers.control,
        state.layers.total,
        field_sigma(found.images, pairs, state, matched=options.metric != "mse", whole=whole if whole.any() else free),
        _scores(correlations, edges, spec.count),
        rejected,
        chance,
        ~chance & (robust.mean(axis=tuple(range(1, robust.ndim))) > 0.5),
        edges,
        blank,
        state.determined,
        pairs.affine(grid.ndim),
        found.iterations,
        found.converged,
    )


def _without_pairs(task: ElasticTask, blank: Bools) -> ElasticResult:
    """Fields of zero, where no two slices can be compared."""
    count, control = task.spec.count, control_grids(task.spec.grid, task.spacing)[-1]
    zero, none = np.zeros((count, control.ndim, *control.shape)), np.zeros(0, bool)
    edges = np.empty((0, 2), np.intp)
    layers, unknown, rejected = ((control, zero),), np.full(count, np.nan), np.zeros(count)
    sigma = np.full_like(zero, np.nan)
    return ElasticResult(layers, control, zero, sigma, unknown, rejected, none, none, edges, blank, 0.0, 0, 0, True)


def pairs_of(blank: Bools, reach: int) -> Ints:
    """(E, 2) slices up to `reach` apart, blank ones not counted, in the order of the second."""
    numbers = np.flatnonzero(~blank).tolist()
    pairs = [(numbers[a], numbers[b]) for b in range(len(numbers)) for a in range(max(0, b - reach), b)]
    return np.array(pairs, dtype=np.intp).reshape(-1, 2)


def _scores(correlations: Floats, edges: Ints, count: int) -> Floats:
    """(N,) means over the pairs with the nearest slices; NaN without any."""
    scores = np.full(count, np.nan)
    for i in range(count):
        some = np.flatnonzero((edges == i).any(axis=1))
        if len(some):
            apart = np.abs(np.diff(edges[some], axis=1)[:, 0])
            scores[i] = correlations[some[apart == apart.min()]].mean()
    return scores


def check_memory(spec: StackSpec, spacing: tuple[float, ...]) -> None:
    """Raises: MemoryBudgetError where the fields of the stack need more than half of what is free."""
    needed = fields_memory(spec, spacing)
    usable = available_memory() // 2
    if needed > usable:
        raise MemoryBudgetError(
            f"the fields of {spec.count} slices need {needed / 2**30:.3g} GiB of memory, and {usable / 2**30:.3g} GiB "
            "may be used: take a greater spacing, fewer neighbors, or a coarser level of the stack"
        )


def fields_memory(spec: StackSpec, spacing: tuple[float, ...]) -> int:
    """Bytes for the fields of the stack."""
    control = control_grids(spec.grid, spacing)[-1]
    system = 2 * spec.reach * square_bytes(control.shape)
    return spec.count * (_BYTES_PER_VOXEL * math.prod(spec.grid.shape) + system)


def tried_seconds(task: ElasticTask, count: int) -> float | None:
    """Seconds of one thread for the fields of `count` slices, from a task of a few of them: by the number of pairs;
    None: there are none."""
    spec = task.spec
    once = replace(task, spec=replace(spec, options=replace(spec.options, max_iterations=1)))
    found, seconds = timed(lambda: _run(task), before=lambda: _run(once))
    tried = len(found.edges)
    return seconds / tried * len(pairs_of(np.zeros(count, bool), spec.reach)) if tried else None


def bridged(coefficients: Floats, fitted: Bools) -> Floats:
    """(N, D, *nodes) of a layer, those of slices that are not fitted interpolated between their neighbours."""
    if fitted.all() or not fitted.any():
        return coefficients
    at, index = np.flatnonzero(fitted), np.arange(len(fitted))
    flat = coefficients.reshape(len(coefficients), -1)
    out = np.stack([np.interp(index, at, column) for column in flat[at].T], axis=1)
    return np.where(np.isin(index, at)[:, None], flat, out).reshape(coefficients.shape)


def slow_fields(total: Floats, fitted: Bools, period: float) -> Floats:
    """(N, D, *nodes) the part of the fields that changes slowly along the stack (see `trajectory.slow_part`)."""
    flat = total.reshape(len(total), -1)
    return whittaker(flat, fitted.astype(np.float64), period).reshape(total.shape)
