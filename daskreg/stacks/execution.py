"""Where the work of an estimate runs: on the workers of a Dask client, or in local threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from daskreg.runtime.device import limit_threads

R = TypeVar("R")


def timed(run: Callable[[], R], *, before: Callable[[], object] | None = None) -> tuple[R, float]:
    """What `run` returns, and the seconds that it takes in one thread.

    Args:
        before: called first, to compile; None: `run` itself is.
    """
    with limit_threads(1):
        (before or run)()
        began = time.perf_counter()
        found = run()
        return found, time.perf_counter() - began


@dataclass(frozen=True)
class Execution:
    """client: a distributed Client, or None for local threads. progress: called with (done, total)."""

    client: Any
    progress: Callable[[int, int], None] | None = None

    def report(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)
