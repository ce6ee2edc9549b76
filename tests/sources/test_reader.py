"""Formats: each has a reader, found by suffix; a further one is a module and a line."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import daskreg as dr
from daskreg.errors import NotAVolumeError
from daskreg.geometry import Grid
from daskreg.sources import file_formats
from daskreg.sources.description import Description, OpenOptions
from daskreg.sources.file_formats import FORMATS, READABLE, Format, format_of
from daskreg.sources.locate import StoreLocation
from daskreg.sources.reader import Reader, reader_of
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.source import ArrayIndex, Source
from daskreg.sources.stamps import file_stamp
from daskreg.volumes import volume_of


@pytest.mark.parametrize("name", [one.name for one in FORMATS])
def test_each_format_has_a_reader(name: str) -> None:
    reader = reader_of(name)
    assert isinstance(reader, Reader)
    assert reader_of(name) is reader
    assert ("read_into" in vars(type(reader))) == reader.reads_into_buffers
    assert ("state" in vars(type(reader))) == reader.knows_chunk_states


def test_suffixes_name_one_format(tmp_path: Path) -> None:
    suffixes = [suffix for one in FORMATS for suffix in one.suffixes]
    assert not [s for s, n in Counter(suffixes).items() if n > 1]
    assert all(s == s.lower() and s.startswith(".") for s in suffixes)
    for path, name in {"a.nii.gz": "nifti", "A.NII": "nifti", "b.x.mrc.bz2": "mrc", "s.zarr.zip": "zarr"}.items():
        form = format_of(Path(path).suffixes)
        assert form is not None
        assert form.name == name
    for path in ("a.gz", "a", "a.txt"):
        assert format_of(Path(path).suffixes) is None
    (tmp_path / "a.txt").write_text("no volume")
    with pytest.raises(NotAVolumeError, match=r"files ending in '\.txt' are not read; Zarr .* MetaImage and MRC files"):
        dr.open(tmp_path / "a.txt")
    assert READABLE.startswith("Zarr (v2, v3, OME-Zarr, xarray's; a directory, a .zip or a URL), TIFF, HDF5/NeXus, ")


class NpyReader(Reader):
    """NumPy's own files, mapped into memory."""

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        data = np.load(location.root, mmap_mode="r")
        names = ["z", "y", "x"][3 - data.ndim :]
        array = FileArray("npy", location.root, names, data.shape, data.dtype, file_stamp(location.root))
        return array.describe(Grid(data.shape, unit=options.unit), options, name=location.name)

    def open_handle(self, path: str) -> Any:
        return np.load(path, mmap_mode="r")

    def read(self, handle: Any, index: ArrayIndex, source: Source) -> Any:
        return np.asarray(handle[index])


def test_a_further_format_is_a_module_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("daskreg.sources.readers.npy")
    module.READER = NpyReader()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(file_formats._BY_SUFFIX, ".npy", Format("npy", "NumPy", (".npy",)))
    values = np.random.default_rng(0).random((6, 7, 8))
    np.save(tmp_path / "a.npy", values)
    volume = dr.open(tmp_path / "a.npy", spacing=0.5, unit="um")
    assert dr.grid(volume) == Grid((6, 7, 8), 0.5, unit="um")
    assert volume_of(volume).source.kind == "npy"
    moved = dr.warp(volume, pull=dr.Affine.translation(x=0.5))
    dr.write(moved, tmp_path / "out.zarr", levels=1, progress=False, client=False)
    np.testing.assert_array_equal(dr.open(tmp_path / "out.zarr").values[..., :-1], values[..., 1:])


@pytest.mark.slow
def test_libraries_of_formats_are_imported_when_they_are_used() -> None:
    names = ", ".join(f"daskreg.sources.readers.{one.name}" for one in FORMATS if one.name != "tiff")
    code = (
        f"import sys; import daskreg.volumes, daskreg.blocks.levels, daskreg.sources.handles, {names}; "
        "print(*{'torch', 'h5py', 'SimpleITK', 'nibabel', 'mrcfile', 'tifffile', 'distributed'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == ""
