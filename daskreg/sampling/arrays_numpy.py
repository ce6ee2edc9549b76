"""The kernels `nearest` and `linear` of `arrays_numba` in NumPy: the same arguments, and the same result to each bit.

A program that samples little on a machine where they are not compiled yet has its result before they were: they take
some ten times as long, but importing numba and compiling takes seconds. Meanwhile a second process compiles.
"""

# ruff: noqa: PLR0917 (called as compiled functions are)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.runtime.compile_ahead import begin_unasked, may_do_without
from daskreg.runtime.compile_once import seems_kept

AT_ONCE = 2**20
"""Voxels of a call, read and sampled, for which compiling is waited for."""

ALTOGETHER = 2**23
"""Voxels of a process that take about as long as compiling: for more of them it is worth while."""

_CHUNK = 1 << 14  # voxels that are sampled at once, so that what is known of them stays in the cache
_KERNELS = Path(__file__).with_name("arrays_numba.py")


class _Done:
    """Voxels of this process so far."""

    voxels = 0


done = _Done()


def is_sooner(order: int, dtype: np.dtype[Any], ndim: int, voxels: int) -> bool:
    """Whether a call of so many voxels ends sooner by these kernels; where it does, a second process compiles."""
    if order == 3 or voxels > AT_ONCE or done.voxels + voxels > ALTOGETHER or not may_do_without():
        return False
    kept = seems_kept(_KERNELS, "linear" if order else "nearest")
    if kept:
        done.voxels = ALTOGETHER  # asked once only
        return False
    done.voxels += voxels
    if kept is not None:
        begin_unasked("daskreg.sampling.arrays_numba", ndim, dtype.str, order)
    return True


def nearest(blocks: Any, source: Any, target: Any, out: Any, scratch: Any, consts: Any, rows: Any) -> None:
    """See `arrays_numba`."""
    shape, strides, first, bounds = source
    with np.errstate(all="ignore"):
        for some, coordinates in _coordinates(target, out.shape[2], rows, 0.5):
            inside, offsets = _within(coordinates, bounds[2], bounds[3]), 0
            for x, start, length, stride in zip(coordinates, first, shape, strides, strict=True):
                offsets = offsets + _index(np.floor(x) - start, 0, length - 1) * stride
            out[:, some] = np.where(inside, blocks[:, offsets], consts[1])


def linear(blocks: Any, source: Any, target: Any, out: Any, scratch: Any, consts: Any, rows: Any) -> None:
    """See `arrays_numba`."""
    shape, strides, first, bounds = source
    fill, fill_out, unit, limits, _, clamp = consts
    real = type(fill)

    def mixed(axes: Sequence[Any], offset: Any, inside: Any) -> Any:
        """Interpolated along these axes, the last one first."""
        if not axes:
            return np.where(inside, blocks[:, offset].astype(real), fill)
        (index, w, length, stride), *rest = axes
        a, b = (
            mixed(rest, offset + _index(i, 0, length - 1) * stride, inside & (i >= 0) & (i < length))
            for i in (index, index + 1)
        )
        return a * (unit[0] - w) + np.where(w != 0, b * w, unit[2])  # NaN * 0 is NaN

    with np.errstate(all="ignore"):
        for some, coordinates in _coordinates(target, out.shape[2], rows, 0.0):
            axes = []
            for x, start, length, stride in zip(coordinates, first, shape, strides, strict=True):
                index, w = np.floor(x) - start, np.minimum((x - np.floor(x)).astype(real), unit[1])
                if clamp:
                    w[(index < 0) | (index >= length - 1)] = 0
                    index = np.clip(index, 0, length - 1)
                axes.append((index, w, length, stride))
            value = mixed(axes, 0, True)
            if limits is not None:
                value = np.clip(np.rint(value), *limits)
            out[:, some] = np.where(_within(coordinates, bounds[0], bounds[1]), value.astype(out.dtype), fill_out)


def _coordinates(target: Any, width: int, rows: Any, rounding: float) -> Iterator[tuple[slice, list[NDArray[Any]]]]:
    """Some rows of the output, and along each axis the coordinates of their voxels, computed in the order of numba's.

    Of `rows` only the first and the last count: all are done, whatever their order.
    """
    matrix, origin, steps = target
    last, columns = len(steps), np.arange(width, dtype=np.float64) + origin[-1]
    step = max(1, _CHUNK // width)
    for start in range(rows[0], rows[1], step):
        some = slice(start, min(start + step, rows[1]))
        index, rest = [], np.arange(some.start, some.stop)
        for i, size in enumerate(steps):
            index.append((origin[i] + rest // size).astype(np.float64))
            rest = rest % size
        yield (
            some,
            [
                (sum(m[i] * index[i] for i in range(last)) + m[last + 1])[:, None] + m[last] * columns + rounding
                for m in matrix[: last + 1]
            ],
        )


def _within(coordinates: Sequence[NDArray[Any]], lower: Any, upper: Any) -> NDArray[np.bool_]:
    inside: list[NDArray[np.bool_]] = [(x >= a) & (x < b) for x, a, b in zip(coordinates, lower, upper, strict=True)]
    return reduce(and_, inside)


def _index(values: NDArray[Any], lower: int, upper: int) -> NDArray[np.intp]:
    clipped: NDArray[Any] = np.clip(values, lower, upper)
    return np.where(np.isnan(clipped), lower, clipped).astype(np.intp)  # NaN: coordinates that overflowed
