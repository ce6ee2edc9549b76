"""`register` on the tutorial's pairs, on real images with a stated truth, and on bad input."""

from __future__ import annotations

import gc
import json
import pickle
import warnings

import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from scipy import ndimage

import daskreg as dr
from daskreg import errors
from daskreg.geometry import Affine, Grid
from daskreg.registration import images, pipeline
from daskreg.registration import pair as register_module
from daskreg.registration.fit import PairFit
from daskreg.registration.images import read_image
from daskreg.registration.problem import SolverOptions
from daskreg.registration.register import register
from daskreg.registration.verdicts import FitStatus
from daskreg.volumes import to_dataarray

pytestmark = pytest.mark.slow


def texture(shape, seed=0):
    rng = np.random.default_rng(seed)
    return sum(ndimage.gaussian_filter(rng.standard_normal(shape), s) * s for s in (1.5, 3, 6, 12))


def moved(image, grid, motion, other=None, *, fill=np.nan, order=3):
    """`image` on `grid` moved by `motion`, on the grid `other`."""
    other = other or grid
    m = grid.inverse_matrix @ motion.inverse().matrix @ other.matrix
    return ndimage.affine_transform(
        image, m[:-1, :-1], m[:-1, -1], output_shape=other.shape, order=order, mode="constant", cval=fill
    )


def corner_error(fit, truth, grid):
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in grid.shape], indexing="ij")).reshape(grid.ndim, -1).T
    points = grid.world(ends)
    return np.linalg.norm(fit.moving_from_fixed(points) - truth(points), axis=1).max() / min(grid.spacing)


@pytest.fixture(scope="module")
def easy():
    """A pair with a known rigid motion: fixed, moving (NaN outside), truth, grid."""
    grid = Grid((80, 90))
    truth = Affine.from_parameters(theta=0.12, tx=4, ty=-3, centre=grid.centre)
    fixed = texture(grid.shape)
    return fixed, moved(fixed, grid, truth), truth, grid


@pytest.mark.parametrize("metric", ["ncc", "mse"])
@pytest.mark.parametrize("init", ["auto", "identity"])
def test_tutorial_2d(metric, init):
    """A cross with a fourfold symmetry: the motion nearest to identity is meant."""
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    phantom = (x**2 + y**2 < 0.5).astype(np.float32)
    phantom[120:136] = phantom[:, 120:136] = 0
    grid = Grid(phantom.shape, spacing=2 / 256, origin=-1 + 1 / 256)
    truth = Affine.from_parameters(theta=np.radians(30), tx=0.2, ty=-0.1, shx=0.2)
    moving = moved(phantom, grid, truth, fill=0, order=1)
    fit = register(
        to_dataarray(phantom, grid),
        to_dataarray(moving, grid),
        model=("rotation", "translation", "shear"),
        metric=metric,
        init=init,
    )
    assert fit.ok
    assert np.degrees(fit.parameters["theta"]) == pytest.approx(30, abs=0.1)
    assert fit.parameters["tx"] == pytest.approx(0.2, abs=0.002)
    assert fit.parameters["ty"] == pytest.approx(-0.1, abs=0.002)
    assert fit.parameters["shx"] == pytest.approx(0.2, abs=0.005)
    assert fit.parameters["sx"] == 1


def test_tutorial_3d():
    cube = np.zeros((64, 64, 64), np.float32)
    cube[20:44, 20:44, 20:44] = 1
    cube[20:44, 30:34, 20:44] = 0
    grid = Grid(cube.shape, spacing=2 / 64, origin=-1 + 1 / 64)
    truth = Affine.from_parameters(rz=np.radians(15), ty=0.1)
    moving = moved(cube, grid, truth, fill=0, order=1)
    fit = register(to_dataarray(cube, grid), to_dataarray(moving, grid), model="rigid", metric="mse")
    assert fit.ok
    assert np.degrees(fit.parameters["rz"]) == pytest.approx(15, abs=0.1)
    assert fit.parameters["ty"] == pytest.approx(0.1, abs=0.002)
    for name in ("rx", "ry", "tx", "tz"):
        assert fit.parameters[name] == pytest.approx(0, abs=0.002)


