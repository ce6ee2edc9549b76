"""Where the work of an estimate runs: on the workers of a Dask client, or in local threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Execution:
    """client: a distributed Client, or None for local threads. progress: called with (done, total)."""

    client: Any
    progress: Callable[[int, int], None] | None = None

    def report(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)
