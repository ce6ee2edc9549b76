"""Sources that vanish, change or lack chunks while they are read: never recorded as done what is not theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
import zarr

import daskreg as dr
from daskreg.blocks.record.ledger import Ledger
from daskreg.errors import DaskregWarning, OutputError, OutputExistsError, SourceChangedError, SourceLostError
from daskreg.writing import verify

VALUES = np.random.default_rng(0).integers(1, 30_000, (12, 40, 34), dtype=np.int16)
OPTIONS: dict[str, Any] = {"levels": 2, "chunks": (1, 20, 17), "memory": "1 MiB", "client": False}
BELOW, ABOVE = 48, 6
"""Blocks of levels 0 and 1."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("forked_workers"),
    pytest.mark.filterwarnings("ignore:.*the axes are turned:daskreg.errors.MetadataWarning"),
]


def zarr2(path: Path) -> None:
    zarr.create_array(path, data=VALUES, chunks=(1, 20, 17), zarr_format=2)


def zarr3(path: Path) -> None:
    zarr.create_array(path, data=VALUES, chunks=(1, 20, 17))


def zarr_shards(path: Path) -> None:
    zarr.create_array(path, data=VALUES, chunks=(1, 20, 17), shards=(2, 40, 34))


def mrc(path: Path) -> None:
    mrcfile.write(path, VALUES, overwrite=True)


def tiff(path: Path) -> None:
    tifffile.imwrite(path, VALUES, photometric="minisblack")


def hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["data"] = VALUES


def nifti(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(VALUES.T, np.diag([-1.0, -1, 1, 1])), path)


def itk(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(path))


MAKERS: dict[str, Callable[[Path], None]] = {
    "a2.zarr": zarr2, "a3.zarr": zarr3, "shards.zarr": zarr_shards, "a.mrc": mrc, "a.tif": tiff, "a.h5": hdf5,
    "a.nii": nifti, "a.nrrd": itk, "a.mha": itk,
}  # fmt: skip
FILES = {name: maker for name, maker in MAKERS.items() if "zarr" not in name}


def after(count: int, act: Callable[[], Any]) -> Callable[[int, int, int], None]:
    """A progress function that does something once some blocks are done."""
    left = [act]

    def progress(done: int, total: int, nbytes: int) -> None:
        if done >= count and left:
            left.pop()()

    return progress


def write(path: Path, **more: Any) -> dr.writing.Written:
    return dr.write(dr.open(path), path.parent / "out.zarr", **OPTIONS | {"progress": False} | more)


def is_right(folder: Path, expected: np.ndarray = VALUES) -> bool:
    below, above = (dr.open(folder / "out.zarr", level=k).values for k in (0, 1))
    means = expected.astype(float).reshape(6, 2, 20, 2, 17, 2).mean((1, 3, 5))
    fits = np.array_equal(below, expected) and bool(np.all(np.abs(above - means) <= 0.5))
    return fits and verify(folder / "out.zarr") == []


@pytest.mark.parametrize("name", MAKERS)
def test_a_source_that_goes_away_ends_the_run_and_nothing_of_it_is_recorded(tmp_path: Path, name: str) -> None:
    path, away = tmp_path / name, tmp_path / "away"
    MAKERS[name](path)
    with pytest.raises(SourceLostError, match=rf"{name}\S* is gone.*run the same command again"):
        write(path, progress=after(10, lambda: path.rename(away)))
    kept = len(Ledger(tmp_path / "out.zarr").entries())
    assert 10 <= kept < BELOW
    with pytest.raises(Exception, match=name):
        write(path)
    away.rename(path)
    written = write(path)
    assert (written.skipped, written.missing) == (kept, 0)
    assert is_right(tmp_path)


def test_a_source_that_goes_away_under_a_graph_ends_the_run(tmp_path: Path) -> None:
    zarr3(tmp_path / "a.zarr")
    lazy = dr.open(tmp_path / "a.zarr", chunks=(1, 20, 17)) + 1
    away = after(10, lambda: (tmp_path / "a.zarr").rename(tmp_path / "away"))
    with pytest.raises(SourceLostError, match=r"a\.zarr is gone"):
        dr.write(lazy, tmp_path / "out.zarr", **OPTIONS, progress=away)