@pytest.mark.parametrize("fill", [np.nan, 0.0])
def test_a_hard_affine_motion(fill):
    """Far beyond the reach of a descent from identity, with or without a filled border."""
    grid = Grid((160, 190))
    truth = Affine.from_parameters(theta=-0.45, tx=22, ty=-16, sx=1.08, sy=0.93, shx=0.12, centre=grid.centre)
    fixed = texture(grid.shape) + 50
    fit = register(fixed, 2 * moved(fixed, grid, truth, fill=fill) + 3 * np.isnan(fill))
    assert fit.ok
    assert corner_error(fit, truth, grid) < 0.05


def test_grids_of_different_shape_spacing_origin_and_flip():
    fine, coarse = Grid((120, 100), 0.5, (10, -20), unit="um"), Grid((50, 70), (1.1, 0.8), (8, -22), unit="um")
    truth = Affine.from_parameters(theta=0.1, tx=2, ty=-1, centre=fine.centre)
    fixed = texture(fine.shape)
    moving = to_dataarray(moved(fixed, fine, truth, coarse), coarse)
    fit = register(to_dataarray(fixed, fine), moving, model="rigid")
    assert fit.moving_from_fixed.unit == "micrometer"
    assert corner_error(fit, truth, fine) < 0.2
    flipped = register(to_dataarray(fixed, fine), moving.isel(x=slice(None, None, -1)), model="rigid")
    np.testing.assert_allclose(flipped.moving_from_fixed.matrix, fit.moving_from_fixed.matrix, atol=1e-3)


def test_thick_slices():
    grid = Grid((16, 60, 64), spacing=(4, 1, 1))
    truth = Affine.from_parameters(rz=0.15, tx=3, ty=-2, tz=2, centre=grid.centre)
    cubes = Grid((64, 60, 64))
    fixed = texture(cubes.shape)
    moving = moved(fixed, cubes, truth, fill=0)
    thick = [v.reshape(16, 4, 60, 64).mean(1) for v in (fixed, moving)]
    where = cubes.downsample((4, 1, 1))
    fit = register(*(to_dataarray(v, where) for v in thick), model="rigid")
    assert corner_error(fit, truth, grid) < 0.5


def test_noise_gain_and_offset(easy):
    fixed, moving, truth, grid = easy
    rng = np.random.default_rng(0)
    sd = 0.05 * np.ptp(fixed)
    fit = register(
        fixed + sd * rng.standard_normal(grid.shape), 5 - 3 * (-moving + sd * rng.standard_normal(grid.shape))
    )
    assert corner_error(fit, truth, grid) < 0.3


@pytest.mark.parametrize("noise", [0.03, 0.15])
def test_covariance_predicts_the_scatter(easy, noise):
    fixed, moving, truth, grid = easy
    sd = noise * np.ptp(fixed)
    found, predicted = [], []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        noisy = [image + sd * rng.standard_normal(grid.shape) for image in (fixed, moving)]
        fit = register(*noisy, model="rigid", init=truth, levels=1)
        found.append([fit.parameters[n] for n in fit.covariance_names])
        predicted.append(list(fit.sigma.values()))
    ratio = np.std(found, axis=0) / np.mean(predicted, axis=0)
    assert np.all((ratio > 0.5) & (ratio < 2)), ratio


@pytest.mark.parametrize("metric", ["mae", "lncc", "mi", "callable"])
def test_other_metrics(easy, metric):
    fixed, moving, truth, grid = easy
    if metric == "mi":
        moving = 1 / (1 + np.exp(moving / np.nanstd(moving)))

    def loss(f, w, weight):
        return ((f - w).abs().pow(1.5) * weight).sum() / weight.sum()

    fit = register(fixed, moving, model="rigid", metric=loss if metric == "callable" else metric)
    assert corner_error(fit, truth, grid) < 0.2
    assert fit.score[1] < fit.score[0]
    assert fit.covariance is None


