"""A fit of a stack is ok only where its poses are right: detectors, periods, turns, mirrors, chance, brightness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import torch
from skimage import data

import daskreg as dr
from daskreg.errors import DaskregWarning
from daskreg.geometry import Grid
from daskreg.registration.pose import Pose
from daskreg.registration.pyramids.bad_voxels import constant_gaps, gap_code, hot_voxels
from daskreg.stacks.align import StackStatus
from daskreg.stacks.execution import Execution
from daskreg.stacks.inputs import source_along
from daskreg.stacks.model import StackModel
from daskreg.stacks.pair_registration import PairOptions
from daskreg.stacks.pair_table import ENOUGH, PairTable, by_chance, whole_correlation
from daskreg.stacks.pose_solve import solve_poses
from daskreg.stacks.spans import StackSpec
from daskreg.stacks.verdict import fixed_pattern, refits
from daskreg.stacks.verdict.examine import NO_FINDINGS, examine
from daskreg.stacks.verdict.pair_evidence import border_levels, tile_evidence
from daskreg.stacks.verdict.status import contradicted, status_of
from daskreg.stacks.verdict.subtracted_pattern import without_pattern
from daskreg.stacks.verdict.subtraction_rounds import left_by_rounds

SHAPE, N = (117, 133), 8


@pytest.fixture(scope="module")
def drift():
    return np.cumsum(np.random.default_rng(11).normal(size=(N, 2)) * 2.5, axis=0)


@pytest.fixture(scope="module")
def cat(drift):
    """A photograph that drifts, uint16, with a little noise."""
    scene = data.chelsea()[..., 1].astype(float)
    return counts_of(scene, drift, 12)


def counts_of(scene, drift, seed):
    frames = np.stack([scipy.ndimage.shift(scene, d, order=3, mode="reflect") for d in drift])
    frames = frames[:, 90 : 90 + SHAPE[0], 150 : 150 + SHAPE[1]] + 100
    return np.rint(frames + np.random.default_rng(seed).normal(size=frames.shape)).clip(1).astype(np.uint16)


def error(fit, drift, keep=slice(None)):
    """The largest distance of a slice's shift from the truth."""
    apart = (fit.raw_from_aligned.matrices[:, :2, 2] - drift)[keep]
    return np.linalg.norm(apart - np.median(apart, axis=0), axis=1).max()


@pytest.mark.slow
def test_hot_and_dead_pixels_are_masked_and_counted(cat, drift):
    bad = cat.copy()
    at = np.random.default_rng(13).choice(bad[0].size, 15, replace=False)
    bad.reshape(N, -1)[:, at[:12]], bad.reshape(N, -1)[:, at[12:]] = 9000, 0
    with pytest.warns(DaskregWarning, match="15 of 15561 voxels of a slice are hot, dead"):
        fit = dr.align_stack(bad, model="translation")
    assert fit.bad_voxels == 15
    assert fit.ok
    assert error(fit, drift) < 0.1
    assert dr.align_stack(cat, model="translation").bad_voxels == 0


@pytest.mark.slow
def test_gaps_of_a_detector_are_masked(cat, drift):
    """As int32 with the smallest value, and as a constant frame of an ordinary value."""
    coded = cat.astype(np.int32)
    coded[:, :, 40:47], coded[:, 70, :] = np.iinfo(np.int32).min, np.iinfo(np.int32).min
    framed = cat.copy()
    y, x = np.indices(SHAPE)
    framed[:, np.hypot((y - 58) / 52, (x - 66) / 58) > 1] = 77
    for stack, what in ((coded, "gaps of the value -2147483648"), (framed, "hot, dead or gaps")):
        with pytest.warns(DaskregWarning, match=what):
            fit = dr.align_stack(stack, model="translation")
        assert fit.ok
        assert error(fit, drift) < 0.15


