"""Wait for the blocks that workers are making, after a run was cancelled: a block that has begun is finished."""

from __future__ import annotations

import contextlib
import time
from typing import Any

LONGEST = 120.0
"""Seconds to wait; blocks take seconds. One that takes longer is made again when the run is resumed."""


def settle(client: Any | None, run_id: str) -> None:
    """Wait until no worker makes a block of this run; without a client there is nothing to wait for."""
    if client is None:
        return
    deadline = time.monotonic() + LONGEST
    with contextlib.suppress(Exception):  # a scheduler that does not answer
        while time.monotonic() < deadline and _making(client, f"daskreg-write-{run_id}"):
            time.sleep(0.2)


def _making(client: Any, prefix: str) -> bool:
    running = client.call_stack() or {}
    return any(str(key).startswith(prefix) for tasks in running.values() for key in tasks)
