"""The machine that a process runs on, told from others and from itself before it was started again."""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil


@cache
def this_machine() -> str:
    """The name of this machine, and when it was started, as far as the system says that."""
    with suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    return socket.gethostname()


def process_runs(pid: int, started: float) -> bool:
    """Whether a process of this machine runs: not a later one with its number, and not one that has ended and whose
    parent has not taken note of it (a zombie).

    Args:
        started: when it was started, as psutil says it.
    """
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, ValueError):
        return False