def test_the_same_answer_for_every_kind_of_input(easy):
    fixed, moving, truth, _ = easy
    fit = register(fixed, moving, model="rigid")
    for kind in (torch.tensor, lambda a: da.from_array(a, chunks=33), lambda a: xr.DataArray(a, dims=("y", "x"))):
        other = register(kind(fixed), kind(moving), model="rigid")
        np.testing.assert_array_equal(other.moving_from_fixed.matrix, fit.moving_from_fixed.matrix)
    again = register(fixed, moving, model="affine", init=fit)
    assert again.score[1] >= fit.score[1] - 1e-6
    whole = register((fixed * 100 + 3000).astype(">u2"), np.nan_to_num(moving * 100 + 3000).astype(np.uint16))
    assert corner_error(whole, truth, Grid(fixed.shape)) < 0.1
    with pytest.warns(errors.DaskregWarning, match="2D"):
        flat = register(fixed[None], moving[None], model="rigid")
    np.testing.assert_array_equal(flat.moving_from_fixed.matrix, fit.moving_from_fixed.matrix)


def test_a_fill_under_noise_and_a_region_that_contradicts():
    grid = Grid((200, 220))
    truth = Affine.from_parameters(theta=0.3, tx=20, ty=-12, sx=1.05, centre=grid.centre)
    fixed = texture(grid.shape) + 40
    moving = moved(fixed, grid, truth, fill=0)
    rng = np.random.default_rng(3)
    sd = 0.04 * np.ptp(fixed)
    noisy = [image + sd * rng.standard_normal(grid.shape) for image in (fixed, moving)]
    assert corner_error(register(*noisy), truth, grid) < 0.5
    dirty = moved(fixed, grid, truth)
    dirty[60:110, 90:140] = dirty[np.isfinite(dirty)].max()
    assert corner_error(register(fixed, dirty), truth, grid) < 0.02


def test_there_and_back(easy):
    fixed, moving, _, _ = easy
    fit = register(fixed, moving, model="rigid", check_inverse=True)
    assert 0 <= fit.inverse_error < 0.05
    assert register(fixed, moving, model="rigid").inverse_error is None


def test_the_inverse_has_the_same_options(easy, monkeypatch):
    """Among them the levels, which it once lacked, and the optimizer; progress counts both registrations."""
    fixed, moving, truth, _ = easy
    used = []

    def noted(problem, options, *images, **given):
        used.append(options)
        return pipeline.estimate(problem, options, *images, **given)

    monkeypatch.setattr(register_module, "estimate", noted)
    done = []
    fit = register(
        fixed,
        moving,
        model="rigid",
        init=truth,
        levels=1,
        smoothing=1.0,
        tolerance=1e-2,
        max_iterations=7,
        check_inverse=True,
        progress=lambda k, n: done.append((k, n)),
    )
    assert 0 <= fit.inverse_error < 0.1
    assert len(used) == 2
    assert used[0] == used[1] == SolverOptions(1, 1.0, 7, 1e-2)
    assert done == [(1, 2), (2, 2)]


def test_things_that_repeat_are_told_apart():
    """Coins in rows: on the coarsest level one row looks like another."""
    image = pytest.importorskip("skimage.data").coins().astype(np.float32)
    grid = Grid(image.shape)
    truth = Affine.from_parameters(theta=0.45, tx=40, ty=-36, sx=1.09, sy=0.92, shx=0.14, centre=grid.centre)
    fit = register(image, moved(image, grid, truth))
    assert corner_error(fit, truth, grid) < 0.1


def test_masks(easy):
    fixed, moving, truth, grid = easy
    mask = np.ones(grid.shape, bool)
    mask[20:50, 30:70] = False
    broken = np.where(mask, fixed, 40)
    fit = register(broken, moving, fixed_mask=mask, model="rigid")
    assert corner_error(fit, truth, grid) < 0.05
    assert fit.masked[0] == pytest.approx(1 - mask.mean())
    assert fit.masked[1] == pytest.approx(np.isnan(moving).mean())


