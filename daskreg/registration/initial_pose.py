"""The initial poses of pairs: which candidates there are, and how one is chosen.

Candidates are refined by a few iterations on the coarse levels, in one batch, and the best by the metric is
chosen. A candidate that moves the image more than another must be clearly better, so that of a symmetric
object the small motion is chosen.

An `InitialPose` is a strategy that is passed to the pipeline: it takes the pyramids of a batch of pairs, and returns
the levels that are still to be solved with the poses at which they begin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from daskreg.geometry.rotations import array_order, rotation_from_angles, super_fibonacci_rotations
from daskreg.registration.initial_candidates import correlate, moments, reduced_for
from daskreg.registration.levenberg_marquardt import LevelObjective, solve_level
from daskreg.registration.problem import Problem, SolverOptions, half_extent
from daskreg.registration.pyramids.masked_pyramids import MaskedPyramids
from daskreg.registration.pyramids.pyramid import PyramidLevel

Floats = NDArray[np.float64]

INITS = ("auto", "identity", "moments", "phase", "search")
CLEARLY = 0.01
"""A larger motion must explain this fraction more of what a smaller one leaves unexplained."""
# A start that leaves less unexplained is good enough: what flat borders do is not looked at.
_GOOD = 0.02
# A start that leaves more unexplained is likely to be a false minimum.
_DOUBTFUL = 0.08
# Starts within so many voxels are the same.
_SAME = 0.25
# Degrees of the largest turn that is searched, by the name of an initial pose: "auto" tries every 7.5 up to 45.
_REACH = {"auto": 48.75, "search": 180.0}
# Voxels along the longest axis of the levels on which all pairs of a batch begin at identity.
_SMALL = 64


@dataclass(frozen=True)
class Start:
    """Where a batch of pairs begins.

    pyramids: the levels that are still to be solved. parameters: (B, P) the initial poses on the first of them.
    reference: (B, P) the poses that the result must not be worse than.
    """

    pyramids: MaskedPyramids
    parameters: Floats
    reference: Floats


class InitialPose(Protocol):
    """A strategy that chooses initial poses."""

    def __call__(self, problem: Problem, options: SolverOptions, pyramids: MaskedPyramids) -> list[Start]:
        """One start, or two: with all voxels and without flat borders, where these lead to different poses."""


@dataclass(frozen=True)
class GivenPoses:
    """Begin at (B, D+1, D+1) motions `moving_from_fixed`, or at one that all pairs share."""

    matrices: Floats

    def __call__(self, problem: Problem, options: SolverOptions, pyramids: MaskedPyramids) -> list[Start]:
        matrices = np.broadcast_to(self.matrices, (pyramids.count, *np.shape(self.matrices)[-2:]))
        p = problem.parameters_of(matrices, pyramids.grid)
        return [Start(pyramids, p, p)]


@dataclass(frozen=True)
class BestCandidate:
    """The best of the candidates for one pair.

    init: one of INITS, or a (D+1, D+1) motion, which is then the only candidate.
    """

    init: str | Floats

    def __call__(self, problem: Problem, options: SolverOptions, pyramids: MaskedPyramids) -> list[Start]:
        reference, starts = self.candidates(problem, pyramids)
        searched = isinstance(self.init, str) and self.init in ("auto", "search")
        rotations = correlated_rotations(str(self.init), problem.pose.ndim) if searched else None
        return refined(problem, pyramids, starts, reference=reference, rotations=rotations)

    def candidates(self, problem: Problem, pyramids: MaskedPyramids) -> tuple[Floats, Floats]:
        """(1, P) parameters of identity or of the given motion, and (K, P) those of all candidates."""
        only = self.init if not isinstance(self.init, str) else np.eye(problem.pose.ndim + 1)
        reference = problem.parameters_of([only], pyramids.grid)
        if not isinstance(self.init, str) or self.init == "identity":
            return reference, reference
        return reference, problem.parameters_of(candidates(pyramids, self.init), pyramids.grid)


@dataclass(frozen=True)
class IdentityFirst:
    """All pairs of a batch begin at identity on small levels.

    search: pairs that this does not explain begin at the best of their own candidates instead.
    """

    search: bool

    def __call__(self, problem: Problem, options: SolverOptions, pyramids: MaskedPyramids) -> list[Start]:
        identity = problem.pose.identity(pyramids.count).numpy()
        small = [level for level in pyramids.levels if max(level.fixed.grid.shape) <= _SMALL] or pyramids.levels[:1]
        p, cost = identity, np.full(pyramids.count, np.inf)
        for level in small:
            iterate = solve_level(problem, level, p, tolerance=0.05, max_iterations=15)
            p, cost = iterate.parameters, iterate.cost
        for k in np.flatnonzero(cost > _DOUBTFUL) if self.search else ():
            own = pyramids.part(slice(3)).take(torch.tensor([int(k)]))
            starts = problem.parameters_of(candidates(own, "auto"), own.levels[0].fixed.grid)
            rotations = near_rotations(problem.pose.ndim)
            p[k] = refined(problem, own, starts, reference=starts[:1], rotations=rotations)[0].parameters[0]
        first = min(len(small), len(pyramids.levels) - 1)
        return [Start(pyramids.part(slice(first, None)), p, identity)]


def reach_of(initial_pose: InitialPose) -> float:
    """Degrees by which a pose may be turned so that it is found; 0 where rotations are not searched."""
    if isinstance(initial_pose, IdentityFirst):
        return _REACH["auto"] if initial_pose.search else 0.0
    if isinstance(initial_pose, BestCandidate) and isinstance(initial_pose.init, str):
        return _REACH.get(initial_pose.init, 0.0)
    return 0.0


def candidates(pyramids: MaskedPyramids, kind: str) -> list[Floats]:
    """Candidates of one kind (out of INITS), (D+1, D+1) each; identity is the first of them.

    Args:
        pyramids: of one pair.
    """
    levels = pyramids.levels
    ndim = levels[0].fixed.grid.ndim
    found = [np.eye(ndim + 1)]
    if kind in ("moments", "auto"):
        found += moments(levels[0].fixed, levels[0].moving)
    rotations = correlated_rotations(kind, ndim)
    if rotations:
        # A flat border may be background or what an earlier warp filled: try both.
        for some in (levels, pyramids.borderless):
            if some is not None:
                level = some[0] if len(rotations) > 1 else some[min(1, len(some) - 1)]
                found += correlate(reduced_for(level, rotations), rotations)
    return found


def choose(problem: Problem, levels: Sequence[PyramidLevel], starts: Floats, *, keep: int = 4) -> tuple[Floats, float]:
    """(1, P) parameters of the best of (K, P) starts, refined on the two coarsest levels, and the cost there.

    The first level refines all starts in a batch, the second the best `keep` of them.
    """
    p, last = starts, min(2, len(levels)) - 1
    for number, level in enumerate(levels[:2]):
        iterate = solve_level(problem, level, p, tolerance=0.05, max_iterations=12, subset_only=True)
        cost = _penalised(iterate.cost, iterate.overlap)
        # The smallest motion is always kept, so that a larger one must be better than it.
        size = _displacement(problem, level, iterate.parameters)
        best = np.unique([*np.argsort(cost)[:keep], size.argmin()])
        p = iterate.parameters[best]
        if number == last:
            one = best[_best(cost[best], size[best])]
            return iterate.parameters[one][None], float(iterate.cost[one])
    return p[:1], math.inf


def refined(
    problem: Problem,
    pyramids: MaskedPyramids,
    starts: Floats,
    *,
    reference: Floats,
    rotations: Sequence[Floats] | None = None,
) -> list[Start]:
    """The best of (K, P) starts for one pair; two where it differs without flat borders.

    Args:
        rotations: where no start explains much, search again with these, one level finer and by several peaks of
            the correlation for each rotation: on the coarsest level repeated structures look the same.
    """
    p, cost = choose(problem, pyramids.levels, starts)
    if rotations is not None and cost >= _DOUBTFUL and len(pyramids.levels) >= 3:
        more = _denser_candidates(problem, pyramids, rotations)
        starts = np.concatenate([starts[:1], p, more])
        pyramids = pyramids.part(slice(1, None))
        p, cost = choose(problem, pyramids.levels, starts)
    both = [Start(pyramids, p, reference)]
    if cost < _GOOD or pyramids.borderless is None:
        return both
    levels = pyramids.borderless
    q, _ = choose(problem, levels, starts)
    if not LevelObjective(problem, levels[min(1, len(levels) - 1)]).displacement(p, q)[0] > _SAME:
        return both
    return [*both, Start(MaskedPyramids(levels, None, pyramids.variance, pyramids.grid), q, reference)]


def _denser_candidates(problem: Problem, pyramids: MaskedPyramids, rotations: Sequence[Floats]) -> Floats:
    """(K, P) candidates by correlation on the second level."""
    finer = [reduced_for(some[1], rotations) for some in (pyramids.levels, pyramids.borderless) if some]
    found = [np.stack(correlate(level, rotations, best=24, peaks=3)) for level in finer]
    return problem.parameters_of(np.concatenate(found), pyramids.levels[0].fixed.grid)


def correlated_rotations(kind: str, ndim: int) -> list[Floats]:
    """The rotations for which images are correlated; none for kinds that use no correlation."""
    if kind == "phase":
        return [np.eye(ndim)]
    if kind == "auto":
        return near_rotations(ndim)
    return all_rotations(ndim) if kind == "search" else []


def near_rotations(ndim: int) -> list[Floats]:
    """Rotations within 45 degrees: every 7.5 in 2D, every 25 about single axes in 3D."""
    if ndim == 2:
        return [_turn([a]) for a in np.arange(-45, 46, 7.5)]
    angles = [(0.0, 0.0, 0.0)] + [tuple(s * row) for row in np.eye(3) for s in (25.0, -25.0)]
    return [_turn(a) for a in angles]


def all_rotations(ndim: int) -> list[Floats]:
    """All rotations: every 7.5 degrees in 2D; in 3D 576, about 30 degrees apart."""
    if ndim == 2:
        return [_turn([a]) for a in np.arange(0, 360, 7.5)]
    return [np.eye(3), *super_fibonacci_rotations(576)]


def _displacement(problem: Problem, level: PyramidLevel, p: Floats) -> Floats:
    """(K,) root mean square displacement, in voxels, of the centre and the ends of the axes."""
    reach = half_extent(level.fixed.grid)
    points = np.eye(len(reach) + 1)
    points[:-1, :-1] *= reach
    points[:-1, -1] = level.fixed.grid.centre
    change = (problem.pose.motions(p, problem.centre)[0] - np.eye(len(points))) @ points
    return np.asarray(np.sqrt((change**2).sum((1, 2))) / level.step)


def _penalised(cost: Floats, overlap: Floats) -> Floats:
    """The cost, raised where little overlaps."""
    return cost / np.sqrt(np.maximum(overlap, 1e-3))


def _best(cost: Floats, size: Floats) -> int:
    """The smallest of the motions whose cost is within `CLEARLY` of the least."""
    good = cost <= cost.min() * (1 + CLEARLY) + 1e-9
    return int(np.where(good, size, np.inf).argmin())


def _turn(angles: ArrayLike) -> Floats:
    return array_order(rotation_from_angles(np.radians(angles).tolist()))
