"""Lie algebras of affine motions, compared with scipy's matrix functions, in 2D and 3D."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from daskreg.geometry.lie import Algebra
from daskreg.registration.pose import MODELS, Pose

CENTRES = {2: np.array([40.0, 55.0]), 3: np.array([10.0, -20.0, 30.0])}


def algebra(model, ndim, reach=25.0):
    pose = Pose.of(model, ndim)
    return Algebra.of(pose.groups, CENTRES[ndim], reach, common_scale=pose.common_scale)


@pytest.fixture(params=[(m, d) for m in MODELS for d in (2, 3)], ids=str)
def case(request):
    model, ndim = request.param
    found = algebra(model, ndim)
    vectors = np.random.default_rng(0).normal(size=(12, found.size)) * 8
    return found, vectors


def test_the_exponential_is_that_of_the_matrices(case):
    lie, vectors = case
    to = np.diag([lie.reach] * len(lie.centre) + [1.0])
    to[:-1, -1] = lie.centre
    for vector, matrix in zip(vectors, lie.exp(vectors), strict=True):
        inner = np.tensordot(vector / lie.reach, lie.basis, 1)
        assert np.allclose(matrix, to @ scipy.linalg.expm(inner) @ np.linalg.inv(to), atol=1e-9)


def test_logarithms_undo_exponentials(case):
    lie, vectors = case
    assert np.allclose(lie.log(lie.exp(vectors)), vectors, atol=1e-8)
    assert lie.log(np.empty((0, *lie.basis.shape[1:]))).shape == (0, lie.size)


def test_the_adjoint_carries_a_motion_through_another(case):
    lie, vectors = case
    poses, small = lie.exp(vectors), vectors[::-1] * 0.1
    carried = lie.exp(np.einsum("nij,nj->ni", lie.adjoint(poses), small))
    assert np.allclose(poses @ lie.exp(small) @ np.linalg.inv(poses), carried, atol=1e-9)


def test_every_model_has_as_many_directions_as_parameters(case):
    for model in MODELS:
        for ndim in (2, 3):
            assert algebra(model, ndim).size == len(Pose.of(model, ndim).names)
    assert algebra(("rotation", "scale"), 2).size == 4, "a turn and two scales compose to all linear maps"
    assert algebra(("translation", "scale"), 3).size == 6


@pytest.mark.slow
def test_tangents_are_derivatives_of_the_pose():
    pose, lie = Pose.of("affine", 2), algebra("affine", 2)
    p = np.array([[0.2, 3.0, -4.0, 1.05, 0.9, 0.1]])
    matrices, derivatives = pose.motions(p, lie.centre)
    tangent = lie.tangents(matrices, derivatives)[0]
    for k in range(p.shape[1]):
        moved = p.copy()
        moved[0, k] += 1e-6
        step = lie.log(np.linalg.inv(matrices) @ pose.motions(moved, lie.centre)[0])[0] / 1e-6
        assert np.allclose(step, tangent[:, k], atol=1e-3)


def test_coordinates_are_how_far_points_move_at_reach():
    lie = algebra("rigid", 2)
    turn = lie.exp(np.array([[0.0, 0.0, 0.5]]))[0]
    at_reach = np.array([lie.centre[0] + lie.reach, lie.centre[1], 1.0])
    assert np.linalg.norm((turn @ at_reach - at_reach)[:2]) == pytest.approx(0.5, rel=1e-4)


def test_the_mean_of_turned_and_stretched_poses_does_not_shrink():
    """A mean of matrices would: rotations of +-60 degrees average to half of the identity."""
    lie = algebra("similarity", 2)
    angle, stretch = lie.reach * np.radians(60), lie.reach * 0.2
    vectors = np.array([[0, 0, angle, stretch], [0, 0, -angle, -stretch]])
    assert np.allclose(lie.mean(lie.exp(vectors), np.ones(2)), np.eye(3), atol=1e-9)
    frame = lie.exp(np.array([[3.0, -2.0, 5.0, 1.0]]))[0]
    moved = lie.exp(vectors) @ frame
    centred = moved @ np.linalg.inv(lie.mean(moved, np.ones(2)))
    assert np.allclose(lie.log(centred).mean(axis=0), 0, atol=1.0)
    assert np.linalg.det(centred[:, :2, :2]).prod() == pytest.approx(1, rel=1e-9)
