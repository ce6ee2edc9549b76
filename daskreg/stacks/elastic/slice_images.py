"""The slices of a stack on one level of a pyramid, and what their maps make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from daskreg.fields.index_map import DisplacedIndexMap
from daskreg.geometry import Grid, Transform
from daskreg.registration.deformable.level_images import slopes_of
from daskreg.registration.normal_equations.edge_weights import axis_weights
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.runtime.threads import pool_threads
from daskreg.sampling.sample import sample

Singles = NDArray[np.float32]


@dataclass(frozen=True)
class WarpedSlice:
    """A slice on the grid of the aligned stack.

    values: (*shape), zero where unknown. weight: (*shape) 0..1, zero also beside what is unknown. gradient:
    (D, *shape) by world units along the axes of the grid.
    """

    values: Singles
    weight: Singles
    gradient: Singles


@dataclass(frozen=True)
class SliceImages:
    """values: (N, *shape), NaN where masked. grid: of every slice, and of the aligned stack. step: of the level."""

    values: Singles
    grid: Grid
    step: float

    @classmethod
    def of(cls, level: PyramidLevel) -> SliceImages:
        """The images that are `fixed` in a level."""
        values = level.fixed.values.numpy()
        if level.fixed.weight is not None:
            values = np.where(level.fixed.weight.numpy() > 0.5, values, np.float32(np.nan))
        return cls(np.ascontiguousarray(values), level.fixed.grid, level.step)

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def _edges(self) -> Singles:
        weight = np.ones((), np.float32)
        for n in self.grid.shape:
            weight = np.multiply.outer(weight, axis_weights(n, torch.device("cpu")).numpy())
        return np.asarray(weight, dtype=np.float32)

    def warp(self, number: int, transform: Transform, *, order: int = 1) -> WarpedSlice:
        """A slice, where its map leads."""
        where = transform.index_map(self.grid, self.grid, self.grid.names)
        if not isinstance(where, DisplacedIndexMap):
            raise TypeError("a transform with a displacement field is needed")
        box, threads = self.grid.box, pool_threads() > 1
        found = np.asarray(
            sample(self.values[number], box, where.coordinates(box), box, order=order, fill=np.nan, parallel=threads)
        )
        known = np.isfinite(found)
        if known.all():
            return WarpedSlice(found, self._edges, slopes_of(found, self.grid.spacing))
        values = np.where(known, found, np.float32(0))
        inner = binary_erosion(known, np.ones((3,) * known.ndim), border_value=True)
        gradient = slopes_of(values, self.grid.spacing)
        return WarpedSlice(
            values, np.where(inner, self._edges, np.float32(0)), np.where(inner, gradient, np.float32(0))
        )


def block_index(shape: Sequence[int], blocks: Sequence[int]) -> list[NDArray[np.intp]]:
    """For each axis, the first voxel of each of so many blocks of about equal length."""
    return [np.arange(b) * n // b for n, b in zip(shape, blocks, strict=True)]
