"""Poses along shortest paths, interpolation over gaps, and the split into slow and fast."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import low_pass

from daskreg.geometry import Affine
from daskreg.registration.pose import Pose
from daskreg.stacks.trajectory import PoseProjection, interpolate_missing, shortest_path_poses, slow_part, whittaker

CENTRE, REACH = np.array([40.0, 60.0]), np.array([40.0, 60.0])


def rigid(theta, tx, ty):
    return Affine.from_parameters(theta=theta, tx=tx, ty=ty, centre=CENTRE).matrix


def projection(model="rigid"):
    return PoseProjection(Pose.of(model, 2), CENTRE, REACH)


@pytest.fixture
def walk():
    steps = np.cumsum(np.random.default_rng(0).normal(size=(9, 3)) * [0.05, 2, 2], axis=0)
    return np.stack([rigid(*s) for s in steps])


def pairs_of(poses, edges):
    return np.stack([poses[b] @ np.linalg.inv(poses[a]) for a, b in edges])


def test_pairs_compose_along_a_chain(walk):
    edges = np.array([(i, i + 1) for i in range(8)])
    poses = shortest_path_poses(9, edges, pairs_of(walk, edges), np.ones(8), root=2)
    assert np.allclose(poses, walk @ np.linalg.inv(walk[2]))


def test_the_path_of_least_cost_is_taken(walk):
    edges = np.array([(0, 1), (1, 2), (0, 2), (2, 3), (4, 5)])
    matrices = pairs_of(walk, edges)
    matrices[1] = rigid(1, 50, 50)
    cost = np.array([1, np.inf, 2, 1, 1.0])
    poses = shortest_path_poses(6, edges, matrices, cost, root=0)
    assert np.allclose(poses[:4], walk[:4] @ np.linalg.inv(walk[0]))
    assert np.isnan(poses[4:]).all()
    alone = shortest_path_poses(3, edges[:1], matrices[:1], np.array([np.inf]), root=1)
    assert np.isfinite(alone[:, 0, 0]).tolist() == [False, True, False]


def test_interpolated_poses_are_linear_and_of_the_model():
    poses = np.stack([rigid(0.1 * i, 3 * i, -2 * i) for i in range(6)])
    known = np.array([False, True, False, False, True, False])
    filled = interpolate_missing(np.where(known[:, None, None], poses, np.nan), known, projection())
    assert np.allclose(filled[known], poses[known])
    assert np.allclose(filled[2:4], poses[2:4], atol=0.3)
    assert np.allclose(filled[0], poses[1])
    assert np.allclose(filled[5], poses[4])
    linear = filled[:, :2, :2]
    assert np.allclose(linear @ linear.mT, np.eye(2)), "rotations, not averages of matrices"


def test_the_smoother_is_whittakers():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(60, 4)).cumsum(axis=0)
    for period in (4, 15, 100):
        assert np.allclose(whittaker(values, np.ones(60), period), low_pass(values, period))


def test_half_of_a_wave_of_the_period_is_slow():
    i = np.arange(600)
    wave = np.cos(2 * np.pi * i / 15)[:, None]
    inside = slice(100, -100)
    assert np.abs(whittaker(wave, np.ones(600), 15)[inside]).max() == pytest.approx(0.5, abs=0.01)
    assert np.abs(whittaker(wave, np.ones(600), 60)[inside]).max() < 0.01
    assert np.allclose(whittaker(wave, np.ones(600), 3)[inside], wave[inside], atol=0.02)


def test_straight_trajectories_are_slow_up_to_the_ends_and_gaps_are_filled():
    line = np.linspace(0, 30, 40)[:, None]
    weight = np.ones(40)
    weight[[0, 7, 20]] = 0
    assert np.allclose(whittaker(np.where(weight[:, None] > 0, line, 99), weight, 15), line)
    assert np.array_equal(whittaker(line[:2], np.ones(2), 15), line[:2])


def test_the_slow_part_of_rotations_is_a_rotation():
    rng = np.random.default_rng(2)
    jitter = rng.normal(size=60) * 0.05
    poses = np.stack([rigid(0.15 * i + j, 0.5 * i, 0) for i, j in enumerate(jitter)])
    slow = slow_part(poses, np.ones(60), 15, projection())
    assert np.allclose(slow[:, :2, :2] @ slow[:, :2, :2].mT, np.eye(2))
    fast = poses @ np.linalg.inv(slow)
    angle = np.arctan2(-fast[:, 1, 0], fast[:, 1, 1])
    assert np.abs(angle).max() < 0.15, "more than a whole turn is in the slow part"
    assert np.corrcoef(angle, jitter)[0, 1] > 0.9
