"""The ledger: survives torn lines, keeps the latest entry, refuses another layout."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from daskreg.blocks.record.ledger import Ledger, session_number
from daskreg.blocks.record.ledger_entry import LedgerEntry, LostChunks, entry_now, parsed, parsed_lines
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


def stored(entry: LedgerEntry, **changes: object) -> str:
    """A line of versions 1 and 2."""
    return json.dumps({**entry._asdict(), "lost": asdict(entry.lost), **changes})


def ledger_with(tmp_path: Path, **files: str) -> Ledger:
    ledger = Ledger(tmp_path / "out.zarr")
    ledger.create({"run": "r"})
    for name, text in files.items():
        (ledger.folder / f"{name}.jsonl").write_text(text)
    return ledger


def test_the_latest_session_counts_and_not_the_clock(tmp_path: Path) -> None:
    entry = entry_now(0, (0,), "old", {"0/c/0": (1, 2)}, run="r", session=1)
    late, early = entry.written + 1e6, entry.written - 1e6
    one = "\n".join(
        [
            stored(entry, block=[0], written=late),  # by a clock that was ahead
            stored(entry, block=[1], written=late, fingerprint="first"),
            stored(entry, block=[1], written=early, fingerprint="second"),  # the clock went back
        ]
    )
    two = stored(entry, block=[0], session=2, written=early, fingerprint="new")
    for names in (("a", "b"), ("b", "a")):
        found = ledger_with(tmp_path, **dict(zip(names, (one, two), strict=True))).entries()
        assert found[0, (0,)].fingerprint == "new"
        assert found[0, (1,)].fingerprint == "second"


def test_sessions_are_counted(tmp_path: Path) -> None:
    ledger = ledger_with(tmp_path)
    sessions = [ledger.new_session() for _ in range(3)]
    assert [session_number(s) for s in sessions] == [1, 2, 3]
    assert ledger.serves(sessions[-1])
    ledger.append(entry_now(0, (0,), "a", {}, run="r", session=3))
    (ledger.folder / "session").write_text("")  # lost by a power failure
    assert session_number(ledger.new_session()) == 4
    (ledger.folder / "session").write_text("0f" * 16)  # of an earlier version
    assert session_number(ledger.new_session()) == 4


def test_a_line_after_a_torn_one_is_read(tmp_path: Path) -> None:
    ledger = ledger_with(tmp_path)
    ledger.append(entry_now(0, (0,), "a", {}, run="r"))
    (path,) = ledger.folder.glob("*.jsonl")
    with path.open("a") as file:
        file.write('{"level": 0, "block": [1], "finge')
    ledger.append(entry_now(0, (2,), "a", {}, run="r"))
    assert {block for _, block in ledger.entries()} == {(0,), (2,)}


FIELDS = {"level": 0, "block": [0], "fingerprint": "a", "files": [], "clipped": 0, "written": 0}
HARMFUL = {
    "deep": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "infinite": json.dumps({**FIELDS, "level": 1}).replace("1", "1e999"),
    "lost is a list": json.dumps({**FIELDS, "lost": [1]}),
    "surrogate": json.dumps({**FIELDS, "files": [["\ud800", 1, 2]]}),
    "zero": json.dumps({**FIELDS, "files": [["a\0b", 1, 2]]}),
    "outside": json.dumps({**FIELDS, "files": [["../../x", 1, 2]]}),
    "digits": '{"level": ' + "9" * 5000 + "}",
    "no object": "[1, 2]",
    "too few values": '{"v": [0, [1], "a"]}',
    "values of other kinds": '{"v": [{}, 1, 2, 3, 4, 5, 6, 7, 8, [9], 10, {}, 12]}',
    "lost without count": '{"v": [0, [0], "a", [], 0, 0, [], 0, 0, "r", 1, "", ""]}',
    "bytes": "\xff\xfe",
}


@pytest.mark.parametrize("line", HARMFUL.values(), ids=HARMFUL)
def test_whatever_a_line_holds_the_others_are_read(tmp_path: Path, line: str) -> None:
    good = stored(entry_now(0, (5,), "a", {"0/c/5": (1, 2)}, run="r"))
    ledger = ledger_with(tmp_path, a=f"{line}\n{good}\n{line}")
    assert set(ledger.entries()) == {(0, (5,))}
    assert [e.block for e in ledger.entries_since({})] == [(5,)]


def test_what_is_no_file_among_the_entries_is_named(tmp_path: Path) -> None:
    ledger = ledger_with(tmp_path)
    (ledger.folder / "folder.jsonl").mkdir()
    with pytest.raises(NotAVolumeError, match=r"folder\.jsonl is not a file"):
        ledger.entries()
    (ledger.folder / "folder.jsonl").rmdir()
    (ledger.folder / "link.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(NotAVolumeError, match=r"link\.jsonl is not a file"):
        ledger.ends()
    (ledger.folder / "run.json").write_text("[" * 100_000)
    with pytest.raises(NotAVolumeError, match=r"run\.json"):
        ledger.layout()


def test_many_lines_are_read_as_one_by_one(tmp_path: Path) -> None:
    """Lines are parsed many at a time; a torn one, or one that holds two entries, changes nothing of the others."""
    lines = [entry_now(0, (k,), f"{k:032x}", {f"0/c/{k}": (k, 7)}).line for k in range(1203)]
    lines[300] = lines[300][:-9]
    lines[700] = f"{lines[700]},{lines[701]}"
    lines[900] = "[1, 2]"
    got = list(parsed_lines("\n".join(lines)))
    assert got == [entry for line in lines if (entry := parsed(line)) is not None]
    assert len(got) == 1200


def test_an_entry_comes_back_from_its_line() -> None:
    lost = LostChunks(2, ("c/1", "c/2"))
    for entry in (
        entry_now(1, (2, 3), "f", {"1/c/2/3": (2**64 - 1, 9), "1/c/2/4": (0, 1)}, lost=lost, run="r", session=4),
        entry_now(0, (), "", {}, clipped=5, bytes_read=6, retries=7, source="s@1.5"),
    ):
        assert parsed(entry.line) == entry
        assert parsed(stored(entry)) == entry
