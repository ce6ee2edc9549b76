"""The estimate of `align_projections`, in memory: levels, Gauss-Newton steps, outliers, standard deviations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.tomography.agreement import agreement_of
from daskreg.tomography.coarse import start_poses
from daskreg.tomography.descent import Descent, Evaluation, descend, step_from
from daskreg.tomography.matching import (
    LEAST_ROWS,
    Linearised,
    Problem,
    derivatives,
    linearised,
    smoothed,
    smoothed_noise,
)
from daskreg.tomography.poses import MODELS, Fixed, fitted_waves, shifts_of, sigma_of_constant

Floats = NDArray[np.float64]
Array = NDArray[Any]
Bools = NDArray[np.bool_]

_FIRST_STEPS = 2  # of each start, before the best is chosen
_NOISY_START = 1.25  # standard deviations of noise that may be left from a start: no other would be better
_MOST_NOISE = 0.9  # of the information on a parameter: with more, nothing is known of it
_NOISE_OF_THE_DETERMINED = 0.7  # of the information on the axis and the centre
_MOST_SIGMA = 2.0  # pixels of the level
LEAST_NOISE = 1e-3  # of the standard deviation of the projections: no detector has less
# An outlier: a residual so many robust standard deviations, and so much, above the median.
_OUTLIER_SIGMAS, _OUTLIER_FACTOR = 6.0, 2.5


@dataclass(frozen=True)
class Solution:
    """Poses about the middle of the detector, in its pixels, and how the last level was left.

    Args:
        at: the last level at these poses, but for a short step; None where it is worked on by blocks.
    """

    poses: Floats
    problem: Problem
    steps: int
    settled: bool
    unlike: tuple[int, ...] = ()
    at: Linearised | None = None


def parameters_of(model: str, turn_fixed: bool, rows: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the parameters of each projection, and of the shared ones; with so few rows only a shift across."""
    if rows < LEAST_ROWS:
        return ("tx",), ()
    own = MODELS[model]
    return own, () if turn_fixed or "theta" in own else ("theta",)


def solve(problems: list[Problem], fixed: Fixed, most: int, ended: Callable[[], None] = lambda: None) -> Solution:
    """From the coarsest problem to the finest; `ended` is called after each."""
    used = problems[0].used
    radians = problems[0].radians
    start: Evaluation[Linearised] | None
    poses, start = _first(problems[0], fixed)
    unlike: tuple[int, ...] = ()
    for problem in problems:
        descent = _descent(problem.using(used), poses, fixed, most, start)
        found = _contradicted(descent.at)
        if problem is problems[0] and len(found):
            unlike = tuple(np.flatnonzero(used)[found].tolist())
            used = used.copy()
            used[list(unlike)] = False
            descent = _descent(problem.using(used), descent.poses, fixed, most)
        poses, start = descent.poses, None
        ended()
    last = problems[-1].using(used)
    return Solution(bridged(poses, radians, used), last, descent.steps, descent.settled, unlike, descent.at)


def _descent(
    problem: Problem, poses: Floats, fixed: Fixed, most: int, start: Evaluation[Linearised] | None = None
) -> Descent[Linearised]:
    return descend(problem, poses, fixed, most, partial(_evaluated, problem), start=start)


def _evaluated(problem: Problem, poses: Floats) -> Evaluation[Linearised]:
    at = linearised(problem, poses)
    return Evaluation(at.sums(-at.residual), at.coupling, at)


def _first(problem: Problem, fixed: Fixed) -> tuple[Floats, Evaluation[Linearised]]:
    """The start from which the residual is smallest after a few steps, or the first that leaves little but noise; and
    what has been found at its poses."""
    best, least, enough = None, np.inf, _NOISY_START * problem.noise * smoothed_noise(problem.level.whole_rows)
    for poses in start_poses(problem, fixed.turn, fixed.centre):
        here = _evaluated(problem, poses)
        for _ in range(_FIRST_STEPS):
            if np.sqrt(here.sums.misfit) < enough:
                break
            poses = step_from(problem, poses, here, fixed).poses()  # noqa: PLW2901
            here = _evaluated(problem, poses)
        left = float(np.sqrt(here.sums.misfit))
        if best is None or left < least:
            best, least = (poses, here), left
        if left < enough:
            break
    assert best is not None  # noqa: S101 (there is always a start)
    return best


def residuals_of(at: Linearised) -> Floats:
    """(A used,) root mean square of the residual as a share of that of the projection."""
    power = (at.aligned**2).mean(axis=(1, 2), dtype=np.float64)
    return np.asarray(np.sqrt((at.residual**2).mean(axis=(1, 2), dtype=np.float64) / np.maximum(power, 1e-30)))


