"""Stripes of a detector, which hold slices in place along one axis, are told from the specimen and taken off."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.ndimage
from skimage import data

import daskreg as dr
from daskreg.geometry import Box, Grid
from daskreg.registration.pose import Pose
from daskreg.stacks.pair_registration import PairOptions
from daskreg.stacks.slice_reader import without_line_means
from daskreg.stacks.verdict.stripes import stripes_hide_motion

SHAPE, N = (113, 139), 11


def blobs(seed):
    """A specimen of discs, larger than a slice."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((SHAPE[0] + 30, SHAPE[1] + 30))
    scene = np.zeros(y.shape)
    for a, b, r in rng.uniform((0, 0, 4), (y.max(), x.max(), 9), (120, 3)):
        scene += rng.normal() * (np.hypot(y - a, x - b) < r)
    return scipy.ndimage.gaussian_filter(scene, 1.5)


def tissue(seed):
    """A part of a photograph of stained tissue."""
    image = data.immunohistochemistry()[..., 2].astype(float)
    a, b = np.random.default_rng(seed).integers(0, 300, 2)
    return image[a : a + SHAPE[0] + 30, b : b + SHAPE[1] + 30]


def drifting(scene, seed, noise=0.15):
    """Slices of a scene of variance one that drift by a few voxels, with noise, and their shifts."""
    rng = np.random.default_rng(seed)
    shifts = np.clip(np.cumsum(rng.uniform(-1.5, 1.5, (N, 2)), axis=0), -7, 7)
    scene = (scene - scene.mean()) / scene.std()
    frames = [scipy.ndimage.shift(scene, d, order=3)[15 : 15 + SHAPE[0], 15 : 15 + SHAPE[1]] for d in shifts]
    return (np.stack(frames) + noise * rng.normal(size=(N, *SHAPE))).astype(np.float32), shifts


def lines(size, axis, seed):
    """Offsets of the rows (axis 0) or the columns, of a standard deviation."""
    rng = np.random.default_rng(seed)
    return (size * rng.normal(size=(SHAPE[0], 1) if axis == 0 else (1, SHAPE[1]))).astype(np.float32)


def misfit(fit, shifts):
    """(N, 2) shifts less the true ones and what all share."""
    apart = fit.raw_from_aligned.matrices[:, :2, 2] - shifts
    return apart - apart.mean(axis=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scene", "axis", "size"),
    [(blobs(61), 1, 0.5), (blobs(62), 1, 1.0), (blobs(63), 0, 2.0), (tissue(64), 1, 0.6), (tissue(65), 0, 1.2)],
)
def test_stripes_do_not_hide_the_motion(scene, axis, size):
    stack, shifts = drifting(scene, 66)
    fit = dr.align_stack(stack + lines(size, axis, 67), model="translation")
    clean = dr.align_stack(stack, model="translation")
    apart, sigma = misfit(fit, shifts), np.stack([fit.sigma["ty"], fit.sigma["tx"]], axis=1)
    assert fit.ok
    assert fit.striped
    assert not clean.striped
    assert np.abs(apart).max() < 0.1
    assert 0.4 < np.sqrt(np.mean((apart / sigma) ** 2)) < 2.5
    assert np.sqrt(np.mean(apart**2)) < 3 * np.sqrt(np.mean(misfit(clean, shifts) ** 2)) + 0.02


@pytest.mark.slow
def test_stripes_in_rows_and_columns_of_a_stack_that_turns():
    """Offsets of both, and voxels that are masked."""
    stack, _ = drifting(blobs(71), 72)
    angles = np.cumsum(np.random.default_rng(73).uniform(-1, 1, N))
    turned = [
        scipy.ndimage.rotate(s, np.degrees(a), reshape=False, order=3) for s, a in zip(stack, angles, strict=True)
    ]
    striped = np.stack(turned).astype(np.float32) + lines(0.8, 0, 74) + lines(0.8, 1, 75)
    striped[:, 30:34] = np.nan
    fit = dr.align_stack(striped)
    clean = dr.align_stack(np.stack(turned).astype(np.float32))
    assert fit.ok
    found, expected = fit.parameters["theta"], clean.parameters["theta"]
    assert np.abs((found - found.mean()) - (expected - expected.mean())).max() < np.radians(0.15)
    assert np.abs(fit.raw_from_aligned.matrices[:, :2, 2] - clean.raw_from_aligned.matrices[:, :2, 2]).max() < 0.3


