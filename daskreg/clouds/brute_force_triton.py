"""Nearest points on a GPU by comparing all pairs in one kernel, in Triton; no matrix of distances is written.

A program has 32 queries, and reads the cloud 64 points at a time. Each of its 32 x 64 lanes stores the smallest squared
distance so far, and the row; the lanes of a query are compared at the end. For few queries in a large cloud,
several programs read a part of the cloud each.

All is in float64, as in the k-d tree. Of two points at exactly the same distance, the one in the lower row is taken.
That is nine operations of float64 for each pair in 3D, so that 50,000 queries in 50,000 points take at least 1.4 ms
on a GPU with 17e12 of them per second (H100), and at least 35 ms on one with float64 at 1/64 of its rate.

Where Triton is not installed, or cannot compile, torch is used (`brute_force`); `ready` tells.
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

# Queries of a program, and points of the cloud that it compares with them at a time.
_QUERIES, _AT_ONCE = 32, 64
# Programs that keep a GPU busy, and the fewest points of the cloud for a program of their own.
_PROGRAMS, _FEWEST = 1024, 512


@cache
def ready(device: torch.device) -> bool:
    """Whether the kernel can be compiled and run here; tried once for each device, on a few points."""

    def trial() -> None:
        for ndim in (2, 3):
            points = torch.zeros((4, ndim), dtype=torch.float64, device=device)
            nearest(points, points)[1].sum().item()

    return triton is not None and kernels_run("nearest points", device, trial)


def nearest(cloud: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance (N,) to, and row (N,) of, the nearest point of the cloud for each query.

    Args:
        cloud, queries: (M, D) and (N, D) float64 on one CUDA device, D in 2, 3, M at least 1; finite. A cloud whose
            columns are contiguous is read fastest.
    """
    (many, ndim), number = cloud.shape, len(queries)
    blocks = -(-number // _QUERIES)
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
                queries,
                many,
                number,
                share,
                *cloud.stride(),
                *queries.stride(),
                NDIM=ndim,
                QUERIES=_QUERIES,
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
    def _squared(cloud, queries, at, of, point_step, point_axis, query_step, query_axis, NDIM: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: PLR0917
        total = tl.zeros((of.shape[0], at.shape[0]), dtype=tl.float64)
        for axis in tl.static_range(NDIM):
            a = tl.load(queries + of.to(tl.int64) * query_step + axis * query_axis)
            p = tl.load(cloud + at.to(tl.int64) * point_step + axis * point_axis)
            off = a[:, None] - p[None, :]
            total += off * off
        return total

    @triton.jit(do_not_specialize=["many", "number", "share", "point_axis", "query_step"])
    def _nearest(  # type: ignore[no-untyped-def]  # noqa: PLR0917
        best, rows, cloud, queries, many, number, share,
        point_step, point_axis, query_step, query_axis,
        NDIM: tl.constexpr, QUERIES: tl.constexpr, AT_ONCE: tl.constexpr,
    ):  # fmt: skip
        own, part = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES), tl.program_id(1)
        of = tl.minimum(own, number - 1)
        least = tl.full((QUERIES, AT_ONCE), float("inf"), dtype=tl.float64)
        row = tl.zeros((QUERIES, AT_ONCE), dtype=tl.int32)
        start, stop = part * share, tl.minimum((part + 1) * share, many)
        while start < stop:
            # Beyond the end the last point is read again, in a later lane, so that its row is the same.
            at = tl.minimum(start + tl.arange(0, AT_ONCE), many - 1)
            squared = _squared(cloud, queries, at, of, point_step, point_axis, query_step, query_axis, NDIM)
            nearer = squared < least
            least = tl.where(nearer, squared, least)
            row = tl.where(nearer, tl.broadcast_to(at[None, :], (QUERIES, AT_ONCE)), row)
            start += AT_ONCE
        nearest_ = tl.min(least, axis=1)
        lowest = tl.min(tl.where(least == nearest_[:, None], row, many), axis=1)
        slot = part.to(tl.int64) * number + own
        tl.store(best + slot, nearest_, mask=own < number)
        tl.store(rows + slot, lowest, mask=own < number)
