"""Displacements that are looked for among many, for motions that steps along gradients do not find.

Where structures moved farther than they are large, a Gauss-Newton step does not know which of the neighbouring
structures is the right one. Here each of a range of whole displacements is tried, and its cost is how little the
descriptors around a place (`self_similarity`) then resemble. The field is the one whose displacements cost least and
are near to those around them: the best displacement of each place and the smooth field are found in turns, each held
to the other by a weight that grows (coupled convex optimization, Steinbruecker et al. 2009; Heinrich et al. 2014;
Siebert and Heinrich 2021).

Something resembles whatever is searched, so the field has to be confirmed: it is estimated from each half of the
image, the blocks of a checkerboard, and the two must agree. Blocks are longer than structures, so that one half knows
little of the other, and only a motion that is there makes them alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from daskreg.geometry import Affine, Grid, Transform
from daskreg.registration.deformable.level_images import LevelImages
from daskreg.registration.deformable.multimodal.self_similarity import REACH, descriptors
from daskreg.registration.deformable.noise_model import correlated_voxels, middle_of
from daskreg.registration.deformable.splines.control_grid import ControlGrid, control_grids
from daskreg.registration.deformable.splines.layers import Layers

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

# All in voxels of a level.
_FARTHEST = {2: 4, 3: 3}
"""The largest component of a displacement that is tried, in images and volumes."""
_APART = {2: 2, 3: 4}
"""Distance of the places at which displacements are chosen."""
_AROUND = 2.0
"""Standard deviation of the weights of the voxels around a place, which end at four of them."""
_SMOOTH = 4.0
"""Standard deviation of the Gaussian that the field is smoothed with."""
_CONTROL = 4.0
"""Distance of control points."""
_BLOCK, _GAP = 8, 1
"""The least edge of a block of a half, and the voxels that are left out at each side of it."""
_LENGTHS = 2.0
"""The edge of a block, at least, in voxels along an axis for each independent descriptor."""
_SETTLED = 0.2
"""What may be left of a displacement when it is written as layers."""

_WEIGHTS = tuple(np.geomspace(0.01, 3, 8))
"""Of the distance from the smooth field, in turn."""
_AGREE, _SIGMAS = 0.6, 4.0
"""What halves have to agree by: this, and as many standard deviations of independent blocks."""
_KNOWN = 1e-2
"""The weight of a place, of 1, up to which it is taken for unknown."""
_MOST_LAYERS = 6
_ARRAYS = 9
"""Of costs, for all displacements at all places, that are in memory at once."""


@dataclass(frozen=True)
class Searched:
    """What a search found on a level.

    layers: with what they began from as the base. agreement: of the fields of both halves, from -1 to 1. needed: the
    agreement from which on the motion is believed. freedom: how many independent displacements the field has.
    """

    layers: Layers
    agreement: float
    needed: float
    freedom: float

    @property
    def confirmed(self) -> bool:
        return self.agreement > self.needed


def search(images: LevelImages, transform: Transform, image: Grid) -> Searched:
    """Look for displacements of the moving image on a level, after a transform has been applied.

    Args:
        image: grid of the fixed image, which the control points lie over.
    """
    warped = images.warp(transform)
    structure = descriptors(images.fixed), descriptors(np.where(np.isfinite(warped), warped, np.float32(0)))
    # A descriptor near what is masked or unknown sees it.
    apart, known = (_inner(values) for values in (images.weight > 0, np.isfinite(warped)))
    ndim, weight = images.fixed.ndim, images.weight * (apart & known)
    block = max(_BLOCK, math.ceil(_LENGTHS * max(_length(one, weight) for one in structure)))
    costs, weights = _costs(structure, _halves(weight, block), known)
    fields = [_smooth_field(_normalised(c, w), ndim) for c, w in zip(costs, weights, strict=True)]
    costs[0] += costs[1]
    weights[0] += weights[1]
    every = _smooth_field(_normalised(costs[0], weights[0]), ndim)
    one, other = (field[:, _seen(weights[0])] for field in fields)
    squares = (float(np.vdot(one, one)) + float(np.vdot(other, other))) / 2
    voxels = float(weight.sum(dtype=np.float64))
    control = control_grids(image, [_CONTROL * h for h in images.fixed_grid.spacing])[-1]
    return Searched(
        layers=as_layers(every, images.fixed_grid, control, transform),
        agreement=float(np.vdot(one, other)) / squares if squares > 0 else 0.0,
        needed=max(_AGREE, _SIGMAS / max(math.sqrt(ndim * voxels / block**ndim), 1.0)),
        freedom=ndim * voxels / (4 * np.pi * _SMOOTH**2) ** (ndim / 2),
    )


def search_bytes(shape: tuple[int, ...]) -> int:
    """The memory that a search on a level of this shape takes, about."""
    ndim = len(shape)
    channels = 2 * ndim * ndim
    places = math.prod(-(-n // _APART[ndim]) for n in shape)
    return 4 * (_ARRAYS * places * len(_candidates(ndim)) + 5 * channels * math.prod(shape))


def _inner(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where all that a descriptor sees is known, or beyond the border."""
    return np.asarray(ndimage.binary_erosion(known, iterations=REACH, border_value=1))