@pytest.mark.slow
def test_a_source_that_goes_away_on_workers_ends_the_run(tmp_path: Path) -> None:
    zarr3(tmp_path / "a.zarr")
    with dr.connect(workers=1) as client:
        away = after(10, lambda: (tmp_path / "a.zarr").rename(tmp_path / "away"))
        with pytest.raises(SourceLostError, match=r"a\.zarr is gone"):
            write(tmp_path / "a.zarr", client=client, progress=away)
        (tmp_path / "away").rename(tmp_path / "a.zarr")
        assert write(tmp_path / "a.zarr", client=client).missing == 0
    assert is_right(tmp_path)


def test_a_source_that_is_away_for_a_moment_is_read_again(tmp_path: Path) -> None:
    """Away when a chunk is read, and there when one looks: its missing chunks are there at the end."""
    zarr3(tmp_path / "a.zarr")
    chunk = tmp_path / "a.zarr" / "c" / "8" / "0" / "1"
    content, times = chunk.read_bytes(), chunk.stat()
    chunk.unlink()

    def back() -> None:
        chunk.write_bytes(content)
        os.utime(chunk, ns=(times.st_atime_ns, times.st_mtime_ns))

    written = write(tmp_path / "a.zarr", progress=after(40, back))
    assert written.blocks > BELOW + ABOVE
    assert is_right(tmp_path)


