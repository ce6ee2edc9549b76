"""The parts of ICP: closed forms, coverings of rotations, tables, steps, and observability."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from daskreg.clouds import icp, icp_numba
from daskreg.clouds.brute_force import nearest_brute_force
from daskreg.clouds.cached_search import CachedSearch
from daskreg.clouds.cloud import Cloud, local_shapes, robust_radius, without_far_points
from daskreg.clouds.icp import Correspondences, IcpOptions, fit_rigid, generators, homogeneous, refine, transform_points
from daskreg.clouds.icp_numba import PLANE_TO_PLANE, POINT_TO_PLANE, POINT_TO_POINT, table_row
from daskreg.clouds.observability import observability
from daskreg.clouds.rotation_search import NearestTable, distinct_poses, rotations, search_rotations
from daskreg.clouds.soft_correspondence import soft_correspondence_loss
from daskreg.clouds.voxel_grid import (
    SURFACE_TEST_POINTS,
    is_surface,
    random_sample,
    voxel_downsample,
    voxel_size_for,
)

Floats = NDArray[np.float64]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def turn(ndim: int, degrees: float) -> Floats:
    if ndim == 2:
        return Rotation.from_euler("z", degrees, degrees=True).as_matrix()[:2, :2]
    return Rotation.from_rotvec(np.radians(degrees) * np.array([2.0, -1.0, 2.0]) / 3).as_matrix()


def sphere(count: int, seed: int) -> Floats:
    points = rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def bumpy(count: int, seed: int) -> Floats:
    """Random points of an ellipsoid with bumps: a surface that holds every motion."""
    points = sphere(count, seed)
    bumps = 1 + 0.2 * np.sin(3 * points[:, :1]) + 0.15 * np.cos(4 * points[:, 1:2] + 1)
    return points * bumps * [1.0, 0.8, 0.6]


def downsampled(points: Floats, count: int) -> Floats:
    cloud = Cloud(points)
    return voxel_downsample(cloud, voxel_size_for(cloud, count)[0]).points


def surface_like(points: Floats) -> bool:
    """`is_surface` of a cloud of any density."""
    few = points if len(points) <= SURFACE_TEST_POINTS else downsampled(points, SURFACE_TEST_POINTS)
    return is_surface(Cloud(few))


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("with_scale", [False, True])
def test_the_closed_form_recovers_a_motion(ndim: int, with_scale: bool) -> None:
    source = rng().normal(size=(4, 20, ndim))  # a batch of four
    scale = 1.7 if with_scale else 1.0
    target = scale * source @ turn(ndim, 130).T + np.arange(ndim)
    weights = rng(1).random((4, 20))
    found = fit_rigid(target, source, weights, with_scale=with_scale)
    np.testing.assert_allclose(
        found, np.broadcast_to(homogeneous(scale * turn(ndim, 130), np.arange(ndim)), found.shape), atol=1e-12
    )


def test_the_closed_form_agrees_with_scipy_under_noise_and_weights() -> None:
    source, weights = rng().normal(size=(30, 3)), rng(1).random(30)
    target = source @ turn(3, 70).T + 0.3 * rng(2).normal(size=(30, 3))
    mean_t, mean_s = (np.average(p, axis=0, weights=weights) for p in (target, source))
    expected, _ = Rotation.align_vectors(target - mean_t, source - mean_s, weights=weights)
    np.testing.assert_allclose(fit_rigid(target, source, weights)[:3, :3], expected.as_matrix(), atol=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_closed_form_is_never_a_reflection(ndim: int) -> None:
    source = rng().normal(size=(50, ndim))
    mirrored = source * np.r_[-1.0, np.ones(ndim - 1)]
    for target in (mirrored, mirrored + rng(1).normal(size=source.shape), np.zeros_like(source)):
        linear = fit_rigid(target, source, np.ones(50))[:-1, :-1]
        np.testing.assert_allclose(linear @ linear.T, np.eye(ndim), atol=1e-12)
        assert np.linalg.det(linear) == pytest.approx(1.0)


def test_rotations_cover_every_15_degrees() -> None:
    flat = rotations(3).reshape(-1, 9)
    queries = Rotation.random(2000, random_state=0).as_matrix().reshape(-1, 9)
    angles = np.degrees(np.arccos(np.clip(((queries @ flat.T).max(axis=1) - 1) / 2, -1, 1)))
    assert angles.max() < 15
    np.testing.assert_allclose(np.linalg.det(rotations(3)), 1)
    np.testing.assert_array_equal(rotations(3)[0], np.eye(3))
    np.testing.assert_allclose(rotations(2)[1], turn(2, 15))
    assert len(rotations(2)) == 24


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_table_finds_the_nearest_to_within_a_cell(ndim: int) -> None:
    points = rng().random((500, ndim))
    table = NearestTable.of(points)
    queries = rng(1).random((2100, ndim)) * 1.2 - 0.1
    queries[0] = 100  # far outside: no error
    rows = [table_row(table.low, table.cell, np.array(table.shape), point) for point in queries]
    found = np.linalg.norm(table.nearest[rows] - queries, axis=-1)
    nearest, _ = cKDTree(points).query(queries)
    assert np.all(found[1:] < nearest[1:] + 2 * np.sqrt(ndim) * table.cell)


def test_of_poses_alike_the_first_is_taken() -> None:
    poses = [homogeneous(turn(3, a), np.full(3, t)) for a, t in ((0, 0), (1, 0), (0, 0.5), (20, 0), (0.5, 0.01))]
    distinct = distinct_poses(np.stack(poses), extent=1.0)
    np.testing.assert_array_equal(distinct, np.stack([poses[0], poses[2], poses[3]]))


@pytest.mark.slow
def test_the_search_is_deterministic() -> None:
    target = rng().random((300, 3))
    source = target @ turn(3, 100)
    np.testing.assert_array_equal(search_rotations(target, source, seed=3), search_rotations(target, source, seed=3))


@pytest.mark.parametrize("ndim", [2, 3])
def test_brute_force_in_tiles_is_the_tree(ndim: int) -> None:
    cloud, queries = rng().random((300, ndim)), rng(1).random((100, ndim))
    distances, indices = nearest_brute_force(torch.as_tensor(cloud), queries, tile=17)
    expected = Cloud(cloud).nearest(queries)
    np.testing.assert_allclose(distances, expected[0], atol=1e-14)
    np.testing.assert_array_equal(indices, expected[1])


def test_normals_stand_on_a_plane() -> None:
    plane = np.c_[rng().random((400, 2)), np.zeros(400)] @ turn(3, 40).T
    np.testing.assert_allclose(np.abs(Cloud(plane).normals @ turn(3, 40)[:, 2]), 1, atol=1e-9)


def test_surfaces_are_distinguished_from_volumes() -> None:
    assert surface_like(sphere(1000, 0))
    assert surface_like(sphere(5000, 0) * [1, 1, 0.3] + 0.01 * rng(1).normal(size=(5000, 3)))
    assert surface_like(np.c_[np.linspace(0, 1, 800), np.zeros((800, 2))] + 0.01 * rng().normal(size=(800, 3)))
    for count in (100, 300, 1000, 10_000):
        assert not surface_like(rng().random((count, 3)))
        assert not surface_like(rng().random((count, 2)))
        assert not surface_like(rng().normal(size=(count, 3)))
    angle = rng().random(500) * 6
    assert surface_like(np.c_[np.cos(angle), np.sin(angle)])
    assert not surface_like(sphere(10, 0))  # too few points


def test_downsampled_clouds_have_the_requested_size() -> None:
    points = bumpy(20_000, 0)
    assert 800 <= len(downsampled(points, 1000)) <= 1200
    rows = random_sample(points, 1000, seed=1)
    assert len(rows) == 1000
    assert {tuple(r) for r in rows} <= {tuple(p) for p in points}
    few = voxel_downsample(Cloud(np.array([[0.0, 0], [0.2, 0.4], [5, 5]])), 1.0)
    np.testing.assert_allclose(few.points, [[0.1, 0.2], [5, 5]])
    np.testing.assert_allclose(few.covariances, [[[0.01, 0.02], [0.02, 0.04]], np.zeros((2, 2))], atol=1e-15)


def test_downsampled_clouds_stand_for_all_their_points() -> None:
    points = rng().random((2000, 3))
    once = voxel_downsample(Cloud(points), 0.125)
    for few in (once, voxel_downsample(once, 0.25)):
        assert few.counts.sum() == 2000
        whole = local_shapes(few, np.arange(len(few))[None])
        np.testing.assert_allclose(whole.means[0], points.mean(axis=0))
        np.testing.assert_allclose(whole.variances[0], np.linalg.eigvalsh(np.cov(points.T, bias=True)))


def test_one_outlier_changes_nothing() -> None:
    points = bumpy(3000, 0)
    with_outlier = np.r_[points, [[1e9, 1e9, 1e9]]]
    assert len(without_far_points(with_outlier)) == 3000
    assert robust_radius(with_outlier) == pytest.approx(robust_radius(points))
    assert 400 <= len(downsampled(without_far_points(with_outlier), 500)) <= 600


@pytest.mark.parametrize("method", ["point_to_point", "point_to_plane", "generalized"])
def test_each_method_refines_two_samples_of_a_surface(method: str) -> None:
    motion = homogeneous(turn(3, 8), np.array([0.05, -0.03, 0.04]))
    target, source = bumpy(4000, 0), transform_points(np.linalg.inv(motion), bumpy(3000, 1))
    found = refine(Cloud(target), Cloud(source), np.eye(4), IcpOptions(method), max_iterations=200)
    assert found.converged
    limit = 1.0 if method == "point_to_point" else 0.1
    assert np.degrees(Rotation.from_matrix(found.matrix[:3, :3] @ motion[:3, :3].T).magnitude()) < limit
    assert np.linalg.norm(found.matrix[:3, 3] - motion[:3, 3]) < 0.01


@pytest.mark.parametrize("method", ["point_to_plane", "generalized"])
def test_gauss_newton_finds_a_scale(method: str) -> None:
    points = bumpy(3000, 0)
    motion = homogeneous(1.05 * turn(3, 4), np.full(3, 0.02))
    found = refine(
        Cloud(transform_points(motion, points)), Cloud(points), np.eye(4), IcpOptions(method, with_scale=True)
    )
    np.testing.assert_allclose(found.matrix, motion, atol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_curves_and_surfaces_in_both_dimensions(ndim: int) -> None:
    points = bumpy(2000, 0)[:, :ndim] if ndim == 3 else np.c_[np.linspace(0, 3, 500), np.sin(np.linspace(0, 9, 500))]
    motion = homogeneous(turn(ndim, 3), np.full(ndim, 0.01))
    found = refine(Cloud(transform_points(motion, points)), Cloud(points), np.eye(ndim + 1), IcpOptions("generalized"))
    np.testing.assert_allclose(found.matrix, motion, atol=1e-6)


def test_max_distance_and_trim_leave_pairs_out() -> None:
    points = rng().random((200, 3))
    source = np.r_[points, points[:50] + 5]
    assert (
        np.count_nonzero(refine(Cloud(points), Cloud(source), np.eye(4), IcpOptions(max_distance=1.0)).weights[200:])
        == 0
    )
    assert np.count_nonzero(refine(Cloud(points), Cloud(source), np.eye(4), IcpOptions(trim=0.2)).weights) == 200
    far = refine(Cloud(points), Cloud(points + 50), np.eye(4), IcpOptions(max_distance=1.0))
    assert not far.converged
    assert far.iterations == 0


@pytest.mark.parametrize(
    ("shape", "free"),
    [("sphere", 3), ("plane", 3), ("cylinder", 2), ("bumpy", 0), ("pairs on a sphere", 0), ("line", 1)],
)
def test_motions_that_are_free_are_counted(shape: str, free: int) -> None:
    def points(seed: int) -> Floats:
        noise = 0.005 * rng(seed + 100).normal(size=(2000, 3))
        u, v = rng(seed).random((2, 2000))
        if shape == "plane":
            return np.c_[u, v, np.zeros(2000)] + noise
        if shape == "cylinder":
            return np.c_[np.cos(7 * u), np.sin(7 * u), 4 * v] + noise
        if shape == "line":
            return np.c_[np.linspace(0, 1, 2000), np.zeros((2000, 2))] + 0.01 * noise
        return (sphere if "sphere" in shape else bumpy)(2000, seed) + noise

    target = points(0)
    moved = target + 1e-4 if shape == "pairs on a sphere" else points(1)
    observed = observability(Cloud(target), moved, surface="pairs" not in shape, point_to_point="pairs" in shape)
    assert len(observed.free) == free
    assert observed.covariance.shape == (6, 6)
    assert observed.fitness > 0.9


def test_the_covariance_predicts_the_scatter() -> None:
    target, noise = rng().random((300, 3)), 0.005
    found = []
    for seed in range(60):
        source = target + noise * rng(seed + 1).normal(size=target.shape)
        result = refine(Cloud(target), Cloud(source), np.eye(4))
        found.append(
            [
                *Rotation.from_matrix(result.matrix[:3, :3]).as_rotvec(),
                *(transform_points(result.matrix, source) - source).mean(axis=0),
            ]
        )
    predicted = np.sqrt(
        np.diag(
            observability(
                Cloud(target), transform_points(result.matrix, source), surface=False, point_to_point=True
            ).covariance
        )
    )
    np.testing.assert_allclose(predicted, np.std(found, axis=0), rtol=0.35)


def test_local_shapes_are_those_of_an_eigensolver() -> None:
    for ndim in (2, 3):
        points = rng().random((300, ndim))
        points[:50] = points[0]  # neighbourhoods without extent
        indices = cKDTree(points).query(points, k=9)[1]
        shape = local_shapes(Cloud(points), indices)
        values, vectors = shape.variances, shape.axes
        around = points[indices]
        np.testing.assert_allclose(shape.means, around.mean(axis=1))
        around = around - around.mean(axis=1, keepdims=True)
        expected, axes = np.linalg.eigh(np.swapaxes(around, 1, 2) @ around / 9)
        np.testing.assert_allclose(values, np.maximum(expected, 0), atol=1e-12)
        np.testing.assert_allclose(np.abs(np.einsum("nij,nij->nj", vectors, axes))[60:], 1, atol=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("kind", [POINT_TO_POINT, POINT_TO_PLANE, PLANE_TO_PLANE])
@pytest.mark.parametrize("block", [30_000, 17])
def test_sums_over_pairs_are_those_of_matrices(
    ndim: int, kind: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(icp, "_BLOCK", block)
    moved, errors, a, b = rng().normal(size=(4, 50, ndim))
    a, b = (n / np.linalg.norm(n, axis=1, keepdims=True) for n in (a, b))
    b[:5], b[5:10] = a[:5], -a[5:10]
    weights = rng(1).random(50)
    weights[::7] = 0
    if kind == POINT_TO_POINT:
        metrics = np.broadcast_to(np.eye(ndim), (50, ndim, ndim))
    elif kind == POINT_TO_PLANE:
        metrics = a[:, :, None] * a[:, None]
    else:
        flat = 2 * np.eye(ndim) - 0.999 * (a[:, :, None] * a[:, None] + b[:, :, None] * b[:, None])
        metrics = 2e-3 * np.linalg.inv(flat)
    centre, extent, order = rng(2).normal(size=ndim), 1.7, rng(3).permutation(50)
    rotation = np.linalg.qr(rng(4).normal(size=(ndim, ndim)))[0]
    near, fixed = np.empty((2, 50, ndim))
    near[order], fixed[order] = moved + errors, a
    pairs = Correspondences(moved, near, order, weights, fixed, b @ rotation, rotation)
    moves = generators(ndim, with_scale=True)
    effects = np.einsum("pij,nj->nip", moves, np.c_[(moved - centre) / extent, np.ones(50)])
    errors = errors / extent
    hessian, gradient, cost = pairs.normal_equations(kind, centre, extent, moves)
    np.testing.assert_allclose(hessian, np.einsum("n,nip,nij,njq->pq", weights, effects, metrics, effects), atol=1e-9)
    np.testing.assert_allclose(gradient, np.einsum("n,nip,nij,nj->p", weights, effects, metrics, errors), atol=1e-9)
    assert cost == pytest.approx(np.einsum("n,ni,nij,nj->", weights, errors, metrics, errors))


def test_a_cached_search_never_differs_from_a_new_one() -> None:
    cloud, points = Cloud(rng().random((500, 3))), rng(1).random((300, 3))
    search = CachedSearch(cloud)
    for size in (0.1, 0.03, 0.01, 0.001, 0.0, 0.05):
        points = points + size * rng(2).normal(size=3)
        for found, expected in zip(search(points), cloud.nearest(points), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-12)
    assert CachedSearch(Cloud(np.zeros((1, 3))))(points)[1].max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("outliers", [0.0, 0.2])
def test_the_soft_loss_is_differentiable_in_both_clouds(outliers: float) -> None:
    target, moved = (torch.tensor(rng(s).random((n, 3)), requires_grad=True) for s, n in ((0, 7), (1, 5)))
    assert torch.autograd.gradcheck(
        lambda a, b: soft_correspondence_loss(a, b, sigma=0.3, outliers=outliers, tile=2), (target, moved)
    )
    whole = soft_correspondence_loss(target, moved, sigma=0.3, outliers=outliers)
    torch.testing.assert_close(soft_correspondence_loss(target, moved, sigma=0.3, outliers=outliers, tile=2), whole)


@pytest.mark.slow
def test_the_soft_loss_leads_to_the_pose_and_lets_outliers_be() -> None:
    target = torch.tensor(rng().random((200, 2)))
    source = target @ torch.tensor(turn(2, -10)).T
    source = torch.cat([source, torch.tensor([[30.0, 30.0]], dtype=torch.float64)])  # an outlier
    angle = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([angle], max_iter=50, line_search_fn="strong_wolfe")

    def loss(sigma: float) -> torch.Tensor:
        c, s = torch.cos(angle), torch.sin(angle)
        return soft_correspondence_loss(target, source @ torch.stack([c, s, -s, c]).reshape(2, 2), sigma=sigma)

    for sigma in (0.2, 0.05, 0.02):

        def closure(sigma: float = sigma) -> torch.Tensor:
            optimizer.zero_grad()
            value = loss(sigma)
            value.backward()
            return value

        optimizer.step(closure)
    assert np.degrees(angle.item()) == pytest.approx(10, abs=0.05)


def test_the_value_of_a_rank_is_that_of_a_partition() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.random(101), rng.integers(0, 4, 60), np.arange(40), np.arange(40)[::-1], np.ones(9), [3, 1]):
        one = np.asarray(values, float)
        for n in range(len(one)):
            assert icp_numba._of_rank.py_func(one, n, np.empty(len(one))) == np.partition(one, n)[n]
