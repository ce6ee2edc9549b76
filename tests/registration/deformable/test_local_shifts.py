"""Small windows of aligned images say so where some motion is left, and only there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import daskreg as dr
from daskreg.geometry import Grid
from daskreg.registration.verdict.local_shifts import LocalShifts, local_shifts

Floats = NDArray[np.float64]


def texture(shape: tuple[int, ...]) -> Floats:
    """Fine and coarse structures."""
    rng = np.random.default_rng(0)
    layers = [ndimage.gaussian_filter(rng.normal(size=shape), size, mode="mirror") for size in (1.5, 3, 6)]
    return np.asarray(sum(one / one.std() for one in layers) / np.sqrt(3))


def pair(shape: tuple[int, ...], length: float, amplitude: float, noise: float) -> tuple[Any, Any]:
    """An image moved along its first axis by a wave along the last one, and the image."""
    rng, moving = np.random.default_rng(1), texture(shape)
    places = np.indices(shape).astype(float)
    places[0] += amplitude * np.sin(2 * np.pi * places[-1] / length)
    fixed = ndimage.map_coordinates(moving, places, order=3, mode="mirror")
    return tuple((one + noise * rng.normal(size=shape)).astype(np.float32) for one in (fixed, moving))


def shifts_of(shape: tuple[int, ...], length: float, amplitude: float, noise: float) -> LocalShifts:
    fixed, moving = pair(shape, length, amplitude, noise)
    return local_shifts(fixed, moving, np.ones(shape, bool), (8.0,) * len(shape))


@pytest.mark.parametrize("shape", [(90, 107), pytest.param((26, 31, 29), marks=pytest.mark.slow)])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_what_is_left_of_a_motion_is_found(shape: tuple[int, ...], noise: float) -> None:
    aligned, moved = (shifts_of(shape, 23, amplitude, noise) for amplitude in (0.0, 2.0))
    assert not aligned.left
    assert len(aligned.moved) > 20
    assert moved.left
    grid = Grid(shape, 2.0, 0.0, np.eye(len(shape))[::-1])  # the first axis lies along the last one of the world
    points = grid.world(np.random.default_rng(2).uniform(5, np.array(shape) - 5, (50, len(shape))))
    assert np.median(aligned.deviations(grid, points)) < 0.1
    left = moved.deviations(grid, points)
    assert np.median(left[:, -1]) == pytest.approx(2 * 2 / np.sqrt(2), rel=0.3)
    assert np.all(np.median(left[:, :-1], axis=0) < 1)


def test_what_is_left_is_left_where_windows_say_so() -> None:
    fixed, moving = pair((90, 107), 23, 2.0, 0.1)
    fixed[:, 50:] = moving[:, 50:]
    grid = Grid((90, 107), 2.0)
    left, right = (
        local_shifts(fixed, moving, np.ones((90, 107), bool), (8.0, 8.0)).deviations(grid, grid.world([[45.0, x]]))
        for x in (25.0, 85.0)
    )
    assert left[0, 0] > 1
    assert right[0, 0] < 0.1


def test_unknown_voxels_and_small_images_have_no_windows() -> None:
    fixed, moving = pair((60, 64), 23, 2.0, 0.1)
    assert not len(local_shifts(fixed, moving, np.zeros((60, 64), bool), (8.0, 8.0)).moved)
    assert not local_shifts(fixed[:7, :5], moving[:7, :5], np.ones((7, 5), bool), (8.0, 8.0)).left
    assert not local_shifts(0 * fixed, moving, np.ones((60, 64), bool), (8.0, 8.0)).left


@pytest.mark.slow
def test_a_motion_that_control_points_do_not_follow_is_uncertain() -> None:
    fixed, moving = pair((90, 110), 32, 2.0, 0.05)
    options: dict[str, Any] = {"model": "bspline", "init": dr.Affine.identity(2)}
    stiff, right = (dr.register(fixed, moving, spacing=spacing, **options) for spacing in (24, 8))
    points = np.random.default_rng(0).integers(12, (78, 98), (20, 2)).astype(float)
    truth = 2 * np.sin(2 * np.pi * points[:, 1] / 32)

    def away(fit: Any) -> Floats:
        return np.asarray(np.abs(fit.moving_from_fixed(points)[:, 0] - points[:, 0] - truth))

    assert np.median(away(stiff)) > 0.7
    assert stiff.status.name == "UNCERTAIN"
    assert np.all(away(stiff) < 4 * stiff.sigma_at(points)[:, 0])
    assert right.ok, right.status
    assert np.median(away(right)) < 0.1
    assert np.median(right.sigma_at(points)) < 0.2


def test_most_windows_confirm_a_motion_if_they_stay_where_they_are() -> None:
    def of(gain: float, windows: int) -> LocalShifts:
        return LocalShifts(np.zeros((9, 2)), np.zeros((9, 2)), np.full(9, gain), windows)

    assert of(0.0, 18).confirm
    assert not of(0.0, 30).confirm
    assert not of(9.0, 18).confirm
