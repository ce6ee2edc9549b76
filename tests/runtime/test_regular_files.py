"""Files that must lie in their folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daskreg.errors import OutsideError
from daskreg.runtime import regular_files
from daskreg.runtime.regular_files import open_inside


def test_a_file_of_the_folder_is_read_and_one_outside_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "a.zarr"
    folder.mkdir()
    (folder / "c").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    (folder / "link").symlink_to(tmp_path / "secret")
    with open_inside(folder / "c", str(folder)) as file:
        assert file.read() == b"inside"
    with pytest.raises(OutsideError, match=r"a\.zarr refers to .*secret, which lies outside"):
        open_inside(folder / "link", str(folder))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_is_moved_while_its_file_is_opened_is_gone(
    replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a.zarr"
    folder.mkdir()
    (folder / "c").write_bytes(b"inside")
    find = regular_files._opened_path

    def moved(file: int, path: str | os.PathLike[str]) -> str:
        folder.rename(tmp_path / "away")
        if replaced:
            folder.mkdir()
            (folder / "c").write_bytes(b"another")
        return find(file, path)

    monkeypatch.setattr(regular_files, "_opened_path", moved)
    with pytest.raises(FileNotFoundError):
        open_inside(folder / "c", str(folder))
