"""Texts that change when objects are put again: asked for one by one, or listed where many are needed.

A request for each object is what a worker makes before it reads a block. Who looks at all blocks of a level would wait
for hours; a store lists a thousand objects with their ETags by one request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

from daskreg.sources.storage.look_ahead import look_ahead
from daskreg.sources.storage.object_bytes import ObjectBytes

MOST_ASKED = 1000
"""Objects below one URL that are asked for one by one, where they may be listed."""

MOST_LISTED = 1 << 20
"""Objects of a box, at most, whose texts are taken from a list: a thousand requests, and 300 MB."""

AHEAD = 16
"""Requests that are under way at one time."""


@dataclass
class _Tags:
    asked: int = 0
    listed: dict[str, str] | None = None


_known: ContextVar[dict[str, _Tags] | None] = ContextVar("daskreg_object_tags", default=None)


@contextmanager
def listed_tags() -> Iterator[None]:
    """In this block, `tags_of` may answer with what was true at some time since it began."""
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def may_list() -> bool:
    """Whether `tags_of` lists objects where many are needed."""
    return _known.get() is not None


def tags_of(objects: ObjectBytes, keys: Sequence[str]) -> list[str | None]:
    """For each key a text that changes when it is put with other content; None where it is not there."""
    known = _known.get()
    if known is not None:
        tags = known.setdefault(objects.url, _Tags())
        tags.asked += len(keys)
        if tags.listed is None and tags.asked > MOST_ASKED:
            tags.listed = objects.all_tags()
        if tags.listed is not None:
            return [tags.listed.get(key) for key in keys]
    return list(look_ahead((partial(objects.tag, key) for key in keys), ahead=AHEAD))
