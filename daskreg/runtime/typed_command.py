"""The command of a terminal that this process carries out, for pages and records that say how something was made."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

SUBMITTED = "DASKREG_SUBMITTED"
"""Environment variable of a job: the command that submitted it."""

_WORDS: ContextVar[tuple[str, ...]] = ContextVar("daskreg_words", default=())


@contextmanager
def typed(words: Sequence[str]) -> Iterator[None]:
    """A `with` block that carries out `daskreg WORDS`."""
    token = _WORDS.set(tuple(words))
    try:
        yield
    finally:
        _WORDS.reset(token)


def typed_command() -> str:
    """The command as it was typed, but for credentials, and where; empty where Python calls daskreg.

    In a job of `daskreg submit` it is that command: the job's own names files that end with it.
    """
    from pathlib import Path

    from daskreg.runtime.messages import redact, redact_words

    words = _WORDS.get()
    if not words:
        return ""
    if submitted := os.environ.get(SUBMITTED):
        return submitted
    line = shlex.join(["daskreg", *redact_words(words)])
    try:
        return f"{line}  # in {redact(str(Path.cwd()))}"
    except OSError:  # the folder was removed since
        return line
