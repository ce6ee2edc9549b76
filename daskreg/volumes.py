"""`open`: any source -> a lazy DataArray with physical coordinates; and back to its Grid and Source."""

from __future__ import annotations

import uuid
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

from daskreg.errors import GridError, NotAVolumeError, OptionError, ShapeMismatchError
from daskreg.geometry import Grid
from daskreg.sources import Source, read_block, recall, remember
from daskreg.sources.chunking import auto_block, given_block
from daskreg.sources.coordinates import coordinates, default_dims, direction_attrs, grid_from, split_dims
from daskreg.sources.describe import describe
from daskreg.sources.dtypes import image_dtype
from daskreg.sources.found import Coord, Found, Wish, check_shape
from daskreg.sources.readers import cf
from daskreg.sources.source import IN_MEMORY


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
        pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping)
        values, extra = given if pair else (given, getattr(given, "attrs", {}))
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
        if isinstance(value, np.ma.MaskedArray):
            value = xr.DataArray(value).data  # NaN where masked
        elif not isinstance(value, da.Array):
            value = _as_numpy(value)
        dims = default_dims(value.ndim)
        dtype = image_dtype(value.dtype)
        _check_shape(dims, value.shape, "the array")
        lead, space = split_dims(dims)
        return to_dataarray(value.astype(dtype, copy=False), Grid(value.shape[len(lead) :], axes=space), lead=lead)
    what = _called(value)
    dtype = image_dtype(value.dtype, what)
    _check_shape(value.dims, value.shape, what)
    if not all(isinstance(d, str) for d in value.dims):
        value = value.rename({d: str(d) for d in value.dims})
    if not value.variable._in_memory and value.chunks is None:
        value = value.chunk()  # a file that xarray opened lazily: asking for its data would load it
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
    return _source_at(value, grid(value))


def _source_at(value: xr.DataArray, where: Grid) -> Source:
    """The source of what `as_dataarray` gave, on a grid that is known already."""
    dims = tuple(str(d) for d in value.dims)
    data = value.data
    if isinstance(data, da.Array):
        spec = recall(data.name)
        if isinstance(spec, Source) and (spec.shape, spec.dtype) == (data.shape, data.dtype):
            return spec if (spec.dims, spec.grid) == (dims, where) else replace(spec, dims=dims, grid=where)
        kind, chunks = "dask", tuple(map(int, data.chunksize))
    else:
        kind, data = "array", np.asarray(data)
        chunks = data.shape
    return Source(kind, _called(value), data, (), dims, data.shape, image_dtype(data.dtype), chunks, where)


def open(
    source: Any,
    *,
    level: int = 0,
    channel: int | str | None = None,
    time: int | None = None,
    spacing: float | Sequence[float] | Mapping[str, float] | None = None,
    unit: str | None = None,
    chunks: Any = "auto",
    recentre: bool = False,
    missing: str = "fill",
    corrupt: str = "error",
) -> xr.DataArray:
    """Any source as a lazy, dask-backed DataArray with physical coordinates.

    Dims are z, y, x (y, x in 2D), with t and c in front where they exist; coordinates are
    voxel centres with `attrs["units"]` on each. Only metadata is read. Without a stated
    spacing, voxels are 1 "pixel" apart and the first is at 0.

    Args:
        source: a path or URL of Zarr v2 or v3 (an array, OME-Zarr, xarray's layout; also an array
            inside a store, `store.zarr/group/array`, or in a zip file); a TIFF, HDF5/NeXus
            (`file.h5::/dataset`), NIfTI, NRRD, MetaImage, MRC or image file; or a NumPy, dask or
            Zarr array, a DataArray, a Dataset with one variable. The world of medical formats
            is ITK's: LPS in mm, written z, y, x. Where a volume is turned in it,
            `attrs["direction"]` says how; a header's shear is in `attrs["header_from_world"]`.
        level: of a pyramid; 0 is the finest, -1 the coarsest.
        channel: number, or name, of the one to take; None keeps all.
        time: number of the one to take; None keeps all.
        spacing: of the voxels handed out, instead of what the file states: one number, one for
            each spatial dim in array order, or a mapping by dim. The origin stays where it
            is in voxels.
        unit: of space, instead of what the file states.
        chunks: of the dask array: "auto" is whole stored chunks or shards, 64 to 128 MiB together.
        recentre: take OME-Zarr levels that state no translation as means of blocks, whose first
            voxel lies (f - 1) / 2 voxels of level 0 inside.
        missing: a chunk that is not stored is read as the fill value ("fill"; `write` counts
            them), or a ChunkReadError ("error").
        corrupt: a chunk that cannot be read or decoded is a ChunkReadError ("error"), or read as
            the fill value ("fill"; `write` counts and names them).

    Raises: NotAVolumeError, UnsupportedDTypeError, EmptyArrayError, InvalidSpacingError,
        GridError, UnitError, ChannelError, OptionError, MissingExtraError.
    """
    for name, value in (("missing", missing), ("corrupt", corrupt)):
        if value not in ("fill", "error"):
            raise OptionError(f"{name}={value!r}: use 'fill' or 'error'")
    wish = Wish(level, recentre, spacing, unit)
    if isinstance(source, str | PathLike | zarr.Array | zarr.Group):
        found = describe(source, wish).choose(channel, time)
        return _to_lazy(replace(found, source=replace(found.source, missing=missing, corrupt=corrupt)), chunks)
    if level != 0:
        raise OptionError(f"level={level} was asked for, but an array in memory has no levels")
    array = as_dataarray(source)
    opened = _to_lazy(_found_in(array, wish).choose(channel, time), chunks)
    aside = {k: v for k, v in array.coords.items() if k not in opened.coords and set(v.dims) <= set(opened.dims)}
    return opened.assign_coords(aside)


