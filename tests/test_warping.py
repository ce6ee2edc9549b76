"""`warp` compared with scipy.ndimage, for every kind of transform and array."""

from __future__ import annotations

import gc
import pickle
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from scipy import ndimage as ndi

import daskreg as dr
from daskreg.errors import (
    EmptyOutputError,
    GridError,
    InvalidTransformError,
    OptionError,
    ShapeMismatchError,
    UnitError,
    UnsupportedDTypeError,
)
from daskreg.sources.registry import recall

SHAPE = (11, 37, 52)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    rng = np.random.default_rng(1)
    return ndi.gaussian_filter(rng.normal(size=SHAPE), 1).astype(np.float32)


def drift(n: int, seed: int = 0) -> dr.SliceAffines:
    rng = np.random.default_rng(seed)
    maps = [
        dr.Affine.from_parameters(theta=t, tx=x, ty=y, centre=(18, 25)).matrix
        for t, x, y in zip(rng.normal(0, 0.1, n), rng.normal(0, 4, n), rng.normal(0, 4, n), strict=True)
    ]
    return dr.SliceAffines(np.stack(maps))


def by_scipy(image: np.ndarray, matrix: np.ndarray, order: int = 1, fill: float = 0, shape=None) -> np.ndarray:
    n = image.ndim
    return ndi.affine_transform(
        image.astype(np.float64),
        matrix[:n, :n],
        matrix[:n, n],
        output_shape=shape,
        order=order,
        mode="grid-constant",
        cval=fill,
    )


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_volume_through_an_affine_map(volume: np.ndarray, order: int) -> None:
    t = dr.Affine.from_parameters(rx=0.2, ry=-0.1, rz=0.3, tx=2.5, shxy=0.1, sz=1.1, centre=(5, 18, 25))
    got = dr.warp(volume, pull=t, order=order, fill=0.25)
    assert got.dtype == volume.dtype
    np.testing.assert_allclose(got, by_scipy(volume, t.matrix, order, 0.25), atol=2e-5)


def test_push_is_pull_of_the_inverse_and_moves_content_that_way() -> None:
    image = np.zeros((20, 30), np.float32)
    image[5, 7] = 1
    moved = dr.warp(image, push=dr.Affine.translation(x=10, y=3))
    assert np.argwhere(moved).tolist() == [[8, 17]]
    t = dr.Affine.from_parameters(theta=0.3, tx=4, sx=1.2, centre=(10, 15))
    np.testing.assert_array_equal(dr.warp(image, push=t), dr.warp(image, pull=t.inverse()))


def test_positive_theta_pushes_x_towards_y() -> None:
    image = np.zeros((41, 41), np.float32)
    image[20, 35] = 1  # on the +x axis of the centre
    turned = dr.warp(image, push=dr.Affine.rotation(np.pi / 2, centre=(20, 20)))
    assert np.unravel_index(turned.argmax(), turned.shape) == (35, 20)  # on its +y axis


def test_each_slice_by_its_own_map(volume: np.ndarray) -> None:
    t = drift(len(volume))
    expected = np.stack([by_scipy(volume[i], t.matrices[i]) for i in range(len(volume))])
    np.testing.assert_allclose(dr.warp(volume, pull=t), expected, atol=1e-5)


@pytest.mark.parametrize("axis", [1, 2])
def test_slices_along_any_axis(volume: np.ndarray, axis: int) -> None:
    n = volume.shape[axis]
    maps = np.stack([dr.Affine.from_parameters(theta=0.02 * i, tx=0.3 * i).matrix for i in range(n)])
    got = dr.warp(volume, pull=dr.SliceAffines(maps, axis=axis))
    for i in range(n):
        expected = by_scipy(volume.take(i, axis), maps[i])
        np.testing.assert_allclose(got.take(i, axis), expected, atol=1e-5)


def test_a_2d_map_on_a_volume_warps_every_slice(volume: np.ndarray) -> None:
    t = dr.Affine.from_parameters(theta=0.2, tx=3, ty=1.5, shx=0.1)
    expected = np.stack([by_scipy(s, t.matrix) for s in volume])
    np.testing.assert_allclose(dr.warp(volume, pull=t), expected, atol=1e-5)


