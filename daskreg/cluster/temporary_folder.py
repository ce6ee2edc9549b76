"""A folder for secrets, which is removed when the process that made it ends, even if that is killed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

# Reads until the other end of the pipe is closed: by `remove`, or by the system when the process is gone.
_REMOVE = "import shutil, sys; sys.stdin.buffer.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"


class TemporaryFolder:
    """A folder that only this user can enter, until `remove` or the end of this process.

    Args:
        parent: where it is made.
        prefix: of its name, which continues at random.
    """

    def __init__(self, parent: str, prefix: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()
        # In a session of its own, so that a signal to all processes of a terminal does not end it first.
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _REMOVE, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        if self._watcher.stdin is not None:
            self._watcher.stdin.close()
        self._watcher.wait()

    def remove_with(self, owner: object) -> None:
        """Remove it when `owner` is collected."""
        weakref.finalize(owner, self.remove)
