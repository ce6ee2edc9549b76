"""What is estimated from a pair of images, and how it is solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import NoOverlapError, OptionError
from daskreg.geometry import Affine, Grid, as_affine, shared_unit
from daskreg.registration.pose import Pose
from daskreg.reporting.fit import Fit

Floats = NDArray[np.float64]

METRICS = ("ncc", "mse")
"""The metrics that Gauss-Newton minimises."""


@dataclass(frozen=True)
class Problem:
    """What is estimated; the same on all levels.

    pose: the free parameters of the motion M(p), `moving_from_fixed` in the world.
    centre: (D,) world point that rotation, scale and shear leave in place.
    metric: "ncc" or "mse" for Gauss-Newton; with autograd, the name of the loss.
    min_overlap: fraction of the smaller image below which no pose is accepted.
    """

    pose: Pose
    centre: Floats
    metric: str = "ncc"
    min_overlap: float = 0.15

    def parameters_of(self, matrices: Sequence[Floats] | Floats, grid: Grid) -> Floats:
        """(B, P) parameters of the poses nearest to (B, D+1, D+1) motions, over the extent of a grid."""
        return self.pose.from_matrices(np.stack(tuple(matrices)), self.centre, half_extent(grid)).numpy()


@dataclass(frozen=True)
class SolverOptions:
    """How a pair is solved.

    levels: of the pyramid; "auto" starts at about 32 voxels along the longest side.
    smoothing: sigma of the finest level in voxels, of both images.
    max_iterations: for each level.
    tolerance: a pair has converged when a step moves no corner by more than this many voxels of the finest level.
    robust: reject outlier regions, decide whether flat borders count, and smooth more where there is much noise.
    device: "cpu" or "cuda:<i>", where the images are.
    """

    levels: int | str = "auto"
    smoothing: float = 0.5
    max_iterations: int = 100
    tolerance: float = 1e-3
    robust: bool = True
    device: str = "cpu"


def check_metric(metric: str) -> None:
    """Raise OptionError for a metric that Gauss-Newton does not minimise."""
    if metric not in METRICS:
        raise OptionError(f"metric {metric!r} is not one that Gauss-Newton minimises: use {', '.join(METRICS)}")


def half_extent(grid: Grid) -> Floats:
    """(D,) world distances from the centre of a grid to its outer voxels along each axis, of half a voxel at least."""
    return np.asarray(np.maximum((np.asarray(grid.shape) - 1) / 2, 0.5) * np.asarray(grid.spacing))


def start_of(init: Any, ndim: int, unit: str | None) -> Floats:
    """(D+1, D+1) the motion of an Affine or a fit."""
    affine = as_affine(init.pull if isinstance(init, Fit) else init, ndim, "init")
    shared_unit(affine.unit, unit, "init and the images")
    return affine.matrix


def check_overlap(fixed: Grid, moving: Grid, start: Floats) -> None:
    """Raise NoOverlapError where the fixed grid, moved by `start`, misses the moving grid."""
    corners = Affine(start)(fixed.corners(faces=True))
    low, high = moving.extent
    if np.any(corners.min(axis=0) >= high) or np.any(corners.max(axis=0) <= low):
        boxes = [
            ", ".join(f"{n} {a:.6g}..{b:.6g}" for n, a, b in zip(g.names, *g.extent, strict=True)) + f" {g.unit}"
            for g in (fixed, moving)
        ]
        raise NoOverlapError(
            f"the images do not overlap in the world: fixed spans {boxes[0]}, moving {boxes[1]}; "
            'check their coordinates, or pass init="moments" or "search" to bring them together'
        )
