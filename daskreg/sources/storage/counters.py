"""Counts of what happens while voxels are read and written: calls tried again, chunks missing or damaged.

The caller opens counters around the work; reading and storing count in them, in this thread and in what it starts
(zarr's own event loop runs with the caller's context).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Lock


@dataclass
class Counters:
    """Counts of one piece of work.

    Args:
        retries: store calls that were tried again.
        missing: keys that a store was asked for and does not hold.
        damaged: what was read as fill because it could not be decoded, each with the reason.
    """

    retries: int = 0
    missing: set[str] = field(default_factory=set)
    damaged: dict[str, str] = field(default_factory=dict)


_current: ContextVar[Counters | None] = ContextVar("daskreg_counters", default=None)
_lock = Lock()


@contextmanager
def count_events(*, opening: bool = False) -> Iterator[Counters]:
    """Counters of what happens in the block; what inner ones count is added to the outer ones.

    Args:
        opening: an array is opened in the block, so metadata is looked for under several names; a name that is not
            there is then not a missing chunk.
    """
    outer, counters = _current.get(), Counters()
    token = _current.set(counters)
    try:
        yield counters
    finally:
        _current.reset(token)
        if outer is not None:
            with _lock:
                outer.retries += counters.retries
                outer.missing |= set() if opening else counters.missing
                outer.damaged |= counters.damaged


def count_retry() -> None:
    """A store call is tried again."""
    counters = _current.get()
    if counters is not None:
        with _lock:
            counters.retries += 1


def count_missing(key: str) -> None:
    """A store does not hold a key."""
    counters = _current.get()
    if counters is not None:
        with _lock:
            counters.missing.add(key)


def count_damaged(what: str, reason: str) -> None:
    """A chunk could not be decoded and was read as the fill value."""
    counters = _current.get()
    if counters is not None:
        with _lock:
            counters.damaged[what] = reason
