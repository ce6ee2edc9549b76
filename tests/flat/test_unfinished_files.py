"""Single files: full disks, kills at bad moments, other processes, and what a resumed run knows of its source."""

from __future__ import annotations

import errno
import itertools
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr

import daskreg as dr
from daskreg.cli import run
from daskreg.errors import (
    BlocksFailedError,
    DaskregWarning,
    GridError,
    NoWorkersError,
    OptionError,
    OutputError,
    OutputExistsError,
    StorageFullError,
    UnitError,
)
from daskreg.flat import slabs, unfinished
from daskreg.flat.ledger import SlabLedger
from daskreg.flat.unfinished import UnfinishedFile

QUIET: dict[str, Any] = {"progress": False}
VALUES = np.random.default_rng(5).integers(1, 900, (23, 31, 38)).astype(np.uint16)
SUFFIXES = [".tif", ".nrrd", ".mrc", ".h5"]


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_BYTES", 4 * 31 * 38 * 2)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "in.zarr"
    zarr.create_array(path, data=VALUES, chunks=(4, 31, 38), dimension_names=("z", "y", "x"))
    return path


def stop_after(count: int, then: Callable[[], None] | None = None) -> Any:
    def progress(done: int, total: int, nbytes: int) -> None:
        if done == count:
            if then is None:
                raise KeyboardInterrupt
            then()

    return progress


def interrupted(source: Any, path: Path, count: int = 3, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        dr.write(source, path, progress=stop_after(count), **options)


def names(folder: Path, start: str = "a.") -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith(start))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_is_full_is_an_error_and_the_same_call_resumes(
    tmp_path: Path, stored: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls = tmp_path / f"a{suffix}", itertools.count()
    sync = os.fdatasync

    def full(descriptor: int) -> None:
        if next(calls) == 2:
            raise OSError(errno.EDQUOT, "quota")
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(StorageFullError, match="make room"):
        dr.write(dr.open(stored), path, **QUIET)
    result = dr.write(dr.open(stored), path, **QUIET)
    assert result.skipped == 2
    np.testing.assert_array_equal(dr.open(path).values, VALUES)


def test_a_file_for_which_there_is_no_room_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, str(path))

    monkeypatch.setattr(unfinished, "_allocate", full)
    with pytest.raises(StorageFullError, match="make room"):
        dr.write(VALUES, tmp_path / "a.nii", **QUIET)
    assert names(tmp_path) == []


@pytest.mark.parametrize("shape", [(23, 31, 38), (5, 31, 38), (1, 7, 38), (2, 4, 9)])
def test_the_runs_of_a_box_are_its_voxels_in_the_file(shape: tuple[int, ...]) -> None:
    box = dr.geometry.Box((18 - shape[0] if shape[0] < 18 else 0, 0, 0), (max(shape[0], 18), shape[1], shape[2]))
    made = np.zeros(VALUES.size, np.uint16)
    part = VALUES[box.slices]
    for start, values in unfinished._runs(box, part, VALUES.shape):
        made[start // 2 : start // 2 + values.size] = values
    expected = np.zeros_like(VALUES)
    expected[box.slices] = part
    np.testing.assert_array_equal(made.reshape(VALUES.shape), expected)


def test_chunks_that_are_lost_are_counted_also_by_a_resumed_run(tmp_path: Path, stored: Path) -> None:
    (stored / "c" / "0" / "0" / "0").unlink()
    (stored / "c" / "4" / "0" / "0").unlink()
    damaged = stored / "c" / "1" / "0" / "0"
    damaged.write_bytes(damaged.read_bytes()[:9])
    path = tmp_path / "a.nrrd"
    interrupted(dr.open(stored, corrupt="fill"), path)
    with pytest.warns(DaskregWarning) as caught:
        result = dr.write(dr.open(stored, corrupt="fill"), path, **QUIET)
    texts = [str(one.message) for one in caught]
    assert any("2 chunks" in text and "overwrite=True makes the file again" in text for text in texts)
    assert (result.skipped, result.missing, len(result.damaged)) == (3, 2, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run(["convert", str(stored), str(tmp_path / "b.mha"), "--corrupt", "fill", "-q"]) == 3


@pytest.mark.parametrize("moment", ["clear", "begin", "replace"])
def test_a_kill_while_the_file_is_begun_again_leaves_no_list_of_slabs_for_an_empty_file(
    tmp_path: Path, stored: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*args: Any) -> None:
        raise Killed

    path = tmp_path / "a.nrrd"
    interrupted(dr.open(stored), path, 4)
    with monkeypatch.context() as patch:
        # Nothing is removed after a kill.
        where = {"clear": (SlabLedger, "clear"), "begin": (SlabLedger, "begin"), "replace": (Path, "replace")}[moment]
        patch.setattr(*where, killed)
        patch.setattr(UnfinishedFile, "tidy", lambda self: None)
        if moment != "clear":
            patch.setattr(Path, "unlink", lambda self, missing_ok=False: os.path.exists(self) and os.unlink(self))
        with pytest.raises(Killed):
            dr.write(dr.open(stored), path, overwrite=True, **QUIET)
    result = dr.write(dr.open(stored), path, **QUIET)
    assert result.skipped == (4 if moment == "clear" else 0)
    np.testing.assert_array_equal(dr.open(path).values, VALUES)
    assert names(tmp_path) == ["a.nrrd"]


def test_an_error_while_the_header_is_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tifffile, "memmap", lambda path, **_: Path(path).write_bytes(b"II") / 0)
        with pytest.raises(ZeroDivisionError):
            dr.write(VALUES, tmp_path / "a.tif", **QUIET)
    assert names(tmp_path) == []
    dr.write(VALUES, tmp_path / "a.tif", **QUIET)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), VALUES)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha", ".tif", ".mrc"])
