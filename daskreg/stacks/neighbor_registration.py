"""Each image of a row fitted to the ones before it, up to some reach, in one go.

Every image goes down its pyramid once, though it is in many pairs. All pairs start by
themselves on small copies (`pairs.best_starts`); where three that make a triangle do not agree,
each also tries the way around, over the other two. Pairs of direct neighbours go on to the finest
level; pairs farther apart, which agree less anyway, end one level above it where images are
large.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from daskreg.geometry import Grid
from daskreg.registration.levenberg_marquardt import Lens, Problem, State, corners_of, solve_level
from daskreg.registration.multiresolution import half_extent
from daskreg.registration.normal_equations import TorchNormal
from daskreg.registration.pyramid import Level, Picture, pyramid
from daskreg.stacks.pair_registration import SMALL, PairOptions, best_starts, flat_picture
from daskreg.stacks.pair_table import PairTable, SliceFeatures, field_count

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

_LARGE = 256  # voxels of the longest side from which far pairs leave out the finest level
_COARSE = 0.02  # tolerance above the finest level, voxels
_TINY = 0.05  # voxels; a last step this small is taken unseen
_EVERY = 4  # of the rows of large images that tell slopes
_SHORT, _AS_GOOD = 0.3, 5e-3  # voxels of a step that may make the cost worse; and by how much a longer one may
_APART = 2.5  # voxels of the small copies by which triangles may fail to close
_CLEARLY = 0.01
_VOXELS = {"cpu": 1 << 21, "cuda": 1 << 26}  # of a level that are worked on at once
_LEAST_CONTRAST = 0.02  # of a field, against the image's


class Row:
    """Images in a row, with their pyramids.

    Args:
        images: (B, *shape) float32, NaN where nothing counts.
        blank: (B,) images that are in no pair.
        grid: of every image.
    """

    def __init__(self, images: Tensor, blank: Bools, grid: Grid, options: PairOptions) -> None:
        self.blank, self.grid, self.options = blank, grid, options
        self.digest = _digests(images)
        every = flat_picture(images, grid, options.device)
        self.every, self.variance = _levelled(every, blank, common=options.metric != "ncc")
        one = self.every.take(torch.tensor([0])) if len(images) > 1 else self.every
        # Slices are sampled finer than they are sharp, or noisy: smoothing the finest level gains nothing.
        steps = pyramid(self.every, one, smoothing=0.0)
        self.levels = [Level(s.fixed, s.fixed, s.step, s.sigmas) for s in steps]
        most, tolerance = options.max_iterations, options.tolerance
        self.problem = Problem(options.pose, grid.centre, options.metric, most, tolerance, robust=False)
        longest = [max(level.fixed.grid.shape) for level in self.levels]
        self.small = max(1, sum(n <= SMALL.get(grid.ndim, 64) for n in longest))
        self.shared = len(self.levels) - (1 if longest[-1] > _LARGE and len(self.levels) > self.small else 0)

    def fit(self, edges: Ints, *, mine: Bools | None = None, start: Floats | None = None) -> PairTable:
        """Fits of pairs (fixed, moving) of images.

        Args:
            mine: (E,) those that are wanted, of those that help.
            start: (E, P) parameters to go on from on the middle levels; searched by default.
        """
        if not len(edges):
            return PairTable.empty(self.grid.ndim, len(self.options.pose.names))
        p = self._started(edges) if start is None else start
        if mine is not None:
            edges, p = edges[mine], p[mine]
        if not len(edges):
            return PairTable.empty(self.grid.ndim, len(self.options.pose.names))
        first = min(self.small, self.shared - 1)
        for level in self.levels[first : self.shared]:
            state = self._polished(level, edges, p) if start is None else self._solved(level, edges, p)
            p = state.parameters
        likeness = self._score(state, edges)
        covariance = _covariance(state, self.levels[self.shared - 1])
        scores, overlap = likeness.copy(), state.overlap.copy()
        near = np.flatnonzero(np.abs(edges[:, 1] - edges[:, 0]) == self._least_gap(edges))
        if self.shared < len(self.levels) and len(near):
            finest = self.levels[-1]
            fine = self._polished(finest, edges[near], p[near])
            p[near] = fine.parameters
            scores[near], overlap[near] = self._score(fine, edges[near]), fine.overlap
            covariance[near] = _covariance(fine, finest)
        matrices = self.problem.pose.motions(p, self.problem.centre)[0]
        return PairTable(edges, matrices, covariance, scores, likeness, overlap, self._fields(edges, p))

    def features(self) -> SliceFeatures:
        values = [level.fixed.values for level in self.levels[:-3:-1]]
        slopes = np.stack([_slopes(v) for v in values] + [np.zeros(len(self.blank))] * (2 - len(values)), axis=1)
        small = self.levels[min(1, self.small - 1)].fixed.values.flatten(1)
        contrast = (small.var(1, correction=0).cpu().double() * self.variance).sqrt().numpy()
        return SliceFeatures(self.blank, contrast, slopes * self.variance.numpy()[:, None], self.digest)

    def _least_gap(self, edges: Ints) -> Any:
        """For each pair, how far the fixed image's next image that is not blank is."""
        kept = np.flatnonzero(~self.blank)
        following = np.searchsorted(kept, edges[:, 0], side="right")
        return kept[np.minimum(following, len(kept) - 1)] - edges[:, 0]

    def _started(self, edges: Ints) -> Floats:
        """(E, P) where pairs fit best on small copies, by themselves or by way of a third image."""
        levels = [_between(level, edges) for level in self.levels[: self.small]]
        p = best_starts(self.problem, levels, self.problem.pose.identity(len(edges)))
        top = levels[-1]
        for number, around in self._ways_around(edges, p, top):
            level = _between(self.levels[self.small - 1], edges[number])
            now = Lens(self.problem, level).evaluate(p[number])
            trial = solve_level(self.problem, level, around, _COARSE)
            wins = trial.cost < now.cost * (1 - _CLEARLY)
            p[number[wins]] = trial.parameters[wins]
        return p

    def _ways_around(self, edges: Ints, p: Floats, level: Level) -> Iterable[tuple[Ints, Floats]]:
        """Pairs in triangles that do not close, with the motion over the other two pairs."""
        problem, pose = self.problem, self.problem.pose
        matrices = pose.motions(p, problem.centre)[0]
        number = {(int(a), int(b)): k for k, (a, b) in enumerate(edges)}
        corners = corners_of(level.fixed.grid)
        trials: dict[int, list[Floats]] = {}
        for (a, b), ab in number.items():
            for c in range(b + 1, len(self.blank)):
                bc, ac = number.get((b, c)), number.get((a, c))
                if bc is None or ac is None:
                    continue
                around = matrices[bc] @ matrices[ab]
                apart = np.linalg.norm(((around - matrices[ac]) @ corners)[:-1], axis=0).max() / level.step
                if apart > _APART:
                    trials.setdefault(ac, []).append(around)
                    trials.setdefault(ab, []).append(np.linalg.inv(matrices[bc]) @ matrices[ac])
                    trials.setdefault(bc, []).append(matrices[ac] @ np.linalg.inv(matrices[ab]))
        for k in range(max((len(t) for t in trials.values()), default=0)):
            some = [(n, t[k]) for n, t in trials.items() if len(t) > k]
            found = pose.from_matrices([m for _, m in some], problem.centre, half_extent(self.grid)).numpy()
            yield np.array([n for n, _ in some]), found

    def _solved(self, level: Level, edges: Ints, p: Floats) -> State:
        tolerance = self.problem.tolerance if level is self.levels[-1] else max(_COARSE, self.problem.tolerance)

        def part(rows: Any) -> State:
            return solve_level(self.problem, _between(level, edges[rows]), p[rows], tolerance)

        return _in_parts(part, len(edges), level)

    def _polished(self, level: Level, edges: Ints, p: Floats) -> State:
        return _in_parts(lambda rows: self._polish(_between(level, edges[rows]), p[rows]), len(edges), level)

    def _polish(self, level: Level, p: Floats) -> State:
        """Down from nearby: a tiny step unseen, or two; pairs that are not there then go on as on any level."""
        lens = Lens(self.problem, level)
        state = lens.evaluate(p)
        step, moved = _undamped(lens, state)
        state.parameters = p + step
        far = ~(moved <= _TINY)
        if not far.any():
            return state
        rows = np.flatnonzero(far)
        there = lens.narrowed(lens.normal.take(rows), rows).evaluate(state.parameters[rows])
        step, again = _undamped(lens, there)
        better = there.cost <= state.cost[rows] * (1 + _AS_GOOD)
        # Where little is left to gain, interpolation moves the cost by more than the step does.
        easy = (better | (moved[rows] <= _SHORT)) & (again <= _TINY)
        reached = np.where(better[:, None], there.parameters, p[rows])
        there.parameters = np.where(easy[:, None], there.parameters + step, reached)
        if not easy.all():
            hard = torch.from_numpy(rows[~easy])
            some = Level(level.fixed.take(hard), level.moving.take(hard), level.step, level.sigmas)
            _put(there, ~easy, solve_level(self.problem, some, reached[~easy], self.problem.tolerance))
        _put(state, far, there)
        return state

    def _score(self, state: State, edges: Ints) -> Floats:
        cost = np.where(np.isfinite(state.cost), state.cost, np.nan)
        if self.problem.metric == "ncc":
            return np.asarray(1 - cost)
        return np.asarray(cost * self.variance.numpy()[edges[:, 0]])

    def _fields(self, edges: Ints, p: Floats) -> NDArray[np.float32]:
        """(E, F) correlations within fields of the small copies."""
        level = self.levels[self.small - 1]
        count = field_count(self.grid.ndim)
        fit = min(count, *level.fixed.grid.shape)
        pool: Any = {2: functional.adaptive_avg_pool2d, 3: functional.adaptive_avg_pool3d}[self.grid.ndim]

        def part(rows: Any) -> Tensor:
            pair = _between(level, edges[rows])
            lens = Lens(self.problem, pair)
            maps = lens.inner @ self.problem.pose.motions(p[rows], self.problem.centre)[0] @ lens.outer
            w, weight = TorchNormal(pair).warp(torch.from_numpy(maps))
            f = pair.fixed.values
            images = torch.stack([weight, weight * f, weight * w, weight * f * f, weight * w * w, weight * f * w], 1)
            n, a, b, aa, bb, ab = pool(images, (fit,) * self.grid.ndim).flatten(2).unbind(1)
            a, b, n1 = a / n.clamp_min(1e-6), b / n.clamp_min(1e-6), n.clamp_min(1e-6)
            va, vb = aa / n1 - a * a, bb / n1 - b * b
            score = (ab / n1 - a * b) / (va.clamp_min(1e-9) * vb.clamp_min(1e-9)).sqrt()
            seen = (n > 0.5) & (torch.maximum(va, vb) > _LEAST_CONTRAST)
            return torch.where(seen, score.clamp(-1, 1), torch.nan)

        size = _part(level)
        parts = [part(slice(k, k + size)).cpu() for k in range(0, len(edges), size)]
        found = torch.cat(parts).numpy().astype(np.float32)
        out = np.full((len(edges), count**self.grid.ndim), np.nan, np.float32)
        out[:, : found.shape[1]] = found
        return out


