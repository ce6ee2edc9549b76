"""What a reader finds when it opens something: the source, and what else a person wants to keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from daskreg.sources.source import Source

# Coordinates of one axis: values, attributes.
Coord = tuple[Any, Mapping[str, Any]]


@dataclass(frozen=True)
class Wish:
    """What `open` was asked for, as far as readers need to know."""

    level: int = 0
    recentre: bool = False


@dataclass(frozen=True)
class Found:
    """A source with its name, attributes and the coordinates of its lead dims.

    `blocks` is the size, along the source's dims, of what is best read as a whole: the
    stored chunk, or the shard.
    """

    source: Source
    name: str | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    lead_coords: Mapping[str, Coord] = field(default_factory=dict)
    blocks: tuple[int, ...] = ()
