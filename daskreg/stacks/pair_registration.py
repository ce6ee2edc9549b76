"""Pairs of slices, many at once: a search for the initial pose, and the registration to one image.

Identity is one candidate. Where its result on small levels agrees with the shift that phase correlation finds,
the pair continues on the finer levels from there. Where it does not, no motion and the shifts that phase correlation
proposes are tried on the finest small level. Of candidates whose costs differ by no more than noise explains, the
smallest motion is taken, so that periodic objects do not hop by periods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daskreg.geometry import Grid
from daskreg.registration.estimate import BatchEstimate
from daskreg.registration.initial_pose import GivenPoses, Start
from daskreg.registration.levenberg_marquardt import Iterate, LevelObjective, solve_level
from daskreg.registration.pipeline import estimate
from daskreg.registration.pose import Pose
from daskreg.registration.problem import Problem, SolverOptions
from daskreg.registration.pyramids.masked_pyramids import MaskedPyramids
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel, image_batch
from daskreg.runtime.threads import in_threads
from daskreg.stacks.verdict.smallest_motion import keep_better

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SMALL = {2: 160, 3: 48}
"""Voxels along the longest axis of small levels, at most, by number of dimensions."""
# Sigma of the finest level in voxels: less than in `register`, so that neighbours are matched as they are.
_SMOOTHING = 0.4
# Levels that are solved from given poses.
_LEVELS_FROM_GIVEN = 3
# Shifts that phase correlation proposes for a pair.
_PROPOSALS = 3
# Voxels of the level within which identity and phase correlation agree.
_AGREEMENT = 2.0
# Iterations of a proposal.
_TRIAL_ITERATIONS = 15
# Where the cost is looked at on the way from no motion to a pose, at unequal steps so that no period meets all of them;
# and voxels that tell it well enough.
_WAY, _WAY_VOXELS = (0, 0.13, 0.29, 0.47, 0.71, 1), 4096
# Tolerance in voxels on the finest of the small levels, and on those before it.
_FINE_TOLERANCE, _COARSE_TOLERANCE = 0.02, 0.1
# Voxels along the longest axis that phase correlation needs.
_PHASE_VOXELS = 56
# Half width, in voxels, of a peak of the phase correlation.
_PEAK = 3
# Memory for each voxel of a pair, in bytes, and for all pairs that are registered at once, by device.
_BYTES_PER_VOXEL = 150
_BYTES = {"cpu": 512 * 2**20, "cuda": 4096 * 2**20}
_MAX_PAIRS = {"cpu": 32, "cuda": 256}


@dataclass(frozen=True)
class PairOptions:
    """How the pairs of a stack are registered; see `SolverOptions`."""

    pose: Pose
    metric: str = "ncc"
    max_iterations: int = 50
    tolerance: float = 1e-3
    device: str = "cpu"

    def problem(self, grid: Grid) -> Problem:
        """What is estimated for slices on a grid."""
        return Problem(self.pose, grid.centre, self.metric)

    def solver(self, *, levels: int | str = "auto") -> SolverOptions:
        """How it is solved: outliers are found later, by comparing pairs, and flat borders count."""
        return SolverOptions(levels, _SMOOTHING, self.max_iterations, self.tolerance, robust=False, device=self.device)


def batch_size(grid: Grid, device: str) -> int:
    """How many pairs on this grid are registered at once: in about 512 MiB, on a GPU in 4 GiB."""
    kind = "cuda" if device.startswith("cuda") else "cpu"
    return max(1, min(_MAX_PAIRS[kind], _BYTES[kind] // (_BYTES_PER_VOXEL * math.prod(grid.shape))))


def batch_bytes(grid: Grid, count: int) -> int:
    """Memory of so many pairs on the CPU, as many at once as a batch has."""
    return _BYTES_PER_VOXEL * math.prod(grid.shape) * min(count, batch_size(grid, "cpu"))


def register_pairs(
    fixed: Tensor, moving: Tensor, grid: Grid, options: PairOptions, start: Floats | None = None
) -> list[BatchEstimate]:
    """Register (B, *shape) moving images to (B or 1, *shape) fixed ones, all on one grid.

    On the CPU the pairs are shared among as many threads as torch may use.

    Args:
        fixed, moving: float32, NaN where voxels are masked.
        start: (B, D+1, D+1) moving_from_fixed in the world, within a voxel or two; None: it is searched.

    Returns: the estimates in order, of a part of the batch each.
    """
    problem, solver = options.problem(grid), options.solver(levels="auto" if start is None else _LEVELS_FROM_GIVEN)

    def part(rows: slice) -> BatchEstimate:
        fixed_rows = fixed if len(fixed) == 1 else fixed[rows]
        f, m = (slice_batch(images, grid, options.device) for images in (fixed_rows, moving[rows]))
        initial_pose = IdentityOrShift() if start is None else GivenPoses(start[rows])
        return estimate(problem, solver, f, m, initial_pose)

    return _in_threads(part, len(moving), options.device)


def _in_threads(function: Callable[[slice], BatchEstimate], count: int, device: str) -> list[BatchEstimate]:
    """`function` of parts of `count` rows, in threads in each of which torch takes no others.

    Many small operations in one thread each waste less time than the threads inside each operation.
    """
    threads = torch.get_num_threads()
    parts = 1 if device.startswith("cuda") else min(threads, count)
    if parts == 1:
        return [function(slice(0, count))]
    ends = np.linspace(0, count, parts + 1).astype(int).tolist()

    def in_one_thread(rows: slice) -> BatchEstimate:
        torch.set_num_threads(1)
        return function(rows)

    try:
        return list(in_threads(parts, in_one_thread, [slice(a, b) for a, b in pairwise(ends)], in_order=True))
    finally:
        torch.set_num_threads(threads)  # the number with which new threads start


def slice_batch(values: Tensor, grid: Grid, device: str) -> ImageBatch:
    """An ImageBatch in which flat borders count: what is background in one slice is background in the next."""
    return image_batch(values.to(device), grid, find_borders=False)


def blank_images(images: Tensor) -> Bools:
    """(B,) which of (B, *shape) images are constant where they are not NaN."""
    flat: Any = images.flatten(1)
    low, high = torch.aminmax(flat, dim=1)
    if not bool(torch.isnan(low).any()):
        return np.asarray((~(high > low)).numpy())
    low = torch.where(torch.isnan(flat), torch.inf, flat).amin(1)
    high = torch.where(torch.isnan(flat), -torch.inf, flat).amax(1)
    return np.asarray((~(high > low)).numpy())


@dataclass(frozen=True)
class IdentityOrShift:
    """An `InitialPose`: identity, or a shift by phase correlation where that is clearly better on small levels."""

    def __call__(self, problem: Problem, options: SolverOptions, pyramids: MaskedPyramids) -> list[Start]:
        levels, count = pyramids.levels, pyramids.count
        side = SMALL.get(problem.pose.ndim, 64)
        small = [level for level in levels if max(level.fixed.grid.shape) <= side] or levels[:1]
        p = identity_or_shift(problem, small, count, max_iterations=options.max_iterations)
        first = min(len(small), len(levels) - 1)
        return [Start(pyramids.part(slice(first, None)), p, problem.pose.identity(count).numpy())]


def identity_or_shift(problem: Problem, levels: Sequence[PyramidLevel], count: int, *, max_iterations: int) -> Floats:
    """(B, P) the best poses of `count` pairs on small levels, coarse to fine, from identity and proposed shifts."""
    p = problem.pose.identity(count).numpy()
    for level in levels:
        tolerance = _FINE_TOLERANCE if level is levels[-1] else _COARSE_TOLERANCE
        iterate = solve_level(problem, level, p, tolerance=tolerance, max_iterations=max_iterations)
        p = iterate.parameters
    if "translation" not in problem.pose.groups:
        return p
    last = levels[-1]
    correlated = next(level for level in levels if level is last or max(level.fixed.grid.shape) >= _PHASE_VOXELS)
    shifts = phase_shifts(correlated.fixed, correlated.moving, _PROPOSALS)
    none = np.zeros_like(shifts[:, 0])
    apart = _distance(problem, correlated, p, shifts[:, 0]) > _AGREEMENT
    # On the coarsest levels noise may have led a pair away from no motion, by a period of what only finer levels show.
    led = ~apart & (_distance(problem, correlated, p, none) > _AGREEMENT)
    for rows, proposals in (
        (np.flatnonzero(apart), [none, *np.moveaxis(shifts, 1, 0)]),
        (np.flatnonzero(led)[_as_good_unmoved(problem, last, iterate, led)], [none]),
    ):
        if len(rows):
            pairs = last.take(torch.from_numpy(rows))
            for shift in proposals:
                start = _shifted(problem, correlated, shift[rows])
                trial = solve_level(problem, pairs, start, tolerance=_FINE_TOLERANCE, max_iterations=_TRIAL_ITERATIONS)
                keep_better(problem, last, iterate, rows, trial)
    return iterate.parameters


def _as_good_unmoved(problem: Problem, level: PyramidLevel, iterate: Iterate, rows: Bools) -> Bools:
    """Which of the pairs `rows` may fit as well by a smaller motion than theirs.

    Without any motion they agree so well that a smaller motion may, and the cost rises somewhere on the straight way
    from there to the pose found: where it only falls, both are on the slope of one optimum.
    """
    if not rows.any():
        return np.zeros(0, bool)
    number = np.flatnonzero(rows)
    found, none = iterate.parameters[number], problem.pose.identity(len(number)).numpy()
    objective = LevelObjective(problem, level.take(torch.from_numpy(number))).subsampled(_WAY_VOXELS)
    cost = np.stack([objective.evaluate(none + t * (found - none)).cost for t in _WAY])
    agrees = cost[0] < 1 - (1 - cost[-1]) / 4
    return np.asarray(agrees & (np.diff(cost, axis=0) >= 0).any(axis=0))


def _shifted(problem: Problem, level: PyramidLevel, shifts: Floats) -> Floats:
    """(B, P) parameters of shifts by (B, D) voxels of a level."""
    grid = level.fixed.grid
    matrices = np.tile(np.eye(grid.ndim + 1), (len(shifts), 1, 1))
    matrices[:, :-1, -1] = shifts @ (grid.direction_matrix * np.asarray(grid.spacing)).T
    return problem.parameters_of(matrices, grid)


def _distance(problem: Problem, level: PyramidLevel, p: Floats, shifts: Floats) -> Floats:
    """(B,) voxels of the level between the images of the centre under the parameters and under the shifts."""
    grid = level.fixed.grid
    motions = problem.pose.motions(p, problem.centre)[0]
    moved = motions[:, :-1, :-1] @ grid.centre + motions[:, :-1, -1]
    return np.asarray(np.linalg.norm(grid.index(moved) - grid.index(grid.centre) - shifts, axis=1))


def phase_shifts(fixed: ImageBatch, moving: ImageBatch, count: int) -> Floats:
    """(B, count, D) shifts in voxels, array order, at the highest peaks of the phase correlation of each pair.

    moving(p + shift) resembles fixed(p). Images are padded to twice their size, so that a shift differs
    from its complement, and multiplied by a window, so that borders have no effect. (Kuglin & Hines 1975,
    with high frequencies damped.)
    """
    shape = fixed.grid.shape
    axes = tuple(range(1, 1 + len(shape)))
    size = [2 * n for n in shape]
    spectra = [torch.fft.rfftn(_windowed(p), s=size, dim=axes) for p in (fixed, moving)]
    cross = spectra[1] * spectra[0].conj()
    magnitude = cross.abs()
    damping = 1 / magnitude.clamp_min(1e-12 + 1e-6 * magnitude.amax(axes, keepdim=True))
    for k, n in enumerate(size):
        f = torch.fft.rfftfreq(n) if k == len(size) - 1 else torch.fft.fftfreq(n)
        one = [1] * cross.ndim
        one[k + 1] = -1
        damping *= torch.exp(-((f.to(cross.device) / 0.2) ** 2)).reshape(one)
    cross *= damping
    surface = torch.fft.irfftn(cross, s=size, dim=axes).cpu()
    return _peaks(surface, count)


def _windowed(image: ImageBatch) -> Tensor:
    """Less the mean, and falling to zero at the borders and in masked voxels."""
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
    """(B, count, D) the highest values that are apart from each other, as signed shifts."""
    shape = surface.shape[1:]
    shifts = np.zeros((len(surface), count, len(shape)))
    values = surface.clone().numpy()
    for k in range(count):
        at = np.stack(np.unravel_index(values.reshape(len(values), -1).argmax(1), shape), -1)
        shifts[:, k] = np.where(at > np.asarray(shape) // 2, at - np.asarray(shape), at)
        for image, peak in zip(values, at, strict=True):
            near = [np.arange(i - _PEAK, i + _PEAK + 1) % n for i, n in zip(peak, shape, strict=True)]
            image[np.ix_(*near)] = -np.inf
    return shifts
