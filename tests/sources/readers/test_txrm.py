"""TXRM: files that are written here as compound files, with the streams that dxchange and txrm2tiff read."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from compound_files import write_compound

import daskreg as dr
from daskreg.errors import MissingExtraError, NotAVolumeError
from daskreg.sources.readers.txrm import READER
from daskreg.volumes import volume_of

pytest.importorskip("olefile")

CODES = {"int8": 2, "uint8": 3, "int16": 4, "uint16": 5, "int32": 6, "uint32": 7, "float32": 10, "float64": 11}
VOLUME = np.random.default_rng(3).integers(0, 127, (103, 9, 13))
ANGLES = np.linspace(-60, 60, len(VOLUME)).astype("<f4")


def streams(values: Any = VOLUME, dtype: str = "uint16", pixel: float = 0.65, angles: Any = ANGLES) -> dict[str, bytes]:
    def number(value: Any, kind: str = "<i4") -> bytes:
        return np.asarray(value, kind).tobytes()

    info = {
        "ImageWidth": number(values.shape[2]), "ImageHeight": number(values.shape[1]), "DataType": number(CODES[dtype]),
        "NoOfImages": number(len(values)), "PixelSize": number(pixel, "<f4"), "Angles": number(angles, "<f4"),
    }  # fmt: skip
    images = {f"ImageData{k // 100 + 1}/Image{k + 1}": image.astype(f"<{np.dtype(dtype).str[1:]}").tobytes()
              for k, image in enumerate(values)}  # fmt: skip
    return {f"ImageInfo/{name}": data for name, data in info.items()} | images


@pytest.mark.parametrize("dtype", CODES)
def test_projections(tmp_path: Path, dtype: str) -> None:
    volume = dr.open(write_compound(tmp_path / "a.txrm", streams(dtype=dtype)))
    assert (volume.dims, volume.dtype, volume.name) == (("z", "y", "x"), dtype, "a")
    np.testing.assert_array_equal(volume, VOLUME)
    np.testing.assert_array_equal(volume[98:102, 3, 2:9], VOLUME[98:102, 3, 2:9])
    assert volume_of(volume).source.chunks == (1, 9, 13)
    np.testing.assert_allclose(volume.attrs["tilt_angles"], ANGLES)
    assert dr.grid(volume).unit == "micrometer"
    assert dr.grid(volume).spacing == pytest.approx((0.65,) * 3)


def test_images_large_enough_for_sectors_of_their_own(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 70, 81)).astype(np.float32)
    volume = dr.open(write_compound(tmp_path / "a.txm", streams(values, "float32", angles=np.zeros(3))))
    np.testing.assert_array_equal(volume, values)
    assert "tilt_angles" not in volume.attrs


def test_a_single_image_and_a_scan_that_ended_early(tmp_path: Path) -> None:
    image = dr.open(write_compound(tmp_path / "a.xrm", streams(VOLUME[:1], pixel=0)))
    assert (image.dims, dr.grid(image).unit) == (("y", "x"), "pixel")
    taken = streams() | {"ImageInfo/ImagesTaken": np.int32(7).tobytes()}
    assert dr.open(write_compound(tmp_path / "b.txrm", taken)).shape == (7, 9, 13)


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(change: dict[str, bytes | None], words: str) -> None:
        kept = {name: data for name, data in (streams() | change).items() if data is not None}
        path = write_compound(tmp_path / "a.txrm", kept)
        with pytest.raises(NotAVolumeError, match=words):
            dr.open(path)

    refused({"ImageInfo/DataType": np.int32(12).tobytes()}, "the type 12 of its voxels")
    refused({"ImageInfo/ImageWidth": np.int32(-4).tobytes()}, "9 x -4 pixels")
    refused({"ImageInfo/ImageWidth": np.int32(2**30).tobytes()}, "shorter than its header says")
    refused({"ImageInfo/ImageWidth": None}, "cannot be read as TXRM")
    refused({"ImageData2/Image103": None}, "lacks image 103 of 103")
    (tmp_path / "b.txm").write_bytes(b"no compound file" * 99)
    with pytest.raises(NotAVolumeError, match="cannot be read as TXRM"):
        dr.open(tmp_path / "b.txm")
    monkeypatch.setitem(sys.modules, "olefile", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'daskreg\[txrm\]'"):
        dr.open(tmp_path / "a.txrm")


def test_an_image_that_is_cut_is_named(tmp_path: Path) -> None:
    path = write_compound(tmp_path / "a.txrm", streams() | {"ImageData1/Image50": b"\0" * 40})
    volume = dr.open(path)
    with pytest.raises(dr.errors.ChunkReadError, match=r"frame \(49,\) has 20 voxels"):
        volume[49].compute()
    path = write_compound(tmp_path / "b.txrm", streams())
    READER.open(str(path))
    gc.collect()
    assert not any(file.path == str(path) for file in psutil.Process().open_files())
