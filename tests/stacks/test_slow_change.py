"""Slow motion that may be a change of the specimen is remarked on; drift of a specimen that does not change is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

import daskreg as dr
from daskreg.stacks.pair_table import PairTable
from daskreg.stacks.verdict.slow_change import changes

N = 8


@pytest.fixture(scope="module")
def volume():
    return ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(N, 76, 90)), (2, 2, 2), mode="wrap")


def drifting(volume, dtype=np.float32, noise=0.2):
    """The slices moved by half a voxel each along the first axis of a slice, by less along the second, with noise."""
    frames = np.stack([ndimage.shift(s, (0.5 * k, -0.2 * k), order=1, mode="wrap") for k, s in enumerate(volume)])
    return (frames + np.random.default_rng(5).normal(0, noise * volume.std(), frames.shape)).astype(dtype)


def test_slow_motion_of_a_changing_specimen_is_said(volume, tmp_path):
    fit = dr.align_stack(drifting(volume), model="translation")
    assert fit.ok
    assert fit.slow[0] > fit.slow[1]
    np.testing.assert_allclose(fit.slow[0], np.ptp(fit.parameters["ty"]), rtol=0.2)
    assert "cannot tell drift" in repr(fit)
    fit.save(tmp_path / "fit.json")
    np.testing.assert_allclose(dr.StackFit.load(tmp_path / "fit.json").slow, fit.slow)
    assert ("Slow motion", True) in [(name, "drift" in value) for name, value in fit.section().numbers]


def test_slow_motion_relative_to_the_mean_is_said(volume):
    fit = dr.align_stack(drifting(volume), model="translation", reference="mean")
    assert fit.ok
    assert fit.slow is not None
    assert fit.pairs is None


@pytest.mark.parametrize(
    ("repeated", "noise", "options"), [(True, 0.2, {}), (True, 0.0, {}), (False, 0.2, {"trend": "keep"})]
)
def test_drift_of_one_slice_and_motion_that_is_kept_are_not_remarked(volume, repeated, noise, options):
    stack = np.repeat(volume[:1], N, axis=0) if repeated else volume
    fit = dr.align_stack(drifting(stack, noise=noise), model="translation", **options)
    assert fit.ok
    assert fit.slow is None
    assert "\n" not in repr(fit)


@pytest.mark.parametrize(("metric", "far", "expected"), [("ncc", 0.7, True), ("ncc", 0.79, False), ("mse", 5.0, True)])
def test_specimens_change_where_slices_two_apart_differ_more(metric, far, expected):
    edges = np.array([(a, a + step) for step in (1, 2) for a in range(6 - step)])
    similarity = np.where(np.diff(edges)[:, 0] == 1, 0.8 if metric == "ncc" else 2.0, far)
    unknown = np.zeros(len(edges))
    pairs = PairTable(edges, np.tile(np.eye(3), (9, 1, 1)), *[unknown] * 2, similarity, *[unknown] * 3)
    assert changes(pairs, metric) is expected
    assert changes(pairs.take(np.arange(5)), metric)  # neighbours alone do not tell
