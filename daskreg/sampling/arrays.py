"""Sampling of arrays: what the compiled kernels need made ready, and what needs none.

A translation by whole voxels is a copy. A leading axis along which the matrix is one is
not interpolated but taken as a batch. The rest goes to `sample_numba`, which is compiled
when it is first needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from daskreg.errors import ShapeMismatchError
from daskreg.geometry import Box

Floats = NDArray[np.float64]

_SEGMENT = 512  # voxels of a row whose indices and weights are laid down at once
# How far a spline of order 3 reaches: its prefilter forgets as 0.268 ** n.
CUBIC_REACH = 13
# Blocks of a batch that share a row's indices. What the row touches of each should stay in
# the cache until the next row, which is more where rows run across those of the source.
_GROUP, _STEEP_GROUP, _STEEP = 4, 2, 0.45
# A thread is not worth starting for fewer voxels.
_SMALL = 1 << 16


class View(NamedTuple):
    """What is wanted: the voxels of `out_box`, seen through `matrix` in the block at `read_box`."""

    read_box: Box
    matrix: Floats
    out_box: Box
    order: int
    fill: Any
    threads: int = 1


def sample_into(out: NDArray[Any], block: NDArray[Any], view: View) -> None:
    """Fill `out`, (*batch, *out_box.shape) of the block's type; the fill is of that type too."""
    shift = whole_shift(view.matrix)
    if view.read_box.empty or shift is not None:
        _copy(out, block, view, shift)
    elif view.read_box.ndim > 3:
        raise ShapeMismatchError(f"{view.read_box.ndim} dimensions cannot be sampled together: 3 at most")
    elif view.read_box.ndim > 2 and _is_loose(view.matrix):
        _sample_slices(out, block, view)
    elif view.order == 0 and block.dtype.kind != "u":
        # Which voxel it is does not depend on what it holds: compiled once for each size.
        plain = np.dtype(f"u{block.dtype.itemsize}")
        sample_into(out.view(plain), block.view(plain), view._replace(fill=view.fill.view(plain)))
    elif block.dtype == np.float16:
        wide = np.empty(out.shape, np.float32)
        sample_into(wide, block.astype(np.float32), view._replace(fill=np.float32(view.fill)))
        out[...] = wide
    else:
        target = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
        _sample_rows(target, block, view)
        if target is not out:
            out[...] = target


def whole_shift(matrix: Floats) -> tuple[int, ...] | None:
    """The offset of a translation by whole voxels; None for any other matrix."""
    offset = matrix[:-1, -1]
    if not np.array_equal(matrix[:-1, :-1], np.eye(len(offset))) or not np.array_equal(offset, np.rint(offset)):
        return None
    return tuple(int(t) for t in offset)


def _copy(out: NDArray[Any], block: NDArray[Any], view: View, shift: tuple[int, ...] | None) -> None:
    """A translation by whole voxels, in any number of dimensions."""
    wanted = view.out_box if shift is None else view.out_box.shift(shift)
    found = wanted & view.read_box
    if found.empty or found != wanted:
        out[...] = view.fill
    if not found.empty:
        taken: Any = (..., *found.within(view.read_box).slices)
        into: Any = (..., *found.within(wanted).slices)
        out[into] = block[taken]


def _is_loose(matrix: Floats) -> bool:
    """Whether the first axis is mapped to itself by whole voxels, and mixes with no other."""
    return bool(
        matrix[0, 0] == 1
        and not matrix[0, 1:-1].any()
        and not matrix[1:-1, 0].any()
        and matrix[0, -1] == np.rint(matrix[0, -1])
    )


def _sample_slices(out: NDArray[Any], block: NDArray[Any], view: View) -> None:
    """Take a loose first axis as a batch of slices, which share their indices and weights."""
    read, rest = view.read_box, range(1, view.read_box.ndim)
    wanted = view.out_box.take([0]).shift([int(view.matrix[0, -1])])
    found = wanted & read.take([0])
    if found != wanted:
        out[...] = view.fill
    if not found.empty:
        inner = view._replace(read_box=read.take(rest), matrix=view.matrix[1:, 1:], out_box=view.out_box.take(rest))
        batch = (slice(None),) * (out.ndim - read.ndim)
        part = block[(*batch, *found.within(read.take([0])).slices)]
        sample_into(out[(*batch, *found.within(wanted).slices)], part, inner)