def test_a_dark_surround_or_a_saturated_specimen_is_no_gap():
    y, x = np.indices(SHAPE)
    shapes = [1000.0 * (np.hypot(y - 50 - k, x - 60 + 2 * k) < 30) for k in range(6)]
    dark = np.stack([np.rint(scipy.ndimage.gaussian_filter(s, 1.5)) for s in shapes]).astype(np.float32)
    assert not constant_gaps(dark).any()
    bright = np.minimum(data.camera().astype(np.uint16)[::2, ::2] * 400, 65535).astype(np.uint16)
    assert gap_code(bright) is None
    assert gap_code(np.where(bright > 40000, 65535, bright // 100).astype(np.uint16)) == 65535
    assert gap_code(data.page()) is None


def test_dead_lines_are_gaps_and_dark_rows_of_a_background_are_not(cat):
    counts = cat[:2, :, :131].astype(np.float32)
    dead = np.zeros(counts.shape[1:], bool)
    dead[40], dead[70:72], dead[:, 100], dead[10, 20:60] = True, True, True, True
    assert np.array_equal(constant_gaps(np.where(dead, 0, counts)), dead)
    assert not constant_gaps(counts).any()
    background = counts.copy()
    background[0, :50], background[1, :53] = 0, 0
    assert not constant_gaps(background).any()


@pytest.mark.parametrize("axis", [0, 1])
def test_a_dead_line_does_not_hold_an_image_in_place(axis):
    scene = data.coins().astype(float)
    images = [scipy.ndimage.shift(scene, d, order=3)[50:187, 60:221] for d in ((0, 0), (6.4, -5.7))]
    fixed, moving = (np.rint(12 * image + 30000).astype(np.uint16) for image in images)
    for image in (fixed, moving):
        image.swapaxes(0, axis)[60:62] = 0
    fit = dr.register(fixed, moving, model="translation")
    assert fit.ok
    assert np.allclose(fit.moving_from_fixed.matrix[:2, 2], (6.4, -5.7), atol=0.03)


def test_a_bright_spot_of_the_specimen_is_no_hot_voxel():
    y, x = np.indices(SHAPE)
    spot = 500 * np.exp(-((y - 60) ** 2 + (x - 41) ** 2) / (2 * 0.8**2))
    images = (spot + np.random.default_rng(0).normal(size=(5, *SHAPE))).astype(np.float32)
    assert not hot_voxels(images).any()
    images[:, 30, 100] += 40
    assert np.argwhere(hot_voxels(images)).tolist() == [[30, 100]]


@pytest.mark.slow
def test_a_grating_takes_the_smallest_motions_and_says_that_others_fit_as_well():
    y, x = np.indices(SHAPE)
    rng = np.random.default_rng(21)
    drift = np.cumsum(0.6 * rng.normal(size=(N, 2)), axis=0)
    waves = [np.cos(2 * np.pi * (y - a) / 11) * np.cos(2 * np.pi * (x - b) / 13) for a, b in drift]
    fit = dr.align_stack(np.stack(waves) + 0.4 * rng.normal(size=(N, *SHAPE)), model="translation")
    assert error(fit, drift) < 0.6, "of a period of 8.5"
    assert fit.status is StackStatus.AMBIGUOUS
    assert not fit.ok
    assert np.allclose(np.abs(fit.rival), [5.5, 6.5], atol=1)


@pytest.mark.slow
def test_a_pattern_of_the_detector_that_hides_the_motion_is_flagged(cat, drift):
    y, x = np.indices(SHAPE)
    rim = 3000.0 * (np.hypot((y - 58) / 50, (x - 66) / 56) > 1)
    noise = np.random.default_rng(15).normal(size=cat.shape)
    fit = dr.align_stack(cat + rim + noise, model="translation")
    assert error(fit, drift) > 1
    assert fit.status is StackStatus.FIXED_PATTERN
    assert not fit.ok


@pytest.mark.slow
def test_turned_and_mirrored_sections_are_found_or_named(cat):
    still = np.stack([cat[0, :, :117] + np.random.default_rng(k).normal(size=(117, 117)) for k in range(9)])
    turned = still.copy()
    turned[5:] = np.rot90(still[5:], axes=(1, 2))
    fit = dr.align_stack(turned)
    angles = np.degrees([np.arctan2(m[1, 0], m[0, 0]) for m in fit.raw_from_aligned.matrices])
    assert fit.ok
    assert abs(abs(angles[8] - angles[0]) - 90) < 0.5
    turned[2] = turned[2, ::-1]
    fit = dr.align_stack(turned)
    assert fit.kinds == {2: "mirrored"}
    assert fit.bridged == (2,)
    assert fit.ok
    turned[6:] = turned[6:, :, ::-1]
    fit = dr.align_stack(turned)
    assert [fit.kinds.get(k) for k in (2, 6, 7, 8)] == ["mirrored"] * 4
    assert not fit.ok


@pytest.mark.slow
@pytest.mark.parametrize(("model", "axis"), [("rigid", 1), ("translation", 0)])
def test_a_mirrored_slice_of_a_nearly_symmetric_specimen_is_named(model, axis):
    """A disc in a dark surround, with details of a fifteenth of its height."""
    y, x = np.indices((97, 117))
    r = np.hypot((y - 48) / 44, (x - 58) / 44)
    details = data.chelsea()[20:117, 30:147, 1].astype(float)
    scene = (40 + 30 * (1 - r**2) + 4 * (details - details.mean()) / details.std()) / (1 + np.exp((r - 0.85) * 40))
    rng = np.random.default_rng(71)
    stack = np.stack([scipy.ndimage.shift(scene, d, order=3) for d in rng.normal(size=(6, 2))])
    stack[3] = np.flip(stack[3], axis)
    fit = dr.align_stack(stack + 0.5 * rng.normal(size=stack.shape), model=model)
    assert fit.kinds == {3: "mirrored"}


def test_a_correlation_over_a_part_is_as_likely_as_a_lower_one_of_the_whole():
    pairs = replace(PairTable.empty(2, 3), scores=np.array([0.8, 0.99, -0.5, np.nan]), overlap=np.array([1, 0.5, 1, 1]))
    likely = whole_correlation(pairs)
    assert np.allclose(likely[:3], [0.8, np.sqrt(1 - np.sqrt(1 - 0.99**2)), 0])
    assert np.isnan(likely[3])


def test_slow_changes_of_a_specimen_are_no_pattern_of_the_detector():
    """With poses that are known: alike rests move along with the specimen; stripes stay."""
    rng = np.random.default_rng(73)
    volume = scipy.ndimage.gaussian_filter(rng.normal(size=(8, 140, 160)), (3, 4, 4))
    shifts = np.cumsum(rng.normal(2, 1, (8, 2)), axis=0)
    frames = [scipy.ndimage.shift(v, d, order=3)[10:-10, 10:-10] for v, d in zip(volume, shifts, strict=True)]
    stack = np.stack(frames) / volume.std() + 0.05 * rng.normal(size=(8, 120, 140))
    poses = np.tile(np.eye(3), (8, 1, 1))
    poses[:, :2, 2] = shifts
    assert examined(stack, poses).fixed is None
    assert examined(stack + 0.5 * rng.normal(size=(120, 140)), poses).fixed is not None


def examined(stack, poses):
    source, axis = source_along(stack.astype(np.float32), 0, None)
    spec = StackSpec(source, axis, None, PairOptions(Pose.of("translation", 2)), 2)
    return examine(spec, poses, np.ones(len(stack), bool), Execution(None))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["translation", "rigid", "affine"])
def test_unrelated_slices_are_not_ok(model):
    names = ("astronaut", "brick", "coffee", "rocket", "grass", "horse")
    images = [np.asarray(getattr(data, n)(), dtype=float) for n in names]
    images = [i if i.ndim == 2 else i[..., :3].mean(-1) for i in images]
    crops = [scipy.ndimage.gaussian_filter(i, 1)[30:117, 40:139] for i in images]
    fit = dr.align_stack(np.stack([(c - c.mean()) / c.std() for c in crops]), model=model)
    assert not fit.ok


@pytest.mark.slow
def test_a_stack_of_a_specimen_in_noise_is_fitted():
    rng = np.random.default_rng(3)
    (scene,) = textures(rng, 3)
    drift = np.cumsum(rng.normal(size=(5, 2)), axis=0)
    moved = [scipy.ndimage.shift(disc(0, 0) * (1 + scene), d, order=3) for d in drift]
    fit = dr.align_stack(np.stack(moved) + 0.7 * rng.normal(size=(5, 128, 128)), model="translation")
    assert fit.ok
    assert error(fit, drift) < 0.5


@pytest.mark.slow
def test_slices_that_share_an_outline_alone_are_not_ok():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :128] - 64.0
    slices = []
    for dy, dx in rng.uniform(-3, 3, (6, 2)):
        disc = 1 / (1 + np.exp(np.hypot(1.15 * (y - dy), x - dx) - 40))
        own = scipy.ndimage.gaussian_filter(rng.normal(size=y.shape), 3)
        slices.append(disc * (2 + own / own.std()) + 0.02 * rng.normal(size=y.shape))
    assert not dr.align_stack(np.array(slices), model="translation").ok


