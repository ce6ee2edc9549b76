"""Pairs of neighbouring images, many at once, from nothing to a fit.

No motion is one start; where its fit on small copies of the images agrees with what their phases
say, it goes on to the finer levels. Where it does not, the shifts that the phases propose are
tried too and the best goes on; a larger motion must win clearly, so that periodic
objects keep the small one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daskreg.geometry import Grid
from daskreg.registration.levenberg_marquardt import Problem, State, solve_level
from daskreg.registration.multiresolution import Descent, descend_levels, half_extent
from daskreg.registration.pose import Pose
from daskreg.registration.pyramid import Level, Picture, picture, pyramid, standardised
from daskreg.runtime.threads import in_threads

Floats = NDArray[np.float64]

SMALL = {2: 160, 3: 48}  # voxels along the longest axis of small copies, at most
PROPOSALS = 3
SMOOTHING = 0.4  # sigma of the finest level, voxels: less than in `register`, so that neighbours match as they are
_AGREE = 2.0  # voxels of the small copies
_CLEARLY = 0.01
_TRIES = 15  # iterations of a proposal
_COARSE, _COARSER = 0.02, 0.1  # tolerance on the small copies, voxels: the finest of them, and those before
_PHASES = 56  # voxels along the longest axis that phases need


@dataclass(frozen=True)
class PairOptions:
    """How pairs are fitted; see `descend`."""

    pose: Pose
    metric: str = "ncc"
    max_iterations: int = 50
    tolerance: float = 1e-3
    device: str = "cpu"


def batch_size(grid: Grid, device: str) -> int:
    """How many pairs on this grid are fitted at once in about 512 MiB (a GPU: 4 GiB)."""
    budget = (4096 if device.startswith("cuda") else 512) * 2**20
    return max(1, min(256 if device.startswith("cuda") else 32, budget // (150 * math.prod(grid.shape))))


def fit_pairs(
    fixed: Tensor, moving: Tensor, grid: Grid, options: PairOptions, start: Floats | None = None
) -> list[Descent]:
    """Fit (B, *shape) moving images to (B or 1, *shape) fixed ones, all on one grid.

    On the CPU the pairs are shared among as many threads as torch may use.

    Args:
        fixed, moving: float32, NaN where nothing counts.
        start: (B, D+1, D+1) moving_from_fixed in the world, within a voxel or two; None: searched.

    Returns: the fits in order, a part of the batch each.
    """

    def part(rows: slice) -> Descent:
        f = fixed if len(fixed) == 1 else fixed[rows]
        return _fit_pairs(f, moving[rows], grid, options, None if start is None else start[rows])

    return _in_threads(part, len(moving), options.device)


def fit_row(images: Tensor, grid: Grid, options: PairOptions) -> list[Descent]:
    """`fit_pairs` of each of (B, *shape) images but the first to the one before it: B - 1 pairs."""

    def part(rows: slice) -> Descent:
        some = images[rows.start : rows.stop + 1]
        # For other metrics than ncc the images of a pair need a common scale.
        return (
            _fit_row(some, grid, options) if options.metric == "ncc" else _fit_pairs(some[:-1], some[1:], grid, options)
        )

    return _in_threads(part, len(images) - 1, options.device)


def _in_threads(function: Callable[[slice], Descent], count: int, device: str) -> list[Descent]:
    """`function` of parts of `count` rows, in threads in each of which torch takes no others.

    Many small operations wait for each other less than the threads within each do.
    """
    threads = torch.get_num_threads()
    parts = 1 if device.startswith("cuda") else min(threads, count)
    if parts == 1:
        return [function(slice(0, count))]
    ends = np.linspace(0, count, parts + 1).astype(int).tolist()

    def in_one_thread(rows: slice) -> Descent:
        torch.set_num_threads(1)
        return function(rows)

    try:
        return list(in_threads(parts, in_one_thread, [slice(a, b) for a, b in pairwise(ends)], in_order=True))
    finally:
        torch.set_num_threads(threads)  # with what new threads begin


def _fit_pairs(fixed: Tensor, moving: Tensor, grid: Grid, options: PairOptions, start: Floats | None = None) -> Descent:
    f, m = (flat_picture(t, grid, options.device) for t in (fixed, moving))
    f, m, variance = standardised(f, m, options.metric)
    levels = pyramid(f, m, levels="auto" if start is None else 3, smoothing=SMOOTHING)
    return _fit(levels, variance, options, start)


def _fit_row(images: Tensor, grid: Grid, options: PairOptions) -> Descent:
    """Each image goes down the pyramid once, though it is in two pairs."""
    every = flat_picture(images, grid, options.device)
    every, first, variance = standardised(every, every.take(torch.tensor([0])), options.metric)
    before, after = torch.arange(len(images) - 1), torch.arange(1, len(images))
    levels = [
        Level(s.fixed.take(before), s.fixed.take(after), s.step, s.sigmas)
        for s in pyramid(every, first, smoothing=SMOOTHING)
    ]
    return _fit(levels, variance[:-1], options, None)


def flat_picture(values: Tensor, grid: Grid, device: str) -> Picture:
    """A Picture whose flat borders count: what is background in one slice is so in the next."""
    return picture(values.to(device), grid, borders=False)


def _fit(levels: Sequence[Level], variance: Tensor, options: PairOptions, start: Floats | None) -> Descent:
    grid = levels[-1].fixed.grid
    batch = max(len(levels[-1].fixed.values), len(levels[-1].moving.values))
    problem = Problem(
        options.pose, grid.centre, options.metric, options.max_iterations, options.tolerance, robust=False
    )
    if start is not None:
        p = options.pose.from_matrices(start, grid.centre, half_extent(grid))
        return descend_levels(problem, levels, p, variance)
    origin = options.pose.identity(batch)
    small = [s for s in levels if max(s.fixed.grid.shape) <= SMALL.get(grid.ndim, 64)] or levels[:1]
    best = best_starts(problem, small, origin)
    return descend_levels(problem, levels[len(small) :] or levels[-1:], best, variance, origin=origin)


def best_starts(problem: Problem, levels: Sequence[Level], origin: Tensor) -> Floats:
    """(B, P) where pairs fit best on coarse levels, coarse to fine, from several starts."""
    p = origin.numpy()
    for level in levels:
        state = solve_level(problem, level, p, _COARSE if level is levels[-1] else _COARSER)
        p = state.parameters
    if "translation" not in problem.pose.groups:
        return p
    top = levels[-1]
    seen = next(level for level in levels if level is top or max(level.fixed.grid.shape) >= _PHASES)
    shifts = phase_shifts(seen.fixed, seen.moving, PROPOSALS)
    doubtful = np.flatnonzero(_distance(problem, seen, p, shifts[:, 0]) > _AGREE)
    if len(doubtful):
        rows = torch.from_numpy(doubtful)
        some = Level(top.fixed.take(rows), top.moving.take(rows), top.step)
        for k in range(PROPOSALS):
            start = _shifted(problem, seen, shifts[doubtful, k])
            _keep_better(state, doubtful, solve_level(problem, some, start, _COARSE, max_iterations=_TRIES))
    return state.parameters


def _keep_better(state: State, rows: NDArray[np.int64], trial: State) -> None:
    """Overwrite rows of `state` where the trial is clearly better."""
    wins = trial.cost < state.cost[rows] * (1 - _CLEARLY)
    state.parameters[rows[wins]], state.cost[rows[wins]] = trial.parameters[wins], trial.cost[wins]


def _shifted(problem: Problem, level: Level, shifts: Floats) -> Floats:
    """(B, P) parameters of shifts by (B, D) voxels of a level."""
    grid = level.fixed.grid
    matrices = np.tile(np.eye(grid.ndim + 1), (len(shifts), 1, 1))
    matrices[:, :-1, -1] = shifts @ (grid.direction_matrix * np.asarray(grid.spacing)).T
    return problem.pose.from_matrices(matrices, problem.centre, half_extent(grid)).numpy()


def _distance(problem: Problem, level: Level, p: Floats, shifts: Floats) -> Floats:
    """(B,) voxels of the level between where parameters and shifts bring the centre."""
    grid = level.fixed.grid
    found = problem.pose.motions(p, problem.centre)[0]
    moved = found[:, :-1, :-1] @ grid.centre + found[:, :-1, -1]
    return np.asarray(np.linalg.norm(grid.index(moved) - grid.index(grid.centre) - shifts, axis=1))


def phase_shifts(fixed: Picture, moving: Picture, count: int) -> Floats:
    """(B, count, D) shifts in voxels, array order, where each image's phases agree best.

    moving(p + shift) looks like fixed(p). Images are padded to twice their size, so a shift is
    told from its complement, and a window takes their borders away. (Kuglin & Hines 1975,
    high frequencies damped.)
    """
    shape = fixed.grid.shape
    axes = tuple(range(1, 1 + len(shape)))
    size = [2 * n for n in shape]
    spectra = [torch.fft.rfftn(_windowed(p), s=size, dim=axes) for p in (fixed, moving)]
    cross = spectra[1] * spectra[0].conj()
    cross = cross / cross.abs().clamp_min(1e-12 + 1e-6 * cross.abs().amax(axes, keepdim=True))
    for k, n in enumerate(size):
        f = torch.fft.rfftfreq(n) if k == len(size) - 1 else torch.fft.fftfreq(n)
        one = [1] * cross.ndim
        one[k + 1] = -1
        cross = cross * torch.exp(-((f.to(cross.device) / 0.2) ** 2)).reshape(one)
    surface = torch.fft.irfftn(cross, s=size, dim=axes).cpu()
    return _peaks(surface, count)


def _windowed(image: Picture) -> Tensor:
    """Mean taken out, borders and masked voxels brought to zero."""
    values = image.values
    window = torch.ones_like(values[:1])
    for k, n in enumerate(image.grid.shape):
        ramp = torch.sin(torch.pi * (torch.arange(n, device=values.device) + 0.5) / n)
        one = [1] * values.ndim
        one[k + 1] = -1
        window = window * ramp.clamp_min(0).reshape(one)
    if image.weight is not None:
        window = window * image.weight
    axes = tuple(range(1, values.ndim))
    mean = (values * window).sum(axes, keepdim=True) / window.sum(axes, keepdim=True).clamp_min(1e-9)
    return (values - mean) * window


def _peaks(surface: Tensor, count: int) -> Floats:
    """Highest values apart from each other, as signed shifts."""
    shape = surface.shape[1:]
    found = np.zeros((len(surface), count, len(shape)))
    values = surface.clone().numpy()
    for k in range(count):
        at = np.stack(np.unravel_index(values.reshape(len(values), -1).argmax(1), shape), -1)
        found[:, k] = np.where(at > np.asarray(shape) // 2, at - np.asarray(shape), at)
        for image, where in zip(values, at, strict=True):
            image[np.ix_(*[np.arange(i - 3, i + 4) % n for i, n in zip(where, shape, strict=True)])] = -np.inf
    return found
