"""The sums of a Gauss-Newton step (see `normal_equations.sums`) by torch, on any device, and by Triton on GPUs."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from daskreg.registration.normal_equations import equations_triton
from daskreg.registration.normal_equations.edge_weights import edge_weight, edge_width, fixed_weight, scaled_axis
from daskreg.registration.normal_equations.equations_triton import RowSumInputs
from daskreg.registration.normal_equations.sums import NormalSums, full_square, with_moving_gradient
from daskreg.registration.pyramids.pyramid import PyramidLevel, take

Floats = NDArray[np.float64]

# Voxels of the fixed images that torch sums at a time, in 3D with some 250 bytes each.
_VOXELS_AT_ONCE = 1 << 24
# Voxels of an axis above which coordinates are float64. Those of grid_sample are in [-1, 1], so float32 rounds them by
# up to n / 2**24 voxels in an image of n: here by a tenth of the tolerance at which an estimate ends.
_LONG_AXIS = 2048


class NormalEquationsTorch:
    """Sums by torch, on the device where the level's images are.

    There are few operations, each on many voxels: on a GPU each operation costs microseconds to start.
    """

    def __init__(self, level: PyramidLevel) -> None:
        moving = level.moving
        self.moving_shape = moving.grid.shape
        self.moving = moving.values
        self.moving_weight = moving.weight
        self.fixed = level.fixed.values
        self.shape = level.fixed.grid.shape
        self.gradient: Tensor | None = None
        self.weight = fixed_weight(level)
        self.scale = 1.0
        device = self.fixed.device
        axes = [torch.from_numpy(scaled_axis(n)) for n in self.shape]
        self.axes = [t.to(self._coordinate_type()).to(device) for t in axes]
        self.powers = [t.to(device) for t in _powers(axes)]
        # One row for each axis of the moving image, x first: its last index, the width of its edge, and the
        # factor and offset that turn indices into the coordinates of grid_sample.
        rows = [(n - 1, edge_width(n), 2 / n, 1 / n - 1) for n in self.moving_shape[::-1]]
        columns = torch.tensor(rows, dtype=self._coordinate_type(), device=device).T
        self.last, self.width, self.factor, self.offset = columns.reshape(4, -1, *[1] * len(self.moving_shape))

    def _coordinate_type(self) -> torch.dtype:
        short = max(*self.shape, *self.moving_shape) <= _LONG_AXIS
        return torch.float32 if short or self.fixed.device.type == "mps" else torch.float64

    def take(self, index: NDArray[np.int64]) -> NormalEquationsTorch:
        """The same for some pairs of the batch."""
        other = copy.copy(self)
        for name in ("moving", "moving_weight", "fixed", "weight", "gradient"):
            value = getattr(self, name)
            setattr(other, name, None if value is None else take(value, torch.from_numpy(index)))
        return other

    def subsampled(self, share: float) -> NormalEquationsTorch:
        """The same over a share of the planes of the fixed image, evenly spread; sums are scaled up."""
        if share >= 1:
            return self
        every = max(1, min(round(1 / share), len(self.axes[0]) // 8))
        other = self._planes(slice(None, None, every))
        other.scale = self.scale * len(self.axes[0]) / len(other.axes[0])
        return other

    def _planes(self, some: slice) -> NormalEquationsTorch:
        """The same over some planes of the fixed image."""
        other = copy.copy(self)
        other.gradient = self._gradient()[:, :, some]
        other.fixed, other.weight = self.fixed[:, some], self.weight[:, some]
        other.axes = [self.axes[0][some].contiguous(), *self.axes[1:]]
        other.powers = [self.powers[0][some], *self.powers[1:]]
        return other

    def warp(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The moving images at the maps, and weights, (B, *shape) each; differentiable in the maps.

        maps: (B, D, D+1) from xi to moving indices, float64.
        """
        coords, weight = self._coordinates(maps)
        return self._sampled(self.moving, coords), self._with_moving_weight(weight, coords)

    def __call__(self, maps: Floats) -> NormalSums:
        """The sums at (B, D, D+1) maps from xi to moving indices; one transfer to the CPU."""
        batch, ndim = maps.shape[:2]
        planes = len(self.axes[0])
        step = self._planes_at_once(batch)
        there = torch.from_numpy(maps).to(self._coordinate_type()).to(self.fixed.device)
        with torch.no_grad():
            parts = [self] if step >= planes else [self._planes(slice(k, k + step)) for k in range(0, planes, step)]
            total = sum(part._moments(there) for part in parts)
        moments = torch.as_tensor(total).cpu().numpy() * self.scale
        lines = [tuple(int(a == b) for a in range(ndim)) for b in range(ndim)] + [(0,) * ndim]
        linear = np.stack([_entry(moments, line) for line in lines], -1)[:, 6 : 6 + 3 * ndim]
        pairs = [_sum(lines[e], lines[f]) for e in range(ndim + 1) for f in range(e, ndim + 1)]
        square = np.stack([_entry(moments, degrees) for degrees in pairs], -1)[:, 6 + 3 * ndim :]
        scalars = _entry(moments, lines[-1])[:, :6]
        linear = linear.reshape(batch, 3, ndim, -1)
        return with_moving_gradient(scalars, linear, full_square(square, ndim), maps, self.shape)

    def _planes_at_once(self, batch: int) -> int:
        return max(1, _VOXELS_AT_ONCE // (batch * math.prod(self.shape[1:])))

    def _moments(self, maps: Tensor) -> Tensor:
        """(B, K, 3, ...) moments of the K images that are summed."""
        coords, weight = self._coordinates(maps)
        w, v = self._sampled(self.moving, coords)[:, None], self._with_moving_weight(weight, coords)[:, None]
        d, g = self.fixed[:, None] - w, self._gradient()
        both = torch.cat([d, w], 1)
        weighted, vg = v * both, v * g
        images = [v, weighted, weighted[:, :1] * both, weighted[:, 1:] * w, vg, vg * w, vg * d]
        images += [vg[:, a : a + 1] * g[:, a:] for a in range(g.shape[1])]
        together = torch.cat(images, 1)
        moments = _moments(together.flatten(0, 1), self.powers)
        return moments.reshape(*together.shape[:2], *moments.shape[1:])

    def _gradient(self) -> Tensor:
        """(B, D, *shape) central differences of the fixed image."""
        if self.gradient is None:
            parts = [
                torch.gradient(self.fixed, dim=k + 1)[0] if n > 1 else torch.zeros_like(self.fixed)
                for k, n in enumerate(self.shape)
            ]
            self.gradient = torch.stack(parts, 1)
        return self.gradient

    def _coordinates(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *shape, D) coordinates for grid_sample and (B, *shape) weights of the edges."""
        ndim = len(self.moving_shape)
        maps = maps.to(self._coordinate_type()).to(self.fixed.device).flip(1).reshape(-1, ndim, ndim + 1, *[1] * ndim)
        u = maps[:, :, ndim]
        for axis in range(ndim):
            one = [1] * (ndim + 2)
            one[axis + 2] = -1
            u = u + maps[:, :, axis] * self.axes[axis].reshape(one)
        weight = self.weight
        for inside in edge_weight(u, self.last, self.width).to(weight.dtype).unbind(1):
            weight = weight * inside
        return (u * self.factor + self.offset).movedim(1, -1), weight

    def _with_moving_weight(self, weight: Tensor, coords: Tensor) -> Tensor:
        return weight if self.moving_weight is None else weight * self._sampled(self.moving_weight, coords)

    @staticmethod
    def _sampled(images: Tensor, coords: Tensor) -> Tensor:
        many = images.to(coords.dtype).expand(len(coords), *images.shape[1:])[:, None]
        out = functional.grid_sample(many, coords, mode="bilinear", padding_mode="border", align_corners=False)
        return out[:, 0].to(images.dtype)


class NormalEquationsTriton(NormalEquationsTorch):
    """Sums by one compiled pass over the voxels of a GPU."""

    def _coordinate_type(self) -> torch.dtype:
        return torch.float64

    def _planes_at_once(self, batch: int) -> int:
        return len(self.axes[0])

    def _moments(self, maps: Tensor) -> Tensor:
        widths = [edge_width(n) for n in self.moving_shape]
        inputs = RowSumInputs(
            self.fixed, self.weight, self._gradient(), self.moving, self.moving_weight, self.axes, widths
        )
        out = equations_triton.row_sums(inputs, maps).flatten(-2)
        for axis in range(len(self.shape) - 2, -1, -1):
            out = torch.tensordot(out, self.powers[axis], dims=([axis + 1], [0]))
        moments = out.reshape(len(out), -1, 3, *out.shape[2:])
        return moments.permute(0, 1, *range(moments.ndim - 1, 1, -1))


def _powers(axes: list[Tensor]) -> list[Tensor]:
    """(n, 3) powers of each axis up to the square, float64 but for the last axis."""
    powers = [torch.stack([a**0, a, a**2], -1) for a in axes]
    return [*powers[:-1], powers[-1].to(torch.float32)]


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
    index: Any = (slice(None), slice(None), *powers)
    return np.asarray(moments[index])