def disc(y, x, sharpness=1.0):
    """A disc on 40 % of a field of 128 x 128 voxels."""
    rows, columns = np.mgrid[:128, :128] - 63.5
    return 1 / (1 + np.exp(sharpness * (np.hypot(1.15 * (rows - y), columns - x) - 46)))


def textures(rng, *sigmas):
    """One image for each sigma of its Gaussian correlation."""
    images = [scipy.ndimage.gaussian_filter(rng.normal(size=(128, 128)), s) for s in sigmas]
    return [image / image.std() for image in images]


def evidence_of(fixed, moving):
    """In multiples of what a pair of slices needs whose model is rigid."""
    images = [torch.from_numpy(((i - i.mean()) / i.std())[None].astype(np.float32)) for i in (fixed, moving)]
    grid = Grid((128, 128))
    needed = StackModel(Pose.of("rigid", 2), grid.centre, grid, "ncc").needed_evidence
    borders = border_levels(images[0], None), border_levels(images[1], None)
    return tile_evidence(*images, torch.ones(1, 128, 128), borders).item() / (ENOUGH * needed)


@pytest.mark.parametrize("noise", [0.1, 0.5, 0.8])
def test_a_specimen_in_noise_has_evidence(noise):
    rng = np.random.default_rng(0)
    (own,) = textures(rng, 3)
    slices = [disc(0, 0) * (2 + own) + noise * rng.normal(size=own.shape) for _ in range(2)]
    assert evidence_of(*slices) > 1


