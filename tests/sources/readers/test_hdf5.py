"""HDF5 and NeXus: datasets by path or by default, axes by name, links between files."""

from __future__ import annotations

import gc
import json
import sys

import numpy as np
import pytest
import xarray as xr
from reading import boxes_agree

import daskreg as dr
from daskreg.errors import ChunkReadError, MissingExtraError, NotAVolumeError, PixelUnitWarning
from daskreg.geometry import Grid
from daskreg.sources import handles
from daskreg.volumes import grid, volume_of

h5py = pytest.importorskip("h5py")
RNG = np.random.default_rng(3)
VALUES = RNG.integers(0, 999, (5, 6, 7)).astype("u2")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


@pytest.mark.parametrize("options", [{}, {"chunks": (2, 3, 4)}, {"chunks": (1, 6, 7), "compression": "gzip"}])
def test_a_dataset_by_its_path(path, options):
    with h5py.File(path, "w") as file:
        file.create_dataset("raw/volume", data=VALUES, **options)
        file["other"] = VALUES[0]
    volume = dr.open(f"{path}::/raw/volume")
    assert (volume.dims, volume.dtype, volume.name) == (("z", "y", "x"), np.uint16, "volume")
    source = volume_of(volume).source
    assert source.chunks == options.get("chunks", (1, 6, 7))
    assert source.location == str(path)
    boxes_agree(volume, VALUES)


def test_the_only_image_needs_no_path(path):
    with h5py.File(path, "w") as file:
        file["a/b"] = VALUES
        file["a/again"] = h5py.SoftLink("/a/b")
        file["a/angles"] = np.arange(5.0)
        file["a/title"] = "nothing"
        file["a/gone"] = h5py.ExternalLink("gone.h5", "/x")
    boxes_agree(dr.open(path), VALUES)
    handles.forget()  # HDF5 does not write to a file that this process reads
    with h5py.File(path, "a") as file:
        file["c"] = VALUES
    with pytest.raises(NotAVolumeError, match=r"the images a/again, c; name one, such as .*a\.h5::/a/again"):
        dr.open(path)
    with pytest.raises(NotAVolumeError, match="holds nothing at 'd'.*a/again"):
        dr.open(f"{path}::/d")
    with pytest.raises(NotAVolumeError, match=r"::/a is a group"):
        dr.open(f"{path}::/a")


def test_the_default_of_nexus(path):
    with h5py.File(path, "w") as file:
        file["noise"] = VALUES
        file.attrs["default"] = "entry"
        entry = file.create_group("entry")
        entry.attrs["default"] = np.bytes_("data")
        data = entry.create_group("data")
        data.attrs["signal"] = np.bytes_("counts")
        data["counts"] = VALUES + 1
        data.attrs["axes"] = ["angle", "y", "x"]
        data["angle"] = np.linspace(0, 180, 5)
        data["angle"].attrs["units"] = "degrees"
        for k, name in enumerate("yx"):
            data[name] = 10 * k + 0.5 * np.arange(6 + k)
            data[name].attrs["units"] = "um"
    with pytest.warns(PixelUnitWarning, match="pixels are taken as micrometer"):
        volume = dr.open(path)
    boxes_agree(volume, VALUES + 1)
    assert grid(dr.open(path, unit="um")) == Grid((5, 6, 7), (1, 0.5, 0.5), (0, 0, 10), unit="um")
    np.testing.assert_array_equal(dr.open(f"{path}::/entry/data", unit="um").values, volume.values)


def test_netcdf_as_xarray_writes_it(tmp_path):
    """Dimension scales are coordinates; other axes than z, y, x lead."""
    coords = {"z": np.arange(5) * 2.0, "y": 3 - 0.5 * np.arange(6), "x": np.arange(7) * 0.25 + 1}
    array = xr.DataArray(np.stack([VALUES, VALUES + 1]), dims=("time", "z", "y", "x"), coords=coords, name="v")
    for name in coords:
        array[name].attrs["units"] = "mm"
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["v"] = array.values
        for k, name in enumerate(array.dims):
            file[name] = array[name].values if name in coords else np.arange(2.0)
            file[name].make_scale(name)
            file["v"].dims[k].attach_scale(file[name])
            if name in coords:
                file[name].attrs["units"] = "mm"
    volume = dr.open(f"{path}::/v")
    assert volume.dims == ("time", "z", "y", "x")
    assert grid(volume) == grid(array)
    boxes_agree(volume, array.values)
    boxes_agree(dr.open(f"{path}::/v", time=1), VALUES + 1)


def test_packed_and_missing_values_of_netcdf(path):
    with h5py.File(path, "w") as file:
        file["v"] = VALUES
        file["v"].attrs.update({"scale_factor": 0.5, "add_offset": -10.0, "_FillValue": VALUES[0, 0, 0]})
        file["plain"] = VALUES.astype("f4")
        file["plain"].attrs["_FillValue"] = np.float32("nan")
    volume = dr.open(f"{path}::/v")
    assert volume.dtype == np.float32
    expected = np.where(VALUES[0, 0, 0] == VALUES, np.nan, VALUES * 0.5 - 10)
    boxes_agree(volume, expected)
    np.testing.assert_array_equal(dr.open(f"{path}::/plain").values, VALUES)


