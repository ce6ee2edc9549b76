"""Shifts of profiles: known ones, with noise, gain, and partial overlap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from daskreg.geometry import Grid
from daskreg.registration.pose import Pose
from daskreg.stacks.common_line import fit_profiles, fit_shift, profiles, scores_at


def profile(n=200, seed=0):
    return ndimage.gaussian_filter1d(np.random.default_rng(seed).normal(size=n), 3)


@pytest.mark.parametrize("shift", [0.0, 3.4, -17.25, 60.0])
def test_a_known_shift_is_found(shift):
    wide = profile(600)
    x = np.arange(200.0) + 200
    fixed, moving = (ndimage.map_coordinates(wide, [x + s], order=3) for s in (shift, 0))
    found, variance, score, overlap = fit_shift(fixed, 3 * moving + 7)
    assert found == pytest.approx(shift, abs=0.02)
    assert score > 0.999
    assert overlap == pytest.approx(1 - abs(shift) / 200, abs=0.02)
    assert variance < 1e-3


@pytest.mark.parametrize("width", [1, 3])
def test_the_search_is_by_the_correlation_of_what_overlaps(width):
    fixed, moving = (np.random.default_rng(k).normal(size=(57, width)).cumsum(axis=0) + 90 for k in range(2))
    moving[40:] = 7.0  # no contrast
    shifts = np.arange(-50, 51)
    expected = [
        np.corrcoef(fixed[max(0, -k) : 57 - max(0, k)].ravel(), moving[max(0, k) : 57 + min(0, k)].ravel())[0, 1]
        for k in shifts[:90]
    ]
    found = scores_at(fixed, moving, shifts)
    np.testing.assert_allclose(found[:90], expected, atol=1e-9)
    np.testing.assert_array_equal(found[90:], -1)


@pytest.mark.slow
def test_the_variance_is_that_of_many_runs():
    rng, clean = np.random.default_rng(1), profile()
    runs = [fit_shift(*(clean + rng.normal(size=200) * 0.05 for _ in range(2)))[:2] for _ in range(60)]
    shifts, variances = np.array(runs).T
    assert 0.5 < np.std(shifts) / np.sqrt(np.mean(variances)) < 2


def test_a_constant_profile_has_no_variance():
    _, variance, _, _ = fit_shift(np.ones(50), np.ones(50))
    assert np.isnan(variance)


def test_profiles_of_images_are_shifts_of_the_world():
    rows = profile(120)
    images = torch.from_numpy(np.stack([np.roll(rows, s)[:, None] + np.zeros((1, 30)) for s in (0, 5, 2)]))
    images[1, :, :4] = torch.nan
    lines = profiles(images, 0)
    assert np.allclose(lines[0], rows)
    table = fit_profiles(lines, np.array([[0, 1], [1, 2]]), Grid((120, 30), (0.5, 2.0)), 0, Pose.of("translation", 2))
    assert np.allclose(table.matrices[:, :2, 2], [[2.5, 0], [-1.5, 0]], atol=0.05)
    assert np.all(table.covariance[:, 0] == 0), "x is not estimated"
