"""Nothing that daskreg did not make is removed: beside an output, inside it, in its chunks; lost metadata come back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import daskreg as dr
from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.record.own_files import foreign_files, unit_counts
from daskreg.errors import DaskregError, LayoutMismatchError, OutputExistsError
from daskreg.writing import verify

PIXELS = np.random.default_rng(0).integers(0, 60_000, (10, 40, 44), dtype=np.uint16)
OPTIONS: dict[str, Any] = {"levels": 2, "chunks": (4, 20, 22), "progress": False, "client": False}
MINE = ("notes.txt", "labels/cells/zarr.json", "0/thumbnail.png", "1/c/0/0/readme", "0/c/0/0/0.txt", "0/c/9/0/0",
        "2/c/0/0/0", "notes.partial", "empty folder/")  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> Path:
    dr.write(PIXELS, tmp_path / "made.zarr", **OPTIONS)
    return tmp_path / "made.zarr"


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", MINE)
def test_what_is_foreign_in_an_output_is_named_and_kept(made: Path, name: str) -> None:
    mine = made / name
    if name.endswith("/"):
        mine.mkdir()
    else:
        put(mine)
    with pytest.raises(OutputExistsError, match=name.split("/", maxsplit=1)[0]):
        dr.write(PIXELS, made, overwrite=True, **OPTIONS)
    assert mine.exists()
    assert verify(made) == []  # nothing was removed at all
    assert dr.write(PIXELS, made, **OPTIONS).blocks == 0
    assert mine.exists()


def test_links_are_foreign_and_not_followed(made: Path, tmp_path: Path) -> None:
    elsewhere = put(tmp_path / "elsewhere" / "0" / "0")
    (made / "0" / "c" / "1").rename(tmp_path / "moved")
    (made / "0" / "c" / "1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputExistsError, match="0/c/1"):
        dr.write(PIXELS, made, overwrite=True, **OPTIONS)
    assert elsewhere.read_text() == "mine"


@pytest.mark.parametrize("name", ["thesis.txt", "session", "notes.jsonl", "removed-1/data"])
def test_a_folder_at_the_place_of_the_ledger_is_kept(tmp_path: Path, name: str) -> None:
    mine = put(tmp_path / "a.zarr.daskreg" / name)
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match=f"a.zarr.daskreg exists, and daskreg did not make it.*{name[:7]}"):
            dr.write(PIXELS, tmp_path / "a.zarr", overwrite=overwrite, **OPTIONS)
    assert mine.read_text() == "mine"
    assert sorted(os.listdir(tmp_path / "a.zarr.daskreg")) == [name.partition("/")[0]]
    assert not (tmp_path / "a.zarr").exists()


def test_files_beside_the_entries_are_kept_when_an_output_is_replaced(made: Path) -> None:
    mine = put(Ledger(made).folder / "why.txt")
    dr.write(PIXELS[::-1], made, overwrite=True, **OPTIONS)
    np.testing.assert_array_equal(dr.open(made).values, PIXELS[::-1])
    assert mine.read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, b"", b"\0" * 700], ids=["gone", "empty", "zeros"])
@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json", "1/zarr.json"])
def test_lost_metadata_come_back_and_nothing_else_changes(made: Path, name: str, content: bytes | None) -> None:
    """As after a power failure, where a file keeps its name or its size without its bytes."""
    good = (made / name).read_bytes()
    mine = put(made / "notes.txt")
    times = {file: file.stat().st_mtime_ns for file in made.rglob("*") if file.is_file() and file != made / name}
    (made / name).unlink()
    if content is not None:
        (made / name).write_bytes(content)
    assert dr.write(PIXELS, made, **OPTIONS).blocks == 0
    assert (made / name).read_bytes() == good
    assert times == {file: file.stat().st_mtime_ns for file in times}
    assert mine.read_text() == "mine"
    assert verify(made) == []


def test_metadata_and_their_names_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a power failure does not leave them empty."""
    synced: set[int] = set()
    sync = os.fsync

    def noted(file: int) -> None:
        sync(file)
        synced.add(os.fstat(file).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    dr.write(PIXELS, tmp_path / "a.zarr", **OPTIONS)
    files = [*(tmp_path / "a.zarr").rglob("zarr.json"), Ledger(tmp_path / "a.zarr").folder / "run.json"]
    assert len(files) >= 3
    for file in files:
        assert {file.stat().st_ino, file.parent.stat().st_ino} <= synced, file


def test_an_output_without_metadata_is_not_mended_for_another_layout(made: Path) -> None:
    (made / "0" / "zarr.json").unlink()
    with pytest.raises(LayoutMismatchError):
        dr.write(PIXELS[:5], made, **OPTIONS)
    assert (made / "0" / "c" / "0" / "0" / "0").exists()


def test_a_folder_without_metadata_that_holds_other_things_is_not_taken_for_an_output(made: Path) -> None:
    for file in list(made.rglob("*")):
        if file.is_file():
            file.unlink()
    mine = put(made / "notes.txt")
    for overwrite in (False, True):
        with pytest.raises(DaskregError, match=r"made\.zarr"):
            dr.write(PIXELS, made, overwrite=overwrite, **OPTIONS)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("shards", [None, (8, 40, 44)])
def test_all_that_daskreg_makes_is_known(tmp_path: Path, shards: Any) -> None:
    volume = dr.open(np.stack([PIXELS, PIXELS]))
    options = OPTIONS | {"chunks": (4, 20, 22), "shards": shards, "levels": 3}
    dr.write(volume, tmp_path / "a.zarr", **options)
    counts = unit_counts(Ledger(tmp_path / "a.zarr").layout()["facts"])
    assert list(foreign_files(tmp_path / "a.zarr", counts)) == []
    killed = tmp_path / "a.zarr" / "0" / "c" / "0" / "0" / "0" / "0.0123456789abcdef.partial"
    killed.write_bytes(b"half")
    assert list(foreign_files(tmp_path / "a.zarr", counts)) == []
    assert dr.write(volume, tmp_path / "a.zarr", **options).blocks == 0
    assert not killed.exists()
    dr.write(volume[:1], tmp_path / "a.zarr", overwrite=True, **options)
    assert zarr.open_array(tmp_path / "a.zarr" / "0").shape[0] == 1
    assert [path.name for path in Ledger(tmp_path / "a.zarr").folder.iterdir() if path.is_dir()] == []
