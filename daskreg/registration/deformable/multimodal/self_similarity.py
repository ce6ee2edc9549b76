"""Descriptors of the structure around each voxel, alike in images of different modalities and stains.

A channel says how alike two small patches near a voxel are: two neighbours of the voxel, or the voxel and a neighbour.
Edges and textures give the same channels whatever the brightness is (MIND, Heinrich et al. 2012; self-similarity
context, Heinrich et al. 2013).
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Singles = NDArray[np.float32]

_AWAY = 2
"""Voxels between a voxel and its neighbours."""
_PATCH = 0.8
"""Standard deviation of the weights of a patch, voxels."""
REACH = 4
"""Voxels that a descriptor sees around its own, along each axis."""
# By how much the local variance, which differences are compared with, may deviate from its mean.
_LEAST, _MOST = 1e-3, 1e3


def descriptors(image: Singles) -> Singles:
    """(C, *shape) from 0 to 1: how alike patches around each voxel are, 1 for the pair that is most alike."""
    places = [tuple(_AWAY * s * (k == axis) for k in range(image.ndim)) for axis in range(image.ndim) for s in (-1, 1)]
    around = {place: _shifted(image, place) for place in places}
    corners = [pair for pair in itertools.combinations(places, 2) if any(np.add(*pair))]
    differences = [(around[a] - around[b]) ** 2 for a, b in corners] + [(one - image) ** 2 for one in around.values()]
    found = np.stack([ndimage.gaussian_filter(d, _PATCH, mode="nearest") for d in differences])
    found -= found.min(axis=0)
    variance = found.mean(axis=0)
    mean = max(float(variance.mean()), 1e-20)
    np.clip(variance, _LEAST * mean, _MOST * mean, out=variance)
    return np.asarray(np.exp(-found / variance), dtype=np.float32)


def _shifted(image: Singles, by: tuple[int, ...]) -> Singles:
    """(*shape) the values at index + by, those of the border beyond it."""
    ends = [np.clip(np.arange(n) + k, 0, n - 1) for n, k in zip(image.shape, by, strict=True)]
    return np.asarray(image[np.ix_(*ends)])
