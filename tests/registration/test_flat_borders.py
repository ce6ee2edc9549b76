"""Flat borders, exact and noisy, and what must not pass for one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from daskreg.registration.pyramids.flat_borders import flat_borders
from daskreg.registration.pyramids.flat_borders_numba import connected_with_border


def scene(shape, seed=0):
    rng = np.random.default_rng(seed)
    return 100 + 40 * sum(ndimage.gaussian_filter(rng.standard_normal(shape), s) * s for s in (2, 6))


def test_exact():
    values = torch.randn((2, 20, 20), generator=torch.Generator().manual_seed(0))
    assert flat_borders(values) is None
    values[1, :, 15:] = 3.5
    values[1, 5, 5] = 3.5  # not connected with the border
    flat = flat_borders(values)
    assert flat is not None
    assert flat[0].sum() == 0
    assert flat[1].sum() == 100


@pytest.mark.parametrize("noise", [0.0, 6.0])
@pytest.mark.parametrize("shape", [(200, 260), (60, 72, 90)])
def test_what_a_turn_filled(shape, noise):
    image = scene(shape)
    turned = ndimage.rotate(image, 15, axes=(-1, -2), reshape=False, order=1, cval=0)
    truth = ndimage.rotate(np.ones(shape), 15, axes=(-1, -2), reshape=False, order=1, cval=0) < 0.5
    noisy = turned + noise * np.random.default_rng(1).standard_normal(shape)
    found = flat_borders(torch.tensor(noisy[None], dtype=torch.float32))
    assert found is not None
    found = found[0].numpy()
    inside = ndimage.binary_erosion(truth, np.ones((5,) * len(shape)), border_value=1)
    assert found[inside].mean() > 0.98
    assert not found[ndimage.binary_erosion(~truth, iterations=4)].any()


def test_content_and_noise_are_not_flat():
    image = scene((200, 260)) + 6 * np.random.default_rng(2).standard_normal((200, 260))
    assert flat_borders(torch.tensor(image[None], dtype=torch.float32)) is None
    noise = torch.randn((1, 200, 260), generator=torch.Generator().manual_seed(0))
    assert flat_borders(noise) is None


@pytest.mark.parametrize("shape", [(1, 20), (30, 41), (9, 13, 17), (24, 20, 22)])
def test_what_is_connected_with_the_border_is_what_labels_say(shape):
    rng = np.random.default_rng(0)
    for share in (0.2, 0.45, 0.6, 0.8):
        mask = rng.random(shape) < share
        labels, _ = ndimage.label(mask)
        inner = np.ones(shape, bool)
        inner[tuple(slice(1, -1) for _ in shape)] = False
        expected = np.isin(labels, np.setdiff1d(labels[inner], [0]))
        np.testing.assert_array_equal(connected_with_border(mask), expected)
    spiral = np.ones((61, 61), bool)
    for k in range(0, 28, 2):  # walls with a gap on alternate sides
        spiral[2 * k + 2, 1 if k % 4 else 0 : 60 if k % 4 else 59] = False
    np.testing.assert_array_equal(connected_with_border(spiral), spiral)


def test_a_mask_that_winds():
    maze = np.zeros((99, 99), bool)
    maze[1:-1:2, 1:-1] = True
    for k in range(2, 97, 2):
        maze[k, 1 if k % 4 else 97] = True
    assert not connected_with_border(maze).any()
    maze[0, 97] = True  # the only way in
    np.testing.assert_array_equal(connected_with_border(maze), maze)
    np.testing.assert_array_equal(connected_with_border(maze.T[:, None]), maze.T[:, None])
