"""The sums of a Gauss-Newton step in one pass over the voxels of a GPU, in Triton.

Torch writes every image that is summed to memory and reads it again, some hundred bytes for each voxel, in
some forty operations. Here a program takes up to 128 voxels of a row of one pair, samples the moving image at
them, and writes the sums of each of the K images times 1, x, x x: two bytes for each voxel. The sums
over the other axes, in float64, take little time.

Triton comes with torch where there is CUDA. Where it is not installed, or cannot compile, torch computes the
sums (`equations_torch`); `ready` says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from daskreg.runtime.triton_support import kernels_run, launched_on

try:
    import triton
    import triton.language as tl
except ImportError:  # as on a CPU
    triton = None

_BLOCK = 128


@dataclass(frozen=True)
class RowSumInputs:
    """What is summed, on one CUDA device, all float32 but for the axes.

    fixed, weight: (B or 1, *shape) the fixed images and their weights. gradient: (B or 1, D, *shape) of the fixed
    images. moving, moving_weight: (B or 1, *moving_shape), the latter None without a mask. axes: float64 xi
    along each axis of the fixed image. edge_widths: of the moving image along each axis (see
    `edge_weights.edge_width`).
    """

    fixed: Tensor
    weight: Tensor
    gradient: Tensor
    moving: Tensor
    moving_weight: Tensor | None
    axes: Sequence[Tensor]
    edge_widths: Sequence[float]


def summed_images(ndim: int) -> int:
    """How many images are summed; `NormalEquationsTorch._moments` has their order."""
    return 6 + 3 * ndim + ndim * (ndim + 1) // 2


@cache
def ready(device: torch.device) -> bool:
    """Whether the kernels can be compiled and run on a device; tried once for each device, on a few voxels."""

    def trial() -> None:
        image = torch.rand(1, 8, 8, device=device)
        axis = torch.linspace(-1, 1, 8, dtype=torch.float64, device=device)
        gradient = torch.stack([image, image], 1)
        inputs = RowSumInputs(image, torch.ones_like(image), gradient, image, None, [axis, axis], (1.0, 1.0))
        row_sums(inputs, torch.eye(3, dtype=torch.float64, device=device)[None, :2].contiguous())

    return triton is not None and kernels_run("sums", device, trial)


def row_sums(inputs: RowSumInputs, maps: Tensor) -> Tensor:
    """(B, *shape[:-1], K, 3) float64 sums along the last axis of the K images times 1, x and x x.

    Args:
        maps: (B, D, D+1) float64 on the same device, from xi to moving indices.
    """
    ndim, device = maps.shape[1], inputs.fixed.device
    batch, count, rows = len(maps), summed_images(ndim), tuple(inputs.fixed.shape[1:-1])
    n = inputs.fixed.shape[-1]
    blocks = -(-n // _BLOCK)
    parts = blocks
    for lines in rows:
        parts *= lines
    out = torch.empty((batch, parts, count, 3), dtype=torch.float32, device=device)
    axes, moving = inputs.axes, _contiguous_images(inputs.moving)
    moving_weight = moving if inputs.moving_weight is None else _contiguous_images(inputs.moving_weight)
    fixed, weight, gradient = (_contiguous_rows(images) for images in (inputs.fixed, inputs.weight, inputs.gradient))
    strides = [*_strides(fixed, ndim), *_strides(weight, ndim), gradient.stride(1), *_strides(gradient, ndim)]
    strides += [_strides(images, ndim)[0] for images in (moving, moving_weight)]
    moving_shape = (1, *inputs.moving.shape[1:])[-3:]
    widths = (1.0, *inputs.edge_widths)[-3:]
    with launched_on(device):
        _row_sums[(parts, batch)](
            out,
            fixed,
            weight,
            gradient,
            moving,
            moving_weight,
            maps.contiguous(),
            axes[0],
            axes[-2],
            axes[-1],
            *strides,
            rows[-1],
            n,
            *moving_shape,
            *widths,
            NDIM=ndim,
            MASKED=inputs.moving_weight is not None,
            BLOCK=_BLOCK,
            num_warps=1,
        )
    return out.reshape(batch, *rows, blocks, count, 3).sum(1 + len(rows), dtype=torch.float64)


def _contiguous_rows(images: Tensor) -> Tensor:
    """With the voxels of a row next to each other in memory."""
    return images if images.stride(-1) == 1 else images.contiguous()


def _contiguous_images(images: Tensor) -> Tensor:
    """With the voxels of an image next to each other in memory; the batch may be one image that was expanded."""
    return images if images[0].is_contiguous() else images.contiguous()


def _strides(images: Tensor, ndim: int) -> tuple[int, int, int]:
    """Of the batch (0 where one image is shared by all pairs), of planes (0 in 2D) and of rows."""
    planes, rows = (0, *images.stride()[-ndim:-1])[-2:]
    return 0 if len(images) == 1 else images.stride(0), planes, rows


if triton is not None:
    _NUMBERS = [
        "f_b", "f_0", "f_1", "w_b", "w_0", "w_1", "s_d", "s_b", "s_0", "s_1", "m_b", "c_b",
        "n1", "n2", "m0", "m1", "m2",
    ]  # fmt: skip
    _POINTERS = ["out", "fixed", "weight", "gradient", "moving", "moving_weight", "maps", "ax0", "ax1", "ax2"]

    @triton.jit
    def _position(start, slope, steps):  # type: ignore[no-untyped-def]
        """Indices of the moving image, as a whole number and the rest beyond it for each column.

        Only the start is float64, once for all columns; the rest is small, so float32 rounds it little.
        NaN is far outside.
        """
        near = tl.maximum(tl.minimum(start, 1073741824.0), -1073741824.0)
        whole = tl.floor(near)
        return whole.to(tl.int32), (near - whole).to(tl.float32) + slope.to(tl.float32) * steps

    @triton.jit
    def _edge(whole, rest, m, width):  # type: ignore[no-untyped-def]
        inside = tl.minimum(whole + rest, (m - 1 - whole) - rest) + 0.5
        return tl.minimum(tl.maximum(inside / width, 0.0), 1.0)

    @triton.jit
    def _neighbors(whole, rest, m):  # type: ignore[no-untyped-def]
        """The two voxels around an index and the weight of the second; beyond the ends, the last ones."""
        inside = tl.minimum(tl.maximum(rest, -whole.to(tl.float32)), (m - 1 - whole).to(tl.float32))
        low = tl.floor(inside)
        first = tl.minimum(tl.maximum(whole + low.to(tl.int32), 0), m - 1)
        return first.to(tl.int64), tl.minimum(first + 1, m - 1).to(tl.int64), inside - low

    @triton.jit
    def _plane(image, i, j, ti, k, l, tk, m2, inside):  # type: ignore[no-untyped-def]  # noqa: E741, PLR0917
        a = tl.load(image + i * m2 + k, mask=inside, other=0.0)
        b = tl.load(image + i * m2 + l, mask=inside, other=0.0)
        c = tl.load(image + j * m2 + k, mask=inside, other=0.0)
        d = tl.load(image + j * m2 + l, mask=inside, other=0.0)
        near = a + (b - a) * tk
        return near + (c + (d - c) * tk - near) * ti

    @triton.jit
    def _sampled(image, c0, u0, c1, u1, c2, u2, m0, m1, m2, inside, NDIM: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: PLR0917
        i, j, ti = _neighbors(c1, u1, m1)
        k, l, tk = _neighbors(c2, u2, m2)  # noqa: E741
        if NDIM == 3:
            p, q, tp = _neighbors(c0, u0, m0)
            size = m1.to(tl.int64) * m2
            near = _plane(image + p * size, i, j, ti, k, l, tk, m2, inside)
            far = _plane(image + q * size, i, j, ti, k, l, tk, m2, inside)
            return near + (far - near) * tp
        else:
            return _plane(image, i, j, ti, k, l, tk, m2, inside)

    @triton.jit
    def _store_sums(out, number, image, x):  # type: ignore[no-untyped-def]
        once = image * x
        tl.store(out + 3 * number, tl.sum(image, 0))
        tl.store(out + 3 * number + 1, tl.sum(once, 0))
        tl.store(out + 3 * number + 2, tl.sum(once * x, 0))

    @triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
    def _row_sums(  # type: ignore[no-untyped-def]  # noqa: PLR0917
        out, fixed, weight, gradient, moving, moving_weight, maps, ax0, ax1, ax2,
        f_b, f_0, f_1, w_b, w_0, w_1, s_d, s_b, s_0, s_1, m_b, c_b,
        n1, n2, m0, m1, m2, e0, e1, e2,
        NDIM: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        part, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
        blocks = tl.cdiv(n2, BLOCK)
        row = part // blocks
        i0, i1 = (row // n1).to(tl.int64), (row % n1).to(tl.int64)
        column = (part % blocks) * BLOCK + tl.arange(0, BLOCK)
        inside = column < n2
        x = tl.load(ax2 + column, mask=inside, other=0.0).to(tl.float32)
        first = (part % blocks) * BLOCK
        steps = (column - first).to(tl.float32)
        half = tl.maximum((n2 - 1).to(tl.float64) / 2, 0.5)
        y, left = tl.load(ax1 + i1), tl.load(ax2 + first)
        a = maps + pair * (NDIM * (NDIM + 1))
        if NDIM == 3:
            z = tl.load(ax0 + i0)
            s0, s1, s2 = tl.load(a + 2), tl.load(a + 6), tl.load(a + 10)
            c0, u0 = _position(tl.load(a + 3) + tl.load(a) * z + tl.load(a + 1) * y + s0 * left, s0 / half, steps)
            c1, u1 = _position(tl.load(a + 7) + tl.load(a + 4) * z + tl.load(a + 5) * y + s1 * left, s1 / half, steps)
            c2, u2 = _position(tl.load(a + 11) + tl.load(a + 8) * z + tl.load(a + 9) * y + s2 * left, s2 / half, steps)
        else:
            s1, s2 = tl.load(a + 1), tl.load(a + 4)
            c1, u1 = _position(tl.load(a + 2) + tl.load(a) * y + s1 * left, s1 / half, steps)
            c2, u2 = _position(tl.load(a + 5) + tl.load(a + 3) * y + s2 * left, s2 / half, steps)
            c0, u0 = c1, u1
        f = tl.load(fixed + pair * f_b + i0 * f_0 + i1 * f_1 + column, mask=inside, other=0.0)
        v = tl.load(weight + pair * w_b + i0 * w_0 + i1 * w_1 + column, mask=inside, other=0.0)
        v = v * _edge(c1, u1, m1, e1) * _edge(c2, u2, m2, e2)
        if NDIM == 3:
            v = v * _edge(c0, u0, m0, e0)
        w = _sampled(moving + pair * m_b, c0, u0, c1, u1, c2, u2, m0, m1, m2, inside, NDIM)
        if MASKED:
            v = v * _sampled(moving_weight + pair * c_b, c0, u0, c1, u1, c2, u2, m0, m1, m2, inside, NDIM)
        d = f - w
        into = out + (pair * tl.num_programs(0) + part) * (3 * (6 + 3 * NDIM + NDIM * (NDIM + 1) // 2))
        vd, vw = v * d, v * w
        _store_sums(into, 0, v, x)
        _store_sums(into, 1, vd, x)
        _store_sums(into, 2, vw, x)
        _store_sums(into, 3, vd * d, x)
        _store_sums(into, 4, vd * w, x)
        _store_sums(into, 5, vw * w, x)
        at = gradient + pair * s_b + i0 * s_0 + i1 * s_1 + column
        number = 6 + 3 * NDIM
        for one in tl.static_range(NDIM):
            g = tl.load(at + one * s_d, mask=inside, other=0.0)
            vg = v * g
            _store_sums(into, 6 + one, vg, x)
            _store_sums(into, 6 + NDIM + one, vg * w, x)
            _store_sums(into, 6 + 2 * NDIM + one, vg * d, x)
            for other in tl.static_range(one, NDIM):
                h = tl.load(at + other * s_d, mask=inside, other=0.0)
                _store_sums(into, number, vg * h, x)
                number += 1
