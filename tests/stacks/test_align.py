"""Stacks with known drift: it is found, slices without a fit are interpolated and reported, bad input is refused."""

from __future__ import annotations

import json

import dask.array as da
import numpy as np
import pytest
import scipy.ndimage
import xarray as xr
from oracles import aligned_correlation, pull, random_walk, residuals, rigid_2d
from phantoms import blobs

import daskreg as dr
from daskreg.errors import (
    ChannelError,
    DaskregWarning,
    DegenerateImageError,
    EmptyMaskError,
    FitFailedError,
    OptionError,
    ShapeMismatchError,
)
from daskreg.geometry import Grid
from daskreg.registration.pose import MODELS
from daskreg.stacks.align import StackStatus
from daskreg.volumes import to_dataarray

pytestmark = pytest.mark.slow

SHAPE = (96, 112)
N = 8


def content(shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    fine = scipy.ndimage.gaussian_filter(rng.normal(size=shape), 2.0)
    return blobs(shape, seed=seed) + 0.3 * fine / fine.std() * blobs(shape, seed=seed + 1)


def moved(image, matrices):
    """raw_from_clean matrices applied to one image, or to one for each."""
    images = np.broadcast_to(image, (len(matrices), *image.shape[-2:]))
    return np.stack([pull(i, np.linalg.inv(m), order=3)[0] for i, m in zip(images, matrices, strict=True)]).astype("f4")


@pytest.fixture(scope="module")
def drift():
    return random_walk(N, SHAPE, step=1.5, turn=1.0, seed=1)


@pytest.fixture(scope="module")
def stack(drift):
    return moved(content(), drift)


def error(fit, truth, shape=SHAPE):
    return residuals(fit.raw_from_aligned.matrices, truth, shape)["all"]


@pytest.mark.parametrize("reference", ["neighbors", "previous", "first", 3, "mean"])
def test_a_known_drift_is_found(stack, drift, reference):
    fit = dr.align_stack(stack, reference=reference)
    assert fit.status is StackStatus.CONVERGED
    assert fit.ok
    assert fit.raise_if_failed() is fit
    assert error(fit, drift) < 0.03
    assert fit.outliers == ()


def test_the_reference_sets_the_frame(stack):
    for reference, root in (("previous", 0), ("first", 0), (3, 3)):
        fit = dr.align_stack(stack, reference=reference)
        assert np.array_equal(fit.raw_from_aligned.matrices[root], np.eye(3))
        assert np.isnan(fit.scores[root])
    mean = dr.align_stack(stack, reference="mean").parameters
    assert abs(mean["tx"].mean()) < 0.05
    assert abs(mean["theta"].mean()) < 1e-3


def test_warp_with_the_fit_aligns(stack):
    fit = dr.align_stack(stack)
    aligned = dr.warp(stack, pull=fit.raw_from_aligned)
    inside = (slice(None), slice(16, -16), slice(16, -16))
    assert np.abs(aligned[inside] - aligned[0][inside[1:]]).max() < 0.05 * np.ptp(stack)
    assert aligned_correlation(stack, fit.raw_from_aligned.matrices).min() > 0.998


@pytest.mark.parametrize("model", [*MODELS, ("rotation", "scale")])
def test_models(model):
    rng = np.random.default_rng(5)
    truth = []
    groups = MODELS[model] if isinstance(model, str) else model
    for _ in range(4):
        p = {}
        if "translation" in groups:
            p |= {"tx": rng.normal() * 3, "ty": rng.normal() * 3}
        if "rotation" in groups:
            p["theta"] = rng.normal() * 0.03
        if "scale" in groups:
            scale = 1 + rng.normal(size=2) * 0.02
            p |= {"sx": scale[0], "sy": scale[0] if model == "similarity" else scale[1]}
        if "shear" in groups:
            p["shx"] = rng.normal() * 0.02
        truth.append(dr.Affine.from_parameters(p, ndim=2, centre=(np.array(SHAPE) - 1) / 2).matrix)
    fit = dr.align_stack(moved(content(), np.stack(truth)), model=model)
    if model == ("rotation", "scale"):  # the group is not closed with another centre, only nearly
        assert error(fit, np.stack(truth)) < 0.2
    else:
        assert error(fit, np.stack(truth)) < 0.05
    assert set(fit.sigma) <= {"theta", "tx", "ty", "scale", "sx", "sy", "shx", "shy"}


def test_jumps_of_a_third_of_the_image_are_found():
    shifts = np.array([(0, 0), (30, -20), (-5, 10), (20, 35)], dtype=float)
    truth = np.stack([rigid_2d(0, *s, (0, 0)) for s in shifts])
    wide = content((SHAPE[0] + 120, SHAPE[1] + 120), seed=3) + 0.1 * content((SHAPE[0] + 120, SHAPE[1] + 120), seed=8)
    rng = np.random.default_rng(0)
    wide = wide + scipy.ndimage.gaussian_filter(rng.normal(size=wide.shape), 3) * 2
    images = [wide[60 - int(a) : 60 - int(a) + SHAPE[0], 60 - int(b) : 60 - int(b) + SHAPE[1]] for a, b in shifts]
    fit = dr.align_stack(np.stack(images), model="translation")
    assert error(fit, truth) < 0.05


def test_world_units(stack, drift):
    grid = Grid((N, *SHAPE), (40.0, 0.5, 0.5), (0.0, 7.0, -3.0), unit="um")
    fit = dr.align_stack(to_dataarray(stack, grid))
    pixels = dr.align_stack(stack)
    assert fit.raw_from_aligned.unit == "micrometer"
    assert fit.raw_from_aligned.axis == "z"
    assert fit.raw_from_aligned.axes == ("y", "x")
    assert np.allclose(fit.centre, [7 + 0.5 * 47.5, -3 + 0.5 * 55.5])
    assert np.allclose(fit.parameters["tx"], 0.5 * pixels.parameters["tx"], atol=0.005)
    assert np.allclose(fit.parameters["theta"], pixels.parameters["theta"], atol=1e-4)


def test_anisotropic_pixels_keep_a_rotation_a_rotation():
    drift = random_walk(5, SHAPE, step=1, turn=2, seed=3)
    stack = moved(content(), drift)[:, ::2]
    grid = Grid(stack.shape, (1.0, 2.0, 1.0))
    fit = dr.align_stack(to_dataarray(stack, grid))
    assert error(fit, drift) < 0.1


def test_flipped_axes(stack, drift):
    array = to_dataarray(stack, Grid(stack.shape))[:, ::-1]
    assert error(dr.align_stack(array), drift) < 0.03


def test_any_axis(stack, drift):
    fit = dr.align_stack(np.moveaxis(stack, 0, 1), axis=1)
    assert fit.raw_from_aligned.axis == "y"
    assert fit.raw_from_aligned.axes == ("z", "x")
    assert error(fit, drift) < 0.03
    assert np.array_equal(dr.align_stack(np.moveaxis(stack, 0, 1), axis="y").scores, fit.scores, equal_nan=True)


def test_a_series_of_images(stack, drift):
    fit = dr.align_stack(xr.DataArray(stack, dims=("t", "y", "x")))
    assert fit.raw_from_aligned.axis == "t"
    assert error(fit, drift) < 0.03


def test_a_series_of_volumes_is_aligned_in_3d():
    volume = blobs((32, 40, 48), count=20, seed=4)
    truth = [
        dr.Affine.from_parameters(tx=2.0 * i, tz=-1.0 * i, rz=0.02 * i, centre=(15.5, 19.5, 23.5)) for i in range(3)
    ]
    series = np.stack([dr.warp(volume, push=t) for t in truth])
    array = xr.DataArray(series, dims=("t", "z", "y", "x"))
    fit = dr.align_stack(array, axis="t")
    assert fit.raw_from_aligned.ndim == 3
    assert error(fit, np.stack([t.matrix for t in truth]), volume.shape) < 0.05
    assert dr.warp(array, pull=fit.raw_from_aligned).shape == array.shape


def test_trend_keep_leaves_the_slow_part():
    n = 40
    i = np.arange(n)
    fast = np.random.default_rng(2).normal(size=n)
    truth = np.stack([rigid_2d(0, 0, 0.2 * k + f, (0, 0)) for k, f in zip(i, fast, strict=True)])
    stack = moved(content((64, 64)), truth)
    remove = dr.align_stack(stack, model="translation").parameters["tx"]
    keep = dr.align_stack(stack, model="translation", trend="keep", smooth=15).parameters["tx"]
    assert remove[-1] - remove[0] == pytest.approx(0.2 * (n - 1) + fast[-1] - fast[0], abs=0.1)
    assert abs(np.polyfit(i, keep, 1)[0]) < 0.005, "a straight drift stays in the stack"
    assert np.corrcoef(np.diff(keep), np.diff(fast))[0, 1] > 0.99


def test_blank_masked_and_nan_slices_are_interpolated(stack, drift):
    bad = stack.copy()
    bad[3] = 7
    bad[5] = np.nan
    fit = dr.align_stack(bad)
    assert fit.status is StackStatus.BRIDGED
    assert fit.ok
    assert fit.outliers == (3, 5)
    assert np.isnan(fit.scores[[3, 5]]).all()
    good = [0, 1, 2, 4, 6, 7]
    assert residuals(fit.raw_from_aligned.matrices[good], drift[good], SHAPE)["all"] < 0.05
    p = fit.parameters
    assert p["tx"][3] == pytest.approx((p["tx"][2] + p["tx"][4]) / 2, abs=0.02)
    assert "outliers 3, 5" in repr(fit)
    mask = np.ones(stack.shape, bool)
    mask[0] = False
    assert dr.align_stack(stack, mask=mask).outliers == (0,)


@pytest.mark.parametrize("where", [0, 3, N - 1])
def test_a_slice_of_noise_does_not_break_the_chain(stack, drift, where):
    bad = stack.copy()
    bad[where] = np.random.default_rng(0).normal(size=SHAPE)
    fit = dr.align_stack(bad)
    assert fit.outliers == (where,)
    assert fit.ok
    good = np.delete(np.arange(N), where)
    assert residuals(fit.raw_from_aligned.matrices[good], drift[good], SHAPE)["all"] < 0.05
    assert np.array_equal(dr.align_stack(bad, reference=4).outliers, (where,))


def test_a_stack_of_two_unrelated_parts_reports_the_break(stack):
    rng = np.random.default_rng(0)
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5)
    other = moved(noise * 10, random_walk(4, SHAPE, step=1, turn=0, seed=9))
    fit = dr.align_stack(np.concatenate([stack[:4], other]))
    assert fit.status is StackStatus.BROKEN
    assert fit.breaks == (4,)
    assert not fit.ok
    with pytest.raises(FitFailedError, match="breaks"):
        fit.raise_if_failed()


