"""Voxels that hold nothing of the specimen: gaps that are coded by one value, and hot or dead voxels of a detector.

Such voxels stay where they are while the specimen moves. One that is bright enough outweighs the whole image, so that
two images agree best without motion. They are found to be masked:

- A code is the largest or smallest value of an integer type of 16 bits or more, or a repeated extreme value of other
  types, with nothing near it: the voxels beside coded ones are as usual, not nearly as extreme.
- A gap has the same value in all images of a detector, and the voxels beside it never have it.
- A hot or dead voxel differs from its neighbours in all images by far more than these differ among themselves. It is
  one voxel wide: what is imaged through optics also brightens the voxels beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Pixels = NDArray[np.float32]

OUTSTANDING = 8.0
"""Robust standard deviations of its surroundings by which a hot voxel differs from its neighbours."""

# Of a hot voxel's difference from its surroundings: what its neighbours may differ.
_NEIGHBOR_SHARE = 0.1
# Neighbours of a hot voxel that are hot too, at most: two in a dead line, more at the corner of an area.
_MOST_BESIDE = 2
# Normal standard deviation over the median absolute deviation.
_FROM_MAD = 1.4826
# At most so many voxels, as a share, are hot; of more, none are masked.
_MOST_HOT = 0.02
# The least number of images in which gaps of any value are looked for.
_LEAST_IMAGES = 4
# At most so much of an image has one value throughout.
_MOST_CONSTANT = 0.75
# Of the voxels beside a gap, those that have its value in any image.
_REACHED = 0.05
# Voxels in between are fewer than this share where a code is apart from the other values.
_TAIL = 1e-3


def gap_code(values: NDArray[Any]) -> float | None:
    """The value that codes voxels without a measurement, or None.

    Args:
        values: an image (or a part of one) with the values and the type in which it is stored.
    """
    dtype = values.dtype
    if dtype.kind in "iu":
        if dtype.itemsize < 2:
            return None
        limits: tuple[Any, ...] = (np.iinfo(dtype).max, *((np.iinfo(dtype).min,) if dtype.kind == "i" else ()))
    elif dtype.kind == "f":
        finite = values[np.isfinite(values)]
        limits = (finite.max(), finite.min()) if finite.size else ()
    else:
        return None
    for code in limits:
        coded = values == code
        count = int(coded.sum())
        if count and (dtype.kind in "iu" or count > 1) and _stands_alone(values, coded, float(code)):
            return float(code)
    return None


def _stands_alone(values: NDArray[Any], coded: Bools, code: float) -> bool:
    """Whether nothing is near the code, neither in value nor, for the voxels beside coded ones, in place."""
    others = values[~coded].astype(np.float64)
    others = others[np.isfinite(others)]
    if others.size < coded.size / 4:
        return False
    low, high = np.quantile(others, [_TAIL, 1 - _TAIL])
    if not high > low or min(abs(code - low), abs(code - high)) < high - low:
        return False
    beside = values[scipy.ndimage.binary_dilation(coded) & ~coded].astype(np.float64)
    return bool(len(beside) and low <= np.median(beside) <= high)


def constant_gaps(images: Pixels) -> Bools:
    """(*shape) voxels of (N, *shape) images of one detector that always have one value, and their neighbours never.

    Only areas that hold a square (or cube) of 3 voxels count: in few images, single voxels repeat a value by chance.
    A constant part of a specimen, such as a dark background, is no gap: its border moves or is blurred.
    """
    none = np.zeros(images.shape[1:], bool)
    if len(images) < _LEAST_IMAGES:
        return none
    same = np.isfinite(images[0])
    for image in images[1:]:
        same &= image == images[0]
        if not same.any():
            return none
    if not same.any() or same.mean() > _MOST_CONSTANT:
        return none
    labels, _ = scipy.ndimage.label(same)
    blocks = scipy.ndimage.binary_erosion(same, np.ones((3,) * same.ndim, bool))
    gaps, boxes = none, scipy.ndimage.find_objects(labels)
    for number in np.unique(labels[blocks]).tolist():
        around = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in boxes[number - 1])
        area = labels[around] == number
        border = scipy.ndimage.binary_dilation(area) & ~area
        values = images[(slice(None), *around)]
        code = values[0][area][0]
        if border.any() and (values[0][area] == code).all():
            reached = (values[:, border] == code).any(axis=0)
            if reached.mean() < _REACHED:
                gaps[around] |= area
    return gaps


def hot_voxels(images: Pixels) -> Bools:
    """(*shape) voxels of (N, *shape) images of one detector, finite or NaN, that stand out in all of them.

    The candidates stand out in the mean of the images, in which a specimen that moves is blurred.
    """
    shape = images.shape[1:]
    hot = np.zeros(shape, bool)
    if min(shape) < 5 or not len(images):
        return hot
    mean = np.nan_to_num(images.mean(axis=0, dtype=np.float32)) if len(images) > 1 else np.nan_to_num(images[0])
    detail = np.abs(mean - scipy.ndimage.uniform_filter(mean, 5, mode="nearest")).ravel()
    some = detail[:: max(1, detail.size // 20_000)]
    at = np.flatnonzero(detail > OUTSTANDING / 2 * _FROM_MAD * np.median(some))
    for image in images:
        if not len(at):
            break
        at = at[_stand_out(image, at)]
    if len(at) <= _MOST_HOT * hot.size:
        hot.ravel()[at] = True
    return hot


def _stand_out(image: Pixels, at: NDArray[np.intp]) -> Bools:
    """(K,) whether the voxels at flat indices differ from their neighbours, and these not from what is around them."""
    ndim = image.ndim
    padded = np.pad(image, 2, mode="reflect")
    strides = np.array([int(np.prod(padded.shape[k + 1 :])) for k in range(ndim)])
    offsets = np.indices((5,) * ndim).reshape(ndim, -1).T - 2
    distance = np.abs(offsets).max(axis=1)
    centre = (np.stack(np.unravel_index(at, image.shape), -1) + 2) @ strides
    flat = padded.ravel()
    near, ring = (flat[centre[:, None] + (offsets[distance == k] @ strides)] for k in (1, 2))
    value = flat[centre]
    with np.errstate(invalid="ignore"):
        inner, outer = np.median(near, axis=1), np.median(ring, axis=1)
        both = np.concatenate([near, ring], axis=1)
        spread = _FROM_MAD * np.median(np.abs(both - np.median(both, axis=1)[:, None]), axis=1)
        floor = 1e-3 * max(float(np.nanstd(image[:: max(1, image.shape[0] // 64)])), 1e-30)
        height = np.abs(value - inner)
        stands = height > OUTSTANDING * np.maximum(spread, floor)
        stands &= (np.abs(near - inner[:, None]) > height[:, None] / 4).sum(axis=1) <= _MOST_BESIDE
        return np.asarray(stands & (np.abs(inner - outer) <= _NEIGHBOR_SHARE * height))
