"""The sums of a Gauss-Newton step for a batch of pairs (see `normal_equations.sums`), by the code for the device.

Compiled code on CPUs and, by Triton, on GPUs; torch elsewhere. Nothing else touches voxels while a pose is
estimated.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.registration.normal_equations import equations_triton
from daskreg.registration.normal_equations.edge_weights import edge_width, scaled_axis, scaled_step
from daskreg.registration.normal_equations.equations_numba import sums_of_chunks
from daskreg.registration.normal_equations.equations_torch import NormalEquationsTorch, NormalEquationsTriton
from daskreg.registration.normal_equations.part import Part
from daskreg.registration.normal_equations.sums import SCALARS, NormalSums, full_square, with_moving_gradient
from daskreg.registration.pyramids.pyramid import PyramidLevel, take
from daskreg.runtime.threads import pool_threads, spread
from daskreg.runtime.torch_instead import uses_compiled

Floats = NDArray[np.float64]

# Voxels of the fixed image that one compiled call sums at a time.
_CHUNK = 1 << 15
_GOLDEN = (math.sqrt(5) - 1) / 2


def normal_equations_of(level: PyramidLevel) -> NormalEquations:
    """The implementation for the device where the images of a level are."""
    if uses_compiled(level.fixed.values):
        return NormalEquationsNumba(level)
    device = level.fixed.values.device
    return (NormalEquationsTriton if equations_triton.ready(device) else NormalEquationsTorch)(level)


class NormalEquationsNumba:
    """Sums by compiled code on the CPU, in `pool_threads()` threads."""

    def __init__(self, level: PyramidLevel, part: Part | None = None) -> None:
        """Of a level, or of a part of it, whose sums add up to those of the level."""
        fixed, moving = level.fixed, level.moving
        part = part or Part.whole(level)
        self.moving = moving.values.contiguous()
        self.moving_weight = (
            torch.empty((1,) + (0,) * moving.grid.ndim) if moving.weight is None else moving.weight.contiguous()
        )
        self.shape, n = fixed.grid.shape, part.fixed.shape[-1]
        self.fixed = fixed.values.reshape(len(fixed.values), -1, n).contiguous()
        rows = self.fixed.shape[1]
        self.weight = (
            torch.empty((1, rows, 0)) if fixed.weight is None else fixed.weight.reshape(-1, rows, n).contiguous()
        )
        scaled = tuple(scaled_axis(n)[s].copy() for n, s in zip(self.shape, part.fixed.slices, strict=True))
        self.axes = scaled, part.axis_weights(self.shape), scaled_step(self.shape[-1])
        self.widths = np.array([edge_width(n) for n in moving.grid.shape], dtype=np.float32)
        self.place = part.moving.shape, np.array(part.moving.start), moving.grid.shape
        self.rows = part.rows()
        self.all_rows = len(self.rows)

    def take(self, index: NDArray[np.int64]) -> NormalEquationsNumba:
        """The same for some pairs of the batch."""
        other = copy.copy(self)
        for name in ("moving", "moving_weight", "fixed", "weight"):
            setattr(other, name, take(getattr(self, name), torch.from_numpy(index)))
        return other

    def subsampled(self, share: float) -> NormalEquationsNumba:
        """The same over a share of the rows of the fixed image, evenly spread; sums are scaled up."""
        if share >= 1:
            return self
        other = copy.copy(self)
        chosen = (self.rows * _GOLDEN) % 1 < share
        other.rows = self.rows[chosen] if chosen.any() else self.rows
        return other

    def __call__(self, maps: Floats) -> NormalSums:
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
        images, cover = (v.numpy().reshape(len(v), -1) for v in (self.moving, self.moving_weight))
        moving = images, cover, self.place
        fixed = self.fixed.numpy(), self.weight.numpy()
        inputs = (moving, fixed, np.ascontiguousarray(maps), self.axes, self.widths)
        threads = min(pool_threads(), len(chunks))
        if threads > 1:
            parts = [(self.rows, np.ascontiguousarray(chunks[k::threads])) for k in range(threads)]
            spread(threads, lambda part: sums_of_chunks(*inputs, part, out), parts)
        else:
            sums_of_chunks(*inputs, (self.rows, chunks), out)
        scale = self.all_rows / rows
        scalars, linear, square = (o.reshape(batch, pieces, *o.shape[1:]).sum(1) * scale for o in out)
        linear = linear.reshape(batch, ndim + 1, ndim, 3).transpose(0, 3, 2, 1)
        square = full_square(square.swapaxes(1, 2), ndim)
        return with_moving_gradient(scalars, linear, square, maps, self.shape)


NormalEquations = NormalEquationsNumba | NormalEquationsTorch
