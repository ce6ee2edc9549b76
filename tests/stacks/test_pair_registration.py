"""Batches of pairs without a hint: shifts by phase correlation, larger motions only where they are clearly better."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import random_walk
from phantoms import blobs
from scipy import ndimage

from daskreg.geometry import Grid
from daskreg.registration.pose import Pose
from daskreg.registration.pyramids.pyramid import image_batch
from daskreg.stacks.pair_registration import PairOptions, batch_size, phase_shifts, register_pairs


def crops(shape, shifts, seed=0):
    """Crops of one large noise image: crop k has the content moved by shifts[k]."""
    margin = 40
    rng = np.random.default_rng(seed)
    wide = ndimage.gaussian_filter(rng.normal(size=[n + 2 * margin for n in shape]), 3).astype(np.float32)
    cuts = [tuple(slice(margin - s, margin - s + n) for s, n in zip(shift, shape, strict=True)) for shift in shifts]
    return torch.from_numpy(np.stack([wide[c] for c in cuts]))


def matrices(fits):
    return np.concatenate([f.matrices for f in fits])


@pytest.mark.parametrize("shape", [(64, 90), (24, 30, 28)])
def test_phases_tell_shifts(shape):
    shifts = [(0,) * len(shape), (7, -5, 3)[: len(shape)], (-9, 2, -6)[: len(shape)]]
    images = crops(shape, shifts)
    fixed, moving = (image_batch(t, Grid(shape)) for t in (images[:1], images))
    found = phase_shifts(fixed, moving, 3)
    assert found.shape == (3, 3, len(shape))
    # The window pulls shifts of small images towards zero; fits go on from there.
    assert np.allclose(found[:, 0], shifts, atol=0 if min(shape) > 60 else 2)


def test_far_shifts_are_fitted():
    shape = (100, 120)
    shifts = [(0, 0), (33, -28), (-20, 38), (1, 0)]
    options = PairOptions(Pose.of("translation", 2))
    images = crops(shape, shifts)
    found = matrices(register_pairs(images[:1], images, Grid(shape), options))
    assert np.allclose(found[:, :2, 2], shifts, atol=0.01)


@pytest.mark.slow
def test_a_batch_is_its_pairs():
    shape = (200, 180)
    drift = random_walk(5, shape, step=2, turn=0.5, seed=0)
    image = ndimage.zoom(blobs((50, 45), seed=1), 4, order=3)
    stack = np.stack(
        [ndimage.affine_transform(image, m[:2, :2], m[:2, 2], order=3) for m in np.linalg.inv(drift)]
    ).astype(np.float32)
    stack[2, :30, :30] = np.nan
    grid = Grid(shape, (0.5, 0.5))
    for metric in ("ncc", "mse"):
        options = PairOptions(Pose.of("rigid", 2), metric)
        images = torch.from_numpy(stack)
        pairs = register_pairs(images[:-1], images[1:], grid, options)
        alone = [register_pairs(images[k : k + 1], images[k + 1 : k + 2], grid, options)[0] for k in range(4)]
        assert np.allclose(matrices(pairs), matrices(alone), atol=2e-3)
        scores = [np.concatenate([f.after for f in fits]) for fits in (pairs, alone)]
        assert np.allclose(*scores, atol=1e-4)


def test_a_periodic_object_keeps_the_small_motion():
    y, x = np.mgrid[:128, :128]
    wave = np.sin(2 * np.pi * x / 16) * np.sin(2 * np.pi * y / 16)
    moved = np.roll(wave, (1, -2), (0, 1))
    pair = torch.from_numpy(np.stack([wave, moved]).astype(np.float32))
    fit = register_pairs(pair[:1], pair[1:], Grid((128, 128)), PairOptions(Pose.of("translation", 2)))
    assert np.allclose(matrices(fit)[0, :2, 2], (1, -2), atol=0.05)


def test_a_start_is_used():
    images = crops((80, 80), [(0, 0), (12, -9)])
    start = np.eye(3)[None].copy()
    start[0, :2, 2] = (12.7, -8.4)
    options = PairOptions(Pose.of("rigid", 2))
    fit = register_pairs(images[:1], images[1:], Grid((80, 80)), options, start)
    assert np.allclose(matrices(fit)[0, :2, 2], (12, -9), atol=0.01)


def test_batches_fit_in_memory():
    assert batch_size(Grid((64, 64)), "cpu") == 32
    assert batch_size(Grid((1024, 1024)), "cpu") < 8
    assert batch_size(Grid((8192, 8192)), "cpu") == 1
    assert batch_size(Grid((1024, 1024)), "cuda:0") > batch_size(Grid((1024, 1024)), "cpu")


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing_but_the_time(threads):
    images = crops((96, 80), [(0, 0), (5, 1), (-3, 2), (0, 9), (1, 1)])
    options = PairOptions(Pose.of("rigid", 2))
    before = torch.get_num_threads()
    expected = matrices(register_pairs(images[:-1], images[1:], Grid((96, 80)), options))
    try:
        torch.set_num_threads(threads)
        found = register_pairs(images[:-1], images[1:], Grid((96, 80)), options)
        assert len(found) == threads
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(matrices(found), expected)
