"""Whether a pattern that stays with the detector draws the motion between two images towards none.

Noise of the pixels of a camera, dust, rings or a background that does not move are in both images at the same voxels,
while the specimen moves. Where images are aligned by T, the residual is fixed(p) - moving(T p). With a pattern d in
both it holds d(p) - d(T p), and at T p, as a place in the fixed image, d(T p) - d(T T p): the products of both have the
mean -E d^2, while noise of its own in each image has the mean 0. A pattern draws steps as much as its gradients have
energy beside those of the specimen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

# Voxels from which on a motion is so long that neighbouring voxels of the residual are not compared with each other.
_FAR = 3.0
# Places that are compared, and how many are too few.
_PLACES, _LEAST = 1 << 14, 100
# The correlations of residuals and of their gradients at both places, at least: half of that where there is nothing but
# the pattern. Without one the gradients have 0.18 at most, of images of different sharpness.
_CORRELATED, _ALIKE = 0.1, 0.25
# Voxels by which the motion is drawn.
_MOST = 0.2


def sampled(weight: Singles) -> NDArray[np.int64]:
    """(N, D) some of the voxels with weight, evenly."""
    places = np.argwhere(weight > 0)
    return places[:: max(1, len(places) // _PLACES)]


def drawn_by_pattern(
    residual: Singles,
    slopes: tuple[Singles, Singles, Singles],
    weight: Singles,
    places: NDArray[np.int64],
    there: Floats,
) -> bool:
    """Whether a pattern is in both images that draws the motion by a fifth of a voxel or more.

    Args:
        residual: (*shape). slopes: (D, *shape) gradients of the residual, of fixed and of the aligned image.
        weight: (*shape).
        places: (N, D) voxels of fixed. there: (N, D) where they are in moving, which has the same voxels.
    """
    nearest = np.rint(there).astype(np.int64)
    inside = np.all((nearest >= 0) & (nearest < residual.shape), axis=1)
    inside[inside] = weight[tuple(nearest[inside].T)] > 0
    here, other, length = (one[inside] for one in (places, nearest, np.linalg.norm(there - places, axis=1)))
    far = length > _FAR
    if far.sum() < _LEAST:
        return False
    ours, theirs = here[far], other[far]
    if _opposite(residual[None], ours, theirs)[1] < _CORRELATED:
        return False
    left, fixed, aligned = slopes
    pattern, alike = _opposite(left, ours, theirs)
    shared = max(float((_values(fixed, here) * _values(aligned, here)).sum(0).mean()), 0.0)
    return alike > _ALIKE and pattern / (shared + pattern) * float(np.sqrt((length**2).mean())) > _MOST


def _opposite(images: Singles, here: NDArray[np.int64], there: NDArray[np.int64]) -> tuple[float, float]:
    """What images have at two places each of opposite sign: minus the mean of their products, and of correlations."""
    one, two = _values(images, here), _values(images, there)
    product = -float((one * two).sum(0).mean())
    return product, product / max(float(np.sqrt((one**2).sum(0).mean() * (two**2).sum(0).mean())), 1e-30)


def _values(images: Singles, places: NDArray[np.int64]) -> Floats:
    return images[(slice(None), *places.T)].astype(np.float64)