OTHERS: dict[str, Callable[[np.ndarray], dict[str, Any]]] = {
    "type": lambda v: {"data": v.astype("f4"), "chunks": (1, 20, 17)},
    "shape": lambda v: {"data": v[:10], "chunks": (1, 20, 17)},
    "chunks": lambda v: {"data": v, "chunks": (3, 40, 34)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_metadata_of_a_zarr_array_are_noticed(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.zarr"
    zarr3(path)
    zarr.create_array(tmp_path / "other.zarr", **OTHERS[what](VALUES))
    replace = after(10, lambda: shutil.copytree(tmp_path / "other.zarr", path, dirs_exist_ok=True))
    with pytest.raises(SourceChangedError, match=r"a\.zarr was changed while it was read|a\.zarr has the shape"):
        write(path, progress=replace)
    with pytest.raises(OutputError):
        write(path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["cut", "overwritten"])
def test_files_that_are_cut_or_overwritten_are_noticed(tmp_path: Path, name: str, how: str) -> None:
    path = tmp_path / name
    MAKERS[name](path)
    size = path.stat().st_size

    def change() -> None:
        if how == "cut":
            os.truncate(path, size - 15_000)
        else:
            time.sleep(0.02)  # the clock of a file system has ticks of some milliseconds
            with path.open("r+b") as file:
                file.seek(-15_000, os.SEEK_END)
                file.write(bytes(15_000))

    with pytest.raises(SourceChangedError, match=f"{name}.*was changed while it was read"):
        write(path, progress=after(10, change))


def test_raw_files_that_are_cut_under_threads_do_not_end_the_process(tmp_path: Path) -> None:
    """As maps into memory did (SIGBUS). They are cut again and again, so that it meets a read."""
    names = ["a.mrc", "a.nii", "a.nrrd"]
    for name in names:
        MAKERS[name](tmp_path / name)
    code = (
        "import sys, os, threading, daskreg as dr\n"
        "from daskreg.volumes import volume_of\n"
        "def cut(path, size, ended):\n"
        "    while not ended.is_set():\n"
        "        os.truncate(path, 2000); os.truncate(path, size)\n"
        "for path in sys.argv[1:]:\n"
        "    print(path, flush=True); source = volume_of(dr.open(path)).source\n"
        "    source.read(source.readable); ended = threading.Event(); failed = 0\n"
        "    thread = threading.Thread(target=cut, args=(path, os.path.getsize(path), ended)); thread.start()\n"
        "    for _ in range(300):\n"
        "        try: source.read(source.readable)\n"
        "        except dr.errors.RunError: failed += 1\n"
        "    ended.set(); thread.join(); print(failed, flush=True)\n"
    )
    command = [sys.executable, "-c", code, *names]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 0, (ended.returncode, ended.stdout, ended.stderr[-500:])
    told = ended.stdout.split()
    assert told[::2] == names
    assert all(int(failed) > 100 for failed in told[1::2])


def test_a_chunk_that_is_written_during_the_run_is_read_again(tmp_path: Path) -> None:
    zarr3(tmp_path / "a.zarr")
    changed = VALUES.copy()
    changed[2] = 7

    def change() -> None:
        zarr.open_array(tmp_path / "a.zarr")[2] = 7

    written = write(tmp_path / "a.zarr", progress=after(30, change))
    assert written.blocks >= BELOW + ABOVE + 4
    assert is_right(tmp_path, changed)


def test_a_source_that_is_written_all_the_time_is_named(tmp_path: Path) -> None:
    zarr3(tmp_path / "a.zarr")
    array = zarr.open_array(tmp_path / "a.zarr")

    def change(done: int, total: int, nbytes: int) -> None:
        array[0, :20, :17] = done

    with pytest.raises(SourceChangedError, match=r"a\.zarr was written to while it was read: 1 blocks.*\(0, 0, 0\)"):
        write(tmp_path / "a.zarr", progress=change)
    assert write(tmp_path / "a.zarr", resume="changed").changed == 1


@pytest.mark.parametrize("shift", [-1000, 1000], ids=["older", "in the future"])
def test_a_chunk_that_is_replaced_is_noticed_whatever_its_time(tmp_path: Path, shift: int) -> None:
    """`cp -p` and `rsync -a` keep times, which may be older than the output; other hosts may be ahead."""
    path = tmp_path / "a.zarr"
    zarr3(path)
    chunk = path / "c" / "3" / "0" / "0"
    moved = int((time.time() + shift) * 1e9)
    os.utime(chunk, ns=(moved, moved))
    write(path)
    assert write(path, resume="changed").blocks == 0
    zarr.open_array(path)[3, :20, :17] = 9
    os.utime(chunk, ns=(moved - 10**9, moved - 10**9))
    again = write(path, resume="changed")
    assert again.changed == 2
    assert again.blocks == 2  # it, and the one above
    assert write(path, resume="changed").blocks == 0
    assert verify(tmp_path / "out.zarr") == []


@pytest.mark.parametrize("maker", [zarr2, zarr3, zarr_shards])
def test_blocks_that_lacked_chunks_are_made_again_when_these_exist(
    tmp_path: Path, maker: Callable[[Path], None]
) -> None:
    path = tmp_path / "a.zarr"
    maker(path)
    chunk = next(f for f in sorted(path.rglob("*")) if f.is_file() and not f.name.startswith((".z", "zarr")))
    chunk.rename(tmp_path / "away")
    with pytest.warns(DaskregWarning, match="chunks of the source are not stored"):
        first = write(path)
    assert first.missing > 0
    with pytest.warns(DaskregWarning, match="chunks of the source are not stored"):
        second = write(path)
    assert (second.blocks, second.missing) == (0, first.missing)  # they are remembered
    (tmp_path / "away").rename(chunk)
    third = write(path)
    assert 0 < third.blocks < 20
    assert third.missing == 0
    assert is_right(tmp_path)


def test_levels_above_are_made_again_after_a_kill_between(tmp_path: Path) -> None:
    """The block below was made again, and the run ended before the level above was."""
    path = tmp_path / "a.zarr"
    zarr3(path)
    write(path)
    zarr.open_array(path)[5] = 11
    with pytest.raises(KeyboardInterrupt):
        write(path, resume="changed", progress=after(BELOW, _interrupt))
    assert write(path).blocks == 1
    changed = VALUES.copy()
    changed[5] = 11
    assert is_right(tmp_path, changed)


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("what", ["0", "1", "0/zarr.json", "zarr.json", "."])
def test_an_output_that_goes_away_is_never_called_written(tmp_path: Path, what: str) -> None:
    zarr3(tmp_path / "a.zarr")
    out = tmp_path / "out.zarr"
    with pytest.raises(OutputError, match="removed"):
        write(tmp_path / "a.zarr", progress=after(10, lambda: (out / what).resolve().rename(tmp_path / "away")))


def test_chunks_that_are_removed_during_the_run_are_made_again(tmp_path: Path) -> None:
    zarr3(tmp_path / "a.zarr")
    chunk = tmp_path / "out.zarr" / "0" / "c" / "0" / "0" / "0"
    written = write(tmp_path / "a.zarr", progress=after(30, chunk.unlink))
    assert written.blocks == BELOW + ABOVE + 1
    assert is_right(tmp_path)


def test_a_file_that_is_replaced_before_the_run_is_refused(tmp_path: Path) -> None:
    mrc(tmp_path / "a.mrc")
    opened = dr.open(tmp_path / "a.mrc")
    time.sleep(0.02)
    mrc(tmp_path / "a.mrc")
    with pytest.raises(SourceChangedError, match="open it again"):
        dr.write(opened, tmp_path / "out.zarr", **OPTIONS, progress=False)
    write(tmp_path / "a.mrc")
    time.sleep(0.02)
    mrc(tmp_path / "a.mrc")
    with pytest.raises(OutputExistsError, match="resume='changed'"):
        write(tmp_path / "a.mrc")
