"""Formats: each has a reader, found by suffix."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import daskreg as dr
from daskreg.errors import NotAVolumeError
from daskreg.sources.file_formats import FORMATS, READABLE, format_of
from daskreg.sources.reader import Reader, reader_of


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
    with pytest.raises(NotAVolumeError, match=r"files ending in '\.txt' are not read; Zarr .*, MRC.* files are read"):
        dr.open(tmp_path / "a.txt")
    assert READABLE.startswith("Zarr (v2, v3, OME-Zarr, xarray's; a directory, a .zip or a URL), TIFF, HDF5/NeXus, ")


@pytest.mark.slow
def test_libraries_of_formats_are_imported_when_they_are_used() -> None:
    names = ", ".join(f"daskreg.sources.readers.{one.name}" for one in FORMATS if one.name not in ("tiff", "oif"))
    code = (
        f"import sys; import daskreg.volumes, daskreg.blocks.levels, daskreg.sources.handles, {names}; "
        "print(*{'torch', 'h5py', 'SimpleITK', 'nibabel', 'mrcfile', 'tifffile', 'distributed'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == ""
