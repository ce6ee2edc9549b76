"""Whether a fit of a pair says what it is: chance, ambiguous, undetermined, or right and ok."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from phantoms import blobs
from scipy import ndimage
from skimage import data, transform

import daskreg as dr
from daskreg.geometry import Affine, Grid
from daskreg.registration.pose import Pose
from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.pyramid import image_batch, pyramid
from daskreg.registration.verdict.aligned import aligned
from daskreg.registration.verdict.bands import bands_of
from daskreg.registration.verdict.evidence import evidence, needed
from daskreg.registration.verdict.judge import Verdict
from daskreg.registration.verdict.words import in_words
from daskreg.registration.verdicts import FitStatus, status_of, verdicts_of, with_errors


def picture(name, shape=(150, 170)):
    image = np.asarray(getattr(data, name)(), dtype=float)
    image = image[..., :3].mean(-1) if image.ndim == 3 else image
    image = transform.resize(image, shape, anti_aliasing=True)
    return ((image - image.mean()) / image.std()).astype(np.float32)


def noise(shape, sigma, seed):
    image = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return image / image.std()


def level_of(fixed, moving):
    grids = [Grid(image.shape) for image in (fixed, moving)]
    batches = [
        image_batch(_tensor(image), grid, find_borders=False)
        for image, grid in zip((fixed, moving), grids, strict=True)
    ]
    return pyramid(*batches, levels=1)


def _tensor(image):
    import torch

    return torch.from_numpy(np.asarray(image, np.float32))[None]


def verdict_at(fixed, moving, model="translation", metric="ncc", **parameters):
    problem = Problem(Pose.of(model, fixed.ndim), Grid(fixed.shape).centre, metric)
    motion = Affine.from_parameters(parameters, ndim=fixed.ndim, centre=problem.centre)
    p = problem.parameters_of([motion.matrix], Grid(fixed.shape))
    return verdicts_of(problem, level_of(fixed, moving), p)[0]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["rigid", "affine"])
def test_unrelated_pictures(model):
    """Others than those of the benchmark."""
    names = ("cat", "horse", "logo", "colorwheel")
    for a, b in itertools.combinations(names, 2):
        fit = dr.register(picture(a), picture(b), model=model)
        assert not fit.ok, (a, b, fit)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [1.5, 6, 14])
def test_smooth_independent_noise(sigma):
    fit = dr.register(noise((110, 96), sigma, 1), noise((104, 120), sigma, 2), model="rigid")
    assert fit.status in (FitStatus.CHANCE, FitStatus.LOW_OVERLAP)


def test_evidence_of_unrelated_images_is_that_of_chance():
    """Wilks: twice the evidence of one pose is at most chi-square with one degree of freedom for each band."""
    found = []
    for seed in range(40):
        level = level_of(noise((70, 64), 2, 2 * seed), noise((70, 64), 2, 2 * seed + 1))[0]
        pair = aligned(level, ("ty", "tx"), np.eye(3), np.zeros((2, 3, 3)))
        bands = bands_of(pair)
        found.append(evidence(bands) / len(bands.sigmas))
        assert found[-1] * len(bands.sigmas) < needed(pair)
    # Half of the correlations are negative and count as none: 1/4 nat a band on average, not more than twice that.
    assert 0.1 < np.mean(found) < 0.5


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_related_images_are_ok(size):
    rng = np.random.default_rng(4)
    scene = picture("cat", (190, 210))
    fixed, moving = scene[20:170, 20:190], scene[27:177, 15:185]
    fit = dr.register(*(image + size * rng.normal(size=image.shape) for image in (fixed, moving)), model="rigid")
    assert fit.status is FitStatus.CONVERGED, fit
    assert abs(fit.parameters["ty"] + 7) < 0.5
    assert fit.rivals == ()
    assert fit.free == ()


def test_a_small_overlap_is_found_or_refused():
    scene = picture("horse", (170, 420)) + 0.5 * noise((170, 420), 2, 0)
    for share in (0.22, 0.3):
        away = round(170 * (1 - share))
        fit = dr.register(scene[:, :170], scene[:, away : away + 170], model="translation")
        assert not fit.ok or abs(fit.parameters["tx"] + away) < 0.1


def test_a_checkerboard_is_ambiguous():
    y, x = np.mgrid[:170, :182]
    board = ndimage.gaussian_filter(((y // 13 + x // 13) % 2).astype(float), 1.0)
    rng = np.random.default_rng(3)
    fixed, moving = (board[a : a + 120, 10 + a : 142 + a] + 0.1 * rng.normal(size=(120, 132)) for a in (5, 8))
    fit = dr.register(fixed, moving, model="translation")
    assert fit.status is FitStatus.AMBIGUOUS, fit
    off = np.array([rival.matrix[:2, 2] - fit.moving_from_fixed.matrix[:2, 2] for rival in fit.rivals])
    np.testing.assert_allclose(off / 13, np.round(off / 13), atol=0.2)
    assert "rivals" in fit.to_dict()


def test_what_breaks_a_period_settles_it():
    y, x = np.mgrid[:170, :182]
    board = ndimage.gaussian_filter(((y // 13 + x // 13) % 2).astype(float), 1.0) + 0.4 * noise((170, 182), 1.5, 1)
    fit = dr.register(board[5:125, 10:142], board[8:128, 12:144], model="translation")
    assert fit.ok
    assert fit.parameters["ty"] == pytest.approx(-3, abs=0.05)


@pytest.mark.parametrize("turn", [0, 30, 90])
def test_a_rod_leaves_the_shift_along_it_free(turn):
    y, x = np.mgrid[:150, :144] - 70.0
    across = y * np.cos(np.radians(turn)) + x * np.sin(np.radians(turn))
    rod = np.exp(-((across / 6) ** 2)) + 0.5 * np.exp(-(((across - 25) / 4) ** 2))
    rng = np.random.default_rng(0)
    fixed, moving = (rod[a : a + 128, a : a + 124] + 0.1 * rng.normal(size=(128, 124)) for a in (6, 9))
    fit = dr.register(fixed, moving, model="translation")
    assert fit.status is FitStatus.UNDETERMINED, fit
    along = [abs(value) for value in (np.sin(np.radians(turn)), np.cos(np.radians(turn)))]
    named = fit.free[0].removeprefix("shift along (").removesuffix(") in y, x").split(", ")
    np.testing.assert_allclose(np.abs([float(value) for value in named]), along, atol=0.1)
    assert fit.free[0] in repr(fit)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("planes", "axes"), [(2, (0, 1, 2)), (2, (1, 0, 2)), (2, (1, 2, 0)), (3, (0, 1, 2)), (4, (1, 0, 2))]
)
def test_a_volume_of_few_planes_is_judged(planes, axes):
    """The outer planes weigh less than the others, and no Gaussian fits between them."""
    scene = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(15, 90, 104)), (1, 1.5, 2)).astype(np.float32)
    near, far = slice(3, 3 + planes), slice(10, 10 + planes)
    fixed, moving, other = scene[near, 5:76, 5:90], scene[near, 9:80, 2:87], scene[far, 15:86, 15:100]
    fit = dr.register(fixed.transpose(axes), moving.transpose(axes), model="translation")
    assert fit.ok
    found = np.array([fit.parameters[name] for name in ("tz", "ty", "tx")])
    np.testing.assert_allclose(found, np.array([0, -4, 3])[list(axes)], atol=0.05)
    assert not dr.register(fixed.transpose(axes), other.transpose(axes), model="translation").ok


def body(kind, degrees, shape=(151, 170)):
    """A smooth body at an angle, on black with noise."""
    y, x = np.indices(shape)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    u, v = c * (y - 70) + s * (x - 88), -s * (y - 70) + c * (x - 88)
    inside = {
        "ellipse": (u / 22) ** 2 + (v / 50) ** 2 < 1,
        "cross": ((abs(u) < 10) & (abs(v) < 45)) | ((abs(v) < 10) & (abs(u) < 45)),
        "marked cross": (((abs(u) < 10) & (abs(v) < 45)) | ((abs(v) < 10) & (abs(u) < 45))) & ~(v > 30),
        "triangle": (u > -25) & (u + 1.732 * v < 50) & (u - 1.732 * v < 50),
    }[kind]
    return ndimage.gaussian_filter(inside.astype(float), 1.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "turns"), [("ellipse", [180]), ("cross", [-90, 90, 180]), ("marked cross", []), ("triangle", [-120, 120])]
)
def test_turns_of_a_symmetric_body_are_rivals(kind, turns):
    rng = np.random.default_rng(7)
    for degrees in (0, 17):
        pair = [body(kind, d) + rng.normal(0, 0.05, (151, 170)) for d in (0, degrees)]
        fit = dr.register(*pair, model="rigid", init="search")
        away = [np.linalg.solve(fit.moving_from_fixed.matrix, r.matrix) for r in fit.rivals]
        found = [round(np.degrees(np.arctan2(m[1, 0], m[0, 0]))) for m in away]
        assert sorted(k if k > -175 else k + 360 for k in found) == pytest.approx(turns, abs=2)
        assert fit.status.name == ("AMBIGUOUS" if turns else "CONVERGED")
        # The smaller motion, where a large one is not searched.
        near = dr.register(*pair, model="rigid")
        assert near.ok
        np.testing.assert_allclose(np.degrees(near.parameters["theta"]), -degrees, atol=1)


def toothed(kind, number, shape=(118, 131)):
    """A body of so many equal teeth, petals or holes, off the middle; of others, one is missing."""
    y, x = np.indices(shape) - np.array([55, 70])[:, None, None]
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    if kind == "star":
        return ndimage.gaussian_filter((radius < 35 + 12 * np.cos(number * angle)).astype(float), 1)
    spots = radius < 50
    for k in range(number - ("broken" in kind)):
        a = 2 * np.pi * k / number + 0.3
        spots &= np.hypot(y - 35 * np.sin(a), x - 35 * np.cos(a)) > 7
    return ndimage.gaussian_filter(spots.astype(float), 1)


@pytest.mark.parametrize(
    ("kind", "number", "model", "reach", "turn"),
    [
        ("star", 11, "rigid", 48.75, 360 / 11),
        ("flange", 9, "affine", 48.75, 40.0),
        ("flange", 5, "rigid", 48.75, None),  # 72 degrees are not searched
        ("star", 5, "similarity", 180.0, 72.0),
        ("star", 3, "rigid", 180.0, 120.0),
        ("broken flange", 9, "rigid", 180.0, None),
    ],
)
def test_turns_of_a_wheel_by_any_angle_are_rivals(kind, number, model, reach, turn):
    rng = np.random.default_rng(3)
    fixed, moving = (toothed(kind, number) + rng.normal(0, 0.05, (118, 131)) for _ in range(2))
    problem = Problem(Pose.of(model, 2), Grid(fixed.shape).centre)
    p = problem.parameters_of([np.eye(3)], Grid(fixed.shape))
    (verdict,) = verdicts_of(problem, level_of(fixed, moving), p, reach=reach)
    assert not verdict.chance
    assert not len(verdict.free)
    found = [abs(math.degrees(math.atan2(m[0, 1], m[0, 0]))) for m in verdict.rivals]
    assert (min(found) == pytest.approx(turn, abs=1)) if turn else not found


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("repeats", [True, False])
def test_what_repeats_beyond_the_overlap_is_a_rival(axis, repeats):
    """The period is as long as the overlap of the pose, so that no shift of the overlap alone shows it."""
    scene = noise((96, 220), 1.5, 3)
    if repeats:
        scene = np.concatenate([scene[:, :100], scene[:, :100], scene[:, :20]], 1)
    rng = np.random.default_rng(2)
    pair = [image + 0.2 * rng.normal(size=image.shape) for image in (scene[:, :160], scene[4:, 60:])]
    fixed, moving = pair if axis else (image.T for image in pair)
    true = {"tx": -60.0, "ty": -4.0} if axis else {"tx": -4.0, "ty": -60.0}
    verdict = verdict_at(fixed, moving, **true)
    assert verdict.settled is not repeats
    if repeats:
        np.testing.assert_allclose(sorted(verdict.rivals[0][:2, 2]), (-4, 40), atol=0.1)


def test_a_rival_of_mse_is_found_in_spite_of_another_brightness():
    scene = noise((96, 220), 1.5, 3)
    scene = np.concatenate([scene[:, :100], scene[:, :100], scene[:, :20]], 1)
    fixed, moving = scene[:, :160].astype(np.float32), (3 * scene[4:, 60:] + 2).astype(np.float32)
    verdict = verdict_at(fixed, moving, metric="mse", tx=-60.0, ty=-4.0)
    np.testing.assert_allclose(sorted(verdict.rivals[0][:2, 2]), (-4, 40), atol=0.1)


@pytest.mark.parametrize("copies", [1, 2])
def test_a_small_image_that_fits_a_large_one_twice(copies):
    rng = np.random.default_rng(5)
    large, small = noise((100, 190), 2, 1), noise((60, 64), 2, 2)
    for column in (14, 110)[:copies]:
        large[20:80, column : column + 64] = small
    verdict = verdict_at(large, small + 0.2 * rng.normal(size=small.shape), tx=-14, ty=-20)
    assert verdict.settled is (copies == 1)
    if copies == 2:
        np.testing.assert_allclose(verdict.rivals[0][:2, 2], (-20, -110), atol=0.1)


def test_a_half_turn_of_a_symmetric_volume_is_a_rival():
    rng = np.random.default_rng(0)
    some = ndimage.gaussian_filter(rng.normal(size=(35, 39, 46)), 2)
    image = some + some[:, ::-1, ::-1]
    pair = [image / image.std() + rng.normal(0, 0.2, image.shape) for _ in range(2)]
    levels = pyramid(*(image_batch(torch.from_numpy(i[None]), Grid(image.shape)) for i in pair))
    problem = Problem(Pose.of("rigid", 3), Grid(image.shape).centre)
    (verdict,) = verdicts_of(problem, levels, np.zeros((1, 6)), reach=180.0)
    assert not verdict.chance
    np.testing.assert_allclose(verdict.rivals[0][:3, :3], np.diag([1, -1, -1]), atol=0.02)
    assert len(verdict.rivals) == 1
    assert not len(verdicts_of(problem, levels, np.zeros((1, 6)))[0].rivals)


@pytest.mark.parametrize(
    ("sigma", "offset", "status", "free"),
    [
        ((0.1, 1.0), 0.5, FitStatus.CONVERGED, ()),
        ((0.1, 1.0), 1.0, FitStatus.INCONSISTENT, ()),
        ((0.1, 1.5), 0.0, FitStatus.UNDETERMINED, ("shift along (1.00, 0.00) in y, x",)),
        ((1.5, 0.1), 0.0, FitStatus.UNDETERMINED, ("shift along (0.00, 1.00) in y, x",)),
    ],
)
def test_what_the_error_bar_leaves_open_is_not_ok(sigma, offset, status, free):
    grid = Grid((80, 99), 0.5)
    problem = Problem(Pose.of("translation", 2), grid.centre)
    none = np.zeros((0, 2))
    verdict = Verdict(100.0, 20.0, np.zeros((0, 3, 3)), none, none[:, 0], np.full(2, 1 / 0.5), offset)
    covariance = np.diag(np.square(sigma))[None] * 0.5**2  # of tx and ty, in the world
    (found,) = with_errors(problem, [verdict], covariance, np.zeros((1, 2)), grid=grid, step=0.5)
    np.testing.assert_allclose(found.error, np.hypot(*sigma))
    assert status_of(found, converged=True, improved=True, overlap=1.0) is status
    assert tuple(in_words(d, problem.pose.names, found.units) for d in found.free) == free


def test_a_disc_leaves_its_rotation_free():
    y, x = np.mgrid[:120, :130]
    disc = ndimage.gaussian_filter((np.hypot(y - 60, x - 64) < 35).astype(float), 1.5)
    rng = np.random.default_rng(0)
    fixed, moving = (disc + 0.05 * rng.normal(size=disc.shape) for _ in range(2))
    verdict = verdict_at(fixed, moving, "rigid", theta=0.3)
    assert not verdict.chance
    assert in_words(verdict.free[0], ("theta", "ty", "tx"), verdict.units).startswith("turn")


@pytest.mark.slow
def test_inverted_contrast_is_chance_for_ncc_and_found_by_mi():
    scene = picture("cat", (200, 210))
    fixed, moving = scene[20:170, 20:190], -scene[24:174, 17:187]
    assert not dr.register(fixed, moving, model="translation").ok
    fit = dr.register(fixed, moving, model="translation", metric="mi")
    assert fit.ok, fit
    assert fit.parameters["ty"] == pytest.approx(-4, abs=0.1)


@pytest.mark.slow
def test_register_many_judges_each_pair():
    fixed = np.stack([blobs((80, 90), seed=k) for k in range(3)])
    moving = np.stack([np.roll(fixed[0], 2, 0), blobs((80, 90), seed=8), np.roll(fixed[2], -1, 1)])
    fits = dr.register_many(fixed, moving, model="translation")
    assert [fit.ok for fit in fits] == [True, False, True]


@pytest.mark.parametrize("off", [1.5, 2.5])
def test_a_pose_that_is_off_is_contradicted(off):
    scene = ndimage.gaussian_filter(picture("cat", (190, 210)), 1.5)
    fixed, moving = scene[20:170, 20:190], scene[22:172, 21:191]
    shifted = verdict_at(fixed, moving, "translation", ty=-2 + off, tx=-1)
    assert not shifted.chance
    assert shifted.offset > off / 1.5
    assert status_of(shifted, converged=True, improved=True, overlap=1.0) is FitStatus.INCONSISTENT
    assert verdict_at(fixed, moving, "translation", ty=-2, tx=-1).settled


@pytest.mark.slow
def test_a_volume():
    volume = noise((40, 46, 44), 2, 5)
    fixed, moving = volume[4:36, 4:40, 4:40], volume[6:38, 3:39, 4:40]
    assert dr.register(fixed, moving, model="rigid").ok
    assert not dr.register(fixed, noise((32, 36, 36), 2, 6), model="rigid").ok


@pytest.mark.slow
def test_a_fit_that_its_inverse_contradicts(monkeypatch):
    from daskreg.registration import pair as module

    scene = picture("horse")
    assert dr.register(scene[:-3], scene[3:], model="rigid", check_inverse=True).ok
    monkeypatch.setattr(module, "_round_trip_error", lambda *_: 1.5)
    fit = dr.register(scene[:-3], scene[3:], model="rigid", check_inverse=True)
    assert fit.status is FitStatus.INCONSISTENT


def test_statuses_without_a_verdict():
    assert status_of(None, converged=True, improved=True, overlap=0.5) is FitStatus.CONVERGED
    assert status_of(None, converged=True, improved=True, overlap=0.2) is FitStatus.LOW_OVERLAP
    assert status_of(None, converged=False, improved=True, overlap=0.5) is FitStatus.MAX_ITERATIONS
    assert status_of(None, converged=True, improved=False, overlap=0.5) is FitStatus.NO_IMPROVEMENT


def test_words():
    names, units = ("theta", "ty", "tx"), np.array([50.0, 1, 1])
    assert in_words(np.array([0, 0, -2.0]), names, units) == "shift along (0.00, 1.00) in y, x"
    assert in_words(np.array([0.02, 0.1, 0]), names, units) == "turn"
    assert in_words(np.array([0.02, 0.6, 0.6]), names, units) == "turn, with shift along (0.71, 0.71) in y, x"


@pytest.mark.slow
def test_the_confusion_table_in_small(monkeypatch):
    """`benchmarks/trust.py`, some groups of pairs: nothing is wrong and ok, and what is right is not refused."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    trust = pytest.importorskip("trust")
    assert "trust_case" in sys.modules
    groups = ("pairs: small", "pairs: mirrored", "pairs: lattice", "pairs: spots", "pairs: low texture")
    results = [one for group in groups for one in trust.run(0.05, group)]
    assert len(results) >= 10
    assert not [case for case, outcome, _ in results if outcome.ok and outcome.error > 2 * outcome.tolerance]
    assert not [c for c, outcome, _ in results if outcome.right and not outcome.ok and not c.may_refuse]
    assert "wrong and ok: " in trust.table(results)