def test_channels_and_times_are_all_warped() -> None:
    rng = np.random.default_rng(2)
    data = rng.random((3, 2, 9, 20, 25)).astype(np.float32)
    array = xr.DataArray(data, dims=("t", "c", "z", "y", "x"))
    t = dr.Affine.from_parameters(rz=0.2, ry=0.1, tx=1)
    got = dr.warp(array, pull=t)
    assert got.dims == array.dims
    for index in np.ndindex(3, 2):
        np.testing.assert_allclose(got.values[index], by_scipy(data[index], t.matrix), atol=1e-5)
    series = dr.SliceAffines(np.stack([dr.Affine.translation(z=i, y=0.5 * i).matrix for i in range(3)]), axis="t")
    got = dr.warp(array, pull=series)
    for i, c in np.ndindex(3, 2):
        np.testing.assert_allclose(got.values[i, c], by_scipy(data[i, c], series.matrices[i]), atol=1e-5)


@pytest.mark.parametrize("lazy", [False, True])
def test_axes_of_bare_arrays_come_back_in_their_order(lazy: bool) -> None:
    """Times and channels come first, in colour last."""
    data = np.random.default_rng(4).random((3, 5, 17, 21)).astype(np.float32)
    shift = dr.Affine.from_parameters(theta=0.1, tx=1.5)
    slices = dr.SliceAffines(np.stack([dr.Affine.translation(y=0.5 * i, x=0).matrix for i in range(5)]))

    def warped(array: np.ndarray, pull: Any) -> np.ndarray:
        got = dr.warp(da.from_array(array) if lazy else array, pull=pull)
        assert isinstance(got, da.Array if lazy else np.ndarray)
        assert got.shape == array.shape
        return np.asarray(got)

    for pull in (dr.Affine.translation(z=1.25, y=0, x=2), slices, shift):
        expected = np.stack([dr.warp(one, pull=pull) for one in data])
        np.testing.assert_array_equal(warped(data, pull), expected)
        if pull is not shift:  # colours of a volume
            np.testing.assert_array_equal(warped(np.moveaxis(data, 0, -1), pull), np.moveaxis(expected, 0, -1))
    colours = data[:, 0].transpose(1, 2, 0)
    np.testing.assert_array_equal(warped(colours, shift)[..., 1], dr.warp(data[1, 0], pull=shift))


def test_spacing_and_origin_are_the_worlds(volume: np.ndarray) -> None:
    source = dr.Grid(SHAPE, spacing=(3.0, 0.5, 0.7), origin=(10, -4, 2), unit="um")
    out = dr.Grid((8, 30, 33), spacing=(3.5, 0.6, 0.9), origin=(11, -2, 3), unit="um")
    t = dr.Affine.from_parameters(rz=0.3, rx=0.1, tx=1.5, ty=-0.5, centre=source.centre, unit="um")
    array = _labelled(volume, source)
    got = dr.warp(array, pull=t, grid=out)
    matrix = np.linalg.inv(source.matrix) @ t.matrix @ out.matrix
    np.testing.assert_allclose(got.values, by_scipy(volume, matrix, shape=out.shape), atol=1e-5)
    assert dr.grid(got).same(out)
    assert got.x.attrs["units"] == "micrometer"
    assert dr.grid(dr.warp(array, pull=t, like=got)).same(out)


def test_a_list_is_composed_into_one_interpolation(volume: np.ndarray) -> None:
    a = dr.Affine.from_parameters(theta=0.2, tx=1)
    b = drift(len(volume))
    np.testing.assert_array_equal(dr.warp(volume, pull=[b, a]), dr.warp(volume, pull=b @ a))
    np.testing.assert_array_equal(dr.warp(volume, push=[b, a]), dr.warp(volume, pull=(b @ a).inverse()))