def test_what_a_fit_knows(easy, tmp_path):
    fixed, moving, _, _ = easy
    fit = register(fixed, moving, model="similarity")
    assert isinstance(fit, PairFit)
    assert fit.ok
    assert fit.raise_if_failed() is fit
    assert fit.covariance_names == ("theta", "tx", "ty", "scale")
    assert fit.covariance.shape == (4, 4)
    assert fit.score[0] < 0.9 < fit.score[1]
    assert fit.losses[-1] <= fit.losses[0]
    assert 0.7 < fit.overlap <= 1
    assert "6.87" in repr(fit)
    assert "deg" in repr(fit)
    np.testing.assert_allclose(fit.centre, Grid(fixed.shape).centre)
    expected = Affine.from_parameters(fit.parameters, ndim=2, centre=fit.centre)
    np.testing.assert_allclose(fit.moving_from_fixed.matrix, expected.matrix, atol=1e-9)
    fit.save(tmp_path / "fit.json")
    stored = json.loads((tmp_path / "fit.json").read_text())
    assert stored["schema"] == "daskreg/fit"
    assert stored["status"] == "converged"
    np.testing.assert_array_equal(dr.load(tmp_path / "fit.json").matrix, fit.moving_from_fixed.matrix)
    copy = pickle.loads(pickle.dumps(fit))
    np.testing.assert_array_equal(copy.moving_from_fixed.matrix, fit.moving_from_fixed.matrix)
    assert fit.report(tmp_path / "fit.html").exists()
    assert len(fit.plot().axes) > 3


def test_noise_against_noise_is_not_ok():
    rng = np.random.default_rng(0)
    fit = register(rng.random((64, 64)), rng.random((64, 64)))
    assert not fit.ok
    assert fit.status is FitStatus.CHANCE
    assert "search" in repr(fit)
    with pytest.raises(errors.FitFailedError, match="chance"):
        fit.raise_if_failed()


@pytest.mark.parametrize(("resolution", "why"), [("auto", 'for resolution "full"'), ("full", "fit the memory")])
def test_a_checkpoint_that_is_not_used_is_told(easy, tmp_path, caplog, resolution, why):
    caplog.set_level("INFO", "daskreg")
    path = tmp_path / "blocks.jsonl"
    register(*easy[:2], model="rigid", resolution=resolution, checkpoint=path)
    [said] = [record.getMessage() for record in caplog.records if "checkpoint" in record.getMessage()]
    assert str(path) in said
    assert why in said
    assert not path.exists()


def test_volumes_beyond_the_budget_are_read_as_means(easy):
    fixed, _, _, grid = easy
    with pytest.warns(errors.DaskregWarning, match="fixed is read as means of 2 x 2 voxels: in full"):
        image = read_image(da.from_array(fixed, chunks=20), what="fixed", budget=2000)
    assert image.factors == image.reduced == (2, 2)
    assert image.grid == grid.downsample(2)
    np.testing.assert_allclose(image.values + image.offset, fixed.reshape(40, 2, 45, 2).mean((1, 3)), atol=1e-5)
    with pytest.raises(errors.MemoryBudgetError, match="level="):
        read_image(da.from_array(fixed, chunks=-1), what="fixed", budget=1000)


def test_infinity_leaves_means_of_blocks_out_as_nan_does(easy):
    infinite, unknown = np.array(easy[0]), np.array(easy[0])
    infinite[20:24, 30:34:2], infinite[20:24, 31:34:2], unknown[20:24, 30:34] = np.inf, -np.inf, np.nan
    with pytest.warns(errors.DaskregWarning, match="means"):
        found, expected = (
            read_image(da.from_array(v, chunks=40), what="fixed", budget=2000).values for v in (infinite, unknown)
        )
    assert torch.isnan(expected).any()
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_a_fit_says_that_an_image_did_not_fit_the_memory(easy, monkeypatch):
    fixed, moving, truth, grid = easy
    fit = register(fixed, moving, model="rigid")
    assert fit.reduced == fit.facts()["reduced"] == ((1, 1), (1, 1))
    assert "means" not in repr(fit)
    monkeypatch.setattr(images, "_voxel_budget", lambda: fixed[:70].size)
    with pytest.warns(errors.DaskregWarning, match="fixed is read as means of 2 x 2 voxels"):
        fit = register(fixed, moving[:60], model="rigid")
    assert fit.reduced == ((2, 2), (1, 1))
    assert "fixed was read as means of 2 x 2 voxels" in repr(fit)
    assert corner_error(fit, truth, grid) < 0.3


LEVELS = {
    "float64": lambda image: image / 100 - 3e8,
    "int64": lambda image: image.astype(np.int64) - 2 * 10**11,
    "uint32": lambda image: image.astype(np.uint32) + np.uint32(3 * 10**9),
}


