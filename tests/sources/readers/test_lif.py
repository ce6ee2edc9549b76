"""LIF: real files of LAS X where they are at hand, and small ones that are written here, read against liffile."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile
from lif_files import lif_image, write_lif

import daskreg as dr
from daskreg.errors import MetadataWarning, MissingExtraError, NotAVolumeError
from daskreg.sources.readers.lif import READER
from daskreg.volumes import volume_of

liffile = pytest.importorskip("liffile")

RNG = np.random.default_rng(8)
VOLUME = RNG.integers(0, 60_000, (2, 3, 5, 7, 9)).astype(np.uint16)  # t, c, z, y, x


def stored(values: Any) -> Any:
    return np.ascontiguousarray(values)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    second = VOLUME[:, :, :, ::-1] // 2
    return write_lif(
        tmp_path / "a.lif",
        [
            (lif_image("first", VOLUME, "MemBlock_0"), VOLUME),
            (lif_image("second", second, "MemBlock_1"), stored(second)),
        ],
    )


def test_images_of_a_file(path: Path) -> None:
    with pytest.warns(MetadataWarning, match=r"2 images: 0 \(first\), 1 \(second\); the first is taken"):
        volume = dr.open(path)
    with liffile.LifFile(path) as file:
        wanted = [one.asxarray().rename(dict(zip("TCZYX", "tczyx", strict=True))) for one in file.images]
    assert volume.name == "first"
    assert volume.dims == ("t", "c", "z", "y", "x")
    assert volume_of(volume).source.kind == "lif"
    np.testing.assert_array_equal(volume, VOLUME)
    np.testing.assert_array_equal(volume, wanted[0].transpose(*volume.dims))
    np.testing.assert_array_equal(volume[1, :, 2:4, 3, 1:8], VOLUME[1, :, 2:4, 3, 1:8])
    for series in (1, "second"):
        np.testing.assert_array_equal(dr.open(path, series=series), VOLUME[:, :, :, ::-1] // 2)
    for axis in "zyx":
        np.testing.assert_allclose(volume[axis], wanted[0][axis] * 1e6, rtol=1e-9, atol=1e-9)
    assert dr.grid(volume).unit == "micrometer"
    assert dr.grid(volume).spacing == pytest.approx((1, 0.5, 0.25))
    assert volume.y[1] < volume.y[0]  # its length is negative
    with pytest.raises(NotAVolumeError, match=r"no image '2'; it holds 0 \(first\)"):
        dr.open(path, series=2)


def test_files_that_are_refused(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-900])
    with pytest.raises(NotAVolumeError, match=r"a\.lif"):
        dr.open(path, series=1)
    path.write_bytes(content[:99])
    with pytest.raises(NotAVolumeError, match="cannot be read as LIF"):
        dr.open(path)
    path = write_lif(tmp_path / "b.lif", [(lif_image("b", VOLUME, "MemBlock_0", "tiles z y x"), VOLUME)])
    with pytest.raises(NotAVolumeError, match="has the axes .*M.* M are tiles"):
        dr.open(path)


def test_without_liffile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liffile", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'daskreg\[lif\]'"):
        dr.open(path)


def test_real_files(data: Path) -> None:
    """Of readlif's tests: two confocal scans in x and z, whose planes Fiji exported, and sweeps of wavelengths."""
    folder = data / "microscopy" / "lif"
    if not folder.is_dir():
        pytest.skip("no LIF files among the real data")
    volume = dr.open(folder / "xz-example.lif", series="xzt")
    assert volume.dims == ("t", "c", "z", "x")
    np.testing.assert_array_equal(volume[0, 0], tifffile.imread(folder / "c0t0.tif"))
    np.testing.assert_array_equal(volume[8, 1], tifffile.imread(folder / "c1t8.tif"))
    assert dr.grid(volume).spacing == pytest.approx((0.14028, 0.14028), rel=1e-4)
    sweep = dr.open(folder / "LeicaLASX_wavelength-sweep_example.lif", series="x_y_z_t_lambdaEmi")
    assert (sweep.dims, sweep.shape) == (("t", "wavelength", "z", "y", "x"), (2, 10, 11, 64, 64))
    assert dr.grid(sweep).spacing[0] == pytest.approx(0.5002, rel=1e-3)


def test_a_file_is_closed_with_the_last_who_reads_it(tmp_path: Path) -> None:
    path = write_lif(tmp_path / "a.lif", [(lif_image("a", VOLUME, "MemBlock_0"), VOLUME)])
    READER.open(f"{path}::/0")
    gc.collect()
    assert not any(file.path == str(path) for file in psutil.Process().open_files())
