"""Whether images determine the motion along their structures: lines show no shift along them, rings no turn."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from daskreg.geometry import Affine, Transform
from daskreg.registration.deformable.coarse_to_fine import coarse_to_fine, schedule
from daskreg.registration.deformable.level_images import Evaluated, LevelImages, slopes_of, without_edges
from daskreg.registration.deformable.splines.control_grid import ControlGrid
from daskreg.registration.deformable.splines.layers import Layers
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.registration.rejection import with_inliers

Floats = NDArray[np.float64]

# Voxels of a coarse level by which layers begin elsewhere. They slide where they end as far away as this share of what
# the turn alone has moved; by how much a misfit may be larger that is as good.
_MOVED, _SLID, _AS_WELL = 1.5, 0.3, 0.05
# Voxels over which products of gradients are averaged, and how many points are compared.
_AROUND, _POINTS = 5, 4096


def slides(
    transform: Transform,
    levels: Sequence[PyramidLevel],
    grids: Sequence[ControlGrid],
    *,
    inliers: torch.Tensor | None,
    metric: str,
    tolerance: float,
    max_iterations: int,
) -> bool:
    """Whether images fit as well after a motion along their structures, which they do not determine then.

    Lines show no shift along them, and rings no turn. An affine fit says so; but bent lines do determine an affine map,
    though layers follow them wherever it is. So what was found is moved by about `_MOVED` voxels of a coarse level, and
    layers are estimated from there, up to that level: they take back what the images determine.

    Args:
        transform: what was found. grids: that are solved for on the levels. inliers: of one level, see `with_inliers`.
    """
    plan, levels = schedule(grids, levels), [with_inliers(level, inliers) for level in levels]
    count = max(1, sum(number < len(levels) - 1 for _, number in plan))
    grid, number = plan[count - 1]
    images = LevelImages.of(levels[number], metric, grid.spacing)
    best = images.evaluate(transform)
    world, counts = _structures(images, best)
    there = transform(world)
    turn, other = _motions(there, counts, _MOVED * levels[number].step, transform.unit)
    again = coarse_to_fine(
        levels,
        plan,
        Layers.start(other @ turn @ transform, grids[0]),
        metric=metric,
        tolerance=tolerance,
        max_iterations=max_iterations,
        most=count,
    )
    if images.evaluate(again.transform).misfit > best.misfit + _AS_WELL:
        return False
    slid, turned = (float(counts @ ((one - there) ** 2).sum(1)) for one in (again.transform(world), turn(there)))
    return slid > _SLID**2 * turned


def _structures(images: LevelImages, found: Evaluated) -> tuple[Floats, Floats]:
    """(N, D) some voxels where both images show the same structure, in the world, and (N,) how much of it.

    By products of their gradients, whose noise is independent, around each voxel.
    """
    other = slopes_of(found.predicted, images.fixed_grid.spacing)
    common = (images.gradient * other).sum(0) * without_edges(found.weight)
    common = np.maximum(ndimage.uniform_filter(common, _AROUND), 0) * found.weight
    points = np.argwhere(common > 0)
    points = points[:: math.ceil(len(points) / _POINTS) or 1]
    return images.fixed_grid.world(points.astype(np.float64)), common[tuple(points.T)].astype(np.float64)


def _motions(points: Floats, counts: Floats, length: float, unit: str | None) -> tuple[Affine, Affine]:
    """A turn about the middle of points, which moves the outer ones by about `length`, and a shift and an enlargement,
    which move them by about half of it each."""
    ndim, centre = points.shape[1], np.average(points, axis=0, weights=counts)
    reach = 1.5 * math.sqrt(float(np.average(((points - centre) ** 2).sum(1), weights=counts)))
    signs = np.resize([1.0, -1.0], ndim) / math.sqrt(ndim)
    turns, scales = (("theta",) if ndim == 2 else ("rx", "ry", "rz")), ("sx", "sy", "sz")[:ndim]
    angles, scale = dict.fromkeys(turns, length / reach / math.sqrt(len(turns))), 1 + length / 2 / reach
    turn, enlarged = (
        Affine.from_parameters(one, ndim=ndim, centre=centre, unit=unit)
        for one in (angles, dict.fromkeys(scales, scale))
    )
    return turn, Affine.translation(length / 2 * signs, unit=unit) @ enlarged
