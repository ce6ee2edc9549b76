"""The result of `warp` as one lazy layer of a dask array, in what it was made of: a dask array or a DataArray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from daskreg.blocks.job import Job, run_block
from daskreg.geometry import Box
from daskreg.sources.attributes import storable
from daskreg.sources.chunking import entries_per_axis, wrong_sizes
from daskreg.sources.coordinates import HEADER_FROM_WORLD
from daskreg.sources.registry import remember
from daskreg.volumes import Volume, to_dataarray

_NAME = "warped"
"""Name of the result of a source without one: a Dataset needs it."""

BLOCK_BYTES = 64 * 2**20


def warped_like(source: Any, volume: Volume, job: Job, chunks: Any) -> Any:
    """What `warp` returns for a source that is no NumPy array, and its `Volume`."""
    data = lazy_array(job, chunks)
    if isinstance(source, da.Array):
        return da.moveaxis(data, 0, -1) if volume.colour_last else data
    return _like(volume.array, data, job)


def _like(array: xr.DataArray, data: da.Array, job: Job) -> xr.DataArray:
    """The result with name, attributes and coordinates of the source, but those along axes that were sampled.

    xarray can write it in any of its formats.
    """
    lead = job.source.lead
    attrs = {str(k): storable(v) for k, v in array.attrs.items() if k != HEADER_FROM_WORLD}
    along = {d: array.coords[d] for d in lead if d in array.coords}
    made = to_dataarray(data, job.grid, lead=lead, lead_coords=along, attrs=attrs)
    same = [job.dims[k] for k in job.mapping.carried if job.grid.shape == job.source.grid.shape and _stays(job, k)]
    others = {k: v for k, v in array.coords.items() if k not in made.coords and {*v.dims} <= {*lead, *same}}
    made = made.assign_coords(others)
    name = str(array.name or _NAME)
    made.name = _NAME if name in made.coords else name
    return made


def _stays(job: Job, axis: int) -> bool:
    """Whether the indices along a carried axis are those of the source."""
    k = axis - len(job.source.lead)
    if k < 0:
        return True
    ends = np.zeros((2, job.grid.ndim))
    ends[1, k] = job.grid.shape[k] - 1
    return bool(np.allclose(job.source.grid.index(job.grid.world(ends))[:, k], ends[:, k], atol=1e-3))


def lazy_array(job: Job, chunks: Any = "auto") -> da.Array:
    """The job as one lazy layer of a dask array; `write` finds the job by the array's name."""
    sizes = _chunk_sizes(job, chunks)
    starts = tuple(tuple(np.cumsum((0, *s))[:-1].tolist()) for s in sizes)
    # The function refers to the job, so that the graph keeps it alive for the weak registry.
    data: da.Array = da.map_blocks(
        partial(_run_lazy, job, starts, sizes),
        chunks=sizes,
        dtype=job.dtype,
        meta=np.empty((0,) * len(job.shape), dtype=job.dtype),
        name=f"daskreg-warp-{_token(job)}-{tokenize(sizes)}",
    )
    remember(data.name, job)
    return data


def _token(job: Job) -> str:
    """Identifies the result, for the name of the dask array."""
    source, sampled = job.source, (job.order, job.fill, job.edge, job.dtype.str)
    return str(tokenize(source.fingerprint(), source.policy, job.mapping.identity(), job.grid, *sampled))


def _run_lazy(
    job: Job, starts: Sequence[Sequence[int]], sizes: Sequence[Sequence[int]], *, block_id: tuple[int, ...]
) -> NDArray[Any]:
    start = tuple(s[i] for s, i in zip(starts, block_id, strict=True))
    stop = tuple(a + s[i] for a, s, i in zip(start, sizes, block_id, strict=True))
    return run_block(job, Box(start, stop))


def _chunk_sizes(job: Job, chunks: Any) -> tuple[tuple[int, ...], ...]:
    """Sizes of all chunks along each axis, out of what dask takes; without those of t and c they are 1."""
    lead = len(job.dims) - job.grid.ndim
    entries = entries_per_axis(chunks, job.dims, job.shape, auto=_auto_chunks(job), optional=lead)
    try:
        sizes: tuple[tuple[int, ...], ...] = da.core.normalize_chunks(entries, shape=job.shape, dtype=job.dtype)
    except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        raise wrong_sizes(chunks, job.dims, job.shape) from error
    return sizes


def _auto_chunks(job: Job) -> tuple[int, ...]:
    """Chunks of at most 64 MiB: whole along the sampled axes, unless a plane is larger."""
    chunks = [1] * (len(job.shape) - job.grid.ndim) + list(job.grid.shape)
    while math.prod(chunks) * job.dtype.itemsize > BLOCK_BYTES:
        carried = [k for k in job.mapping.carried if chunks[k] > 1]
        axis = max(carried or range(len(chunks)), key=lambda k: chunks[k])
        chunks[axis] = -(-chunks[axis] // 2)
    return tuple(chunks)
