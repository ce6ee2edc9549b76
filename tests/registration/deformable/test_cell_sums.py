"""Sums over cells, control points and the linear system against dense matrices."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from daskreg.geometry import Box, Grid
from daskreg.registration.deformable.cell_sums import ControlSums, Residuals, cell_sums, diagonal_blocks, product
from daskreg.registration.deformable.splines.bending import BendingEnergy
from daskreg.registration.deformable.splines.control_grid import LARGEST, ControlGrid, control_grids
from daskreg.registration.deformable.system import System
from daskreg.runtime.threads import use_threads

CASES = [((23, 31), 6.3), ((11, 13, 17), 5.0)]
Floats = NDArray[np.float64]


def bases(control: ControlGrid, level: Grid, order: int = 0) -> list[Floats]:
    """(voxels, nodes) of each axis: scipy's cubic B-splines, or their derivatives by world units."""
    found = []
    for axis, (n, h) in enumerate(zip(control.shape, control.spacing, strict=True)):
        away = (np.asarray(level.origin) - np.asarray(control.grid.origin)) @ level.direction_matrix[:, axis]
        place = (away + level.spacing[axis] * np.arange(level.shape[axis])) / h
        one = BSpline.basis_element(np.arange(-2, 3), extrapolate=False).derivative(order)
        found.append(np.nan_to_num(one(place[:, None] - np.arange(n))) / h**order)
    return found


def outer(matrices: list[Floats]) -> Floats:
    total = np.ones((1, 1))
    for matrix in matrices:
        total = np.kron(total, matrix)
    return total


def bent(control: ControlGrid, level: Grid, c: Floats, gradient: Floats) -> Floats:
    """(voxels, D) the gradient times the inverse transposed Jacobian, by dense matrices."""
    ndim = control.ndim
    values, slopes = bases(control, level), bases(control, level, 1)
    jacobian = np.zeros((ndim, ndim, int(np.prod(level.shape))))
    for b in range(ndim):
        basis = outer([slopes[a] if a == b else values[a] for a in range(ndim)])
        for a in range(ndim):
            jacobian[a, b] = basis @ c[a].ravel()
    local = np.moveaxis(jacobian, -1, 0) + np.eye(ndim)
    return np.linalg.solve(local.swapaxes(1, 2), gradient.reshape(ndim, -1).T[..., None])[..., 0]


def random_case(shape: tuple[int, ...], spacing: float) -> tuple[Grid, ControlGrid, Residuals, Floats]:
    rng = np.random.default_rng(len(shape))
    turn = np.eye(len(shape))[::-1]  # axes of the image along other axes of the world
    grid = Grid(shape, 1.3, 4.0, turn)
    control = control_grids(grid, [spacing] * len(shape))[-1]
    gradient = rng.normal(size=(len(shape), *shape)).astype(np.float32)
    voxels = Residuals(gradient, rng.normal(size=shape).astype(np.float32), rng.random(shape).astype(np.float32))
    return grid, control, voxels, rng.uniform(-1, 1, (len(shape), *control.shape))


@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_sums_are_those_of_dense_matrices(shape: tuple[int, ...], spacing: float) -> None:
    grid, control, voxels, c = random_case(shape, spacing)
    c *= control.limits.reshape(-1, *[1] * len(shape))
    found = cell_sums(voxels, control, grid, grid.box, coefficients=c)
    gradient, basis = bent(control, grid, c, voxels.gradient), outer(bases(control, grid))
    jacobian = np.concatenate([gradient[:, [a]] * basis for a in range(len(shape))], 1)
    weight = voxels.weight.reshape(-1, 1)
    square, linear = jacobian.T @ (jacobian * weight), jacobian.T @ (weight[:, 0] * voxels.residual.ravel())
    np.testing.assert_allclose(found.linear.ravel(), linear, atol=1e-4 * np.abs(linear).max())
    vector = np.random.default_rng(1).normal(size=c.shape)
    wanted = square @ vector.ravel()
    np.testing.assert_allclose(product(found.square, vector).ravel(), wanted, atol=1e-5 * np.abs(wanted).max())
    blocks, n = diagonal_blocks(found.square, control.shape), basis.shape[1]
    diagonal = np.diag(square[:n, n : 2 * n]).reshape(control.shape)
    np.testing.assert_allclose(blocks[0, 1], diagonal, atol=1e-5 * np.abs(square).max())


@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_sums_of_boxes_add_up_whatever_the_cut_and_the_threads(shape: tuple[int, ...], spacing: float) -> None:
    grid, control, voxels, c = random_case(shape, spacing)
    whole = cell_sums(voxels, control, grid, grid.box, coefficients=c)
    with use_threads(3):
        again = cell_sums(voxels, control, grid, grid.box, coefficients=c)
    np.testing.assert_array_equal(whole.linear, again.linear)
    np.testing.assert_array_equal(whole.square, again.square)
    parts: ControlSums | None = None
    for start, stop in ((0, 4), (4, 9), (9, shape[-1])):
        box = Box((*(0,) * (len(shape) - 1), start), (*shape[:-1], stop))
        some = Residuals(*(x[(..., *box.slices)] for x in (voxels.gradient, voxels.residual, voxels.weight)))
        one = cell_sums(some, control, grid, box, coefficients=c)
        parts = one if parts is None else parts + one
    assert parts is not None
    np.testing.assert_allclose(parts.linear, whole.linear, atol=1e-4)
    np.testing.assert_allclose(parts.square, whole.square, atol=1e-4)


