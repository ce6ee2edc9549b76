"""The sums over voxels that a Gauss-Newton step needs, for a batch of pairs.

With f a voxel of the fixed image, w the moving image at the voxel's image, d = f - w, v
its weight, g the gradient there, and xi the fixed index scaled to [-1, 1] with a trailing 1, a
step needs sums of v times

    1, d, w, dd, dw, ww,    J, J w, J d,    J J^T        where J = g (x) xi,

J being the derivative of w with respect to the D x (D+1) entries of the map from xi to
moving indices. Any pose model then takes its own combination of the columns, and both
metrics follow from the same sums (see `descend`), so this is all that touches voxels:
compiled code on the CPU (`kernels.normal_numba`), torch elsewhere.

The gradient is that of the fixed image, turned by the map into one of the moving image (Hager &
Belhumeur 1998); the turn is the same for all voxels, so that it is the sums that are turned.
Unlike the moving image's own, it needs no interpolation, and its noise is not that of w: where
J^T d vanishes is not pulled towards places between the voxels, where interpolation averages the
noise and d is smaller for that reason alone.

J is never stored. The entries of J J^T are moments of the D (D+1) / 2 images v g g' with
monomials of degree two or less in xi, which are summed axis by axis: float32 along the
last axis, float64 beyond.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from daskreg.registration import normal_equations_triton
from daskreg.registration.normal_equations_numba import sums_of_chunks
from daskreg.registration.pyramid import Level, take
from daskreg.runtime.threads import pool_threads, spread

Floats = NDArray[np.float64]

# Voxels of the fixed image that one compiled call sums at a time.
_CHUNK = 1 << 15
# Voxels of the fixed images that torch sums at a time, in 3D with some 250 bytes each.
_AT_ONCE = 1 << 24
SCALARS = ("n", "d", "w", "dd", "dw", "ww")
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Sums:
    """Float64, one row for each pair; Q = D (D+1).

    scalars: (B, 6), in the order of SCALARS. j, jw, jd: (B, Q). jj: (B, Q, Q).
    """

    scalars: Floats
    j: Floats
    jw: Floats
    jd: Floats
    jj: Floats


def normal_of(level: Level) -> Normal:
    """What sums for a level: compiled code on the CPU and on GPUs, torch elsewhere."""
    device = level.fixed.values.device
    if device.type == "cpu":
        return NumbaNormal(level)
    return (TritonNormal if normal_equations_triton.ready(device) else TorchNormal)(level)


class NumbaNormal:
    """Sums by compiled code on the CPU, in `pool_threads()` threads."""

    def __init__(self, level: Level) -> None:
        fixed, moving = level.fixed, level.moving
        self.moving = moving.values.contiguous()
        self.cover = (
            torch.empty((1,) + (0,) * moving.grid.ndim) if moving.weight is None else moving.weight.contiguous()
        )
        self.shape, n = fixed.grid.shape, fixed.grid.shape[-1]
        self.fixed = fixed.values.reshape(len(fixed.values), -1, n).contiguous()
        rows = self.fixed.shape[1]
        self.weight = (
            torch.empty((1, rows, 0)) if fixed.weight is None else fixed.weight.reshape(-1, rows, n).contiguous()
        )
        cpu = torch.device("cpu")
        self.axes = tuple(tuple(f(n, cpu).numpy() for n in fixed.grid.shape) for f in (_scaled_axis, edges))
        self.widths = np.array([edge_width(n) for n in moving.grid.shape], dtype=np.float32)
        self.rows = np.arange(rows)

    def take(self, index: NDArray[np.int64]) -> NumbaNormal:
        """The same for some pairs of the batch."""
        other = copy.copy(self)
        for name in ("moving", "cover", "fixed", "weight"):
            setattr(other, name, take(getattr(self, name), torch.from_numpy(index)))
        return other

    def thinned(self, share: float) -> NumbaNormal:
        """The same over a share of the rows of the fixed image, evenly spread; sums are scaled up."""
        other = copy.copy(self)
        chosen = (self.rows * _GOLDEN) % 1 < share
        other.rows = self.rows[chosen] if chosen.any() else self.rows
        return other

    def __call__(self, maps: Floats) -> Sums:
        """The sums at (B, D, D+1) maps from xi to moving indices."""
        batch, ndim = maps.shape[:2]
        rows, n = len(self.rows), self.fixed.shape[2]
        step = max(1, min(rows, _CHUNK // n))
        pieces = -(-rows // step)
        starts = np.tile(np.arange(pieces) * step, batch)
        pairs = np.repeat(np.arange(batch), pieces)
        chunks = np.stack([pairs, starts, np.minimum(starts + step, rows), np.arange(len(pairs))], 1)
        sizes = ((len(SCALARS),), (ndim + 1, 3 * ndim), ((ndim + 1) * (ndim + 2) // 2, ndim * (ndim + 1) // 2))
        out = tuple(np.zeros((len(chunks), *size)) for size in sizes)
        moving, fixed = (self.moving.numpy(), self.cover.numpy()), (self.fixed.numpy(), self.weight.numpy())
        fit = (moving, fixed, np.ascontiguousarray(maps), self.axes, self.widths)
        threads = min(pool_threads(), len(chunks))
        if threads > 1:
            shares = [(self.rows, np.ascontiguousarray(chunks[k::threads])) for k in range(threads)]
            spread(threads, lambda share: sums_of_chunks(*fit, share, out), shares)
        else:
            sums_of_chunks(*fit, (self.rows, chunks), out)
        scale = self.fixed.shape[1] / rows
        scalars, linear, square = (o.reshape(batch, pieces, *o.shape[1:]).sum(1) * scale for o in out)
        linear = linear.reshape(batch, ndim + 1, ndim, 3).transpose(0, 3, 2, 1)
        return _turned(scalars, linear, _unfolded(square.swapaxes(1, 2), ndim), maps, self.shape)


def _turned(scalars: Floats, linear: Floats, square: Floats, maps: Floats, shape: tuple[int, ...]) -> Sums:
    """The sums, from those with the gradient per fixed voxel: where the images agree, that is one per moving voxel.

    linear: (B, 3, D, D+1). square: (B, Q, Q).
    """
    slopes = maps[:, :, :-1] / np.diag(scaling(shape))[:-1]
    turns = np.linalg.inv(slopes).swapaxes(1, 2)
    batch, ndim = turns.shape[:2]
    j, jw, jd = (turns[:, None] @ linear).reshape(batch, 3, -1).swapaxes(0, 1)
    wide = np.einsum("bij,kl->bikjl", turns, np.eye(ndim + 1)).reshape(square.shape)
    return Sums(scalars, j, jw, jd, wide @ square @ wide.swapaxes(1, 2))


@cache
def _unfolding(ndim: int) -> NDArray[np.int64]:
    """(Q, Q) where each entry of J J^T is found among those that differ."""
    q = ndim + 1
    axes, lines = np.triu_indices(ndim), np.triu_indices(q)
    full = np.empty((ndim, q, ndim, q), dtype=np.int64)
    for pair, (a, b) in enumerate(zip(*axes, strict=True)):
        for entry, (e, f) in enumerate(zip(*lines, strict=True)):
            for x, y in ((e, f), (f, e)):
                full[a, x, b, y] = full[b, y, a, x] = pair * len(lines[0]) + entry
    return full.reshape(ndim * q, ndim * q)


def _unfolded(square: Floats, ndim: int) -> Floats:
    """(B, Q, Q) J J^T from its entries that differ: pairs of gradients times pairs of xi."""
    return np.asarray(square.reshape(len(square), -1)[:, _unfolding(ndim)])


class TorchNormal:
    """Sums by torch, on the device where the level's images are.

    In few operations, each on much: on a GPU any costs microseconds to start, however little it does.
    """

    def __init__(self, level: Level) -> None:
        moving = level.moving
        self.inner = moving.grid.shape
        self.moving = moving.values
        self.cover = moving.weight
        self.fixed = level.fixed.values
        self.shape = level.fixed.grid.shape
        self.slopes: Tensor | None = None
        self.weight = fixed_weight(level)
        self.scale = 1.0
        axes = [_scaled_axis(n, torch.device("cpu")) for n in level.fixed.grid.shape]
        self.axes, self.powers = ([t.to(self.fixed.device) for t in some] for some in (axes, _powers(axes)))
        # One row for each axis of the moving image, x first: its last index, the width of its edge, and what
        # brings indices to the coordinates of grid_sample.
        rows = [(n - 1, edge_width(n), 2 / n, 1 / n - 1) for n in self.inner[::-1]]
        columns = torch.tensor(rows, dtype=torch.float32, device=self.fixed.device).T
        self.last, self.width, self.factor, self.offset = columns.reshape(4, -1, *[1] * len(self.inner))

    def take(self, index: NDArray[np.int64]) -> TorchNormal:
        """The same for some pairs of the batch."""
        other = copy.copy(self)
        for name in ("moving", "cover", "fixed", "weight", "slopes"):
            value = getattr(self, name)
            setattr(other, name, None if value is None else take(value, torch.from_numpy(index)))
        return other

    def thinned(self, share: float) -> TorchNormal:
        """The same over a share of the planes of the fixed image, evenly spread; sums are scaled up."""
        every = max(1, min(round(1 / share), len(self.axes[0]) // 8))
        other = self._planes(slice(None, None, every))
        other.scale = self.scale * len(self.axes[0]) / len(other.axes[0])
        return other

    def _planes(self, some: slice) -> TorchNormal:
        """The same over some planes of the fixed image."""
        other = copy.copy(self)
        other.slopes = self._slopes()[:, :, some]
        other.fixed, other.weight = self.fixed[:, some], self.weight[:, some]
        other.axes = [self.axes[0][some].contiguous(), *self.axes[1:]]
        other.powers = [self.powers[0][some], *self.powers[1:]]
        return other

    def warp(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The moving images at the maps, and weights, (B, *shape) each; differentiable in the maps.

        maps: (B, D, D+1) from xi to moving indices, float64.
        """
        coords, weight = self._coordinates(maps)
        return self._sampled(self.moving, coords), self._covered(weight, coords)

    def __call__(self, maps: Floats) -> Sums:
        """The sums at (B, D, D+1) maps from xi to moving indices; one transfer to the CPU."""
        batch, ndim = maps.shape[:2]
        planes = len(self.axes[0])
        step = self._planes_at_once(batch)
        there = torch.from_numpy(maps).to(self.fixed.device, torch.float32)
        with torch.no_grad():
            parts = [self] if step >= planes else [self._planes(slice(k, k + step)) for k in range(0, planes, step)]
            total = sum(part._moments(there) for part in parts)
        found = torch.as_tensor(total).cpu().numpy() * self.scale
        lines = [tuple(int(a == b) for a in range(ndim)) for b in range(ndim)] + [(0,) * ndim]
        linear = np.stack([_entry(found, line) for line in lines], -1)[:, 6 : 6 + 3 * ndim]
        pairs = [_sum(lines[e], lines[f]) for e in range(ndim + 1) for f in range(e, ndim + 1)]
        square = np.stack([_entry(found, degrees) for degrees in pairs], -1)[:, 6 + 3 * ndim :]
        scalars = _entry(found, lines[-1])[:, :6]
        return _turned(scalars, linear.reshape(batch, 3, ndim, -1), _unfolded(square, ndim), maps, self.shape)

    def _planes_at_once(self, batch: int) -> int:
        return max(1, _AT_ONCE // (batch * math.prod(self.shape[1:])))

    def _moments(self, maps: Tensor) -> Tensor:
        """(B, K, 3, ...) moments of the K images whose sums are wanted."""
        coords, weight = self._coordinates(maps)
        w, v = self._sampled(self.moving, coords)[:, None], self._covered(weight, coords)[:, None]
        d, g = self.fixed[:, None] - w, self._slopes()
        both = torch.cat([d, w], 1)
        some, vg = v * both, v * g
        images = [v, some, some[:, :1] * both, some[:, 1:] * w, vg, vg * w, vg * d]
        images += [vg[:, a : a + 1] * g[:, a:] for a in range(g.shape[1])]
        together = torch.cat(images, 1)
        found = _moments(together.flatten(0, 1), self.powers)
        return found.reshape(*together.shape[:2], *found.shape[1:])

    def _slopes(self) -> Tensor:
        """(B, D, *shape) central differences of the fixed image."""
        if self.slopes is None:
            parts = [
                torch.gradient(self.fixed, dim=k + 1)[0] if n > 1 else torch.zeros_like(self.fixed)
                for k, n in enumerate(self.shape)
            ]
            self.slopes = torch.stack(parts, 1)
        return self.slopes

    def _coordinates(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *shape, D) coordinates for grid_sample and (B, *shape) weights of the edges."""
        ndim = len(self.inner)
        maps = maps.to(self.fixed.device, torch.float32).flip(1).reshape(-1, ndim, ndim + 1, *[1] * ndim)
        u = maps[:, :, ndim]
        for axis in range(ndim):
            one = [1] * (ndim + 2)
            one[axis + 2] = -1
            u = u + maps[:, :, axis] * self.axes[axis].reshape(one)
        weight = self.weight
        for inside in _edge(u, self.last, self.width).unbind(1):
            weight = weight * inside
        return (u * self.factor + self.offset).movedim(1, -1), weight

    def _covered(self, weight: Tensor, coords: Tensor) -> Tensor:
        return weight if self.cover is None else weight * self._sampled(self.cover, coords)

    @staticmethod
    def _sampled(images: Tensor, coords: Tensor) -> Tensor:
        images = images.expand(len(coords), *images.shape[1:])[:, None]
        out = functional.grid_sample(images, coords, mode="bilinear", padding_mode="border", align_corners=False)
        return out[:, 0]


class TritonNormal(TorchNormal):
    """Sums by one compiled pass over the voxels of a GPU."""

    def _planes_at_once(self, batch: int) -> int:
        return len(self.axes[0])

    def _moments(self, maps: Tensor) -> Tensor:
        out = normal_equations_triton.row_sums(self, maps).flatten(-2)
        for axis in range(len(self.shape) - 2, -1, -1):
            out = torch.tensordot(out, self.powers[axis], dims=([axis + 1], [0]))
        found = out.reshape(len(out), -1, 3, *out.shape[2:])
        return found.permute(0, 1, *range(found.ndim - 1, 1, -1))


def _powers(axes: list[Tensor]) -> list[Tensor]:
    """(n, 3) powers of each axis up to the square, float64 but for the last."""
    found = [torch.stack([a**0, a, a**2], -1) for a in axes]
    return [*(p.to(torch.float64) for p in found[:-1]), found[-1]]


def _moments(images: Tensor, powers: list[Tensor]) -> Tensor:
    """(N, 3, ...) sums of (N, *shape) times monomials up to the square along each axis."""
    out = (images @ powers[-1]).to(torch.float64)
    for axis in range(images.ndim - 3, -1, -1):
        out = torch.tensordot(out, powers[axis], dims=([axis + 1], [0]))
    # The contracted axes were appended last to first.
    return out.permute(0, *range(images.ndim - 1, 0, -1))


def _sum(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _entry(moments: NDArray[np.float64], powers: tuple[int, ...]) -> Floats:
    """The sums of (B, K) images times one monomial."""
    where: Any = (slice(None), slice(None), *powers)
    return np.asarray(moments[where])


def scaling(shape: tuple[int, ...]) -> Floats:
    """(D+1, D+1) from xi to fixed indices."""
    half = np.array([(n - 1) / 2 for n in shape])
    m = np.diag([*np.maximum(half, 0.5), 1.0])
    m[:-1, -1] = half
    return m


def edge_weight(u: Tensor, n: int) -> Tensor:
    """1 inside, falling to 0 at the outer faces: an overlap that grows and shrinks smoothly."""
    return _edge(u, n - 1, edge_width(n))


def _edge(u: Tensor, last: Tensor | float, width: Tensor | float) -> Tensor:
    inside: Tensor = torch.minimum(u, last - u) + 0.5
    return (inside / width).clamp(0, 1)


def edge_width(n: int) -> float:
    """Voxels over which the edge of an image gains its full weight.

    Near an edge smoothing knows one side only; thin axes cannot spare the voxels.
    """
    return 2.0 if n >= 48 else 1.0


def edges(n: int, device: torch.device) -> Tensor:
    """(n,) the weight along an axis of the fixed image."""
    return edge_weight(torch.arange(n, dtype=torch.float32), n).to(device)


def fixed_weight(level: Level) -> Tensor:
    """(1 or B, *shape) the fixed image's own weight times that of its edges."""
    shape = level.fixed.grid.shape
    device = level.fixed.values.device
    weight = torch.ones((1,) * (len(shape) + 1), device=device)
    for axis, n in enumerate(shape):
        one = [1] * (len(shape) + 1)
        one[axis + 1] = -1
        weight = weight * edges(n, device).reshape(one)
    return weight if level.fixed.weight is None else weight * level.fixed.weight


def _scaled_axis(n: int, device: torch.device) -> Tensor:
    half = max((n - 1) / 2, 0.5)
    return torch.from_numpy(((np.arange(n) - (n - 1) / 2) / half).astype(np.float32)).to(device)


def possible_overlap(level: Level) -> Floats:
    """(B or 1,) weight that the smaller of the two images could bring in, in fixed voxels."""
    shape = level.fixed.grid.shape
    if level.fixed.weight is None:
        fixed = np.array([math.prod(float(edges(n, torch.device("cpu")).sum()) for n in shape)])
    else:
        fixed = fixed_weight(level).flatten(1).sum(1, dtype=torch.float64).cpu().numpy()
    ratio = math.prod(level.moving.grid.spacing) / math.prod(level.fixed.grid.spacing)
    if level.moving.weight is None:
        moving = np.array([float(math.prod(level.moving.grid.shape))])
    else:
        moving = level.moving.weight.flatten(1).sum(1, dtype=torch.float64).cpu().numpy()
    return np.asarray(np.maximum(np.minimum(fixed, moving * ratio), 1e-9))


Normal = NumbaNormal | TorchNormal
