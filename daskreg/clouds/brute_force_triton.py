"""Nearest points on a GPU by comparing all pairs in one pass, in Triton; no matrix of distances is written.

A program holds 32 points that are asked for, and goes through the cloud 64 points at a time. Each of its places keeps
the smallest squared distance that it has seen, and the row; they are compared with each other at the end. Few points
against many are shared out: several programs go through a part of the cloud each.

All in float64, since that is what a tree compares: of two points that are as near as each other to the last bit, the
one in the lower row is taken. That is nine operations of float64 for each pair in 3D, so that 50,000 against 50,000
points take at least 1.4 ms on a card that does 17e12 of them in a second (H100), and at least 35 ms on one that has
float64 at 1/64 of its rate.

Where Triton is not, or cannot compile, torch does the work; `ready` tells.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from daskreg.runtime.triton_support import kernels_run, launched_on

try:
    import triton
    import triton.language as tl
except ImportError:  # as on a CPU
    triton = None

# Points that are asked for, and points of the cloud, that a program compares at once.
_ASKED, _AT_ONCE = 32, 64
# Programs that keep a card busy, and the fewest points of the cloud worth a program of their own.
_PROGRAMS, _FEWEST = 1024, 512


@cache
def ready(device: torch.device) -> bool:
    """Whether the kernel can be compiled and run here; tried once for a device, on a few points."""

    def trial() -> None:
        for ndim in (2, 3):
            points = torch.zeros((4, ndim), dtype=torch.float64, device=device)
            nearest(points, points)[1].sum().item()

    return triton is not None and kernels_run("nearest points", device, trial)


def nearest(cloud: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance (N,) to, and row (N,) of, the nearest point of the cloud for each that is asked for.

    Args:
        cloud, asked: (M, D) and (N, D) float64 on one CUDA device, D in 2, 3, M at least 1; finite. A cloud whose
            columns lie side by side is read fastest.
    """
    (many, ndim), number = cloud.shape, len(asked)
    blocks = -(-number // _ASKED)
    parts = max(1, min(_PROGRAMS // max(1, blocks), many // _FEWEST))
    share = -(-many // parts // _AT_ONCE) * _AT_ONCE
    parts = -(-many // share)
    best = torch.empty((parts, number), dtype=torch.float64, device=cloud.device)
    rows = torch.empty((parts, number), dtype=torch.int32, device=cloud.device)
    if number:
        with launched_on(cloud.device):
            _nearest[(blocks, parts)](
                best,
                rows,
                cloud,
                asked,
                many,
                number,
                share,
                *cloud.stride(),
                *asked.stride(),
                NDIM=ndim,
                ASKED=_ASKED,
                AT_ONCE=_AT_ONCE,
                num_warps=4,
                enable_fp_fusion=False,
            )
    if parts == 1:
        return best[0], rows[0]
    least = best.amin(0)
    return least, torch.where(best == least, rows, many).amin(0)


if triton is not None:

    @triton.jit
    def _squared(cloud, asked, at, of, point_step, point_axis, asked_step, asked_axis, NDIM: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: PLR0917
        total = tl.zeros((of.shape[0], at.shape[0]), dtype=tl.float64)
        for axis in tl.static_range(NDIM):
            a = tl.load(asked + of.to(tl.int64) * asked_step + axis * asked_axis)
            p = tl.load(cloud + at.to(tl.int64) * point_step + axis * point_axis)
            off = a[:, None] - p[None, :]
            total += off * off
        return total

    @triton.jit(do_not_specialize=["many", "number", "share", "point_axis", "asked_step"])
    def _nearest(  # type: ignore[no-untyped-def]  # noqa: PLR0917
        best, rows, cloud, asked, many, number, share,
        point_step, point_axis, asked_step, asked_axis,
        NDIM: tl.constexpr, ASKED: tl.constexpr, AT_ONCE: tl.constexpr,
    ):  # fmt: skip
        own, part = tl.program_id(0) * ASKED + tl.arange(0, ASKED), tl.program_id(1)
        of = tl.minimum(own, number - 1)
        least = tl.full((ASKED, AT_ONCE), float("inf"), dtype=tl.float64)
        row = tl.zeros((ASKED, AT_ONCE), dtype=tl.int32)
        start, stop = part * share, tl.minimum((part + 1) * share, many)
        while start < stop:
            # Beyond the end is the last point once more, in a place where it does not win over itself.
            at = tl.minimum(start + tl.arange(0, AT_ONCE), many - 1)
            squared = _squared(cloud, asked, at, of, point_step, point_axis, asked_step, asked_axis, NDIM)
            nearer = squared < least
            least = tl.where(nearer, squared, least)
            row = tl.where(nearer, tl.broadcast_to(at[None, :], (ASKED, AT_ONCE)), row)
            start += AT_ONCE
        nearest_ = tl.min(least, axis=1)
        lowest = tl.min(tl.where(least == nearest_[:, None], row, many), axis=1)
        place = part.to(tl.int64) * number + own
        tl.store(best + place, nearest_, mask=own < number)
        tl.store(rows + place, lowest, mask=own < number)
