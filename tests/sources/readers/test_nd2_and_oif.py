"""ND2 and OIF: real files, read against nd2 and oiffile, and an OIF that is written here."""

from __future__ import annotations

import gc
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile
from compound_files import write_compound
from oif_files import VALUES, write_oif

import daskreg as dr
from daskreg.errors import MissingExtraError, NotAVolumeError, OutsideError
from daskreg.sources.reader import reader_of
from daskreg.sources.readers.oif.compound import check_chains
from daskreg.volumes import volume_of


def real(data: Path, name: str) -> Path:
    path = data / "microscopy" / name
    if not path.is_file():
        pytest.skip(f"no {name} among the real data")
    return path


def is_closed_with_its_reader(kind: str, path: Path, folder: Path) -> bool:
    copy = Path(shutil.copy(path, folder))
    reader_of(kind).open(str(copy))
    gc.collect()
    return not any(file.path == str(copy) for file in psutil.Process().open_files())


def test_a_real_nd2_file(data: Path, tmp_path: Path) -> None:
    """Of pims' tests: a confocal series of 3 times, 10 slices and 2 channels."""
    nd2 = pytest.importorskip("nd2")
    path = real(data, "cluster.nd2")
    volume = dr.open(path)
    with nd2.ND2File(path) as file:
        wanted = file.to_xarray(delayed=False).transpose("T", "C", "Z", "Y", "X")
    assert (volume.dims, volume.dtype) == (("t", "c", "z", "y", "x"), np.uint16)
    np.testing.assert_array_equal(volume, wanted)
    np.testing.assert_array_equal(volume[1, 1, 3:7, 5, 2:30], wanted[1, 1, 3:7, 5, 2:30])
    assert volume.c.values.tolist() == ["5-FAM/pH 9.0", "FM 4-64/2% CHAPS"]
    for axis in "zyx":
        np.testing.assert_allclose(volume[axis], wanted[axis.upper()], rtol=1e-9)
    assert dr.grid(volume).unit == "micrometer"
    assert volume_of(volume).source.chunks == (1, 2, 1, 31, 38)
    with pytest.raises(NotAVolumeError, match="no position '1'; it holds 1"):
        dr.open(path, series=1)
    assert is_closed_with_its_reader("nd2", path, tmp_path)


def test_nd2_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nd2")
    path = tmp_path / "a.nd2"
    path.write_bytes(b"no file of Nikon" * 99)
    with pytest.raises(NotAVolumeError, match="cannot be read as ND2"):
        dr.open(path)
    monkeypatch.setitem(sys.modules, "nd2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'daskreg\[nd2\]'"):
        dr.open(path)


def test_a_real_oib_file(data: Path, tmp_path: Path) -> None:
    """Of oiffile's tests: three channels of FluoView."""
    oiffile = pytest.importorskip("oiffile")
    path = real(data, "test.oib")
    volume = dr.open(path)
    with oiffile.OifFile(path) as file:
        np.testing.assert_array_equal(volume, file.asarray())
    assert volume.dims == ("c", "y", "x")
    assert volume.c.values.tolist() == ["CH1", "CH2", "TD1"]
    assert (dr.grid(volume).spacing, dr.grid(volume).unit) == ((0.177, 0.177), "micrometer")
    assert is_closed_with_its_reader("oif", path, tmp_path)


def test_times_channels_and_slices_of_an_oif_file(tmp_path: Path) -> None:
    pytest.importorskip("oiffile")
    volume = dr.open(write_oif(tmp_path / "a.oif"))
    assert volume.dims == ("t", "c", "z", "y", "x")
    np.testing.assert_array_equal(volume, VALUES)
    np.testing.assert_array_equal(volume[1, 2, 1:3, 4:9, 3], VALUES[1, 2, 1:3, 4:9, 3])
    assert dr.grid(volume).spacing == pytest.approx((0.5, 0.25, 0.2))
    np.testing.assert_allclose(volume.t, (0, 750))
    assert volume.t.attrs["units"] == "ms"
    assert len(reader_of("oif").files(str(tmp_path / "a.oif"))) == 25