@pytest.mark.parametrize("metric", ["ncc", "mse", "mae"])
@pytest.mark.parametrize("kind", LEVELS)
def test_a_level_far_above_the_contrast(kind, metric):
    scene = 400 + 100 * texture((120, 131))
    expected = register(scene[9:89, 12:102], scene[5:85, 18:108], model="translation", metric=metric)
    fixed, moving = (LEVELS[kind](a) for a in (scene[9:89, 12:102], scene[5:85, 18:108]))
    fits = [
        register(fixed, moving, model="translation", metric=metric),
        register(da.from_array(fixed, chunks=30), moving, model="translation", metric=metric),
    ]
    if metric != "mae":
        fits.append(dr.register_many([fixed], [moving], model="translation", metric=metric)[0])
    for fit in fits:
        np.testing.assert_allclose(fit.moving_from_fixed.matrix, expected.moving_from_fixed.matrix, atol=0.01)
        assert fit.ok
    stack = dr.align_stack(np.stack([fixed, moving]), model="translation", metric="ncc" if metric == "mae" else metric)
    first, second = stack.raw_from_aligned.matrices
    np.testing.assert_allclose((second - first)[:2, 2], [4, -6], atol=0.02)
    with pytest.raises(errors.DegenerateImageError, match="constant"):
        register(fixed * 0 + fixed[0, 0], moving)


def test_a_difference_of_levels_counts_in_mse():
    image = 1e8 + texture((60, 70))
    fit = register(image, image + 3, model="translation", metric="mse", init="identity")
    assert fit.score[1] == pytest.approx(9, rel=0.05)


RGB = np.random.default_rng(0).random((40, 50, 3))
COLOURS = xr.DataArray(RGB.transpose(2, 0, 1), dims=("c", "y", "x"), coords={"c": ["red", "green", "blue"]})


def test_channels_are_named(easy):
    for given in (RGB, COLOURS):
        with pytest.raises(errors.ChannelError, match="channel="):
            register(given, given)
        assert register(given, given, channel=1, model="rigid").score[1] > 0.99
    assert register(COLOURS, COLOURS, channel="green", model="rigid").score[1] > 0.99
    with pytest.raises(errors.ChannelError, match="red, green, blue"):
        register(COLOURS, COLOURS, channel="infrared")
    with pytest.raises(errors.ChannelError, match="isel"):
        register(COLOURS.rename(c="t").drop_vars("t"), RGB[..., 0])


