"""What happens while voxels are read and written: calls tried again, chunks missing or damaged.

Whoever wants to know opens a tally around the work; reading and storing note in it, in this
thread and in what it starts (zarr's own event loop runs with the caller's context).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Lock


@dataclass
class Tally:
    """Counts of one piece of work.

    Args:
        retries: store calls that were tried again.
        missing: keys that a store was asked for and does not hold.
        damaged: what was read as fill because it could not be decoded, each with the reason.
    """

    retries: int = 0
    missing: set[str] = field(default_factory=set)
    damaged: dict[str, str] = field(default_factory=dict)


_current: ContextVar[Tally | None] = ContextVar("daskreg_tally", default=None)
_lock = Lock()


@contextmanager
def tallied(*, opening: bool = False) -> Iterator[Tally]:
    """A tally of what happens in the block; what is noted in an inner one, the outer one gets as well.

    Args:
        opening: while an array is opened, metadata is looked for in several places; what is not
            there is not missing.
    """
    outer, mine = _current.get(), Tally()
    token = _current.set(mine)
    try:
        yield mine
    finally:
        _current.reset(token)
        if outer is not None:
            with _lock:
                outer.retries += mine.retries
                outer.missing |= set() if opening else mine.missing
                outer.damaged |= mine.damaged


def note_retry() -> None:
    tally = _current.get()
    if tally is not None:
        with _lock:
            tally.retries += 1


def note_missing(key: str) -> None:
    tally = _current.get()
    if tally is not None:
        with _lock:
            tally.missing.add(key)


def note_damaged(what: str, reason: str) -> None:
    tally = _current.get()
    if tally is not None:
        with _lock:
            tally.damaged[what] = reason
