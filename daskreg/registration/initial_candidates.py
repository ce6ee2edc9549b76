"""Candidates for the initial pose of a pair: image moments, and correlation by FFT for given rotations.

Every candidate is a motion in the world, `moving_from_fixed`.

Correlations are masked (Padfield, "Masked object registration in the Fourier domain",
2012): each shift is scored over its own overlap, so that borders and masks have no effect.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

from daskreg.geometry import Grid, index_matrix
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel, shrink, smooth

Floats = NDArray[np.float64]

# Half width of a peak of the correlation, in voxels.
_PEAK = 3
# Correlation peaks over less of the smaller image than this are chance.
_MIN_OVERLAP = 0.3
# Sigma, in voxels of the level, of the local mean that is subtracted before images are correlated.
_LOCAL_SIGMA = 3.0
# Volumes are correlated on grids reduced by two along each axis that has this many voxels.
_MIN_REDUCED_SIDE = 24


def moments(fixed: ImageBatch, moving: ImageBatch) -> list[Floats]:
    """The motion that aligns the centroids, and those that also align the principal axes.

    Axes have no sign, so two rotations align them in 2D and four in 3D. The mass of a voxel is its distance from
    the median of the border, so that bright and dark objects count alike.
    """
    (cf, af), (cm, am) = (_moments(p) for p in (fixed, moving))
    ndim = len(cf)
    found = [_rotation_about(np.eye(ndim), cf, cm)]
    for signs in itertools.product((1.0, -1.0), repeat=ndim):
        rotation = am @ np.diag(signs) @ af.T
        if np.linalg.det(rotation) > 0:
            found.append(_rotation_about(rotation, cf, cm))
    return found


def correlate(
    level: PyramidLevel, rotations: Sequence[Floats], *, best: int = 16, peaks: int = 1, batch: int = 32
) -> list[Floats]:
    """For each rotation, the `peaks` shifts with the best masked correlation; the `best` of all rotations.

    Both images are resampled on isotropic lattices about their own centres, the moving
    image is rotated, and they are correlated over all shifts by FFT.
    """
    fixed, moving = (_without_local_mean(p, level.step) for p in (level.fixed, level.moving))
    step = max(level.step, *(s / 2 for s in fixed.grid.spacing))
    sides = [_diagonal(moving.grid, step)] * fixed.grid.ndim
    own = _lattice(
        fixed.grid, [math.ceil(n * s / step) for n, s in zip(fixed.grid.shape, fixed.grid.spacing, strict=True)], step
    )
    padded = [next_fast_len(a + b - 1, real=True) for a, b in zip(own.shape, sides, strict=True)]
    reference = _spectra(*_resample(fixed, own, [np.eye(fixed.grid.ndim)]), padded)
    least = _MIN_OVERLAP * min(math.prod(p.grid.shape) * math.prod(p.grid.spacing) for p in (fixed, moving))
    found = []
    for first in range(0, len(rotations), batch):
        some = rotations[first : first + batch]
        lattice = _lattice(moving.grid, sides, step)
        spectra = _spectra(*_resample(moving, lattice, some), padded)
        score = _correlation(reference, spectra, padded, least / step**fixed.grid.ndim)
        for _ in range(peaks):
            values, positions = score.flatten(1).max(1)
            for row, (rotation, value, flat) in enumerate(zip(some, values.tolist(), positions.tolist(), strict=True)):
                at = np.array(np.unravel_index(flat, padded))
                shift = at - np.where(at >= np.array(own.shape), padded, 0)
                # own[i] corresponds to lattice[i - shift].
                origin = np.asarray(lattice.origin) - shift * step
                motion = _rotation_about(rotation, np.asarray(own.origin), origin, about=moving.grid.centre)
                found.append((value, motion))
                if peaks > 1:
                    near = np.ix_(*[np.arange(i - _PEAK, i + _PEAK + 1) % n for i, n in zip(at, padded, strict=True)])
                    score[row][near] = -torch.inf
    found.sort(key=lambda pair: -pair[0])
    return [motion for _, motion in found[:best]]


def _without_local_mean(image: ImageBatch, step: float) -> ImageBatch:
    """Less its local mean: slow ramps correlate at any shift, over any small overlap."""
    sigmas = [_LOCAL_SIGMA * step / s for s in image.grid.spacing]
    return replace(image, values=image.values - smooth(image, sigmas).values)


def reduced_for(level: PyramidLevel, rotations: Sequence[Floats]) -> PyramidLevel:
    """The level on which to correlate for these rotations: of volumes one step coarser where there are many."""
    if level.fixed.grid.ndim == 2 or len(rotations) == 1:
        return level
    fixed, moving = (
        shrink(p, [2 if n >= _MIN_REDUCED_SIDE else 1 for n in p.grid.shape]) for p in (level.fixed, level.moving)
    )
    return PyramidLevel(fixed, moving, 2 * level.step)


def _moments(image: ImageBatch) -> tuple[Floats, Floats]:
    """World centroid, and the principal axes as columns, by falling extent."""
    values = image.values[0].to(torch.float64).cpu().numpy()
    weight = np.ones_like(values) if image.weight is None else image.weight[0].to(torch.float64).cpu().numpy()
    border = np.ones(values.shape, bool)
    border[tuple(slice(1, -1) if n > 2 else slice(None) for n in values.shape)] = False
    border &= weight > 0.5
    mass = np.abs(values - (np.median(values[border]) if border.any() else values.mean())) * weight
    total = max(float(mass.sum()), 1e-12)
    points = image.grid.world(np.indices(values.shape).reshape(values.ndim, -1).T)
    centroid = (mass.reshape(-1, 1) * points).sum(0) / total
    away = points - centroid
    _, axes = np.linalg.eigh((mass.reshape(-1, 1) * away).T @ away / total)
    return centroid, axes[:, ::-1]


def _rotation_about(
    rotation: Floats, fixed_point: Floats, moving_point: Floats, *, about: Floats | None = None
) -> Floats:
    """The motion x -> rotation (x - fixed_point + moving_point - about) + about; about = moving_point by default."""
    middle = moving_point if about is None else about
    m = np.eye(len(rotation) + 1)
    m[:-1, :-1] = rotation
    m[:-1, -1] = rotation @ (moving_point - fixed_point - middle) + middle
    return m


def _diagonal(grid: Grid, step: float) -> int:
    return math.ceil(math.hypot(*(n * s for n, s in zip(grid.shape, grid.spacing, strict=True))) / step)


def _lattice(grid: Grid, shape: Sequence[int], step: float) -> Grid:
    """An upright isotropic lattice about the centre of `grid`."""
    return Grid(shape, step, grid.centre - (np.asarray(shape) - 1) / 2 * step)


def _resample(image: ImageBatch, lattice: Grid, rotations: Sequence[Floats]) -> tuple[Tensor, Tensor]:
    """(R, *lattice) values and weights of the image rotated about its centre, zero outside."""
    inner = image.grid.shape
    theta = []
    for rotation in rotations:
        centre = image.grid.centre
        m = index_matrix(_rotation_about(rotation, centre, centre), lattice, image.grid)
        # Indices to torch's x-first [-1, 1], align_corners=False.
        to = np.diag([2 / n for n in inner] + [1.0])
        to[:-1, -1] = [1 / n - 1 for n in inner]
        back = np.diag([n / 2 for n in lattice.shape] + [1.0])
        back[:-1, -1] = [(n - 1) / 2 for n in lattice.shape]
        n = to @ m @ back
        theta.append(np.concatenate([n[:-1, :-1][::-1, ::-1], n[:-1, -1:][::-1]], 1))
    device = image.values.device
    maps = torch.tensor(np.stack(theta), dtype=torch.float32, device=device)
    weight = torch.ones_like(image.values[:1]) if image.weight is None else image.weight[:1]
    both = torch.stack([image.values[0] * weight[0], weight[0]])[None].expand(len(maps), *[-1] * (len(inner) + 1))
    grid = functional.affine_grid(maps, [len(maps), 1, *lattice.shape], align_corners=False)
    out = functional.grid_sample(both, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return out[:, 0], out[:, 1]


def _spectra(values: Tensor, weight: Tensor, padded: Sequence[int]) -> Tensor:
    """(3, R, ...) spectra of weight, weighted values and weighted squares."""
    squares = values.square() / weight.clamp_min(1e-6)
    dims = tuple(range(-len(padded), 0))
    spectra: Tensor = torch.fft.rfftn(torch.stack([weight, values, squares]), s=tuple(padded), dim=dims)
    return spectra


def _correlation(fixed: Tensor, moving: Tensor, padded: Sequence[int], least: float) -> Tensor:
    """(R, *padded) masked correlation at shift s, where fixed[i] corresponds to moving[i - s]."""
    dims = tuple(range(-len(padded), 0))
    m0, m1, m2 = moving.conj()
    f0, f1, f2 = fixed
    pairs = torch.stack([f0 * m0, f1 * m0, f0 * m1, f2 * m0, f0 * m2, f1 * m1])
    sums: Tensor = torch.fft.irfftn(pairs, s=tuple(padded), dim=dims)
    n, f, m, ff, mm, fm = sums
    count = n.clamp_min(1e-3)
    product = fm - f * m / count
    variance = (ff - f * f / count).clamp_min(0) * (mm - m * m / count).clamp_min(0)
    floor = 1e-4 * variance.amax(dim=dims, keepdim=True)
    score = product / (variance + floor).sqrt()
    scored = torch.where(n >= least, score * (count / least).clamp(max=3).pow(0.25), -torch.inf)
    return scored