def test_sizes_of_ilastik(path):
    with h5py.File(path, "w") as file:
        file["v"] = VALUES
        file["v"].attrs["element_size_um"] = (3.0, 2.0, 1.0)
    assert grid(dr.open(path)) == Grid((5, 6, 7), (3, 2, 1), unit="um")
    assert grid(dr.open(path, spacing=4)).spacing == (4, 4, 4)


@pytest.mark.parametrize(
    ("keys", "shape", "sizes"),
    [
        ("zyxc", (5, 6, 7, 2), {"c": 2, "z": 5, "y": 6, "x": 7}),
        ("xyz", (7, 6, 5), {"z": 5, "y": 6, "x": 7}),
        ("yxc", (6, 7, 3), {"c": 3, "y": 6, "x": 7}),
        ("tyxc", (4, 6, 7, 1), {"t": 4, "c": 1, "y": 6, "x": 7}),
        ("zyx", (4, 6, 7, 1), {"c": 4, "z": 6, "y": 7, "x": 1}),  # of another array: not used
        ("zz", (6, 7), {"y": 6, "x": 7}),
    ],
)
def test_axistags_of_ilastik(path, keys, shape, sizes):
    values = RNG.integers(0, 99, shape).astype("u1")
    tags = {"axes": [{"key": k, "typeFlags": 2, "resolution": 0, "description": ""} for k in keys]}
    with h5py.File(path, "w") as file:
        file.create_dataset("exported_data", data=values).attrs["axistags"] = json.dumps(tags)
    volume = dr.open(path)
    assert dict(volume.sizes) == sizes
    if len(keys) == len(shape) == len(set(keys)):
        np.testing.assert_array_equal(volume.transpose(*keys), values)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"axes": 3}', '{"axes": [1, 2, 3]}', "[" * 100_000])
def test_axistags_that_say_nothing(path, text):
    with h5py.File(path, "w") as file:
        file["a"] = VALUES
        file["a"].attrs["axistags"] = text[:60_000]
    assert dr.open(path).dims == ("z", "y", "x")


@pytest.mark.slow
def test_a_file_that_is_open_already(path):
    with h5py.File(path, "w") as file:
        file["v"] = VALUES
    for locking in (None, False, True):
        with h5py.File(path, "r", locking=locking):
            boxes_agree(dr.open(path), VALUES)
        handles.forget()
        gc.collect()  # HDF5 keeps a file's flags until the last handle is gone


def test_mixed_units_are_converted(path):
    with h5py.File(path, "w") as file:
        file["v"] = VALUES[0]
        for k, (name, unit) in enumerate([("y", "mm"), ("x", "um")]):
            file[name] = np.arange(6.0 + k)
            file[name].attrs["units"] = unit
            file["v"].dims[k].attach_scale(file[name])
    assert grid(dr.open(f"{path}::/v")) == Grid((6, 7), (1000, 1), unit="um")


def test_a_file_of_netcdf_3_is_named_as_such(tmp_path):
    (tmp_path / "a.nc").write_bytes(b"CDF\x01" + bytes(60))
    with pytest.raises(NotAVolumeError, match=r"a\.nc is netCDF 3, .*xarray\.open_dataset\("):
        dr.open(tmp_path / "a.nc")


def test_what_cannot_be_read(path, monkeypatch):
    path.write_bytes(b"not HDF5 at all")
    with pytest.raises(NotAVolumeError, match=r"a\.h5 cannot be read as HDF5"):
        dr.open(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("v", data=VALUES, chunks=(1, 6, 7), compression="gzip")
        offset = file["v"].id.get_chunk_info(3).byte_offset
    volume = dr.open(path)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * 30)
    handles.forget()
    with pytest.raises(ChunkReadError, match=r"cannot read \[0:5, 0:6, 0:7\] of .*a\.h5::/v: [^;]*$"):
        volume.values  # noqa: B018
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match="h5py is not installed"):
        dr.open(path)


def test_real_projections(data):
    path = data / "tomography/tooth/tooth.h5"
    volume = dr.open(f"{path}::/exchange/data")
    with h5py.File(path) as file:
        boxes_agree(volume, file["exchange/data"][()])
    assert grid(volume) == Grid((181, 2, 640))


def test_links_to_other_files(data):
    folder = data / "tomography/k11/k11_diad"
    linked = dr.open(f"{folder / 'k11-18014.nxs'}::/entry/imaging")
    direct = dr.open(folder / "k11-18014/k11-18014-imaging.h5")
    assert linked.shape == direct.shape == (3201, 22, 26)
    np.testing.assert_array_equal(linked[1000:1010].values, direct[1000:1010].values)
    # Its default data leads nowhere; every other image is one and the same dataset.
    assert volume_of(dr.open(folder / "k11-18014.nxs")).source.path.endswith("k11-18014.nxs::/entry/imaging/data")
