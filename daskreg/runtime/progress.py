"""A progress bar with rate and time left; lines of a log where there is no terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dask.utils import format_bytes, format_time

log = logging.getLogger("daskreg")

ByteProgress = Callable[[int, int, int], None]
"""Called with (parts done, parts in all, bytes so far)."""

LOG_EVERY = 30.0
"""Seconds between two lines of the log."""


@contextmanager
def progress_bar(label: str) -> Iterator[ByteProgress]:
    """Gives `progress(done, total, bytes)`: a live bar on a terminal or in a notebook, else log lines."""
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        yield _logged(label)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task(label, total=None, rate="")
        started = time.monotonic()

        def show(done: int, total: int, nbytes: int) -> None:
            bar.update(task, completed=done, total=total, rate=_rate(done, nbytes, time.monotonic() - started))

        yield show


def _logged(label: str) -> ByteProgress:
    started = last = time.monotonic()

    def show(done: int, total: int, nbytes: int) -> None:
        nonlocal last
        now = time.monotonic()
        # Work that takes less than that logs nothing, so that an error message stands alone.
        if now - last < LOG_EVERY and (done < total or last == started):
            return
        last = now
        left = (now - started) / max(1, done) * (total - done)
        ends = f"{format_time(left)} left" if done < total else f"done in {format_time(now - started)}"
        log.info("%s: %d of %d, %s, %s", label, done, total, _rate(done, nbytes, now - started), ends)

    return show


def _rate(done: int, nbytes: int, seconds: float) -> str:
    if seconds <= 0:
        return ""
    return f"{format_bytes(int(nbytes / seconds))}/s" if nbytes else f"{done / seconds:.1f}/s"
