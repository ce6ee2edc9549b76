"""Voxels that hold nothing of the specimen: gaps that are coded by one value, and hot or dead voxels of a detector.

Such voxels stay where they are while the specimen moves. One that is bright enough outweighs the whole image, so that
two images agree best without motion. They are found to be masked:

- A code is the largest or smallest value of an integer type of 16 bits or more, or a repeated extreme value of other
  types, with nothing near it: the voxels beside coded ones are as usual, not nearly as extreme.
- A gap has the same value in all images of a detector, and the voxels beside it never have it.
- Several lines across the image (planes of a volume) that have one value, or vary next to nothing, while those beside
  them have other values, are dead or were filled; one image shows that. A few may be layers of the specimen.
- A hot or dead voxel differs from its neighbours in all images by far more than these differ among themselves. It is
  one voxel wide: what is imaged through optics also brightens the voxels beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from daskreg.registration.pyramids.bad_voxels_numba import standing_out

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
# Ranges of the other values beyond which a value of floats is a code; nearer, it may be the background of an object.
_FAR = 10.0
# Voxels whose neighbours are looked at together.
_TOGETHER = 2**16
# Values of an image that tell the range of most of them.
_SAMPLE = 5_000
# Values of gaps that are looked for, those of most voxels.
_MOST_CODES = 4
# At most so much of an image has one value throughout.
_MOST_CONSTANT = 0.75
# Of the voxels beside a gap, those that have its value in any image.
_REACHED = 0.05
# Voxels in a row that are a gap, and, of the lines beside dead ones, those that have their value.
_RUN, _MOST_BESIDE_LINES = 8, 0.5
# Voxels along each axis of a line that first tell whether it is dead, and the most that a dead line varies as a share
# of what those beside it do, as through optics no lines of a specimen do.
_GLANCE, _FLAT = 16, 0.1
# Dead lines next to each other, at most, as a share of the lines of an axis, and at the border, where more of them are
# background or fill (see `flat_borders`); and the most of the lines of an axis that are dead.
_THICK, _AT_BORDER, _MOST_LINES = 0.05, 2, 0.7
# Dead lines (or runs of them) apart from the border without which there are none.
_FEWEST_LINES = 4
# Of the 24 bits of float32, those in which values on different levels are compared.
_KEPT_BITS = 21
# Voxels in between are fewer than this share where a code is apart from the other values.
_TAIL = 1e-3


def gap_code(values: NDArray[Any], *, ranges: float = 1.0) -> float | None:
    """The value that codes voxels without a measurement, or None.

    Args:
        values: an image (or a part of one) with the values and the type in which it is stored.
        ranges: of the other values, by which a code of floats is away from them.
    """
    dtype = values.dtype
    if dtype.kind in "iu":
        if dtype.itemsize < 2:
            return None
        limits: tuple[Any, ...] = (np.iinfo(dtype).max, *((np.iinfo(dtype).min,) if dtype.kind == "i" else ()))
        least, ranges = 1, 1.0
    elif dtype.kind == "f" and values.size:
        limits, least = (np.fmax.reduce(values, axis=None), np.fmin.reduce(values, axis=None)), 2
        if not np.isfinite(limits).all():
            finite = values[np.isfinite(values)]
            limits = (finite.max(), finite.min()) if finite.size else ()
    else:
        return None
    for code in limits:
        if not _is_far(values, float(code), ranges):
            continue
        coded = values == code
        if int(coded.sum()) >= least and _stands_alone(values, coded, float(code), ranges):
            return float(code)
    return None


def far_gap_code(values: NDArray[Any]) -> float | None:
    """The code of an image that may show an object before a background of one value (see `gap_code`)."""
    return gap_code(values, ranges=_FAR)


def _is_far(values: NDArray[Any], code: float, ranges: float) -> bool:
    """Whether some of the voxels do not exclude that the code is far from the others."""
    some = values.ravel()[:: max(1, values.size // _SAMPLE)].astype(np.float64)
    some = some[np.isfinite(some) & (some != code)]
    if not len(some):
        return True
    low, high = np.quantile(some, [10 * _TAIL, 1 - 10 * _TAIL])
    return bool(min(abs(code - low), abs(code - high)) >= ranges * (high - low))


def _stands_alone(values: NDArray[Any], coded: Bools, code: float, ranges: float) -> bool:
    """Whether nothing is near the code, neither in value nor, for the voxels beside coded ones, in place."""
    others = values[~coded].astype(np.float64)
    others = others[np.isfinite(others)]
    if others.size < coded.size / 4:
        return False
    low, high = np.quantile(others, [_TAIL, 1 - _TAIL])
    if not high > low or min(abs(code - low), abs(code - high)) < ranges * (high - low):
        return False
    beside = values[scipy.ndimage.binary_dilation(coded) & ~coded].astype(np.float64)
    return bool(len(beside) and low <= np.median(beside) <= high)


def on_one_level(images: Sequence[Pixels], offsets: Sequence[float]) -> Pixels:
    """(N, *shape) images with the first offset in place of their own, so that values that were equal are.

    What was subtracted of each has left rounding errors, so values are rounded to some of the last bits.
    """
    if all(offset == offsets[0] for offset in offsets):
        return np.stack(images)
    largest = max(float(np.abs(image[np.isfinite(image)]).max(initial=0)) for image in images)
    unit = 2.0 ** (math.ceil(math.log2(max(largest, 1e-30))) - _KEPT_BITS)
    levels = (image + (offset - offsets[0]) for image, offset in zip(images, offsets, strict=True))
    return np.stack([(np.rint(values / unit) * unit).astype(np.float32) for values in levels])


def constant_gaps(images: Pixels) -> Bools:
    """(*shape) voxels of (N, *shape) images of one detector that always have one value, and their neighbours never.

    Only areas that hold a square (or cube) of 3 voxels or a run of 15 count: in few images, single voxels repeat a
    value by chance. Whole lines that are dead count also where the specimen beside them has their value here and there.
    A constant part of a specimen, such as a dark background, is no gap: its border moves or is blurred. Two images or
    more are needed.
    """
    none = np.zeros(images.shape[1:], bool)
    if len(images) < 2:
        return none
    same = np.isfinite(images[0])
    for image in images[1:]:
        same &= image == images[0]
        if not same.any():
            return none
    if not same.any() or same.mean() > _MOST_CONSTANT:
        return none
    gaps = _dead_lines(images, same)
    blocks = (_blocks(same) | _runs(same)) & ~gaps
    if not blocks.any():
        return gaps
    same &= ~gaps
    codes, counts = np.unique(images[0][blocks], return_counts=True)
    for code in codes[np.argsort(-counts)][:_MOST_CODES]:
        labels, _ = scipy.ndimage.label(same & (images[0] == code))
        boxes = scipy.ndimage.find_objects(labels)
        for number in np.unique(labels[blocks & (labels > 0)]).tolist():
            around = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in boxes[number - 1])
            area = labels[around] == number
            border = scipy.ndimage.binary_dilation(area) & ~area
            reached = (images[(slice(None), *around)][:, border] == code).any(axis=0)
            if border.any() and reached.mean() < _REACHED:
                gaps[around] |= area
    return gaps


def _blocks(where: Bools) -> Bools:
    """True at the centre of each square or cube of 3 voxels that are all true."""
    for axis in range(where.ndim):
        runs = np.zeros_like(where)
        first, middle, last = (
            tuple(slice(k, where.shape[axis] - 2 + k) if a == axis else slice(None) for a in range(where.ndim))
            for k in range(3)
        )
        runs[middle] = where[first] & where[middle] & where[last]
        where = runs
    return where


def _runs(where: Bools) -> Bools:
    """True at the first of 8 voxels, from a multiple of 8 on, that are all true: one at least in each run of 15."""
    found = np.zeros_like(where)
    for axis, n in enumerate(where.shape):
        parts = [where[(slice(None),) * axis + (slice(k, n // _RUN * _RUN, _RUN),)] for k in range(_RUN)]
        runs = parts[0] & parts[1]
        for part in parts[2:]:
            if not runs.any():
                break
            runs &= part
        found[(slice(None),) * axis + (slice(0, n // _RUN * _RUN, _RUN),)] |= runs
    return found


def _dead_lines(images: Pixels, same: Bools) -> Bools:
    """Voxels of whole lines (or planes) across an axis that have one value in all images, and most beside them not.

    Args:
        same: voxels with the same value in all images.
    """
    dead, first = np.zeros(same.shape, bool), images[0]
    for axis, n in enumerate(same.shape):
        across = tuple(k for k in range(same.ndim) if k != axis)
        lines = same.all(axis=across)
        if not lines.any() or lines.all():
            continue
        lines &= first.max(axis=across) == first.min(axis=across)
        labels, _ = scipy.ndimage.label(lines)
        for (where,) in scipy.ndimage.find_objects(labels):
            code = first.take(where.start, axis).flat[0]
            beside = [k for k in (where.start - 1, where.stop) if 0 <= k < n]
            if all((images.take(k, axis + 1) == code).mean() < _MOST_BESIDE_LINES for k in beside):
                dead.swapaxes(0, axis)[where] = True
    return dead


def dead_lines(image: Pixels) -> Bools | None:
    """(*shape) voxels of thin lines (or planes) that vary next to nothing, while those beside them have other values.

    None where there are fewer than _FEWEST_LINES along each axis, or nothing else has contrast.
    """
    dead: Bools | None = None
    for axis in range(image.ndim):
        found = _dead_along(image.swapaxes(0, axis))
        if found.any() and found.mean() <= _MOST_LINES:
            dead = np.zeros(image.shape, bool) if dead is None else dead
            dead.swapaxes(0, axis)[found] = True
    if dead is None:
        return None
    left = image[~dead]
    return dead if np.fmax.reduce(left, initial=-np.inf) > np.fmin.reduce(left, initial=np.inf) else None


def _dead_along(lines: Pixels) -> Bools:
    """(N,) which of the lines along the first axis are dead."""
    found = np.zeros(len(lines), bool)
    spread = _spread(lines[(slice(None), *(slice(None, None, -(-k // _GLANCE)) for k in lines.shape[1:]))])
    if not np.isfinite(spread).any():
        return found
    calm = spread <= _FLAT * np.nanquantile(spread, _MOST_LINES)
    spread[calm] = _spread(lines[calm])
    most = max(_AT_BORDER, int(_THICK * len(lines)))
    inner = 0
    for thick in {_AT_BORDER, most} if calm.any() else ():
        flat = calm & (spread <= _FLAT * scipy.ndimage.maximum_filter1d(np.nan_to_num(spread), 2 * thick + 1))
        for (run,) in scipy.ndimage.find_objects(scipy.ndimage.label(flat)[0]):
            beside = [lines[k] for k in (run.start - 1, run.stop) if 0 <= k < len(lines)]
            if run.stop - run.start <= (thick if len(beside) == 2 else _AT_BORDER):
                dead = [all(_differs(line, other) for other in beside) for line in lines[run]]
                inner += any(dead) and len(beside) == 2 and not found[run].any()
                found[run] |= dead
    # One layer, or the background at the ends, is a specimen's.
    return found if inner >= _FEWEST_LINES else np.zeros_like(found)


def _spread(lines: Pixels) -> NDArray[np.float32]:
    """The range of the values of each of the lines along the first axis, apart from NaN; NaN where all are."""
    across = tuple(range(1, lines.ndim))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.fmax.reduce(lines, axis=across) - np.fmin.reduce(lines, axis=across))


def _differs(line: Pixels, other: Pixels) -> bool:
    """Whether a line varies next to nothing beside another one, most of which is outside of its range."""
    low, high = np.fmin.reduce(line, axis=None), np.fmax.reduce(line, axis=None)
    within = (other >= low) & (other <= high)
    return bool(high - low <= _FLAT * _spread(other[None])[0] and within.mean() < _MOST_BESIDE_LINES)


def hot_voxels(images: Pixels) -> Bools:
    """(*shape) voxels of (N, *shape) images of one detector, finite or NaN, that stand out in all of them.

    The candidates stand out in the mean of the images, in which a specimen that moves is blurred.
    """
    shape = images.shape[1:]
    hot = np.zeros(shape, bool)
    if min(shape) < 5 or not len(images):
        return hot
    mean = sum(images[1:], start=images[0]) / np.float32(len(images))
    mean = mean if np.isfinite(mean.min()) and np.isfinite(mean.max()) else np.nan_to_num(mean)
    at = standing_out(mean, OUTSTANDING / 2 * _FROM_MAD)
    for image in images:
        at = _alone_at(image, at)
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
    some = image.ravel()[:: max(1, image.size // _SAMPLE)]
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
        floor = 1e-3 * max(float(np.nanstd(some)), 1e-30)
        height = np.abs(value - inner)
        stands = height > OUTSTANDING * np.maximum(spread, floor)
        stands &= (np.abs(near - inner[:, None]) > height[:, None] / 4).sum(axis=1) <= _MOST_BESIDE
        return np.asarray(stands & (np.abs(inner - outer) <= _NEIGHBOR_SHARE * height))


def _alone_at(image: NDArray[np.float32], at: NDArray[np.intp]) -> NDArray[np.intp]:
    """Those of the voxels at flat indices that differ from nearly all neighbours, and not on one side as at an edge.

    At least six of eight neighbours differ to one side, and by more than half of the largest difference.
    """
    planes = np.ascontiguousarray(image).reshape(-1, *image.shape[-2:])
    parts = (at[k : k + _TOGETHER] for k in range(0, len(at), _TOGETHER))
    return np.concatenate([at[:0], *(part[_are_alone(planes, part)] for part in parts)])


def _are_alone(planes: NDArray[np.float32], at: NDArray[np.intp]) -> NDArray[np.bool_]:
    _, height, width = planes.shape
    z, y, x = np.unravel_index(at, planes.shape)
    values = planes[z, y, x]
    rows, columns = ([_mirrored(i + k, n) for k in (-1, 0, 1)] for i, n in ((y, height), (x, width)))
    with np.errstate(over="ignore", invalid="ignore"):
        beside = [(j, i) for j in range(3) for i in range(3) if (j, i) != (1, 1)]
        around = np.stack([values - planes[z, rows[j], columns[i]] for j, i in beside])
        largest = np.take_along_axis(around, np.abs(around).argmax(0)[None], 0)
        count = np.count_nonzero(around * largest > (largest * largest).astype(np.float64) / 2, axis=0)
    return np.asarray(count >= 6)


def _mirrored(index: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """Indices beyond an axis of n voxels, mirrored at its outermost voxels."""
    index = np.abs(index)
    return np.where(index < n, index, 2 * n - 2 - index)
