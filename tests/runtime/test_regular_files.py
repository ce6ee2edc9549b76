"""Files that must lie in their folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
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


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bool], str]:
    """A folder that is moved away so often after a file of it was opened; another may take its place each time."""
    folder = tmp_path / "a.zarr"
    find = regular_files._opened_path

    def fill() -> None:
        folder.mkdir()
        (folder / "c").write_bytes(b"voxels")

    def prepare(times: int, replaced: bool) -> str:
        fill()
        left = list(range(times))

        def find_after_move(file: int, path: str | os.PathLike[str]) -> str:
            if left:
                folder.rename(tmp_path / f"away{left.pop()}")
                if replaced:
                    fill()
            return find(file, path)

        monkeypatch.setattr(regular_files, "_opened_path", find_after_move)
        return str(folder)

    return prepare


def test_a_file_whose_folder_is_moved_away_is_not_found(moved: Callable[[int, bool], str]) -> None:
    folder = moved(1, False)
    with pytest.raises(FileNotFoundError):
        open_inside(f"{folder}/c", folder)


def test_a_file_whose_folder_is_replaced_is_opened_again(moved: Callable[[int, bool], str]) -> None:
    folder = moved(1, True)
    with open_inside(f"{folder}/c", folder) as file:
        assert file.read() == b"voxels"


def test_a_file_that_is_replaced_all_the_time_is_an_error(moved: Callable[[int, bool], str]) -> None:
    """Not one that is not found, which would be read as a chunk of the fill value."""
    folder = moved(9, True)
    with pytest.raises(OSError, match="replaced all the time") as raised:
        open_inside(f"{folder}/c", folder)
    assert raised.value.errno == errno.ESTALE
