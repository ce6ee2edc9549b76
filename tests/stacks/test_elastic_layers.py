"""Layers of fields of the slices of a stack while they are estimated."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from daskreg.fields import Composite
from daskreg.geometry import Affine, Grid, Transform
from daskreg.registration.deformable.splines.control_grid import control_grids
from daskreg.stacks.elastic.layers import StackLayers, largest_motion, reaching

Floats = NDArray[np.float64]
GRID = Grid((48, 62), (1.0, 1.5), 5.0, np.array([[0.8, -0.6], [0.6, 0.8]]))


def least_slope(transform: Transform, axis: int) -> float:
    """Of where points along lines of the image are led, the least growth along the line, by its length."""
    inner = np.arange(-0.5, GRID.shape[axis] - 0.5, 0.01)
    voxels = np.full((3, len(inner), 2), 20.0)
    voxels[..., axis], voxels[..., 1 - axis] = inner, np.array([[2.0], [20.0], [40.0]])
    moved = GRID.index(transform(GRID.world(voxels.reshape(-1, 2)))).reshape(voxels.shape)
    return float(np.diff(moved[..., axis], axis=1).min() / 0.01)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_layers_together_lead_no_point_to_where_one_of_them_ends(axis: int, sign: int) -> None:
    """Several in one direction over the border, with control points at their limits, and then finer ones."""
    coarse, fine = control_grids(GRID, (6.0, 6.0))[-2:]
    layers = StackLayers.start((Affine.identity(2),) * 2, coarse)
    for control in (coarse, coarse, fine, fine, fine):
        layers = layers if control is layers.control else layers.refined(control)
        most = np.zeros(layers.current.shape)
        most[1, axis] = sign * layers.limits[axis]  # the other slice stays where it is
        layers = layers.at(most).finish()
    assert least_slope(layers.of_slice(1), axis) > 0.05
    assert least_slope(layers.of_slice(0), axis) == pytest.approx(1)


@pytest.mark.parametrize("axis", [0, 1])
def test_layers_reach_as_far_as_points_are_moved_before(axis: int) -> None:
    """By the inverse of a field that is larger than the distance of its control points, which has to reach as far."""
    control = control_grids(GRID, (6.0, 6.0))[-1]
    most = np.zeros((1, 2, *control.shape))
    most[0, axis] = 0.45 * control.spacing[axis]
    moved = 3 * most
    away = largest_motion(moved)
    (slow,) = reaching([(control, moved)], away)
    layers = reaching(reaching([(control, -most), (control, -most)]), away)
    for step in (-1, 1):
        parts = [grid.field(step * c[0]) for grid, c in (*layers, slow)]
        transform = Composite.of(*parts[:-1], parts[-1].inverse())
        assert least_slope(transform, axis) == pytest.approx(1)
    assert reaching(layers, away) == layers, "as far as they have to already"
