"""The noise of a pair that is aligned by layers of B-splines, from some of the voxels (see `noise_model`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.geometry import Box, Grid
from daskreg.registration.blockwise.layer_match import LayerMatch
from daskreg.registration.blockwise.layer_pair import LayerPair
from daskreg.registration.deformable.level_images import Evaluated, LevelImages, Match
from daskreg.registration.deformable.noise_model import noise_model
from daskreg.registration.noise import with_best_smoothing
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel
from daskreg.runtime.device import library_threads, limit_threads
from daskreg.runtime.threads import use_threads


@dataclass(frozen=True)
class LayerNoiseTask:
    """The block of these voxels. sigmas: of the images. match: None: that of the block. around: see `LayerTask`."""

    pair: LayerPair
    inside: Box
    sigmas: tuple[tuple[float, ...], tuple[float, ...]]
    match: Match | None
    around: LayerMatch | None
    number: int = 0

    def carrying_little(self) -> LayerNoiseTask:
        """The same task with what it needs of arrays in memory, and no more."""
        around = None if self.around is None else self.around.restrict(self.inside)
        return replace(self, pair=self.pair.restrict(self.inside), around=around)


@dataclass(frozen=True)
class LayerNoise:
    """correlated, shared: see `NoiseModel`. gain, offset: with which the residual was taken. factor: by which sigmas
    are to grow. Where nothing overlaps there, nothing is known of the noise: as if it were white and little."""

    number: int
    correlated: float = 1.0
    shared: float = 1.0
    gain: float = 1.0
    offset: float = 0.0
    factor: float = 1.0


def noise_of_layers(task: LayerNoiseTask) -> LayerNoise:
    """Read the block and compare the images."""
    with limit_threads(), use_threads(library_threads()):
        [stored] = task.pair.read_slabs([task.inside])
        images = None if stored is None else task.pair.images(stored, task.inside)
        if images is None:
            return LayerNoise(task.number)
        warped = task.pair.warp(images, task.inside)
        if task.around is not None:
            found, match = task.around.compared(images, warped, task.inside), Match(1.0, 0.0, 0.0)
        else:
            found, match = _compared(images, warped, task.match)
        if not found.total > 1:
            return LayerNoise(task.number)
        noise = noise_model(images, found)
        factor = _factor(images, found, task.sigmas)
    return LayerNoise(task.number, noise.correlated, noise.shared, match.gain, match.offset, factor)


def _compared(images: LevelImages, warped: NDArray[np.float32], match: Match | None) -> tuple[Evaluated, Match]:
    found = images.compare(warped)
    if match is None:
        mean = (found.weight * (images.fixed - np.float32(found.gain) * found.warped)).sum(dtype=np.float64)
        offset = float(mean) / found.total if images.matched else 0.0
        return found, Match(found.gain, offset, found.correlation)
    residual = images.fixed - (np.float32(match.gain) * found.warped + np.float32(match.offset))
    square = float((found.weight * residual * residual).sum(dtype=np.float64)) / found.total
    return replace(found, residual=residual, mean_square=square, gain=match.gain), match


def _factor(images: LevelImages, found: Evaluated, sigmas: tuple[tuple[float, ...], tuple[float, ...]]) -> float:
    fixed, moving = (ImageBatch(torch.from_numpy(np.nan_to_num(x))[None], None, Grid(x.shape))
                     for x in (images.fixed, images.moving))  # fmt: skip
    level = PyramidLevel(fixed, moving, images.step, sigmas)
    better = with_best_smoothing(level, np.array([found.residual_variance]))
    return 1.0 if better is None or better.sigmas is None else max(better.sigmas[0]) / max(sigmas[0])


_NAMES = ("correlated", "shared", "gain", "offset", "factor")


def to_arrays(noise: LayerNoise) -> Mapping[str, NDArray[Any]]:
    """The noise as arrays, for a file."""
    return {name: np.array(getattr(noise, name)) for name in _NAMES}


def from_arrays(number: int, arrays: Mapping[str, NDArray[Any]]) -> LayerNoise:
    """What `to_arrays` was given."""
    return LayerNoise(number, **{name: float(arrays[name]) for name in _NAMES})
