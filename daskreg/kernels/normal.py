"""The sums over voxels that a Gauss-Newton step needs, for a batch of pairs.

With f a voxel of the fixed image, w the moving image at the voxel's image, d = f - w, v
its weight, g the moving image's gradient there (per voxel of the moving image), and xi
the fixed index scaled to [-1, 1] with a trailing 1, a step needs sums of v times

    1, d, w, dd, dw, ww,    J, J w, J d,    J J^T        where J = g (x) xi,

J being the derivative of w with respect to the D x (D+1) entries of the map from xi to
moving indices. Any pose model then takes its own combination of the columns, and both
metrics follow from the same sums (see `descend`), so this is all that touches voxels:
compiled code on the CPU (`kernels.normal_numba`), torch elsewhere.

J is never stored. The entries of J J^T are moments of the D (D+1) / 2 images v g g' with
monomials of degree two or less in xi, which are summed axis by axis: float32 along the
last axis, float64 beyond.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from daskreg.kernels.normal_numba import sums_of_chunks
from daskreg.kernels.pyramid import Level, gradient, take
from daskreg.kernels.smooth_numba import spread

# Voxels of the fixed image that one compiled call sums at a time.
_CHUNK = 1 << 15
SCALARS = ("n", "d", "w", "dd", "dw", "ww")


@dataclass(frozen=True)
class Sums:
    """Float64 on the CPU, one row for each pair; Q = D (D+1).

    scalars: (B, 6), in the order of SCALARS. j, jw, jd: (B, Q). jj: (B, Q, Q).
    """

    scalars: Tensor
    j: Tensor
    jw: Tensor
    jd: Tensor
    jj: Tensor

    def take(self, index: Tensor) -> Sums:
        return Sums(*(t[index] for t in self._parts()))

    def put(self, index: Tensor, other: Sums) -> None:
        """Overwrite the rows `index` with those of `other`."""
        for mine, theirs in zip(self._parts(), other._parts(), strict=True):
            mine[index] = theirs

    def _parts(self) -> tuple[Tensor, ...]:
        return self.scalars, self.j, self.jw, self.jd, self.jj


def normal_of(level: Level) -> Normal:
    """What sums for a level: compiled code on the CPU, torch on other devices."""
    return NumbaNormal(level) if level.fixed.values.device.type == "cpu" else TorchNormal(level)


class NumbaNormal:
    """Sums by compiled code on the CPU, in as many threads as torch may use."""

    def __init__(self, level: Level) -> None:
        fixed, moving = level.fixed, level.moving
        parts = [moving.values, *gradient(moving.values).unbind(1)]
        self.channels = torch.stack(parts, -1)
        self.cover = torch.empty((1,) + (0,) * moving.grid.ndim) if moving.weight is None else moving.weight
        n = fixed.grid.shape[-1]
        self.fixed = fixed.values.reshape(len(fixed.values), -1, n).contiguous()
        self.weight = fixed_weight(level).flatten(1, -2).contiguous()
        self.axes = tuple(_scaled_axis(n, torch.device("cpu")).numpy() for n in fixed.grid.shape)
        self.widths = np.array([edge_width(n) for n in moving.grid.shape], dtype=np.float32)

    def take(self, index: Tensor) -> NumbaNormal:
        """The same for some pairs of the batch."""
        other = object.__new__(NumbaNormal)
        other.__dict__.update(self.__dict__)
        for name in ("channels", "cover", "fixed", "weight"):
            setattr(other, name, take(getattr(self, name), index))
        return other

    def __call__(self, maps: Tensor) -> Sums:
        """The sums at (B, D, D+1) maps from xi to moving indices."""
        batch, ndim = maps.shape[:2]
        rows, n = self.fixed.shape[1:]
        step = max(1, min(rows, _CHUNK // n))
        pieces = -(-rows // step)
        starts = np.tile(np.arange(pieces) * step, batch)
        pairs = np.repeat(np.arange(batch), pieces)
        chunks = np.stack([pairs, starts, np.minimum(starts + step, rows), np.arange(len(pairs))], 1)
        entries = (ndim + 1) * (ndim + 2) // 2
        out = (
            np.zeros((len(chunks), len(SCALARS))),
            np.zeros((len(chunks), 3, ndim, ndim + 1)),
            np.zeros((len(chunks), ndim * (ndim + 1) // 2, entries)),
        )
        moving, fixed = (self.channels.numpy(), self.cover.numpy()), (self.fixed.numpy(), self.weight.numpy())
        fit = (moving, fixed, np.ascontiguousarray(maps.numpy()), self.axes, self.widths)
        threads = min(torch.get_num_threads(), len(chunks))
        if threads > 1:
            shares = [np.ascontiguousarray(chunks[k::threads]) for k in range(threads)]
            spread(threads, lambda share: sums_of_chunks(*fit, share, out), shares)
        else:
            sums_of_chunks(*fit, chunks, out)
        scalars, linear, square = (o.reshape(batch, pieces, *o.shape[1:]).sum(1) for o in out)
        j, jw, jd = torch.as_tensor(linear).flatten(2).unbind(1)
        return Sums(torch.as_tensor(scalars), j, jw, jd, torch.as_tensor(_unfolded(square, ndim)))


def _unfolded(square: NDArray[np.float64], ndim: int) -> NDArray[np.float64]:
    """(B, Q, Q) J J^T from its entries that differ: pairs of gradients times pairs of xi."""
    q = ndim + 1
    full = np.empty((len(square), ndim, q, ndim, q))
    axes, lines = np.triu_indices(ndim), np.triu_indices(q)
    for pair, (a, b) in enumerate(zip(*axes, strict=True)):
        for entry, (e, f) in enumerate(zip(*lines, strict=True)):
            for x, y in ((e, f), (f, e)):
                full[:, a, x, b, y] = full[:, b, y, a, x] = square[:, pair, entry]
    return full.reshape(len(square), ndim * q, ndim * q)


class TorchNormal:
    """Sums by torch, on the device where the level's images are."""

    def __init__(self, level: Level, *, gradients: bool = True) -> None:
        self.level = level
        moving = level.moving
        parts = [moving.values[:, None]]
        if gradients:
            parts.append(gradient(moving.values))
        if moving.weight is not None:
            parts.append(moving.weight.expand_as(moving.values)[:, None])
        self.channels = torch.cat(parts, 1)
        self.masked = moving.weight is not None
        self.fixed = level.fixed.values
        self.weight = fixed_weight(level)
        device = self.fixed.device
        self.axes = [_scaled_axis(n, device) for n in level.fixed.grid.shape]
        self.powers = [torch.stack([a**0, a, a**2], -1) for a in self.axes]

    def take(self, index: Tensor) -> TorchNormal:
        """The same for some pairs of the batch."""
        other = object.__new__(TorchNormal)
        other.__dict__.update(self.__dict__)
        for name in ("channels", "fixed", "weight"):
            setattr(other, name, take(getattr(self, name), index))
        return other

    def warp(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The moving images at the maps, and (B, *shape) weights; differentiable in the maps.

        maps: (B, D, D+1) from xi to moving indices, float64.

        Returns: (B, 1 + D, *shape) values and gradients, or (B, 1, *shape) without gradients.
        """
        batch, ndim = maps.shape[:2]
        maps = maps.to(self.fixed.device, torch.float32)
        shape, inner = self.fixed.shape[1:], self.level.moving.grid.shape
        coords, weight = [], None
        for k in range(ndim):
            u = maps[:, k, ndim].reshape(-1, *[1] * ndim)
            for axis in range(ndim):
                one = [1] * (ndim + 1)
                one[axis + 1] = -1
                u = u + maps[:, k, axis].reshape(-1, *[1] * ndim) * self.axes[axis].reshape(one)
            inside = edge_weight(u, inner[k])
            weight = inside if weight is None else weight * inside
            coords.append(u * (2 / inner[k]) + (1 / inner[k] - 1))
        grid = torch.stack(coords[::-1], -1)
        channels = self.channels.expand(batch, *self.channels.shape[1:])
        out = functional.grid_sample(channels, grid, mode="bilinear", padding_mode="border", align_corners=False)
        weight = weight.expand(batch, *shape)  # type: ignore[union-attr]
        weight = weight * self.weight
        if self.masked:
            weight = weight * out[:, -1]
        return (out[:, :-1] if self.masked else out), weight

    def __call__(self, maps: Tensor) -> Sums:
        """The sums at (B, D, D+1) maps from xi to moving indices; one transfer to the CPU."""
        ndim = maps.shape[1]
        out, v = self.warp(maps)
        w, d, g = out[:, 0], self.fixed - out[:, 0], out[:, 1:].unbind(1)
        images = [v, v * d, v * w, v * d * d, v * d * w, v * w * w]
        images += [v * factor * slope for factor in (1, w, d) for slope in g]
        images += [v * g[a] * g[b] for a in range(ndim) for b in range(a, ndim)]
        moments = torch.stack([self._moments(image) for image in images], 1).cpu()
        lines = [tuple(int(a == b) for a in range(ndim)) for b in range(ndim)] + [(0,) * ndim]
        linear = torch.stack([_entry(moments, line) for line in lines], -1)[:, 6 : 6 + 3 * ndim]
        j, jw, jd = linear.reshape(len(v), 3, -1).unbind(1)
        pairs = [_sum(lines[e], lines[f]) for e in range(ndim + 1) for f in range(e, ndim + 1)]
        square = torch.stack([_entry(moments, powers) for powers in pairs], -1)[:, 6 + 3 * ndim :]
        jj = torch.as_tensor(_unfolded(square.numpy(), ndim))
        return Sums(_entry(moments, lines[-1])[:, :6].contiguous(), j, jw, jd, jj)

    def _moments(self, image: Tensor) -> Tensor:
        """(B, 3, ...) sums of (B, *shape) times monomials up to the square along each axis."""
        out = (image @ self.powers[-1]).to(torch.float64)
        for axis in range(image.ndim - 3, -1, -1):
            out = torch.tensordot(out, self.powers[axis].to(torch.float64), dims=([axis + 1], [0]))
        # The contracted axes were appended last to first.
        return out.permute(0, *range(image.ndim - 1, 0, -1))


def _sum(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _entry(moments: Tensor, powers: tuple[int, ...]) -> Tensor:
    """The sums of (B, K) images times one monomial."""
    where: Any = (slice(None), slice(None), *powers)
    return moments[where]


def scaling(shape: tuple[int, ...]) -> Tensor:
    """(D+1, D+1) float64 from xi to fixed indices."""
    m = torch.eye(len(shape) + 1, dtype=torch.float64)
    for k, n in enumerate(shape):
        m[k, k] = max((n - 1) / 2, 0.5)
        m[k, -1] = (n - 1) / 2
    return m


def edge_weight(u: Tensor, n: int) -> Tensor:
    """1 inside, falling to 0 at the outer faces: an overlap that grows and shrinks smoothly."""
    return ((torch.minimum(u, n - 1 - u) + 0.5) / edge_width(n)).clamp(0, 1)


def edge_width(n: int) -> float:
    """Voxels over which the edge of an image gains its full weight.

    Near an edge smoothing knows one side only; thin axes cannot spare the voxels.
    """
    return 2.0 if n >= 48 else 1.0


def fixed_weight(level: Level) -> Tensor:
    """(1 or B, *shape) the fixed image's own weight times that of its edges."""
    shape = level.fixed.grid.shape
    device = level.fixed.values.device
    weight = torch.ones((1, *shape), device=device)
    for axis, n in enumerate(shape):
        one = [1] * (len(shape) + 1)
        one[axis + 1] = -1
        weight = weight * edge_weight(torch.arange(n, device=device, dtype=torch.float32), n).reshape(one)
    return weight if level.fixed.weight is None else weight * level.fixed.weight


def _scaled_axis(n: int, device: torch.device) -> Tensor:
    half = max((n - 1) / 2, 0.5)
    return (torch.arange(n, dtype=torch.float64) - (n - 1) / 2).div(half).to(device, torch.float32)


def possible_overlap(level: Level) -> Tensor:
    """(B or 1,) weight that the smaller of the two images could bring in, in fixed voxels."""
    fixed = fixed_weight(level).flatten(1).sum(1).to(torch.float64).cpu()
    ratio = math.prod(level.moving.grid.spacing) / math.prod(level.fixed.grid.spacing)
    if level.moving.weight is None:
        moving = torch.tensor([float(math.prod(level.moving.grid.shape))], dtype=torch.float64)
    else:
        moving = level.moving.weight.flatten(1).sum(1).to(torch.float64).cpu()
    return torch.minimum(fixed, moving * ratio).clamp_min(1e-9)


Normal = NumbaNormal | TorchNormal
