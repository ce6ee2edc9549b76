"""Outlier slices are found by kind, wrong pairs do no harm, and sigma is about as large as the errors."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from oracles import low_pass, pull, random_walk, residuals, rigid_2d

import daskreg as dr
from daskreg.stacks.align import StackStatus

pytestmark = pytest.mark.slow

SHAPE, N = (120, 136), 24


@pytest.fixture(scope="module")
def specimen():
    """Slices whose content changes from each to the next, with fine detail, in a dark surround."""
    rng = np.random.default_rng(0)
    coarse = scipy.ndimage.gaussian_filter(rng.normal(size=(N, *SHAPE)), (4, 6, 6))
    fine = scipy.ndimage.gaussian_filter(rng.normal(size=(N, *SHAPE)), (3, 1.5, 1.5))
    y, x = np.indices(SHAPE)
    inside = ((y - 60) / 50) ** 2 + ((x - 68) / 58) ** 2 < 1
    return (2 + coarse / coarse.std() + 0.7 * fine / fine.std()) * inside


@pytest.fixture(scope="module")
def jitter():
    rng = np.random.default_rng(1)
    centre = (np.array(SHAPE) - 1) / 2
    return np.stack([rigid_2d(np.radians(2) * a, 3 * b, 3 * c, centre) for a, b, c in rng.normal(size=(N, 3))])


@pytest.fixture(scope="module")
def stack(specimen, jitter):
    moved = [pull(s, np.linalg.inv(m), order=3)[0] for s, m in zip(specimen, jitter, strict=True)]
    noise = np.random.default_rng(2).normal(size=(N, *SHAPE)) * 0.03 * np.ptp(specimen)
    return (np.stack(moved) + noise).astype(np.float32)


def noise_of(stack, seed):
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32) * 0.03 * np.ptp(stack)


def fast_residual(fit, jitter, without=()):
    good = np.setdiff1d(np.arange(N), without)
    return residuals(fit.raw_from_aligned.matrices[good], jitter[good], SHAPE)["fast"]


def test_jitter_is_found_without_false_outliers(stack, jitter):
    fit = dr.align_stack(stack)
    assert fit.status is StackStatus.CONVERGED
    assert fit.kinds == {}
    assert fit.outliers == ()
    assert fast_residual(fit, jitter) < 0.3


def test_blank_slices_and_copies_are_found(stack, jitter):
    bad = stack.copy()
    bad[4], bad[11], bad[17] = 0, noise_of(stack, 5), np.nan
    bad[8], bad[20] = bad[7], bad[21]
    fit = dr.align_stack(bad)
    assert fit.kinds == {4: "blank", 8: "duplicated", 11: "blank", 17: "blank", 20: "duplicated"}
    assert fit.outliers == (4, 8, 11, 17, 20)
    assert fit.bridged == (4, 11, 17)
    assert fit.status is StackStatus.BRIDGED
    assert fast_residual(fit, jitter, without=fit.outliers) < 0.3
    p = fit.parameters
    for i in fit.bridged:
        assert p["tx"][i] == pytest.approx((p["tx"][i - 1] + p["tx"][i + 1]) / 2, abs=0.1)
    assert np.allclose(fit.raw_from_aligned.matrices[8], fit.raw_from_aligned.matrices[7], atol=0.3), "as its original"
    assert "blank 4, 11, 17" in repr(fit)
    assert "duplicated 8, 20" in repr(fit)


def test_blurred_slices_are_found(stack, jitter):
    bad = stack.copy()
    bad[9] = scipy.ndimage.gaussian_filter(bad[9], 2.5)
    fit = dr.align_stack(bad)
    assert fit.kinds == {9: "blurred"}
    assert fit.bridged == ()
    assert fast_residual(fit, jitter) < 0.4


def test_torn_slices_are_found(stack, jitter):
    """A third of the slice is shifted."""
    bad = stack.copy()
    bad[13, 74:] = np.roll(bad[13, 74:], 25, axis=1)
    fit = dr.align_stack(bad)
    assert fit.kinds == {13: "torn"}
    assert fast_residual(fit, jitter, without=(13,)) < 0.3


def test_slices_in_the_wrong_order_are_found(stack):
    bad = stack.copy()
    bad[[6, 7]] = bad[[7, 6]]
    assert dr.align_stack(bad).kinds == {6: "swapped"}


def test_copies_of_one_image_have_no_order():
    drift = random_walk(10, SHAPE, step=1, turn=0.5, seed=3)
    image = scipy.ndimage.gaussian_filter(np.random.default_rng(4).normal(size=SHAPE), 2)
    fit = dr.align_stack(np.stack([pull(image, m, order=3)[0] for m in np.linalg.inv(drift)]))
    assert fit.kinds == {}


def test_sigma_is_about_the_error():
    """One slice, moved, with noise: the error of every slice is about its sigma."""
    drift = random_walk(12, SHAPE, step=1, turn=0.5, seed=3)
    image = scipy.ndimage.gaussian_filter(np.random.default_rng(4).normal(size=SHAPE), 3)
    clean = np.stack([pull(image, m, order=3)[0] for m in np.linalg.inv(drift)])
    ratios = []
    for seed in range(4):
        noisy = clean + np.random.default_rng(seed).normal(size=clean.shape) * 0.3 * clean.std()
        fit = dr.align_stack(noisy.astype(np.float32))
        errors = np.linalg.inv(drift) @ fit.raw_from_aligned.matrices
        centre = np.append((np.array(SHAPE) - 1) / 2, 1)
        shift = (errors @ centre)[:, :2]
        shift -= shift.mean(axis=0)
        ratios.append(shift / np.stack([fit.sigma["ty"], fit.sigma["tx"]], axis=1))
    assert 0.4 < np.sqrt(np.mean(np.square(ratios))) < 2.0


def test_consistency_without_and_with_the_truth(stack, jitter):
    fit = dr.align_stack(stack)
    alone = fit.consistency()
    assert alone["triangles"] == N - 2
    assert 0 < alone["median"] == pytest.approx(fit.cycle, rel=0.01)
    assert alone["worst"] < 2
    with_truth = fit.consistency(jitter)
    assert with_truth["pair_error"] > 0
    assert with_truth["cycle_error"] > 0
    assert np.isnan(fit.cycles[[0, -1]]).all()
    chain = dr.align_stack(stack, reference="previous")
    assert chain.consistency()["triangles"] == 0
    assert np.isnan(chain.cycle)


def test_anchors_stay_and_the_drift_between_them_is_spread(stack):
    free = dr.align_stack(stack)
    offset = dr.Affine.translation(x=4.0)
    first = free.raw_from_aligned[0]
    anchors = {0: first, N - 1: free.raw_from_aligned[N - 1] @ offset}
    fit = dr.align_stack(stack, anchors=anchors)
    for i, anchor in anchors.items():
        assert np.allclose(fit.raw_from_aligned[i].matrix, anchor.matrix, atol=1e-12)
    apart = (np.linalg.inv(free.raw_from_aligned.matrices) @ fit.raw_from_aligned.matrices)[:, 1, 2]
    assert np.abs(apart - np.linspace(0, 4, N)).max() < 1.5
    assert fit.sigma["tx"][0] == fit.sigma["tx"][-1] == 0
    for bad, message in (
        ({N: first}, "0 to 23"),
        ({2: dr.Affine.from_parameters(sx=1.2, ndim=2)}, "not a motion of the model"),
    ):
        with pytest.raises(dr.errors.OptionError, match=message):
            dr.align_stack(stack, anchors=bad)
    with pytest.raises(dr.errors.OptionError, match="remove"):
        dr.align_stack(stack, anchors=anchors, trend="keep")
    with pytest.raises(dr.errors.ShapeMismatchError, match="3D"):
        dr.align_stack(stack, anchors={0: dr.Affine.identity(3)})


def test_the_mean_motion_is_the_identity(stack):
    for model in ("rigid", "affine"):
        fit = dr.align_stack(stack, model=model)
        assert np.abs(np.mean(fit.parameters["tx"])) < 0.3
        assert np.prod(np.linalg.det(fit.raw_from_aligned.matrices[:, :2, :2])) == pytest.approx(1, abs=1e-6)


def test_keep_leaves_the_slow_part_with_neighbors_too(stack, jitter):
    slow = np.stack([rigid_2d(0, 0, 8 * np.sin(i / 8), (0, 0)) for i in range(N)])
    bent = np.stack([pull(s, m, order=1)[0] for s, m in zip(stack, np.linalg.inv(slow), strict=True)]).astype("f4")
    kept = dr.align_stack(bent, trend="keep", smooth=12).parameters["tx"]
    removed = dr.align_stack(bent).parameters["tx"]
    slow_shift = 8 * np.sin(np.arange(N) / 8)
    assert np.ptp(low_pass(removed[:, None], 12)) > 5
    assert np.abs(low_pass(kept[:, None], 12)).max() < 0.25 * np.ptp(slow_shift)


def test_slices_rotated_by_any_angle_are_found():
    """Sections are placed by hand. The first fits do not find 180 degrees, the search over rotations does."""
    image = scipy.ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(128, 128)), 3)
    y, x = np.indices(image.shape)
    image = image * (np.hypot(y - 63.5, x - 63.5) < 55)
    truth = np.stack([rigid_2d(np.radians(a), 0, 0, (63.5, 63.5)) for a in (0, 170, 100, 10, 250)])
    images = np.stack([pull(image, m, order=3)[0] for m in np.linalg.inv(truth)]).astype(np.float32)
    fit = dr.align_stack(images)
    assert fit.status is StackStatus.CONVERGED
    assert residuals(fit.raw_from_aligned.matrices, truth, image.shape)["all"] < 0.2
