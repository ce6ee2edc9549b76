"""Alignment of projections: of ellipsoids whose poses are known, and of real scans."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from ellipsoids import Ellipsoids

import daskreg as dr
from daskreg.errors import (
    ChannelError,
    DegenerateImageError,
    EmptyMaskError,
    InputError,
    InvalidTransformError,
    OptionError,
    ShapeMismatchError,
    UnitError,
)
from daskreg.tomography import TiltFit, TiltStatus, align_projections
from daskreg.tomography.poses import (
    Level,
    constant_and_waves,
    increments,
    scales_of,
    shifts_of,
    turns_of,
    without_gauge,
)
from daskreg.tomography.reprojection import Reprojection
from daskreg.tomography.series import binned, columns_of_levels, projections_of

pytestmark = pytest.mark.slow

SIZE = 40
SHAPE = (37, SIZE)
HALF = np.linspace(0, np.pi, 60, endpoint=False)


def scan(angles, *, jitter=2.0, turn=0.0, off=0.0, noise=0.03, seed=7, shape=SHAPE):
    """Projections, and their poses about the middle of the detector: off is the axis, turned by `turn`."""
    rng = np.random.default_rng(seed)
    shifts, turns = rng.uniform(-jitter, jitter, (len(angles), 2)), np.broadcast_to(turn, len(angles))
    body, middle = Ellipsoids(SIZE, seed=seed), (shape[1] - 1) / 2
    clean = body.project(angles, shape, shifts=shifts, turn=turns, axis=middle + off)
    poses = increments(np.column_stack([shifts * 0, turns]), ("ty", "tx", "theta"))
    poses = poses @ increments(np.full((len(angles), 1), off), ("tx",))
    poses[:, :2, 2] += shifts
    return (clean + noise * clean.max() * rng.normal(size=clean.shape)).astype(np.float32), poses


def found_poses(fit, shape=SHAPE):
    """The poses of a fit in pixels, about the middle of the detector."""
    centred = np.eye(3)
    centred[:2, 2] = -(np.array(shape) - 1) / 2
    return centred @ fit.projections_from_aligned.matrices @ np.linalg.inv(centred)


def errors(fit, truth, shape=SHAPE):
    """(A, 2) differences of the shifts after the gauge, and that of the centre."""
    used = np.ones(len(truth), dtype=bool)
    used[list(fit.outliers)] = False
    true, found = (shifts_of(without_gauge(p, fit.angles, used)) for p in (truth, found_poses(fit, shape)))
    constants = [constant_and_waves(s[:, 1], fit.angles, used)[0] for s in (true, found)]
    return (found - true)[used], constants[1] - constants[0]


@pytest.fixture(scope="module")
def jittered():
    projections, truth = scan(HALF, turn=np.radians(1.3), off=2.4)
    return projections, truth, align_projections(projections, HALF)


def test_jitter_the_axis_and_its_centre_are_found(jittered):
    _, truth, fit = jittered
    off, centre = errors(fit, truth)
    assert fit.ok
    assert fit.outliers == ()
    assert np.median(np.abs(off), axis=0).max() <= 0.05
    assert abs(centre) <= 0.1
    assert abs(fit.axis - np.radians(1.3)) <= 4 * fit.sigma["axis"]
    assert fit.sigma["axis"] < np.radians(0.5)
    scatter = np.sqrt((off**2).mean(axis=0))
    for k, name in enumerate(("ty", "tx")):
        assert 0.5 <= np.median(fit.sigma[name]) / scatter[k] <= 2


def test_numbers_of_a_fit_are_in_the_units_that_are_documented(jittered):
    """Noise in those of the projections, parameters about the middle of the detector, rows with the matrix."""
    projections, _, fit = jittered
    clean, _ = scan(HALF, turn=np.radians(1.3), off=2.4, noise=0)
    assert fit.noise == pytest.approx((projections - clean).std(), rel=0.15)
    middle = (np.array(SHAPE) - 1) / 2
    assert fit.middle == tuple(middle)
    maps = fit.projections_from_aligned
    rows = fit.rows()
    for i in (0, 41):
        moved = list(maps)[i](middle[None])[0] - middle
        np.testing.assert_allclose([fit.parameters[name][i] for name in ("ty", "tx")], moved, atol=1e-9)
        np.testing.assert_allclose([rows[i][name] for name in ("ty", "tx")], moved, atol=1e-9)
        assert rows[i]["m02"] == maps.matrices[i, 0, 2]
    assert fit.title == "projections, aligned"


def test_aligned_projections_reconstruct_the_body(jittered):
    projections, _, fit = jittered
    raw = dr.tomography.reconstruct(projections, HALF)
    volume = dr.tomography.reconstruct(projections, fit=fit, window="hann")
    clean, _ = scan(HALF, jitter=0, noise=0)
    expected = dr.tomography.reconstruct(clean, HALF, window="hann").values
    # The gauge: the volume may be shifted by a fraction of the jitter.
    moved = dr.register(expected, volume.values, model="translation")
    same = dr.warp(volume.values, pull=moved.moving_from_fixed)
    assert np.abs(moved.moving_from_fixed.offset).max() < 1
    assert np.corrcoef(same[3:-3].ravel(), expected[3:-3].ravel())[0, 1] > 0.98
    assert np.corrcoef(raw.values.ravel(), expected.ravel())[0, 1] < 0.9


def test_a_fit_is_saved_and_shown(jittered, tmp_path):
    _, _, fit = jittered
    fit.save(tmp_path / "fit.json")
    again = TiltFit.load(tmp_path / "fit.json")
    assert again.transform == fit.transform == dr.load(tmp_path / "fit.json")
    assert (again.status, again.axis, again.kinds) == (fit.status, fit.axis, fit.kinds)
    np.testing.assert_array_equal(again.sigma["tx"], fit.sigma["tx"])
    assert "axis 1." in repr(fit)
    assert len(fit.rows()) == 60
    assert fit.plot().axes[1].get_xlabel() == "angle (degrees)"
    fit.report(tmp_path / "fit.html")
    assert "tilt" in json.loads((tmp_path / "fit.report.json").read_text())["entries"][0]["kind"].lower()
    dr.Affine.identity(2).save(tmp_path / "affine.json")
    with pytest.raises(InvalidTransformError, match="not the fit of projections"):
        TiltFit.load(tmp_path / "affine.json")


def test_an_axis_along_the_rows_in_the_world(jittered):
    """The same scan, lying: lazily, on a grid with a spacing of 2 that does not start at 0."""
    projections, _, upright = jittered
    lying = da.from_array(np.ascontiguousarray(projections.swapaxes(1, 2)), chunks=(7, -1, -1))
    coords = {"y": 5 + 2.0 * np.arange(SIZE), "x": -3 + 2.0 * np.arange(37)}
    array = xr.DataArray(lying, dims=("angle", "y", "x"), coords=coords)
    fit = align_projections(array, np.degrees(HALF), unit="degrees", axis="x")
    assert fit.axis == pytest.approx(-upright.axis, abs=1e-6)
    assert fit.centre == pytest.approx(upright.centre, abs=1e-4)
    np.testing.assert_allclose(fit.sigma["ty"], 2 * upright.sigma["tx"], rtol=1e-3)
    aligned = dr.warp(array, pull=fit.projections_from_aligned, order=1).values.swapaxes(1, 2)
    np.testing.assert_allclose(aligned, dr.warp(projections, pull=upright.projections_from_aligned, order=1), atol=1e-3)
    assert dr.tomography.reconstruct(array, fit=fit).shape == (37, SIZE, SIZE)


def test_projections_that_show_nothing_or_something_else():
    projections, truth = scan(HALF, seed=3)
    projections[5], projections[20] = 0.7, np.nan
    projections[31] = projections[30]
    projections[44] = projections[44][::-1, ::-1] * 1.5
    projections[10, 3, 4:9] = np.nan
    fit = align_projections(projections, HALF, axis_angle=0.0)
    assert fit.ok
    assert fit.kinds == {5: "blank", 20: "lost", 31: "duplicated", 44: "unlike"}
    assert fit.axis == 0
    assert fit.sigma["axis"] == 0
    assert np.isnan(fit.sigma["tx"][44])
    off, _ = errors(fit, truth)
    assert np.median(np.abs(off), axis=0).max() <= 0.05
    volume = dr.tomography.reconstruct(projections, fit=fit)
    assert np.isfinite(volume.values).all()


def test_a_whole_turn():
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    projections, truth = scan(angles, off=-1.2, noise=0.01)
    fit = align_projections(projections, angles, axis_angle=0.0)
    off, centre = errors(fit, truth)
    assert fit.ok
    assert np.median(np.abs(off), axis=0).max() <= 0.05
    assert abs(centre) <= 0.1


def test_a_missing_wedge():
    angles = np.arange(-60, 60.5, 2.5)
    projections, truth = scan(np.radians(angles), jitter=1.5, noise=0.01)
    fit = align_projections(projections, angles, unit="degrees", axis_angle=0.0)
    off, _ = errors(fit, truth)
    assert fit.ok
    # A shift that is the same at all angles differs little from one with their cosine.
    assert np.median(np.abs(off - off.mean(axis=0)), axis=0).max() <= 0.05


def test_few_projections_of_half_a_turn_determine_the_centre():
    """From the first to the last they span less, by one step."""
    angles = np.linspace(0, np.pi, 15, endpoint=False)
    projections, truth = scan(angles, off=1.2, noise=0.01)
    fit = align_projections(projections, angles, axis_angle=0.0)
    _, centre = errors(fit, truth)
    assert fit.ok
    assert abs(centre) <= 3 * fit.sigma["centre"] <= 0.15


def test_a_given_centre_is_kept():
    projections, _ = scan(HALF, jitter=0, off=1.5, noise=0.01)
    fit = align_projections(projections, HALF, centre=21.0, axis_angle=0.0)
    assert fit.centre == pytest.approx(21.0, abs=1e-6)
    assert fit.sigma["centre"] == 0
    free = align_projections(projections[:, 18:19], HALF)  # a sinogram: no shifts along the axis, and no turn
    assert free.centre == pytest.approx(21.0, abs=0.1)
    assert set(free.sigma) == {"tx", "axis", "centre"}


def test_noise_alone_is_inconsistent():
    noise = np.random.default_rng(0).normal(size=(40, 32, 32)) + 5
    fit = align_projections(noise, HALF[:40] * 1.5, max_steps=2)
    assert fit.status is TiltStatus.INCONSISTENT
    assert not fit.ok


def test_wrong_angles_and_a_wrong_axis_are_inconsistent():
    """Most of a projection does not vary, and agrees with any angles."""
    projections, _ = scan(HALF, jitter=0.5, noise=0.05, seed=11)
    permuted = np.random.default_rng(1).permutation(HALF)
    for angles, options in ((permuted, {}), (2 * HALF, {}), (HALF, {"axis": "x"})):
        fit = align_projections(projections, angles, axis_angle=0.0, max_steps=4, **options)
        assert fit.status is TiltStatus.INCONSISTENT
    assert align_projections(projections, HALF, axis_angle=0.0).ok


def test_wrong_angles_are_told_in_strong_noise():
    """With noise of a fifth of the largest value, in means over larger regions than pixels."""
    projections, _ = scan(HALF, jitter=0.5, noise=0.2, seed=23)
    permuted = np.random.default_rng(5).permutation(HALF)
    for angles, status in ((permuted, TiltStatus.INCONSISTENT), (HALF, TiltStatus.CONVERGED)):
        assert align_projections(projections, angles, axis_angle=0.0, max_steps=4).status is status


@pytest.mark.parametrize("model", ["rigid", "similarity"])
def test_turns_and_magnifications_of_each_projection(model):
    rng = np.random.default_rng(4)
    turns = np.radians(1 + rng.uniform(-1.5, 1.5, 60))
    projections, truth = scan(HALF, turn=turns, off=1.4, noise=0.003)
    fit = align_projections(projections, HALF, model=model)
    found = found_poses(fit)
    assert fit.ok
    off = turns_of(found) - turns
    scatter = np.sqrt((off**2).mean())
    assert scatter < 0.7 * turns.std()
    assert 0.5 <= np.median(fit.sigma["theta"]) / scatter <= 2
    assert np.median(np.abs(errors(fit, truth)[0]), axis=0).max() <= 0.05
    assert fit.axis == pytest.approx(turns.mean(), abs=4 * fit.sigma["axis"])
    scales = scales_of(found)
    assert scales.mean() == pytest.approx(0, abs=1e-9)  # the gauge
    assert np.abs(scales).max() <= (5 * np.median(fit.sigma["scale"]) if model == "similarity" else 1e-9)
    assert "theta" in fit.rows()[0]
    if model == "rigid":
        given = align_projections(projections, HALF, model=model, axis_angle=np.radians(1.2))
        assert given.ok  # the mean that is held back is no motion of the last step
        assert given.axis == pytest.approx(np.radians(1.2), abs=1e-9)


def test_few_angles_keep_the_pixels_that_show_the_axis():
    """Means of so many pixels as so few angles resolve would not show how the axis is turned."""
    angles = np.linspace(0, np.pi, 10, endpoint=False)
    projections, truth = scan(angles, jitter=3.0, turn=np.radians(1.3), off=1.0, noise=0.02)
    fit = align_projections(projections, angles)
    assert fit.ok
    assert fit.axis == pytest.approx(np.radians(1.3), abs=np.radians(0.6))
    assert np.median(np.abs(errors(fit, truth)[0]), axis=0).max() < 0.2


def test_what_noise_hides_is_undetermined():
    """Noise of a third of the largest value, in few projections, determines the axis more than the specimen does."""
    angles = np.linspace(0, np.pi, 10, endpoint=False)
    projections, _ = scan(angles, jitter=2.0, turn=np.radians(1.3), noise=0.3)
    fit = align_projections(projections, angles, max_steps=40)
    assert fit.status is TiltStatus.UNDETERMINED
    assert "axis_angle" in str(fit)
    assert align_projections(projections, angles, axis_angle=np.radians(1.3)).ok


def test_steps_that_lead_away_are_not_settled():
    """In 16 columns the axis is hardly seen, and whole steps turn it by tens of degrees."""
    angles = np.linspace(0, np.pi, 24, endpoint=False)
    shifts = np.random.default_rng(1).uniform(-2.5, 2.5, (24, 2))
    projections = Ellipsoids(64, seed=1).project(angles, (64, 64), shifts=shifts)
    fit = align_projections(projections, angles, level=2)
    assert not fit.ok
    assert abs(fit.axis) < np.radians(15)


def test_a_slab_of_a_longer_specimen_that_moves_along_the_axis():
    """Its first and last rows are not in all projections: what is beside them is filled before anything is smoothed."""
    projections, truth = scan(HALF, shape=(16, SIZE), jitter=1.5, seed=5)
    fit = align_projections(projections, HALF, axis_angle=0.0)
    off, _ = errors(fit, truth, (16, SIZE))
    assert fit.ok
    assert np.median(np.abs(off), axis=0).max() <= 0.05
    assert 0.5 <= np.median(fit.sigma["ty"]) / np.sqrt((off[:, 0] ** 2).mean()) <= 2


def test_few_angles_of_fine_pixels():
    """Detail that each projection has alone does not lead the shared turn away from the axis."""
    angles = np.linspace(0, np.pi, 12, endpoint=False)
    projections, _ = scan(angles, jitter=1.0, turn=np.radians(1.0), noise=0.01)
    fit = align_projections(projections, angles, level=0)
    assert fit.status is not TiltStatus.UNSETTLED
    assert fit.axis == pytest.approx(np.radians(1.0), abs=np.radians(0.4))
    assert fit.sigma["axis"] < np.radians(1.0)


@pytest.mark.parametrize("count", [12, 20, 34])
def test_what_all_projections_say_of_one_is_no_more_than_it_shows(count):
    """H has no eigenvalue above one, but for what interpolation adds: with a larger one, steps diverge."""
    reproject = Reprojection(np.linspace(0, np.pi, count, endpoint=False), 37, 18.0, iterated=False)
    image = np.random.default_rng(0).normal(size=(count, 37, 1)).astype(np.float32)
    for _ in range(8):
        image = reproject(image / np.linalg.norm(image))
    assert np.linalg.norm(image) < 1.1


def test_a_body_that_looks_alike_from_all_sides():
    projections = scan(HALF[:1], jitter=0, noise=0)[0].repeat(60, axis=0)
    projections = projections + projections[:, :, ::-1]
    projections += 0.02 * projections.max() * np.random.default_rng(0).normal(size=projections.shape)
    fit = align_projections(projections, HALF, axis_angle=0.0)
    assert fit.ok
    assert fit.agreement < 0.5


def test_what_cannot_be_aligned():
    projections, _ = scan(HALF, noise=0)
    for angles, error, told in (
        (HALF[1:], ShapeMismatchError, "60 projections"),
        (np.degrees(HALF), UnitError, "unit='degrees'"),
        (np.where(np.arange(60) == 4, np.nan, HALF), InputError, "angle 4"),
        (["a"] * 60, InputError, "real numbers"),
        (HALF + 0j, InputError, "real numbers"),
        (np.repeat(HALF[:6], 10), InputError, "6 directions"),
        (HALF / 50, InputError, "unit='degrees'"),
    ):
        with pytest.raises(error, match=told):
            align_projections(projections, angles)
    with pytest.raises(InputError, match="or 'radians'"):
        align_projections(projections, HALF, unit="degrees")
    for options, error, told in (
        ({"model": "affine"}, OptionError, "translation, rigid, similarity"),
        ({"level": "fine"}, OptionError, "2 x 2 means"),
        ({"centre": "middle"}, OptionError, "'auto' or a number"),
        ({"centre": 400}, OptionError, "outside"),
        ({"axis_angle": np.inf}, OptionError, "not finite"),
        ({"axis": "z"}, OptionError, "down the columns"),
        ({"darks": projections}, OptionError, "without flats"),
        ({"mask": np.zeros(SHAPE)}, EmptyMaskError, "no pixel"),
        ({"mask": np.ones((3, 3))}, ShapeMismatchError, r"\(3, 3\)"),
        ({"flats": projections[0, 1:]}, ShapeMismatchError, "37 rows"),
        ({"flats": projections[None]}, ShapeMismatchError, "37 rows"),
        ({"client": "tcp://127.0.0.1:1"}, OptionError, "Client"),
        ({"centre": None}, OptionError, "'auto' or a number"),
        ({"channel_axis": "c"}, OptionError, "whole number"),
        ({"max_steps": 0}, OptionError, "1 or more"),
        ({"max_steps": "a"}, OptionError, "whole number"),
    ):
        with pytest.raises(error, match=told):
            align_projections(projections, HALF, **options)
    oblong = xr.DataArray(
        projections, dims=("angle", "y", "x"), coords={"y": 2.0 * np.arange(37), "x": np.arange(40.0)}
    )
    with pytest.raises(InputError, match="not square"):
        align_projections(oblong, HALF)
    blank = projections.copy()
    blank[7:] = np.nan
    with pytest.raises(DegenerateImageError, match="7 of 60"):
        align_projections(blank, HALF)
    with pytest.raises(ChannelError, match="channel='sum'"):
        align_projections(np.stack([projections] * 2), HALF)
    with pytest.raises(ShapeMismatchError, match="sinogram"):
        align_projections(projections[:, 0], HALF)


def one_level(projections, level):
    return binned(projections, [level])[0][:2]


@pytest.mark.parametrize("batch_bytes", [1, 2_000, 10_000, 10**9])
def test_each_chunk_is_read_once_while_means_are_taken(batch_bytes):
    """Where whole projections do not fit, by rows, in groups that are not those of the levels."""
    rng = np.random.default_rng(0)
    scan, flats = rng.uniform(1, 2, (11, 37, 40)).astype(np.float32), rng.uniform(3, 4, (37, 40))
    scan[3, 5:9, 7:30], scan[8] = np.nan, np.nan
    mask = rng.uniform(size=scan.shape) > 0.1
    reads = []

    def counted(block):
        reads.append(block.size)
        return block

    chunks = ((1, 4, 4, 2), (10, 10, 3, 10, 4), (40,))
    lazy = da.from_array(scan, chunks=chunks).map_blocks(counted, dtype=np.float32, meta=scan[:0])
    options = {"axis": "y", "channel": None, "channel_axis": None, "flats": flats, "darks": None, "mask": mask}
    levels, fine = [Level(SHAPE, (3, 5)), Level(SHAPE, (1, 2))], np.empty((11, 37, 20), np.float32)

    def kept(first, top, means):
        fine[first : first + len(means), top : top + means.shape[1]] = means

    given = replace(projections_of(lazy, **options), batch_bytes=batch_bytes)
    found = binned(given, levels, kept)[0]
    # A chunk that does not fit is decoded for each of its angles.
    assert sum(reads) == (scan.size if batch_bytes > 1 else 37 * 40 * (1 + 4 * 4 + 4 * 4 + 2 * 2))
    attenuation = np.where(mask, -np.log(scan / flats), np.nan)
    data, known, background = found
    coarse = np.where(known, data + np.float32(background), np.nan)
    for (v, u), means in (((3, 5), coarse), ((1, 2), fine)):
        height, width = 37 // v, 40 // u
        pixels = attenuation[:, : height * v].reshape(11, height, v, width, u).swapaxes(2, 3)
        pixels = pixels.reshape(11, height, width, v * u)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of means of nothing
            expected = np.where(2 * np.isfinite(pixels).sum(-1) >= v * u, np.nanmean(pixels, -1), np.nan)
        np.testing.assert_allclose(means, expected, rtol=1e-5)


def test_channels_flats_and_masks_are_read_alike():
    """What is matched: the sum of channels or one of them, wherever they are; attenuation; without what is masked."""
    projections, _ = scan(HALF[:10], noise=0)
    options = {"axis": "y", "channel": None, "channel_axis": None, "flats": None, "darks": None, "mask": None}
    level = Level(SHAPE, (1, 2))
    plain, known = one_level(projections_of(projections, **options), level)
    assert known is None
    channels = np.stack([projections, 3 * projections])
    for array, more in (
        (channels, {"channel": "sum"}),
        (np.moveaxis(channels, 0, -1), {"channel": "sum", "channel_axis": -1}),
        (np.moveaxis(channels, 0, 1), {"channel": "sum", "channel_axis": 1}),
    ):
        total, _ = one_level(projections_of(array, **options | more), level)
        np.testing.assert_allclose(total, 4 * plain, rtol=1e-4, atol=1e-4)
    one, _ = one_level(projections_of(channels, **options | {"channel": 0}), level)
    np.testing.assert_array_equal(one, plain)
    beam = np.full((2, *SHAPE), 800.0)
    raw = beam[0] * np.exp(-projections) + 20
    found, _ = one_level(projections_of(raw, **options | {"flats": beam + 20, "darks": beam * 0 + 20}), level)
    np.testing.assert_allclose(found, plain, atol=1e-4)
    mask = np.ones(SHAPE)
    mask[:, 8:10] = 0
    masked, known = one_level(projections_of(projections, **options | {"mask": mask}), level)
    assert not known[:, :, 4].any()
    assert known[:, :, 5].all()
    np.testing.assert_array_equal(masked[:, :, 5:], plain[:, :, 5:])


def test_levels():
    assert columns_of_levels((180, 256, 256), np.linspace(0, np.pi, 180), "auto", None) == [4, 2]
    assert columns_of_levels((1801, 40, 256), np.linspace(0, np.pi, 1801), "auto", None) == [4, 1]
    assert columns_of_levels((60, 40, 40), HALF, "auto", None) == [1]
    assert columns_of_levels((60, 40, 40), HALF, 1, None) == [2]
    assert columns_of_levels((16, 64, 64), HALF[::4], "auto", None) == [1]
    assert columns_of_levels((24, 1000, 1000), np.linspace(0, np.pi, 24), "auto", None) == [16, 15]
    level = Level((41, 83), (1, 4))
    poses = increments(np.array([[0.5, 3.0]]), ("ty", "tx"))
    np.testing.assert_allclose(level.binned(poses)[0, :2, 2], (0.5, 0.75))
    assert level.middle.tolist() == [20.0, 9.875]


def test_the_tooth(data):
    """A real scan of half a turn that does not move."""
    import h5py

    with h5py.File(data / "tomography" / "tooth" / "tooth.h5") as file:
        raw, white, dark, theta = (file["exchange"][k][...] for k in ("data", "data_white", "data_dark", "theta"))
    fit = align_projections(raw, theta, unit="degrees", flats=white, darks=dark, level=3)
    print(fit)
    assert fit.ok
    assert fit.centre == pytest.approx(295.6, abs=0.3)


def test_haadf(data):
    """A tilt series with a missing wedge, of a needle that is cut off at one end, and drifts.

    By its centres of mass, slice by slice, ETSpy finds an axis turned by 2.79 degrees; its sign is for the image turned
    back.
    """
    import warnings

    import mrcfile

    folder = data / "tomography" / "haadf"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the file has no map id
        with mrcfile.open(folder / "HAADF.mrc", permissive=True) as file:
            projections = np.array(file.data)
    tilts = np.loadtxt(folder / "HAADF.rawtlt")
    fit = align_projections(projections[::2], tilts[::2], unit="degrees", axis="x", level=3)
    print(fit)
    assert fit.ok
    assert np.degrees(fit.axis) == pytest.approx(2.79, abs=0.5)
    assert np.nanmedian(fit.residuals) < 0.02
