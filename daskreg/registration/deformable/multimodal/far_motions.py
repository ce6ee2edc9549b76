"""Motions that steps from coarse to fine did not find, between images of different modalities or stains.

Where structures moved farther than they are large, Gauss-Newton steps end beside the motion: their equations hold for
few voxels, and what is not aligned is taken for noise. Two things are tried then.

1. Displacements are searched (`displacement_search`), which finds motions of several times the size of the structures,
   but only what is smooth over blocks of voxels, so that halves of the image can confirm it.
2. If nothing is confirmed, as between sections that share little and are bent finely, many small steps along the
   gradient of the metric are made from what was found (`small_steps`). They follow whatever is alike, also by chance.
   So they are made only for a pair that was found to be related, and on levels that have finer structure in common
   than steps on them move; and they are kept only if the next finer level, which took no part in them, tells much more
   than before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from daskreg.geometry import Transform
from daskreg.registration.deformable.coarse_to_fine import Solved, coarse_to_fine
from daskreg.registration.deformable.level_images import LevelImages
from daskreg.registration.deformable.multimodal.displacement_search import search, search_bytes
from daskreg.registration.deformable.multimodal.small_steps import control_of_small_steps, small_steps
from daskreg.registration.deformable.mutual_information import Bins, dependence
from daskreg.registration.deformable.noise_model import total_information
from daskreg.registration.deformable.splines.control_grid import ControlGrid
from daskreg.registration.deformable.splines.layers import Layers
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.verdict.judge import Verdict
from daskreg.runtime.memory import available_memory

Judge = Callable[[Solved], Verdict]
"""The verdict on the images, after they were brought together."""

_ALIGNED = 0.5
"""The share of the gradients that images have in common, from which on they are aligned."""
_SMALL_STEPS, _FINER_STEPS = 40, 20
"""Small steps on the first level, and on each finer one."""
_CONFIRMED = 2.0
"""How many times as much a level has to tell by small steps on the coarser one, which it took no part in."""
_FINE, _MORE_THAN_MIRRORED, _MIRRORED = 1.0, 2.0, 0.25
"""Voxels of a level: structures are fine that a Gaussian of this standard deviation removes. How many times the
information of a mirrored image they have to share, and the share of the weight that a mirrored image has to cover."""
_MOST_VOXELS = 1 << 20
"""Of a level: larger ones would take minutes and much memory, and are left to steps."""
_REFINED = 1.0
"""Voxels of the last level that was searched, up to which steps refine what was found there."""


@dataclass(frozen=True)
class _Candidate:
    """A transform, the last level it was found on, its layers beyond the start, and its independent displacements."""

    transform: Transform
    number: int = -1
    layers: int = 0
    freedom: float = 0.0


@dataclass(frozen=True)
class FarMotions:
    """What to look with.

    levels: of the pyramid that "mi" can be used on, coarse to fine. grid: the finest control points. start: what the
    layers began from. judge: of whether images are related. tolerance, max_iterations: of steps.
    """

    levels: Sequence[PyramidLevel]
    grid: ControlGrid
    start: Transform
    judge: Judge
    tolerance: float
    max_iterations: int

    def after(self, solved: Solved) -> Solved:
        """What is found after steps from coarse to fine: the same where images are aligned, or nothing is confirmed.

        Images are aligned whose gradients have much in common, or whose finest level tells more than others.
        """
        if solved.state.noise.shared > _ALIGNED:
            return solved
        first = self._first(solved.transform)
        if first >= self._stop:
            return solved
        verdict = self.judge(solved)
        candidate = self._searched()
        if not candidate.layers and verdict.settled:
            candidate = self._by_small_steps(solved, first)
        return self._better(solved, candidate, verdict) if candidate.layers else solved

    def _searched(self) -> _Candidate:
        """On one level after the other, as long as halves of the image agree and the memory suffices."""
        candidate = _Candidate(Layers.start(self.start, self.grid).transform)
        for number in range(self._first(candidate.transform), self._stop):
            if search_bytes(self.levels[number].fixed.grid.shape) > available_memory() // 2:
                break
            result = search(self._images(number), candidate.transform, self.grid.image)
            if not result.confirmed:
                break
            layers = result.layers
            candidate = _Candidate(layers.transform, number, candidate.layers + layers.count, result.freedom)
        return candidate

    def _by_small_steps(self, solved: Solved, first: int) -> _Candidate:
        """On one level after the other, from the first that shows the motion."""
        candidate = _Candidate(solved.transform)
        for number in range(first, self._stop):
            images, finer = self._images(number), self._images(number + 1)
            enough = _CONFIRMED * total_information(finer, finer.evaluate(candidate.transform))
            if not enough or not shares_fine_structure(finer, candidate.transform):
                break  # what shares nothing yet is made alike by chance
            control = control_of_small_steps(self.grid.image, images.fixed_grid)
            count = _SMALL_STEPS if number == first else _FINER_STEPS
            layers = small_steps(images, Layers.start(candidate.transform, control), count)
            if not total_information(finer, finer.evaluate(layers.transform)) > enough:
                break
            candidate = _Candidate(layers.transform, number, candidate.layers + layers.count)
        if not candidate.layers:
            return candidate
        return replace(candidate, layers=candidate.layers + solved.state.layers.count)

    def _better(self, solved: Solved, candidate: _Candidate, verdict: Verdict) -> Solved:
        """From a candidate on, by steps, if that tells more than before."""
        refined = self._refined(candidate)
        last = self._images(max(candidate.number, solved.number))
        if not total_information(last, last.evaluate(refined.transform)) > total_information(
            last, last.evaluate(solved.transform)
        ):
            return solved
        return replace(
            refined,
            iterations=solved.iterations + refined.iterations,
            earlier=candidate.layers,
            verdict=verdict if verdict.settled else None,  # of a field with less freedom
        )

    def _refined(self, candidate: _Candidate) -> Solved:
        """After steps; without any, if these lead away."""

        def steps(most: int) -> Solved:
            stop = len(self.levels) if most else candidate.number + 1
            return coarse_to_fine(
                self.levels,
                [(self.grid, number) for number in range(candidate.number, stop)],
                Layers.start(candidate.transform, self.grid),
                metric="mi",
                tolerance=self.tolerance,
                max_iterations=most,
            )

        refined = steps(self.max_iterations)
        away = float(np.sqrt(np.mean(np.sum(refined.state.layers.total**2, axis=0))))
        if away > _REFINED * self.levels[candidate.number].step:
            refined = steps(0)
            refined = replace(refined, state=replace(refined.state, converged=True))
        return replace(refined, determined={step: n + candidate.freedom for step, n in refined.determined.items()})

    @property
    def _stop(self) -> int:
        """The number of levels to look on: all but the finest, as long as they are small."""
        sizes = [level.fixed.values[0].numel() for level in self.levels[:-1]]
        return sum(size <= _MOST_VOXELS for size in sizes)

    def _first(self, transform: Transform) -> int:
        """The coarsest level that tells at least half as much as any other: coarser ones do not show the motion."""
        tells = [self._told(number, transform) for number in range(len(self.levels))]
        return next(k for k, one in enumerate(tells) if 2 * one >= max(tells))

    def _told(self, number: int, transform: Transform) -> float:
        images = self._images(number)  # of one level at a time
        return total_information(images, images.evaluate(transform))

    def _images(self, number: int) -> LevelImages:
        return LevelImages.of(self.levels[number], "mi")


def shares_fine_structure(images: LevelImages, transform: Transform) -> bool:
    """Whether the fine structures of aligned images have more information in common than by chance.

    Chance is what the same structures share when one image is mirrored, along any axis. False where that cannot be
    said, since no mirrored image lies over enough of the other one.
    """
    warped = images.warp(transform)
    known = np.isfinite(warped)
    fixed, moving = (_fine(image) for image in (images.fixed, np.where(known, warped, np.float32(0))))
    weight = images.weight * known
    ends = Bins.of(fixed, weight > 0), Bins.of(moving, weight > 0)

    def shared(moving: NDArray[np.float32], weight: NDArray[np.float32]) -> float:
        return dependence(fixed, np.ascontiguousarray(moving), np.ascontiguousarray(weight), ends).nats

    mirrored, total = [], float(weight.sum(dtype=np.float64))
    for axis in range(fixed.ndim):
        both = weight * np.flip(weight, axis)
        if float(both.sum(dtype=np.float64)) >= _MIRRORED * total:
            mirrored.append(shared(np.flip(moving, axis), both))
    return bool(mirrored) and shared(moving, weight) > _MORE_THAN_MIRRORED * max(mirrored)


def _fine(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(image - ndimage.gaussian_filter(image, _FINE, mode="nearest"))