@pytest.mark.timeout(60, method="thread")
def test_an_image_whose_pages_form_a_circle(tmp_path: Path) -> None:
    """To look for further pages would not end."""
    pytest.importorskip("oiffile")
    path = write_oif(tmp_path / "a.oif")
    image = tmp_path / "a.oif.files" / "s_C001Z001T001.tif"
    tifffile.imwrite(image, VALUES[0, 0, 0], metadata=None)
    data = bytearray(image.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (tags,) = struct.unpack_from("<H", data, first)
    end = first + 2 + 12 * tags
    assert struct.unpack_from("<I", data, end) == (0,)  # no further page
    second = len(data)
    struct.pack_into("<I", data, end, second)
    data += data[first:end] + struct.pack("<I", second)  # of which the next one is the same
    image.write_bytes(data)
    np.testing.assert_array_equal(dr.open(path), VALUES)


def test_oif_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("oiffile")
    with pytest.raises(NotAVolumeError, match=r"lacks the image s_C002Z003T001\.tif"):
        dr.open(write_oif(tmp_path / "a.oif", leave_out="s_C002Z003T001.tif"))
    path = write_oif(tmp_path / "b.oif")
    moved: Any = tmp_path / "b.oif.files" / "s_C001Z001T001.tif"
    (tmp_path / "elsewhere").mkdir()
    moved.rename(tmp_path / "elsewhere" / "a.tif")
    moved.symlink_to(tmp_path / "elsewhere" / "a.tif")
    assert dr.open(path).shape == VALUES.shape  # within the folder of the file
    outside = tmp_path.parent / f"{tmp_path.name}.tif"
    (tmp_path / "elsewhere" / "a.tif").rename(outside)
    moved.unlink()
    moved.symlink_to(outside)
    with pytest.raises(OutsideError):
        dr.open(path)
    for name in ("c.oif", "c.oib"):
        (tmp_path / name).write_bytes(b"nothing of Olympus" * 50)
        with pytest.raises(NotAVolumeError, match="cannot be read as OIF or OIB"):
            dr.open(tmp_path / name)
    monkeypatch.setitem(sys.modules, "oiffile", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'daskreg\[oif\]'"):
        dr.open(path)


def test_a_compound_file_whose_sectors_run_in_circles(tmp_path: Path) -> None:
    streams = {"small": b"a" * 300, "large": b"b" * 9000, "Storage00001/other": b"c" * 5000}
    path = write_compound(tmp_path / "a.oib", streams)
    check_chains(str(path))
    content = path.read_bytes()
    table = struct.unpack_from("<I", content, 76)[0]  # the first sector of the table
    for place in (512 * (table + 1) + 4 * 3, 512 * (struct.unpack_from("<I", content, 60)[0] + 1) + 4 * 2):
        damaged = bytearray(content)
        damaged[place : place + 4] = (1).to_bytes(4, "little")
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="run in circles"):
            check_chains(str(path))
    path.write_bytes(content[:700])
    check_chains(str(path))  # cut files are oiffile's to refuse


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_workers_read_what_libraries_read(tmp_path: Path) -> None:
    pytest.importorskip("oiffile")
    pytest.importorskip("olefile")
    info = {"ImageWidth": 17, "ImageHeight": 11, "DataType": 5, "NoOfImages": 4}
    streams = {f"ImageInfo/{name}": np.int32(value).tobytes() for name, value in info.items()}
    streams |= {f"ImageData1/Image{k + 1}": VALUES[0, 0, k].tobytes() for k in range(4)}
    write_compound(tmp_path / "b.txrm", streams)
    dr.write(VALUES[0, 0], tmp_path / "c.vtkhdf", progress=False)
    volumes = {"a": dr.open(write_oif(tmp_path / "a.oif")), "b": dr.open(tmp_path / "b.txrm")}
    volumes["c"] = dr.open(tmp_path / "c.vtkhdf")
    with dr.connect(workers=1):
        for name, volume in volumes.items():
            dr.write(volume, tmp_path / f"{name}.zarr", progress=False)
    for name, expected in (("a", VALUES), ("b", VALUES[0, 0]), ("c", VALUES[0, 0])):
        np.testing.assert_array_equal(dr.open(tmp_path / f"{name}.zarr"), expected)
