"""The ledger: survives torn lines, keeps the latest entry, refuses another layout."""

from __future__ import annotations

import json

import pytest

from daskreg.blocks.ledger import Ledger, entry_now
from daskreg.errors import LayoutMismatchError, NotAVolumeError


def test_entries_come_back_and_torn_lines_do_not(tmp_path) -> None:
    ledger = Ledger(tmp_path / "out.zarr")
    ledger.create({"shape": [4, 4]})
    first = entry_now(0, (0, 1), "a", {"0/c/0/1": (123, 45)}, clipped=2)
    ledger.append(first)
    ledger.append(entry_now(0, (0, 1), "b", {}))
    (tmp_path / "out.zarr.daskreg" / "other-host-1-x.jsonl").write_text(
        json.dumps({"level": 1, "block": [2], "fingerprint": "c", "files": [], "clipped": 0, "written": 1.0})
        + '\n{"level": 1, "block": [3], "finge'
    )
    entries = ledger.entries()
    assert set(entries) == {(0, (0, 1)), (1, (2,))}
    assert entries[0, (0, 1)].fingerprint == "b"
    assert first.files == (("0/c/0/1", 123, 45),)


def test_another_layout_is_refused_by_name(tmp_path) -> None:
    ledger = Ledger(tmp_path / "out.zarr")
    ledger.create({"facts": {"shape": [4, 4], "dtype": "<u2"}})
    ledger.check({"shape": (4, 4), "dtype": "<u2"})
    with pytest.raises(LayoutMismatchError, match="dtype is <u2"):
        ledger.check({"shape": [4, 4], "dtype": "<f4"})


@pytest.mark.parametrize("text", ["", "[]", '{"schema": "other"}', '{"schema": "daskreg/ledger", "version": 99}'])
def test_what_is_no_ledger_is_refused(tmp_path, text: str) -> None:
    ledger = Ledger(tmp_path / "out.zarr")
    ledger.folder.mkdir()
    (ledger.folder / "run.json").write_text(text)
    with pytest.raises(NotAVolumeError, match=r"run\.json"):
        ledger.layout()
