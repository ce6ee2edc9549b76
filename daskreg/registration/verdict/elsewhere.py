"""Poses of other overlaps: shifts at which parts of the images agree that a pose leaves outside its overlap.

`rivals` compares shifts of what overlaps at the pose. Where that is a part of the images only, the same texture, or the
right pose, may lie beyond it. So both images are correlated as a whole (Padfield 2012), the moving one with the linear
part of the pose. The shifts with the most evidence, and those that fit best for their overlap, are candidates, which
have to be refined and compared (`excluded`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel
from daskreg.registration.verdict.bands import Bands, images_in_bands
from daskreg.registration.verdict.evidence import log_likelihood
from daskreg.registration.verdict.rivals import correlations, spectra_of

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

# A pose that overlaps more than this share of the larger image leaves no room for others of much evidence.
_MOST_OVERLAP = 0.7
# Shifts at which less than this share of the smaller image overlaps are not compared.
_LEAST_OVERLAP = 0.08
# Independent samples that a correlation loses: those of the mean, the gain and the place of the maximum.
_LOST_SAMPLES = 4.0
# Maxima that are fewer voxels apart are one.
_APART = 3
# Candidates need this share of the evidence that is not chance: a pose that is refined has more.
_SHARE = 0.5
# Candidates with the most evidence, and of those that fit best for their overlap, at most.
_MOST = 2
# The moving image, on the voxels of the fixed one, has at most so many times the voxels of both.
_LARGEST = 4.0


def leaves_room(level: PyramidLevel, weight: Singles) -> bool:
    """Whether so little overlaps, with this weight, that there may be as much evidence of another pose elsewhere."""
    return float(weight.sum()) < _MOST_OVERLAP * max(_sizes(level))


def elsewhere(level: PyramidLevel, motion: Floats, bands: Bands, needed: float) -> Floats:
    """(C, D+1, D+1) motions, which differ from the pose by a shift, with evidence of their own.

    Args:
        level: of one pair. motion: `moving_from_fixed`. bands: at the pose. needed: the evidence that is not chance.
    """
    none = np.zeros((0, *motion.shape))
    least = _LEAST_OVERLAP * min(_sizes(level))
    whole = float(bands.weight[0].sum())
    fixed = _values(level.fixed)
    found = _on_voxels_of_fixed(level, motion)
    if found is None:
        return none
    moving, low = found[:2], found[2]
    shape, ndim = fixed[0].shape, fixed[0].ndim
    padded = tuple(fft.next_fast_len(a + b - 1, real=True) for a, b in zip(shape, moving[0].shape, strict=True))
    first, second = (spectra_of(*images_in_bands(*one, bands.sigmas), padded) for one in (fixed, moving))
    ncc, overlap, _ = correlations(first, second, padded, ndim, whole)
    samples = np.maximum(bands.samples.reshape(-1, *[1] * ndim) * overlap - _LOST_SAMPLES, 0)
    agrees = log_likelihood(ncc, samples).sum(0)
    agrees[overlap * whole < least] = 0
    peaks = (agrees > _SHARE * needed) & (agrees == ndimage.maximum_filter(agrees, 2 * _APART + 1, mode="wrap"))
    at: Any = np.argwhere(peaks)
    # fixed[x] lies beside moving[x + shift], which is at x + shift + low at the pose.
    shifts = np.where(at >= np.array(moving[0].shape), at - padded, at) + low
    worse = (log_likelihood(bands.ncc.reshape(-1, *[1] * ndim), samples).sum(0) - agrees)[peaks]
    away = np.flatnonzero(np.abs(shifts).max(1) > _APART)
    best = [away[np.argsort(by[away])[:_MOST]] for by in (-agrees[peaks], worse)]
    grid, motions = level.fixed.grid.matrix, []
    for shift in shifts[np.unique(np.concatenate(best))]:
        moved = np.eye(ndim + 1)
        moved[:-1, -1] = shift
        motions.append(motion @ grid @ moved @ np.linalg.inv(grid))
    return np.stack(motions) if motions else none


def _sizes(level: PyramidLevel) -> tuple[float, ...]:
    """The sizes of both images, in voxels of the fixed one."""
    voxel = math.prod(level.fixed.grid.spacing)
    return tuple(
        math.prod(image.grid.shape) * math.prod(image.grid.spacing) / voxel for image in (level.fixed, level.moving)
    )


def _values(image: ImageBatch) -> tuple[Singles, Singles]:
    """The values and weights of one image."""
    values = image.values[0].cpu().numpy()
    return values, np.ones_like(values) if image.weight is None else image.weight[0].cpu().numpy()


def _on_voxels_of_fixed(level: PyramidLevel, motion: Floats) -> tuple[Singles, Singles, NDArray[np.int64]] | None:
    """The whole moving image at the pose on voxels of the fixed image, its weights, and the index of the first one.

    None where these are too many.
    """
    values, weight = _values(level.moving)
    maps = level.moving.grid.inverse_matrix @ motion @ level.fixed.grid.matrix
    corners = level.moving.grid.corners()
    back = np.linalg.inv(maps) @ np.c_[level.moving.grid.index(corners), np.ones(len(corners))].T
    low, high = np.ceil(back[:-1].min(1) - 1e-6), np.floor(back[:-1].max(1) + 1e-6)
    shape = (high - low + 1).astype(int)
    if np.prod(shape, dtype=float) > _LARGEST * max(values.size, math.prod(level.fixed.grid.shape)) or shape.min() < 1:
        return None
    origin = maps[:-1, :-1] @ low + maps[:-1, -1]
    warped, inside = (
        np.asarray(ndimage.affine_transform(x, maps[:-1, :-1], origin, tuple(shape), order=1), np.float32)
        for x in (values * weight, weight)
    )
    return np.asarray(warped / np.maximum(inside, np.float32(1e-3))), inside, low.astype(np.int64)
