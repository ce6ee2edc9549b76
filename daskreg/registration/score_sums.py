"""Sums over small cells of a pair at one pose: what the covariance of the pose is computed from.

The notation is that of `normal_equations.sums`: f a voxel of the fixed image, w the moving image there, d = f - w,
v the weight, g the gradient of the fixed image, xi its scaled index. h is the gradient of the moving image.

Here w is interpolated along each axis by Lagrange's polynomial through six voxels, and linearly along the others.
Linear interpolation alone, which is faster and is used until here, moves short waves by up to a few percent of a
voxel, and that biases the pose.
Compiled code on CPUs, torch on other devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from daskreg.registration import score_sums_numba
from daskreg.registration.normal_equations.edge_weights import (
    edge_weight,
    edge_width,
    fixed_weight,
    scaled_axis,
    scaling,
)
from daskreg.registration.normal_equations.part import Part
from daskreg.registration.pyramids.filters import dilated
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel
from daskreg.registration.score_sums_numba import AFTER, BEFORE
from daskreg.runtime.threads import pool_threads, spread
from daskreg.runtime.torch_instead import uses_compiled

Floats = NDArray[np.float64]

# Voxels that torch sums at a time, in 3D with some 300 bytes each.
_VOXELS_AT_ONCE = 1 << 21
_TAPS = range(-2, 4)
# Voxels, and rows of voxels, that are enough for the sums of products of gradients, in compiled code.
_ENOUGH, _ENOUGH_ROWS = 1 << 16, 100


@dataclass(frozen=True)
class ScoreSums:
    """Float64, one row for each pair.

    scalars: (B, *cells, 6) sums of v times 1, d, w, dd, dw, ww. linear: (B, *cells, 3, D, D+1) of v g xi times 1, w,
    d, with the xi of the middle of the cell. cross: (B, Q, Q) of v (g xi) (h xi)^T over all voxels, Q = D (D+1).
    slopes: (B, 2, Q) of v h xi times 1 and w. g is per voxel of the fixed image here, h per voxel of the moving one.
    """

    scalars: Floats
    linear: Floats
    cross: Floats
    slopes: Floats


@dataclass(frozen=True)
class CellSums:
    """Sums of a part of a level, which add up to those of the level.

    cells: (B, *cells, 6 + 3 D) of the cells from number `first` (D,) on: scalars, then v g times 1, w, d.
    cross, slopes: as in `ScoreSums`, of the rows that are summed.
    """

    cells: Floats
    first: tuple[int, ...]
    cross: Floats
    slopes: Floats


def score_sums(level: PyramidLevel, maps: Floats, cell: tuple[int, ...]) -> ScoreSums:
    """The sums at (B, D, D+1) maps from xi to moving indices, in cells of `cell` voxels of the fixed image."""
    shape = level.fixed.grid.shape
    if uses_compiled(level.fixed.values):
        return joined([sums_of_part(level, maps, cell, Part.whole(level))], shape, cell)
    from_index = maps @ np.linalg.inv(scaling(shape))
    cells, cross, slopes = by_torch(level, from_index, cell)
    counts = _counts(shape, cell)
    return _from_cells(cells.reshape(len(maps), *counts, -1), cross, slopes, shape, cell)


def together(parts: Sequence[CellSums]) -> CellSums:
    """The sums of several parts as those of one."""
    lows = np.array([part.first for part in parts])
    first = tuple(map(int, lows.min(0)))
    last = np.max([low + part.cells.shape[1:-1] for low, part in zip(lows, parts, strict=True)], axis=0)
    cells = np.zeros((len(parts[0].cells), *(last - first), parts[0].cells.shape[-1]))
    for part in parts:
        _add(cells, part, first)
    return CellSums(cells, first, np.sum([p.cross for p in parts], axis=0), np.sum([p.slopes for p in parts], axis=0))


def _add(cells: Floats, part: CellSums, first: tuple[int, ...]) -> None:
    """To cells from number `first` on."""
    starts = np.subtract(part.first, first)
    within = (slice(a, a + n) for a, n in zip(starts, part.cells.shape[1:-1], strict=True))
    cells[(slice(None), *within)] += part.cells


def joined(parts: Iterable[CellSums], shape: tuple[int, ...], cell: tuple[int, ...]) -> ScoreSums:
    """The sums of a level of this shape from those of its parts."""
    counts = _counts(shape, cell)
    cells: Any = None
    cross: Any = 0.0
    slopes: Any = 0.0
    for part in parts:
        if cells is None:
            cells = np.zeros((len(part.cells), *counts, part.cells.shape[-1]))
        _add(cells, part, (0,) * len(counts))
        cross, slopes = cross + part.cross, slopes + part.slopes
    if cells is None:
        raise ValueError("no part was summed")
    used = ((np.arange(math.prod(shape[:-1])) * score_sums_numba.GOLDEN) % 1 < _row_share(shape)).mean()
    return _from_cells(cells, cross / used, slopes / used, shape, cell)


def _from_cells(cells: Floats, cross: Any, slopes: Any, shape: tuple[int, ...], cell: tuple[int, ...]) -> ScoreSums:
    batch, ndim = len(cells), len(shape)
    linear = cells[..., 6:].reshape(*cells.shape[:-1], 3, ndim, 1) * _middles(shape, cell)[..., None, None, :]
    return ScoreSums(cells[..., :6], linear, cross.reshape(batch, ndim * (ndim + 1), -1), slopes.reshape(batch, 2, -1))


def _counts(shape: tuple[int, ...], cell: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-n // c) for n, c in zip(shape, cell, strict=True))


def _row_share(shape: tuple[int, ...]) -> float:
    """Of the rows, those that are summed in products of gradients."""
    return min(1.0, max(_ENOUGH / math.prod(shape), _ENOUGH_ROWS / math.prod(shape[:-1])))


def _middles(shape: tuple[int, ...], cell: tuple[int, ...]) -> Floats:
    """(*cells, D+1) xi at the middle of each cell."""
    axes = []
    for n, c in zip(shape, cell, strict=True):
        first = np.arange(0, n, c)
        axes.append((first + np.minimum(first + c, n) - n) / max(n - 1, 1))
    lines = np.meshgrid(*axes, indexing="ij")
    return np.stack([*lines, np.ones_like(lines[0])], -1)


def sums_of_part(level: PyramidLevel, maps: Floats, cell: tuple[int, ...], part: Part) -> CellSums:
    """The sums of a part of a level, by compiled code on the CPU.

    `part.moving` must hold what the interpolation reads: BEFORE and AFTER voxels around the lower neighbours as far
    as the image reaches, and of a masked image, AFTER voxels more on each side.
    """
    batch, ndim = maps.shape[:2]
    fixed, moving, shape = level.fixed, level.moving, level.fixed.grid.shape
    matrix = np.eye(ndim + 1)
    matrix[:-1, -1] = part.fixed.start
    from_index = np.ascontiguousarray(maps @ np.linalg.inv(scaling(shape)) @ matrix)
    inside = part.inside.within(part.fixed)
    first = tuple(a // c for a, c in zip(part.inside.start, cell, strict=True))
    counts = [-(-b // c) - a for a, b, c in zip(first, part.inside.stop, cell, strict=True)]
    phase = np.array(part.fixed.start) - np.multiply(first, cell)
    ends = np.arange(counts[0] + 1) * cell[0] - phase[0]
    ends = np.clip(ends, inside.start[0], inside.stop[0])
    pairs = np.repeat(np.arange(batch), counts[0])
    tasks = np.stack([pairs, np.tile(ends[:-1], batch), np.tile(ends[1:], batch), np.arange(len(pairs))], 1)
    threads = min(pool_threads(), len(tasks))
    xi = tuple(scaled_axis(n)[s].astype(np.float32) for n, s in zip(shape, part.fixed.slices, strict=True))
    rows = math.prod(part.fixed.shape[:-1])

    def weights(values: Tensor | None, empty: tuple[int, ...], *, flat: bool) -> Any:
        if values is None:
            return np.empty((1, *empty), np.float32)
        return (values.reshape(len(values), rows, -1) if flat else values).contiguous().numpy()

    around = [(0, 0)] + [(BEFORE, AFTER)] * ndim
    trusted = _trusted(moving)
    values, weight = np.pad(moving.values.numpy(), around, "edge"), weights(moving.weight, (0,) * ndim, flat=False)
    near = np.empty((1, 0), bool) if trusted is None else np.pad(trusted.numpy(), around, "edge")
    moving_images = (
        *(v.reshape(len(v), -1) for v in (values, weight, near)),
        (np.array(part.moving.start), moving.grid.shape),
        (values.shape[1:], weight.shape[1:]),
    )
    fixed_images = weights(fixed.values, (), flat=True), weights(fixed.weight, (rows, 0), flat=True)
    out = (
        np.zeros((batch, counts[0], math.prod(counts[1:-1]), counts[-1], 6 + 3 * ndim)),
        np.zeros((len(tasks), ndim, ndim + 1, ndim, ndim + 1)),
        np.zeros((len(tasks), 2, ndim, ndim + 1)),
    )
    widths = np.array([edge_width(n) for n in moving.grid.shape], dtype=np.float32)
    inputs = (moving_images, fixed_images, from_index, (xi, part.axis_weights(shape)), widths)
    cells = np.array([cell, phase, inside.start, inside.stop, part.fixed.start, shape])
    tasks_of = [np.ascontiguousarray(tasks[k::threads]) for k in range(threads)]
    share = _row_share(shape)
    spread(threads, lambda some: score_sums_numba.score_sums(*inputs, cells, share, some, out), tasks_of)
    cross, slopes = (o.reshape(batch, counts[0], *o.shape[1:]).sum(1) for o in out[1:])
    return CellSums(out[0].reshape(batch, *counts, 6 + 3 * ndim), first, cross, slopes)


def _trusted(moving: ImageBatch) -> Tensor | None:
    """Where no voxel that the interpolation reads is masked; None without a mask."""
    return None if moving.weight is None else ~dilated(moving.weight <= 0, AFTER)


def by_torch(level: PyramidLevel, from_index: Floats, cell: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
    """The same by torch, on the device of the level."""
    batch = len(from_index)
    shape, device = level.fixed.grid.shape, level.fixed.values.device
    fixed = level.fixed.values.expand(batch, *shape)
    gradient = [torch.gradient(fixed, dim=k + 1)[0] if n > 1 else torch.zeros_like(fixed) for k, n in enumerate(shape)]
    weight = fixed_weight(level).expand(batch, *shape)
    maps = torch.from_numpy(from_index).to(device)
    xi = [torch.from_numpy(scaled_axis(n)).to(device, torch.float32) for n in shape]
    cells, cross, slopes = [], [], []
    for planes in _planes(shape, cell[0], batch):
        some: Any = (slice(None), planes)
        w, h, v = _sampled(level, maps, planes)
        v = v * weight[some]
        d = fixed[some] - w
        lines = torch.meshgrid(xi[0][planes], *xi[1:], indexing="ij")
        monomials = [*lines, torch.ones_like(lines[0])]
        vg = [v * g[some] for g in gradient]
        images = [v, v * d, v * w, v * d * d, v * d * w, v * w * w]
        images += [g * x for x in (1.0, w, d) for g in vg]
        cells.append(torch.stack([_pooled(image, cell) for image in images], -1).flatten(1, -2).to(torch.float64))
        left, right = (torch.stack([g * m for g in gs for m in monomials], 1).flatten(2) for gs in (vg, h))
        cross.append((left @ right.mT).to(torch.float64))
        ones = torch.stack([v, v * w], 1).flatten(2)
        slopes.append((ones @ right.mT).to(torch.float64))
    sums = torch.cat(cells, 1), torch.stack(cross).sum(0), torch.stack(slopes).sum(0)
    scalars, cross_sum, slope_sum = (s.cpu().numpy() for s in sums)
    return scalars, cross_sum, slope_sum


def _planes(shape: tuple[int, ...], thick: int, batch: int) -> Iterator[slice]:
    """Planes of whole cells along the first axis."""
    step = max(1, _VOXELS_AT_ONCE // (batch * thick * math.prod(shape[1:]))) * thick
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def _pooled(image: Tensor, cell: tuple[int, ...]) -> Tensor:
    """(B, *cells) sums over cells."""
    padding = [p for n, c in zip(image.shape[:0:-1], cell[::-1], strict=True) for p in (0, -n % c)]
    padded = functional.pad(image, padding)
    parts = [size for n, c in zip(padded.shape[1:], cell, strict=True) for size in (n // c, c)]
    return padded.reshape(len(image), *parts).sum(tuple(range(2, 2 * len(cell) + 1, 2)))


def _sampled(level: PyramidLevel, maps: Tensor, planes: slice) -> tuple[Tensor, list[Tensor], Tensor]:
    """Some planes of the moving images, their D gradients, and the weights of their edges and masks."""
    shape, ndim = level.moving.grid.shape, len(level.moving.grid.shape)
    counts = level.fixed.grid.shape
    index = torch.meshgrid(
        *[torch.arange(n, dtype=torch.float64, device=maps.device)[planes if k == 0 else slice(None)]
          for k, n in enumerate(counts)],
        indexing="ij",
    )  # fmt: skip
    points = torch.stack([*(i.flatten() for i in index), torch.ones_like(index[0]).flatten()])
    u = maps @ points
    batch = len(u)
    weight = torch.ones_like(u[:, 0], dtype=torch.float32)
    low, fractions = [], []
    for k, n in enumerate(shape):
        weight = weight * edge_weight(u[:, k], n - 1, edge_width(n)).to(torch.float32)
        inside = u[:, k].clamp(0, n - 1)
        floor = inside.floor().clamp_max(max(n - 2, 0))
        low.append(floor.to(torch.int64))
        fractions.append((inside - floor).to(torch.float32))
    strides = [math.prod(shape[k + 1 :]) for k in range(ndim)]

    def at(images: Tensor, offsets: Sequence[int]) -> Tensor:
        place = sum(((i + o).clamp(0, n - 1) * s for i, o, n, s in zip(low, offsets, shape, strides, strict=True)))
        return images.flatten(1).expand(batch, -1).gather(1, torch.as_tensor(place))

    def share(corner: tuple[int, ...], but: int | None = None) -> Any:
        parts = (t if c else 1 - t for k, (t, c) in enumerate(zip(fractions, corner, strict=True)) if k != but)
        return math.prod(parts, start=torch.ones_like(weight))

    values = level.moving.values
    corners = [tuple(map(int, c)) for c in np.ndindex(*(2,) * ndim)]
    w = sum(share(c) * at(values, list(c)) for c in corners)
    trusted = _trusted(level.moving)
    near = torch.ones_like(weight) if trusted is None else at(trusted, [0] * ndim).to(weight.dtype)
    h, correction = [], torch.zeros_like(w)
    for k in range(ndim):
        taps, slopes = _weights(fractions[k])
        slopes = [near * s + (1 - near) * other for s, other in zip(slopes, (0, -1, 1, 0), strict=True)]
        slope = torch.zeros_like(weight)
        for corner in corners:
            if not corner[k]:
                line = [at(values, [*corner[:k], tap, *corner[k + 1 :]]) for tap in _TAPS]
                correction = correction + share(corner, k) * sum(a * b for a, b in zip(taps, line, strict=True))
                slope = slope + share(corner, k) * sum(a * b for a, b in zip(slopes, line[1:5], strict=True))
        h.append(slope)
    w = w + near * correction
    if level.moving.weight is not None:
        weight = weight * sum(share(c) * at(level.moving.weight, list(c)) for c in corners)
    form = (batch, *index[0].shape)
    return w.reshape(form), [s.reshape(form) for s in h], weight.reshape(form)


def _weights(t: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Lagrange's weights of six voxels less those of linear interpolation, and the derivatives of those of four."""
    taps = [math.prod([(t - j) / (k - j) for j in _TAPS if j != k], start=torch.ones_like(t)) for k in _TAPS]
    taps[2], taps[3] = taps[2] - (1 - t), taps[3] - t
    tt = t * t / 2
    return taps, [t - tt - 1 / 3, 3 * tt - 2 * t - 0.5, t - 3 * tt + 1, tt - 1 / 6]