def test_union_keeps_all_and_intersection_has_no_fill() -> None:
    stack = np.ones((5, 30, 40), np.float32)
    t = dr.SliceAffines(np.stack([dr.Affine.translation(x=3 * i, y=-2 * i).matrix for i in range(5)]))
    union = dr.warp(xr.DataArray(stack, dims=("z", "y", "x")), pull=t, grid="union")
    assert union.shape == (5, 38, 52)
    np.testing.assert_allclose(union.sum(("y", "x")).values, 1200)
    inner = dr.warp(xr.DataArray(stack, dims=("z", "y", "x")), pull=t, grid="intersection")
    assert inner.shape == (5, 22, 28)
    assert inner.values.min() == 1
    turned = dr.Affine.rotation(0.1, centre=(14.5, 19.5))
    assert dr.warp(xr.DataArray(stack, dims=("z", "y", "x")), pull=turned, grid="intersection").values.min() > 1 - 1e-6


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float64"])
def test_types_are_kept_and_casts_are_clamped(dtype: str) -> None:
    rng = np.random.default_rng(3)
    image = (rng.random((30, 41)) * 200).astype(dtype)
    t = dr.Affine.from_parameters(theta=0.3, tx=1.5, centre=(15, 20))
    got = dr.warp(image, pull=t)
    assert got.dtype == image.dtype
    assert np.abs(got.astype(float) - by_scipy(image, t.matrix)).max() <= (0.5 + 1e-4 if dtype != "float64" else 1e-9)


def test_output_dtype() -> None:
    image = np.array([[0, 300, 70000.0, np.nan, -5]] * 3, np.float32)
    with np.errstate(invalid="raise"):
        got = dr.warp(image, pull=dr.Affine.identity(2), dtype="uint16")
    assert got[0].tolist() == [0, 300, 65535, 0, 0]
    counts = np.arange(12, dtype=np.uint8).reshape(3, 4)
    as_float = dr.warp(counts, pull=dr.Affine.translation(x=0.5), dtype="float32")
    assert as_float[0, 0] == 0.5


def test_bool_is_a_label() -> None:
    mask = np.zeros((20, 20), bool)
    mask[5:9, 5:9] = True
    got = dr.warp(mask, push=dr.Affine.translation(x=2.4))
    assert got.dtype == bool
    assert np.argwhere(got).min(axis=0).tolist() == [5, 7]


@pytest.mark.slow
def test_lazy_previews_read_one_slice_and_any_chunking_is_the_same(tmp_path, volume: np.ndarray) -> None:
    stored = zarr.create_array(tmp_path / "v.zarr", shape=SHAPE, chunks=(3, 16, 16), dtype="f4")
    stored[:] = volume
    t = drift(len(volume))
    opened = dr.open(tmp_path / "v.zarr")
    whole = dr.warp(volume, pull=t)
    for chunks in ("auto", 7, (2, 37, 5), (11, 37, 52)):
        lazy = dr.warp(opened, pull=t, chunks=chunks)
        assert isinstance(lazy.data, da.Array)
        np.testing.assert_array_equal(lazy.values, whole)
    np.testing.assert_array_equal(dr.warp(opened, pull=t)[4].values, whole[4])
    # A lazy array that is the result of arithmetic is read through its graph, with the same values.
    np.testing.assert_array_equal(dr.warp(opened * 1.0, pull=t).values, whole)
    np.testing.assert_array_equal(dr.warp(opened[2:9], pull=_some(t, 2, 9)).values, whole[2:9])


def test_a_million_blocks_are_one_small_layer() -> None:
    big = da.zeros((1000, 100_000, 100_000), chunks=(10, 1000, 1000), dtype=np.uint8)
    lazy = dr.warp(big, pull=dr.Affine.translation(x=0.5), chunks=(10, 1000, 1000))
    assert lazy.npartitions == 1_000_000
    assert len(lazy.dask.layers) == 1
    assert len(pickle.dumps(recall(lazy.name).mapping)) < 10_000


@pytest.mark.slow
def test_the_registry_forgets_with_the_graph(volume: np.ndarray) -> None:
    lazy = dr.warp(xr.DataArray(volume, dims=("z", "y", "x")), pull=drift(len(volume)))
    name = lazy.data.name
    gc.collect()
    assert recall(name) is not None
    assert recall((lazy + 1).data.name) is None
    del lazy
    gc.collect()
    assert recall(name) is None


