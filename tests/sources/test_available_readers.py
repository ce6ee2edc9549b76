"""Readers of other packages: found by their entry points in every process, also on the workers of a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import daskreg as dr
from daskreg.errors import NotAVolumeError, UnfitWorkerError
from daskreg.sources import available_readers

ROWS = '''
import numpy as np

from daskreg.readers import FileArray, Grid, NotAVolumeError, Reader, file_stamp


class Rows(Reader):
    """A line of two sizes, and one of numbers."""

    suffixes = (".rows",)

    def describe(self, location, options):
        with open(location.root) as file:
            words = file.readline().split()
        if len(words) != 2:
            raise NotAVolumeError(f"{location} has no sizes")
        shape = tuple(map(int, words))
        array = FileArray("rows", location.root, ["y", "x"], shape, np.dtype("int64"), file_stamp(location.root))
        return array.describe(Grid(shape, 0.25, unit="um", axes=("y", "x")), options, name=location.name)

    def open(self, path):
        with open(path) as file:
            shape = tuple(map(int, file.readline().split()))
            return np.array(file.readline().split(), dtype="int64").reshape(shape)

    def read(self, handle, index, source):
        return handle[index]


class Misnamed(Rows):
    suffixes = (".misnamed",)
'''

PROGRAM = """
import os
import warnings

import numpy as np
import pytest

import daskreg as dr
from daskreg.errors import MetadataWarning, NotAVolumeError


def worker():
    from daskreg.sources.available_readers import reader_named

    return type(reader_named("rows")).__name__, os.getpid()


if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = dr.open("a.rows")
    (warned,) = caught
    assert warned.category is MetadataWarning and "nothing_of_this_name" in str(warned.message)
    warnings.simplefilter("ignore", MetadataWarning)
    assert dr.grid(volume) == dr.Grid((5, 6), 0.25, unit="um", axes=("y", "x"))
    for name, text, message in [
        ("b.rows", "7", "no sizes"),
        ("c.rows", "7 x", "damaged"),
        ("d.misnamed", "5 6", "describes the format 'rows', and its entry point is 'misnamed'"),
        ("e.unknown", "5 6", "'.unknown' are not read"),
    ]:
        with open(name, "w") as file:
            file.write(text)
        with pytest.raises(NotAVolumeError, match=message):
            dr.open(name)
    with dr.connect(workers=1) as client:
        ((name, process),) = client.run(worker).values()
        assert name == "Rows" and process != os.getpid()
        moved = dr.warp(volume, pull=dr.Affine.translation(x=0.25, unit="um"))
        dr.write(moved, "out.zarr", levels=1, progress=False)
    np.testing.assert_array_equal(dr.open("out.zarr").values[:, :-1], np.arange(30).reshape(5, 6)[:, 1:])
    print("done")
"""


@pytest.mark.slow
def test_a_reader_of_another_package_reads_on_a_worker(tmp_path: Path) -> None:
    package = tmp_path / "packages" / "rows_reader-1.0.dist-info"  # as an installer lays it out
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: rows-reader\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[daskreg.readers]\nrows = rows_reader:Rows\nmisnamed = rows_reader:Misnamed\n"
        "broken = nothing_of_this_name:READER\ntiff = nothing_of_this_name:READER\n"
    )
    (package.parent / "rows_reader.py").write_text(ROWS)
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "a.rows").write_text(f"5 6\n{' '.join(map(str, range(30)))}\n")
    places = [str(package.parent), str(Path(dr.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "done", done.stderr


def test_a_machine_without_the_package() -> None:
    with pytest.raises(UnfitWorkerError, match="no package on .* reads the format 'rows'"):
        available_readers.reader_named("rows")


def test_other_suffixes_name_a_package(tmp_path: Path) -> None:
    (tmp_path / "a.dm4").write_bytes(b"\0\0\0\4")
    with pytest.raises(NotAVolumeError, match=r"'\.dm4' are not read \(pip install daskreg-rosettasciio, also"):
        dr.open(tmp_path / "a.dm4")
