"""Imaris files, written by h5py as the description of the format says: padded datasets, texts of single letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daskreg as dr
from daskreg.errors import (
    ChunkReadError,
    EmptyArrayError,
    InvalidSpacingError,
    NotAVolumeError,
    OptionError,
    OutsideError,
    UnitError,
)
from daskreg.volumes import volume_of

h5py = pytest.importorskip("h5py")

RNG = np.random.default_rng(7)
VOLUME = RNG.integers(0, 60_000, (3, 2, 10, 37, 45)).astype(np.uint16)  # t, c, z, y, x


def letters(text: Any) -> Any:
    return np.array([c.encode() for c in str(text)], dtype="S1")


def written(
    path: Path, values: Any = VOLUME, *, lows: Any = (1, -2, 3), highs: Any = (46, 35, 23), unit: str = "um"
) -> Path:
    """Levels 0 and 1, the second of every other voxel; borders are x, y, z."""
    with h5py.File(path, "w") as file:
        for level, step in enumerate((1, 2)):
            for t, time in enumerate(values):
                for c, volume in enumerate(time):
                    group = file.create_group(f"DataSet/ResolutionLevel {level}/TimePoint {t}/Channel {c}")
                    stored = volume[:, ::step, ::step]
                    for axis, size in zip("ZYX", stored.shape, strict=True):
                        group.attrs[f"ImageSize{axis}"] = letters(size)
                    padded = np.pad(stored, [(0, -n % 16) for n in stored.shape])
                    group.create_dataset("Data", data=padded, chunks=(8, 16, 16), compression="gzip")
        image = file.create_group("DataSetInfo/Image")
        image.attrs["Unit"] = letters(unit)
        for k in range(3):
            image.attrs[f"ExtMin{k}"], image.attrs[f"ExtMax{k}"] = letters(lows[k]), letters(highs[k])
        for c in range(values.shape[1]):
            file.create_group(f"DataSetInfo/Channel {c}").attrs["Name"] = letters(f"dye {c}")
    return path


def test_numbers_in_the_other_order_of_bytes(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ims", VOLUME.astype(">u2"))
    np.testing.assert_array_equal(dr.open(path), VOLUME)


def test_a_channel_of_another_kind_of_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ims", VOLUME.astype("u4"))
    with h5py.File(path, "r+") as file:
        group = file["DataSet/ResolutionLevel 0/TimePoint 1/Channel 1"]
        values = group["Data"][()].astype("f4")
        del group["Data"]
        group["Data"] = values
    with pytest.raises(ChunkReadError, match="has the type float32"):
        dr.open(path).load()


@pytest.mark.slow
def test_levels(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ims")
    volume = dr.open(path)
    assert volume.name == "a"
    assert volume.dims == ("t", "c", "z", "y", "x")
    assert list(volume.c.values) == ["dye 0", "dye 1"]
    assert volume_of(volume).source.kind == "imaris"
    np.testing.assert_array_equal(volume, VOLUME)
    np.testing.assert_array_equal(volume[1, :, 2:9, 36, 15:33], VOLUME[1, :, 2:9, 36, 15:33])
    # The borders of the image are those of its first and last voxels.
    assert dr.grid(volume) == dr.Grid((10, 37, 45), (2, 1, 1), (4, -1.5, 1.5), unit="um")
    coarse = dr.open(path, level=1, channel="dye 1", time=2)
    np.testing.assert_array_equal(coarse, VOLUME[2, 1, :, ::2, ::2])
    assert dr.grid(coarse) == dr.Grid((10, 19, 23), (2, 2, 2), (4, -1, 2), unit="um")
    with pytest.raises(OptionError, match="has 2"):
        dr.open(path, level=2)


@pytest.mark.slow
def test_one_time_and_channel(tmp_path: Path) -> None:
    volume = dr.open(written(tmp_path / "a.ims", VOLUME[:1, :1]))
    assert volume.dims == ("z", "y", "x")
    np.testing.assert_array_equal(volume, VOLUME[0, 0])
    with pytest.raises(UnitError, match="furlong"):
        dr.open(written(tmp_path / "b.ims", VOLUME[:1, :1], unit="furlong"))


def test_without_borders(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ims")
    with h5py.File(path, "a") as file:
        del file["DataSetInfo"]
    assert dr.grid(dr.open(path)) == dr.Grid((10, 37, 45))
    assert dr.grid(dr.open(path, spacing=(2, 1, 1), unit="nm")) == dr.Grid((10, 37, 45), (2, 1, 1), unit="nm")


@pytest.mark.slow
def test_a_channel_that_is_not_stored(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ims")
    with h5py.File(path, "a") as file:
        del file["DataSet/ResolutionLevel 0/TimePoint 1/Channel 1"]
    volume = dr.open(path)
    np.testing.assert_array_equal(volume[1, 0], VOLUME[1, 0])
    assert not volume[1, 1].values.any()
    with pytest.raises(ChunkReadError, match="TimePoint 1/Channel 1.* missing"):
        dr.open(path, missing="error").compute()


FIRST = "DataSet/ResolutionLevel 0/TimePoint 0/Channel 0"


@pytest.mark.parametrize(
    ("place", "value", "error", "match"),
    [
        ("DataSetInfo/Image@ExtMax0", letters(1), InvalidSpacingError, "reaches from"),
        ("DataSetInfo/Image@ExtMax0", letters("inf"), InvalidSpacingError, "reaches from"),
        ("DataSetInfo/Image@ExtMax0", letters("wide"), NotAVolumeError, "damaged"),
        (f"{FIRST}@ImageSizeX", letters(99), NotAVolumeError, "states"),
        (f"{FIRST}@ImageSizeX", letters(0), EmptyArrayError, "axis x"),
        (f"{FIRST}@ImageSizeX", np.array([1.5, 2]), NotAVolumeError, "damaged"),
    ],
)
def test_numbers_that_make_no_sense(tmp_path: Path, place: str, value: Any, error: type[Exception], match: str) -> None:
    path = written(tmp_path / "a.ims")
    group, _, name = place.partition("@")
    with h5py.File(path, "a") as file:
        file[group].attrs[name] = value
    with pytest.raises(error, match=match):
        dr.open(path)


def test_files_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ims").write_bytes(b"\x89HDF")
    with pytest.raises(NotAVolumeError, match="HDF5"):
        dr.open(tmp_path / "a.ims")
    with h5py.File(tmp_path / "b.ims", "w") as file:
        file["a"] = VOLUME[0, 0]
    with pytest.raises(NotAVolumeError, match="no image of Imaris"):
        dr.open(tmp_path / "b.ims")
    path = written(tmp_path / "c.ims")
    with h5py.File(path, "a") as file:
        del file["DataSet/ResolutionLevel 0/TimePoint 1/Channel 1/Data"]
        file["DataSet/ResolutionLevel 0/TimePoint 1/Channel 1/Data"] = np.zeros((10, 37, 44), np.uint16)
    with pytest.raises(ChunkReadError, match=r"shape \(10, 37, 44\)"):
        dr.open(path)[1, 1].compute()


def test_voxels_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    path = written(tmp_path / "inbox" / "a.ims")
    with h5py.File(path, "a") as file, h5py.File(tmp_path / "private.h5", "w") as private:
        private["b"] = VOLUME[0, 0]
        name = "DataSet/ResolutionLevel 0/TimePoint 1/Channel 0/Data"
        del file[name]
        file[name] = h5py.ExternalLink(str(tmp_path / "private.h5"), "/b")
    with pytest.raises(OutsideError):
        dr.open(path)[1, 0].compute()
