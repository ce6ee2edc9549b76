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
from daskreg.registration.deformable.control_grid import ControlGrid
from daskreg.registration.deformable.displacement_search import search
from daskreg.registration.deformable.layers import Layers
from daskreg.registration.deformable.level_images import LevelImages
from daskreg.registration.deformable.mutual_information import Bins, dependence
from daskreg.registration.deformable.noise_model import told
from daskreg.registration.deformable.small_steps import control_of_small_steps, small_steps
from daskreg.registration.pyramids.pyramid import PyramidLevel

Judge = Callable[[Solved], bool]
"""Whether the images are related, after they were brought together."""

_ALIGNED = 0.5
"""The share of the gradients that images have in common, from which on they are aligned."""
_SMALL_STEPS, _FINER_STEPS = 40, 20
"""Small steps on the first level, and on each finer one."""
_CONFIRMED = 2.0
"""How many times as much a level has to tell by small steps on the coarser one, which it took no part in."""
_FINE, _MORE_THAN_MIRRORED = 1.0, 2.0
"""Voxels of a level: structures are fine that a Gaussian of this standard deviation removes. And how many times the
information of a mirrored image they have to share."""
_MOST_VOXELS = 1 << 20
"""Of a level: larger ones would take minutes and much memory, and are left to steps."""
_REFINED = 1.0
"""Voxels of the last level that was searched, up to which steps refine what was found there."""


@dataclass(frozen=True)
class _Found:
    """A transform, the last level it was found on, its layers beyond the start, and its independent displacements."""

    transform: Transform
    number: int = -1
    layers: int = 0
    freedom: float = 0.0


@dataclass(frozen=True)
class FarMotions:
    """What to look with.

    levels: of the pyramid that "mi" can be used on, coarse to fine. grid: the finest control points. start: what the
    layers began from. related: see `Judge`. tolerance, max_iterations: of steps.
    """

    levels: Sequence[PyramidLevel]
    grid: ControlGrid
    start: Transform
    related: Judge
    tolerance: float
    max_iterations: int

    def after(self, solved: Solved) -> Solved:
        """What is found after steps from coarse to fine: the same where images are aligned, or nothing is confirmed.

        Images are aligned whose gradients have much in common, or whose finest level tells more than others.
        """
        if solved.state.noise.shared > _ALIGNED or self._first(solved.transform) >= self._stop:
            return solved
        related = self.related(solved)
        found = self._searched()
        if found.layers:
            return self._better(solved, found, related=related)
        if related:
            found = self._by_small_steps(solved)
        return self._better(solved, found, related=related) if found.layers else solved

    def _searched(self) -> _Found:
        """On one level after the other, as long as halves of the image agree."""
        found = _Found(self._with_field(self.start))
        for number in range(self._first(found.transform), self._stop):
            one = search(self._images(number), found.transform, self.grid.image)
            if not one.confirmed:
                break
            found = _Found(one.layers.transform, number, found.layers + one.layers.count, one.freedom)
        return found

    def _by_small_steps(self, solved: Solved) -> _Found:
        found = _Found(solved.transform)
        first = self._first(solved.transform)
        for number in range(first, self._stop):
            images, finer = self._images(number), self._images(number + 1)
            confirmed = _CONFIRMED * told(finer, finer.evaluate(found.transform))
            if not confirmed or not shares_fine_structure(finer, found.transform):
                break  # what shares nothing yet is made alike by chance
            control = control_of_small_steps(self.grid.image, images.fixed_grid)
            count = _SMALL_STEPS if number == first else _FINER_STEPS
            layers = small_steps(images, Layers.start(found.transform, control), count)
            if not told(finer, finer.evaluate(layers.transform)) > confirmed:
                break
            found = _Found(layers.transform, number, found.layers + layers.count)
        return replace(found, layers=found.layers + solved.state.layers.count) if found.layers else found

    def _better(self, solved: Solved, found: _Found, *, related: bool) -> Solved:
        """From what was found on, by steps, if that tells more than before."""
        again = self._refined(found)
        last = self._images(max(found.number, solved.number))
        if not told(last, last.evaluate(again.transform)) > told(last, last.evaluate(solved.transform)):
            return solved
        return replace(
            again,
            iterations=solved.iterations + again.iterations,
            earlier=found.layers,
            judged=solved if related else None,  # which says so with less freedom
        )

    def _refined(self, found: _Found) -> Solved:
        """After steps; without any, if these lead away."""

        def steps(most: int) -> Solved:
            stop = len(self.levels) if most else found.number + 1
            return coarse_to_fine(
                self.levels,
                [(self.grid, number) for number in range(found.number, stop)],
                Layers.start(found.transform, self.grid),
                metric="mi",
                tolerance=self.tolerance,
                max_iterations=most,
            )

        again = steps(self.max_iterations)
        away = float(np.sqrt(np.mean(np.sum(again.state.layers.total**2, axis=0))))
        if away > _REFINED * self.levels[found.number].step:
            again = steps(0)
            again = replace(again, state=replace(again.state, converged=True))
        return replace(again, determined={step: n + found.freedom for step, n in again.determined.items()})

    @property
    def _stop(self) -> int:
        """The number of levels to look on: all but the finest, as long as they are small."""
        sizes = [level.fixed.values[0].numel() for level in self.levels[:-1]]
        return sum(size <= _MOST_VOXELS for size in sizes)

    def _first(self, transform: Transform) -> int:
        """The coarsest level that tells at least half as much as any other: coarser ones do not show the motion."""
        levels = [self._images(number) for number in range(len(self.levels))]
        tells = [told(images, images.evaluate(transform)) for images in levels]
        return next(k for k, one in enumerate(tells) if 2 * one >= max(tells))

    def _images(self, number: int) -> LevelImages:
        return LevelImages.of(self.levels[number], "mi")

    def _with_field(self, transform: Transform) -> Transform:
        return Layers.start(transform, self.grid).transform


def shares_fine_structure(images: LevelImages, transform: Transform) -> bool:
    """Whether the fine structures of aligned images have more information in common than by chance.

    Chance is what the same structures share when one image is mirrored, along any axis.
    """
    warped = images.warp(transform)
    known = np.isfinite(warped)
    fixed, moving = (_fine(image) for image in (images.fixed, np.where(known, warped, np.float32(0))))
    weight = images.weight * known
    ends = Bins.of(fixed, weight > 0), Bins.of(moving, weight > 0)

    def shared(moving: NDArray[np.float32], weight: NDArray[np.float32]) -> float:
        return dependence(fixed, np.ascontiguousarray(moving), np.ascontiguousarray(weight), ends).nats

    mirrored = (shared(np.flip(moving, axis), weight * np.flip(weight, axis)) for axis in range(fixed.ndim))
    return shared(moving, weight) > _MORE_THAN_MIRRORED * max(mirrored)


def _fine(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(image - ndimage.gaussian_filter(image, _FINE, mode="nearest"))
