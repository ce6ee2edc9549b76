"""Sampling of arrays: the cases that are copies or batches, and the arguments of the compiled kernels.

A translation by whole voxels is a copy. A first axis that is mapped to itself by whole voxels is
not interpolated but taken as a batch. The rest goes to `arrays_numba`, which is compiled
when it is first needed, or meanwhile to `arrays_numpy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ShapeMismatchError
from daskreg.geometry import Box
from daskreg.runtime.threads import spread
from daskreg.sampling import arrays_numpy
from daskreg.sampling.displacements import Displaced

Floats = NDArray[np.float64]

_SEGMENT = 512  # voxels of a row whose indices and weights are computed at once
# How far a spline of order 3 reaches: the response of its prefilter decays as 0.268 ** n.
CUBIC_REACH = 13
# Blocks of a batch that share a row's indices. What the row touches of each should stay in
# the cache until the next row, which is more where rows are strongly inclined to those of the source.
_GROUP, _STEEP_GROUP, _STEEP = 4, 2, 0.45
# Voxels whose coordinates are computed at once, where they go through displacement fields.
_COORDINATES = 1 << 14
_ROWS_AHEAD = 2  # which row is fetched into the cache while one is computed
# A thread is not worth starting for fewer voxels.
_SMALL = 1 << 16


class Spline(NamedTuple):
    """Cubic spline coefficients of a block with what is around it.

    box: where they lie in the source. bounds: (4, D), see `_prepared`. gaps: whether some are not finite.
    """

    coefficients: NDArray[Any]
    box: Box
    bounds: Floats
    gaps: bool


class SampleSpec(NamedTuple):
    """What is sampled: the voxels of `out_box`, at `matrix` times their index in the source.

    Args:
        read_box: where the block lies in the source.
        matrix: (D+1, D+1) float64, from indices of the output to indices of the source; or `Displaced`.
        fill: value outside of the block, of the block's type.
        parallel: whether this one call may use several threads.
        clamp: whether the outer half of the outermost voxels has their value, rather than a mix with the fill.
        spline: for order 3, that of the block, if it is known.
    """

    read_box: Box
    matrix: Any
    out_box: Box
    order: int
    fill: Any
    parallel: bool = False
    clamp: bool = False
    spline: Spline | None = None


def sample_into(out: NDArray[Any], block: NDArray[Any], spec: SampleSpec) -> None:
    """Fill `out`, (*batch, *out_box.shape) of the block's type; the fill is of that type too."""
    shift = whole_shift(spec.matrix)
    if spec.read_box.empty or shift is not None:
        _copy(out, block, spec, shift)
    elif spec.read_box.ndim > 3:
        raise ShapeMismatchError(f"{spec.read_box.ndim} dimensions cannot be sampled together: 3 at most")
    elif spec.read_box.ndim > 2 and _is_batch_axis(spec.matrix):
        _sample_slices(out, block, spec)
    elif spec.order == 0 and block.dtype.kind != "u":
        # The nearest voxel does not depend on values: compiled once for each item size, for unsigned integers.
        plain = np.dtype(f"u{block.dtype.itemsize}")
        sample_into(out.view(plain), block.view(plain), spec._replace(fill=spec.fill.view(plain)))
    elif block.dtype == np.float16:
        wide = np.empty(out.shape, np.float32)
        sample_into(wide, block.astype(np.float32), spec._replace(fill=np.float32(spec.fill)))
        out[...] = wide
    else:
        target = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
        _sample_rows(target, block, spec)
        if target is not out:
            out[...] = target


def whole_shift(matrix: Any) -> tuple[int, ...] | None:
    """The offset of a translation by whole voxels; None for any other matrix, and for `Displaced`."""
    if isinstance(matrix, Displaced):
        return None
    offset = matrix[:-1, -1]
    if not np.array_equal(matrix[:-1, :-1], np.eye(len(offset))) or not np.array_equal(offset, np.rint(offset)):
        return None
    return tuple(int(t) for t in offset)


def _copy(out: NDArray[Any], block: NDArray[Any], spec: SampleSpec, shift: tuple[int, ...] | None) -> None:
    """A translation by whole voxels, in any number of dimensions."""
    wanted = spec.out_box if shift is None else spec.out_box.shift(shift)
    found = wanted & spec.read_box
    if found.empty or found != wanted:
        out[...] = spec.fill
    if not found.empty:
        taken: Any = (..., *found.within(spec.read_box).slices)
        into: Any = (..., *found.within(wanted).slices)
        out[into] = block[taken]


