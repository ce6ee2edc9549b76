"""Projects of BigDataViewer that pybdv wrote, in HDF5 and N5, and what their XML may say besides."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daskreg as dr
from daskreg.errors import ChunkReadError, MetadataWarning, NotAVolumeError, OptionError, OutsideError
from daskreg.formats.view_registrations import time_points
from daskreg.runtime.hdf5_heaps import HeapCheckedFile
from daskreg.sources.readers.hdf5 import attributes as hdf5_attributes

pybdv = pytest.importorskip("pybdv")
h5py = pytest.importorskip("h5py")

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(6)
VOLUME = RNG.integers(0, 60_000, (18, 34, 42)).astype(np.uint16)  # above 2^15: BigDataViewer stores them as negative
SUFFIXES = [".h5", ".n5"]


def written(folder: Path, suffix: str, volume: Any = VOLUME, **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    options = {"resolution": [2.0, 0.5, 0.25], "unit": "micrometer", **options}
    with warnings.catch_warnings(action="ignore"):  # that a setup is there already
        pybdv.make_bdv(volume, str(folder / f"a{suffix}"), chunks=(8, 16, 16), **options)
    return folder / "a.xml"


def change(path: Path, pattern: str, text: str) -> None:
    before = path.read_text()
    after = re.sub(pattern, text, before, flags=re.DOTALL)
    assert after != before
    path.write_text(after)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_levels_of_a_setup(tmp_path: Path, suffix: str) -> None:
    values = VOLUME // 2  # pybdv's means are of the signed numbers
    path = written(tmp_path, suffix, values, downscale_factors=[[1, 2, 2], [3, 2, 2]], downscale_mode="mean")
    volume = dr.open(path)
    assert volume.dtype == np.uint16
    np.testing.assert_array_equal(volume, values)
    np.testing.assert_array_equal(dr.open(written(tmp_path / "b", suffix)), VOLUME)
    np.testing.assert_array_equal(volume[3:17, 20, 5:40], values[3:17, 20, 5:40])
    assert dr.grid(volume) == dr.Grid(values.shape, (2, 0.5, 0.25), unit="um")
    for level, factor in ((1, (1, 2, 2)), (2, (3, 4, 4))):
        coarse = dr.open(path, level=level)
        spacing = np.array((2, 0.5, 0.25)) * factor
        origin = np.array((2, 0.5, 0.25)) * (np.array(factor) - 1) / 2
        grid = dr.grid(coarse)
        np.testing.assert_allclose(grid.spacing, spacing)
        np.testing.assert_allclose(grid.origin, origin)
        means = values[: 3 * 6, :32, :40].reshape(18 // factor[0], factor[0], 32 // factor[1], factor[1], -1, factor[2])
        inner = coarse.values[: means.shape[0], : means.shape[2], : means.shape[4]]
        assert np.abs(inner - means.mean((1, 3, 5))).max() < 3  # rounded twice
    with pytest.raises(OptionError, match="has 3"):
        dr.open(path, level=3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_registration_places_a_setup(tmp_path: Path, suffix: str) -> None:
    """The product of its affine maps, from voxels x, y, z to the world; the first of the list is applied last."""
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[c, -s, 0, 5], [s, c, 0, -7], [0, 0, 1, 11]])
    path = written(
        tmp_path,
        suffix,
        affine={"turn": turn.ravel().tolist(), "scale": [0.5, 0.0, 0.0, 1.0, 0.0, 0.5, 0.0, 2.0, 0.0, 0.0, 2.0, 3.0]},
        resolution=[2.0, 0.5, 0.5],
    )
    scale = np.diag([0.5, 0.5, 2, 1])
    scale[:3, 3] = (1, 2, 3)
    matrix = np.vstack([turn, [0, 0, 0, 1]]) @ scale
    grid = dr.grid(dr.open(path))
    for index in ((0, 0, 0), (17, 33, 41), (4, 0, 9)):
        np.testing.assert_allclose(grid.world(index)[::-1], (matrix @ [*index[::-1], 1])[:3], atol=1e-9)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_times_and_setups(tmp_path: Path, suffix: str) -> None:
    for setup in (0, 1):
        for time in (0, 1, 2):
            written(tmp_path, suffix, VOLUME + np.uint16(100 * setup + time), setup_id=setup, timepoint=time)
    path = tmp_path / "a.xml"
    with pytest.warns(MetadataWarning, match=r"2 setups: 0 .*; the first is taken"):
        volume = dr.open(path)
    assert volume.dims == ("t", "z", "y", "x")
    second = dr.open(path, series=1)
    for time in (0, 1, 2):
        np.testing.assert_array_equal(volume[time], VOLUME + np.uint16(time))
        np.testing.assert_array_equal(second[time], VOLUME + np.uint16(100 + time))
    np.testing.assert_array_equal(dr.open(f"{path}::/1", time=2), second[2])
    with pytest.raises(NotAVolumeError, match="no setup '2'; it has 0"):
        dr.open(path, series=2)
    change(path, r'(<ViewRegistration timepoint="2" setup="1">.*?<affine>)[^<]*', r"\g<1>9 0 0 0 0 9 0 0 0 0 9 0")
    with pytest.warns(MetadataWarning, match="differ between times"):
        dr.open(path, series=1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_time_that_is_not_stored(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix)
    change(path, "<last>0</last>", "<last>1</last>")
    volume = dr.open(path)
    np.testing.assert_array_equal(volume[0], VOLUME)
    assert not volume[1].values.any()
    with pytest.raises(ChunkReadError, match="missing"):
        dr.open(path, missing="error").compute()


def test_times_are_looked_for_through_one_handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, ".h5", timepoint=50)
    change(path, "<first>50</first>", "<first>0</first>")
    opened: list[str] = []
    monkeypatch.setattr(hdf5_attributes, "HeapCheckedFile", lambda file: opened.append(file) or HeapCheckedFile(file))
    assert dr.open(path).shape == (51, *VOLUME.shape)
    assert len(opened) < 10


def test_times_as_a_pattern(tmp_path: Path) -> None:
    for time in (0, 2):
        written(tmp_path, ".h5", VOLUME + np.uint16(time), setup_id=0, timepoint=time)
    path = tmp_path / "a.xml"
    times = '<Timepoints type="pattern"><integerpattern>0-2:2</integerpattern></Timepoints>'
    change(path, "<Timepoints.*</Timepoints>", times)
    np.testing.assert_array_equal(dr.open(path), np.stack([VOLUME, VOLUME + np.uint16(2)]))
    for pattern, expected in {"7": (7,), "0 - 4:2, 9": (0, 2, 4, 9), "3-1": (3, 2, 1), "1-3,2-4": (1, 2, 3, 4)}.items():
        assert time_points(pattern, 10) == expected
    for pattern in ("", "-3", "1-", "0-5:0", "0-10", "0-4,5-10"):
        with pytest.raises(ValueError, match="its times are"):
            time_points(pattern, 10)


def test_the_world_of_bigstitcher_is_in_the_smallest_voxel_size(tmp_path: Path) -> None:
    """It scales each view by its voxel size over the smallest of all, and moves it in that world."""
    tile = {
        "Translation": [1.0, 0, 0, 30, 0, 1.0, 0, -4, 0, 0, 1.0, 8],
        "calibration": [1.0, 0, 0, 0, 0, 2.0, 0, 0, 0, 0, 8.0, 0],
    }
    path = written(tmp_path, ".h5", affine={name: [float(n) for n in numbers] for name, numbers in tile.items()})
    expected = dr.Grid(VOLUME.shape, (2, 0.5, 0.25), (2, -1, 7.5), unit="um")
    assert dr.grid(dr.open(path)) == expected
    world_from_own = dr.load(path, moving=expected, view=0)
    np.testing.assert_allclose(world_from_own.matrix, np.eye(4), atol=1e-12)
    change(path, "<size>0.25 0.5 2.0</size>", "<size>0.25 0.25 2.0</size>")
    with pytest.warns(MetadataWarning, match=r"stated to be 2 x 0.25 x 0.25 .* makes them 8 x 2 x 1"):
        assert dr.grid(dr.open(path)).origin == (8, -4, 30)


def test_voxels_in_partitions(tmp_path: Path) -> None:
    """The file of the project may hold links to files for some times each, which may change or go."""
    for time in (0, 1):
        written(tmp_path, ".h5", setup_id=0, timepoint=time)
    with h5py.File(tmp_path / "a.h5", "a") as file, h5py.File(tmp_path / "part.h5", "w") as part:
        file.copy("t00001/s00/0", part, name="cells_of_1")
        del file["t00001/s00/0"]
        file["t00001/s00/0"] = h5py.ExternalLink("part.h5", "cells_of_1")
    path = tmp_path / "a.xml"
    before = dr.open(path)
    np.testing.assert_array_equal(before[1], VOLUME)
    with h5py.File(tmp_path / "other.h5", "w") as part:
        part["cells_of_1/cells"] = np.ones(VOLUME.shape, np.int16)
    (tmp_path / "other.h5").replace(tmp_path / "part.h5")
    after = dr.open(path)
    assert after.name == before.name
    assert dask_name(after) != dask_name(before)
    (tmp_path / "part.h5").unlink()
    gone = dr.open(path)
    assert dask_name(gone) != dask_name(after)
    with pytest.raises(ChunkReadError, match="missing"):
        dr.open(path, missing="error")[1].compute()


def dask_name(volume: Any) -> str:
    return str(volume.data.name)


def test_without_registrations(tmp_path: Path) -> None:
    path = written(tmp_path, ".h5")
    change(path, "<ViewRegistrations>.*</ViewRegistrations>", "")
    assert dr.grid(dr.open(path)) == dr.Grid(VOLUME.shape, (2, 0.5, 0.25), unit="um")


@pytest.mark.parametrize(
    ("pattern", "text", "match"),
    [
        ("SpimData", "Other", "no project of BigDataViewer"),
        ("bdv.hdf5", "bdv.imaris", "'bdv.imaris'; bdv.hdf5 and bdv.n5"),
        ("<affine>[^<]*", "<affine>1 2 3", "are not 12 numbers"),
        ("<affine>[^<]*", "<affine>" + "nan " * 12, "are not 12 numbers"),
        ("<last>0", "<last>99999999999", "its times"),
        ("<id>0</id>", "<id>zero</id>", "zero"),
        ("<id>0</id>", "<id>7</id>", "holds no voxels of setup 7"),
        (r"<\?xml.*?\?>|^<Spim", '<!DOCTYPE a [<!ENTITY b "c">]><Spim', "entities"),
        ("</SpimData>", "", "no project"),
        ("<ViewSetup>.*</ViewSetup>", "", "no setups"),
    ],
)
def test_projects_that_are_refused(tmp_path: Path, pattern: str, text: str, match: str) -> None:
    path = written(tmp_path, ".h5")
    change(path, pattern, text)
    with pytest.raises(NotAVolumeError, match=match):
        dr.open(path)


def test_voxels_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    path = written(tmp_path / "inbox", ".h5")
    (tmp_path / "inbox" / "a.h5").rename(tmp_path / "private.h5")
    change(path, "a.h5", "../private.h5")
    with pytest.raises(OutsideError, match="private.h5"):
        dr.open(path)
    np.testing.assert_array_equal(dr.open(path, allow_outside=True), VOLUME)


def test_levels_that_make_no_sense(tmp_path: Path) -> None:
    path = written(tmp_path, ".h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["s00/resolutions"][:] = 0
    with pytest.raises(NotAVolumeError, match="levels"):
        dr.open(path)