@pytest.mark.parametrize("shape", [(61, 87), (40, 33, 27)])
def test_finer_control_points_hold_the_same_field(shape: tuple[int, ...]) -> None:
    grids = control_grids(Grid(shape, 0.7, 3.0), [2.0] * len(shape))
    points = grids[0].image.world(np.random.default_rng(0).uniform(0, 1, (50, len(shape))) * (np.array(shape) - 1))
    coarse = np.random.default_rng(1).normal(size=(len(shape), *grids[0].shape))
    c = coarse
    for before, after in pairwise(grids):
        c = after.refined(before, c)
        np.testing.assert_allclose(after.field(c)(points), grids[0].field(coarse)(points), atol=1e-9)
    assert len(grids) > 1
    np.testing.assert_allclose(grids[-1].spacing, 2.0, rtol=0.2)


@pytest.mark.parametrize("ndim", [2, 3])
def test_no_coefficients_within_the_limits_fold(ndim: int) -> None:
    control = control_grids(Grid((24,) * ndim), [4.0] * ndim)[-1]
    points = control.image.world(np.random.default_rng(0).uniform(2, 21, (4000, ndim)))
    signs = [np.random.default_rng(k).choice([-1.0, 1.0], (ndim, *control.shape)) for k in range(6)]
    index = np.indices(control.shape)
    # The worst case known: all points move towards or away from a plane between them.
    signs += [np.where((index // 2) % 2, 1.0, -1.0), np.where(index % 2, 1.0, -1.0)]
    for sign in signs:
        assert control.field(LARGEST[ndim] * 4.0 * sign).determinants(points).min() > 0


def test_bending_energy_of_a_smooth_field_is_the_integral() -> None:
    control = control_grids(Grid((200, 240)), [5.0, 5.0])[-1]
    at = np.moveaxis(control.grid.world(np.moveaxis(np.indices(control.shape), 0, -1)), -1, 0)
    k, q, energy = 2 * np.pi / 100, 2 * np.pi / 120, BendingEnergy(control)
    c = np.sin(k * at[0]) * np.sin(q * at[1])
    least = (np.pi / 240) ** 2
    area = np.prod(np.array(control.shape) * control.spacing)
    wanted = 0.25 * (k**2 + q**2 + least) ** 2 * area
    assert np.vdot(c, energy(c[None])[0]) == pytest.approx(wanted, rel=0.1)
    unit = np.zeros((1, *control.shape))
    unit[0, 3, 5] = 1
    assert energy(unit)[0, 3, 5] == pytest.approx(energy.diagonal[3, 5])


def test_the_system_is_solved_and_its_effective_parameters_are_a_trace() -> None:
    grid, control, voxels, _ = random_case((37, 41), 6.0)
    sums = cell_sums(voxels, control, grid, grid.box)
    system = System(sums.square, 2.0, BendingEnergy(control), 5.0)
    shape, size = sums.linear.shape, sums.linear.size
    dense = np.stack([system(one.reshape(shape)).ravel() for one in np.eye(size)], 1)
    np.testing.assert_allclose(dense, dense.T, atol=1e-5 * np.abs(dense).max())
    found = system.solve(sums.linear, tolerance=1e-5)
    np.testing.assert_allclose(
        found.ravel(), np.linalg.solve(dense, sums.linear.ravel()), atol=1e-3 * np.abs(found).max()
    )
    data = 2.0 * np.stack([product(sums.square, one.reshape(shape)).ravel() for one in np.eye(size)], 1)
    trace = np.trace(np.linalg.solve(dense, data))
    probes = (np.random.default_rng(k).choice([-1.0, 1.0], shape) for k in range(8))
    estimates = [system.effective_parameters(probe)[0] for probe in probes]
    assert np.mean(estimates) == pytest.approx(trace, rel=0.1)
    # The mean of noise^T A^-1 noise over noise of the covariance H is the trace of A^-1 H.
    noise = np.random.default_rng(0).normal(size=size)
    noise = product(sums.square, noise.reshape(shape)).ravel()
    energy = 2.0 * noise @ np.linalg.solve(dense, noise)
    assert system.determined(noise.reshape(shape))[0] == pytest.approx(energy, rel=0.02)


def test_random_residuals_give_noise_of_the_covariance_of_the_sums() -> None:
    grid, control, voxels, _ = random_case((23, 31), 6.3)
    sums, draws = cell_sums(voxels, control, grid, grid.box), []
    for k in range(300):
        drawn = np.random.default_rng(k).standard_normal(grid.shape, dtype=np.float32) / np.sqrt(voxels.weight)
        one = Residuals(voxels.gradient, drawn, voxels.weight)
        draws.append(cell_sums(one, control, grid, grid.box, with_square=False).linear.ravel())
    covariance, shape = np.cov(draws, rowvar=False), sums.linear.shape
    square = np.stack([product(sums.square, one.reshape(shape)).ravel() for one in np.eye(len(covariance))], 1)
    assert np.trace(covariance) == pytest.approx(np.trace(square), rel=0.05)
    assert np.corrcoef(covariance.ravel(), square.ravel())[0, 1] > 0.9