def pairs_within(blank: Bools, reach: int) -> Ints:
    """(E, 2) pairs of images at most `reach` places apart when the blank ones are left out, by the moving one."""
    kept = np.flatnonzero(~blank).tolist()
    found = [(kept[k], b) for n, b in enumerate(kept) for k in range(max(0, n - reach), n)]
    return np.array(found, dtype=np.intp).reshape(-1, 2)


_KEPT = ("parameters", "cost", "overlap", "normal", "right", "noise")


def _between(level: Level, edges: Ints) -> Level:
    fixed, moving = (level.fixed.take(torch.from_numpy(np.ascontiguousarray(edges[:, k]))) for k in (0, 1))
    return Level(fixed, moving, level.step, level.sigmas)


def _put(state: State, rows: Bools, some: State) -> None:
    """Overwrite rows of a state with a state of these rows."""
    for name in _KEPT:
        getattr(state, name)[rows] = getattr(some, name)


def _undamped(lens: Lens, here: State) -> tuple[Floats, Floats]:
    """(B, P) steps, and the (B,) voxels by which they move the farthest corner."""
    step = lens.step(here, np.zeros(len(here.cost)))
    return step, lens.moved(here.parameters + step, here.parameters)


def _part(level: Level) -> int:
    kind = level.fixed.values.device.type
    return max(1, _VOXELS.get(kind, 1 << 21) // math.prod(level.fixed.grid.shape))


def _in_parts(function: Any, count: int, level: Level) -> State:
    """A state of all pairs, from as many at a time as fit the caches."""
    size = _part(level)
    states = [function(slice(k, k + size)) for k in range(0, count, size)]
    joined: dict[str, Any] = {name: np.concatenate([getattr(s, name) for s in states]) for name in _KEPT}
    return State(**joined, iterations=np.zeros(count, np.int64), converged=np.ones(count, bool))


def _covariance(state: State, level: Level) -> Floats:
    """(E, P, P) of noise that was white before smoothing.

    Images change slowly along the reach of the smoothing h, so noise counts with its power at rest:
    the residual's variance over the sum of h squared.
    """
    size = np.sqrt(np.maximum(np.diagonal(state.normal, axis1=1, axis2=2), 1e-30))
    scale = 1 / (size[:, :, None] * size[:, None, :])
    inverse = np.linalg.pinv(state.normal * scale, hermitian=True, rcond=1e-9) * scale
    white = math.prod(_power(s) for s in level.sigmas[0]) if level.sigmas else 1.0
    return np.asarray(inverse * (state.noise / white)[:, None, None])


def _power(sigma: float) -> float:
    """The sum of the squares of a Gaussian's taps, which is what smoothing leaves of white noise."""
    if sigma <= 0:
        return 1.0
    taps = np.exp(-0.5 * (np.arange(-8, 9) / sigma) ** 2)
    return float(((taps / taps.sum()) ** 2).sum())


def _levelled(every: Picture, blank: Bools, *, common: bool) -> tuple[Picture, Tensor]:
    """Images with mean 0 and variance 1, each by its own or all by a common one; the (B,) variances."""
    values = every.values.flatten(1)
    weight = None if every.weight is None else every.weight.flatten(1)
    total = values.shape[1] if weight is None else weight.sum(1).clamp_min(1e-9)
    mean = (values.sum(1) if weight is None else (values * weight).sum(1)) / total
    if common and not blank.all():
        mean = mean[torch.from_numpy(~blank).to(mean.device)].mean().expand(len(values))
    centred = values - mean[:, None]
    variance = torch.linalg.vecdot(centred, centred if weight is None else centred * weight) / total
    if common and not blank.all():
        variance = variance[torch.from_numpy(~blank).to(mean.device)].mean().expand(len(values))
    sd = torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt()
    scaled = centred.div_(sd[:, None])
    if weight is not None:
        scaled *= weight > 0
    return Picture(scaled.reshape(every.values.shape), every.weight, every.grid), variance.cpu().double()


def _slopes(values: Tensor) -> Floats:
    """(B,) mean squared differences between neighbouring voxels."""
    parts = []
    for axis in range(1, values.ndim):
        n, other = values.shape[axis], 1 if axis > 1 else 2
        some = values[(slice(None),) * other + (slice(None, None, _EVERY),)] if values.shape[other] >= 64 else values
        apart = some.narrow(axis, 1, n - 1) - some.narrow(axis, 0, n - 1)
        parts.append(torch.linalg.vecdot(apart.flatten(1), apart.flatten(1)) / apart[0].numel())
    return np.asarray(torch.stack(parts).mean(0).cpu().double().numpy())


def _digests(images: Tensor) -> NDArray[np.uint64]:
    """(B,) of every fourth row: what is equal there is a copy."""
    rows = images[:, ::4] if images.shape[1] >= 16 else images
    digests: Sequence[bytes] = [
        hashlib.blake2b(np.ascontiguousarray(r.numpy()).tobytes(), digest_size=8).digest() for r in rows
    ]
    return np.frombuffer(b"".join(digests), np.uint64).copy()
