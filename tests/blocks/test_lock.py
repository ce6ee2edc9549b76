"""The lock of an output: one run at a time, and free again however a run ends."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from daskreg.blocks import lock
from daskreg.blocks.lock import locked

HOLD = "import sys, time; from pathlib import Path; from daskreg.blocks.lock import locked\n" + (
    "with locked(Path(sys.argv[1])) as free:\n    print(free, flush=True)\n    time.sleep(60)\n"
)


def test_a_second_lock_of_one_process_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path / "lock") as free, locked(tmp_path / "lock") as again:
        assert (free, again) == (True, False)
    with locked(tmp_path / "lock") as free:
        assert free


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "lock"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "True\n"
        with locked(tmp_path / "lock") as free:
            assert not free
        process.kill()
        process.wait()
    with locked(tmp_path / "lock") as free:
        assert free


def test_a_file_that_is_removed_meanwhile_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a run that failed removes its folder between our opening and our locking of the file."""
    take, removed = lock._take, []

    def late(descriptor: int, path: Path) -> bool:
        if not removed:
            path.unlink()
            removed.append(path)
        return take(descriptor, path)

    monkeypatch.setattr(lock, "_take", late)
    with locked(tmp_path / "lock") as free:
        assert free
        assert (tmp_path / "lock").exists()
        with locked(tmp_path / "lock") as again:
            assert not again


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_locks_a_run_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def refused(*_: int) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr("fcntl.flock", refused)
    with caplog.at_level(logging.WARNING), locked(tmp_path / "lock") as free:
        assert free
    assert "this file system has no locks" in caplog.text