def test_slices_that_agree_in_some_places_have_evidence():
    """Half of what each shows is its own, the more the farther from the middle; and there is a surround."""
    rng = np.random.default_rng(1)
    common, *others = textures(rng, 3, 3, 3)
    near = np.exp(-(np.mgrid[-64:64, -64:64][1] ** 2) / (2 * 30**2))
    slices = [disc(0, 0) * (2 + near * common + (1 - near) * own) + 0.05 * rng.normal(size=own.shape) for own in others]
    assert evidence_of(*slices) > 1


@pytest.mark.parametrize("sharpness", [0.3, 1, 3])
def test_outlines_shading_and_stripes_are_no_evidence(sharpness):
    rng = np.random.default_rng(2)
    for _ in range(3):
        one, other = textures(rng, 3, 3)
        edges = [disc(0, 0, sharpness) * (2 + own) + 0.02 * rng.normal(size=own.shape) for own in (one, other)]
        assert evidence_of(*edges) < 0.5
        shading = 1 - 0.4 * np.hypot(*np.mgrid[-1:1:128j, -1:1:128j])
        assert evidence_of(*(shading * (4 + own) for own in (one, other))) < 0.5
        stripes = np.repeat(rng.normal(size=(1, 128)), 128, axis=0)
        assert evidence_of(*(own + 0.2 * stripes for own in (one, other))) < 1


