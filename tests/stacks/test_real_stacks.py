"""Real stacks and known drifts, compared with pystackreg on the same slices."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.ndimage
from oracles import (
    aligned_correlation,
    neighbour_correlation,
    pull_stack,
    pystackreg_stack,
    random_walk,
    residuals,
    rigid_2d,
)

import daskreg as dr

pytestmark = pytest.mark.slow


def aligned(stack, **options):
    """Matrices in pixels, and the fit."""
    fit = dr.align_stack(stack, **options)
    return fit.raw_from_aligned.matrices, fit


@pytest.fixture(scope="module")
def pc12(data):
    import tifffile

    folder = data / "stacks" / "pc12"
    return {
        "raw": tifffile.imread(folder / "pc12-unreg.tif"),
        "translation": tifffile.imread(folder / "pc12-reg-translation.tif"),
        "rigid": tifffile.imread(folder / "pc12-reg-rigid-body.tif"),
    }


@pytest.fixture(scope="module")
def lung(data):
    import matplotlib.image

    files = sorted((data / "stacks" / "lung_sem").glob("*.png"))
    images = [matplotlib.image.imread(f) for f in files]
    return np.stack([i if i.ndim == 2 else i[..., 0] for i in images])


@pytest.fixture(scope="module")
def haadf(data):
    import mrcfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the file has no map id
        with mrcfile.open(data / "tomography" / "haadf" / "HAADF.mrc", permissive=True) as file:
            return np.array(file.data)


@pytest.mark.parametrize("model", ["translation", "rigid"])
def test_pc12(pc12, model):
    """At least as good as StackReg's images, and as pystackreg's transforms sampled in the same way."""
    matrices, fit = aligned(pc12["raw"], model=model)
    theirs = pystackreg_stack(pc12["raw"], model)
    mine = aligned_correlation(pc12["raw"], matrices).mean()
    shipped = neighbour_correlation(pc12[model], pull_stack(pc12["raw"], theirs)[1]).mean()
    sampled = aligned_correlation(pc12["raw"], theirs).mean()
    print(f"pc12 {model}: daskreg {mine:.5f}, StackReg's images {shipped:.5f}, pystackreg sampled {sampled:.5f}")
    assert fit.ok
    assert mine >= shipped
    # Linear sampling blurs by the fraction of a shift, so that correlations differ by this much by chance.
    assert mine >= sampled - 1e-4


def test_lung_sem(lung):
    """Serial sections with motions of up to 60 pixels, changes of contrast, and tears."""
    theirs = aligned_correlation(lung, pystackreg_stack(lung, "rigid"))
    rigid, fit = aligned(lung, model="rigid")
    affine, other = aligned(lung, model="affine")
    mine, mine_affine = aligned_correlation(lung, rigid), aligned_correlation(lung, affine)
    print(f"lung_sem: rigid {mine.mean():.4f}, affine {mine_affine.mean():.4f}, pystackreg rigid {theirs.mean():.4f}")
    assert fit.ok
    assert other.ok
    assert fit.outliers == other.outliers == ()
    assert mine_affine.mean() >= theirs.mean() + 0.02
    assert mine_affine.min() >= 0.75
    # Sections are not rigid. The pose graph spreads the disagreement of pairs; a chain fits each pair by itself.
    assert mine.mean() >= theirs.mean() - 1e-3
    assert mine.min() >= theirs.min()
    for one in (fit, other):
        cycles = one.consistency()
        print(f"  {one.model}: cycles close to {cycles['median']:.3f} px, the worst to {cycles['worst']:.3f} px")
        assert cycles["worst"] < 2


def test_haadf(haadf):
    """A tilt series that drifts by up to 39 pixels."""
    theirs = pystackreg_stack(haadf, "translation")
    matrices, fit = aligned(haadf, model="translation")
    correlation = aligned_correlation(haadf, matrices)
    shifts = matrices[:, :2, 2] - theirs[:, :2, 2]
    apart = np.abs(shifts - shifts[0]).max()
    print(f"haadf: {correlation.mean():.5f}, from pystackreg {apart:.3f} px")
    assert fit.ok
    assert fit.outliers == ()
    assert correlation.mean() >= 0.9995
    assert apart <= 0.5


@pytest.fixture(scope="module")
def brain(data):
    """50 slices of 512x512 of the MNI152 template."""
    import nibabel

    folder = data / "volumes3d" / "mni152"
    volume = np.asarray(nibabel.load(next(folder.glob("*.nii.gz"))).dataobj, dtype=np.float32)
    slices = np.moveaxis(volume, 2, 0)[60:110]
    padding = [(0, 0)] + [((256 - n) // 2, 256 - n - (256 - n) // 2) for n in slices.shape[1:]]
    return np.stack([scipy.ndimage.zoom(s, 2, order=1) for s in np.pad(slices, padding)])


@pytest.fixture(scope="module")
def drift(brain):
    return random_walk(len(brain), brain.shape[1:], step=2, turn=0.5, seed=0)


def drifted(slices, drift):
    """Slices moved by raw_from_clean matrices."""
    pulls = np.linalg.inv(drift)
    return np.stack(
        [scipy.ndimage.affine_transform(s, m[:2, :2], m[:2, 2], order=3) for s, m in zip(slices, pulls, strict=True)]
    )


def test_one_slice_repeated(brain, drift):
    """The estimator's own error: the slices differ by drift only."""
    drift = drift[:24]
    raw = drifted(np.repeat(brain[25:26], len(drift), axis=0), drift)
    matrices, fit = aligned(raw)
    residual = residuals(matrices, drift, brain.shape[1:])
    print(f"one slice repeated: {residual}, {fit.seconds:.1f} s")
    assert fit.ok
    assert residual["all"] <= 0.02