def test_nothing_in_common_fails():
    noise = np.random.default_rng(1).normal(size=(5, 64, 64))
    fit = dr.align_stack(noise)
    assert fit.status is StackStatus.FAILED
    assert not fit.ok


@pytest.mark.filterwarnings(r"ignore:\d of 10752 voxels")  # some of the random part, which look like hot voxels
def test_masks(stack, drift):
    """A part of the images that does not move with the slices is masked."""
    dirty = stack.copy()
    dirty[:, 10:50, 20:60] = np.random.default_rng(0).random((40, 40)) * 3
    mask = np.ones(SHAPE, bool)
    mask[8:52, 18:62] = False
    unmasked = dr.align_stack(dirty)
    assert not unmasked.ok
    assert error(unmasked, drift) > 0.2
    assert error(dr.align_stack(dirty, mask=mask), drift) < 0.1
    whole = np.broadcast_to(mask, stack.shape)
    assert error(dr.align_stack(dirty, mask=da.from_array(whole, chunks=(3, 50, 50))), drift) < 0.1


def test_channels(stack):
    array = xr.DataArray(
        np.stack([np.zeros_like(stack), stack], axis=1), dims=("z", "c", "y", "x"), coords={"c": ["dark", "bright"]}
    )
    expected = dr.align_stack(stack).raw_from_aligned.matrices
    for channel in (1, "bright", -1):
        assert np.allclose(dr.align_stack(array, channel=channel).raw_from_aligned.matrices, expected)
    for channel, message in ((None, "channel="), (2, "no channel 2"), ("red", "dark, bright")):
        with pytest.raises(ChannelError, match=message):
            dr.align_stack(array, channel=channel)
    with pytest.raises(ChannelError):
        dr.align_stack(np.zeros((4, 32, 32, 3)))
    with pytest.raises(ChannelError, match="isel"):
        dr.align_stack(array.rename(c="t").drop_vars("t"))