def _found_in(array: xr.DataArray, wish: Wish) -> Found:
    """An array in memory (or lazy), as the readers describe what is stored."""
    what = _called(array)
    dims = [str(d) for d in array.dims]
    lead, space = split_dims(dims)
    coords: dict[str, Coord] = {d: (array.coords[d].values, array.coords[d].attrs) for d in dims if d in array.coords}
    where = cf.grid(space, array.shape[len(lead) :], coords, array.attrs, wish=wish, where=what)
    name = None if array.name is None else str(array.name)
    return Found(_source_at(array, where), name, array.attrs, {d: coords[d] for d in lead if d in coords})


def _to_lazy(found: Found, chunks: Any) -> xr.DataArray:
    source = found.source
    automatic = isinstance(chunks, str) and chunks == "auto"
    if source.kind in IN_MEMORY:
        data = _lazy_in_memory(source)
        if not automatic:
            data = data.rechunk(given_block(chunks, source.dims, source.shape, [int(c) for c in data.chunksize]))
    else:
        unit = found.unit_block or source.chunks
        auto = auto_block(source.shape, unit, source.dtype.itemsize, len(source.lead))
        data = _lazy(source, given_block(chunks, source.dims, source.shape, auto))
    return to_dataarray(
        data, source.grid, lead=source.lead, lead_coords=found.lead_coords, name=found.name, attrs=found.attrs
    )


def _lazy(source: Source, step: tuple[int, ...]) -> da.Array:
    """One blockwise layer that reads blocks of `step` voxels; remembered under its name."""
    chunks = tuple((c,) * (n // c) + ((n % c,) if n % c else ()) for n, c in zip(source.shape, step, strict=True))
    # An array in memory gets a random name: hashing the values would read them all.
    token = tokenize(source.fingerprint(), source.policy, step) if source.array is None else uuid.uuid4().hex
    name = f"daskreg-open-{token}"
    known = recall(name)
    if isinstance(known, Source) and known == source:
        source = known  # so that the entry lives as long as either array does
    meta = np.empty((0,) * source.ndim, source.dtype)
    array: da.Array = da.map_blocks(
        partial(read_block, source, step), chunks=chunks, meta=meta, dtype=source.dtype, name=name
    )
    remember(name, source)
    return array


def _lazy_in_memory(source: Source) -> da.Array:
    """A dask array over NumPy in pieces (so that a task carries its piece only); dask stays as it is."""
    data = source.view()
    if source.kind == "dask":
        return cast(da.Array, data)
    step = auto_block(source.shape, (1,) * source.ndim, source.dtype.itemsize)
    array: da.Array = da.from_array(data, chunks=step, name=f"daskreg-open-{uuid.uuid4().hex}")
    remember(array.name, source, keeper=array.dask.layers[array.name])
    return array


def _as_numpy(value: Any) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise NotAVolumeError(f"a {type(value).__name__} does not make one array ({error})") from error
    if array.ndim == 0 and array.dtype == object:
        raise NotAVolumeError(f"a {type(value).__name__} is not a volume: give a path, an array or a DataArray")
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
    names = [str(d) for d in dims]
    if len(set(names)) != len(names):
        raise GridError(f"{what} has dims {tuple(names)}; each needs a name of its own")
    check_shape(names, shape, what)


def _called(array: xr.DataArray) -> str:
    return "the array" if array.name is None else f"array {str(array.name)!r}"
