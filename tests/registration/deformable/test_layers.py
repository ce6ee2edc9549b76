"""Layers of B-splines while they are estimated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from daskreg.geometry import Affine, Grid
from daskreg.registration.deformable.splines.control_grid import control_grids
from daskreg.registration.deformable.splines.layers import Layers
from daskreg.registration.deformable.splines.one_layer import in_one_layer
from daskreg.registration.deformable.splines.one_to_one import is_one_to_one


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_affine_part_of_a_field_goes_into_the_base_and_nothing_moves(ndim: int) -> None:
    rng = np.random.default_rng(0)
    turn = Rotation.from_euler("zyx", (0.3, -0.2, 0.1)).as_matrix() if ndim == 3 else [[0.8, -0.6], [0.6, 0.8]]
    grid = Grid((31, 37, 26)[:ndim], (1.0, 0.7, 2.0)[:ndim], 5.0, turn, unit="um")
    control = control_grids(grid, (8.0, 6.0, 11.0)[:ndim])[-1]
    start = Layers.start(Affine.identity(ndim, unit="um"), control)
    layers = start.at(rng.uniform(-1, 1, start.current.shape))
    points = grid.world(rng.uniform(0, np.array(grid.shape) - 1, (50, ndim)))
    once = layers.rebased()
    np.testing.assert_allclose(once.transform(points), layers.transform(points), atol=1e-10)
    np.testing.assert_allclose(once.rebased().base.matrix, once.base.matrix, atol=1e-10)
    # From another affine map with the same motion: the same base and the same field.
    matrix = np.eye(ndim + 1)
    matrix[:-1] += rng.uniform(-0.01, 0.01, (ndim, ndim + 1))
    other = Affine(matrix, unit="um")
    nodes = control.grid.world(np.moveaxis(np.indices(control.shape), 0, -1).reshape(-1, ndim))
    away = layers.current.reshape(ndim, -1).T @ np.asarray(turn).T
    left = (other.inverse()(nodes + away) - nodes) @ np.asarray(turn)
    twice = Layers.start(other, control).at(left.T.reshape(layers.current.shape)).rebased()
    np.testing.assert_allclose(twice.base.matrix, once.base.matrix, atol=1e-10)
    np.testing.assert_allclose(twice.current, once.current, atol=1e-10)


@pytest.mark.parametrize("ndim", [2, 3])
def test_finished_layers_give_their_affine_part_away_too(ndim: int) -> None:
    """The first of two layers has control points that are four times as far apart as those of the current one."""
    rng = np.random.default_rng(2)
    turn = Rotation.from_euler("zyx", (0.3, -0.2, 0.1)).as_matrix() if ndim == 3 else [[0.8, -0.6], [0.6, 0.8]]
    grid = Grid((31, 47, 26)[:ndim], (1.0, 0.7, 2.0)[:ndim], 5.0, turn, unit="um")
    first, *finer = control_grids(grid, (2.0, 2.0, 4.0)[:ndim])
    assert len(finer) == 2
    points = grid.world(rng.uniform(0, np.array(grid.shape) - 1, (50, ndim)))
    found = []
    for shift in (0.0, 0.3):  # two starts that differ by a translation, which the first layer takes back
        base = Affine.translation(ndim=ndim, unit="um", x=shift)
        layers = Layers.start(base, first)
        back = np.tensordot(np.asarray(turn).T, [0.0] * (ndim - 1) + [shift], axes=1)
        coefficients = np.random.default_rng(3).uniform(-1, 1, layers.current.shape)
        layers = layers.at(coefficients - back.reshape(-1, *[1] * ndim)).finish()
        for control in finer:
            layers = layers.refined(control)
        layers = layers.at(np.random.default_rng(4).uniform(-0.2, 0.2, layers.current.shape))
        once = layers.rebased()
        np.testing.assert_allclose(once.transform(points), layers.transform(points), atol=1e-9)
        np.testing.assert_array_equal(once.current, layers.current)
        refined = once.finished[0][1]
        for coarser, control in zip([first, *finer], finer, strict=False):
            refined = control.refined(coarser, refined)
        np.testing.assert_allclose(once.before, refined, atol=1e-9)
        found.append(once)
    np.testing.assert_allclose(found[0].base.matrix, found[1].base.matrix, atol=1e-9)
    np.testing.assert_allclose(found[0].total, found[1].total, atol=1e-9)


def test_bases_that_are_not_affine_stay() -> None:
    control = control_grids(Grid((40, 50)), (10.0, 10.0))[-1]
    start = Layers.start(Affine.translation(y=3.0, x=1.0), control)
    layers = start.at(np.random.default_rng(1).uniform(-2, 2, start.current.shape))
    on_field = Layers.start(layers.transform, control).at(layers.current)
    assert on_field.rebased() is on_field
    # At the limit, where the rest of the field would exceed it, the layer stays too.
    full = start.at(np.broadcast_to(control.limits.reshape(2, 1, 1), start.current.shape) * np.sign(layers.current))
    assert np.all(np.abs(full.rebased().current) <= control.limits.reshape(2, 1, 1))


@pytest.mark.parametrize("ndim", [2, 3])
def test_many_clipped_layers_lead_over_no_border(ndim: int) -> None:
    """A layer ends beyond the image, so that points that earlier ones brought farther would jump."""
    grid = Grid((24, 20, 22)[:ndim])
    control = control_grids(grid, (2.0,) * ndim)[-1]
    layers = Layers.start(Affine.identity(ndim, unit=grid.unit), control)
    for _ in range(5):
        layers = layers.clipped(np.full((ndim, *control.shape), 10.0)).finish()
    along = np.linspace(-0.5, grid.shape[-1] - 0.5, 4000)
    points = np.full((len(along), ndim), 10.0)
    points[:, -1] = along
    moved = layers.transform(points)[:, -1]
    assert np.all(np.diff(moved) > 0)
    assert (moved - along).max() > 2


@pytest.mark.parametrize("ndim", [2, 3])
def test_several_layers_become_one_that_moves_points_as_they_do(ndim: int) -> None:
    rng = np.random.default_rng(5)
    turn = Rotation.from_euler("zyx", (0.3, -0.2, 0.1)).as_matrix() if ndim == 3 else [[0.8, -0.6], [0.6, 0.8]]
    grid = Grid((41, 47, 36)[:ndim], (1.0, 0.7, 2.0)[:ndim], 5.0, turn, unit="um")
    coarse, *_, control = control_grids(grid, (4.0, 3.0, 8.0)[:ndim])
    layers = Layers.start(Affine.translation(ndim=ndim, unit="um", x=0.4), coarse)
    layers = layers.at(1.5 * rng.uniform(-1, 1, layers.current.shape)).finish().refined(control)
    layers = layers.at(0.2 * rng.uniform(-1, 1, layers.current.shape))
    one = in_one_layer(layers, 0.3)
    assert not one.finished
    assert is_one_to_one(control, one.current)
    np.testing.assert_array_equal(one.total, one.current)
    points = grid.world(rng.uniform(0, np.array(grid.shape) - 1, (400, ndim)))
    moved, alone = (x.transform(points) - points for x in (layers, one))
    assert np.linalg.norm(moved, axis=1).max() > 1.0
    assert np.linalg.norm(alone - moved, axis=1).max() < 0.1
    assert in_one_layer(layers, 1e-6) is layers  # it is not as near as that
    assert in_one_layer(one, 0.3) is one


def test_a_region_that_is_left_out_continues_what_surrounds_it() -> None:
    grid = Grid((120, 140), (1.0, 0.7), 3.0)
    control = control_grids(grid, (8.0, 7.0))[-1]
    layers = Layers.start(Affine.identity(2), control)
    smooth = np.zeros_like(layers.current)
    smooth[0] = 0.3 * np.indices(control.shape)[1] - 0.1 * np.indices(control.shape)[0]
    astray = np.zeros_like(layers.current)
    astray[:, 8:11, 9:12] = 3.0
    layers = layers.at(smooth).finish()
    unknown = np.zeros(grid.shape, bool)
    unknown[30:90, 50:110] = True
    one = in_one_layer(layers.at(astray), 0.5, unknown=unknown)
    assert not one.finished
    points = grid.world(np.stack(np.meshgrid(np.arange(4.0, 116, 5), np.arange(4.0, 136, 5), indexing="ij"), -1))
    points = points.reshape(-1, 2)
    wrong, left = (
        np.linalg.norm(x.transform(points) - layers.transform(points), axis=1) for x in (layers.at(astray), one)
    )
    assert wrong.max() > 2.0
    assert left.max() < 0.2


def test_layers_that_lead_farther_than_one_may_stay_as_they_are() -> None:
    grid = Grid((60, 70))
    control = control_grids(grid, (10.0, 10.0))[-1]
    layers = Layers.start(Affine.identity(2), control)
    far = np.zeros_like(layers.current)
    far[0, 4:-4, 4:-4] = 0.6 * control.spacing[0]
    far = layers.allowed(far)[0]
    for _ in range(4):
        layers = layers.at(far).finish()
    assert in_one_layer(layers, 0.5) is layers


def test_control_points_are_found_that_voxels_are_nearest_to() -> None:
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    grid = Grid((23, 31), (1.0, 0.7), 5.0, turn)
    control = control_grids(grid, (6.0, 5.0))[-1]
    nodes = control.grid.world(np.moveaxis(np.indices(control.shape), 0, -1).reshape(-1, 2))
    nearest = control.nearest(grid)
    for voxel in ((0, 0), (11, 7), (22, 30)):
        distances = np.linalg.norm(nodes - grid.world(np.array([voxel], float)), axis=1).reshape(control.shape)
        expected = np.unravel_index(distances.argmin(), control.shape)
        assert tuple(one[k] for one, k in zip(nearest, voxel, strict=True)) == expected
