"""Rotation matrices: proper, and the ones that scipy gives for the same angles and quaternions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from scipy.spatial.transform import Rotation
from strategies import vectors

from daskreg.geometry.rotations import (
    angles_from_rotation,
    array_order,
    plane_rotation,
    rotation_from_angles,
    rotations_from_quaternions,
    scaled_rotation_from_quaternion,
    super_fibonacci_rotations,
)

Floats = np.ndarray[Any, np.dtype[np.float64]]


@given(vectors(3, -3.1, 3.1))
def test_angles_are_those_of_scipy_and_come_back(angles: Floats) -> None:
    rotation = rotation_from_angles(angles.tolist())
    np.testing.assert_allclose(rotation, Rotation.from_euler("xyz", angles).as_matrix(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(rotation_from_angles(angles_from_rotation(rotation)), rotation, rtol=0, atol=1e-9)


def test_a_plane_rotation_turns_one_axis_towards_the_other() -> None:
    np.testing.assert_allclose(plane_rotation(np.pi / 2, 2, 0, 3) @ (0, 0, 1), (1, 0, 0), atol=1e-15)
    np.testing.assert_array_equal(rotation_from_angles([0.3]), plane_rotation(0.3))


def test_array_order_turns_vectors_of_reversed_axes() -> None:
    rotation, vector = rotation_from_angles([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(array_order(rotation) @ vector[::-1], (rotation @ vector)[::-1], rtol=1e-15)


@given(vectors(4, -1.0, 1.0).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_quaternions_are_those_of_scipy(quaternion: Floats) -> None:
    expected = Rotation.from_quat(quaternion).as_matrix()
    unit = quaternion / np.linalg.norm(quaternion)
    np.testing.assert_allclose(rotations_from_quaternions(unit), expected, rtol=0, atol=1e-12)
    scaled = scaled_rotation_from_quaternion(*quaternion)
    np.testing.assert_allclose(scaled, expected * (quaternion @ quaternion), rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [72, 576])
def test_rotations_cover_all_of_them(count: int) -> None:
    """No rotation is further from the nearest of them than twice what an ideal cover would leave."""
    cover = super_fibonacci_rotations(count)
    np.testing.assert_allclose(cover @ np.swapaxes(cover, 1, 2), np.broadcast_to(np.eye(3), cover.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(cover), 1, atol=1e-12)
    some = Rotation.random(500, rng=np.random.default_rng(0)).as_matrix()
    cosines = (np.einsum("nij,mij->nm", some, cover).max(axis=1) - 1) / 2
    assert np.degrees(np.arccos(np.clip(cosines, -1, 1))).max() < 2 * np.degrees((6 * np.pi / count) ** (1 / 3))
