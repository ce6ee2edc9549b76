"""`open`: any source -> a lazy DataArray with physical coordinates; and back to its Grid and Source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any, cast

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from dask.base import tokenize

from daskreg.errors import EmptyArrayError, GridError, NotAVolumeError, ShapeMismatchError
from daskreg.geometry import Grid
from daskreg.sources import Source, read_block, recall, remember
from daskreg.sources.coordinates import coordinates, default_dims, direction_attrs, grid_from, split_dims
from daskreg.sources.dtypes import image_dtype


def grid(array: Any) -> Grid:
    """Where the voxels of an array lie in the world, from its coordinates.

    A DataArray's spatial dims are its last three (or two) that are not times or channels;
    those named z, y, x are given in that order. Coordinates must be regular; descending ones
    make a flipped direction, and `attrs["direction"]` an oblique one. Axes without
    coordinates count pixels. NumPy and dask arrays count pixels.

    Raises: GridError naming the axis and the first bad step; UnitError for mixed units.
    """
    value = array if isinstance(array, xr.DataArray) else as_dataarray(array)
    _, space = split_dims([str(d) for d in value.dims])
    _check_shape(value.dims, value.shape, _called(value))
    coords = {d: (value.coords[d].values, value.coords[d].attrs) for d in space if d in value.coords}
    shape = [value.sizes[d] for d in space]
    return grid_from(space, shape, coords, direction=value.attrs.get("direction"), what=_called(value))


def to_dataarray(
    data: Any,
    grid: Grid,
    *,
    lead: Sequence[str] = (),
    lead_coords: Mapping[str, Any] | None = None,
    name: str | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> xr.DataArray:
    """A DataArray of `data` whose coordinates are the voxel centres of `grid`.

    Args:
        data: (*lead, *grid.shape), numpy or dask; it is not copied.
        lead: names of the dims in front, such as ("t", "c").
        lead_coords: for some of them, values, (values, attrs), or a coordinate.
        attrs: kept; "direction" is set where the grid is oblique, and removed where not.
    """
    dims = (*lead, *grid.names)
    if tuple(data.shape[len(lead) :]) != grid.shape or len(data.shape) != len(dims):
        raise ShapeMismatchError(f"data of shape {tuple(data.shape)} does not have dims {dims} of {grid}")
    coords: dict[str, Any] = {}
    for dim, given in (lead_coords or {}).items():
        values, extra = given if isinstance(given, tuple) and len(given) == 2 else (given, getattr(given, "attrs", {}))
        coords[dim] = (dim, np.asarray(values), dict(extra))
    for dim, (values, extra) in coordinates(grid).items():
        coords[dim] = (dim, values, extra)
    kept = {k: v for k, v in (attrs or {}).items() if k != "direction"}
    array = xr.DataArray(data, dims=dims, coords=coords, attrs={**kept, **direction_attrs(grid)})
    array.name = name  # given to the constructor, None would become the dask array's name
    return array


def as_dataarray(value: Any) -> xr.DataArray:
    """Anything that `open` takes in memory, as a DataArray with dims t, c, z, y, x.

    NumPy stays NumPy and dask stays dask. Byte order is made native, float16 becomes float32.
    A DataArray keeps its coordinates and attributes; a path is opened.

    Raises: UnsupportedDTypeError, EmptyArrayError, NotAVolumeError.
    """
    if isinstance(value, str | PathLike | zarr.Array | zarr.Group):
        return open(value)
    if isinstance(value, xr.Dataset):
        value = _only_variable(value)
    if not isinstance(value, xr.DataArray):
        if not isinstance(value, da.Array):
            value = np.asarray(value)
        dims = default_dims(value.ndim)
        dtype = image_dtype(value.dtype)
        _check_shape(dims, value.shape, "the array")
        lead, space = split_dims(dims)
        return to_dataarray(value.astype(dtype, copy=False), Grid(value.shape[len(lead) :], axes=space), lead=lead)
    what = _called(value)
    dtype = image_dtype(value.dtype, what)
    _check_shape(value.dims, value.shape, what)
    lead, space = split_dims([str(d) for d in value.dims])
    value = value if value.dims == (*lead, *space) else value.transpose(*lead, *space)
    return value if value.dtype == dtype else cast(xr.DataArray, value.astype(dtype))


def source_of(array: Any) -> Source:
    """The source that reads an array's voxels, along the dims of `as_dataarray(array)`.

    What `open` made is recognised by the name of its dask array and is read straight from
    its store. Anything that was computed, sliced or rechunked has another name, and is read
    through its dask graph: slower, never wrong.
    """
    value = as_dataarray(array)
    where = grid(value)
    dims = tuple(str(d) for d in value.dims)
    data = value.data
    if isinstance(data, da.Array):
        spec = recall(data.name)
        if isinstance(spec, Source) and (spec.shape, spec.dtype) == (data.shape, data.dtype):
            return replace(spec, dims=dims, grid=where)
        kind, chunks = "dask", tuple(map(int, data.chunksize))
    else:
        kind, data = "array", np.asarray(data)
        chunks = data.shape
    return Source(kind, _called(value), data, (), dims, data.shape, image_dtype(data.dtype), chunks, where)


def open(source: Any) -> xr.DataArray:
    """Any source as a lazy, dask-backed DataArray with physical coordinates."""
    if isinstance(source, str | PathLike):
        handle = zarr.open_array(source, mode="r")
        dims = default_dims(handle.ndim)
        lead, space = split_dims(dims)
        spec = Source(
            "zarr",
            str(source),
            None,
            (),
            dims,
            handle.shape,
            image_dtype(handle.dtype),
            handle.chunks,
            Grid(handle.shape[len(lead) :], axes=space),
        )
        return to_dataarray(_lazy(spec, spec.chunks), spec.grid, lead=lead)
    value = as_dataarray(source)
    return value.chunk() if value.chunks is None else value


def _lazy(source: Source, step: tuple[int, ...]) -> da.Array:
    """One blockwise layer that reads blocks of `step` voxels; remembered under its name."""
    chunks = tuple((c,) * (n // c) + ((n % c,) if n % c else ()) for n, c in zip(source.shape, step, strict=True))
    name = f"daskreg-open-{tokenize(source.fingerprint(), step)}"
    meta = np.empty((0,) * source.ndim, source.dtype)
    array: da.Array = da.map_blocks(
        partial(read_block, source, step), chunks=chunks, meta=meta, dtype=source.dtype, name=name
    )
    remember(name, source)
    return array


def _only_variable(dataset: xr.Dataset) -> xr.DataArray:
    names = list(dataset.data_vars)
    images = [n for n in names if dataset[n].ndim >= 2]
    chosen = names if len(names) == 1 else images
    if len(chosen) != 1:
        listed = ", ".join(map(repr, names)) or "none"
        raise NotAVolumeError(f"the Dataset holds the variables {listed}; one is needed: pass dataset[name]")
    return dataset[chosen[0]]


def _check_shape(dims: Sequence[Any], shape: Sequence[int], what: str) -> None:
    if not shape:
        raise NotAVolumeError(f"{what} is a single number, without axes")
    if len({str(d) for d in dims}) != len(dims):
        raise GridError(f"{what} has dims {tuple(dims)}; each needs a name of its own")
    for dim, n in zip(dims, shape, strict=True):
        if n == 0:
            raise EmptyArrayError(f"axis {dim} of {what} has length 0")


def _called(array: xr.DataArray) -> str:
    return "the array" if array.name is None else f"array {str(array.name)!r}"
