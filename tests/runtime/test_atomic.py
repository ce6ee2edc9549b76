"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from daskreg.runtime.atomic import replace_file, replace_text, replacing


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_replaced_and_nothing_else_stays(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "new" / "c"
    replace_file(path, [b"ab", memoryview(b"cd")], sync=sync)
    assert path.read_bytes() == b"abcd"
    replace_text(path, "µ", sync=sync)
    assert path.read_text(encoding="utf-8") == "µ"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    replace_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_text(path, "new", sync=True)
    with pytest.raises(FileExistsError), replacing(path):
        tmp_path.mkdir()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_made_only_where_that_is_meant(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_text(tmp_path / "none" / "a.json", "text")
    assert not (tmp_path / "none").exists()
