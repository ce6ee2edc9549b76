"""The lock of an output: one run at a time, and free again however a run ends."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import daskreg as dr
from daskreg.blocks.record import lock
from daskreg.blocks.record.claim import claimed
from daskreg.blocks.record.lock import locked
from daskreg.sources.storage.folder_bytes import FolderBytes
from daskreg.writing import verify

HOLD = "import sys, time; from pathlib import Path; from daskreg.blocks.record.lock import locked\n" + (
    "with locked(Path(sys.argv[1])) as free:\n    print(free, flush=True)\n    time.sleep(60)\n"
)


def test_a_second_lock_of_one_process_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path / "lock") as free, locked(tmp_path / "lock") as again:
        assert (free, again) == (True, False)
    with locked(tmp_path / "lock") as free:
        assert free


@pytest.mark.slow
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


WITHOUT_LOCKS = """
import errno, fcntl, sys, time
def refused(*_):
    raise OSError(errno.ENOSYS, "no locks here")
fcntl.flock = refused
from daskreg.blocks.record import claim
"""

SIX = (
    WITHOUT_LOCKS
    + """
import os
from pathlib import Path
import numpy as np, daskreg as dr
folder = Path(sys.argv[1])
def say(word, others):
    (folder / f"{word} {os.getpid()}").touch()
    deadline = time.monotonic() + 100
    while len(list(folder.glob(f"{others} *"))) < (6 if others == word else 5) and time.monotonic() < deadline:
        time.sleep(0.001)
volume = dr.open(np.full((6, 30, 34), 7, "u2"))
import daskreg.writing
children = []
for _ in range(5):
    children.append(os.fork())
    if not children[-1]:
        children = []
        break
say("ready", "ready")
try:
    progress = lambda *_: say("writing", "refused")
    dr.write(volume, folder / "out.zarr", chunks=(1, 10, 17), levels=1, progress=progress, client=False)
except dr.errors.OutputBusyError:
    (folder / f"refused {os.getpid()}").touch()
for child in children:
    os.waitpid(child, 0)
"""
)


@pytest.mark.slow
def test_of_six_starts_without_locks_one_writes_and_five_are_told(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", SIX, str(tmp_path)], timeout=150, check=True)
    assert (len(list(tmp_path.glob("writing *"))), len(list(tmp_path.glob("refused *")))) == (1, 5)
    assert verify(tmp_path / "out.zarr") == []
    assert (dr.open(tmp_path / "out.zarr").values == 7).all()


def claim_and_kill(folder: Path, code: str) -> None:
    """Let another process claim a folder, find it claimed, and kill that process."""
    process = subprocess.Popen([sys.executable, "-c", code, folder / "lock"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "True\n"
        with claimed(FolderBytes(folder)) as free:
            assert not free
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    claim_and_kill(tmp_path, WITHOUT_LOCKS + HOLD)
    with claimed(FolderBytes(tmp_path)) as free, claimed(FolderBytes(tmp_path)) as again:
        assert (free, again) == (True, False)
    with claimed(FolderBytes(tmp_path)) as free:
        assert free


@pytest.mark.slow
def test_a_claim_of_another_machine_ends_when_it_is_written_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskreg.blocks.record.claim.BEAT", 0.1)
    monkeypatch.setattr("daskreg.blocks.record.claim.QUIET", 1.0)
    claim_and_kill(tmp_path, WITHOUT_LOCKS + "claim.this_machine = lambda: 'elsewhere'; claim.BEAT = 0.1\n" + HOLD)
    with claimed(FolderBytes(tmp_path)) as free:
        assert free