def _length(structure: Singles, weight: Singles) -> float:
    """Voxels along an axis for each independent descriptor."""
    box = middle_of(weight.shape)
    structure, weight = structure[(slice(None), *box)], weight[box]
    axes = tuple(range(1, structure.ndim))
    mean = (structure * weight).sum(axis=axes, keepdims=True, dtype=np.float64) / max(float(weight.sum()), 1e-6)
    return float(correlated_voxels(weight * (structure - mean.astype(np.float32))) ** (1 / weight.ndim))


def _candidates(ndim: int) -> NDArray[np.int64]:
    """(N, D) the displacements that are tried, voxels."""
    most = _FARTHEST[ndim]
    return np.indices((2 * most + 1,) * ndim).reshape(ndim, -1).T - most


def _costs(structure: tuple[Singles, Singles], halves: Singles, known: NDArray[np.bool_]) -> tuple[Singles, Singles]:
    """(2, N, *places) sums of weighted costs of each displacement over the voxels of a half around a place, and of the
    weights."""
    shape, most = known.shape, _FARTHEST[known.ndim]
    apart, edges = _APART[known.ndim], [(most, most)] * known.ndim
    moving, there = np.pad(structure[1], [(0, 0), *edges], mode="edge"), np.pad(known.astype(np.float32), edges)
    candidates = _candidates(known.ndim).tolist()
    costs = np.empty((2, len(candidates), *(-(-n // apart) for n in shape)), np.float32)
    weights = np.empty_like(costs)
    for number, candidate in enumerate(candidates):
        box = tuple(slice(most + k, most + k + n) for k, n in zip(candidate, shape, strict=True))
        difference = np.zeros(shape, np.float32)
        for one, other in zip(structure[0], moving, strict=True):
            difference += (one - other[box]) ** 2
        counted = halves * there[box]
        costs[:, number] = _around(counted * difference, apart)
        weights[:, number] = _around(counted, apart)
    return costs, weights


def _halves(weight: Singles, block: int) -> Singles:
    """(2, *shape) the weight of voxels in the blocks of either colour of a checkerboard."""
    place = np.indices(weight.shape)
    inner = np.all((place % block >= _GAP) & (place % block < block - _GAP), axis=0)
    second = checkerboard(weight.shape, block)
    return np.asarray(np.stack([weight * (inner & colour) for colour in (~second, second)]), np.float32)


def checkerboard(shape: Sequence[int], block: int) -> NDArray[np.bool_]:
    """(*shape) which voxels are in blocks of the second of two colours; blocks have so many voxels along each axis."""
    return np.asarray((np.indices(shape) // block).sum(axis=0) % 2 == 1)


def _around(values: Singles, apart: int) -> Singles:
    """(K, *places) sums of (K, *shape) values around places, with weights of sum 1 where all voxels exist."""
    reach = math.ceil(4 * _AROUND)
    weights = np.exp(-((np.arange(-reach, reach + 1) / _AROUND) ** 2) / 2)
    weights /= weights.sum()
    for axis in range(values.ndim - 1, 0, -1):
        padded = np.pad(values, [(reach, reach) if k == axis else (0, 0) for k in range(values.ndim)])
        last = (values.shape[axis] - 1) // apart * apart + 1
        before = (slice(None),) * axis
        values = np.zeros_like(padded[(*before, slice(0, last, apart))])
        for first, weight in enumerate(weights.astype(np.float32)):
            values += weight * padded[(*before, slice(first, first + last, apart))]
    return values


def _seen(weights: Singles) -> NDArray[np.bool_]:
    """(*places) where something is known of any displacement, from (N, *places) weights."""
    return np.asarray(weights.max(axis=0) > _KNOWN)


def _normalised(costs: Singles, weights: Singles) -> Singles:
    """(N, *places) costs by their spread where something is known, and all alike at places where nothing is."""
    seen = _seen(weights)
    if not seen.any():
        return np.zeros_like(costs)
    mean = float(costs.sum(dtype=np.float64)) / float(weights.sum(dtype=np.float64))
    costs = (costs + np.float32(_KNOWN * mean)) / (weights + np.float32(_KNOWN))
    costs[:, ~seen] = mean
    spread = float(np.median(costs[:, seen].std(axis=0)))
    return costs / np.float32(spread) if spread > 0 else np.zeros_like(costs)


def _smooth_field(costs: Singles, ndim: int) -> Floats:
    """(D, *places) the smooth field of displacements that cost little, voxels."""
    candidates = _candidates(ndim).astype(np.float32)
    sigma = _SMOOTH / _APART[ndim]

    def chosen(costs: Singles) -> Floats:
        best = np.moveaxis(candidates[costs.argmin(axis=0)], -1, 0).astype(np.float64)
        return np.stack([ndimage.gaussian_filter(one, sigma, mode="nearest") for one in best])

    # What costs as much as staying costs nothing to stay at.
    field = chosen(costs + np.float32(_WEIGHTS[0]) * np.sum(candidates**2, axis=1).reshape(-1, *[1] * ndim))
    for weight in _WEIGHTS:
        away = np.zeros_like(costs)
        for axis, smooth in enumerate(field):
            away += (candidates[:, axis].reshape(-1, *[1] * ndim) - smooth.astype(np.float32)) ** 2
        field = chosen(costs + np.float32(weight) * away)
    return field


def as_layers(field: Floats, level: Grid, control: ControlGrid, base: Transform) -> Layers:
    """Layers of which none folds, and which together move places as a field does, as far as it does not fold.

    Args:
        field: (D, *places) voxels of the level, along its axes.
    """
    ndim = level.ndim
    nodes = control.grid.world(np.moveaxis(np.indices(control.shape), 0, -1).reshape(-1, ndim))
    at = level.index(nodes).T / _APART[ndim]
    wanted = np.stack([ndimage.map_coordinates(one, at, order=1, mode="nearest") for one in field])
    wanted *= np.asarray(level.spacing)[:, None]
    # A layer moves nothing beside its control points: those there follow the nearest ones over the image.
    beside = [(0, 0), *[(2, 2)] * ndim]
    layers, before = Layers.start(Affine.identity(ndim, unit=control.image.unit), control), np.inf
    for _ in range(_MOST_LAYERS):
        moved = (layers.transform(nodes) - nodes) @ control.image.direction_matrix
        left = (wanted - moved.T).reshape(ndim, *control.shape)[control.inner]
        most = float(np.abs(left).max())
        if most < _SETTLED * min(level.spacing) or most >= before:
            break
        layers, before = layers.clipped(np.pad(left, beside, mode="edge")).finish(), most
    return replace(layers, base=base)