def _contradicted(at: Linearised) -> NDArray[np.intp]:
    """Positions, among those used, of projections that the others contradict; at most a quarter of them."""
    off = np.sqrt((at.residual**2).mean(axis=(1, 2), dtype=np.float64))
    middle = float(np.median(off))
    spread = 1.4826 * float(np.median(np.abs(off - middle)))
    found = np.flatnonzero((off > middle + _OUTLIER_SIGMAS * spread) & (off > _OUTLIER_FACTOR * middle))
    return found[np.argsort(off[found])[::-1]][: len(off) // 4]


def bridged(poses: Floats, radians: Floats, used: Bools) -> Floats:
    """The poses, of projections that are not used interpolated by the angle."""
    if used.all():
        return poses
    order = np.flatnonzero(used)[np.argsort(radians[used], kind="stable")]
    flat = poses.reshape(len(poses), 9).copy()
    for k in range(9):
        flat[~used, k] = np.interp(radians[~used], radians[order], flat[order, k])
    return flat.reshape(-1, 3, 3)


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviations.

    Args:
        own: (A, P) of the parameters of each projection, pixels of the detector and radians; NaN where not used.
        turn: of the axis, radians.
        centre: pixels of the detector.
        agreement, noise, disagreement: see `TiltFit`.
        consistent: whether the volume explains the projections; see `agreement.consistent`.
        determined: whether the shifts and the axis are known to within two pixels of the level, and not by noise alone.
        gain: (P,) by how much larger the standard deviations are than those of each projection alone.
        left: of the variance of noise of one per pixel, in the residual.
    """

    own: Floats
    turn: float
    centre: float
    agreement: float
    noise: float
    disagreement: float
    consistent: bool
    determined: bool
    gain: Floats
    left: float


def uncertainty(solution: Solution, coarse: Problem, fixed: Fixed, seed: int = 0) -> tuple[Uncertainty, Floats]:
    """Standard deviations, and the residuals (A,).

    The estimate is made of noise, linearised at the solution, on the finest level for the projections. The axis and the
    centre are linear in the noise, on the coarse level, since few coarse pixels determine them as well.
    """
    rng = np.random.default_rng(seed)
    problem, poses = solution.problem, solution.poses
    at = linearised(problem, poses) if solution.at is None else solution.at
    noise = problem.noise
    values, _, left = _of_noise(at, rng)
    own_scales = at.sums(at.residual).scales()[0]
    local = np.sqrt(np.einsum("aqp,aqp->ap", own_scales, own_scales))
    factor = np.sqrt(np.mean((values / np.maximum(local, 1e-30)) ** 2, axis=0))
    power = float((at.residual**2).mean(dtype=np.float64))
    noise = max(noise, LEAST_NOISE * float(problem.data[problem.used].std()))
    left = max(left, 1e-30)
    disagreement = max(1.0, float(np.sqrt(power / left)) / noise)
    unit = np.array([problem.factor if name in ("ty", "tx") else 1.0 for name in problem.names])
    own = np.full((len(poses), len(problem.names)), np.nan)
    own[problem.used] = local * factor * noise * disagreement * unit
    turn, centre = _of_the_axis(coarse.using(problem.used), poses, rng)
    turn = turn.stated(0.0 if fixed.turn is not None else disagreement)
    if problem.wedge:
        open_centre = sigma_of_constant(shifts_of(poses)[:, 1], problem.radians, problem.used)
        centre = replace(centre, sigma=open_centre if fixed.centre is None else 0.0)
    else:
        centre = centre.stated(0.0 if fixed.centre is not None else disagreement)
    found = agreement_of(at, noise, rng)
    residuals = np.full(len(poses), np.nan)
    residuals[problem.used] = residuals_of(at)
    return Uncertainty(
        own,
        turn.sigma,
        centre.sigma,
        found.varying,
        noise,
        disagreement,
        found.consistent and bool(at.weight.any()),  # steps into nowhere leave no pixel that could disagree
        _determined(problem, own, turn, centre),
        factor,
        left,
    ), residuals


def _determined(problem: Problem, own: Floats, turn: _Spread, centre: _Spread) -> bool:
    """See `Uncertainty`. Where a wedge is missing, the centre is open, and moves the volume alone."""
    edge = turn.sigma * problem.level.reach
    widest = max(edge, 0.0 if problem.wedge else centre.sigma / problem.factor)
    noisy = any(spread.sigma > 0 and spread.by_noise > _NOISE_OF_THE_DETERMINED for spread in (turn, centre))
    return widest <= _MOST_SIGMA and not noisy and shifts_are_known(problem, own, problem.factor)


def shifts_are_known(problem: Problem, own: Floats, factor: int) -> bool:
    """Whether most shifts, of standard deviations `own`, are known to within two pixels of a level of such factor."""
    shifts = [own[problem.used, k] / factor for k, name in enumerate(problem.names) if name in ("ty", "tx")]
    return max(float(np.median(sigma)) for sigma in shifts) <= _MOST_SIGMA


def _of_noise(at: Linearised, rng: np.random.Generator) -> tuple[Floats, Floats, float]:
    """Parameters (A, P) and shared ones that are estimated of noise of one per pixel, and the variance of its
    residual."""
    shape = at.residual.shape
    noise = smoothed(rng.normal(size=shape).astype(np.float32)) * at.weight
    noise -= at.problem.reproject(noise)
    values, shared = at.solve(noise)
    return values, shared, float((noise**2).mean(dtype=np.float64))


@dataclass(frozen=True)
class _Spread:
    """A standard deviation, for noise of one per pixel.

    Args:
        by_noise: share of what seems to determine the value that is noise.
        by_residuals: the standard deviation that the residuals show.
    """

    sigma: float
    by_noise: float = 0.0
    by_residuals: float = 0.0

    def scaled(self, noise: float, unit: float = 1.0) -> _Spread:
        """Of such noise, in smaller units."""
        return replace(self, sigma=self.sigma * noise * unit, by_residuals=self.by_residuals * unit)

    def stated(self, factor: float) -> _Spread:
        """The larger one of the two, the first of them by a factor; 0 where that is."""
        return replace(self, sigma=max(self.sigma * factor, self.by_residuals) if factor else 0.0)


def _of_the_axis(problem: Problem, poses: Floats, rng: np.random.Generator) -> tuple[_Spread, _Spread]:
    """Standard deviations of the axis (radians) and the centre (pixels of the detector).

    Noise is in the volume too, and so in the derivatives, where it looks as if it determined the poses. What it adds
    to the information on the axis and the centre is taken off: they are determined weakly, so that it matters.
    """
    at = linearised(problem, poses)
    noise = max(problem.noise, LEAST_NOISE * float(problem.data[problem.used].std()))
    white = noise * smoothed(rng.normal(size=at.residual.shape).astype(np.float32)) * at.weight
    of_noise = replace(at, basis=derivatives(problem.reproject(white), problem))
    count = int(problem.used.sum())
    constant = np.linalg.pinv(fitted_waves(np.zeros(count), problem.radians[problem.used])[0])[0]
    turn = _sigma_of_sum(at, of_noise, "theta", np.full(count, 1 / count))
    return turn.scaled(noise), _sigma_of_sum(at, of_noise, "tx", constant).scaled(noise, problem.factor)


def _sigma_of_sum(at: Linearised, of_noise: Linearised, name: str, weights: Floats) -> _Spread:
    """Standard deviation of a weighted sum of a parameter of all projections, or of one that they share. Information
    that is that of noise does not count (the bias of errors in variables, Fuller 1987).

    What is not noise is alike in many pixels of a projection. So the residuals are asked too: by how much what each
    projection adds to the sum varies (Huber 1967), and how far it is to where their squares are least. Steps end
    elsewhere if no volume is what the projections show, as with a missing wedge of a specimen that is cut off.
    """
    problem = at.problem
    sums = at.sums(np.zeros_like(at.residual))
    asked = replace(sums, score=np.zeros_like(sums.score), shared=np.zeros_like(sums.shared))
    if name in problem.shared:
        asked.shared[problem.shared.index(name)] = 1.0
    elif name in problem.names:
        asked.score[:, problem.names.index(name)] = weights
    else:
        return _Spread(0.0)
    # The direction in which the sum is seen: the other parameters follow it as they would.
    values, shared = problem.solve(asked, at.every, exact=True)
    seen, by_noise = (of.every.changed(values, shared) for of in (at, of_noise))
    left = seen - problem.reproject(seen)
    found = float(np.sqrt((smoothed(left * at.weight) ** 2).sum(dtype=np.float64)))
    information = float((seen * left).sum(dtype=np.float64))
    of_it = float((by_noise * (by_noise - problem.reproject(by_noise))).sum(dtype=np.float64))
    share = max(of_it / max(information, 1e-30), 0.0)
    certain = 1 - min(share, _MOST_NOISE)
    added = (left * at.residual).sum(axis=(1, 2), dtype=np.float64)
    return _Spread(found / certain, share, float(np.hypot(np.linalg.norm(added), added.sum())) / certain)
