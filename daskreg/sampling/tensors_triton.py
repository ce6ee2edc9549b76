"""Sampling on a GPU in one pass over the voxels: the algorithm of `arrays_numba` in Triton, with the same numbers.

A program computes 8 rows of 32 voxels, one voxel a thread, so that what its rows share of the source is still in the
cache; slices that share a matrix share coordinates and weights, four at a time. Coordinates are float64 from absolute
indices, `((m0 * i0 + m1 * i1) + m3) + m2 * i2`, and no operations are fused: they equal the CPU's to the last bit, and
so do the voxels of orders 0 and 1, however the output is cut. That is ten float64 operations for each axis, which
take little time beside the bus even on a card that does them at 1/64 of its float32 rate.

Cubic sampling takes the spline's coefficients from `coefficients`, in float32 for types of up to 16 bits and
float32, and weights them as the CPU does; the prefilter is the same up to rounding.

Triton comes with torch where there is CUDA. Where it is missing or cannot compile, torch does the work; `ready`
says which.
"""

from __future__ import annotations

import math
import threading
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daskreg.geometry import Box
from daskreg.runtime.triton_support import kernels_run, launched_on
from daskreg.sampling import displaced_triton
from daskreg.sampling.arrays import CUBIC_REACH, limits
from daskreg.sampling.displacements import Displaced, Displacement

try:
    import triton
    import triton.language as tl
except ImportError:  # as on a CPU
    triton = None

# Of one program: rows and columns of the output; slices that share coordinates.
_ROWS, _COLUMNS, _GROUP = 8, 32, 4
_FILTERED = 256
# How far around the block there are coefficients, and the poles' powers that matter to float32 and to float64.
_PAD = CUBIC_REACH + 1
_REACH = {torch.float32: 16, torch.float64: 28}
# A worker's threads share a GPU, and the first of them to launch a kernel compiles it.
_compiling = threading.Lock()
_PLAIN = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@cache
def ready(device: torch.device) -> bool:
    """Whether the kernels can be compiled and run on a device, tried once, on a few voxels."""

    def trial() -> None:
        box = Box((0, 0), (4, 5))
        block, m = torch.ones((1, 4, 5), device=device), torch.eye(3, dtype=torch.float64)
        sampled(block, box, m[None], box, order=1, value=0.0).sum().item()

    return triton is not None and kernels_run("sampling", device, trial)


@cache
def ready_for_fields(device: torch.device) -> bool:
    """The same through a displacement field."""

    def trial() -> None:
        box, eye = Box((0, 0), (4, 5)), np.eye(3)
        path = Displaced((Displacement(eye, eye, eye, np.ones((2, 4, 5)), (0, 0), (4, 5)),))
        sampled(torch.ones((1, 4, 5), device=device), box, path, box, order=1, value=0.0).sum().item()

    return ready(device) and kernels_run("sampling through fields", device, trial)


def sampled(
    blocks: Tensor,
    read_box: Box,
    pull: Tensor | Displaced,
    out_box: Box,
    *,
    order: int,
    value: Any,
    clamp: bool = False,
) -> Tensor:
    """`sampling.sample` of a batch, (B, *out_box.shape), without a gradient.

    Args:
        blocks: (B, *read_box.shape) real numbers, on a CUDA device; 2 or 3 dimensions, none of them empty.
        pull: (1, D+1, D+1) float64 for all, or one for each; on the device or on the CPU. Or a path for all, which goes
            against no field.
        value: the fill, as a voxel.
        clamp: see `sampling.arrays.SampleSpec`.
    """
    kind = blocks.dtype
    if kind == torch.bool or (order == 0 and not kind.is_floating_point):
        return _plain(blocks, read_box, pull, out_box, value)
    if kind == torch.bfloat16:  # NumPy has no such type
        return sampled(blocks.float(), read_box, pull, out_box, order=order, value=value, clamp=clamp).to(kind)
    real = torch.float32 if kind.itemsize <= 2 or kind == torch.float32 else torch.float64
    first, last = np.array(read_box.start, float), np.array(read_box.stop, float)
    reach = 0.5 if clamp else 1.0
    low, high = (first - reach, last - 1 + reach) if order == 1 else (first, last)
    fill = torch.tensor([value], dtype=kind)
    out = torch.empty((len(blocks), *out_box.shape), dtype=kind, device=blocks.device)
    if order == 3:
        finite = math.isfinite(value) and not clamp
        blocks = coefficients(blocks, read_box.ndim, value if finite else None, real)
        low, high = (first - _PAD + 1, last + _PAD - 2) if finite else (first, np.nextafter(last - 1, np.inf))
        low, high = (first - 0.5, last - 0.5) if clamp else (low, high)
        first = first - _PAD + 1  # of the first of four neighbours
    ends = (first, low, high)
    _launch(out, blocks, out_box, fill=fill, pull=pull, ends=ends, order=order, real=real, clamp=clamp)
    return out