def test_different_slices(brain):
    """Anatomy changes along the stack: its slow changes cannot be separated from drift, its fast ones can."""
    some = brain[:, ::2, ::2]
    drift = random_walk(len(some), some.shape[1:], step=2, turn=0.5, seed=0)
    raw = drifted(some, drift)
    matrices, fit = aligned(raw)
    residual = residuals(matrices, drift, some.shape[1:])
    theirs = residuals(pystackreg_stack(raw), drift, some.shape[1:])
    before = residuals(np.tile(np.eye(3), (len(raw), 1, 1)), drift, some.shape[1:])
    print(f"different slices: before {before}\n  daskreg {residual}, {fit.seconds:.1f} s\n  pystackreg {theirs}")
    assert fit.ok
    assert residual["fast"] <= 0.15
    assert residual["slow"] <= 1.05 * theirs["slow"]


def test_slices_without_drift_get_little_fast_motion(brain):
    half = brain[:, ::2, ::2]
    still = np.tile(np.eye(3), (len(half), 1, 1))
    removed = residuals(aligned(half)[0], still, half.shape[1:])
    kept = residuals(aligned(half, trend="keep")[0], still, half.shape[1:])
    print(f"undrifted: remove {removed}, keep {kept}")
    assert removed["fast"] <= 0.1, "pixels of half the resolution"
    assert kept["all"] <= 0.1, "keep leaves the slow part of the stack as it is"


def test_jitter_noise_and_bad_slices(brain):
    """Independent jitter and 3 % noise: blank slices and copies are found, and no other outliers."""
    half = brain[:, ::2, ::2]
    rng = np.random.default_rng(3)
    middle = (np.array(half.shape[1:]) - 1) / 2
    truth = np.stack(
        [rigid_2d(np.radians(3) * a, 2.5 * b, 2.5 * c, middle) for a, b, c in rng.normal(size=(len(half), 3))]
    )
    raw = drifted(half, truth) + rng.normal(size=half.shape) * 0.03 * np.ptp(half)
    raw[7], raw[20], raw[33] = 0, raw[20].mean(), rng.normal(size=half.shape[1:]) * 0.03 * np.ptp(half)
    raw[14], raw[40] = raw[13], raw[41]
    matrices, fit = aligned(raw)
    good = np.setdiff1d(np.arange(len(half)), fit.outliers)
    residual = residuals(matrices[good], truth[good], half.shape[1:])
    print(f"jitter: {residual}, outliers {fit.kinds}")
    assert fit.kinds == {7: "blank", 14: "duplicated", 20: "blank", 33: "blank", 40: "duplicated"}
    assert fit.bridged == (7, 20, 33)
    assert residual["fast"] <= 0.15