def _is_batch_axis(matrix: Any) -> bool:
    """Whether the first axis is mapped to itself by whole voxels, and mixes with no other."""
    return not isinstance(matrix, Displaced) and bool(
        matrix[0, 0] == 1
        and not matrix[0, 1:-1].any()
        and not matrix[1:-1, 0].any()
        and matrix[0, -1] == np.rint(matrix[0, -1])
    )


def _sample_slices(out: NDArray[Any], block: NDArray[Any], spec: SampleSpec) -> None:
    """Take the first axis as a batch of slices, which share their indices and weights."""
    read, rest = spec.read_box, range(1, spec.read_box.ndim)
    wanted = spec.out_box.take([0]).shift([int(spec.matrix[0, -1])])
    found = wanted & read.take([0])
    if found != wanted:
        out[...] = spec.fill
    if not found.empty:
        inner = spec._replace(
            read_box=read.take(rest), matrix=spec.matrix[1:, 1:], out_box=spec.out_box.take(rest), spline=None
        )
        batch = (slice(None),) * (out.ndim - read.ndim)
        part = block[(*batch, *found.within(read.take([0])).slices)]
        sample_into(out[(*batch, *found.within(wanted).slices)], part, inner)


def _sample_rows(out: NDArray[Any], block: NDArray[Any], spec: SampleSpec) -> None:
    """Into a C-contiguous `out`, by compiled code, in one thread or several."""
    if spec.read_box.ndim == 1:
        lifted = spec._replace(
            read_box=lift(spec.read_box), matrix=_lift_matrix(spec.matrix), out_box=lift(spec.out_box), spline=None
        )
        _sample_rows(out[..., None, :], block[..., None, :], lifted)
        return
    kernels, threads = _kernels(out, block, spec)
    kernel, (block, read_box, bounds, gaps) = _prepared(kernels, block, spec, threads)
    if block.size == 0:
        out[...] = spec.fill
        return
    ndim, shape, real = read_box.ndim, read_box.shape, _real(out.dtype)
    strides = tuple(math.prod(shape[k + 1 :]) for k in range(ndim))
    steps = tuple(math.prod(spec.out_box.shape[k + 1 : -1]) for k in range(ndim - 1))
    source = (shape, strides, np.asarray(read_box.start, np.float64) + (spec.order == 3), bounds)
    numbers = (1, 1 - np.finfo(real).epsneg, 0, 1 / 2, 1 / 6, 2 / 3)
    consts = (
        real(spec.fill),
        spec.fill,
        tuple(map(real, numbers)),
        None if out.dtype.kind == "f" else limits(out.dtype, real),
        1 if gaps else None,
        spec.clamp,
    )
    blocks = np.ascontiguousarray(block).reshape(-1, math.prod(shape))
    blocks.flags.writeable = False  # for all, or read-only blocks would be compiled for anew
    voxels = out.reshape(len(blocks), -1, spec.out_box.shape[-1])
    kind = np.uint32 if blocks.shape[1] < 2**31 else np.uint64
    near = _near_like(out.dtype, ndim)
    planes = spec.out_box.shape[0] if ndim == 3 else 1
    cut = (planes, voxels.shape[1] // planes)
    if isinstance(spec.matrix, Displaced):
        run, group = (
            _displaced(spec, kernel, (blocks, source, voxels, (kind, near, real), consts, steps, cut)),
            len(blocks),
        )
    else:
        target = (np.array(spec.matrix, order="C"), spec.out_box.start, steps)

        def run(first: int, rows: tuple[int, int]) -> None:
            weights = np.empty((ndim, _SEGMENT), real)
            scratch = (np.empty((ndim, 3)), np.empty(_SEGMENT, kind), weights, np.empty_like(near))
            some = slice(first, first + group)
            kernel(blocks[some], source, target, voxels[some], scratch, consts, (*rows, *cut))

        group = _GROUP if np.abs(spec.matrix[:-2, -2]).max() < _STEEP else _STEEP_GROUP
    spread(threads, lambda task: run(*task), _tasks(voxels.shape, threads, group))


def _displaced(spec: SampleSpec, kernel: Any, arguments: tuple[Any, ...]) -> Callable[[int, tuple[int, int]], None]:
    """What samples some rows through displacement fields: their coordinates first, then their voxels."""
    from daskreg.sampling.displacements_numba import LANES, coordinates

    blocks, source, voxels, (kind, near, real), consts, steps, cut = arguments
    ndim, width = spec.read_box.ndim, voxels.shape[2]
    fields, target, nothing = spec.matrix.compiled(rows=True), (spec.out_box.start, steps), np.empty(0)
    step = max(1, _COORDINATES // width)
    inner = spec.order == 1 and spec.matrix.within(source[3][2], source[3][3])
    ahead = int(_ROWS_AHEAD * (spec.matrix.slope(ndim - 2) @ np.asarray(source[1], np.float64)))

    def run(first: int, rows: tuple[int, int]) -> None:
        del first  # all blocks share their coordinates
        space, xs = spec.matrix.space(), _aligned((step, ndim, width + LANES))
        weights = np.empty((ndim, _SEGMENT), real)
        scratch = (np.empty(_SEGMENT, kind), weights, np.empty_like(near), np.empty(_SEGMENT, np.bool_), ahead)
        for row in range(*rows, step):
            some = (row, min(row + step, rows[1]), *cut)
            for number, field in enumerate(fields):
                coordinates(field, target, xs, some, number > 0, nothing, space)
            kernel(blocks, source, xs, voxels, scratch, consts, some, inner)

    return run


def _aligned(shape: tuple[int, ...]) -> Floats:
    """An array that begins at a cache line: vectors that are stored across two of them take twice the time."""
    line = 8
    raw: Floats = np.empty(math.prod(shape) + line)
    start = -raw.ctypes.data // raw.itemsize % line
    return raw[start : start + math.prod(shape)].reshape(shape)


def _near_like(dtype: np.dtype[Any], ndim: int) -> NDArray[Any]:
    """An array for the neighbours of a segment: for each row of them, two voxels in one number or side by side."""
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


def _real(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """The type of the weights."""
    return np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64


def limits(dtype: np.dtype[Any], real: type[np.floating[Any]]) -> tuple[Any, Any]:
    """The range of an integer type, as numbers of `real` that convert back into it."""
    lowest, highest = np.iinfo(dtype).min, np.iinfo(dtype).max
    top = real(highest)
    return real(lowest), top if int(top) <= highest else np.nextafter(top, real(0))


def _kernels(out: NDArray[Any], block: NDArray[Any], spec: SampleSpec) -> tuple[Any, int]:
    """The module with the kernels for a call, and its threads: as many as numba uses where it may use several."""
    kernels: Any
    if isinstance(spec.matrix, Displaced):
        from daskreg.sampling import displaced_numba as kernels
    elif arrays_numpy.is_sooner(spec.order, out.dtype, spec.read_box.ndim, block.size + out.size):
        return arrays_numpy, 1
    else:
        from daskreg.sampling import arrays_numba as kernels
    return kernels, numba_threads() if spec.parallel else 1


def numba_threads() -> int:
    """The cores of this process, or NUMBA_NUM_THREADS."""
    from numba import config

    return int(config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


def _prepared(kernels: Any, block: NDArray[Any], spec: SampleSpec, threads: int) -> tuple[Any, Spline]:
    """The kernel, and the block that it reads, of values or of coefficients, with its bounds (4, D).

    A voxel touches the block where bounds[0] <= coordinate < bounds[1], and lies within
    it, all neighbours included, where bounds[2] <= coordinate < bounds[3].
    """
    box = spec.read_box
    if spec.order == 3:
        return kernels.cubic, spec.spline or _filtered(block, _needed(spec), spec, threads)
    start, stop = np.asarray(box.start, np.float64), np.asarray(box.stop, np.float64)
    reach = 0.5 if spec.clamp else 1.0
    bounds = np.stack([start - reach, stop - 1 + reach, start, stop - (spec.order == 1)])
    return kernels.linear if spec.order else kernels.nearest, Spline(block, box, bounds, gaps=False)


def spline_of(block: NDArray[Any], read_box: Box, *, fill: float, parallel: bool = False) -> Spline:
    """What several calls of `sample` with order 3 share: the coefficients of a whole block of floating-point numbers.

    Args:
        read_box: where the block lies in the source. fill: outside of it, as for `sample`. parallel: use several
            threads.
    """
    spec = SampleSpec(read_box, None, read_box, 3, block.dtype.type(fill))
    return _filtered(block, read_box.grow(CUBIC_REACH), spec, numba_threads() if parallel else 1)


def _filtered(block: NDArray[Any], needed: Box, spec: SampleSpec, threads: int) -> Spline:
    """Cubic spline coefficients of the voxels that are needed, with fill around the block.

    Where the block ends at its halo, inside the source, nothing is added: the effect of the prefilter's mirror
    boundary there decays within the halo. Voxels that are not finite become NaN, and those between them are
    filtered run by run (`gaps_numba`). With a fill that is not finite, or `clamp`, the outermost voxels are repeated
    instead, and output voxels beyond the outermost centres (with `clamp`, the outer faces) are fill.
    """
    box = needed & spec.read_box.grow(CUBIC_REACH + 1)
    inner, read, ndim = box & spec.read_box, spec.read_box, spec.read_box.ndim
    chosen: Any = (..., *inner.within(read).slices)
    part: NDArray[Any] = block[chosen]
    bounds = np.zeros((4, ndim))
    bounds[2], bounds[3] = np.add(box.start, 1), np.subtract(box.stop, 2)
    if inner.empty:
        return Spline(part, inner, bounds, gaps=False)
    sides = [(i - b, c - j) for i, j, b, c in zip(inner.start, inner.stop, box.start, box.stop, strict=True)]
    widths = [(0, 0)] * (block.ndim - ndim) + sides
    if np.isfinite(spec.fill) and not spec.clamp:
        part = np.pad(part, widths, constant_values=spec.fill)
    else:
        part = np.pad(part, widths, mode="edge")
        last = np.nextafter(np.subtract(read.stop, 1.0), np.inf)
        bounds[2] = np.maximum(bounds[2], np.subtract(read.start, 0.5 * spec.clamp))
        bounds[3] = np.minimum(bounds[3], np.subtract(read.stop, 0.5) if spec.clamp else last)
    part = np.ascontiguousarray(part, _real(block.dtype))
    gaps = block.dtype.kind == "f" and _has_gaps(part)
    _filter(part, ndim, threads, gaps=gaps)
    return Spline(part, box, bounds, gaps)


def _has_gaps(voxels: NDArray[Any]) -> bool:
    """Whether some voxels are not finite."""
    return not np.isfinite(voxels).all()


def _filter(part: NDArray[Any], ndim: int, threads: int, *, gaps: bool) -> None:
    """Spline coefficients along the last `ndim` axes of a C-contiguous array, in place."""
    for axis in range(part.ndim - ndim, part.ndim):
        if gaps:
            _filter_runs(part, axis, threads)
        else:
            spread(threads, _filter_lines, np.array_split(np.moveaxis(part, axis, -1), threads))


def _filter_runs(part: NDArray[Any], axis: int, threads: int) -> None:
    """The same along one axis of an array with gaps."""
    from daskreg.sampling.gaps_numba import filter_runs

    lines = part.reshape(math.prod(part.shape[:axis]), part.shape[axis], math.prod(part.shape[axis + 1 :]))
    count = lines.shape[0] * lines.shape[2]
    ends = [count * k // threads for k in range(threads + 1)]
    spread(threads, lambda some: filter_runs(lines, *some), pairwise(ends))


def _filter_lines(lines: NDArray[Any]) -> None:
    """Spline coefficients along the last axis, in place."""
    if lines.size:
        from scipy import ndimage  # takes a quarter of a second, for splines only

        ndimage.spline_filter1d(lines, 3, -1, output=lines, mode="mirror")


def _needed(spec: SampleSpec) -> Box:
    """The voxels that a spline may take from, in a source without borders."""
    limits = spec.read_box.grow(4 * CUBIC_REACH)
    if isinstance(spec.matrix, Displaced):
        if spec.matrix.lower is None or spec.matrix.upper is None:
            return spec.read_box.grow(CUBIC_REACH)
        return _reached(spec.matrix.lower, spec.matrix.upper, limits)
    near = spec.matrix[:-1, :-1] * np.asarray(spec.out_box.start, np.float64)
    far = spec.matrix[:-1, :-1] * (np.asarray(spec.out_box.stop, np.float64) - 1)
    lowest = np.minimum(near, far).sum(axis=1) + spec.matrix[:-1, -1]
    highest = np.maximum(near, far).sum(axis=1) + spec.matrix[:-1, -1]
    return _reached(lowest, highest, limits)


def _reached(lowest: Floats, highest: Floats, limits: Box) -> Box:
    """What a spline reads for points between two bounds."""
    # Far outside, 64-bit integers would overflow; a little beyond the block gives the same fill.
    start = np.floor(np.clip(lowest, limits.start, limits.stop)).astype(int) - CUBIC_REACH
    stop = np.floor(np.clip(highest, limits.start, limits.stop)).astype(int) + 2 + CUBIC_REACH
    return Box(tuple(start.tolist()), tuple(stop.tolist()))


def lift(box: Box) -> Box:
    """The box with one more axis in front, of length 1."""
    return Box((0, *box.start), (1, *box.stop))


def _lift_matrix(matrix: Floats) -> Floats:
    m = np.eye(len(matrix) + 1)
    m[1:, 1:] = matrix
    return m
