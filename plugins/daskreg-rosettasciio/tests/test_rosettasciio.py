"""Real files of HyperSpy's tests, read against RosettaSciIO; skipped where the package or the files are not there."""

from __future__ import annotations

import importlib
import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rsciio")
if "rosettasciio" not in entry_points(group="daskreg.readers").names:
    pytest.skip("daskreg-rosettasciio is not installed", allow_module_level=True)

import daskreg as dr
from daskreg.errors import NotAVolumeError
from daskreg.volumes import volume_of

FOLDER = Path(os.environ.get("DASKREG_DATA", "")) / "microscopy" / "rosettasciio"
FILES = {
    "test_STEM_image.dm3": "digitalmicrograph",
    "test-14.dm4": "digitalmicrograph",
    "64x64_TEM_images_acquire_1.ser": "tia",
    "fei_example_tem_stack.emd": "emd",
}


def real(name: str) -> Path:
    path = FOLDER / name
    if not os.environ.get("DASKREG_DATA") or not path.is_file():
        pytest.skip(f"no {name} among the real data")
    return path


@pytest.mark.parametrize("name", FILES)
def test_voxels_and_places_are_those_of_rosettasciio(name: str) -> None:
    path = real(name)
    signal: Any = importlib.import_module(f"rsciio.{FILES[name]}").file_reader(str(path))[0]
    volume = dr.open(path)
    assert volume_of(volume).source.kind == "rosettasciio"
    np.testing.assert_array_equal(np.squeeze(volume), np.squeeze(signal["data"]))
    axis = signal["axes"][-1]
    if axis["units"] in ("nm", "µm", "um"):
        assert dr.grid(volume).spacing[-1] == pytest.approx(axis["scale"])
        assert dr.grid(volume).origin[-1] == pytest.approx(axis["offset"])
        assert dr.grid(volume).unit == {"nm": "nanometer"}.get(axis["units"], "micrometer")
    else:
        assert dr.grid(volume).unit == "pixel"


def test_a_warp_of_a_file_on_workers(tmp_path: Path) -> None:
    path = real("test_STEM_image.dm3")
    with dr.connect(workers=1):
        dr.write(dr.warp(dr.open(path), pull=dr.Affine.translation(x=1.5)), tmp_path / "a.zarr", progress=False)
    wanted = dr.warp(dr.open(path), pull=dr.Affine.translation(x=1.5))
    np.testing.assert_array_equal(dr.open(tmp_path / "a.zarr"), wanted)


def test_signals_of_a_file(tmp_path: Path) -> None:
    path = real("multi_signal.dm3")
    assert dr.open(path).name == "HAADF"  # the other one is a plot
    with pytest.raises(NotAVolumeError, match=r"no image '1'; it holds 0 \(HAADF\)"):
        dr.open(path, series=1)
    (tmp_path / "a.dm4").write_bytes(path.read_bytes()[:999])
    with pytest.raises(NotAVolumeError, match="cannot be read by RosettaSciIO"):
        dr.open(tmp_path / "a.dm4")