A = np.random.default_rng(1).random((30, 32))
BAD = {
    "constant": (errors.DegenerateImageError, {"fixed": np.ones((30, 32))}),
    "all NaN": (errors.EmptyMaskError, {"fixed": np.full((30, 32), np.nan)}),
    "all masked": (errors.EmptyMaskError, {"moving_mask": np.zeros((30, 32))}),
    "shape of a mask": (errors.ShapeMismatchError, {"fixed_mask": np.ones((3, 3))}),
    "dimensions": (errors.ShapeMismatchError, {"moving": np.random.default_rng(1).random((9, 30, 32))}),
    "complex": (errors.UnsupportedDTypeError, {"fixed": A + 0j}),
    "complex tensor": (errors.UnsupportedDTypeError, {"fixed": torch.tensor(A) + 0j}),
    "objects": (errors.UnsupportedDTypeError, {"fixed": A.astype(object)}),
    "empty": (errors.EmptyArrayError, {"fixed": np.ones((0, 5))}),
    "a line": (errors.DegenerateImageError, {"fixed": np.arange(9.0).reshape(1, 9)}),
    "apart": (errors.NoOverlapError, {"moving": to_dataarray(A, Grid(A.shape, origin=1000))}),
    "model": (errors.OptionError, {"model": "perspective"}),
    "metric": (errors.OptionError, {"metric": "sharpness"}),
    "init": (errors.OptionError, {"init": "guess"}),
    "optimizer": (errors.OptionError, {"optimizer": "magic"}),
    "optimizer for a metric": (errors.OptionError, {"metric": "mae", "optimizer": "gauss-newton"}),
    "device": (errors.OptionError, {"device": "abacus"}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    error, change = BAD[case]
    options = {"fixed": A, "moving": A[::-1], **change}
    with pytest.raises(error):
        register(options.pop("fixed"), options.pop("moving"), **options)


def test_boxes_of_images_that_are_apart():
    far = to_dataarray(A, Grid(A.shape, origin=1000))
    with pytest.raises(errors.NoOverlapError, match=r"y -0.5\.\.29.5.*y 999.5\.\.1029.5"):
        register(A, far)
    fit = register(texture((40, 44)), to_dataarray(texture((40, 44)), Grid((40, 44), origin=1000)), init="phase")
    np.testing.assert_allclose(fit.moving_from_fixed([20, 20]), [1020, 1020], atol=0.01)


def test_units():
    a, b = (to_dataarray(texture((40, 44)), Grid((40, 44), unit=unit)) for unit in ("um", "mm"))
    with pytest.raises(errors.UnitError, match="micrometer and millimeter"):
        register(a, b)
    assert register(a, a, model="rigid").moving_from_fixed.unit == "micrometer"


def test_pixels_and_a_unit_are_refused_in_either_order():
    physical = to_dataarray(texture((40, 44)), Grid((40, 44), spacing=0.3, unit="nm"))
    plain = physical.values
    for pair in ((physical, plain), (plain, physical)):
        with pytest.raises(errors.UnitError, match="one side is in pixels, the other in nanometer"):
            register(*pair)
        with pytest.raises(errors.UnitError, match="one side is in pixels"):
            dr.register_many([pair[0]], [pair[1]])
    with pytest.raises(errors.UnitError, match="init and the images: one side is in pixels"):
        register(physical, physical, init=register(plain, plain, model="rigid"))
    anchor = {0: Affine.identity(2), 1: Affine(np.eye(3), unit="pixel")}
    stack = to_dataarray(np.stack([plain] * 3), Grid((3, 40, 44), spacing=0.3, unit="nm"))
    with pytest.raises(errors.UnitError, match="the anchor of slice 1 and the stack"):
        dr.align_stack(stack, anchors=anchor)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("options", [{"model": "translation"}, {"model": "rigid", "metric": "mse"}, {"metric": "lncc"}])
def test_volumes_of_two_planes(axis, options):
    scene = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(2, 80, 90)), (0, 2, 2))
    fixed, moving = (np.moveaxis(scene[:, k : k + 60, 5 : 5 + 70], 0, axis) for k in (4, 7))
    fit = register(fixed, moving, **{"model": "translation", **options})
    expected = np.insert([-3.0, 0.0], axis, 0.0)
    np.testing.assert_allclose(fit.moving_from_fixed.matrix[:-1, -1], expected, atol=0.1)


def test_brain_slices_of_itk(data):
    """The stated shift (13, 17), and 10 degrees with (13, 16) about ITK's (W/2, H/2)."""
    image = pytest.importorskip("PIL.Image")

    def read(name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            colours = np.asarray(image.open(data / "images2d/itk_brain" / f"{name}.png").convert("RGB"))
        return colours[..., 0].astype(np.float32)

    fixed = read("BrainProtonDensitySliceBorder20")
    for model in ("translation", "rigid", "affine"):
        fit = register(fixed, read("BrainProtonDensitySliceShifted13x17y"), model=model)
        assert fit.ok
        assert fit.parameters["tx"] == pytest.approx(13, abs=0.01)
        assert fit.parameters["ty"] == pytest.approx(17, abs=0.01)
    fit = register(fixed, read("BrainProtonDensitySliceR10X13Y17"), model="rigid")
    middle = np.array([128.5, 110.5])
    assert np.degrees(fit.parameters["theta"]) == pytest.approx(10, abs=0.02)
    np.testing.assert_allclose(fit.moving_from_fixed(middle) - middle, [16, 13], atol=0.05)
    other = register(
        read("BrainT1SliceBorder20"), read("BrainProtonDensitySliceShifted13x17y"), model="rigid", metric="mi"
    )
    assert other.parameters["tx"] == pytest.approx(13, abs=0.3)
    assert other.parameters["ty"] == pytest.approx(17, abs=0.3)


def test_a_later_fit_leaves_to_the_collector_what_others_made():
    image = texture((40, 44))
    register(image, image, model="translation")  # imports what it needs
    thresholds = gc.get_threshold()
    gc.set_threshold(10**7)
    try:
        made = [image]
        register(image, image, model="translation")
        assert not any(thing is made for thing in gc.get_objects(generation=2))
    finally:
        gc.set_threshold(*thresholds)
