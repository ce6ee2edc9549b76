"""`open`, `grid`, `volume_of`: any source becomes a lazy volume, and leads back to its voxels."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import time

import dask
import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from zarr.storage import LocalStore, MemoryStore, WrapperStore, ZipStore

import daskreg as dr
from daskreg import volumes
from daskreg.errors import (
    ChannelError,
    EmptyArrayError,
    GridError,
    InvalidSpacingError,
    MetadataWarning,
    NotAVolumeError,
    OptionError,
    ShapeMismatchError,
    UnitError,
    UnsupportedDTypeError,
)
from daskreg.geometry import Box, Grid
from daskreg.sources import recall
from daskreg.volumes import mask_array, to_dataarray, volume_of

SHAPE = (9, 10, 11)
VALUES = np.random.default_rng(0).integers(0, 2**16, SHAPE).astype("u2")
TURNED = Grid(SHAPE, (2, 1, 0.5), (10, -3, 4), np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0], "mm")


def write_ome(
    path, values, version="0.5", *, axes="zyx", factors=(1, 2), spacing=None, labels=(), centred=True, **extra
):
    """An OME-Zarr of block-strided levels, with the metadata written by hand."""
    group = zarr.create_group(path, zarr_format=3 if version == "0.5" else 2)
    types = {"t": "time", "c": "channel"}
    units = {"t": "second", "c": None}
    spacing = spacing or [1.0] * len(axes)
    datasets = []
    for level, f in enumerate(factors):
        factor = [f if a in "zyx" else 1 for a in axes]
        part = values[tuple(slice(None, None, k) for k in factor)]
        group.create_array(f"s{level}", data=part, chunks=tuple(min(4, n) for n in part.shape))
        transforms = [{"type": "scale", "scale": [s * k for s, k in zip(spacing, factor, strict=True)]}]
        if centred:
            shift = [s * (k - 1) / 2 for s, k in zip(spacing, factor, strict=True)]
            transforms.append({"type": "translation", "translation": shift})
        datasets.append({"path": f"s{level}", "coordinateTransformations": transforms})
    names = [{"name": a, "type": types.get(a, "space"), "unit": units.get(a, "micrometer")} for a in axes]
    names = [{k: v for k, v in a.items() if v is not None} for a in names]
    image = {"axes": names, "datasets": datasets, "name": "brain", "version": version} | extra
    block = {"multiscales": [image]}
    if labels:
        block["omero"] = {"channels": [{"label": label} for label in labels]}
    group.attrs.update({"ome": {"version": version, **block}} if version == "0.5" else block)
    return path


@pytest.fixture
def stored(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=VALUES, chunks=(4, 4, 4), attributes={"long_name": "it"})
    return tmp_path / "a.zarr"


# open: plain arrays


@pytest.mark.slow
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["<u2", ">i2", "<f4", ">f8", "f2", "bool", "i8", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_plain_arrays_of_any_type_and_order(tmp_path, zarr_format, dtype, order):
    values = (VALUES % 200).astype(dtype)
    options = {"order": order} if zarr_format == 2 else {}
    if zarr_format == 3 and order == "F":
        options = {"filters": [zarr.codecs.TransposeCodec(order=(2, 1, 0))]}
    zarr.create_array(tmp_path / "a.zarr", data=values, chunks=(4, 5, 6), zarr_format=zarr_format, **options)
    volume = dr.open(tmp_path / "a.zarr")
    assert volume.dims == ("z", "y", "x")
    assert volume.dtype == (np.float32 if dtype == "f2" else np.dtype(dtype).newbyteorder("="))
    np.testing.assert_array_equal(volume.values, values)
    assert volume.values.dtype == volume.dtype
    assert dr.grid(volume) == Grid(SHAPE)
    assert {volume[d].attrs["units"] for d in volume.dims} == {"pixel"}


def test_nothing_is_read_but_metadata(tmp_path, monkeypatch):
    write_ome(tmp_path / "a.zarr", VALUES)
    keys = []
    real = LocalStore.get

    async def get(self, key, *args, **kwargs):
        keys.append(key)
        return await real(self, key, *args, **kwargs)

    monkeypatch.setattr(LocalStore, "get", get)
    for path in ("a.zarr", "a.zarr/s1"):
        volume = dr.open(tmp_path / path)
        dr.grid(volume)
        volume_of(volume)
        repr(volume)
    assert keys
    assert all(k.rsplit("/", 1)[-1] in ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata") for k in keys)
    read = []
    original = os.open
    monkeypatch.setattr(os, "open", lambda path, *a, **k: (read.append(str(path)), original(path, *a, **k))[1])
    dr.open(tmp_path / "a.zarr", chunks=4)[:2, :2, :2].compute()
    assert {k for k in read if "/c/" in k} == {str(tmp_path / "a.zarr/s0/c/0/0/0")}


def test_shards_are_read_whole_or_in_multiples(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=VALUES, chunks=(2, 2, 2), shards=(4, 4, 6))
    volume = dr.open(tmp_path / "a.zarr")
    np.testing.assert_array_equal(volume.values, VALUES)
    assert volume_of(volume).source.chunks == (2, 2, 2)
    pieces = dr.open(tmp_path / "a.zarr", chunks={"z": 4, "y": 4, "x": 6})
    assert pieces.data.chunksize == (4, 4, 6)
    np.testing.assert_array_equal(pieces.values, VALUES)


def test_large_shards_are_read_by_their_chunks(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(2048,) * 3, chunks=(64,) * 3, shards=(1024,) * 3, dtype="u1")
    block = dr.open(tmp_path / "a.zarr").data.chunksize
    assert all(n % 64 == 0 for n in block)
    assert 2**26 <= np.prod(block) <= 2**27


def test_dimension_names(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=VALUES, dimension_names=["y", "time", "x"])
    volume = dr.open(tmp_path / "a.zarr")
    assert volume.dims == ("time", "y", "x")
    np.testing.assert_array_equal(volume.values, VALUES.transpose(1, 0, 2))
    np.testing.assert_array_equal(dr.open(tmp_path / "a.zarr", time=-1).values, VALUES[:, -1])
    zarr.create_array(tmp_path / "b.zarr", data=VALUES, dimension_names=["slice", None, "x"])
    assert dr.open(tmp_path / "b.zarr").dims == ("z", "y", "x")


def test_name_and_attributes_are_kept(stored):
    volume = dr.open(stored)
    assert (volume.name, volume.attrs) == ("a", {"long_name": "it"})


@pytest.mark.parametrize("kind", ["path", "str", "array", "memory", "zip", "url"])
def test_where_a_zarr_array_may_be(tmp_path, stored, kind):
    if kind == "zip":
        with ZipStore(tmp_path / "a.zarr.zip", mode="w") as store:
            zarr.create_group(store).create_array("g/v", data=VALUES, chunks=(4, 4, 4))
        source = tmp_path / "a.zarr.zip" / "g" / "v"
    elif kind == "url":
        source = "memory://daskreg-volumes/a.zarr"
        zarr.create_array(zarr.storage.FsspecStore.from_url(source), data=VALUES, chunks=(4, 4, 4), overwrite=True)
    elif kind == "memory":
        source = zarr.create_array(MemoryStore(), data=VALUES, chunks=(4, 4, 4))
    else:
        source = {"path": stored, "str": str(stored), "array": zarr.open_array(stored)}[kind]
    volume = dr.open(source)
    np.testing.assert_array_equal(volume.values, VALUES)
    spec = pickle.loads(pickle.dumps(volume_of(volume).source))
    assert spec.kind == "zarr"
    assert (spec.array is not None) == (kind == "memory")
    box = Box((1, 2, 3), (8, 7, 5))
    np.testing.assert_array_equal(spec.read(box), VALUES[box.slices])


# open: OME-Zarr


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("shape", [(9, 10, 11), (1, 7, 13), (5, 5, 5)])
def test_levels_have_their_own_grid(tmp_path, version, shape):
    values = np.random.default_rng(1).integers(0, 99, shape).astype("u1")
    path = write_ome(tmp_path / "a.ome.zarr", values, version, factors=(1, 2, 4), spacing=[2.0, 0.5, 0.25])
    finest = Grid(shape, (2, 0.5, 0.25), unit="um")
    for level, f in enumerate((1, 2, 4)):
        volume = dr.open(path, level=level)
        assert dr.grid(volume).same(finest.downsample(f))
        assert volume.name == "brain"
        np.testing.assert_array_equal(volume.values, values[::f, ::f, ::f])
        below = dr.open(path / f"s{level}")
        assert dr.grid(below) == dr.grid(volume)
    assert dr.open(path, level=-1).shape == volume.shape
    with pytest.raises(OptionError, match="which has 3"):
        dr.open(path, level=3)
    with pytest.raises(OptionError, match="no levels"):
        dr.open(path / "s1", level=2)


def test_levels_without_translation(tmp_path):
    path = write_ome(tmp_path / "a.zarr", VALUES, centred=False, spacing=[2.0, 0.5, 0.25])
    with pytest.warns(MetadataWarning, match="recentre=True") as caught:
        trusted = dr.open(path, level=1)
    assert len(caught) == 1
    assert dr.grid(trusted).origin == (0, 0, 0)
    finest = dr.grid(dr.open(path))
    assert dr.grid(dr.open(path, level=1, recentre=True)).same(finest.downsample(2))


def test_channels_and_times(tmp_path):
    values = np.random.default_rng(1).integers(0, 99, (3, 2, 4, 5, 6)).astype("u1")
    path = write_ome(tmp_path / "a.zarr", values, axes="tczyx", labels=("DAPI", "GFP"), spacing=[0.5, 1, 1, 1, 1])
    volume = dr.open(path)
    assert volume.dims == ("t", "c", "z", "y", "x")
    assert volume.c.values.tolist() == ["DAPI", "GFP"]
    np.testing.assert_allclose(volume.t, [0, 0.5, 1])
    assert volume.t.attrs["units"] == "second"
    assert dr.grid(volume).names == ("z", "y", "x")
    np.testing.assert_array_equal(volume.sel(c="GFP").values, values[:, 1])
    for channel in ("GFP", 1, -1):
        one = dr.open(path, channel=channel, time=2, level=1)
        assert one.dims == ("z", "y", "x")
        np.testing.assert_array_equal(one.values, values[2, 1, ::2, ::2, ::2])
        assert volume_of(one).source.kind == "zarr"
    for wrong in ("RFP", 2, -3):
        with pytest.raises(ChannelError, match="not there"):
            dr.open(path, channel=wrong)
    with pytest.raises(ChannelError, match="time 3"):
        dr.open(path, time=3)
    with pytest.raises(ChannelError, match="asked for"):
        dr.open(write_ome(tmp_path / "b.zarr", VALUES), channel=0)


def test_labels_that_are_not_unique_cannot_be_chosen(tmp_path):
    path = write_ome(tmp_path / "a.zarr", VALUES[:2], axes="cyx", labels=("x", "x"))
    with pytest.raises(ChannelError, match="more than once"):
        dr.open(path, channel="x")
    np.testing.assert_array_equal(dr.open(path, channel=1).values, VALUES[1])


def test_spacing_and_unit_are_overridden(tmp_path):
    path = write_ome(tmp_path / "a.zarr", VALUES, spacing=[2.0, 0.5, 0.25])
    grid = dr.grid(dr.open(path, spacing=(4, 3, 2), unit="nm", level=1))
    assert (grid.spacing, grid.unit) == ((4, 3, 2), "nanometer")
    np.testing.assert_allclose(grid.origin, [1, 0.75, 0.5])  # a quarter of a voxel of level 1, as before
    assert dr.grid(dr.open(path, spacing={"z": 7})).spacing == (7, 0.5, 0.25)
    assert dr.grid(dr.open(path, unit="mm")).unit == "millimeter"
    assert dr.grid(dr.open(VALUES, spacing=0.5, unit="um")) == Grid(SHAPE, 0.5, unit="um")
    for wrong in (0, -1, float("nan"), (1, 2), {"w": 1}, (1, 2, 0)):
        with pytest.raises(InvalidSpacingError):
            dr.open(path, spacing=wrong)
    with pytest.raises(UnitError, match="furlong"):
        dr.open(path, unit="furlong")


def test_mixed_units_are_converted_unless_a_unit_is_passed(tmp_path):
    axes = [{"name": n, "type": "space", "unit": u} for n, u in zip("zyx", ("nm", "um", "um"), strict=True)]
    path = write_ome(tmp_path / "a.zarr", VALUES, axes="zyx")
    group = zarr.open_group(path)
    ome = group.attrs["ome"]
    ome["multiscales"][0]["axes"] = axes
    group.attrs["ome"] = ome
    asked = dr.grid(dr.open(path, unit="um"))
    converted = dr.grid(dr.open(path))
    assert (asked.unit, converted.unit) == ("micrometer", "micrometer")
    np.testing.assert_allclose(converted.spacing, np.multiply(asked.spacing, (1e-3, 1, 1)), rtol=1e-15)
    np.testing.assert_allclose(converted.origin, np.multiply(asked.origin, (1e-3, 1, 1)), rtol=1e-15)
    ome["multiscales"][0]["axes"][1]["unit"] = "degree"
    group.attrs["ome"] = ome
    with pytest.raises(UnitError, match="degree and micrometer"):
        dr.open(path)


def test_no_unit_is_pixel(tmp_path):
    path = write_ome(tmp_path / "a.zarr", VALUES)
    group = zarr.open_group(path)
    ome = group.attrs["ome"]
    ome["multiscales"][0]["axes"] = [{"name": n, "type": "space"} for n in "zyx"]
    group.attrs["ome"] = ome
    assert dr.grid(dr.open(path)).unit == "pixel"


@pytest.mark.parametrize("inner", ["../b.zarr/s0", "/etc", "s0/../../b.zarr/s0"])
def test_metadata_cannot_lead_out_of_the_store(tmp_path, inner):
    write_ome(tmp_path / "b.zarr", VALUES)
    path = write_ome(tmp_path / "a.zarr", VALUES)
    group = zarr.open_group(path)
    ome = group.attrs["ome"]
    ome["multiscales"][0]["datasets"][0]["path"] = inner
    group.attrs["ome"] = ome
    with pytest.raises(NotAVolumeError, match="leads out of the store"):
        dr.open(path)


def test_metadata_and_array_that_do_not_agree(tmp_path):
    path = write_ome(tmp_path / "a.zarr", VALUES)
    shutil.rmtree(path / "s1")
    with pytest.raises(NotAVolumeError, match="s1 holds no Zarr array"):
        dr.open(path, level=1)
    zarr.create_array(path / "s0", data=VALUES[0], overwrite=True)
    with pytest.raises(NotAVolumeError, match="not an array with the axes z, y, x"):
        dr.open(path)


def test_series_of_bioformats2raw(tmp_path):
    root = zarr.create_group(tmp_path / "a.zarr", attributes={"bioformats2raw.layout": 3})
    write_ome(tmp_path / "a.zarr" / "0", VALUES)
    assert root.attrs["bioformats2raw.layout"] == 3
    np.testing.assert_array_equal(dr.open(tmp_path / "a.zarr").values, VALUES)
    write_ome(tmp_path / "a.zarr" / "1", VALUES)
    with pytest.raises(NotAVolumeError, match="images 0, 1: name one"):
        dr.open(tmp_path / "a.zarr")


# open: what cannot be opened


def test_broken_metadata_names_the_path(stored):
    for text in ('{"zarr_format": 3', "", "[]", '{"zarr_format": 3, "node_type": "array"}', '{"zarr_format": 9}'):
        (stored / "zarr.json").write_text(text)
        with pytest.raises(NotAVolumeError, match=r"a\.zarr"):
            dr.open(stored)


@pytest.mark.parametrize(
    "values", [np.ones(SHAPE, "c8"), np.full(SHAPE, "a"), np.ones(SHAPE, "M8[s]"), np.ones(SHAPE, "O")]
)
def test_types_that_are_not_images(values):
    for given in (values, xr.DataArray(values, name="it"), da.from_array(values, chunks=4)):
        with pytest.raises(UnsupportedDTypeError):
            dr.open(given)


def test_types_that_are_not_images_in_stores(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=SHAPE, dtype="c16")
    with pytest.raises(UnsupportedDTypeError, match=r"a\.zarr has the type complex128"):
        dr.open(tmp_path / "a.zarr")
    zarr.create_array(tmp_path / "b.zarr", shape=(2, 2), dtype="U3", zarr_format=2)
    with pytest.raises(UnsupportedDTypeError, match=r"b\.zarr has the type"):
        dr.open(tmp_path / "b.zarr")


def test_empty_axes_and_single_numbers(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(3, 0, 4), dtype="u1", chunks=(1, 1, 1))
    for given in (tmp_path / "a.zarr", np.empty((3, 0, 4)), xr.DataArray(np.empty((3, 0, 4)), dims=("z", "y", "x"))):
        with pytest.raises(EmptyArrayError, match="axis y"):
            dr.open(given)
    zarr.create_array(tmp_path / "b.zarr", shape=(), dtype="u1")
    for given in (tmp_path / "b.zarr", np.float64(3), xr.DataArray(3.0)):
        with pytest.raises(NotAVolumeError, match="single number"):
            dr.open(given)


def test_credentials_are_not_in_messages():
    with pytest.raises(NotAVolumeError) as caught:
        dr.open("memory://user:secret@daskreg-nothing/x.zarr?token=hidden")
    error: BaseException | None = caught.value
    while error is not None:
        assert "secret" not in str(error)
        assert "hidden" not in str(error)
        error = error.__cause__


def test_options_that_do_not_apply():
    with pytest.raises(OptionError, match="in memory has no level"):
        dr.open(VALUES, level=1)
    with pytest.raises(ChannelError, match="asked for"):
        dr.open(VALUES, channel=0)
    with pytest.raises(OptionError, match="chunks"):
        dr.open(VALUES, chunks="big")


# the lazy array


def test_a_million_chunks_open_at_once(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(6400,) * 3, chunks=(64,) * 3, dtype="u2")
    dr.open(tmp_path / "a.zarr")
    start = time.perf_counter()
    volume = dr.open(tmp_path / "a.zarr", chunks=64)
    seconds = time.perf_counter() - start
    assert volume.data.npartitions == 10**6
    assert seconds < 1
    assert len(volume.data.dask.layers) == 1
    assert len(pickle.dumps(volume.data.dask)) < 20_000
    assert volume_of(volume).source.kind == "zarr"
    assert not volume[3, 4, :5].values.any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stored", "numpy"])
def test_the_registry_lives_as_long_as_the_array(stored, kind):
    given = stored if kind == "stored" else VALUES
    volume = dr.open(given)
    name = volume.data.name
    assert name.startswith("daskreg-open-")
    gc.collect()
    assert recall(name) is not None
    derived = volume + 1
    del volume
    gc.collect()
    assert recall(name) is not None
    np.testing.assert_array_equal(derived.values, VALUES + 1)
    del derived
    gc.collect()
    assert recall(name) is None


@pytest.mark.slow
def test_two_openings_share_a_name_and_one_may_go(stored):
    first, second = dr.open(stored), dr.open(stored)
    assert first.data.name == second.data.name
    del second
    gc.collect()
    assert volume_of(first).source.kind == "zarr"
    other = dr.open(stored, spacing=2)
    assert other.data.name != first.data.name


def test_an_array_written_anew_has_another_name(stored):
    before = dr.open(stored)
    zarr.create_array(stored, data=VALUES + 1, chunks=(4, 4, 4), overwrite=True)
    after = dr.open(stored)
    assert before.data.name != after.data.name
    np.testing.assert_array_equal(after.values, VALUES + 1)


def test_any_scheduler_computes(stored):
    volume = dr.open(stored, chunks=(5, 3, 7))
    for scheduler in ("synchronous", "threads"):
        with dask.config.set(scheduler=scheduler):
            np.testing.assert_array_equal(volume.values, VALUES)
    graph = pickle.loads(pickle.dumps(volume.data))
    np.testing.assert_array_equal(graph.compute(), VALUES)
    np.testing.assert_array_equal((volume.astype("f4") * 2).mean("z").values, (VALUES.astype("f4") * 2).mean(0))


# volume_of


def test_the_source_of_what_open_made(stored):
    volume = dr.open(stored)
    source = volume_of(volume).source
    assert (source.kind, source.dims, source.shape, source.grid) == ("zarr", volume.dims, SHAPE, dr.grid(volume))
    renamed = volume.rename(z="slice").assign_coords(x=("x", 3.0 * np.arange(11), {"units": "pixel"}))
    other = volume_of(renamed).source
    assert (other.kind, other.dims) == ("zarr", ("slice", "y", "x"))
    assert other.grid == dr.grid(renamed)
    assert other.grid.spacing == (1, 1, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda v: v[2:5],
        lambda v: v[:, ::-1],
        lambda v: v[::2, :, 3:4],
        lambda v: v * 2,
        lambda v: v.chunk(3),
        lambda v: v.transpose("x", "z", "y"),
        lambda v: v.astype("f8"),
        lambda v: v[4],
        lambda v: v.compute(),
        lambda v: v.persist(),
        lambda v: v.where(v > 100, 0),
        lambda v: v.expand_dims(t=2),
        lambda v: xr.concat([v, v.assign_coords(z=v.z + 9)], "z"),
    ],
)
@pytest.mark.parametrize("start", ["stored", "numpy", "turned"])
def test_the_source_of_anything_derived_is_never_wrong(stored, change, start):
    if start == "turned":
        volume = dr.open(to_dataarray(VALUES, TURNED))
    else:
        volume = dr.open(stored if start == "stored" else VALUES)
    try:
        derived = change(volume)
        wanted = volume_of(derived).array
        dr.grid(derived)
    except GridError:
        assert start == "turned"  # a dimension was dropped, or joined ends of an oblique volume
        return
    source = volume_of(derived).source
    assert source.dims == wanted.dims
    assert source.grid == dr.grid(derived)
    whole = Box.of(source.shape)
    np.testing.assert_array_equal(source.read(whole), wanted.values)
    inner = whole.grow(-1) if min(whole.shape) > 2 else whole
    np.testing.assert_array_equal(source.restrict(inner).read(inner), wanted.values[inner.slices])


def test_sources_of_arrays():
    assert volume_of(VALUES).source.array is VALUES
    assert volume_of(da.from_array(VALUES, chunks=4)).source.kind == "dask"
    assert volume_of(da.from_array(VALUES, chunks=4)).source.chunks == (4, 4, 4)
    flat = volume_of(VALUES[0]).source
    assert (flat.dims, flat.grid) == (("y", "x"), Grid((10, 11)))
    five = volume_of(np.zeros((2, 3, 4, 5, 6))).source
    assert (five.lead, five.grid.shape) == (("t", "c"), (4, 5, 6))


# arrays in memory


def test_numpy_is_opened_in_pieces_without_a_copy():
    volume = dr.open(VALUES)
    assert isinstance(volume.data, da.Array)
    np.testing.assert_array_equal(volume.values, VALUES)
    source = volume_of(volume).source
    assert (source.kind, source.array is VALUES) == ("array", True)
    assert dr.open(VALUES, chunks=(3, -1, 4)).data.chunksize == (3, 10, 4)
    big = dr.open(np.broadcast_to(np.uint8(1), (600, 600, 600)))
    assert big.data.npartitions > 1


@pytest.mark.parametrize("dtype", [">u2", "f2", "bool", ">f8", "i1"])
def test_arrays_in_memory_become_native(dtype):
    values = (VALUES % 100).astype(dtype)
    for given in (values, values[::-1, :, ::-1], xr.DataArray(values), da.from_array(values, chunks=5)):
        volume = dr.open(given)
        assert volume.dtype == (np.float32 if dtype == "f2" else np.dtype(dtype).newbyteorder("="))
        np.testing.assert_array_equal(volume.values, np.asarray(given))
        np.testing.assert_array_equal(volume_of(volume).source.read(Box.of(SHAPE)), np.asarray(given))


def test_dataarrays_keep_what_they_know():
    values = np.stack([VALUES, VALUES + 1])
    array = xr.DataArray(
        values,
        dims=("c", "z", "y", "x"),
        coords={"c": ["a", "b"], "y": ("y", np.arange(10) * 0.5, {"units": "mm"}), "run": 7},
        name="it",
        attrs={"units": "counts"},
    ).assign_coords(z=("z", np.arange(9.0), {"units": "mm"}), x=("x", np.arange(11.0), {"units": "mm"}))
    volume = dr.open(array)
    assert (volume.name, volume.attrs, volume.run.item()) == ("it", {"units": "counts"}, 7)
    assert volume.c.values.tolist() == ["a", "b"]
    assert dr.grid(volume) == Grid(SHAPE, (1, 0.5, 1), unit="mm")
    one = dr.open(array, channel="b")
    np.testing.assert_array_equal(one.values, VALUES + 1)
    assert volume_of(one).source.kind == "array"
    again = dr.open(volume, channel=0, spacing=2)
    np.testing.assert_array_equal(again.values, VALUES)
    assert dr.grid(again) == Grid(SHAPE, 2, unit="mm")


def test_dask_arrays_stay_what_they_are():
    array = da.from_array(VALUES, chunks=(3, 4, 5))
    volume = dr.open(array)
    assert volume.data.name == array.name
    assert volume.data.chunks == array.chunks
    stored = dr.open(xr.Dataset({"only": (("z", "y", "x"), array)}))
    assert stored.name == "only"


def test_masked_and_odd_arrays():
    masked = np.ma.masked_greater(VALUES, 1000)
    np.testing.assert_array_equal(volume_of(masked).array.values, np.where(VALUES > 1000, np.nan, VALUES))
    numbered = xr.DataArray(VALUES, dims=(0, 1, 2))
    assert volume_of(numbered).array.dims == ("0", "1", "2")
    unknown = da.from_array(VALUES, chunks=4)
    with pytest.raises(NotAVolumeError, match="compute_chunk_sizes"):
        dr.open(unknown[unknown[:, 0, 0] > 10])


def test_what_xarray_opened_lazily_is_not_loaded(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("v", data=VALUES, chunks=(4, 4, 4), dimension_names=["z", "y", "x"])
    for path in (tmp_path / "a.zarr" / "v" / "c").rglob("0"):
        if path.is_file():
            path.write_bytes(b"broken")
    lazy = xr.open_zarr(tmp_path / "a.zarr", chunks=None, consolidated=False).v
    volume = dr.open(lazy)
    np.testing.assert_array_equal(volume[4:8, 4:8, 4:8].values, VALUES[4:8, 4:8, 4:8])


def test_inputs_are_normalised_once(stored, tmp_path, monkeypatch):
    times = []
    real = volumes._normalised
    monkeypatch.setattr(volumes, "_normalised", lambda value: times.append(type(value)) or real(value))
    of_numpy = volumes.source_of_numpy
    monkeypatch.setattr(volumes, "source_of_numpy", lambda v, **k: times.append(type(v)) or of_numpy(v, **k))
    lazy = dr.open(stored)
    assert times == []
    moved = dr.warp(lazy, pull=dr.Affine.translation(x=0.5), like=VALUES[:5])
    assert times == [xr.DataArray, np.ndarray]
    times.clear()
    dr.write(moved, tmp_path / "out.zarr", levels=1, progress=False, client=False)
    assert times == [xr.DataArray]
    volume = volume_of(lazy)
    assert volume_of(volume) is volume
    assert volume.grid is volume.source.grid
    assert dr.grid(volume) == volume.grid
    with pytest.raises(AttributeError, match="cannot assign"):
        volume.source = None


def test_tensors_are_volumes_and_torch_types_numpy_does_not_have():
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(VALUES.astype("f4"), requires_grad=True)
    np.testing.assert_array_equal(volume_of(tensor).array.values, VALUES)
    assert volume_of(tensor.bfloat16()).source.dtype == np.float32


@pytest.mark.parametrize("lazy", [False, True])
def test_bare_arrays_that_end_in_colour(lazy):
    image = np.zeros((3, 40, 50, 3), "u1")
    image = da.from_array(image, chunks=-1) if lazy else image
    assert volume_of(image, colour_ndim=4).array.dims == ("c", "z", "y", "x")
    assert volume_of(image[0], colour_ndim=3).array.dims == ("c", "y", "x")
    assert volume_of(image[0]).array.dims == ("z", "y", "x")
    assert volume_of(image, colour_ndim=3).array.sizes == {"c": 3, "z": 40, "y": 50, "x": 3}


def test_volume_of_accepts_what_open_does(stored):
    np.testing.assert_array_equal(volume_of(stored).array.values, VALUES)
    assert isinstance(volume_of(VALUES).array.data, np.ndarray)
    assert volume_of(xr.DataArray(VALUES, dims=("x", "y", "z"))).array.dims == ("z", "y", "x")
    assert volume_of([[1, 2], [3, 4]]).array.dims == ("y", "x")
    with pytest.warns(UserWarning, match="Duplicate dimension"):
        twice = xr.DataArray(VALUES[0, :5, :5], dims=("y", "y"))
    with pytest.raises(GridError, match="name of its own"):
        volume_of(twice)


# grid and to_dataarray


@pytest.mark.parametrize("grid", [Grid(SHAPE, (2, 1, 0.5), (10, -3, 4), unit="um"), TURNED], ids=["straight", "turned"])
def test_a_dataarray_knows_its_grid_and_so_do_its_slices(grid):
    volume = to_dataarray(VALUES, grid)
    assert dr.grid(volume).same(grid)
    part = volume[2:7, 3:4, ::-2]
    index = np.argwhere(np.ones(part.shape))
    np.testing.assert_allclose(dr.grid(part).world(index), grid.world(index * [1, 1, -2] + [2, 3, 10]), atol=1e-9)


def test_an_oblique_volume_cannot_lose_a_dimension():
    with pytest.raises(GridError, match="cannot lose a dimension"):
        dr.grid(to_dataarray(VALUES, TURNED)[3])


def test_a_straight_volume_can():
    volume = to_dataarray(VALUES, Grid(SHAPE, (2, 1, 0.5), unit="um"))
    assert dr.grid(volume[3]) == Grid((10, 11), (1, 0.5), unit="um")
    assert dr.grid(volume[:, 3]).names == ("z", "x")


def test_lead_coordinates():
    values = np.stack([VALUES, VALUES])
    for given in (
        ("DAPI", "GFP"),
        ["DAPI", "GFP"],
        (["DAPI", "GFP"], {"a": 1}),
        xr.DataArray(["DAPI", "GFP"], dims="c"),
    ):
        volume = to_dataarray(values, Grid(SHAPE), lead=("c",), lead_coords={"c": given})
        assert volume.c.values.tolist() == ["DAPI", "GFP"]


def test_to_dataarray_checks_and_cleans():
    with pytest.raises(ShapeMismatchError, match="does not have dims"):
        to_dataarray(VALUES, Grid((9, 10, 12)))
    with pytest.raises(ShapeMismatchError, match="does not have dims"):
        to_dataarray(VALUES, Grid(SHAPE), lead=("c",))
    turned = to_dataarray(VALUES, TURNED, attrs={"a": 1})
    straight = to_dataarray(VALUES, Grid(SHAPE), attrs=turned.attrs)
    assert straight.attrs == {"a": 1}
    assert straight.name is None
    assert to_dataarray(da.from_array(VALUES), Grid(SHAPE)).name is None


def test_dims_of_other_names():
    stack = xr.DataArray(VALUES, dims=("slice", "y", "x"))
    assert dr.grid(stack) == Grid(SHAPE, axes=("slice", "y", "x"))
    colour = xr.DataArray(VALUES, dims=("y", "x", "band"))
    assert dr.grid(colour) == Grid((9, 10))
    source = volume_of(colour).source
    assert source.dims == ("band", "y", "x")
    np.testing.assert_array_equal(source.read(Box.of(source.shape)), VALUES.transpose(2, 0, 1))


# real data


@pytest.mark.slow
def test_real_arrays_equal_what_zarr_reads(data):
    opened = 0
    for version in ("v2", "v3"):
        for path in sorted((data / "zarr" / "zarrita" / version / "data.zarr").iterdir()):
            if not path.is_dir() or any(w in path.name for w in ("string", "group", "delta", "json2", "consolidated")):
                continue
            array = zarr.open_array(path, mode="r")
            try:
                volume = dr.open(path)
            except UnsupportedDTypeError:
                assert array.dtype.kind not in "buif", path.name
                continue
            np.testing.assert_array_equal(volume.values, array[:], err_msg=path.name)
            source = volume_of(volume).source
            np.testing.assert_array_equal(source.read(Box.of(source.shape)), array[:], err_msg=path.name)
            opened += 1
    assert opened >= 50


def test_real_arrays_that_are_refused(data):
    folder = data / "zarr" / "zarrita"
    for name in (
        "v2/data.zarr/1d.contiguous.json2.O",
        "v2/data.zarr/3d.chunked.O",
        "v3/data.zarr/1d.chunked.string.vlen",
    ):
        with pytest.raises(UnsupportedDTypeError, match="images are bool, integer or float"):
            dr.open(folder / name)
    with pytest.raises(NotAVolumeError, match="holds the arrays .* and .* more: name one"):
        dr.open(data / "zarr/neuroglancer/datasource/zarr/zarr_v2/from_zarr-python/data.zarr")


@pytest.mark.parametrize("name", ["simple_0.4", "simple_0.5", "simple_0.5.zip"])
def test_real_ome_zarr(data, name):
    path = data / "zarr" / "neuroglancer" / "datasource" / "zarr" / "ome_zarr" / name
    for level, (shape, spacing, origin) in enumerate(
        [((10, 10), (4, 30), (0, 0)), ((5, 5), (8, 60), (2, 15)), ((2, 2), (16, 120), (6, 45))]
    ):
        volume = dr.open(path, level=level)
        assert dr.grid(volume) == Grid(shape, spacing, origin, unit="nm")
        assert volume.values.shape == shape
        assert dr.grid(dr.open(path / f"scale{level}" / "image")) == dr.grid(volume)


def test_real_sections_as_a_stack(data):
    pil = pytest.importorskip("PIL.Image")
    files = sorted((data / "stacks" / "lung_sem").glob("*.png"))
    stack = dr.open(np.stack([np.asarray(pil.open(f)) for f in files]), spacing=(50, 10, 10), unit="nm")
    assert stack.shape == (12, 800, 800)
    assert dr.grid(stack).spacing == (50, 10, 10)
    assert volume_of(stack[3:4]).source.read(Box((0, 0, 0), (1, 800, 800))).any()


@pytest.mark.parametrize("as_type", [np.asarray, da.asarray, xr.DataArray, torch.as_tensor, np.ndarray.tolist])
def test_masks_of_all_kinds_are_true_where_they_are_positive(as_type) -> None:
    values = np.array([[0.0, 0.5, -1.0], [np.nan, 2.0, 0.0]])
    mask = mask_array(as_type(values))
    assert isinstance(mask, np.ndarray | da.Array)
    assert mask.dtype == bool
    np.testing.assert_array_equal(np.asarray(mask), [[False, True, False], [False, True, False]])
    np.testing.assert_array_equal(np.asarray(mask_array(as_type(values > 0))), values > 0)


@pytest.mark.parametrize("dims", ["TCZYX", "CZYX", "ZYX", "YX", "tcZYX"])
def test_dims_in_upper_case(tmp_path, dims):
    values = np.random.default_rng(2).integers(0, 99, (2, 3, 7, 9, 11)[-len(dims) :]).astype("u2")
    array = xr.DataArray(values, dims=tuple(dims), coords={"Y": np.arange(9) * 0.5 + 1, "X": np.arange(11) * 0.25})
    lower = tuple(dims.lower())
    assert dr.grid(array).names == lower[-min(len(dims), 3) :]
    assert dr.grid(array).origin[-2:] == (1, 0)
    dr.write(dr.open(array), tmp_path / "a.zarr", levels=1, progress=False, client=False)
    again = dr.open(tmp_path / "a.zarr")
    assert again.dims == lower
    np.testing.assert_array_equal(again, values)
    np.testing.assert_array_equal(again.x, array.X)
    assert dr.warp(array, pull=dr.Affine.translation(y=0, x=0)).dims == lower


def test_names_that_differ_in_case_alone_are_kept():
    array = xr.DataArray(np.zeros((3, 4, 5), "u1"), dims=("X", "y", "x"))
    assert set(dr.grid(array).names) == {"X", "y", "x"}


class Masked(WrapperStore):
    """What is stored is not what was written: every byte of a chunk is exclusive-or 90."""

    async def get(self, key, prototype, byte_range=None):
        value = await super().get(key, prototype, byte_range)
        if value is None or "zarr.json" in key:
            return value
        return prototype.buffer.from_bytes(bytes(b ^ 90 for b in value.to_bytes()))


def test_a_store_that_somebody_wrapped_is_read_through_its_wrapper(tmp_path):
    raw = zarr.create_array(tmp_path / "a.zarr", data=VALUES, chunks=(9, 5, 11), compressors=None)
    wrapped = zarr.open_array(Masked(LocalStore(tmp_path / "a.zarr")), mode="r")
    wanted = (VALUES.view("u1") ^ 90).view("u2")
    np.testing.assert_array_equal(wrapped[:], wanted)
    volume = dr.open(wrapped)
    np.testing.assert_array_equal(volume, wanted)
    dr.write(volume, tmp_path / "b.zarr", levels=1, progress=False, client=False)
    np.testing.assert_array_equal(dr.open(tmp_path / "b.zarr"), wanted)
    np.testing.assert_array_equal(dr.open(raw), VALUES)
