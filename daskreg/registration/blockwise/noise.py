"""How much the images are smoothed at full resolution: by the noise of a block in the middle (see `noise`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box, Grid
from daskreg.registration.blockwise.pair import LazyPair, halved
from daskreg.registration.levenberg_marquardt import LevelObjective
from daskreg.registration.noise import additional, with_best_smoothing
from daskreg.registration.normal_equations.equations import NormalEquationsNumba
from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.pyramid import ImageBatch
from daskreg.runtime.device import library_threads, limit_threads
from daskreg.runtime.threads import use_threads

Floats = NDArray[np.float64]

# Voxels of the block.
_VOXELS = 1 << 20


@dataclass(frozen=True)
class NoiseTask:
    """The block in the middle, at (1, P) parameters; sigmas: of the images."""

    problem: Problem
    pair: LazyPair
    inside: Box
    maps: Floats
    parameters: Floats
    sigmas: tuple[tuple[float, ...], tuple[float, ...]]
    number: int = 0

    @classmethod
    def of(cls, problem: Problem, pair: LazyPair, maps: Floats, parameters: Floats, sigmas: Any) -> NoiseTask:
        """In the middle of the fixed image."""
        size = halved(pair.shape, lambda size: math.prod(size) <= _VOXELS)
        start = tuple((n - s) // 2 for n, s in zip(pair.shape, size, strict=True))
        inside = Box(start, tuple(a + s for a, s in zip(start, size, strict=True)))
        return cls(problem, pair, inside, maps, parameters, sigmas)

    def carrying_little(self) -> NoiseTask:
        """The same task with what it needs of arrays in memory, and no more."""
        return replace(self, pair=self.pair.restrict(self.maps, self.inside))


@dataclass(frozen=True)
class Smoothing:
    """By how much the sigmas are to grow."""

    number: int
    factor: float


def best_smoothing(task: NoiseTask) -> Smoothing:
    """The factor of the sigmas that gives the least variance of the pose; 1 where nothing overlaps in the middle."""
    pair, maps, problem = task.pair, task.maps, task.problem
    with limit_threads(), use_threads(library_threads()):
        stored = pair.read(maps, task.inside)
        parts = None if stored is None else pair.part(stored, maps, task.inside)
        if parts is None:
            return Smoothing(task.number, 1.0)
        level, part = parts
        sums, grids = NormalEquationsNumba(level, part), (pair.fixed.grid, pair.moving.grid)
        objective = LevelObjective.over(problem, sums, np.ones(1), fixed=grids[0], moving=grids[1], step=pair.step)
        found = objective.evaluate(task.parameters)
        here = replace(level, fixed=_alone(level.fixed), moving=_alone(level.moving), sigmas=task.sigmas)
        better = with_best_smoothing(here, found.noise, found.correlation(problem.metric))
    if better is None or better.sigmas is None:
        return Smoothing(task.number, 1.0)
    return Smoothing(task.number, max(better.sigmas[0]) / max(task.sigmas[0]))


def smoothed_by(pair: LazyPair, sigmas: tuple[tuple[float, ...], tuple[float, ...]], factor: float) -> LazyPair:
    """The pair with Gaussians of these sigmas, and of those that make them `factor` times as wide."""
    images = [
        image.smoothed_by(one, *([tuple(additional(one, factor))] if factor > 1 else []))
        for image, one in zip((pair.fixed, pair.moving), sigmas, strict=True)
    ]
    return replace(pair, fixed=images[0], moving=images[1])


def _alone(image: ImageBatch) -> ImageBatch:
    """The same voxels as a whole image."""
    return replace(image, grid=Grid(tuple(image.values.shape[1:])))


def to_arrays(smoothing: Smoothing) -> Mapping[str, NDArray[Any]]:
    """The smoothing as arrays, for a file."""
    return {"factor": np.array(smoothing.factor)}


def from_arrays(number: int, arrays: Mapping[str, NDArray[Any]]) -> Smoothing:
    """What `to_arrays` was given."""
    return Smoothing(number, float(arrays["factor"]))
