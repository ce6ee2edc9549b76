"""`ArraySource` and `GraphSource`: voxels of NumPy and dask arrays in memory.

dask is imported where it is used: a NumPy array that is warped needs none, and its import takes most of a second.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box, Grid
from daskreg.sources.channels import ends_in_colour
from daskreg.sources.coordinates import SPACE, default_dims, split_dims
from daskreg.sources.description import check_shape
from daskreg.sources.dtypes import image_dtype
from daskreg.sources.source import Source

_UNNAMED = "the array"


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
        from dask.base import tokenize

        return str(tokenize(self.view()))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class GraphSource(Source):
    """A dask array, computed block by block where it is read."""

    kind = "dask"
    is_graph = True

    def _read(self, box: Box) -> NDArray[Any]:
        return self._ordered(_computed(self.array[self._index(box)]))

    def restrict(self, box: Box) -> Source:
        from daskreg.sources.graphs import culled

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


def source_of_numpy(values: NDArray[Any], *, colour_ndim: int | None = None) -> tuple[Source, bool]:
    """The source of a NumPy array, whose voxels have spacing one; see `volumes.volume_of`.

    Args:
        values: NaN is read where it is masked.
        colour_ndim: an array with so many axes, of which the last has 3 or 4 entries, is taken as images in colour.

    Returns: the source, and whether its axis of channels came last, and is now the first.
    Raises: UnsupportedDTypeError, EmptyArrayError, NotAVolumeError.
    """
    if isinstance(values, np.ma.MaskedArray):
        import xarray as xr

        values = xr.DataArray(values).data
    values = np.asarray(values)
    colour_last = colour_ndim is not None and ends_in_colour(values.shape, colour_ndim)
    dims = (*SPACE[-(values.ndim - 1) :], "c") if colour_last else default_dims(values.ndim)
    dtype = image_dtype(values.dtype)
    check_shape(dims, values.shape, _UNNAMED)
    if colour_last:
        values = np.moveaxis(values, -1, 0)
    lead, space = split_dims(dims)
    grid, values = Grid(values.shape[len(lead) :], axes=space), values.astype(dtype, copy=False)
    return source_in_memory(values, name=_UNNAMED, dims=(*lead, *space), grid=grid), colour_last


def _computed(array: Any) -> Any:
    """A dask array's values, computed in this thread: the caller is a task already.

    Only the client of a cluster can fetch persisted pieces, so those are computed through it.
    """
    from daskreg.sources.graphs import culled

    small = culled(array)
    # Where another thread is importing distributed at this moment, there is no client yet.
    futures_of = getattr(sys.modules.get("distributed"), "futures_of", None)
    if futures_of is not None and futures_of(small):
        return small.compute()
    return small.compute(scheduler="synchronous")
