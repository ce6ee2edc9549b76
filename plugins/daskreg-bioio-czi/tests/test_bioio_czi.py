"""Files that Zeiss's library writes; skipped where the packages are not installed."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

import daskreg as dr
from daskreg.errors import NotAVolumeError
from daskreg.volumes import volume_of

czi = pytest.importorskip("pylibCZIrw.czi")
pytest.importorskip("bioio_czi")
if "czi" not in entry_points(group="daskreg.readers").names:
    pytest.skip("daskreg-bioio-czi is not installed", allow_module_level=True)

VALUES = np.random.default_rng(0).integers(0, 60000, (2, 5, 37, 53)).astype(np.uint16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.czi"
    with czi.create_czi(str(path)) as file:
        for c, z in np.ndindex(2, 5):
            file.write(data=VALUES[c, z][..., None], plane={"C": c, "Z": z, "T": 0})
        file.write_metadata("a", channel_names={0: "DAPI", 1: "GFP"}, scale_x=2e-7, scale_y=3e-7, scale_z=1.5e-6)
    return path


def test_voxels_spacing_and_channels(path: Path) -> None:
    volume = dr.open(path)
    assert volume_of(volume).source.kind == "czi"
    assert volume.dims == ("c", "z", "y", "x")
    np.testing.assert_array_equal(volume, VALUES)
    assert list(volume.c.values) == ["DAPI", "GFP"]
    np.testing.assert_allclose(dr.grid(volume).spacing, (1.5, 0.3, 0.2), rtol=1e-9)
    assert dr.grid(volume).unit == "micrometer"


def test_times_without_a_size_of_pixels(tmp_path: Path) -> None:
    path = tmp_path / "times.czi"
    with czi.create_czi(str(path)) as file:
        for t in range(3):
            file.write(data=VALUES[0, t][..., None], plane={"C": 0, "Z": 0, "T": t})
    volume = dr.open(path)
    assert volume.dims == ("t", "y", "x")
    np.testing.assert_array_equal(volume, VALUES[0, :3])
    assert dr.grid(volume).unit == "pixel"


def test_colours(tmp_path: Path) -> None:
    path, values = tmp_path / "rgb.czi", VALUES[0, :3].astype(np.uint8).transpose(1, 2, 0)
    with czi.create_czi(str(path)) as file:
        file.write(data=np.ascontiguousarray(values), plane={"C": 0})
    volume = dr.open(path)
    assert volume.dims == ("s", "y", "x")
    np.testing.assert_array_equal(volume, values[..., ::-1].transpose(2, 0, 1))  # that library takes blue, green, red


def test_a_warp_of_a_file_on_workers(path: Path, tmp_path: Path) -> None:
    channel = dr.open(path)[1]
    with dr.connect(workers=1):
        dr.write(dr.warp(channel, pull=dr.Affine.translation(x=0.3)), tmp_path / "a.zarr", progress=False)
    np.testing.assert_array_equal(dr.open(tmp_path / "a.zarr"), dr.warp(channel, pull=dr.Affine.translation(x=0.3)))


def test_files_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(NotAVolumeError, match="no scene '4'; it holds 0"):
        dr.open(path, series=4)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(NotAVolumeError, match="cannot be read by bioio-czi"):
        dr.open(path)