@pytest.mark.slow
def test_a_striped_stack_that_grows_is_fitted_as_a_whole(tmp_path):
    stack, shifts = drifting(blobs(76), 77)
    stack += lines(1.0, 1, 78)
    early = dr.align_stack(stack[:8], model="translation")
    early.save(tmp_path / "early.json")
    for previous in (early, tmp_path / "early.json"):
        fit = dr.align_stack(stack, model="translation", previous=previous)
        assert fit.ok
        assert np.abs(misfit(fit, shifts)).max() < 0.1
        before, after = early.raw_from_aligned.matrices[:8], fit.raw_from_aligned.matrices[:8]
        assert np.abs((after - before)[:, :2, 2].mean(axis=0)).max() < 0.02, "the old slices stay, on average"


def hidden(stack, shifts, size=None):
    poses = np.tile(np.eye(3), (len(stack), 1, 1))
    poses[:, :2, 2] = shifts
    side = Box.of(SHAPE) if size is None else Box((5, 9), (5 + size, 9 + size))
    return stripes_hide_motion(stack, Grid(SHAPE), poses, PairOptions(Pose.of("translation", 2)), side)


@pytest.mark.parametrize("scene", [blobs(81), tissue(82)])
def test_only_poses_that_stripes_hold_are_contradicted(scene):
    """Right poses are not, with or without stripes; specimens whose own lines are long are not either."""
    stack, shifts = drifting(scene, 83)
    held = shifts * [1, 0.6]
    assert hidden(stack + lines(1.0, 1, 84), held)
    assert hidden(stack, held, 96)
    assert not hidden(stack + lines(1.0, 1, 84), shifts)
    assert not hidden(stack, shifts)
    stack[3], shifts[4] = stack[2], shifts[4] + 3  # a copy, and one slice that is wrong
    shifts[3] = shifts[2]
    stack[5:7], stack[8] = np.nan, 1
    assert not hidden(stack[:9], shifts[:9])


def test_layers_of_a_specimen_are_no_stripes():
    """What is constant along rows moves with the specimen: without line means, its shifts are not known."""
    rng = np.random.default_rng(85)
    layers = scipy.ndimage.gaussian_filter(rng.normal(size=(SHAPE[0] + 30, 1)), (2, 0)) + np.zeros(SHAPE[1] + 30)
    stack, shifts = drifting(layers, 86)
    assert not hidden(stack, shifts)


def test_line_means_are_subtracted_as_numpy_does():
    rng = np.random.default_rng(87)
    images = rng.normal(size=(3, 7, 9)).astype(np.float32)
    expected = (
        images - images.mean(1, keepdims=True) - images.mean(2, keepdims=True) + images.mean((1, 2), keepdims=True)
    )
    assert np.allclose(without_line_means(images), expected, atol=1e-6)
    images[1, 2], images[2, :, 4], images[0, 3, 3] = np.nan, np.nan, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of lines without a voxel
        once = images - np.nan_to_num(np.nanmean(images, axis=1, keepdims=True))
        twice = once - np.nan_to_num(np.nanmean(once, axis=2, keepdims=True))
    found = without_line_means(images)
    assert np.array_equal(np.isnan(found), np.isnan(images))
    assert np.allclose(found, twice, atol=1e-6, equal_nan=True)
    volumes = rng.normal(size=(2, 4, 5, 6)).astype(np.float32) + rng.normal(size=(4, 1, 6)).astype(np.float32)
    assert np.abs(without_line_means(volumes).mean(axis=2)).max() < 1e-5