def _plain(blocks: Tensor, read_box: Box, pull: Tensor | Displaced, out_box: Box, value: Any) -> Tensor:
    """Nearest voxels of integers, as unsigned ones: which voxel is nearest does not depend on the type."""
    kind = blocks.dtype
    plain = _PLAIN[kind.itemsize]
    fill = torch.tensor([value], dtype=kind).view(plain)
    out = torch.empty((len(blocks), *out_box.shape), dtype=plain, device=blocks.device)
    first, last = np.array(read_box.start, float), np.array(read_box.stop, float)
    ends = (first, first, last)
    _launch(out, blocks.view(plain), out_box, fill=fill, pull=pull, ends=ends, order=0, real=torch.float32)
    return out.view(kind)


def _launch(
    out: Tensor,
    blocks: Tensor,
    out_box: Box,
    *,
    fill: Tensor,
    pull: Tensor | Displaced,
    ends: tuple[Any, Any, Any],
    order: int,
    real: torch.dtype,
    clamp: bool = False,
) -> None:
    """`ends`: absolute index of the first neighbour, and from and below which coordinates a voxel is not fill."""
    device, ndim, count = out.device, out_box.ndim, len(out)
    whole = blocks if blocks[0].is_contiguous() else blocks.contiguous()
    numpy_real = np.float32 if real == torch.float32 else np.float64
    integer = not (out.dtype.is_floating_point or order == 0)
    range_ = limits(np.dtype(str(out.dtype).removeprefix("torch.")), numpy_real) if integer else (0, 0)
    small = [1 - np.finfo(numpy_real).epsneg, numpy_real(1 / 6), numpy_real(2 / 3), 2 / 3]
    numbers = torch.from_numpy(np.array([*ends[1], *ends[2], *range_, *small], dtype=np.float64))
    fill = fill.to(device, non_blocking=True)
    if isinstance(pull, Displaced):
        way = displaced_triton.steps_of(pull, device)
        shared = True
    else:
        way = displaced_triton.Steps(pull.contiguous().to(device, non_blocking=True), fill, 0, 0, False)
        shared = len(pull) == 1
    group = _GROUP if shared and count >= _GROUP else 1
    shape, source = (1, *out_box.shape)[-3:], (1, *whole.shape[1:])[-3:]
    tiles = shape[0] * -(-shape[1] // _ROWS) * -(-shape[2] // _COLUMNS)
    with _compiling, launched_on(device):
        _sample[(tiles * -(-count // group),)](
            out,
            whole,
            fill,
            way.table,
            way.vectors,
            numbers.to(device, non_blocking=True),
            *shape,
            *source,
            *(0, *out_box.start)[-3:],
            *(0, *(int(v) for v in ends[0]))[-3:],
            count,
            0 if count == 1 else whole.stride(0),
            0 if shared else ndim * ndim + 2 * ndim + 1,
            NDIM=ndim,
            STEPS=way.number,
            BSPLINES=way.cubic,
            ALONG=way.along,
            ORDER=order,
            DOUBLE=real == torch.float64,
            INTEGER=integer,
            CLAMP=clamp and order == 1,
            GROUP=group,
            ROWS=_ROWS,
            COLUMNS=_COLUMNS,
            num_warps=_ROWS * _COLUMNS // 32,
            enable_fp_fusion=False,
        )


def coefficients(blocks: Tensor, ndim: int, around: float | None, real: torch.dtype) -> Tensor:
    """Coefficients of cubic B-splines along the last `ndim` axes, `CUBIC_REACH + 1` more on each side.

    Args:
        around: the value outside of the blocks; None repeats their outermost voxels.
    """
    reach = _REACH[real]
    taps = torch.tensor([math.sqrt(3) * (math.sqrt(3) - 2) ** k for k in range(reach + 1)], dtype=torch.float64)
    taps, edge = taps.to(real).to(blocks.device, non_blocking=True), 0.0 if around is None else around
    fill = torch.tensor([edge], dtype=real).to(blocks.device, non_blocking=True)
    if len(blocks) > 1 and blocks.stride(0) == 0:  # one block for all
        return coefficients(blocks[:1], ndim, around, real).expand(len(blocks), *[-1] * ndim)
    data = blocks.contiguous()
    for axis in range(data.ndim - ndim, data.ndim):
        n, inner = data.shape[axis], math.prod(data.shape[axis + 1 :])
        shape = (*data.shape[:axis], n + 2 * _PAD, *data.shape[axis + 1 :])
        longer = torch.empty(shape, dtype=real, device=data.device)
        parts = -(-(n + 2 * _PAD) * inner // _FILTERED)
        with _compiling, launched_on(data.device):
            _filter[(parts * math.prod(data.shape[:axis]),)](
                longer,
                data,
                taps,
                fill,
                n,
                inner,
                parts,
                PAD=_PAD,
                REACH=reach,
                FILLED=around is not None,
                BLOCK=_FILTERED,
                num_warps=_FILTERED // 32,
            )
        data = longer
    return data


if triton is not None:
    from daskreg.sampling.displaced_triton import displaced, position

    _POINTERS = ["out", "blocks", "fill", "matrices", "vectors", "numbers"]
    _NUMBERS = [
        "d0", "d1", "d2", "n0", "n1", "n2", "o0", "o1", "o2", "f0", "f1", "f2",
        "count", "block_step", "matrix_step",
    ]  # fmt: skip

    @triton.jit
    def _within(x, numbers, axis: tl.constexpr, NDIM: tl.constexpr):  # type: ignore[no-untyped-def]
        return (x >= tl.load(numbers + axis)) & (x < tl.load(numbers + NDIM + axis))

    @triton.jit
    def _between(x, first, count):  # type: ignore[no-untyped-def]
        return tl.minimum(tl.maximum(x, first.to(tl.float64)), (first + count - 1).to(tl.float64))

    @triton.jit
    def _node(x, touched, first, top, REAL: tl.constexpr):  # type: ignore[no-untyped-def]
        """The index of the lower neighbour in the block, and the weight of the next one, always below 1."""
        start = first.to(tl.float64)
        x = tl.where(touched, x, start)
        low = tl.floor(x)
        return (low - start).to(tl.int32), tl.minimum((x - low).to(REAL), top)

    @triton.jit
    def _mix(a, b, w):  # type: ignore[no-untyped-def]
        """Interpolate between two neighbours; the second is left out where its weight is zero (NaN * 0 is NaN)."""
        return a * (1 - w) + tl.where(w != 0, b * w, 0.0)

    @triton.jit
    def _square(source, o, n2, y0, y1, x0, x1, wy, wx, fill):  # type: ignore[no-untyped-def]  # noqa: PLR0917
        """Interpolate between four neighbours, some of which are fill."""
        real: tl.constexpr = wx.dtype
        a = tl.load(source + o, mask=y0 & x0, other=fill).to(real)
        b = tl.load(source + o + 1, mask=y0 & x1, other=fill).to(real)
        c = tl.load(source + o + n2, mask=y1 & x0, other=fill).to(real)
        d = tl.load(source + o + n2 + 1, mask=y1 & x1, other=fill).to(real)
        return _mix(_mix(a, b, wx), _mix(c, d, wx), wy)

    @triton.jit
    def _cubic_weights(t, sixth, two_thirds):  # type: ignore[no-untyped-def]
        u = 1 - t
        w0, w3 = u * u * u * sixth, t * t * t * sixth
        w1 = two_thirds - t * t * (1 - t * 0.5)
        return w0, w1, 1 - w0 - w1 - w3, w3

    @triton.jit
    def _cubic_line(at, here, w0, w1, w2, w3):  # type: ignore[no-untyped-def]  # noqa: PLR0917
        near = tl.load(at, mask=here, other=0.0) * w0 + tl.load(at + 1, mask=here, other=0.0) * w1
        return near + tl.load(at + 2, mask=here, other=0.0) * w2 + tl.load(at + 3, mask=here, other=0.0) * w3

    @triton.jit
    def _cubic_square(at, here, n2, v0, v1, v2, v3, w0, w1, w2, w3):  # type: ignore[no-untyped-def]  # noqa: PLR0917
        near = _cubic_line(at, here, w0, w1, w2, w3) * v0 + _cubic_line(at + n2, here, w0, w1, w2, w3) * v1
        near = near + _cubic_line(at + 2 * n2, here, w0, w1, w2, w3) * v2
        return near + _cubic_line(at + 3 * n2, here, w0, w1, w2, w3) * v3

    @triton.jit
    def _as_integer(value, numbers, NDIM: tl.constexpr):  # type: ignore[no-untyped-def]
        """Half to even, clamped."""
        real: tl.constexpr = value.dtype
        low = tl.floor(value)
        rest = value - low
        up = (rest > 0.5) | ((rest == 0.5) & (low != 2 * tl.floor(low * 0.5)))
        least, most = tl.load(numbers + 2 * NDIM).to(real), tl.load(numbers + 2 * NDIM + 1).to(real)
        return tl.minimum(tl.maximum(low + up.to(real), least), most)

    @triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
    def _sample(  # type: ignore[no-untyped-def]  # noqa: PLR0912, PLR0915, PLR0917
        out, blocks, fill, matrices, vectors, numbers,
        d0, d1, d2, n0, n1, n2, o0, o1, o2, f0, f1, f2, count, block_step, matrix_step,
        NDIM: tl.constexpr, STEPS: tl.constexpr, BSPLINES: tl.constexpr, ALONG: tl.constexpr,
        ORDER: tl.constexpr, DOUBLE: tl.constexpr, INTEGER: tl.constexpr, CLAMP: tl.constexpr,
        GROUP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        real: tl.constexpr = tl.float64 if DOUBLE else tl.float32
        across, down = tl.cdiv(d2, COLUMNS), tl.cdiv(d1, ROWS)
        tile = tl.program_id(0)
        left, rest = tile % across, tile // across
        upper, rest = rest % down, rest // down
        plane, first_block = rest % d0, (rest // d0) * GROUP
        lane = tl.arange(0, ROWS * COLUMNS)
        row, column = upper * ROWS + lane // COLUMNS, left * COLUMNS + lane % COLUMNS
        here = (row < d1) & (column < d2)
        # Indices of images of more than 2^31 voxels along an axis, which are no int32.
        i0, i1 = o0.to(tl.float64) + plane.to(tl.float64), o1.to(tl.float64) + row.to(tl.float64)
        i2 = o2.to(tl.float64) + column.to(tl.float64)
        m = matrices + first_block.to(tl.int64) * matrix_step
        if STEPS:
            two_thirds = tl.load(numbers + 2 * NDIM + 5)
            z, y, x = displaced(i0, i1, i2, m, vectors, two_thirds, NDIM, STEPS, BSPLINES, ALONG)
        else:
            y, x = position(m, NDIM - 2, i0, i1, i2, NDIM), position(m, NDIM - 1, i0, i1, i2, NDIM)
            z = position(m, 0, i0, i1, i2, NDIM) if NDIM == 3 else i0
        if ORDER == 0:
            y, x = y + 0.5, x + 0.5
        touched = here & _within(y, numbers, NDIM - 2, NDIM) & _within(x, numbers, NDIM - 1, NDIM)
        if NDIM == 3:
            if ORDER == 0:
                z = z + 0.5
            touched = touched & _within(z, numbers, 0, NDIM)
        if CLAMP:  # to the outermost centres; whole numbers, so that the weight of the next voxel is zero
            y, x = _between(y, f1, n1), _between(x, f2, n2)
            if NDIM == 3:
                z = _between(z, f0, n0)
        top = tl.load(numbers + 2 * NDIM + 2).to(real)
        j, wy = _node(y, touched, f1, top, real)
        k, wx = _node(x, touched, f2, top, real)
        offset = j.to(tl.int64) * n2 + k
        if NDIM == 3:
            i, wz = _node(z, touched, f0, top, real)
            plane_step = n1.to(tl.int64) * n2
            offset = i.to(tl.int64) * plane_step + offset
        if ORDER == 1:
            y0, y1 = touched & (j >= 0) & (j < n1), touched & (j < n1 - 1) & (wy != 0)
            x0, x1 = (k >= 0) & (k < n2), (k < n2 - 1) & (wx != 0)
            if NDIM == 3:
                z0, z1 = (i >= 0) & (i < n0), (i < n0 - 1) & (wz != 0)
        elif ORDER == 3:
            sixth, two_thirds = tl.load(numbers + 2 * NDIM + 3).to(real), tl.load(numbers + 2 * NDIM + 4).to(real)
            v0, v1, v2, v3 = _cubic_weights(wy, sixth, two_thirds)
            w0, w1, w2, w3 = _cubic_weights(wx, sixth, two_thirds)
            if NDIM == 3:
                u0, u1, u2, u3 = _cubic_weights(wz, sixth, two_thirds)
        outside = tl.load(fill)
        place = (plane.to(tl.int64) * d1 + row) * d2 + column
        voxels = d0.to(tl.int64) * d1 * d2
        for one in tl.static_range(GROUP):
            number = first_block + one
            inside = touched & (number < count)
            source = blocks + number.to(tl.int64) * block_step
            if ORDER == 0:
                value = tl.load(source + offset, mask=inside, other=outside)
            elif ORDER == 1:
                a0, a1 = y0 & inside, y1 & inside
                if NDIM == 3:
                    value = _square(source, offset, n2, a0 & z0, a1 & z0, x0, x1, wy, wx, outside)
                    far = _square(source, offset + plane_step, n2, a0 & z1, a1 & z1, x0, x1, wy, wx, outside)
                    value = _mix(value, far, wz)
                else:
                    value = _square(source, offset, n2, a0, a1, x0, x1, wy, wx, outside)
            else:
                at = source + offset
                if NDIM == 3:
                    value = _cubic_square(at, inside, n2, v0, v1, v2, v3, w0, w1, w2, w3) * u0
                    at += plane_step
                    value += _cubic_square(at, inside, n2, v0, v1, v2, v3, w0, w1, w2, w3) * u1
                    at += plane_step
                    value += _cubic_square(at, inside, n2, v0, v1, v2, v3, w0, w1, w2, w3) * u2
                    at += plane_step
                    value += _cubic_square(at, inside, n2, v0, v1, v2, v3, w0, w1, w2, w3) * u3
                else:
                    value = _cubic_square(at, inside, n2, v0, v1, v2, v3, w0, w1, w2, w3)
            if INTEGER:
                value = _as_integer(value, numbers, NDIM)
            stored = tl.where(touched, value.to(out.dtype.element_ty), outside)
            tl.store(out + number.to(tl.int64) * voxels + place, stored, mask=here & (number < count))

    @triton.jit(do_not_specialize=["n", "inner", "parts"], do_not_specialize_on_alignment=["out", "data"])
    def _filter(  # type: ignore[no-untyped-def]  # noqa: PLR0917
        out, data, taps, fill, n, inner, parts,
        PAD: tl.constexpr, REACH: tl.constexpr, FILLED: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """Spline coefficients along the middle axis of (outer, n, inner), PAD more of them at both ends."""
        real: tl.constexpr = out.dtype.element_ty
        outer, part = (tl.program_id(0) // parts).to(tl.int64), tl.program_id(0) % parts
        place = part.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        longer = (n + 2 * PAD).to(tl.int64) * inner
        here = place < longer
        k, c = (place // inner).to(tl.int32) - PAD, place % inner
        line = data + outer * n * inner + c
        edge = tl.load(fill)
        total = tl.zeros((BLOCK,), dtype=real)
        for step in tl.static_range(-REACH, REACH + 1):
            at = k + step
            if FILLED:
                known = here & (at >= 0) & (at < n)
                voxel = tl.load(line + at.to(tl.int64) * inner, mask=known, other=0).to(real)
                voxel = tl.where(known, voxel, edge)
            else:
                at = tl.minimum(tl.maximum(at, 0), n - 1)
                voxel = tl.load(line + at.to(tl.int64) * inner, mask=here, other=0).to(real)
            if step < 0:
                total += tl.load(taps - step) * voxel
            else:
                total += tl.load(taps + step) * voxel
        tl.store(out + outer * longer + place, total, mask=here)
