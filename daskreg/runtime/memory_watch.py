"""`MemoryWatch`: the peak memory of some processes of this machine, while a block of code runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import psutil


class MemoryWatch:
    """Samples the summed resident size of processes, every 20 ms, inside a `with` block.

    `idle` is the sum when the watch was made, `peak` the largest seen in the block, and
    `above_idle` their difference; all in bytes.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.idle = self.peak = self._now()

    @classmethod
    def workers(cls, client: Any) -> MemoryWatch:
        """A watch over the workers of a local cluster."""
        return cls(list(client.run(os.getpid).values()))

    @property
    def above_idle(self) -> int:
        return self.peak - self.idle

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _now(self) -> int:
        total = 0
        for process in self._processes:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, self._now())
