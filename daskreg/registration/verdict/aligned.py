"""A pair at a pose: the images on the grid of the fixed one, and how the pose may change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.geometry import Grid
from daskreg.registration.normal_equations.edge_weights import scaling
from daskreg.registration.normal_equations.equations_torch import NormalEquationsTorch
from daskreg.registration.pyramids.pyramid import PyramidLevel

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]


@dataclass(frozen=True)
class Aligned:
    """One pair on one level.

    images: (2, *shape) the fixed image and the moving one warped onto it. weight: (*shape) of the overlap, 0..1.
    fixed, moving: the grids of both before. step: size of the level's voxels in the world.
    names: (P,) of the free parameters. motion: (D+1, D+1) `moving_from_fixed`. derivatives: (P, D+1, D+1) of it.
    """

    images: Singles
    weight: Singles
    fixed: Grid
    moving: Grid
    step: float
    names: tuple[str, ...]
    motion: Floats
    derivatives: Floats

    @property
    def units(self) -> Floats:
        """(P,) voxels by which a unit of each parameter moves the farthest corner."""
        corners = np.concatenate([self.fixed.corners(), np.ones((2**self.fixed.ndim, 1))], 1).T
        moved = np.linalg.norm((self.derivatives @ corners)[:, :-1], axis=1).max(-1)
        return np.asarray(np.maximum(moved / self.step, 1e-12))


def aligned(level: PyramidLevel, names: tuple[str, ...], motion: Floats, derivatives: Floats) -> Aligned:
    """The pair of a level at a pose.

    Args:
        level: of one pair.
    """
    fixed, moving = level.fixed, level.moving
    maps = moving.grid.inverse_matrix[:-1] @ motion @ fixed.grid.matrix @ scaling(fixed.grid.shape)
    warped, weight = NormalEquationsTorch(level).warp(torch.from_numpy(maps[None]))
    images = torch.cat([fixed.values[:1], warped]).cpu().numpy()
    inside = weight[0].clamp(0, 1).cpu().numpy()
    return Aligned(images, inside, fixed.grid, moving.grid, level.step, names, motion, derivatives)
