"""Rotation matrices: from angles, from quaternions, and evenly over all rotations. numpy only.

Matrices act on vectors in the order of the axes that their arguments name; `array_order` turns one
from x, y(, z) into y, x or z, y, x.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def plane_rotation(angle: float, i: int = 0, j: int = 1, ndim: int = 2) -> Floats:
    """(D, D) rotation by `angle` radians that turns axis i towards axis j."""
    m = np.eye(ndim)
    m[i, i] = m[j, j] = np.cos(angle)
    m[j, i] = np.sin(angle)
    m[i, j] = -m[j, i]
    return m


def rotation_from_angles(angles: Sequence[float]) -> Floats:
    """Rotation in x, y(, z) order: by one angle in 2D (x towards y), Rz . Ry . Rx of three angles in 3D."""
    if len(angles) == 1:
        return plane_rotation(angles[0])
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        result = plane_rotation(angle, (axis + 1) % 3, (axis + 2) % 3, 3) @ result
    return result


def angles_from_rotation(rotation: Floats) -> list[float]:
    """The angles whose `rotation_from_angles` is `rotation`."""
    if len(rotation) == 2:
        return [float(np.arctan2(rotation[1, 0], rotation[0, 0]))]
    horizontal = np.hypot(rotation[0, 0], rotation[1, 0])
    ry = np.arctan2(-rotation[2, 0], horizontal)
    if horizontal > 1e-9:
        rx = np.arctan2(rotation[2, 1], rotation[2, 2])
        rz = np.arctan2(rotation[1, 0], rotation[0, 0])
    else:  # gimbal lock: only the sum or difference of rx and rz is defined
        rx = np.arctan2(-rotation[1, 2], rotation[1, 1])
        rz = 0.0
    return [float(rx), float(ry), float(rz)]


def array_order(rotation: Floats) -> Floats:
    """The same rotation of vectors whose axes are in the opposite order."""
    return np.ascontiguousarray(rotation[::-1, ::-1]) + 0.0  # no negative zeros


def rotations_from_quaternions(quaternions: ArrayLike) -> Floats:
    """(..., 3, 3) rotations of unit quaternions (..., 4) in the order x, y, z, w."""
    x, y, z, w = np.moveaxis(np.asarray(quaternions, dtype=np.float64), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.ascontiguousarray(np.moveaxis(np.array(rows), (0, 1), (-2, -1)))


def scaled_rotation_from_quaternion(x: float, y: float, z: float, w: float) -> Floats:
    """(3, 3) rotation of a quaternion times the square of its length."""
    return np.array(
        [
            [w * w + x * x - y * y - z * z, 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), w * w - x * x + y * y - z * z, 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), w * w - x * x - y * y + z * z],
        ]
    )


def super_fibonacci_rotations(count: int) -> Floats:
    """(count, 3, 3) rotations that cover all rotations in 3D nearly evenly, always the same ones.

    Unit quaternions along a spiral (Alexa, "Super-Fibonacci Spirals", CVPR 2022).
    """
    phi, psi = np.sqrt(2.0), 1.533751168755204288118041
    k = np.arange(count) + 0.5
    r, s = np.sqrt(k / count), np.sqrt(1 - k / count)
    alpha, beta = 2 * np.pi * k / phi, 2 * np.pi * k / psi
    return rotations_from_quaternions(
        np.stack([r * np.sin(alpha), r * np.cos(alpha), s * np.sin(beta), s * np.cos(beta)], axis=1)
    )
