"""`register(model="bspline")` on images that were deformed by scipy, not by daskreg's own sampling."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage import data

import daskreg as dr
from daskreg.cli import run
from daskreg.errors import InvalidTransformError, MemoryBudgetError, OptionError, ShapeMismatchError
from daskreg.registration.deformable.cell_sums import square_bytes
from daskreg.registration.deformable.judged import determinants
from daskreg.registration.deformable.register_bspline import check_memory, control_spacing
from daskreg.registration.deformable.splines.control_grid import control_grids
from daskreg.registration.images import Image, means_within
from daskreg.registration.verdicts import FitStatus

Floats = NDArray[np.float64]
SHAPE = (131, 157)


def photograph() -> Floats:
    """A part of a photograph, means of 3 x 3 pixels."""
    return np.asarray(data.camera()[60:453, 40:511], dtype=float).reshape(131, 3, 157, 3).mean((1, 3)) / 50


def smooth_field(shape: tuple[int, ...], most: float, distance: float, seed: int = 0) -> Floats:
    """(D, *shape) displacements by analytic cubic B-splines, of at most so many voxels."""
    rng = np.random.default_rng(seed)
    at = np.indices(shape) / distance + 1
    nodes = [int(np.ceil(n / distance)) + 3 for n in shape]
    u = [ndimage.map_coordinates(rng.uniform(-1, 1, nodes), at, order=3, prefilter=False) for _ in shape]
    return np.stack(u) * most / np.sqrt(np.sum(np.square(u), axis=0)).max()


def deformed(image: Floats, u: Floats) -> Floats:
    return np.asarray(ndimage.map_coordinates(image, np.indices(image.shape) + u, order=5, mode="mirror"))


def errors(fit: dr.DeformableFit, u: Floats, margin: int = 8) -> Floats:
    """Distances of where voxels away from the border are found from where they are."""
    inside = (slice(margin, -margin),) * (u.ndim - 1)
    index = np.moveaxis(np.indices(u.shape[1:]), 0, -1)[inside].reshape(-1, len(u)).astype(float)
    truth = index + np.moveaxis(u, 0, -1)[inside].reshape(-1, len(u))
    return np.asarray(np.linalg.norm(fit.moving_from_fixed(index) - truth, axis=1))


def pair(noise: float = 0.05, most: float = 5.0, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    u, rng, image = smooth_field(SHAPE, most, 40, seed), np.random.default_rng(seed + 100), photograph()
    return deformed(image, u) + noise * rng.normal(size=SHAPE), image + noise * rng.normal(size=SHAPE), u


@pytest.mark.slow
def test_a_smooth_field_is_found_and_nothing_folds(tmp_path: Path) -> None:
    fixed, moving, u = pair()
    fit = dr.register(fixed, 3 - 2 * moving / 5 + 0.8 * moving, model="bspline", spacing=12)
    assert fit.ok, repr(fit)
    assert np.median(errors(fit, u)) < 0.1
    assert np.median(errors(fit, u)) < 0.1 * np.median(np.linalg.norm(u, axis=0))
    assert fit.jacobian[0] > 0
    assert fit.jacobian == determinants(fit.moving_from_fixed, dr.Grid(SHAPE))
    points = np.array([[30.0, 40.0], [80.5, 100.25]])
    there = fit.moving_from_fixed(points)
    np.testing.assert_allclose(fit.moving_from_fixed.inverse()(there), points, atol=1e-6)
    before, after = (np.corrcoef(fixed[9:-9, 9:-9].ravel(), w[9:-9, 9:-9].ravel())[0, 1] for w in (
        moving, dr.warp(moving, pull=fit, like=fixed)))  # fmt: skip
    assert after > 0.99 > before
    fit.save(tmp_path / "fit.json")
    np.testing.assert_allclose(dr.load(tmp_path / "fit.json")(points), there)
    assert fit.report(tmp_path / "fit.html").exists()
    sigma = fit.sigma_at(points)
    assert sigma.shape == (2, 2)
    assert np.all((sigma > 0.001) & (sigma < 0.3))
    assert np.isnan(fit.sigma_at([[-5.0, 3.0]])).all()
    assert fit._uncertainty is not None
    searched = replace(fit, _uncertainty=replace(fit._uncertainty, system=None))
    assert np.isnan(searched.sigma_at(points)).all()
    with pytest.raises(ShapeMismatchError, match="N, 2"):
        searched.sigma_at([[1.0, 2.0, 3.0]])


def as_if_all_told(fit: dr.DeformableFit) -> dr.DeformableFit:
    """A fit whose error bars take all gradients for signal, also where the images are flat or differ."""
    assert fit._uncertainty is not None
    assert fit._uncertainty.system is not None
    return replace(
        fit, _uncertainty=replace(fit._uncertainty, system=replace(fit._uncertainty.system, reliability=None))
    )


def counted_of(fit: dr.DeformableFit) -> NDArray[np.float64]:
    """Which part of the information counts around each control point."""
    assert fit._uncertainty is not None
    assert fit._uncertainty.system is not None
    assert fit._uncertainty.system.reliability is not None
    return fit._uncertainty.system.reliability


@pytest.mark.slow
def test_error_bars_of_many_points_are_those_of_few() -> None:
    fixed, moving, _ = pair()
    fit = dr.register(fixed, moving, model="bspline", spacing=24)
    points = np.random.default_rng(0).uniform(0, np.array(SHAPE) - 1, (60, 2))
    many = fit.sigma_at(points)
    few = np.concatenate([fit.sigma_at(points[k : k + 1]) for k in range(0, 60, 6)])
    np.testing.assert_allclose(many[::6], few, rtol=0.05)


@pytest.mark.slow
def test_along_edges_nothing_counts_in_error_bars() -> None:
    """Pixels are twice as wide as high; the columns differ, and noise is all that differs from row to row."""
    rng = np.random.default_rng(0)
    lines = ndimage.gaussian_filter1d(rng.normal(size=140), 3)
    lines /= lines.std()
    fixed, moving = (dr.open(lines + 0.3 * rng.normal(size=(130, 140)), spacing=(1, 2)) for _ in range(2))
    identity = dr.Affine.identity(2, unit="pixel")
    fit = dr.register(fixed, moving, model="bspline", spacing=(12, 24), metric="ncc", init=identity)
    counted = np.median(counted_of(fit)[2:-2, 2:-2].reshape(-1, 2, 2), axis=0)
    assert counted[0, 0] < 0.2  # along the lines
    assert counted[1, 1] > 0.8


@pytest.mark.slow
def test_a_field_to_begin_from_leaves_no_error_bars() -> None:
    """The prior knows the field that is added alone, which is next to none."""
    fixed, moving, _ = pair()
    first = dr.register(fixed, moving, model="bspline", spacing=24)
    points = [[30.0, 40.0]]
    for init in (first, first.moving_from_fixed):
        again = dr.register(fixed, moving, model="bspline", spacing=24, init=init)
        np.testing.assert_allclose(again.moving_from_fixed(points), first.moving_from_fixed(points), atol=0.1)
        assert np.isnan(again.sigma_at(points)).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4, 6, 10])
def test_aligned_images_with_noise_need_not_be_improved(seed: int) -> None:
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.normal(size=(93, 121)), 2)
    texture /= texture.std()
    fixed, moving = (texture + 0.4 * rng.normal(size=texture.shape) for _ in range(2))
    fit = dr.register(fixed, moving, model="bspline")
    assert fit.ok, repr(fit)
    assert np.median(errors(fit, np.zeros((2, 93, 121)))) < 0.1


@pytest.mark.slow
def test_a_lattice_is_ambiguous_with_a_field_too() -> None:
    rng, at = np.random.default_rng(0), np.indices(SHAPE)
    lattice = np.cos(2 * np.pi * at[0] / 17) * np.cos(2 * np.pi * at[1] / 17)
    u = smooth_field(SHAPE, 2.0, 40)
    fixed, moving = (one + 0.05 * rng.normal(size=SHAPE) for one in (deformed(lattice, u), lattice))
    assert dr.register(fixed, moving, model="bspline").status is FitStatus.AMBIGUOUS


@pytest.mark.slow
def test_a_fit_does_not_hold_the_images() -> None:
    rng = np.random.default_rng(0)
    volume = ndimage.gaussian_filter(rng.normal(size=(70, 72, 74)), 2)
    noisy, identity = volume + 0.02 * rng.normal(size=volume.shape), dr.Affine.identity(3)
    fit = dr.register(volume, noisy, model="bspline", spacing=30, init=identity)
    assert len(pickle.dumps(fit)) < 8 * volume.size  # bytes of the pair; its gradients are three times as many


@pytest.mark.slow
def test_a_fit_from_a_poor_affine_fit_is_no_better_than_from_images() -> None:
    rng, shape = np.random.default_rng(0), (128, 128)
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    y, x = np.indices(shape)
    bend = 3.5 * np.stack([np.sin(x / 15), np.cos(y / 15)])
    texture /= texture.std()
    fixed, moving = (
        one + ndimage.gaussian_filter(rng.normal(size=shape), 1) / 0.56 for one in (deformed(texture, bend), texture)
    )
    affine = dr.register(fixed, moving)
    assert not affine.ok
    options = {"model": "bspline", "metric": "ncc", "spacing": 20}
    alone, given = dr.register(fixed, moving, **options), dr.register(fixed, moving, init=affine, **options)
    assert not alone.ok
    assert given.status is alone.status
    assert given.affine is affine


@pytest.mark.slow
def test_images_that_are_flat_where_they_overlap_agree_by_chance() -> None:
    fixed, mask = np.zeros((64, 64)), np.ones((64, 64), bool)
    fixed[20:44, 20:44] = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(24, 24)), 1)
    mask[14:50, 14:50] = False
    moving = fixed + ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(64, 64)), 1)
    fit = dr.register(
        fixed, moving, model="bspline", metric="ncc", spacing=8, init="identity", smoothing=0, moving_mask=mask
    )
    assert fit.status is FitStatus.CHANCE
    assert fit.sigma_at([[5.0, 5.0]]).min() > 0.5


@pytest.mark.slow
def test_error_bars_are_wide_where_images_have_noise_alone() -> None:
    shape, rng = (80, 90), np.random.default_rng(3)
    image, u = ndimage.gaussian_filter(rng.normal(size=shape), 2), smooth_field(shape, 2.0, 40)
    image *= (np.arange(90) < 45) / image.std()
    fixed, moving = (x + 0.3 * rng.normal(size=shape) for x in (deformed(image, u), image))
    fit = dr.register(fixed, moving, model="bspline", metric="mse", spacing=10, init="identity")
    points = np.array([[40.0, 25.0], [40.0, 70.0]])
    seen, flat = fit.sigma_at(points).mean(1)
    seen_if_noise_told, flat_if_noise_told = as_if_all_told(fit).sigma_at(points).mean(1)
    assert flat > 1.5 * flat_if_noise_told
    assert flat > 4 * seen
    assert seen < 1.2 * seen_if_noise_told


@pytest.mark.slow
def test_a_motion_is_not_taken_for_noise_that_is_as_smooth() -> None:
    shape, rng = (90, 100), np.random.default_rng(1)
    image = ndimage.gaussian_filter(rng.normal(size=[n + 40 for n in shape]), 3)
    image /= image.std()
    p = np.indices(shape).astype(float)
    along, across = 0.6 * p[0] + 0.8 * p[1], 0.8 * p[0] - 0.6 * p[1]
    u = 2 * np.stack([np.sin(2 * np.pi * along / 34), np.cos(2 * np.pi * across / 34)])
    fixed = ndimage.map_coordinates(image, p + 20 + u, order=5) + 0.1 * rng.normal(size=shape)
    moving = image[20:-20, 20:-20] + 0.1 * rng.normal(size=shape)
    fit = dr.register(fixed, moving, model="bspline", metric="mse", spacing=14, init="identity")
    assert fit.ok, repr(fit)
    assert np.median(errors(fit, u)) < 0.2


@pytest.mark.slow
def test_error_bars_are_wide_where_the_images_show_different_structures() -> None:
    fixed, moving, u = pair()
    other = np.roll(fixed[::-1], 40, axis=1)
    fixed[70:115, 80:125] = other[70:115, 80:125]
    fit = dr.register(fixed, moving, model="bspline", spacing=12, metric="lncc")
    points = np.array([[92.0, 102.0], [30.0, 40.0]])
    there, away = fit.sigma_at(points).mean(1)
    there_if_it_counted, away_if_all_counted = as_if_all_told(fit).sigma_at(points).mean(1)
    assert there > 2 * away
    assert there > 1.5 * there_if_it_counted  # which windows that have little in common make wide by themselves
    assert away < 1.1 * away_if_all_counted
    assert not counted_of(fit).all()
    error = fit.moving_from_fixed(points) - points - u[:, [92, 30], [102, 40]].T
    assert np.linalg.norm(error[1]) < 4 * away


@pytest.mark.slow
def test_a_hole_of_the_moving_mask_is_no_different_structure() -> None:
    fixed, moving, _ = pair(most=2.0)
    mask = np.ones(SHAPE, bool)
    mask[50:80, 60:95] = False
    bright = (20 + fixed, 20 + moving)
    fit = dr.register(*bright, model="bspline", spacing=12, init=dr.Affine.identity(2), moving_mask=mask, metric="mse")
    assert fit.ok
    whole = dr.register(*bright, model="bspline", spacing=12, init=dr.Affine.identity(2), metric="mse")
    np.testing.assert_allclose(counted_of(fit), counted_of(whole), atol=0.1)


@pytest.mark.slow
def test_the_world_has_units_directions_and_a_mask() -> None:
    fixed, moving, u = pair(most=3.0)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    grid = dr.Grid(SHAPE, (0.5, 0.5), (10, -3), turn, unit="um")
    dirt = fixed.copy()
    dirt[40:80, 50:90] = 9 * np.random.default_rng(3).random((40, 40))
    mask = np.ones(SHAPE, bool)
    mask[38:82, 48:92] = False
    from daskreg.volumes import to_dataarray

    fit = dr.register(
        *(to_dataarray(image, grid) for image in (dirt, moving)),
        model="bspline",
        spacing=6,
        init=dr.Affine.identity(2, unit="um"),
        fixed_mask=mask,
    )
    assert fit.affine is None
    index = np.array([[20.0, 30.0], [100.0, 120.0], [20.0, 120.0], [110.0, 40.0]])
    truth = index + u[:, index[:, 0].astype(int), index[:, 1].astype(int)].T
    np.testing.assert_allclose(fit.moving_from_fixed(grid.world(index)), grid.world(truth), atol=0.15 * 0.5)
    away, near = fit.sigma_at(grid.world([[60.0, 70.0], [20.0, 30.0]])).mean(1)
    assert away > 2 * near  # nothing is known under the mask


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["lncc", "mse"])
def test_other_metrics(metric: str) -> None:
    fixed, moving, u = pair(most=4.0, seed=2)
    y, x = np.indices(SHAPE) / 60
    bias = 1 + 0.5 * np.sin(y + 2 * x) if metric == "lncc" else 1.0
    fit = dr.register(fixed, moving * bias, model="bspline", metric=metric, spacing=12)
    assert np.median(errors(fit, u)) < 0.2
    assert fit.jacobian[0] > 0


@pytest.mark.slow
def test_another_modality_is_found_by_mutual_information(tmp_path: Path) -> None:
    fixed, moving, u = pair(most=4.0, seed=3)
    # What is bright becomes dark, not in proportion, and the contrast varies over the image.
    y, x = np.indices(SHAPE) / 60
    other = (1 + 0.2 * np.sin(y + 2 * x)) / (0.2 + (moving - moving.min()) / np.ptp(moving))
    by_correlation = dr.register(fixed, other, model="bspline", init="identity", spacing=12)
    fit = dr.register(fixed, other, model="bspline", metric="mi", init=dr.Affine.identity(2), spacing=12)
    assert fit.ok, repr(fit)
    assert np.median(errors(fit, u)) < 0.3
    assert np.median(errors(fit, u)) < np.median(errors(by_correlation, u)) / 3
    assert fit.jacobian[0] > 0
    assert fit.score[1] < fit.score[0] < 0
    fit.save(tmp_path / "fit.json")
    again = dr.DeformableFit.load(tmp_path / "fit.json")
    assert again.to_dict() == fit.to_dict()
    points = np.array([[40.0, 50.0], [65.0, 90.0]])
    np.testing.assert_allclose(again.moving_from_fixed(points), fit.moving_from_fixed(points))
    with pytest.raises(InvalidTransformError, match="not the fit of"):
        dr.PairFit.load(tmp_path / "fit.json")


@pytest.mark.slow
def test_levels_that_show_nothing_in_common_do_not_undo_what_coarser_ones_showed() -> None:
    rng, u = np.random.default_rng(8), smooth_field(SHAPE, 4.0, 70, 5)
    coarse = ndimage.gaussian_filter(rng.normal(size=SHAPE), 7)
    coarse /= coarse.std()
    texture = [ndimage.gaussian_filter(rng.normal(size=SHAPE), 1) for _ in range(2)]
    fixed, moving = (x + 0.7 * t / t.std() for x, t in zip((deformed(coarse, u), coarse), texture, strict=True))
    for metric in ("ncc", "mi"):
        fit = dr.register(fixed, moving, model="bspline", metric=metric, init=dr.Affine.identity(2), spacing=14)
        assert np.median(errors(fit, u)) < 0.5 * np.median(np.linalg.norm(u, axis=0)), metric


@pytest.mark.slow
def test_error_bars_are_those_of_repeated_noise() -> None:
    points = np.array([[40.0, 50.0], [65.0, 90.0], [90.0, 60.0], [50.0, 110.0]])
    found, stated = [], []
    for seed in range(10):
        image, u = photograph(), smooth_field(SHAPE, 3.0, 40, 7)
        rng = np.random.default_rng(seed)
        fixed, moving = (x + 0.3 * rng.normal(size=SHAPE) for x in (deformed(image, u), image))
        fit = dr.register(fixed, moving, model="bspline", spacing=16, init="identity")
        found.append(fit.moving_from_fixed(points))
        stated.append(fit.sigma_at(points))
    ratio = np.std(found, axis=0, ddof=1).mean() / np.mean(stated)
    assert 0.5 < ratio < 2, ratio


@pytest.mark.slow
def test_unrelated_images_are_refused() -> None:
    rng = np.random.default_rng(0)
    fixed, moving = (ndimage.gaussian_filter(rng.normal(size=(90, 101)), 2) for _ in range(2))
    for metric in ("ncc", "mi"):
        fit = dr.register(fixed, moving, model="bspline", metric=metric, spacing=16)
        assert fit.status in {FitStatus.CHANCE, FitStatus.LOW_OVERLAP}
        assert fit.jacobian[0] > 0


@pytest.mark.slow
def test_a_volume() -> None:
    rng = np.random.default_rng(4)
    image = ndimage.gaussian_filter(rng.normal(size=(31, 37, 34)), 1.5)
    image /= image.std()
    u = smooth_field(image.shape, 2.0, 20)
    fit = dr.register(deformed(image, u), image, model="bspline", spacing=9, init="identity")
    assert np.median(errors(fit, u, 6)) < 0.1
    assert fit.jacobian[0] > 0


def test_options_that_do_not_go_together_are_refused() -> None:
    image = photograph()
    for options in (
        {"metric": "mae"},
        {"optimizer": "adam"},
        {"check_inverse": True},
        {"spacing": -3.0},
        {"spacing": (8, 8, 8)},
    ):
        with pytest.raises(OptionError):
            dr.register(image, image, model="bspline", init=dr.Affine.identity(2), **options)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="control points"):
        dr.register(image, image, spacing=8)
    field = dr.DisplacementField(np.zeros((3, 4, 4, 4)), dr.Grid((4, 4, 4)))
    with pytest.raises(ShapeMismatchError):
        dr.register(image, image, model="bspline", init=field)


@pytest.mark.slow
def test_the_command_line(tmp_path: Path) -> None:
    fixed, moving, u = pair(most=3.0)
    for name, image in (("fixed", fixed), ("moving", moving)):
        tifffile.imwrite(tmp_path / f"{name}.tif", image.astype(np.float32))
    out = tmp_path / "fit.json"
    arguments = [str(tmp_path / "fixed.tif"), str(tmp_path / "moving.tif"), "--out", str(out), "-q"]
    assert run(["register", *arguments, "--model", "bspline", "--control-spacing", "20,16"]) == 0
    found = dr.load(out)
    assert isinstance(found, dr.Composite)
    at = np.array([[60.0, 70.0]])
    np.testing.assert_allclose(found(at) - at, u[:, 60, 70][None], atol=0.3)


def test_large_images_become_means_of_what_counts() -> None:
    values = np.random.default_rng(0).normal(size=(9, 12)).astype(np.float32)
    mask = np.ones((9, 12), bool)
    mask[:2, :1], mask[2:4, 2:4] = False, False
    values[5, 5] = np.nan
    image = Image(torch.from_numpy(values), dr.Grid((9, 12), (2.0, 3.0)), torch.from_numpy(mask))
    assert means_within(108, image) is image
    means = means_within(40, image)
    known = np.where(mask & np.isfinite(values), values, np.nan)[:8].reshape(4, 2, 6, 2).swapaxes(1, 2).reshape(4, 6, 4)
    expected = np.array([[np.mean(v[np.isfinite(v)]) if np.isfinite(v).any() else np.nan for v in r] for r in known])
    np.testing.assert_allclose(means.values, expected, rtol=1e-5)
    assert np.isnan(expected).sum() == 1
    assert means.reduced == (2, 2)
    np.testing.assert_allclose(means.grid.world([[0, 0], [3, 5]]), image.grid.world([[0.5, 0.5], [6.5, 10.5]]))


@pytest.mark.slow
def test_images_that_need_no_field_are_no_failure() -> None:
    rng, image = np.random.default_rng(3), photograph()
    image = (image - image.mean()) / image.std()
    shifted = ndimage.shift(image, (2.3, -1.7), order=5, mode="mirror")
    noisy = [v + 0.3 * rng.normal(size=SHAPE) for v in (image, shifted)]
    assert dr.register(*noisy, model="bspline").ok
    assert dr.register(image, image, model="bspline", metric="mse").ok


@pytest.mark.slow
def test_a_mirror_image_with_its_reflection_as_init_does_not_fold() -> None:
    image = photograph()
    reflection = dr.Affine(np.array([[1.0, 0, 0], [0, -1, SHAPE[1] - 1], [0, 0, 1]]))
    mask = np.ones(SHAPE, bool)
    mask[:13] = False
    fit = dr.register(image, image[:, ::-1].copy(), model="bspline", init=reflection, fixed_mask=mask)
    assert fit.ok, repr(fit)
    assert fit.jacobian[-1] < 0
    assert fit.masked == pytest.approx((13 / 131, 0), abs=1e-3)  # some voxels may count as hot


@pytest.mark.slow
def test_it_says_how_much_contradicts() -> None:
    fixed, moving, _ = pair(most=1.0)
    moving[:60, :80] = ndimage.gaussian_filter(np.random.default_rng(5).normal(size=(60, 80)), 3) * 20
    fit = dr.register(fixed, moving, model="bspline", spacing=20)
    assert fit.contradicting > 0.05
    assert "contradict each other" in repr(fit)
    assert not fit.ok


def test_one_distance_is_at_least_two_voxels_of_each_axis() -> None:
    grid = dr.Grid((20, 60, 64), spacing=(5, 1, 1))
    assert control_spacing(8.0, grid, grid) == (10, 8, 8)
    with pytest.raises(OptionError, match="at least two voxels"):
        control_spacing((8.0, 8.0, 8.0), grid, grid)
    for bad in ("8", "auto", -1, (3.0,), float("nan")):
        with pytest.raises(OptionError, match="positive, one number or one for each"):
            control_spacing(bad, grid, grid)  # type: ignore[arg-type]


def test_more_control_points_than_fit_the_memory_are_refused() -> None:
    assert square_bytes((259, 259, 517)) > 1e11
    grid = dr.Grid((512, 512, 1024))
    with pytest.raises(MemoryBudgetError, match="take a greater spacing"):
        check_memory(control_grids(grid, (2.0, 2.0, 2.0))[-1])
