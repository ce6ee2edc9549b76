"""The machine that a process runs on, told from others and from itself before it was started again."""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def this_machine() -> str:
    """The name of this machine, and when it was started, as far as the system says that."""
    with suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    return socket.gethostname()