@pytest.mark.slow
def test_mse_of_another_brightness_that_moves_nothing_is_ok():
    """Large images, which are judged on coarse levels: what the pose is off is measured on the finest."""
    scene = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(720, 700)), 3)
    fixed, moving = scene[10:710, 10:690].astype(np.float32), (1.3 * scene[7:707, 14:694]).astype(np.float32)
    fit = dr.register(fixed, moving, model="translation", metric="mse")
    assert fit.ok
    np.testing.assert_allclose((fit.parameters["ty"], fit.parameters["tx"]), (3, -4), atol=0.02)


@pytest.mark.parametrize(("gain", "level", "metric", "ok"), [
    (1.3, 0, "mse", False), (1, 30, "mse", False), (1, 0, "mse", True), (1.3, 30, "ncc", True),
])  # fmt: skip
def test_mse_of_another_brightness_is_contradicted(gain, level, metric, ok):
    """The pose is 0.8 px off, 5 sigma; a fit of gain and offset explains most of the residual."""
    scene, rng = data.camera().astype(float), np.random.default_rng(1)
    fixed, moving = (scene[y : y + 200, x : x + 220] + rng.normal(0, 4, (200, 220)) for y, x in ((40, 50), (33, 55)))
    fit = dr.register(fixed, gain * moving + level, model="translation", metric=metric)
    assert fit.ok is ok
    error = math.hypot(fit.parameters["ty"] - 7, fit.parameters["tx"] + 5)
    assert error < 0.05 if ok else error > 0.5
