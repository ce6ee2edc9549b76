"""The sums of a Gauss-Newton step in one pass over the voxels of a GPU: what `kernels.normal` does by torch.

Torch writes every image whose sums are wanted to memory and reads it again, some hundred bytes for each voxel, in
some forty operations. Here a program takes up to 128 voxels of a row of one pair, samples the moving image at
them, and leaves the sums of each of the K images times 1, x, x x: two bytes for each voxel. What remains, the sums
over the other axes in float64, is small.

Written in Triton, which comes with torch where there is CUDA. Where it is not, or cannot compile, torch does
the work; `ready` tells.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from daskreg.runtime.triton_support import kernels_run, launched_on

try:
    import triton
    import triton.language as tl
except ImportError:  # as on a CPU
    triton = None

if TYPE_CHECKING:
    from daskreg.registration.normal_equations import TorchNormal

_BLOCK = 128


def images_of(ndim: int) -> int:
    """How many images are summed: see the order in `TorchNormal`."""
    return 6 + 3 * ndim + ndim * (ndim + 1) // 2


@cache
def ready(device: torch.device) -> bool:
    """Whether the kernels can be compiled and run here; tried once for a device, on a few voxels."""
    from daskreg.geometry import Grid
    from daskreg.registration.normal_equations import TorchNormal
    from daskreg.registration.pyramid import Level, Picture

    def trial() -> None:
        image = Picture(torch.rand(1, 8, 8, device=device), None, Grid((8, 8)))
        row_sums(TorchNormal(Level(image, image, 1.0)), torch.eye(3, device=device)[None, :2].contiguous())

    return triton is not None and kernels_run("sums", device, trial)


def row_sums(normal: TorchNormal, maps: Tensor) -> Tensor:
    """(B, *shape[:-1], K, 3) float64 sums along the last axis of the K images times 1, x and x x.

    Args:
        normal: its images, on a CUDA device.
        maps: (B, D, D+1) float32 there, from xi to moving indices.
    """
    from daskreg.registration.normal_equations import edge_width

    ndim, device = len(normal.shape), normal.fixed.device
    batch, count, rows = len(maps), images_of(ndim), tuple(normal.fixed.shape[1:-1])
    n = normal.fixed.shape[-1]
    blocks = -(-n // _BLOCK)
    parts = blocks
    for some in rows:
        parts *= some
    out = torch.empty((batch, parts, count, 3), dtype=torch.float32, device=device)
    axes, moving = normal.axes, _whole(normal.moving)
    cover = moving if normal.cover is None else _whole(normal.cover)
    fixed, weight, slopes = (_rowed(images) for images in (normal.fixed, normal.weight, normal._slopes()))
    strides = [*_strides(fixed, ndim), *_strides(weight, ndim), slopes.stride(1), *_strides(slopes, ndim)]
    strides += [_strides(images, ndim)[0] for images in (moving, cover)]
    inner = (1, *normal.inner)[-3:]
    widths = [edge_width(n) for n in inner]
    with launched_on(device):
        _row_sums[(parts, batch)](
            out,
            fixed,
            weight,
            slopes,
            moving,
            cover,
            maps.contiguous(),
            axes[0],
            axes[-2],
            axes[-1],
            *strides,
            rows[-1],
            n,
            *inner,
            *widths,
            NDIM=ndim,
            COVER=normal.cover is not None,
            BLOCK=_BLOCK,
            num_warps=1,
        )
    return out.reshape(batch, *rows, blocks, count, 3).sum(1 + len(rows), dtype=torch.float64)


def _rowed(images: Tensor) -> Tensor:
    """With the voxels of a row side by side."""
    return images if images.stride(-1) == 1 else images.contiguous()


def _whole(images: Tensor) -> Tensor:
    """With the voxels of an image side by side; images may be one that was expanded."""
    return images if images[0].is_contiguous() else images.contiguous()


def _strides(images: Tensor, ndim: int) -> tuple[int, int, int]:
    """Of the batch (0 where one is shared by all), of planes (0 in 2D) and of rows."""
    planes, rows = (0, *images.stride()[-ndim:-1])[-2:]
    return 0 if len(images) == 1 else images.stride(0), planes, rows


if triton is not None:
    _NUMBERS = [
        "f_b", "f_0", "f_1", "w_b", "w_0", "w_1", "s_d", "s_b", "s_0", "s_1", "m_b", "c_b",
        "n1", "n2", "m0", "m1", "m2",
    ]  # fmt: skip
    _POINTERS = ["out", "fixed", "weight", "slopes", "moving", "cover", "maps", "ax0", "ax1", "ax2"]

    @triton.jit
    def _edge(u, m, width):  # type: ignore[no-untyped-def]
        return tl.minimum(tl.maximum((tl.minimum(u, m - 1 - u) + 0.5) / width, 0.0), 1.0)

    @triton.jit
    def _line(u, m):  # type: ignore[no-untyped-def]
        """The two voxels around a place, and how near the second is; beyond the ends, the last ones. NaN is 0."""
        inside = tl.minimum(tl.maximum(u, 0.0), m - 1.0)
        low = tl.floor(inside)
        first = low.to(tl.int32)
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
    def _sampled(image, u0, u1, u2, m0, m1, m2, inside, NDIM: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: PLR0917
        i, j, ti = _line(u1, m1)
        k, l, tk = _line(u2, m2)  # noqa: E741
        if NDIM == 3:
            p, q, tp = _line(u0, m0)
            size = m1.to(tl.int64) * m2
            near = _plane(image + p * size, i, j, ti, k, l, tk, m2, inside)
            far = _plane(image + q * size, i, j, ti, k, l, tk, m2, inside)
            return near + (far - near) * tp
        else:
            return _plane(image, i, j, ti, k, l, tk, m2, inside)

    @triton.jit
    def _put(out, number, image, x):  # type: ignore[no-untyped-def]
        once = image * x
        tl.store(out + 3 * number, tl.sum(image, 0))
        tl.store(out + 3 * number + 1, tl.sum(once, 0))
        tl.store(out + 3 * number + 2, tl.sum(once * x, 0))

    @triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
    def _row_sums(  # type: ignore[no-untyped-def]  # noqa: PLR0917
        out, fixed, weight, slopes, moving, cover, maps, ax0, ax1, ax2,
        f_b, f_0, f_1, w_b, w_0, w_1, s_d, s_b, s_0, s_1, m_b, c_b,
        n1, n2, m0, m1, m2, e0, e1, e2,
        NDIM: tl.constexpr, COVER: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        part, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
        blocks = tl.cdiv(n2, BLOCK)
        row = part // blocks
        i0, i1 = (row // n1).to(tl.int64), (row % n1).to(tl.int64)
        place = (part % blocks) * BLOCK + tl.arange(0, BLOCK)
        inside = place < n2
        x = tl.load(ax2 + place, mask=inside, other=0.0)
        y = tl.load(ax1 + i1)
        a = maps + pair * (NDIM * (NDIM + 1))
        if NDIM == 3:
            z = tl.load(ax0 + i0)
            u0 = tl.load(a + 3) + tl.load(a) * z + tl.load(a + 1) * y + tl.load(a + 2) * x
            u1 = tl.load(a + 7) + tl.load(a + 4) * z + tl.load(a + 5) * y + tl.load(a + 6) * x
            u2 = tl.load(a + 11) + tl.load(a + 8) * z + tl.load(a + 9) * y + tl.load(a + 10) * x
        else:
            u1 = tl.load(a + 2) + tl.load(a) * y + tl.load(a + 1) * x
            u2 = tl.load(a + 5) + tl.load(a + 3) * y + tl.load(a + 4) * x
            u0 = u1
        f = tl.load(fixed + pair * f_b + i0 * f_0 + i1 * f_1 + place, mask=inside, other=0.0)
        v = tl.load(weight + pair * w_b + i0 * w_0 + i1 * w_1 + place, mask=inside, other=0.0)
        v = v * _edge(u1, m1, e1) * _edge(u2, m2, e2)
        if NDIM == 3:
            v = v * _edge(u0, m0, e0)
        w = _sampled(moving + pair * m_b, u0, u1, u2, m0, m1, m2, inside, NDIM)
        if COVER:
            v = v * _sampled(cover + pair * c_b, u0, u1, u2, m0, m1, m2, inside, NDIM)
        d = f - w
        into = out + (pair * tl.num_programs(0) + part) * (3 * (6 + 3 * NDIM + NDIM * (NDIM + 1) // 2))
        vd, vw = v * d, v * w
        _put(into, 0, v, x)
        _put(into, 1, vd, x)
        _put(into, 2, vw, x)
        _put(into, 3, vd * d, x)
        _put(into, 4, vd * w, x)
        _put(into, 5, vw * w, x)
        at = slopes + pair * s_b + i0 * s_0 + i1 * s_1 + place
        number = 6 + 3 * NDIM
        for one in tl.static_range(NDIM):
            g = tl.load(at + one * s_d, mask=inside, other=0.0)
            vg = v * g
            _put(into, 6 + one, vg, x)
            _put(into, 6 + NDIM + one, vg * w, x)
            _put(into, 6 + 2 * NDIM + one, vg * d, x)
            for other in tl.static_range(one, NDIM):
                h = tl.load(at + other * s_d, mask=inside, other=0.0)
                _put(into, number, vg * h, x)
                number += 1