def test_axes_that_a_format_would_rename_are_refused(tmp_path: Path, suffix: str) -> None:
    section = xr.DataArray(VALUES[:, 3].astype(np.int16), dims=("z", "x"), attrs={"unit": "um"})
    with pytest.raises(GridError, match=r"would be read as \(y, x\)"):
        dr.write(section, tmp_path / f"a{suffix}", **QUIET)
    assert names(tmp_path) == []
    dr.write(section, tmp_path / "b.h5", **QUIET)
    assert dr.open(tmp_path / "b.h5").dims == ("z", "x")


def test_units_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    grid = dr.Grid(VALUES.shape, 2.0)
    with pytest.raises(UnitError, match="in pixels"):
        dr.write(dr.volumes.to_dataarray(VALUES, grid, name="v"), tmp_path / "new" / "a.mrc", **QUIET)
    assert not (tmp_path / "new").exists()


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, stored: Path) -> None:
    path = tmp_path / "a.nrrd"
    with pytest.raises(OutputExistsError, match="another process"):
        dr.write(dr.open(stored), path, progress=stop_after(2, lambda: path.write_text("theirs") and None))
    assert path.read_text() == "theirs"
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        dr.write(dr.open(stored), path, **QUIET)
    path.unlink()
    assert dr.write(dr.open(stored), path, **QUIET).blocks == 0
    np.testing.assert_array_equal(dr.open(path).values, VALUES)


def test_a_resumed_run_keeps_the_slabs_whatever_memory_is_free(
    tmp_path: Path, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.nrrd"
    interrupted(dr.open(stored), path, memory="900 kiB")
    monkeypatch.setattr(slabs, "SLAB_BYTES", 2**26)
    result = dr.write(dr.open(stored), path, **QUIET)
    assert result.skipped == 3
    np.testing.assert_array_equal(dr.open(path).values, VALUES)


def test_slabs_of_chunks_that_changed_are_named_or_made_again(tmp_path: Path, stored: Path) -> None:
    def done(name: str) -> set[int]:
        interrupted(dr.open(stored), tmp_path / name, 4)
        return {json.loads(line)[0] for line in (tmp_path / f"{name}.partial.slabs").read_text().splitlines()[1:]}

    number = min(done("a.nrrd") & done("b.nrrd"))
    array = zarr.open_array(stored, mode="r+")
    array[4 * number : 4 * number + 4] = 7
    with pytest.warns(DaskregWarning, match="1 finished slabs"):
        dr.write(dr.open(stored), tmp_path / "a.nrrd", **QUIET)
    result = dr.write(dr.open(stored), tmp_path / "b.nrrd", resume="changed", **QUIET)
    assert (result.skipped, result.changed) == (3, 1)
    np.testing.assert_array_equal(dr.open(tmp_path / "b.nrrd").values, array[...])


def test_slabs_whose_chunks_change_during_the_run_are_made_again(tmp_path: Path, stored: Path) -> None:
    array, path = zarr.open_array(stored, mode="r+"), tmp_path / "a.nrrd"

    def change() -> None:
        array[...] = VALUES + 1

    dr.write(dr.open(stored), path, progress=stop_after(2, change))
    np.testing.assert_array_equal(dr.open(path).values, VALUES + 1)


def test_folders_and_names(tmp_path: Path) -> None:
    dr.write(VALUES, tmp_path / "new" / "er" / "a.nii", **QUIET)
    assert names(tmp_path / "new" / "er") == ["a.nii"]
    with pytest.raises(OptionError, match="longer than"):
        dr.write(VALUES, tmp_path / f"{'a' * 240}.nii", **QUIET)
    (tmp_path / "f.nii").mkdir()
    with pytest.raises(OutputExistsError, match="is a folder"):
        dr.write(VALUES, tmp_path / "f.nii", overwrite=True, **QUIET)
    (tmp_path / "g.nii.partial.slabs").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        dr.write(VALUES, tmp_path / "g.nii", **QUIET)


def test_tiff_states_the_distance_of_times(tmp_path: Path) -> None:
    times = ("t", 0.25 * np.arange(23), {"units": "s"})
    array = xr.DataArray(VALUES, dims=("t", "y", "x"), coords={"t": times})
    dr.write(array, tmp_path / "a.tif", **QUIET)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        text = str(file.ome_metadata)
    assert 'TimeIncrement="0.25"' in text
    assert 'TimeIncrementUnit="s"' in text
    with pytest.warns(DaskregWarning, match="a first time"):
        dr.write(array[3:], tmp_path / "b.tif", **QUIET)


def test_errors_of_workers_are_those_of_the_package(tmp_path: Path, stored: Path) -> None:
    from distributed import Client, KilledWorker

    error = slabs._failed(
        KilledWorker("compute_slab", SimpleNamespace(address="tcp://a:1"), 3), (4, dr.geometry.Box.of((2, 3)))
    )
    assert isinstance(error, BlocksFailedError)
    waiting = {"distributed.scheduler.no-workers-timeout": "1s"}
    with (
        dask.config.set(waiting),
        Client(n_workers=0, processes=False, dashboard_address=":0") as client,
        pytest.raises(NoWorkersError, match="run the same command again"),
    ):
        dr.write(dr.open(stored), tmp_path / "a.nrrd", client=client, **QUIET)