@pytest.mark.slow
def test_brightness_that_mse_cannot_explain_is_said(cat, drift):
    gains = np.array([1, 1.6] * (N // 2))[:, None, None]
    assert error(dr.align_stack(cat * gains, model="translation"), drift) < 0.1
    fit = dr.align_stack(cat * gains, model="translation", metric="mse")
    assert not fit.ok
    assert dr.align_stack(cat, model="translation", metric="mse").ok


@pytest.mark.slow
def test_sigma_holds_where_the_specimen_changes():
    """The root mean square of errors in sigmas, over slices that are alike for about three slices."""
    ratios = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        truth = np.cumsum(1.5 * rng.normal(size=(10, 2)), axis=0)
        specimen = scipy.ndimage.gaussian_filter(rng.normal(size=(10, 150, 160)), (3, 3, 3))
        frames = [
            scipy.ndimage.shift(s / specimen.std(), d, order=3)[16:133, 12:145]
            for s, d in zip(specimen, truth, strict=True)
        ]
        fit = dr.align_stack(np.stack(frames) + 0.02 * rng.normal(size=(10, *SHAPE)), model="translation")
        apart = fit.raw_from_aligned.matrices[:, :2, 2] - truth
        apart -= apart.mean(axis=0)
        ratios.append(apart / np.stack([fit.sigma["ty"], fit.sigma["tx"]], axis=1))
    assert 0.5 < np.sqrt(np.mean(np.square(ratios))) < 2


def test_fields_that_agree_by_chance():
    """The last two have too few fields: the correlation of the whole counts."""
    rng = np.random.default_rng(16)
    fields = rng.normal(size=(4, 64)) * 0.3
    fields[1] += 0.5
    fields[2:, 5:] = np.nan
    scores, one = np.array([0.3, 0.3, 0.9, 0.05]), np.ones(4)
    eye = np.tile(np.eye(3), (4, 1, 1))
    edges = np.stack([np.arange(4), np.arange(4) + 1], 1)
    pairs = PairTable(edges, eye, eye, scores, scores, one, fields.astype(np.float32), np.full(4, np.nan))
    grid = Grid(SHAPE)
    model = StackModel(Pose.of("rigid", 2), grid.centre, grid, "ncc")
    assert by_chance(pairs, model).tolist() == [True, False, False, True]
    tiles = np.array([0.7, 0.2, 0.2, 0.4]) * model.needed_evidence
    assert by_chance(replace(pairs, evidence=tiles), model).tolist() == [False, False, False, True]


@pytest.mark.slow
def test_tables_say_their_units_and_older_ones_are_read(cat, tmp_path):
    fit = dr.align_stack(cat[:3])
    fit.save_table(tmp_path / "drift.csv")
    text = (tmp_path / "drift.csv").read_text()
    assert {"theta (rad)", "sigma_theta (rad)", "tx (pixel)", "cycle (pixel)"} <= set(text.split("\n")[0].split(","))
    expected = fit.raw_from_aligned.matrices
    assert np.allclose(fit.edited(tmp_path / "drift.csv").raw_from_aligned.matrices, expected, atol=1e-12)
    older = text.replace(" (rad)", "").replace(" (pixel)", "")
    (tmp_path / "older.csv").write_text(older)
    assert np.allclose(fit.edited(tmp_path / "older.csv").raw_from_aligned.matrices, expected, atol=1e-12)
    degrees = [{"slice": i, "theta (deg)": 30.0 * i, "tx (pixel)": 1.0} for i in range(3)]
    assert np.allclose(fit.edited(degrees).parameters["theta"], np.radians([0, 30, 60]))
    with pytest.raises(dr.errors.InputError, match="tx is in millimeter, use pixel"):
        fit.edited([{"slice": 0, "tx (millimeter)": 1.0}])
    page = fit.report(tmp_path / "page.html").read_text()
    assert "σ of rotation (°)" in page


@pytest.mark.slow
def test_stripes_of_the_detector_are_subtracted(drift):
    """Of rows, on another photograph; by hand, subtracting the known stripes gives the same poses."""
    scene = data.coffee()[..., 0].astype(float)
    clean = counts_of(scene, drift, 31).astype(np.float32)
    rows = 0.6 * clean.std() * np.random.default_rng(32).normal(size=(1, SHAPE[0], 1))
    fit = dr.align_stack(clean + rows.astype(np.float32), model="translation")
    assert fit.ok
    assert error(fit, drift) < 0.25
    assert error(dr.align_stack(clean, model="translation"), drift) < 0.1


def striped(count, seed):
    """A stack with the stripes of its detector, along a diagonal, and its shifts, which are small."""
    rng = np.random.default_rng(seed)
    shifts = rng.integers(-3, 4, (count, 2))
    scene = scipy.ndimage.gaussian_filter(rng.normal(size=(130, 151)), 2)
    y, x = np.indices((107, 121))
    frames = np.stack([scene[10 - a : 117 - a, 15 - b : 136 - b] for a, b in shifts]) / scene.std()
    stack = frames + rng.normal(size=230)[x + y] + 0.2 * rng.normal(size=frames.shape)
    return stack.astype(np.float32), shifts


@pytest.mark.slow
def test_sigma_contains_what_the_subtraction_of_a_pattern_leaves():
    stack, shifts = striped(13, 51)
    fit = dr.align_stack(stack, model="translation")
    apart = fit.raw_from_aligned.matrices[:, :2, 2] - shifts
    apart -= apart.mean(axis=0)
    sigma = np.stack([fit.sigma["ty"], fit.sigma["tx"]], axis=1)
    assert np.sqrt((apart**2).mean()) > 0.05, "there is something to state"
    assert 0.4 < np.sqrt((apart**2).mean() / (sigma**2).mean()) < 2.5


@pytest.mark.parametrize(("sigma", "miss", "ok"), [(0.2, 1.6, False), (0.8, 1.6, True), (3, 2.3, False)])
def test_cycles_need_not_close_better_than_the_errors_of_pairs_let_them(sigma, miss, ok):
    edges = np.array([(a, b) for b in range(N) for a in (b - 2, b - 1) if a >= 0])
    motions, one = np.tile(np.eye(3), (len(edges), 1, 1)), np.full(len(edges), 0.9)
    motions[:, 1, 2] = miss * (np.diff(edges, axis=1)[:, 0] == 2)
    fields = np.random.default_rng(8).uniform(0.8, 0.9, (len(edges), 64)).astype(np.float32)
    pairs = PairTable(edges, motions, sigma**2 * np.tile(np.eye(2), (len(edges), 1, 1)), one, one, one, fields, one)
    model = StackModel(Pose.of("translation", 2), Grid(SHAPE).centre, Grid(SHAPE), "ncc")
    solution = solve_poses(pairs, np.zeros(N, bool), model)
    np.testing.assert_allclose(solution.cycles[1:-1], miss)
    np.testing.assert_allclose(solution.explained[1:-1], np.sqrt(3 * 2) * sigma)
    assert not contradicted(solution, model)
    status = status_of(solution, np.zeros(N, bool), {}, model, pairs=pairs, features=None, findings=NO_FINDINGS)
    assert status is (StackStatus.CONVERGED if ok else StackStatus.INCONSISTENT)


def test_what_rounds_leave_of_an_error_whose_parts_shrink_by_any_factor():
    factors, grid = (np.arange(20000) + 0.5) / 20000, Grid((40, 51), (2.0, 3.0))
    model = StackModel(Pose.of("translation", 2), grid.centre, grid, "ncc")
    error = np.random.default_rng(52).normal(size=(5, 2))
    poses = np.tile(np.eye(3), (2, 5, 1, 1))
    for rounds in (1, 4, 8):
        poses[:, :, :2, 2] = [(factors**n).mean() * error for n in (rounds - 1, rounds)]
        left = left_by_rounds(*poses, rounds, model)
        expected = poses[1, :, 1::-1, 2]  # tx, ty
        assert np.allclose(left, expected[:, :, None] * expected[:, None, :], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("lost_in", "pattern"), [(1, False), (2, True)])
def test_slices_that_get_lost_after_the_first_subtraction_leave_the_pattern(monkeypatch, lost_in, pattern):
    solved = []

    def losing(*args, **options):
        solution = solve_poses(*args, **options)
        solved.append(solution)
        return replace(solution, fitted=np.arange(9) > 0) if len(solved) == 1 + lost_in else solution

    monkeypatch.setattr(refits, "solve_poses", losing)
    monkeypatch.setattr(refits, "examine", lambda *args: replace(examine(*args), pattern=False, stripes=False))
    fit = dr.align_stack(striped(9, 53)[0], model="translation")
    assert len(solved) == 1 + lost_in
    assert (fit.status is StackStatus.FIXED_PATTERN) == pattern


def test_a_pattern_is_told_from_a_specimen_that_moves():
    rng = np.random.default_rng(33)
    shifts = np.cumsum(rng.integers(-3, 4, (12, 2)), axis=0)
    scene = scipy.ndimage.gaussian_filter(rng.normal(size=(160, 180)), 2)
    pattern = (0.1 * rng.normal(size=(1, 91)) + np.zeros((80, 1))).astype(np.float32)
    frames = [scene[40 - y : 120 - y, 40 - x : 131 - x] for y, x in shifts]
    stack = (np.stack(frames) + pattern).astype(np.float32)
    source, position = source_along(stack, 0, None)
    spec = StackSpec(source, position, None, PairOptions(Pose.of("translation", 2)), 2)
    poses = np.tile(np.eye(3), (12, 1, 1))
    poses[:, :2, 2] = shifts
    found = without_pattern(spec, range(12), poses, Execution(None))
    assert np.corrcoef(found.pattern.ravel(), pattern.ravel())[0, 1] > 0.9
    left = found.reader.span(0, 12) - (stack - pattern)
    assert (left - left.mean()).std() < 0.5 * pattern.std()


@pytest.mark.parametrize("shift", [(1.4, -2.6), (-0.3, 3.45)])
def test_shifts_are_found_between_voxels(shift):
    scene = scipy.ndimage.gaussian_filter(np.random.default_rng(8).normal(size=(75, 91)), 1.5)
    images = np.stack([scene, scipy.ndimage.shift(scene, shift, order=3, mode="reflect")]).astype(np.float32)
    found = fixed_pattern._shifts(images, [(0, 1)])[0]
    assert np.abs(found - shift).max() < 0.34


@pytest.mark.parametrize("shape", [(17, 23), (9, 7, 11)])
def test_shifts_by_sparse_operators_are_those_of_scipy(shape):
    rng = np.random.default_rng(91)
    image = rng.normal(size=shape)
    for shift in rng.uniform(-4, 4, (3, len(shape))):
        expected = scipy.ndimage.shift(image, -shift, order=1, mode="nearest")
        found = fixed_pattern._shift_operator(shape, shift) @ image.ravel()
        assert np.allclose(found.reshape(shape), expected, atol=1e-12)


def test_a_pattern_that_cannot_explain_the_slices_is_given_up_early():
    """With the true motion the rounds go on to the noise; with another one they end above what would be enough."""
    rng = np.random.default_rng(92)
    motion = rng.uniform(-3, 3, (6, 2))
    scene = scipy.ndimage.gaussian_filter(rng.normal(size=(60, 71)), 2)
    scene /= scene.std()
    images = np.stack([scipy.ndimage.shift(scene, m, order=1, mode="nearest") for m in motion])
    images += 0.3 * rng.normal(size=(60, 71)) + 0.1 * rng.normal(size=images.shape)
    right, wrong = fixed_pattern._explained(images, motion), fixed_pattern._explained(images, motion[::-1])
    assert right < 0.04
    assert wrong > 0.2
    assert fixed_pattern._explained(images, motion, 0.04) == right
    assert fixed_pattern._explained(images, motion[::-1], 0.04) > 0.2
