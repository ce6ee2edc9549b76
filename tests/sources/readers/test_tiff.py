"""TIFF: pages lazily, spacing from ImageJ and OME, axes as the file names them."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr

from daskreg.errors import (
    ChunkReadError,
    MetadataWarning,
    NotAVolumeError,
    OptionError,
    UnitError,
    UnsupportedDTypeError,
)
from daskreg.geometry import Box, Grid
from daskreg.sources import handles
from daskreg.volumes import grid, volume_of
from daskreg.volumes import open as open_volume

VALUES = np.random.default_rng(0).integers(0, 2**16, (4, 50, 60)).astype("u2")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tif"


@pytest.mark.parametrize(
    "options",
    [{}, {"bigtiff": True, "byteorder": ">"}, {"compression": "zlib"}, {"tile": (16, 16)}, {"rowsperstrip": 7}],
)
def test_pages_are_slices(path, options):
    tifffile.imwrite(path, VALUES, photometric="minisblack", **options)
    volume = open_volume(path)
    assert volume.dims == ("z", "y", "x")
    assert grid(volume) == Grid(VALUES.shape)
    np.testing.assert_array_equal(volume.values, VALUES)
    source = volume_of(volume).source
    assert (source.kind, source.location) == ("tiff", str(path))
    box = Box((1, 3, 5), (3, 40, 17))
    np.testing.assert_array_equal(source.read(box), VALUES[box.slices])


def test_one_page_is_an_image_and_big_endian_is_read(path):
    tifffile.imwrite(path, VALUES[0].astype(">u2"))
    volume = open_volume(path)
    assert volume.dims == ("y", "x")
    assert volume.dtype.isnative
    np.testing.assert_array_equal(volume.values, VALUES[0])


def test_imagej_hyperstack(path):
    values = np.arange(2 * 3 * 4 * 5 * 6, dtype="u2").reshape(2, 3, 4, 5, 6)
    metadata = {"axes": "TZCYX", "spacing": 2.5, "unit": "um"}
    tifffile.imwrite(path, values, imagej=True, resolution=(4, 2), metadata=metadata)
    volume = open_volume(path)
    assert volume.dims == ("t", "c", "z", "y", "x")
    np.testing.assert_array_equal(volume.values, values.transpose(0, 2, 1, 3, 4))
    assert grid(volume) == Grid((3, 5, 6), (2.5, 0.5, 0.25), unit="um")
    one = open_volume(path, channel=1, time=-1)
    np.testing.assert_array_equal(one.values, values[1, :, 1])
    np.testing.assert_array_equal(volume_of(one).source.read(Box((1, 0, 0), (2, 5, 6))), values[1, 1:2, 1])


def test_imagej_unit_spelled_as_an_escape(path):
    tifffile.imwrite(path, VALUES, imagej=True, resolution=(4, 4), metadata={"unit": "\\u00B5m", "spacing": 1.0})
    assert grid(open_volume(path)).unit == "micrometer"
    tifffile.imwrite(path, VALUES, imagej=True, resolution=(4, 4), metadata={"unit": "furlong"})
    with pytest.raises(UnitError, match="furlong"):
        open_volume(path)
    assert grid(open_volume(path, unit="mm")).unit == "millimeter"


def test_ome_tiff(tmp_path):
    path = tmp_path / "a.ome.tif"
    values = np.arange(2 * 3 * 5 * 6, dtype="u2").reshape(2, 3, 5, 6)
    metadata = {
        "axes": "CZYX",
        "PhysicalSizeX": 0.2,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 0.3,
        "PhysicalSizeYUnit": "µm",
        "PhysicalSizeZ": 1.5,
        "PhysicalSizeZUnit": "µm",
        "Channel": {"Name": ["DAPI", "GFP"]},
    }
    tifffile.imwrite(path, values, ome=True, photometric="minisblack", metadata=metadata)
    volume = open_volume(path)
    assert volume.name == "a"
    assert grid(volume) == Grid((3, 5, 6), (1.5, 0.3, 0.2), unit="um")
    assert volume.c.values.tolist() == ["DAPI", "GFP"]
    np.testing.assert_array_equal(open_volume(path, channel="GFP").values, values[1])


def test_pyramid_levels_cover_the_same_ground(path):
    with tifffile.TiffWriter(path) as writer:
        options = {"tile": (16, 16), "photometric": "minisblack", "metadata": None}
        writer.write(VALUES[0, :48, :], subifds=1, **options)
        writer.write(VALUES[0, :48:2, ::2], subfiletype=1, **options)
    volume = open_volume(path, level=1)
    np.testing.assert_array_equal(volume.values, VALUES[0, :48:2, ::2])
    assert grid(volume) == Grid((48, 60)).downsample(2)
    np.testing.assert_array_equal(volume_of(volume).source.read(Box((0, 0), (3, 3))), VALUES[0, :6:2, :6:2])
    with pytest.raises(OptionError, match="which has 2"):
        open_volume(path, level=2)


def test_rgb_is_a_lead_dim(path):
    rgb = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype("u1")
    tifffile.imwrite(path, rgb, photometric="rgb")
    volume = open_volume(path)
    assert volume.dims == ("c", "y", "x")
    np.testing.assert_array_equal(volume.values, rgb.transpose(2, 0, 1))
    np.testing.assert_array_equal(open_volume(path, channel=2).values, rgb[..., 2])
    np.testing.assert_array_equal(open_volume(path, channel="green").values, rgb[..., 1])


def test_several_series_take_the_first_with_a_warning(path):
    with tifffile.TiffWriter(path) as writer:
        writer.write(VALUES, photometric="minisblack")
        writer.write(VALUES[0, :10, :11], photometric="minisblack")
    with pytest.warns(MetadataWarning, match="2 image series"):
        assert open_volume(path).shape == VALUES.shape


def test_what_is_not_an_image(path):
    path.write_bytes(b"not a tiff at all")
    with pytest.raises(NotAVolumeError, match=r"a\.tif cannot be read as TIFF"):
        open_volume(path)
    tifffile.imwrite(path, VALUES[0].astype("c8"))
    with pytest.raises(UnsupportedDTypeError, match="complex64"):
        open_volume(path)


def test_a_damaged_page_is_named(path):
    tifffile.imwrite(path, VALUES, compression="zlib", photometric="minisblack")
    volume = open_volume(path)
    handles.forget()
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[3].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * 200)
    with pytest.raises(ChunkReadError, match=r"a\.tif"):
        volume_of(volume).source.read(Box((3, 0, 0), (4, 50, 60)))


def test_files_are_closed_once_nobody_reads_them(path, monkeypatch):
    closed = []
    real = tifffile.TiffFile.close
    monkeypatch.setattr(tifffile.TiffFile, "close", lambda self: closed.append(self.filename) or real(self))
    tifffile.imwrite(path, VALUES, photometric="minisblack", compression="zlib")
    volume = open_volume(path)
    volume.values  # noqa: B018
    closed.clear()
    handles.forget()
    assert closed == ["a.tif"]


def test_real_stack(data):
    path = data / "stacks" / "pc12" / "pc12-unreg.tif"
    volume = open_volume(path)
    assert volume.dims == ("z", "y", "x")
    assert volume.shape == (5, 201, 199)
    np.testing.assert_array_equal(volume.values, tifffile.imread(path))
    np.testing.assert_array_equal(volume[2].values, tifffile.imread(path, key=2))


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_voxels_without_gaps_are_read_from_their_place(path, byteorder):
    tifffile.imwrite(path, VALUES, photometric="minisblack", byteorder=byteorder)
    volume = open_volume(path)
    assert not isinstance(handles.opened("tiff", str(path)).handle, zarr.Array)
    np.testing.assert_array_equal(volume.values, VALUES)
    np.testing.assert_array_equal(volume[3, 7:20, 11:].values, VALUES[3, 7:20, 11:])


def test_zarr_chunks_of_a_stack_are_pages(path):
    tifffile.imwrite(path, VALUES, photometric="minisblack", compression="zlib")
    handle = handles.opened("tiff", str(path)).handle
    assert isinstance(handle, zarr.Array)
    assert volume_of(open_volume(path)).source.chunks == (1, 50, 60)


def test_the_distance_of_times_of_imagej(tmp_path):
    metadata = {"axes": "TYX", "finterval": 0.25, "unit": "um"}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 8, 9), np.uint8), imagej=True, metadata=metadata)
    times = open_volume(tmp_path / "a.tif").t
    np.testing.assert_allclose(times, (0, 0.25, 0.5))
    assert times.attrs["units"] == "s"
