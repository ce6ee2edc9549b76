"""Pose graphs: known poses are found, outlier edges lose their weight, the gauge holds, covariances are right."""

from __future__ import annotations

import numpy as np
import pytest

from daskreg.geometry.lie import Algebra
from daskreg.registration.pose import MODELS, Pose
from daskreg.stacks.pose_graph import PoseGraph, solve, triangle_errors

CENTRE, REACH = np.array([50.0, 60.0]), 60.0


def algebra(model="rigid"):
    pose = Pose.of(model, 2)
    return Algebra.of(pose.groups, CENTRE, REACH, common_scale=pose.common_scale)


def made(count, reach, *, model="rigid", sigma=0.1, walk=2.0, seed=0):
    """A graph of noisy edges, the true poses (mean motion identity), and initial poses along the chain."""
    rng, lie = np.random.default_rng(seed), algebra(model)
    truth = lie.exp(np.cumsum(rng.normal(size=(count, lie.size)) * walk * np.where(lie.rigid, 1, 0.05), axis=0))
    truth = truth @ np.linalg.inv(lie.mean(truth, np.ones(count)))
    edges = np.array([(i, j) for j in range(count) for i in range(max(0, j - reach), j)])
    error = rng.normal(size=(len(edges), lie.size)) * sigma
    measurements = truth[edges[:, 1]] @ np.linalg.inv(truth[edges[:, 0]]) @ lie.exp(error)
    information = np.tile(np.eye(lie.size) / max(sigma, 1e-3) ** 2, (len(edges), 1, 1))
    return PoseGraph(count, edges, measurements, information, lie), truth, chain(edges, measurements, count)


def chain(edges, measurements, count):
    poses, number = [np.eye(3)], {tuple(e): k for k, e in enumerate(edges.tolist())}
    for i in range(1, count):
        poses.append(measurements[number[i - 1, i]] @ poses[-1])
    return np.stack(poses)


def errors(graph, truth, solved):
    return graph.algebra.log(np.linalg.inv(truth) @ solved.poses)


@pytest.mark.parametrize("model", MODELS)
def test_exact_edges_give_the_poses(model):
    graph, truth, start = made(20, 2, model=model, sigma=0.0)
    solved = solve(graph, start)
    # The prior on scale and shear is weak, but it biases them a little.
    assert np.abs(errors(graph, truth, solved)).max() < (1e-6 if algebra(model).rigid.all() else 1e-3)
    assert solved.residual.max() < 1e-3


@pytest.mark.slow
def test_farther_edges_reduce_the_error():
    found = []
    for reach in (1, 2, 4):
        runs = []
        for seed in range(5):
            graph, truth, start = made(60, reach, seed=seed)
            runs.append(np.abs(errors(graph, truth, solve(graph, start))).mean())
        found.append(np.mean(runs))
    assert found[0] > 1.3 * found[1] > 1.3 * found[2]


def test_outlier_edges_lose_their_weight():
    graph, truth, start = made(60, 3)
    rng = np.random.default_rng(5)
    far = np.flatnonzero(np.diff(graph.edges, axis=1)[:, 0] > 1)  # the initial poses follow direct neighbours
    wrong = rng.choice(far, 12, replace=False)
    error = graph.algebra.exp(rng.normal(size=(12, graph.algebra.size)) * 30)
    graph.measurements[wrong] = graph.measurements[wrong] @ error
    solved = solve(graph, start)
    assert solved.weight[wrong].max() < 0.01
    assert np.median(np.delete(solved.weight, wrong)) > 0.8
    assert np.abs(errors(graph, truth, solved)).max() < 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("reach", "count"), [(1, 12), (2, 25), (3, 40)])