def _sample_rows(out: NDArray[Any], block: NDArray[Any], view: View) -> None:
    """Into a C-contiguous `out`, by compiled code, in one thread or several."""
    if view.read_box.ndim == 1:
        lifted = view._replace(
            read_box=lift(view.read_box), matrix=_lift_matrix(view.matrix), out_box=lift(view.out_box)
        )
        _sample_rows(out[..., None, :], block[..., None, :], lifted)
        return
    kernel, block, read_box, bounds = _prepared(block, view)
    if block.size == 0:
        out[...] = view.fill
        return
    ndim, shape, real = read_box.ndim, read_box.shape, _real(out.dtype)
    strides = tuple(math.prod(shape[k + 1 :]) for k in range(ndim))
    steps = tuple(math.prod(view.out_box.shape[k + 1 : -1]) for k in range(ndim - 1))
    source = (shape, strides, np.asarray(read_box.start, np.float64) + (view.order == 3), bounds)
    target = (np.array(view.matrix, order="C"), view.out_box.start, steps)
    numbers = (1, 1 - np.finfo(real).epsneg, 0, 1 / 2, 1 / 6, 2 / 3)
    consts = (
        real(view.fill),
        view.fill,
        tuple(map(real, numbers)),
        None if out.dtype.kind == "f" else limits(out.dtype, real),
    )
    blocks = np.ascontiguousarray(block).reshape(-1, math.prod(shape))
    blocks.flags.writeable = False  # for all, or read-only blocks would be compiled for anew
    voxels = out.reshape(len(blocks), -1, view.out_box.shape[-1])
    kind = np.uint32 if blocks.shape[1] < 2**31 else np.uint64
    near = _near_like(out.dtype, ndim)
    planes = view.out_box.shape[0] if ndim == 3 else 1

    def run(first: int, rows: tuple[int, int]) -> None:
        weights = np.empty((ndim, _SEGMENT), real)
        scratch = (np.empty((ndim, 3)), np.empty(_SEGMENT, kind), weights, np.empty_like(near))
        some = slice(first, first + group)
        kernel(blocks[some], source, target, voxels[some], scratch, consts, (*rows, planes, voxels.shape[1] // planes))

    group = _GROUP if np.abs(view.matrix[:-2, -2]).max() < _STEEP else _STEEP_GROUP
    _each(run, _tasks(voxels.shape, view.threads, group), view.threads)


def _near_like(dtype: np.dtype[Any], ndim: int) -> NDArray[Any]:
    """Room for the neighbours of a segment: for each row of them, two voxels in one number or side by side."""
    rows = 2 ** (ndim - 1)
    if dtype.itemsize == 8:
        return np.empty((rows, 2, _SEGMENT), dtype)
    return np.empty((rows, 1, _SEGMENT), f"u{2 * dtype.itemsize}")


def _tasks(shape: tuple[int, ...], threads: int, group: int) -> list[tuple[int, tuple[int, int]]]:
    """Groups of blocks and bands of rows that make up an output of `shape`, some for each thread."""
    groups = range(0, shape[0], group)
    bands = 1 if threads == 1 or math.prod(shape) < _SMALL else min(shape[1], max(1, 4 * threads // len(groups)))
    rows = [(shape[1] * k // bands, shape[1] * (k + 1) // bands) for k in range(bands)]
    return list(product(groups, rows))


def _each(function: Callable[..., None], tasks: Sequence[tuple[Any, ...]], threads: int) -> None:
    """Python's threads serve, since compiled code lets go of the GIL."""
    if threads == 1 or len(tasks) == 1:
        for task in tasks:
            function(*task)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(function, *task) for task in tasks]:
            done.result()


def _real(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """The type of the weights."""
    return np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64


def limits(dtype: np.dtype[Any], real: type[np.floating[Any]]) -> tuple[Any, Any]:
    """The range of an integer type, in numbers of `real` that convert back."""
    lowest, highest = np.iinfo(dtype).min, np.iinfo(dtype).max
    top = real(highest)
    return real(lowest), top if int(top) <= highest else np.nextafter(top, real(0))


def _prepared(block: NDArray[Any], view: View) -> tuple[Any, NDArray[Any], Box, Floats]:
    """The kernel, the block that it reads, where that lies, and its bounds (4, D).

    A voxel touches the block where bounds[0] <= coordinate < bounds[1], and lies within
    it, all neighbours included, where bounds[2] <= coordinate < bounds[3].
    """
    from daskreg.sampling import arrays_numba

    box = view.read_box
    if view.order == 3:
        return arrays_numba.cubic, *_coefficients(block, view)
    start, stop = np.asarray(box.start, np.float64), np.asarray(box.stop, np.float64)
    bounds = np.stack([start - 1, stop, start, stop - (view.order == 1)])
    return arrays_numba.linear if view.order else arrays_numba.nearest, block, box, bounds


def _coefficients(block: NDArray[Any], view: View) -> tuple[NDArray[Any], Box, Floats]:
    """Cubic spline coefficients of what the output needs, with fill around the block.

    Where the block was cut off by its halo nothing is added, and the prefilter's mirror at
    the cut decays before it matters. With a fill that is not finite the border is extended
    as it is, and voxels beyond the outermost centres are fill.
    """
    box = _needed(view) & view.read_box.grow(CUBIC_REACH + 1)
    inner, read, ndim = box & view.read_box, view.read_box, view.read_box.ndim
    chosen: Any = (..., *inner.within(read).slices)
    part: NDArray[Any] = block[chosen]
    bounds = np.zeros((4, ndim))
    bounds[2], bounds[3] = np.add(box.start, 1), np.subtract(box.stop, 2)
    if inner.empty:
        return part, inner, bounds
    sides = [(i - b, c - j) for i, j, b, c in zip(inner.start, inner.stop, box.start, box.stop, strict=True)]
    widths = [(0, 0)] * (block.ndim - ndim) + sides
    if np.isfinite(view.fill):
        part = np.pad(part, widths, constant_values=view.fill)
    else:
        part = np.pad(part, widths, mode="edge")
        bounds[2] = np.maximum(bounds[2], read.start)
        bounds[3] = np.minimum(bounds[3], np.nextafter(np.subtract(read.stop, 1.0), np.inf))
    part = part.astype(_real(block.dtype), copy=False)
    for axis in range(-ndim, 0):
        lines = np.moveaxis(part, axis, -1)
        _each(_filter_lines, [(some,) for some in np.array_split(lines, view.threads)], view.threads)
    return part, box, bounds


def _filter_lines(lines: NDArray[Any]) -> None:
    """Spline coefficients along the last axis, in place."""
    if lines.size:
        ndimage.spline_filter1d(lines, 3, -1, output=lines, mode="mirror")


def _needed(view: View) -> Box:
    """The voxels that a spline may take from, in a source without end."""
    near = view.matrix[:-1, :-1] * np.asarray(view.out_box.start, np.float64)
    far = view.matrix[:-1, :-1] * (np.asarray(view.out_box.stop, np.float64) - 1)
    lowest = np.minimum(near, far).sum(axis=1) + view.matrix[:-1, -1]
    highest = np.maximum(near, far).sum(axis=1) + view.matrix[:-1, -1]
    # Far outside, 64-bit integers would overflow; a little beyond is as good.
    limits = view.read_box.grow(4 * CUBIC_REACH)
    start = np.floor(np.clip(lowest, limits.start, limits.stop)).astype(int) - CUBIC_REACH
    stop = np.floor(np.clip(highest, limits.start, limits.stop)).astype(int) + 2 + CUBIC_REACH
    return Box(tuple(start.tolist()), tuple(stop.tolist()))


def lift(box: Box) -> Box:
    return Box((0, *box.start), (1, *box.stop))


def _lift_matrix(matrix: Floats) -> Floats:
    m = np.eye(len(matrix) + 1)
    m[1:, 1:] = matrix
    return m
