"""Zarr as xarray writes it: coordinates become the grid; encoded values are decoded."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

from daskreg.errors import GridError, NotAVolumeError, PixelUnitWarning, UnitError
from daskreg.geometry import Box, Grid
from daskreg.volumes import grid, volume_of
from daskreg.volumes import open as open_volume

VALUES = np.random.default_rng(0).integers(0, 1000, (4, 6, 7)).astype("u2")
WHERE = Grid((4, 6, 7), (2, 0.5, 0.25), (10, 5, 0), np.diag([1, -1, 1]), "um")


def axis(dim, values, unit="um"):
    return (dim, values, {"units": unit} if unit else {})


def array(values=VALUES, **coords):
    given = {
        "z": axis("z", 10 + 2.0 * np.arange(4)),
        "y": axis("y", 5 - 0.5 * np.arange(6)),
        "x": axis("x", 0.25 * np.arange(7), "µm"),
    }
    return xr.DataArray(values, dims=("z", "y", "x"), coords=given | coords, name="img", attrs={"long_name": "it"})


def save(value, path, zarr_format=3, **options):
    with warnings.catch_warnings():
        # v3 has no consolidated metadata in its specification, and xarray writes it all the same.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        value.to_zarr(path, zarr_format=zarr_format, **options)
    return path


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("inner", ["", "img"])
def test_coordinates_become_the_grid(tmp_path, zarr_format, consolidated, inner):
    save(array(), tmp_path / "a.zarr", zarr_format, consolidated=consolidated)
    volume = open_volume(tmp_path / "a.zarr" / inner)
    assert grid(volume) == WHERE
    assert (volume.name, volume.attrs) == ("img", {"long_name": "it"})
    np.testing.assert_array_equal(volume.values, VALUES)
    assert volume_of(volume).source.kind == "zarr"
    assert volume_of(volume).source.location == str(tmp_path / "a.zarr" / "img")


def test_a_volume_written_by_xarray_comes_back(tmp_path):
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    from daskreg.volumes import to_dataarray

    where = Grid((4, 6, 7), (2, 0.5, 0.25), (10, 5, 0), turn, "mm")
    volume = to_dataarray(VALUES, where, name="v")
    back = open_volume(save(volume, tmp_path / "a.zarr"))
    assert grid(back).same(where)
    one = open_volume(save(volume[:, 2:3], tmp_path / "b.zarr"))
    assert grid(one).same(where.crop(Box((0, 2, 0), (4, 3, 7))))


def test_dims_in_another_order_are_put_right(tmp_path):
    values = np.stack([VALUES, VALUES + 1])
    cube = array().expand_dims(channel=["a", "b"]).copy(data=values).transpose("x", "channel", "z", "y")
    volume = open_volume(save(cube, tmp_path / "a.zarr"))
    assert volume.dims == ("channel", "z", "y", "x")
    assert grid(volume) == WHERE
    np.testing.assert_array_equal(volume.values, values)
    source = volume_of(volume).source
    assert source.kind == "zarr"
    box = Box((1, 1, 2, 3), (2, 3, 5, 7))
    np.testing.assert_array_equal(source.read(box), values[box.slices])


def test_one_variable_among_coordinates_and_scalars(tmp_path):
    scene = array().to_dataset()
    scene["crs"] = xr.DataArray(0)
    scene["when"] = ("z", np.arange(4.0))
    scene = scene.assign_coords(depth=("z", np.arange(4.0)))
    volume = open_volume(save(scene, tmp_path / "a.zarr"))
    assert volume.name == "img"


def test_several_variables_are_named(tmp_path):
    scene = xr.Dataset({"a": array(), "b": array() + 1})
    save(scene, tmp_path / "a.zarr")
    with pytest.raises(NotAVolumeError, match=r"holds the arrays a, b: name one, such as .*a\.zarr/a"):
        open_volume(tmp_path / "a.zarr")
    with pytest.raises(NotAVolumeError, match="the variables 'a', 'b'"):
        open_volume(scene)
    np.testing.assert_array_equal(open_volume(tmp_path / "a.zarr" / "b").values, VALUES + 1)
    assert grid(open_volume(tmp_path / "a.zarr" / "b")) == WHERE


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_packed_values_are_decoded(tmp_path, zarr_format):
    packed = array(VALUES.astype("f4"))
    packed.encoding = {"scale_factor": 0.5, "add_offset": 3.0, "dtype": "int16", "_FillValue": -1}
    volume = open_volume(save(packed, tmp_path / "a.zarr", zarr_format))
    np.testing.assert_allclose(volume.values, VALUES)
    assert grid(volume) == WHERE
    assert volume_of(volume).source.kind == "dask"
    assert "scale_factor" not in volume.attrs


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_missing_values_are_nan(tmp_path, zarr_format):
    holes = array(np.where(VALUES > 500, np.nan, VALUES).astype("f4"))
    plain = open_volume(save(holes, tmp_path / "a.zarr", zarr_format))
    np.testing.assert_array_equal(plain.values, holes.values)
    assert volume_of(plain).source.kind == "zarr"
    holes.encoding = {"_FillValue": -9999.0}
    coded = open_volume(save(holes, tmp_path / "b.zarr", zarr_format))
    np.testing.assert_array_equal(coded.values, holes.values)
    assert np.isnan(coded.values).any()


def test_irregular_coordinates_and_mixed_units(tmp_path):
    path = save(array(y=axis("y", [0, 1, 2, 4, 5, 6.0])), tmp_path / "a.zarr")
    with pytest.raises(GridError, match="axis y .* from index 2 to 3"):
        open_volume(path)
    assert grid(open_volume(path, spacing=1, unit="mm")) == Grid((4, 6, 7), 1, (5, 0, 0), unit="mm")
    path = save(array(z=axis("z", np.arange(4.0), "mm")), tmp_path / "b.zarr")
    converted = open_volume(path)
    assert (grid(converted).spacing, grid(converted).unit) == ((1000, 0.5, 0.25), "micrometer")
    np.testing.assert_array_equal(converted.z, [0, 1000, 2000, 3000])
    assert grid(open_volume(path, unit="nm")).spacing[0] == 1
    path = save(array(z=axis("z", np.arange(4.0), "degree")), tmp_path / "d.zarr")
    with pytest.raises(UnitError, match="degree and micrometer"):
        open_volume(path)
    path = save(array().drop_vars("z"), tmp_path / "c.zarr")
    with pytest.warns(PixelUnitWarning):
        assert grid(open_volume(path)).spacing == (1, 0.5, 0.25)


def test_a_group_with_one_array_and_groups_without(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_group("deep").create_array("only", data=VALUES, chunks=(2, 3, 4))
    with pytest.raises(NotAVolumeError, match=r"without an array; it holds the groups deep.*a\.zarr/deep"):
        open_volume(tmp_path / "a.zarr")
    volume = open_volume(tmp_path / "a.zarr" / "deep")
    assert volume.name == "only"
    np.testing.assert_array_equal(volume.values, VALUES)
    assert grid(volume) == Grid(VALUES.shape)
    np.testing.assert_array_equal(open_volume(zarr.open_group(tmp_path / "a.zarr" / "deep")).values, VALUES)
