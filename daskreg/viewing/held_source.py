"""`HeldSource`: voxels of a source by whole stored chunks, which are held for the next chunk that needs them.

Chunks of an output read overlapping boxes of the source, and those of a coarse level the same stored chunks again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box
from daskreg.sources.source import Source
from daskreg.viewing.by_chunks import read_by_chunks
from daskreg.viewing.chunk_cache import ChunkCache


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HeldSource(Source):
    """A source that reads another one, chunk by chunk, through a cache."""

    inner: Source
    cache: ChunkCache

    @property
    def kind(self) -> str:
        return self.inner.kind

    def _content_key(self) -> str:
        return self.inner._content_key()

    def _read(self, box: Box) -> NDArray[Any]:
        return read_by_chunks(box, self.chunks, self.shape, self.dtype, lambda _, chunk: self._chunk(chunk))

    def _chunk(self, chunk: Box) -> NDArray[Any]:
        def read() -> NDArray[Any]:
            made = np.empty(chunk.shape, self.dtype)
            self.inner.restrict(chunk).read_into(chunk, made)
            return made

        return self.cache.get((id(self.inner), chunk), read)


def held(source: Source, cache: ChunkCache) -> Source:
    """The source, with its chunks held, unless they are in memory already or too large."""
    size = math.prod(source.chunks) * source.dtype.itemsize
    if source.in_memory or size > cache.most // 8:
        return source
    same = {f.name: getattr(source, f.name) for f in fields(Source)} | {"array": None, "start": (), "order": ()}
    return HeldSource(**same | {"selection": ()}, inner=source, cache=cache)