def test_names_differ_by_every_argument(volume: np.ndarray) -> None:
    array = xr.DataArray(volume, dims=("z", "y", "x"))
    t = drift(len(volume))
    options = [{}, {"order": 0}, {"order": 3}, {"fill": 1}, {"dtype": "uint8"}, {"grid": dr.Grid((11, 30, 30))}]
    names = {dr.warp(array, pull=t, **o).data.name for o in options}
    names.add(dr.warp(array, pull=t.inverse()).data.name)
    names.add(dr.warp(array + 1, pull=t).data.name)
    assert len(names) == len(options) + 2


def test_tensors_in_tensors_out_with_gradients(volume: np.ndarray) -> None:
    import torch

    t = drift(len(volume))
    tensor = torch.from_numpy(volume).clone().requires_grad_(True)
    got = dr.warp(tensor, pull=t)
    np.testing.assert_allclose(got.detach().numpy(), dr.warp(volume, pull=t), atol=1e-4)
    got.sum().backward()
    assert tensor.grad is not None
    assert 0.5 < float(tensor.grad.mean()) <= 1.01


def test_a_series_of_volumes_in_a_tensor(volume: np.ndarray) -> None:
    import torch

    data = np.stack([volume, volume[::-1], 2 * volume])
    series = dr.SliceAffines(np.stack([dr.Affine.translation(z=i, y=0.5 * i).matrix for i in range(3)]))
    expected = dr.warp(xr.DataArray(data, dims=("t", "z", "y", "x")), pull=series)
    np.testing.assert_array_equal(dr.warp(torch.from_numpy(data), pull=series).numpy(), expected.values)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, OptionError, "exactly one"),
        ({"pull": np.eye(3), "push": np.eye(3)}, OptionError, "exactly one"),
        ({"pull": np.zeros((3, 3))}, InvalidTransformError, "singular|last row"),
        ({"pull": np.full((3, 3), np.nan)}, InvalidTransformError, "NaN"),
        ({"pull": np.eye(5)}, InvalidTransformError, "4D transform"),
        ({"pull": np.ones((2, 7))}, InvalidTransformError, r"\(D\+1, D\+1\)"),
        ({"pull": drift(7)}, ShapeMismatchError, "7 slices"),
        ({"pull": np.eye(3), "order": 2}, OptionError, "order=2"),
        ({"pull": np.eye(3), "dtype": complex}, UnsupportedDTypeError, "complex"),
        ({"pull": np.eye(3), "device": "tpu"}, OptionError, "device='tpu'"),
        ({"pull": np.eye(3), "grid": "all"}, OptionError, "grid='all'"),
        ({"pull": []}, OptionError, "empty list"),
        ({"pull": dr.Affine.translation(x=1000)}, EmptyOutputError, "pull or push"),
    ],
)
def test_bad_arguments_are_named(volume: np.ndarray, options: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        dr.warp(volume, **options)


def test_an_empty_output_can_be_allowed(volume: np.ndarray) -> None:
    got = dr.warp(volume, pull=dr.Affine.translation(x=1000), allow_empty=True, fill=7)
    assert (got == 7).all()


def test_mixed_units_and_moved_slices_are_errors(volume: np.ndarray) -> None:
    array = _labelled(volume, dr.Grid(SHAPE, spacing=2, unit="um"))
    with pytest.raises(UnitError, match="millimeter"):
        dr.warp(array, pull=dr.Affine.translation(x=1, unit="mm"))
    between = dr.Grid((5, 37, 52), spacing=2, origin=(1, 0, 0), unit="um")
    with pytest.raises(GridError, match="axis z"):
        dr.warp(array, pull=drift(11), grid=between)


@pytest.mark.parametrize("value", [np.zeros((3, 4), complex), np.array([["a", "b"]]), np.zeros((2, 2), object)])
def test_what_is_no_image_is_refused(value: np.ndarray) -> None:
    with pytest.raises(UnsupportedDTypeError):
        dr.warp(value, pull=np.eye(3))


def _labelled(data: np.ndarray, grid: dr.Grid) -> xr.DataArray:
    from daskreg.volumes import to_dataarray

    return to_dataarray(data, grid)


def _some(t: dr.SliceAffines, start: int, stop: int) -> dr.SliceAffines:
    return dr.SliceAffines(t.matrices[start:stop], t.axis)
