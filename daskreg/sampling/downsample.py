"""Block reduction: each block of `factors` voxels becomes its mean, its middle voxel or its most frequent one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import OptionError
from daskreg.sampling.cast import cast

METHODS = ("mean", "nearest", "mode")

SLAB = 2**18
"""Voxels that are reduced at a time: intermediate arrays are several times as large as they are."""

BYTES_PER_VOXEL = 24
"""What counting the votes of 8-byte labels takes; means take half of that."""


def block_reduce(array: NDArray[Any], factors: Sequence[int], method: str) -> NDArray[Any]:
    """Reduce blocks of `factors` voxels to one; shape ceil(n / f), dtype kept.

    Blocks at the far ends are reduced over the voxels that exist. Means of integers are
    rounded half to even. The mode takes the smallest of equally frequent labels.

    Raises: OptionError for an unknown method.
    """
    if method not in METHODS:
        raise OptionError(f"downsample={method!r}: use one of {', '.join(METHODS)}")
    if method == "nearest":
        return np.ascontiguousarray(array[_middles(array.shape, factors)])
    reduce = _mean if method == "mean" else _mode
    shape = tuple(-(-n // f) for n, f in zip(array.shape, factors, strict=True))
    out = np.empty(shape, array.dtype)
    axis, step = _slabs(array.shape, shape)
    for start in range(0, shape[axis], step):
        target = (slice(None),) * axis + (slice(start, start + step),)
        source = (slice(None),) * axis + (slice(start * factors[axis], (start + step) * factors[axis]),)
        out[target] = reduce(array[source], factors)
    return out


def reduce_scratch(shape: Sequence[int], factors: Sequence[int]) -> int:
    """Bytes of working memory that `block_reduce` of an array of this shape takes at most, beside its result."""
    reduced = tuple(-(-n // f) for n, f in zip(shape, factors, strict=True))
    axis, step = _slabs(shape, reduced)
    return BYTES_PER_VOXEL * (math.prod(shape) * min(step, reduced[axis]) // max(1, reduced[axis]))


def _slabs(shape: Sequence[int], reduced: Sequence[int]) -> tuple[int, int]:
    """Along which axis to cut, and how many reduced voxels a slab has there."""
    axis = int(np.argmax(reduced))
    return axis, max(1, SLAB * reduced[axis] // max(1, math.prod(shape)))


def _mean(array: NDArray[Any], factors: Sequence[int]) -> NDArray[Any]:
    wide = np.float64 if array.dtype.itemsize > 2 and array.dtype.kind != "f" else np.float32
    total: NDArray[Any] = array
    for axis, factor in enumerate(factors):
        if factor > 1:
            total = _mean_along(total, axis, factor, np.promote_types(array.dtype, wide))
    return cast(total, array.dtype)[0]


def _mean_along(array: NDArray[Any], axis: int, factor: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Means of so many neighbours along an axis; at its end, of those that exist.

    Strided slices are added, which takes a tenth of the time of `np.add.reduceat`.
    """
    whole, rest = divmod(array.shape[axis], factor)
    out = np.empty([whole + (rest > 0) if k == axis else n for k, n in enumerate(array.shape)], dtype)
    means, values = np.moveaxis(out, axis, 0), np.moveaxis(array, axis, 0)
    first, *others = (values[k : whole * factor : factor] for k in range(factor))
    np.add(first, others[0], out=means[:whole], dtype=dtype)
    for more in others[1:]:
        means[:whole] += more
    means[:whole] /= factor
    if rest:
        means[whole] = values[whole * factor :].mean(axis=0, dtype=dtype)
    return out


def _middles(shape: Sequence[int], factors: Sequence[int]) -> tuple[NDArray[np.intp], ...]:
    picks = []
    for n, f in zip(shape, factors, strict=True):
        starts = np.arange(0, n, f)
        picks.append(starts + (np.minimum(f, n - starts) - 1) // 2)
    return np.ix_(*picks)


def _mode(array: NDArray[Any], factors: Sequence[int]) -> NDArray[Any]:
    """Most frequent value of each block, by counting each of its values; voxels beyond the end do not count."""
    shape = [-(-n // f) for n, f in zip(array.shape, factors, strict=True)]
    pad = [(0, n * f - m) for n, f, m in zip(shape, factors, array.shape, strict=True)]
    split = [k for n, f in zip(shape, factors, strict=True) for k in (n, f)]
    last = tuple(range(1, 2 * array.ndim, 2))

    def blocks(a: NDArray[Any]) -> NDArray[Any]:
        moved = np.moveaxis(a.reshape(split), last, range(array.ndim, 2 * array.ndim))
        return moved.reshape(*shape, -1)

    values = blocks(np.pad(array, pad, mode="edge"))
    votes = blocks(np.pad(np.ones(array.shape, np.int32), pad))
    best, best_votes = values[..., 0].copy(), np.full(shape, -1, np.int64)
    for k in range(values.shape[-1]):
        candidate = values[..., k]
        count = ((values == candidate[..., None]) * votes).sum(axis=-1)
        wins = (count > best_votes) | ((count == best_votes) & (candidate < best))
        best, best_votes = np.where(wins, candidate, best), np.where(wins, count, best_votes)
    return best.astype(array.dtype)