def test_the_covariance_is_that_of_many_runs(reach, count):
    squares, predicted = [], None
    for seed in range(60):
        graph, truth, start = made(count, reach, seed=seed, walk=0.5)
        solved = solve(graph, start)
        squares.append(errors(graph, truth, solved) ** 2)
        predicted = solved.covariance / solved.scale
    measured = np.sqrt(np.mean(squares, axis=0))
    expected = np.sqrt(np.diagonal(predicted, axis1=1, axis2=2))
    assert np.median(measured / expected) == pytest.approx(1, abs=0.15)
    assert expected[0, 0] > expected[count // 2, 0], "the variance is largest at the ends"


@pytest.mark.parametrize("dense", [False, True])
def test_the_covariance_is_the_inverse_of_the_whole_normal_matrix(monkeypatch, dense):
    """The block recursion, and small matrices, against an inverse, with one fixed node and in the gauge of the mean."""
    from daskreg.stacks import pose_graph
    from daskreg.stacks.pose_graph import _normal_equations, pose_covariance

    monkeypatch.setattr(pose_graph, "_DENSE", 10_000 if dense else 0)
    graph, _, start = made(17, 3)
    free = np.arange(17) != 4
    weight = np.random.default_rng(0).random(len(graph.edges)) + 0.1
    normal, _ = _normal_equations(graph, start, weight, free, np.zeros((len(graph.edges), 3)))
    inverse = np.linalg.inv(normal if dense else normal.toarray()).reshape(16, 3, 16, 3)
    blocks = pose_covariance(graph, start, weight, free)
    assert np.allclose(blocks[free], np.stack([inverse[k, :, k] for k in range(16)]), rtol=1e-8)
    assert np.all(blocks[4] == 0)
    # In the gauge of the mean, the mean of all errors is subtracted from each error.
    whole = np.zeros((17, 3, 17, 3))
    whole[np.ix_(free, range(3), free, range(3))] = inverse
    centring = np.eye(17) - 1 / 17
    centred = np.einsum("ab,bicj,dc->aidj", centring, whole, centring)
    blocks = pose_covariance(graph, start, weight, np.ones(17, bool))
    assert np.allclose(blocks, np.stack([centred[k, :, k] for k in range(17)]), atol=1e-10)


@pytest.mark.slow
def test_the_mean_motion_is_the_identity():
    """A bias of each edge by a scale of -0.1 % would make the last of 400 slices a third smaller without the prior."""
    graph, _, _ = made(400, 2, model="similarity", sigma=0.5, walk=0.0)
    bias = np.zeros(graph.algebra.size)
    bias[-1] = -1e-3 * REACH
    span = np.diff(graph.edges, axis=1)
    graph.measurements[:] = graph.measurements @ graph.algebra.exp(bias * span)
    solved = solve(graph, chain(graph.edges, graph.measurements, 400))
    assert np.allclose(graph.algebra.log(solved.poses).mean(axis=0), 0, atol=1e-6)
    scale = np.sqrt(np.linalg.det(solved.poses[:, :2, :2]))
    assert np.prod(scale) == pytest.approx(1, rel=1e-6)
    assert scale.max() / scale.min() < 1.2


def test_fixed_nodes_stay_and_the_others_follow():
    graph, truth, start = made(31, 2, sigma=0.05)
    fixed = np.isin(np.arange(31), [0, 30])
    start = start @ np.linalg.inv(start[0]) @ truth[0]
    off = graph.algebra.exp(np.array([[6.0, 0, 0]]))[0]
    start[0], start[30] = truth[0], truth[30] @ off
    solved = solve(graph, start, fixed)
    assert np.array_equal(solved.poses[fixed], start[fixed])
    along = errors(graph, truth, solved)[:, 0]
    assert np.abs(along - np.linspace(0, 6, 31)).max() < 1, "the difference is spread over the slices between"
    assert np.all(solved.covariance[fixed] == 0)


def test_the_closure_error_of_triangles():
    graph, _, _ = made(6, 2, sigma=0.0)
    triangles, closure = triangle_errors(graph)
    assert len(triangles) == 4
    assert closure.max() < 1e-6
    wrong = int(triangles[1, 2])
    graph.measurements[wrong] = graph.measurements[wrong] @ graph.algebra.exp(np.array([[3.0, 4.0, 0.0]]))[0]
    assert triangle_errors(graph)[1][1] == pytest.approx(5, rel=1e-6)


def test_pairs_that_contradict_each_other_entirely_count_nothing():
    """Pairs by which each slice is a thousandth of the one before it."""
    algebra = Algebra.of(Pose.of("affine", 2).groups, np.zeros(2), 50.0)
    edges = np.array([[k, k + 1] for k in range(4)])
    motions = np.tile(np.diag([1e-3, 1e-3, 1.0]), (4, 1, 1))
    graph = PoseGraph(5, edges, motions, np.tile(1e8 * np.eye(algebra.size), (4, 1, 1)), algebra)
    initial = np.stack([np.diag([1e-3**k, 1e-3**k, 1.0]) for k in range(5)])
    found = solve(graph, initial)
    assert (found.weight == 0).all()
    assert np.isnan(found.covariance).all()