def test_lazy_stacks_give_the_same(stack, tmp_path):
    expected = dr.align_stack(stack)
    lazy = da.from_array(stack, chunks=(3, 40, 112))
    assert np.array_equal(dr.align_stack(lazy).raw_from_aligned.matrices, expected.raw_from_aligned.matrices)
    dr.write(to_dataarray(stack, Grid(stack.shape)), tmp_path / "stack.zarr", progress=False)
    stored = dr.align_stack(dr.open(tmp_path / "stack.zarr"))
    assert np.array_equal(stored.raw_from_aligned.matrices, expected.raw_from_aligned.matrices)


def test_large_slices_are_downsampled_and_small_batches_agree(stack, drift, monkeypatch):
    from daskreg.stacks import reference_registration as engine
    from daskreg.stacks import slice_reader

    expected = dr.align_stack(stack).raw_from_aligned.matrices
    monkeypatch.setattr(engine, "batch_size", lambda *_: 3)
    assert np.allclose(dr.align_stack(stack).raw_from_aligned.matrices, expected, atol=1e-6)
    full = slice_reader.SliceReader.of
    monkeypatch.setattr(slice_reader.SliceReader, "of", lambda *a, **k: full(*a, **k, most=48))
    assert error(dr.align_stack(stack), drift) < 0.1


