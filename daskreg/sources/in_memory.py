"""`ArraySource` and `GraphSource`: voxels of NumPy and dask arrays in memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

from dask.base import tokenize
from numpy.typing import NDArray

from daskreg.geometry import Box, Grid
from daskreg.sources.graphs import culled
from daskreg.sources.source import Source


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ArraySource(Source):
    """A NumPy array in memory."""

    kind = "array"
    in_memory = True
    location = None

    def _read(self, box: Box) -> NDArray[Any]:
        return self._ordered(self.array[self._index(box)])

    def restrict(self, box: Box) -> Source:
        box = box & self.readable
        return replace(self, array=self._cut(box), start=box.start, selection=(), order=())

    def _content_key(self) -> str:
        return str(tokenize(self.view()))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class GraphSource(Source):
    """A dask array, computed block by block where it is read."""

    kind = "dask"
    is_graph = True

    def _read(self, box: Box) -> NDArray[Any]:
        return self._ordered(_computed(self.array[self._index(box)]))

    def restrict(self, box: Box) -> Source:
        box = box & self.readable
        return replace(self, array=culled(self._cut(box)), start=box.start, selection=(), order=())

    def _content_key(self) -> str:
        return str(self.array.name)


def source_in_memory(data: Any, *, name: str, dims: tuple[str, ...], grid: Grid) -> Source:
    """The source of a NumPy or dask array that has the axes `dims`.

    Args:
        data: (*lead, *grid.shape) of a type that `image_dtype` returns.
        name: for messages.
    """
    lazy = hasattr(data, "dask")
    chunks = tuple(map(int, data.chunksize)) if lazy else data.shape
    made = GraphSource if lazy else ArraySource
    return made(path=name, dims=dims, shape=data.shape, dtype=data.dtype, chunks=chunks, grid=grid, array=data)


def _computed(array: Any) -> Any:
    """A dask array's values, computed in this thread: the caller is a task already.

    Only the client of a cluster can fetch persisted pieces, so those are computed through it.
    """
    small = culled(array)
    # Where another thread is importing distributed at this moment, there is no client yet.
    futures_of = getattr(sys.modules.get("distributed"), "futures_of", None)
    if futures_of is not None and futures_of(small):
        return small.compute()
    return small.compute(scheduler="synchronous")
