"""Consecutive images registered to the ones before them, up to some reach, with one pyramid for each image.

An image is in many pairs, but is reduced and smoothed once. All pairs begin by
themselves on small levels (`pair_registration.identity_or_shift`). Where three pairs that make a triangle do not
agree, each is also tried from the motion over the other two. Pairs of direct neighbours continue to the finest
level; pairs farther apart, which resemble each other less, end one level above it where images are
large.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from daskreg.geometry import Grid
from daskreg.registration.levenberg_marquardt import Iterate, LevelObjective, corners_of, solve_level
from daskreg.registration.normal_equations.equations_torch import NormalEquationsTorch
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel, pyramid
from daskreg.stacks.model import StackModel
from daskreg.stacks.pair_registration import SMALL, PairOptions, identity_or_shift, slice_batch
from daskreg.stacks.pair_table import PairTable, SliceFeatures, by_chance, field_count
from daskreg.stacks.verdict.pair_errors import (
    LEAST_SIGNAL,
    central_boxes,
    central_part,
    corner_variance,
    covariance_of,
)
from daskreg.stacks.verdict.pair_evidence import border_levels, tile_evidence
from daskreg.stacks.verdict.smallest_motion import keep_better

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

# Voxels of the longest side above which pairs that are no direct neighbours leave out the finest level.
_LARGE = 256
# Tolerance above the finest level, voxels.
_COARSE_TOLERANCE = 0.02
# Voxels; a last step this small is taken without evaluating it.
_TINY_STEP = 0.05
# Voxels of a step that may raise the cost, and the relative rise that a longer one may cause.
_SHORT_STEP, _SMALL_RISE = 0.3, 5e-3
# Of the rows of large images, every so many are used for the mean square gradient.
_EVERY = 4
# Voxels of the small levels by which triangles may fail to close.
_OPEN = 2.5
# Voxels of a level that are evaluated at once, by device.
_VOXELS = {"cpu": 1 << 21, "cuda": 1 << 26}
# The least variance within a field, relative to that of the image.
_MIN_CONTRAST = 0.02


class ImageSequence:
    """Consecutive images, with their pyramids.

    Args:
        images: (B, *shape) float32, NaN where voxels are masked.
        blank: (B,) images that are in no pair.
        grid: of every image.
        levels: of the pyramids, as of `pyramid`.
    """

    def __init__(
        self, images: Tensor, blank: Bools, grid: Grid, options: PairOptions, *, levels: int | str = "auto"
    ) -> None:
        self.blank, self.grid, self.options = blank, grid, options
        self.digest = _digests(images)
        batch = slice_batch(images, grid, options.device)
        batch, self.variance = _standardised(batch, blank, common=options.metric != "ncc")
        one = batch.take(torch.tensor([0])) if len(images) > 1 else batch
        # Slices are sampled more finely than they are sharp, or noisy: smoothing the finest level gains nothing.
        every = pyramid(batch, one, levels=levels, smoothing=0.0)
        self.levels = [PyramidLevel(level.fixed, level.fixed, level.step, level.sigmas) for level in every]
        self.problem = options.problem(grid)
        longest = [max(level.fixed.grid.shape) for level in self.levels]
        self.small = max(1, sum(n <= SMALL.get(grid.ndim, 64) for n in longest))
        """How many levels are small: all pairs begin there."""
        self.shared = len(self.levels) - (1 if longest[-1] > _LARGE and len(self.levels) > self.small else 0)
        """How many levels all pairs go through."""

    def register(self, edges: Ints, *, wanted: Bools | None = None, start: Floats | None = None) -> PairTable:
        """Register pairs (fixed, moving) of images.

        Args:
            wanted: (E,) the pairs whose results are returned; the others only help on the small levels.
            start: (E, P) parameters from which to continue on the middle levels; searched by default.
        """
        if not len(edges):
            return PairTable.empty(self.grid.ndim, len(self.options.pose.names))
        p = self._initial_poses(edges) if start is None else start
        if wanted is not None:
            edges, p = edges[wanted], p[wanted]
        if not len(edges):
            return PairTable.empty(self.grid.ndim, len(self.options.pose.names))
        poses = {self.small - 1: p}
        for number in range(min(self.small, self.shared - 1), self.shared):
            level = self.levels[number]
            iterate = self.refined(level, edges, p) if start is None else self._solved(level, edges, p)
            poses[number] = p = iterate.parameters
        similarity = self._score(iterate, edges)
        scores, overlap = similarity.copy(), iterate.overlap.copy()
        near = np.abs(edges[:, 1] - edges[:, 0]) == self._least_gap(edges)
        last = np.full(len(edges), self.shared - 1)
        if self.shared < len(self.levels) and near.any():
            last[near] = self.shared
            fine = self.refined(self.levels[-1], edges[near], p[near])
            scores[near], overlap[near] = self._score(fine, edges[near]), fine.overlap
            poses[self.shared] = p = p.copy()
            p[near] = fine.parameters
            iterate.assign(near, fine)
        p, covariance = self._least_uncertain(edges, iterate, last, poses)
        matrices = self.problem.pose.motions(p, self.problem.centre)[0]
        fields, unasked = self._fields(edges, p), np.full(len(edges), np.nan)
        return self._with_evidence(
            PairTable(edges, matrices, covariance, scores, similarity, overlap, fields, unasked), p
        )

    def features(self) -> SliceFeatures:
        """Statistics of the single images."""
        values = [level.fixed.values for level in self.levels[:-3:-1]]
        missing = [np.zeros(len(self.blank))] * (2 - len(values))
        gradients = np.stack([_mean_square_gradient(v) for v in values] + missing, axis=1)
        small = self.levels[min(1, self.small - 1)].fixed.values.flatten(1)
        contrast = (small.var(1, correction=0).cpu().double() * self.variance).sqrt().numpy()
        return SliceFeatures(self.blank, contrast, gradients * self.variance.numpy()[:, None], self.digest)

    def _least_gap(self, edges: Ints) -> Any:
        """For each pair, the distance from the fixed image to the next image that is not blank."""
        used = np.flatnonzero(~self.blank)
        following = np.searchsorted(used, edges[:, 0], side="right")
        return used[np.minimum(following, len(used) - 1)] - edges[:, 0]

    def _initial_poses(self, edges: Ints) -> Floats:
        """(E, P) the best poses on small levels, of each pair by itself or by way of a third image."""
        levels = [_pairs(level, edges) for level in self.levels[: self.small]]
        most = self.options.max_iterations
        p = identity_or_shift(self.problem, levels, len(edges), max_iterations=most)
        last = levels[-1]
        for number, over_third in self._open_triangles(edges, p, last):
            level = _pairs(self.levels[self.small - 1], edges[number])
            now = LevelObjective(self.problem, level).evaluate(p[number])
            trial = solve_level(self.problem, level, over_third, tolerance=_COARSE_TOLERANCE, max_iterations=most)
            keep_better(self.problem, level, now, np.arange(len(number)), trial)
            p[number] = now.parameters
        return p

    def _open_triangles(self, edges: Ints, p: Floats, level: PyramidLevel) -> Iterable[tuple[Ints, Floats]]:
        """Pairs in triangles that do not close, with the (E, P) motion over the other two pairs."""
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
                over_b = matrices[bc] @ matrices[ab]
                error = np.linalg.norm(((over_b - matrices[ac]) @ corners)[:-1], axis=0).max() / level.step
                if error > _OPEN:
                    trials.setdefault(ac, []).append(over_b)
                    trials.setdefault(ab, []).append(np.linalg.inv(matrices[bc]) @ matrices[ac])
                    trials.setdefault(bc, []).append(matrices[ac] @ np.linalg.inv(matrices[ab]))
        for k in range(max((len(t) for t in trials.values()), default=0)):
            some = [(n, t[k]) for n, t in trials.items() if len(t) > k]
            yield np.array([n for n, _ in some]), problem.parameters_of([m for _, m in some], self.grid)

    def _solved(self, level: PyramidLevel, edges: Ints, p: Floats) -> Iterate:
        """The pairs solved on a level."""
        wanted, most = self.options.tolerance, self.options.max_iterations
        tolerance = wanted if level is self.levels[-1] else max(_COARSE_TOLERANCE, wanted)

        def part(rows: slice) -> Iterate:
            pairs = _pairs(level, edges[rows])
            return solve_level(self.problem, pairs, p[rows], tolerance=tolerance, max_iterations=most)

        return _in_parts(part, len(edges), level)

    def refined(self, level: PyramidLevel, edges: Ints, p: Floats) -> Iterate:
        """The (E, 2) pairs refined on a level from (E, P) parameters nearby."""
        return _in_parts(lambda rows: self._refine(_pairs(level, edges[rows]), p[rows]), len(edges), level)

    def _refine(self, level: PyramidLevel, p: Floats) -> Iterate:
        """One or two undamped steps, of which a tiny last one is not evaluated; pairs that need more are solved."""
        objective = LevelObjective(self.problem, level)
        iterate = objective.evaluate(p)
        step, moved = _undamped(objective, iterate)
        iterate.parameters = p + step
        far = ~(moved <= _TINY_STEP)
        if not far.any():
            return iterate
        rows = np.flatnonzero(far)
        second = objective.take(rows).evaluate(iterate.parameters[rows])
        step, again = _undamped(objective, second)
        better = second.cost <= iterate.cost[rows] * (1 + _SMALL_RISE)
        # Where little is left to gain, interpolation changes the cost by more than the step does.
        easy = (better | (moved[rows] <= _SHORT_STEP)) & (again <= _TINY_STEP)
        reached = np.where(better[:, None], second.parameters, p[rows])
        second.parameters = np.where(easy[:, None], second.parameters + step, reached)
        if not easy.all():
            solved = solve_level(
                self.problem,
                level.take(torch.from_numpy(rows[~easy])),
                reached[~easy],
                tolerance=self.options.tolerance,
                max_iterations=self.options.max_iterations,
            )
            second.assign(~easy, solved)
        iterate.assign(far, second)
        return iterate

    def _least_uncertain(
        self, edges: Ints, iterate: Iterate, last: Ints, poses: Mapping[int, Floats]
    ) -> tuple[Floats, Floats]:
        """(E, P) parameters and their (E, P, P) covariances, of the last level, or of an earlier one if it is better.

        Args:
            iterate: on the (E,) levels `last`.
            poses: (E, P) by level.
        """
        p, size = iterate.parameters.copy(), len(self.options.pose.names)
        covariance, variance = np.full((len(edges), size, size), np.inf), np.full(len(edges), np.inf)
        noisy = np.zeros(len(edges), bool)
        for number in sorted(poses, reverse=True):
            level, at_last = self.levels[number], last == number
            for rows in (np.flatnonzero(at_last), np.flatnonzero(noisy & (last > number))):
                if not len(rows):
                    continue
                here = (
                    iterate.take(rows) if at_last[rows[0]] else self._evaluated(level, edges[rows], poses[number][rows])
                )
                found, signal = self.covariance(level, edges[rows], here)
                moved = corner_variance(self.problem, level.fixed.grid, here.parameters, found)
                better = moved < variance[rows]
                chosen, noisy[rows] = rows[better], better & (signal < LEAST_SIGNAL)
                p[chosen], covariance[chosen] = here.parameters[better], found[better]
                variance[chosen] = moved[better]
        return p, covariance

    def covariance(self, level: PyramidLevel, edges: Ints, here: Iterate) -> tuple[Floats, Floats]:
        """As `covariance_of`, in parts: the pose of a pair that went astray needs all of its moving image, and so would
        the pairs that are evaluated with it.
        """
        around = central_boxes(self.problem, level, here.parameters)[1]
        size, found = _pairs_at_once(level, around.shape), []
        for k in range(0, len(edges), size):
            some = here.take(np.arange(k, min(k + size, len(edges))))
            first, last = int(edges[k : k + size].min()), int(edges[k : k + size].max())
            images = _taken(level.fixed, np.arange(first, last + 1))
            part = central_part(self.problem, replace(level, fixed=images, moving=images), some.parameters)
            found.append(covariance_of(self.problem, _pairs(part, edges[k : k + size] - first), some))
        covariance, signal = zip(*found, strict=True)
        return np.concatenate(covariance), np.concatenate(signal)

    def _evaluated(self, level: PyramidLevel, edges: Ints, p: Floats) -> Iterate:
        """The pairs at given poses on a level."""

        def part(rows: slice) -> Iterate:
            return LevelObjective(self.problem, _pairs(level, edges[rows])).evaluate(p[rows])

        return _in_parts(part, len(edges), level)

    def _score(self, iterate: Iterate, edges: Ints) -> Floats:
        cost = np.where(np.isfinite(iterate.cost), iterate.cost, np.nan)
        if self.problem.metric == "ncc":
            return np.asarray(1 - cost)
        return np.asarray(cost * self.variance.numpy()[edges[:, 0]])

    def _with_evidence(self, pairs: PairTable, p: Floats) -> PairTable:
        """The table with the evidence of tiles for the pairs whose fields chance explains."""
        model = StackModel(self.options.pose, self.problem.centre, self.grid, self.options.metric)
        asked = np.flatnonzero(by_chance(pairs, model))
        if not len(asked) or self.grid.ndim != 2:
            return pairs
        level, evidence = self.levels[self.small - 1], pairs.evidence.copy()
        borders = border_levels(level.fixed.values, level.fixed.weight)
        size = _pairs_at_once(level)
        for k in range(0, len(asked), size):
            rows = asked[k : k + size]
            some = _pairs(level, pairs.edges[rows])
            maps = torch.from_numpy(LevelObjective(self.problem, some).maps(p[rows]))
            moved, weight = NormalEquationsTorch(some).warp(maps)
            one, other = torch.from_numpy(pairs.edges[rows].T.copy()).to(borders.device)
            found = tile_evidence(some.fixed.values, moved, weight, (borders[one], borders[other]))
            evidence[rows] = found.cpu().double().numpy()
        return replace(pairs, evidence=evidence)

    def _fields(self, edges: Ints, p: Floats) -> NDArray[np.float32]:
        """(E, F) correlations within fields, on the finest of the small levels."""
        level = self.levels[self.small - 1]
        count = field_count(self.grid.ndim)
        fit = min(count, *level.fixed.grid.shape)
        pool: Any = {2: functional.adaptive_avg_pool2d, 3: functional.adaptive_avg_pool3d}[self.grid.ndim]

        def part(rows: slice) -> Tensor:
            pairs = _pairs(level, edges[rows])
            maps = LevelObjective(self.problem, pairs).maps(p[rows])
            w, weight = NormalEquationsTorch(pairs).warp(torch.from_numpy(maps))
            f = pairs.fixed.values
            images = torch.stack([weight, weight * f, weight * w, weight * f * f, weight * w * w, weight * f * w], 1)
            n, a, b, aa, bb, ab = pool(images, (fit,) * self.grid.ndim).flatten(2).unbind(1)
            a, b, n1 = a / n.clamp_min(1e-6), b / n.clamp_min(1e-6), n.clamp_min(1e-6)
            va, vb = aa / n1 - a * a, bb / n1 - b * b
            score = (ab / n1 - a * b) / (va.clamp_min(1e-12) * vb.clamp_min(1e-12)).sqrt()
            own = [image.values.flatten(1).var(1, correction=0)[:, None] for image in (pairs.fixed, pairs.moving)]
            relative = torch.maximum(*(v / o.clamp_min(1e-9) for v, o in zip((va, vb), own, strict=True)))
            valid = (n > 0.5) & (relative > _MIN_CONTRAST)
            return torch.where(valid, score.clamp(-1, 1), torch.nan)

        size = _pairs_at_once(level)
        parts = [part(slice(k, k + size)).cpu() for k in range(0, len(edges), size)]
        found = torch.cat(parts).numpy().astype(np.float32)
        out = np.full((len(edges), count**self.grid.ndim), np.nan, np.float32)
        out[:, : found.shape[1]] = found
        return out


def pairs_within(blank: Bools, reach: int) -> Ints:
    """(E, 2) pairs of images at most `reach` apart when the blank ones are not counted, in order of the moving one."""
    used = np.flatnonzero(~blank).tolist()
    found = [(used[k], b) for n, b in enumerate(used) for k in range(max(0, n - reach), n)]
    return np.array(found, dtype=np.intp).reshape(-1, 2)


def _pairs(level: PyramidLevel, edges: Ints) -> PyramidLevel:
    """The level of (E, 2) pairs, from that of the single images."""
    fixed, moving = _taken(level.fixed, edges[:, 0]), _taken(level.moving, edges[:, 1])
    return PyramidLevel(fixed, moving, level.step, level.sigmas)


def _taken(images: ImageBatch, index: Ints) -> ImageBatch:
    """Some images; consecutive ones are not copied."""
    if len(index) and len(images.values) > 1 and (np.diff(index) == 1).all():
        rows = slice(int(index[0]), int(index[-1]) + 1)
        shared = images.weight is None or len(images.weight) == 1
        return ImageBatch(images.values[rows], images.weight if shared else images.weight[rows], images.grid)  # type: ignore[index]
    return images.take(torch.from_numpy(np.ascontiguousarray(index)))


def _undamped(objective: LevelObjective, iterate: Iterate) -> tuple[Floats, Floats]:
    """(B, P) steps, and the (B,) voxels by which they move the farthest corner."""
    step = objective.step(iterate)
    return step, objective.displacement(iterate.parameters + step, iterate.parameters)


def _pairs_at_once(level: PyramidLevel, shape: Sequence[int] = ()) -> int:
    """How many pairs of images of a shape, by default that of the level, are evaluated at once."""
    kind = level.fixed.values.device.type
    return max(1, _VOXELS.get(kind, 1 << 21) // math.prod(shape or level.fixed.grid.shape))


def _in_parts(function: Callable[[slice], Iterate], count: int, level: PyramidLevel) -> Iterate:
    """The iterate of `count` pairs, from parts that fit the caches."""
    size = _pairs_at_once(level)
    return Iterate.concatenated([function(slice(k, k + size)) for k in range(0, count, size)])


def _standardised(batch: ImageBatch, blank: Bools, *, common: bool) -> tuple[ImageBatch, Tensor]:
    """The images with mean 0 and variance 1, each by its own or all by the common mean and variance; (B,) variances.

    Unlike `pyramid.standardised`, a common scale is that of all images that are not blank.
    """
    values = batch.values.flatten(1)
    weight = None if batch.weight is None else batch.weight.flatten(1)
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
    smoothed = batch.smoothed_weight
    if smoothed is not None:
        scaled *= smoothed.flatten(1) > 0
    return replace(batch, values=scaled.reshape(batch.values.shape)), variance.cpu().double()


def _mean_square_gradient(values: Tensor) -> Floats:
    """(B,) mean squared differences between neighbouring voxels."""
    parts = []
    for axis in range(1, values.ndim):
        n, other = values.shape[axis], 1 if axis > 1 else 2
        some = values[(slice(None),) * other + (slice(None, None, _EVERY),)] if values.shape[other] >= 64 else values
        difference = some.narrow(axis, 1, n - 1) - some.narrow(axis, 0, n - 1)
        parts.append(torch.linalg.vecdot(difference.flatten(1), difference.flatten(1)) / difference[0].numel())
    return np.asarray(torch.stack(parts).mean(0).cpu().double().numpy())


def _digests(images: Tensor) -> NDArray[np.uint64]:
    """(B,) of every fourth row: images with equal digests are copies."""
    rows = images[:, ::4] if images.shape[1] >= 16 else images
    digests: Sequence[bytes] = [
        hashlib.blake2b(np.ascontiguousarray(r.numpy()).tobytes(), digest_size=8).digest() for r in rows
    ]
    return np.frombuffer(b"".join(digests), np.uint64).copy()
