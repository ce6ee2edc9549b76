"""The motion between paired points: against other solvers, by repetition, and where points do not determine it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import blobs
from scipy.spatial.transform import Rotation
from skimage.transform import SimilarityTransform

import daskreg as dr
from daskreg.errors import DegenerateImageError, FitFailedError, InputError, OptionError, ShapeMismatchError
from daskreg.landmarks import PointsStatus, read_pairs
from daskreg.landmarks.certainty import parameters_of
from daskreg.landmarks.models import MODELS, names_of, solve

Floats = np.ndarray[Any, np.dtype[np.float64]]

SOLID = dr.Affine.from_parameters(rx=0.2, ry=-0.1, rz=0.4, tx=30, ty=-2, tz=11)
FLAT = dr.Affine.from_parameters(theta=0.5, tx=4, ty=-9)


def pairs(count: int = 15, ndim: int = 3, noise: float = 1.0, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    fixed = rng.uniform((0, -50, 20)[:ndim], (60, 90, 200)[:ndim], (count, ndim))
    return fixed, (SOLID if ndim == 3 else FLAT)(fixed) + rng.normal(0, noise, fixed.shape)


def weights(count: int = 15) -> Floats:
    return np.random.default_rng(9).uniform(0.2, 5, count)


# --- Against other solvers ---------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_rigid_is_that_of_scipy(weighted: bool) -> None:
    fixed, moving = pairs()
    w = weights() if weighted else np.ones(15)
    fit = dr.fit_points(fixed, moving, weights=w if weighted else None)
    a, b = (p - np.average(p, axis=0, weights=w) for p in (fixed, moving))
    turn, _ = Rotation.align_vectors(b, a, weights=w)
    np.testing.assert_allclose(fit.moving_from_fixed.linear, turn.as_matrix(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(fit.residuals, moving - fit.moving_from_fixed(fixed), rtol=0, atol=1e-9)
    assert fit.rmse == pytest.approx(np.sqrt((fit.residuals**2).sum(1).mean()))
    assert fit.ok


@pytest.mark.parametrize("ndim", [2, 3])
def test_similarity_is_that_of_scikit_image(ndim: int) -> None:
    fixed, moving = pairs(ndim=ndim)
    fit = dr.fit_points(fixed, 1.3 * moving, model="similarity")
    theirs = SimilarityTransform.from_estimate(fixed, 1.3 * moving)
    np.testing.assert_allclose(fit.moving_from_fixed.matrix, theirs.params, rtol=0, atol=1e-8)
    assert fit.parameters["scale"] == pytest.approx(theirs.scale)


@pytest.mark.parametrize("ndim", [2, 3])
def test_affine_is_that_of_lstsq(ndim: int) -> None:
    fixed, moving = pairs(ndim=ndim)
    w = weights()
    fit = dr.fit_points(fixed, moving, model="affine", weights=w)
    design = np.column_stack([fixed, np.ones(15)]) * np.sqrt(w)[:, None]
    found = np.linalg.lstsq(design, moving * np.sqrt(w)[:, None], rcond=None)[0].T
    np.testing.assert_allclose(fit.moving_from_fixed.matrix[:-1], found, rtol=0, atol=1e-8)


def test_translation_is_the_weighted_mean() -> None:
    fixed, moving = pairs()
    fit = dr.fit_points(fixed, moving, model="translation", weights=weights())
    np.testing.assert_allclose(
        fit.moving_from_fixed.offset, np.average(moving - fixed, axis=0, weights=weights()), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_exact_pairs_give_the_motion(model: str, ndim: int) -> None:
    fixed, _ = pairs(ndim=ndim)
    motion = {
        "translation": dr.Affine.translation(**dict(zip("xyz"[:ndim], (3.5, -2.0, 7.0), strict=False))),
        "rigid": SOLID if ndim == 3 else FLAT,
        "similarity": dr.Affine(np.diag([2.5] * ndim + [1.0])) @ (SOLID if ndim == 3 else FLAT),
        "affine": dr.Affine.from_parameters(ndim=ndim, sx=1.2, sy=0.8, tx=3, **{"shxy" if ndim == 3 else "shx": 0.2}),
    }[model]
    fit = dr.fit_points(fixed, motion(fixed), model=model)
    np.testing.assert_allclose(fit.moving_from_fixed.matrix, motion.matrix, rtol=0, atol=1e-8)
    assert fit.ok
    # Columns x, y, z are the same points.
    other = dr.fit_points(fixed[:, ::-1], motion(fixed)[:, ::-1], model=model, axes="xyz"[:ndim], unit="um")
    np.testing.assert_allclose(other.moving_from_fixed.matrix, motion.matrix, rtol=0, atol=1e-8)
    assert other.moving_from_fixed.unit == "micrometer"


# --- By repetition -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_the_covariance_is_that_of_repetitions(model: str, ndim: int) -> None:
    """The estimates of 4000 measurements of one set of landmarks scatter as the covariance of a single fit says."""
    count, sigma, names = 12, 0.5, names_of(model, ndim)
    fixed, moving = pairs(count, ndim, noise=0)
    if model == "translation":
        moving = fixed + np.arange(ndim)
    w = weights(count)
    noise = np.random.default_rng(2).normal(size=(4000, count, ndim)) * sigma / np.sqrt(w)[:, None]
    fit = dr.fit_points(fixed, moving + noise[0], model=model, weights=w)
    matrices = solve(model, np.broadcast_to(fixed, noise.shape), moving + noise, np.broadcast_to(w, noise.shape[:2]))
    found = np.array([list(parameters_of(m, names, fit.centre).values()) for m in matrices])
    left = moving + noise - np.einsum("kij,nj->kni", matrices[:, :-1, :-1], fixed) - matrices[:, None, :-1, -1]
    variances = (w[:, None] * left**2).sum((1, 2)) / (count * ndim - len(names))
    assert variances.mean() == pytest.approx(sigma**2, rel=0.03)
    predicted = fit.covariance * sigma**2 / variances[0]
    scale = np.sqrt(np.diag(predicted))
    # The correlations, and the variances relative to those predicted; 4000 repetitions tell them to 2 %.
    np.testing.assert_allclose(np.cov(found.T) / np.outer(scale, scale), predicted / np.outer(scale, scale), atol=0.12)
    np.testing.assert_allclose(found.std(0) / scale, 1, rtol=0, atol=0.06)
    assert list(fit.sigma) == list(fit.parameters) == list(names)


@pytest.mark.slow
def test_good_pairs_are_rarely_called_bad() -> None:
    failed = 0
    for seed in range(60):
        count, ndim = (5, 8, 20)[seed % 3], 2 + seed % 2
        fixed, moving = pairs(count, ndim, noise=2, seed=seed)
        failed += not dr.fit_points(fixed, moving, model=MODELS[seed % 3] if seed % 3 else "rigid").ok
    assert failed <= 1


# --- What points do not determine --------------------------------------------------------------

LINE = np.linspace(0, 1, 7)[:, None] * [30.0, 10.0, 20.0]


@pytest.mark.parametrize(
    ("fixed", "model", "free"),
    [
        (LINE, "rigid", 1),
        (LINE, "similarity", 1),
        (LINE, "affine", 2),
        (LINE[:, 1:], "affine", 1),
        (LINE[:1], "rigid", 3),
        (LINE[:1, 1:], "rigid", 1),
        (LINE[:1, 1:], "similarity", 2),
        (LINE[:2], "rigid", 1),
        (np.repeat(LINE[:1], 6, axis=0), "rigid", 3),  # one point, six times
        (np.repeat(LINE[:2], 3, axis=0), "affine", 2),
        (np.array([[0.0, 0, 0], [0, 9, 0], [0, 0, 9], [0, 7, 7], [0, 3, 5]]), "affine", 1),  # a plane
    ],
)
def test_undetermined(fixed: Floats, model: str, free: int) -> None:
    """Points that are too few, equal, on a line or in a plane leave motions free, which stay as they are."""
    motion = SOLID if fixed.shape[1] == 3 else FLAT
    fit = dr.fit_points(fixed, motion(fixed), model=model)
    assert fit.status is PointsStatus.UNDETERMINED
    assert not fit.ok
    assert len(fit.free) == free
    np.testing.assert_allclose(fit.residuals, 0, atol=1e-8)
    assert "free: " in repr(fit)
    with pytest.raises(FitFailedError, match="undetermined"):
        fit.raise_if_failed()


def test_a_free_turn_stays() -> None:
    """Of all rotations that bring the line to its place, the smallest is taken: its angle is that between the lines."""
    fit = dr.fit_points(LINE, SOLID(LINE))
    there = SOLID.linear @ LINE[-1]
    angle = np.arccos(there @ LINE[-1] / np.linalg.norm(there) / np.linalg.norm(LINE[-1]))
    found = np.arccos((np.trace(fit.moving_from_fixed.linear) - 1) / 2)
    assert found == pytest.approx(angle, abs=1e-3)
    axis = np.array([float(word) for word in fit.free[0].split("(")[1].split(")")[0].split(", ")])
    np.testing.assert_allclose(np.abs(axis @ there) / np.linalg.norm(there), 1, atol=0.01)
    single = dr.fit_points(LINE[:1], LINE[:1] + np.array([1, 2, 3]))
    np.testing.assert_allclose(single.moving_from_fixed.linear, np.eye(3), atol=1e-9)


def test_a_turn_that_noise_hides_is_free() -> None:
    """Points 0.1 beside a line, measured to 1.0, do not tell the turn about it; measured to 0.001 they do."""
    rng = np.random.default_rng(0)
    fixed = np.repeat(LINE, 2, axis=0) + rng.normal(0, 0.1, (14, 3))
    for noise, status in ((1.0, PointsStatus.UNDETERMINED), (0.001, PointsStatus.DETERMINED)):
        assert dr.fit_points(fixed, SOLID(fixed) + rng.normal(0, noise, fixed.shape)).status is status


def test_just_enough_pairs() -> None:
    fixed, moving = pairs(4)
    fit = dr.fit_points(fixed, moving, model="affine")
    assert fit.status is PointsStatus.UNCHECKED
    assert not np.isfinite(fit.covariance).any()
    assert "+-" not in repr(fit)


def test_mirrored_points() -> None:
    for ndim in (2, 3):
        fixed, moving = pairs(ndim=ndim)
        for model in ("rigid", "similarity", "affine"):
            assert dr.fit_points(fixed, moving * ([1, -1, 1][:ndim]), model=model).status is PointsStatus.MIRRORED
    plane = np.column_stack([np.zeros(9), pairs(9, 2)[0]])  # equal to its mirror image
    assert dr.fit_points(plane, SOLID(plane * [1, -1, 1])).ok


@pytest.mark.parametrize("ransac", [None, "auto", 3.0])
def test_pairs_in_another_order(ransac: Any) -> None:
    fixed, moving = pairs(20)
    order = np.random.default_rng(4).permutation(20)
    assert dr.fit_points(fixed, moving[order], ransac=ransac).status is PointsStatus.CHANCE
    assert dr.fit_points(fixed[order], moving[order], ransac=ransac).ok


# --- Wrong pairs -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("model", ["rigid", "affine"])
def test_outliers_are_named_and_left_out(model: str, ndim: int) -> None:
    """Six of 30 pairs are wrong by one shift, so that they hide each other."""
    fixed, moving = pairs(30, ndim, noise=0.5)
    wrong = np.array([2, 3, 11, 17, 20, 29])
    moving[wrong] += 25
    plain = dr.fit_points(fixed, moving, model=model)
    assert plain.status is PointsStatus.OUTLIERS
    np.testing.assert_array_equal(plain.outliers, wrong)
    good = np.setdiff1d(np.arange(30), wrong)
    for ransac in ("auto", 2.5):
        fit = dr.fit_points(fixed, moving, model=model, ransac=ransac)
        assert fit.ok
        assert set(wrong) <= set(fit.outliers.tolist())
        assert len(fit.outliers) <= len(wrong) + 2
        np.testing.assert_array_equal(np.flatnonzero(~fit.inliers), fit.outliers)
        alone = dr.fit_points(fixed[fit.inliers], moving[fit.inliers], model=model)
        np.testing.assert_allclose(fit.moving_from_fixed.matrix, alone.moving_from_fixed.matrix, rtol=0, atol=1e-9)
        reference = dr.fit_points(fixed[good], moving[good], model=model)
        moved, expected = fit.moving_from_fixed(fixed), reference.moving_from_fixed(fixed)
        assert np.abs(moved - expected).max() < 1
        again = dr.fit_points(fixed, moving, model=model, ransac=ransac)
        np.testing.assert_array_equal(again.moving_from_fixed.matrix, fit.moving_from_fixed.matrix)


@pytest.mark.slow
def test_ransac_of_many_pairs() -> None:
    """More samples than can be tried, and more pairs than are compared."""
    fixed, moving = pairs(3000, noise=0.3)
    moving[::3] = np.random.default_rng(5).uniform(0, 200, moving[::3].shape)
    fit = dr.fit_points(fixed, moving, ransac=1.5)
    assert fit.ok
    assert np.abs(fit.moving_from_fixed(fixed) - SOLID(fixed)).max() < 0.1
    assert np.count_nonzero(fit.inliers) == pytest.approx(2000, abs=20)


def test_weights_of_zero_and_pairs_that_are_listed_twice() -> None:
    fixed, moving = pairs(12)
    moving[3] += 100
    w = np.ones(12)
    w[3] = 0
    fit = dr.fit_points(fixed, moving, weights=w)
    rest = np.delete(np.arange(12), 3)
    expected = dr.fit_points(fixed[rest], moving[rest])
    np.testing.assert_allclose(fit.moving_from_fixed.matrix, expected.moving_from_fixed.matrix, rtol=0, atol=1e-9)
    assert fit.ok
    twice = dr.fit_points(*(np.concatenate([p[rest], p[rest[:5]]]) for p in (fixed, moving)))
    np.testing.assert_allclose(twice.covariance, expected.covariance)
    assert np.count_nonzero(twice.inliers) == 11


# --- Inputs, files -----------------------------------------------------------------------------

GOOD = np.array([[1.0, 22.0, 3.0], [14.0, 5.0, 7.0], [8.0, 8.0, 20.0], [30.0, 31.0, 32.0]])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((GOOD, GOOD[:3]), {}, ShapeMismatchError, r"\(4, 3\) and moving \(3, 3\)"),
        ((GOOD[0], GOOD[0]), {}, ShapeMismatchError, r"\(N, 2\) or \(N, 3\)"),
        ((np.ones((4, 5)), np.ones((4, 5))), {}, ShapeMismatchError, r"\(4, 5\)"),
        ((GOOD[:0], GOOD[:0]), {}, InputError, "no points"),
        ((np.where(GOOD > 31, np.nan, GOOD), GOOD), {}, InputError, "fixed points 3 are not finite"),
        ((GOOD, np.where(GOOD > 31, np.inf, GOOD)), {}, InputError, "moving points 3 are not finite"),
        (("abc", GOOD), {}, InputError, "array of points"),
        ((GOOD, GOOD), {"model": "bspline"}, OptionError, "'bspline' is unknown"),
        ((GOOD, GOOD), {"weights": [1, 2, 3]}, ShapeMismatchError, r"\(4,\)"),
        ((GOOD, GOOD), {"weights": [1, 2, 3, -1]}, OptionError, "not negative"),
        ((GOOD, GOOD), {"weights": [0, 0, 0, 0]}, OptionError, "not all zero"),
        ((GOOD, GOOD), {"ransac": -1.0}, OptionError, "ransac"),
        ((GOOD, GOOD), {"ransac": "yes"}, OptionError, "ransac"),
        ((GOOD, GOOD), {"axes": "xy"}, OptionError, "'zyx' or 'xyz'"),
        ((GOOD, np.ones((4, 3))), {"model": "affine"}, DegenerateImageError, "one place, on a line or in a plane"),
        ((GOOD, np.ones((4, 3))), {"model": "similarity"}, DegenerateImageError, "one place"),
    ],
)
def test_inputs_that_are_refused(arguments: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dr.fit_points(*arguments, **options)


@pytest.mark.slow
def test_saved_plotted_and_reported(tmp_path: Path) -> None:
    fixed, moving = pairs(9, 2, noise=0.3)
    fit = dr.fit_points(fixed, moving, unit="um")
    fit.save(tmp_path / "fit.json")
    assert dr.load(tmp_path / "fit.json") == fit.moving_from_fixed
    for name in ("fit.ngff.json", "fit.tfm", "fit.matrix.txt"):  # of other tools: the transform only
        fit.save(tmp_path / name)
        np.testing.assert_allclose(dr.load(tmp_path / name).to_matrices(), fit.moving_from_fixed.matrix, atol=1e-12)
    grid = dr.Grid((9, 9), spacing=2, unit="um")
    fit.save(tmp_path / "fit.npy", fixed=grid, moving=grid)
    assert np.load(tmp_path / "fit.npy").shape == (3, 3)
    fit.plot().savefig(tmp_path / "fit.png")
    page = fit.report(tmp_path / "fit.html")
    assert "determined" in page.read_text()
    assert "PointsFit(determined: 9 of 9 pairs" in repr(fit)
    assert "micrometer" in repr(fit)


@pytest.mark.slow
def test_the_start_of_register() -> None:
    image = blobs((90, 110), seed=2).astype(np.float32)
    motion = dr.Affine.from_parameters(theta=0.6, tx=5, ty=-4, centre=(44, 54))
    turned = dr.warp(image, push=motion)
    spots = np.array([[30.0, 40.0], [60.0, 35.0], [50.0, 80.0], [35.0, 70.0], [55.0, 50.0]])
    start = dr.fit_points(spots, motion(spots) + np.random.default_rng(0).normal(0, 1, spots.shape))
    found = dr.register(image, turned, model="rigid", init=start)
    assert np.abs(found.moving_from_fixed(spots) - motion(spots)).max() < 0.2


def test_real_landmarks(data: Path) -> None:
    """100 pairs in a lung at two states of breath: 34.3 mm before, 3.15 mm after the best affine map."""
    folder = data / "volumes3d" / "lung_landmarks"
    found = read_pairs(folder / "CT_3D_lung_fixed_point_set.txt", folder / "CT_3D_lung_moving_point_set.txt")
    assert np.linalg.norm(found.fixed - found.moving, axis=1).mean() == pytest.approx(34.3, abs=0.1)
    fit = dr.fit_points(found.fixed, found.moving, model="affine", unit="mm")
    assert np.linalg.norm(fit.residuals, axis=1).mean() == pytest.approx(3.15, abs=0.02)
    rigid = dr.fit_points(found.fixed, found.moving, unit="mm")
    assert rigid.rmse > fit.rmse
