"""Where `write` may write: never into what it reads, never over what is not its own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import daskreg as dr
from daskreg.blocks.fingerprints import BlockFingerprints
from daskreg.blocks.input_files import locations
from daskreg.blocks.levels import RunOptions, plan_levels
from daskreg.blocks.memory import Processes
from daskreg.blocks.output import OutputRun
from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.run_levels import unfinished_items
from daskreg.blocks.write_block import write_block
from daskreg.errors import (
    DaskregError,
    InputError,
    LayoutMismatchError,
    NotAVolumeError,
    OptionError,
    OutputBusyError,
    OutputError,
    OutputExistsError,
    UnsafeOutputError,
)
from daskreg.runtime.atomic import replace_file
from daskreg.volumes import volume_of
from daskreg.warping import make_job
from daskreg.writing import verify

PIXELS = np.random.default_rng(0).integers(0, 60_000, (10, 40, 44), dtype=np.uint16)
SHIFT = dr.Affine.translation(x=1)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """An image that daskreg wrote, so that it would be overwritten."""
    dr.write(PIXELS, tmp_path / "made.zarr", levels=2, progress=False)
    return tmp_path / "made.zarr"


DERIVED: dict[str, Callable[[Path], Any]] = {
    "itself": dr.open,
    "another level": lambda path: dr.open(path, level=1),
    "arithmetic": lambda path: dr.open(path) + 1,
    "a slice": lambda path: dr.open(path)[:5],
    "a warp": lambda path: dr.warp(dr.open(path), pull=SHIFT),
    "a warp of arithmetic": lambda path: dr.warp(dr.open(path) * 2, pull=SHIFT),
    "arithmetic on a warp": lambda path: dr.warp(dr.open(path), pull=SHIFT) * 2,
    "an optimized graph": lambda path: dask.optimize(dr.open(path) + 1)[0],
    "dask's own reading": lambda path: da.from_zarr(str(path), component="0"),
    "an array in dask": lambda path: da.from_array(zarr.open_array(path / "0")),
    "two arrays": lambda path: xr.concat([dr.open(path), dr.open(PIXELS)], dim="t"),
}


@pytest.mark.slow
@pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED)
@pytest.mark.parametrize("options", [{"overwrite": True}, {"resume": "changed"}, {}])
def test_what_is_read_is_not_written_to(made: Path, derive: Callable[[Path], Any], options: dict[str, Any]) -> None:
    for path in (made, made / "inside.zarr", made.parent):
        with pytest.raises(UnsafeOutputError, match=r"made\.zarr"):
            dr.write(derive(made), path, levels=2, progress=False, **options)
    with pytest.raises(UnsafeOutputError):
        dr.plan(derive(made), made)
    assert verify(made) == []
    dr.write(derive(made), made.with_name("other.zarr"), levels=1, progress=False)


def test_what_xarray_opened_is_found(tmp_path: Path) -> None:
    xr.Dataset({"a": (("y", "x"), np.ones((4, 5)))}).to_zarr(tmp_path / "x.zarr", consolidated=False)
    opened = xr.open_zarr(tmp_path / "x.zarr", consolidated=False)["a"] + 1
    assert locations(volume_of(opened).source) == {Path(os.path.realpath(tmp_path / "x.zarr"))}


@pytest.mark.slow
def test_paths_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    given = ("a.zarr", "b.zarr/", Path("c.zarr"), "new/deep/d.zarr", "x/../e.zarr", "~/f.zarr", f"file://{tmp_path}/g")
    wanted = ("a.zarr", "b.zarr", "c.zarr", "new/deep/d.zarr", "e.zarr", "home/f.zarr", "g")
    for path, place in zip(given, wanted, strict=True):
        assert dr.plan(PIXELS, path).path == str(tmp_path / place)
        assert dr.write(PIXELS, path, progress=False).path == str(tmp_path / place)
        assert (tmp_path / f"{place}.daskreg" / "run.json").is_file()
        assert dr.write(PIXELS, tmp_path / place, progress=False).blocks == 0


@pytest.mark.parametrize(
    ("name", "instead"),
    [("a.ome.tif", "a"), ("B.TIFF", "B"), ("a.nii.gz", "a"), ("scan.v2.h5", "scan.v2"), ("c.npy", "c"), ("d.ims/", "d"),
     ("e.ome.zarr.zip", "e"), ("f.tar.gz", "f.tar"), ("g.mhd", "g")],
)  # fmt: skip
def test_the_name_of_a_file_is_not_given_to_a_folder(tmp_path: Path, name: str, instead: str) -> None:
    if name.endswith((".tif", ".TIFF", ".h5")):  # written as files of these formats
        assert dr.plan(PIXELS, f"{tmp_path}/{name}").files == 1
        return
    with pytest.raises(OptionError, match=rf"such as {re.escape(instead)}\.ome\.zarr"):
        dr.plan(PIXELS, f"{tmp_path}/{name}")
    with pytest.raises(OptionError, match=rf"such as {re.escape(instead)}\.ome\.zarr"):
        dr.write(PIXELS, f"{tmp_path}/{name}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["plain", "scan_0.5um", "a.v2", "b.ome.zarr", "c.n5.zarr", "tif"])
def test_other_names_of_folders_are_written(tmp_path: Path, name: str) -> None:
    assert dr.write(PIXELS, tmp_path / name, levels=1, progress=False).path == str(tmp_path / name)


def test_places_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file is a file, not a folder"):
        dr.write(PIXELS, tmp_path / "file" / "a.zarr", progress=False)
    with pytest.raises(OutputExistsError):
        dr.write(PIXELS, tmp_path / "file", overwrite=True, progress=False)
    with pytest.raises(UnsafeOutputError):
        dr.write(PIXELS, "/", overwrite=True, progress=False)
    with pytest.raises(OptionError, match="sftp://"):
        dr.write(PIXELS, "sftp://host/a.zarr", progress=False)


def test_a_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(OutputError, match=r"a\.zarr cannot be made .*check the permissions"):
        dr.write(PIXELS, tmp_path / "a.zarr", progress=False)


@pytest.mark.parametrize("levels", [1, 3])
def test_another_number_of_levels_is_refused_and_nothing_lost(made: Path, levels: int) -> None:
    with pytest.raises(LayoutMismatchError, match="number of levels is 2"):
        dr.write(PIXELS, made, levels=levels, progress=False)
    assert verify(made) == []


@pytest.mark.parametrize(("pixels", "word"), [(PIXELS[0], "dims"), (PIXELS[None], "dims"), (PIXELS[:5], "shape")])
def test_another_shape_is_named(made: Path, pixels: np.ndarray, word: str) -> None:
    with pytest.raises(LayoutMismatchError, match=f"level 0 {word} is"):
        dr.write(pixels, made, levels=2, progress=False)


@pytest.mark.parametrize(
    "layout",
    [
        {},
        [1],
        {"facts": {}, "run": "x", "blocks": []},
        {"facts": {"number of levels": 1, "level 0 shape": [1, 2]}, "run": "x", "blocks": [{"block": "q"}]},
        {"facts": {"number of levels": 1, "level 0 shape": [1, 2]}, "run": "x", "blocks": [{"block": [1]}]},
        {"facts": {"number of levels": 1, "level 0 shape": [1, 2]}, "run": "x", "blocks": [{"block": [0, 1]}]},
    ],
)
def test_a_damaged_ledger_is_named_and_nothing_is_removed(made: Path, layout: Any) -> None:
    file = made.with_name("made.zarr.daskreg") / "run.json"
    file.write_text(json.dumps({"schema": "daskreg/ledger", "version": 1, "layout": layout}))
    with pytest.raises(NotAVolumeError, match=r"run\.json is not a ledger of daskreg, or is damaged"):
        dr.write(PIXELS, made, levels=2, progress=False)
    with pytest.raises(OutputExistsError):
        dr.write(PIXELS, made, levels=2, overwrite=True, progress=False)
    np.testing.assert_array_equal(dr.open(made).values, PIXELS)


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("number of levels", 1e999),
        ("level 1 shape", None),
        ("level 0 shape", [6, float("inf")]),
        ("level 0 chunks", [[3], 4]),
        ("level 1 chunks", [0, 1]),
        ("level 0 shards", [2]),
        ("level 0 dtype", None),
    ],
)
def test_facts_that_describe_no_array_are_named_by_verify(made: Path, fact: str, value: Any) -> None:
    file = made.with_name("made.zarr.daskreg") / "run.json"
    data = json.loads(file.read_text())
    data["layout"]["facts"][fact] = value
    file.write_text(json.dumps(data))
    with pytest.raises(NotAVolumeError, match=r"run\.json is not a ledger of daskreg, or is damaged"):
        verify(made)


@pytest.mark.parametrize("content", [None, b"", b"\0" * 300, b'{"schema": "daskreg/led'])
def test_a_ledger_whose_run_is_lost_is_named_with_the_remedy(made: Path, content: bytes | None) -> None:
    folder = made.with_name("made.zarr.daskreg")
    before = sorted(path.name for path in folder.iterdir())
    (folder / "run.json").unlink()
    if content is not None:
        (folder / "run.json").write_bytes(content)
    for overwrite in (False, True):
        with pytest.raises(DaskregError, match=r"run\.json is (lost|damaged|not a ledger).*remove") as caught:
            dr.write(PIXELS, made, levels=2, overwrite=overwrite, progress=False)
        assert "did not make it" not in str(caught.value)
    assert {"run.json", *(path.name for path in folder.iterdir())} == set(before)
    np.testing.assert_array_equal(dr.open(made).values, PIXELS)


def test_entries_that_make_no_sense_are_ignored(made: Path) -> None:
    for file in made.with_name("made.zarr.daskreg").glob("*.jsonl"):
        file.write_bytes(
            b'\xff\xfe\n[1]\n{}\n{"level":0,"block":[9,9,9],"fingerprint":"z","files":[["../../x",1,2]],'
            b'"clipped":0,"written":1}\n'
        )
    again = dr.write(PIXELS, made, levels=2, progress=False)
    assert again.skipped == 0
    assert verify(made) == []


@pytest.mark.parametrize("memory", ["a lot", 0, -1, "-2 GiB", True, float("nan"), [1]])
def test_memory_must_be_a_size(tmp_path: Path, memory: Any) -> None:
    with pytest.raises(OptionError, match="memory="):
        dr.write(PIXELS, tmp_path / "a.zarr", memory=memory, progress=False)


def test_every_refusal_is_one_of_ours(made: Path) -> None:
    for path in ("", ".", made.with_name("made.zarr.daskreg")):
        with pytest.raises(DaskregError):
            dr.write(dr.open(made), path, overwrite=True, progress=False)


def test_a_disk_that_may_not_be_written_ends_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refused(path: Path, parts: Any, **options: Any) -> None:
        if "c" not in path.parts:  # metadata and the ledger
            return replace_file(path, parts, **options)
        calls.append(path)
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("daskreg.sources.storage.folder_bytes.replace_file", refused)
    with pytest.raises(OutputError, match=r"a\.zarr cannot be written .*Permission denied"):
        dr.write(PIXELS, tmp_path / "a.zarr", chunks=(1, 40, 44), memory="1 MiB", progress=False, client=False)
    assert len(calls) < 10


BAD_NAMES = {
    "NUL": ("a\0b", "NUL"),
    "long": ("x" * 252, "longer than"),
    "deep": ("/".join(["y" * 200] * 30) + "/a", "longer than"),
    "surrogate": ("a\ud800", "surrogate"),
}


@pytest.mark.parametrize(("name", "reason"), BAD_NAMES.values(), ids=BAD_NAMES)
def test_names_that_no_file_can_have(tmp_path: Path, name: str, reason: str) -> None:
    path = f"{tmp_path}/{name}"
    calls: dict[type[DaskregError], list[Callable[[], Any]]] = {
        OptionError: [
            lambda: dr.write(PIXELS, path + ".zarr", progress=False),
            lambda: dr.plan(PIXELS, path + ".zarr"),
        ],
        NotAVolumeError: [
            lambda: dr.open(path + ".zarr"),
            lambda: dr.open(path + ".tif"),
            lambda: verify(path + ".zarr"),
        ],
        InputError: [lambda: dr.load(path + ".json"), lambda: SHIFT.save(path + ".json")],
    }
    for kind, each in calls.items():
        for call in each:
            with pytest.raises(kind, match=reason) as raised:
                call()
            assert len(str(raised.value)) < 300


def test_a_name_that_leaves_no_room_for_the_ledger(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="longer than 247 bytes"):
        dr.write(PIXELS, tmp_path / ("x" * 243 + ".zarr"), progress=False)
    dr.write(PIXELS, tmp_path / ("x" * 242 + ".zarr"), levels=1, progress=False, client=False)


@pytest.mark.parametrize("name", ["a::b.zarr", "a::/b.zarr", "c.zarr::/0"])
def test_colons_that_divide_a_store_from_a_path_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match="'::' divides a store"):
        dr.write(PIXELS, tmp_path / name, progress=False)


@pytest.mark.slow
def test_a_task_of_a_session_that_was_replaced_writes_nothing(made: Path) -> None:
    """The same run was resumed by another client, while a worker of the first one still had a block."""
    ledger = Ledger(made)
    task = make_job(volume_of(PIXELS).source, None, volume_of(PIXELS).source.grid)
    plan = plan_levels(task, str(made), RunOptions(levels=2), Processes.of(None, None))
    run = OutputRun(str(ledger.layout()["run"]), ledger.new_session())
    level = plan.levels[0]
    fingerprints = BlockFingerprints(level.task.fingerprint, level.layout.shape, level.block_shape)
    item = next(unfinished_items(level, level.task, fingerprints, set(), str(made), run))
    write_block(item)  # it is the current one
    ledger.new_session()
    files = {file: file.stat().st_mtime_ns for file in made.rglob("*") if file.is_file()}
    ends = ledger.ends()
    with pytest.raises(OutputBusyError, match="taken over by a later run"):
        write_block(item)
    assert ledger.ends() == ends
    assert {file: file.stat().st_mtime_ns for file in made.rglob("*") if file.is_file()} == files
