"""Images whose values are known: coordinate-valued ones, and ones without any symmetry."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Grid

Floats = NDArray[np.float64]


def indices(shape: Sequence[int]) -> Floats:
    """(*shape, D): every voxel's own index."""
    return np.stack(np.meshgrid(*[np.arange(n, dtype=np.float64) for n in shape], indexing="ij"), axis=-1)


def coordinates(grid: Grid) -> Floats:
    """(*shape, D): every voxel's own world position, so that a warp shows where it sampled."""
    return grid.world(indices(grid.shape))


def inside(
    matrix: Floats, out_shape: Sequence[int], source_shape: Sequence[int], *, margin: float = 0
) -> NDArray[np.bool_]:
    """Which output voxels an index matrix takes from within the source, `margin` voxels off its ends."""
    where = indices(out_shape) @ matrix[:-1, :-1].T + matrix[:-1, -1]
    return np.asarray(np.all((where >= margin) & (where <= np.asarray(source_shape) - 1 - margin), axis=-1))


def blobs(shape: Sequence[int], *, count: int = 12, seed: int = 0, margin: float = 0.2) -> NDArray[np.float32]:
    """Smooth blobs of different sizes and heights in [0, 1], without symmetry, dark at the border.

    Wide enough (sigma of 2.5 voxels and more) that any good interpolation agrees on them.
    """
    rng = np.random.default_rng(seed)
    size = np.asarray(shape, dtype=np.float64)
    image = np.zeros(tuple(shape))
    for _ in range(count):
        centre = size * rng.uniform(margin, 1 - margin, len(size))
        sigma = np.maximum(size * rng.uniform(0.04, 0.12, len(size)), 2.5)
        axes = [np.exp(-0.5 * ((np.arange(n) - c) / s) ** 2) for n, c, s in zip(shape, centre, sigma, strict=True)]
        image += rng.uniform(0.3, 1.0) * reduce(np.multiply.outer, axes)
    return np.asarray(image / image.max(), dtype=np.float32)


def plane_waves(
    shape: Sequence[int], matrix: Floats, vectors: Floats, phases: Floats, amplitudes: Floats | float = 1.0
) -> Floats:
    """The sum of `amplitude * cos(vector @ p + phase)` at the points p that a matrix makes of the indices of an image.

    vectors: (N, D). The phase of a wave is linear in the index of a voxel, so that it is a product of a factor for each
    axis: there are far fewer cosines than voxels times waves.
    """
    steps, origin = vectors @ matrix[:-1, :-1], vectors @ matrix[:-1, -1]
    total = (amplitudes * np.exp(1j * (phases + origin)))[:, None]
    *before, last = (np.exp(1j * np.outer(step, np.arange(n))) for step, n in zip(steps.T, shape, strict=True))
    for factors in before:
        total = (total[:, :, None] * factors[:, None]).reshape(len(vectors), -1)
    return np.asarray((total.T @ last).real.reshape(tuple(shape)))


def block_mean(image: NDArray[Any], factors: Sequence[int]) -> Floats:
    """Means of whole blocks along the first axes; ragged ends are left out."""
    ndim = len(factors)
    counts = [n // f for n, f in zip(image.shape, factors, strict=False)]
    cut = image[tuple(slice(0, c * f) for c, f in zip(counts, factors, strict=True))]
    split = [size for c, f in zip(counts, factors, strict=True) for size in (c, f)]
    return np.asarray(cut.reshape(*split, *image.shape[ndim:]).mean(axis=tuple(range(1, 2 * ndim, 2))))
