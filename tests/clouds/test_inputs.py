"""The inputs of `icp`: landmarks of images, and Dask arrays that are never in memory as a whole."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import daskreg as dr
from daskreg.clouds import inputs as module
from daskreg.clouds.inputs import as_points
from daskreg.errors import DaskregWarning, DegenerateImageError, OptionError, ShapeMismatchError

Floats = NDArray[np.float64]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def balls(shape: tuple[int, ...], centres: Floats, sigma: float, spacing: Floats) -> Floats:
    """Gaussian blobs in an image whose voxels are `spacing` apart."""
    grid = np.moveaxis(np.indices(shape), 0, -1) * spacing
    return sum(np.exp(-np.sum((grid - m) ** 2, axis=-1) / (2 * sigma**2)) for m in centres)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_surface_lies_between_voxels(ndim: int) -> None:
    shape, spacing = (40, 44, 36)[:ndim], np.array([2.0, 1.0, 1.5])[:ndim]
    middle = (np.array(shape) - 1) * spacing / 2 + 0.3
    radius = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) * spacing - middle, axis=-1)
    volume = dr.open((12 - radius).astype(np.float32), spacing=tuple(spacing), unit="um")
    points = dr.points_from(volume, threshold=0.0)
    assert points.shape[1] == ndim
    np.testing.assert_allclose(np.linalg.norm(points - middle, axis=1), 12, atol=0.15)
    np.testing.assert_allclose(points.mean(axis=0), middle, atol=0.2)


@pytest.mark.parametrize("ndim", [2, 3])
def test_blobs_are_found_to_a_tenth_of_a_voxel(ndim: int) -> None:
    spacing = np.array([2.0, 1.0, 1.0])[3 - ndim :]
    centres = np.array([[20.3, 15.2, 12.7], [30.1, 30.4, 28.2], [41.6, 12.3, 30.9]])[:, 3 - ndim :]
    image = balls((32, 45, 43)[3 - ndim :], centres, 3.0, spacing)
    found = dr.points_from(dr.open(image.astype(np.float32), spacing=tuple(spacing), unit="um"), log=3.0)
    assert len(found) == 3
    gaps = np.linalg.norm(found[:, None] - centres[None], axis=-1).min(axis=0)
    assert gaps.max() < 0.1


def test_an_image_without_such_points_is_an_error() -> None:
    image = rng().random((20, 30)).astype(np.float32)
    with pytest.raises(DegenerateImageError, match="crosses 5"):
        dr.points_from(image, threshold=5)
    for options in ({}, {"threshold": 0.5, "log": 2.0}, {"log": 0.0}, {"log": -1.0}):
        with pytest.raises(OptionError):
            dr.points_from(image, **options)


@pytest.mark.slow
@pytest.mark.parametrize("angle", [40.0, 160.0])
def test_points_give_the_initial_transform_of_a_registration(angle: float) -> None:
    scene = gaussian_filter(rng(3).random((96, 120)) > 0.97, 4.0, output=np.float32)
    scene /= scene.max()
    scene[:20] = scene[-20:] = scene[:, :25] = scene[:, -25:] = 0
    motion = dr.Affine.from_parameters(theta=np.radians(angle), tx=4, ty=-3, centre=(47.5, 59.5))
    moving = dr.warp(scene, push=motion)
    start = dr.icp(dr.points_from(scene, threshold=0.3), dr.points_from(moving, threshold=0.3), init="global")
    corners = np.array([(20.0, 25), (20, 95), (75, 25), (75, 95)])
    # The fit maps the moving image's points onto the fixed image's, `register` the other way.
    assert np.abs(start.target_from_source(motion(corners)) - corners).max() < 1.5
    fit = dr.register(scene, moving, model="rigid", init=start)
    assert np.abs(fit.moving_from_fixed(corners) - motion(corners)).max() < 0.1


@pytest.mark.slow
def test_a_dask_array_is_downsampled_out_of_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_POINTS", 2000)
    points = rng().normal(size=(20_000, 3)) * [1, 2, 3]
    points[7] = np.nan
    found = []
    for chunks in ((20_000, 3), (3000, 3), (777, 2)):
        with pytest.warns(DaskregWarning, match="1 of 20000 points of the target"):
            found.append(as_points(da.from_array(points, chunks=chunks), "target"))
    assert 200 < len(found[0]) <= 2000
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0])
    finite = np.delete(points, 7, axis=0)
    cell = np.max(np.ptp(finite, axis=0)) * 2.0**-12
    # Cubes twice and twice as large, until few enough are occupied: the means are of those cubes.
    low = finite.min(axis=0)
    while len(rows := np.unique(np.floor((finite - low) / cell), axis=0)) > 2000:
        cell *= 2
    assert len(found[0]) == len(rows)
    np.testing.assert_allclose(np.unique(np.floor((found[0] - low) / cell), axis=0), rows)


def test_few_points_of_a_dask_array_are_taken_as_they_are() -> None:
    points = rng().random((100, 2))
    np.testing.assert_array_equal(as_points(da.from_array(points, chunks=30), "target"), points)
    with pytest.raises(ShapeMismatchError, match="target"):
        as_points(da.zeros((5, 4)), "target")


def test_masked_rows_are_dropped() -> None:
    points = np.ma.masked_array(rng().random((50, 3)), mask=False)
    points[7, 1] = points[9, 0] = np.ma.masked
    with pytest.warns(DaskregWarning, match="2 of 50 points of the source"):
        np.testing.assert_array_equal(as_points(points, "source"), np.delete(points.data, [7, 9], axis=0))


def test_a_data_array_of_blocks_is_downsampled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_POINTS", 2000)
    points = da.from_array(rng().normal(size=(20_000, 3)), chunks=(3000, 3))
    np.testing.assert_array_equal(as_points(xr.DataArray(points), "target"), as_points(points, "target"))


@pytest.mark.slow
def test_a_cluster_registers_what_one_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_POINTS", 4000)
    sphere = rng().normal(size=(30_000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    bumpy = sphere * (1 + 0.2 * np.sin(3 * sphere[:, :1]) + 0.15 * np.cos(4 * sphere[:, 1:2] + 1)) * [1, 0.8, 0.6]
    motion = dr.Affine.rotation(rx=0.5, ry=2.0, rz=-0.4) @ dr.Affine.translation(x=3, y=1, z=-2)
    target, source = (da.from_array(p, chunks=(7000, 3)) for p in (bumpy[::2], motion.inverse()(bumpy[1::2])))
    alone = dr.icp(target, source)
    with Client(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"):
        fit = dr.icp(target, source)
    assert fit.ok
    np.testing.assert_allclose(fit.target_from_source.matrix, alone.target_from_source.matrix, atol=1e-6)
    moved = fit.target_from_source(source)
    assert isinstance(moved, da.Array)
    np.testing.assert_allclose(moved.compute(), fit.target_from_source(source.compute()))
    np.testing.assert_allclose(moved.compute(), bumpy[1::2], atol=0.02)