@pytest.mark.parametrize("shape", [(97, 20001), (12003, 101), (161, 2049)])
def test_long_slices_keep_their_resolution(shape):
    shifts = np.array([(0, 0), (3, 7), (-2, 5)])
    room = 8
    scene = np.random.default_rng(3).normal(size=(shape[0] + 2 * room, shape[1] + 2 * room)).astype(np.float32)
    scene = scipy.ndimage.uniform_filter(scipy.ndimage.uniform_filter(scene, 5), 7)
    stack = np.stack([scene[room + a : room + a + shape[0], room + b : room + b + shape[1]] for a, b in shifts])
    fit = dr.align_stack(stack, model="translation")
    found = fit.raw_from_aligned.matrices[:, :2, 2] + shifts
    assert fit.ok
    assert np.abs(found - found.mean(axis=0)).max() < 0.01


def test_integers_and_metrics(stack, drift):
    counts = np.rint(1000 + 500 * stack).astype(">u2")
    assert error(dr.align_stack(counts), drift) < 0.03
    assert error(dr.align_stack(stack, metric="mse"), drift) < 0.03
    shaded = stack * np.linspace(0.5, 2, N)[:, None, None] + np.arange(N)[:, None, None]
    assert error(dr.align_stack(shaded), drift) < 0.03


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "neighbours"}, "neighbors, previous, first, mean"),
        ({"neighbors": 0}, "neighbors=0"),
        ({"common_line": "y"}, "translation"),
        ({"common_line": "z", "model": "translation"}, "y, x"),
        ({"reference": "last"}, "previous"),
        ({"reference": N}, "0 to 7"),
        ({"reference": True}, "number of a slice"),
        ({"metric": "mi"}, "ncc"),
        ({"model": "elastic"}, "rigid"),
        ({"trend": "slow"}, "remove"),
        ({"smooth": 1}, "smooth"),
        ({"axis": "t"}, "z, y, x"),
        ({"axis": 3}, "z, y, x"),
        ({"device": "tpu"}, "cpu"),
    ],
)
def test_unknown_options(stack, options, message):
    with pytest.raises(OptionError, match=message):
        dr.align_stack(stack, **options)


def test_bad_stacks(stack):
    with pytest.raises(DegenerateImageError, match="every slice is constant"):
        dr.align_stack(np.ones((4, 32, 32)))
    with pytest.raises(DegenerateImageError, match="lines"):
        dr.align_stack(np.random.default_rng(0).random((4, 1, 32)))
    with pytest.raises(DegenerateImageError, match="slice 2"):
        dr.align_stack(np.concatenate([stack[:2], np.zeros((1, *SHAPE)), stack[2:]]), reference=2)
    with pytest.raises(EmptyMaskError):
        dr.align_stack(stack, mask=np.zeros(SHAPE, bool))
    with pytest.raises(EmptyMaskError):
        dr.align_stack(stack, mask=da.zeros(stack.shape, chunks=-1))
    with pytest.raises(ShapeMismatchError, match="mask"):
        dr.align_stack(stack, mask=np.ones((3, 3), bool))
    with pytest.raises(ShapeMismatchError, match="not a stack"):
        dr.align_stack(stack[0])


def test_flat_stacks_give_a_warning(stack):
    with pytest.warns(DaskregWarning, match="one slice"):
        fit = dr.align_stack(stack[:1])
    assert np.array_equal(fit.raw_from_aligned.matrices, np.eye(3)[None])
    assert fit.ok
    series = xr.DataArray(stack[:3, None], dims=("t", "z", "y", "x"))
    with pytest.warns(DaskregWarning, match="length 1 along z"):
        fit = dr.align_stack(series, axis="t")
    assert fit.raw_from_aligned.matrices.shape == (3, 4, 4)
    expected = dr.align_stack(stack[:3]).raw_from_aligned.matrices
    assert np.allclose(fit.raw_from_aligned.matrices[:, 1:, 1:], expected)


def test_the_results_of_a_fit(stack, tmp_path):
    seen = []
    fit = dr.align_stack(stack, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (N, N)
    table = fit.to_dataframe()
    assert list(table.index) == list(range(N))
    assert np.allclose(table.tx, fit.parameters["tx"])
    assert {"theta", "score", "sigma_theta", "outlier"} <= set(table.columns)
    assert "sx" not in table.columns
    chain = dr.align_stack(stack, reference="previous")
    assert np.all(np.diff(chain.sigma["tx"]) > 0), "along a chain errors add up"
    middle = fit.sigma["tx"]
    assert np.all(np.diff(middle[: N // 2]) < 0), "relative to the mean slice, the errors are largest at the ends"
    fit.save(tmp_path / "fit.json")
    assert dr.load(tmp_path / "fit.json") == fit.raw_from_aligned
    assert json.loads((tmp_path / "fit.json").read_text())["status"] == "converged"
    page = fit.report(tmp_path / "fit-page.html").read_text()
    assert page.count("<tr") > N
    assert 'class="chart"' in page
    assert "8 slices along 'z'" in repr(fit)
    assert len(fit.plot(truth=fit.raw_from_aligned).axes) == 4
