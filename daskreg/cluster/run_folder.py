"""A folder of one run on a disk that nodes share: temporary certificates, and what jobs print.

It is removed with the cluster, and when its process ends, even if that is killed. Those of machines that were switched
off are removed when the next cluster starts there.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from daskreg.runtime.paths import local_path

PREFIX = ".daskreg-run-"
_OWNER = "owner.json"

# Reads until the other end of the pipe is closed: by `remove`, or by the system when the process is gone.
_REMOVE = "import shutil, sys; sys.stdin.buffer.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"


@dataclass(frozen=True)
class RunFolder:
    """A folder that only this user can read, until `remove()`."""

    path: Path
    watcher: subprocess.Popen[bytes] | None = None

    def remove(self) -> None:
        if self.watcher is not None and self.watcher.stdin is not None:
            self.watcher.stdin.close()
            self.watcher.wait()
        shutil.rmtree(self.path, ignore_errors=True)


def run_folder(parent: str | os.PathLike[str]) -> RunFolder:
    """Make a folder for this process, and remove those in `parent` whose processes of this machine have ended."""
    parent = local_path(parent).resolve()
    for other in parent.glob(PREFIX + "*"):
        if _is_left(other):
            RunFolder(other).remove()
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    process = psutil.Process()
    owner = {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}
    (path / _OWNER).write_text(json.dumps(owner), encoding="utf-8")
    # In a session of its own, so that a signal to all processes of a terminal does not end it first.
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _REMOVE, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return RunFolder(path, watcher)


def _is_left(folder: Path) -> bool:
    """Whether the process that made a folder ran on this machine and is no longer there."""
    try:
        owner = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
        host, pid, started = str(owner["host"]), int(owner["pid"]), float(owner["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if host != socket.gethostname() or folder.stat().st_uid != os.getuid():
        return False
    with suppress(psutil.Error):
        return bool(abs(psutil.Process(pid).create_time() - started) > 1)
    return True
