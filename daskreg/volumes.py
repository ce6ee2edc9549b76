"""`open`: any source -> a lazy DataArray with physical coordinates; `volume_of`: anything -> a `Volume`.

`volume_of` is the one place where what a user passes (a path, NumPy, dask, Zarr, xarray, a tensor) is normalised.
Functions of the package call it once, and hand the `Volume` on.
"""

from __future__ import annotations

import inspect
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from os import PathLike
from typing import Any, cast

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from dask.base import tokenize

from daskreg.cluster.client import current_client
from daskreg.errors import GridError, InputError, NotAVolumeError, OptionError, ShapeMismatchError, check_flags
from daskreg.geometry import Grid
from daskreg.runtime.private_apis import is_loaded
from daskreg.sources import Source, read_block, recall, remember
from daskreg.sources.channels import ends_in_colour, only_entry
from daskreg.sources.chunking import read_block_shape, sizes_per_axis
from daskreg.sources.coordinates import SPACE, coordinates, default_dims, direction_attrs, grid_from, split_dims
from daskreg.sources.describe import describe
from daskreg.sources.description import Coord, Description, OpenOptions, check_shape
from daskreg.sources.dtypes import image_dtype
from daskreg.sources.in_memory import source_in_memory, source_of_numpy
from daskreg.sources.readers import cf
from daskreg.sources.registry import Opening, remember_opening
from daskreg.sources.sequences import is_file_list
from daskreg.sources.store_options import share_options, use_options

_UPPER = frozenset("TCZYX")
"""Dims in upper case that are taken for those in lower case."""


@dataclass(frozen=True, eq=False)
class Volume:
    """What a user passed, normalised.

    Args:
        array: with dims t, c, z, y, x as far as there are such axes; its voxels are NumPy's or dask's.
        source: reads the voxels, along the dims of `array`.
        colour_last: whether the axis of channels came last, and was moved to the front.
    """

    array: xr.DataArray
    source: Source
    colour_last: bool = False

    @property
    def grid(self) -> Grid:
        """Position of the voxels in the world."""
        return self.source.grid

    def only_entries(self, channel: int | str | None, *, owner: str, besides: str = "") -> dict[str, int]:
        """The entry of each lead axis that an estimate of one image uses; see `sources.channels.only_entry`.

        Args:
            owner: what has the axes, for messages.
            besides: a lead axis that is left as it is.

        Raises: ChannelError where an axis has several entries and none was named.
        """
        return {
            dim: only_entry(
                dim,
                self.array.sizes[dim],
                self.array.coords[dim].values if dim in self.array.coords else (),
                channel,
                owner,
            )
            for dim in self.source.lead
            if dim != besides
        }


def volume_of(value: Any, *, colour_ndim: int | None = None) -> Volume:
    """Anything that is taken as a volume, normalised: what `open` takes, a tensor, or a Volume, which is returned.

    NumPy stays NumPy and dask stays dask. Byte order is made native, float16 becomes float32.
    A DataArray keeps its coordinates and attributes; a path is opened.

    What `open` made is recognised by the name of its dask array, and its source reads straight from the store.
    Anything that was computed, sliced or rechunked has another name, and is read through its dask graph: slower,
    never wrong.

    Args:
        colour_ndim: a NumPy or dask array with so many axes, of which the last has 3 or 4 entries, is taken as images
            in colour; None: no array is.

    Raises: UnsupportedDTypeError, EmptyArrayError, NotAVolumeError; GridError, UnitError.
    """
    if isinstance(value, Volume):
        return value
    if hasattr(value, "detach"):
        value = _from_tensor(value)
    if isinstance(value, np.ndarray):
        source, colour_last = source_of_numpy(value, colour_ndim=colour_ndim)
        return Volume(_array_of(source), source, colour_last)
    colour_last = colour_ndim is not None and isinstance(value, da.Array) and ends_in_colour(value.shape, colour_ndim)
    if colour_last:
        value = xr.DataArray(value, dims=(*SPACE[-(value.ndim - 1) :], "c"))
    array = _normalised(value)
    return Volume(array, _source_of(array, _grid_of(array)), colour_last)


def mask_array(mask: Any) -> Any:
    """A mask that a caller passed (array, DataArray, tensor; positive where voxels count) as bool in NumPy or dask."""
    if hasattr(mask, "detach"):
        mask = _from_tensor(mask)
    elif isinstance(mask, xr.DataArray):
        mask = mask.data
    data = mask if isinstance(mask, np.ndarray | da.Array) else np.asarray(mask)
    return data if data.dtype == bool else data > 0


def grid(array: Any) -> Grid:
    """Where the voxels of an array lie in the world, from its coordinates.

    A DataArray's spatial dims are its last three (or two) that are not times or channels;
    those named z, y, x come in that order. Coordinates must be regular; descending ones
    make a flipped direction, and `attrs["direction"]` an oblique one. Axes without
    coordinates count pixels. NumPy and dask arrays count pixels.

    Raises: GridError naming the axis and the first bad step; UnitError for mixed units.
    """
    return _grid_of(_with_known_dims(array)) if isinstance(array, xr.DataArray) else volume_of(array).grid


def level_grids(path: str | PathLike[str] | Sequence[str], **options: Any) -> list[Grid]:
    """The grids of all pyramid levels, from the finest to the last one that can be opened.

    Args:
        options: of `open`.
    """
    grids: list[Grid] = []
    with warnings.catch_warnings(action="ignore"):  # they are shown when the finest level is opened
        try:
            while True:
                grids.append(grid(open(path, level=len(grids), **options)))
        except InputError:
            return grids


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
        attrs: of the array; "direction" is set where the grid is oblique, and removed where not.
    """
    dims = (*lead, *grid.names)
    if tuple(data.shape[len(lead) :]) != grid.shape or len(data.shape) != len(dims):
        raise ShapeMismatchError(f"data of shape {tuple(data.shape)} does not have dims {dims} of {grid}")
    coords: dict[str, Any] = {}
    for dim, coord in (lead_coords or {}).items():
        pair = isinstance(coord, tuple) and len(coord) == 2 and isinstance(coord[1], Mapping)
        values, extra = coord if pair else (coord, getattr(coord, "attrs", {}))
        coords[dim] = (dim, np.asarray(values), dict(extra))
    for dim, (values, extra) in coordinates(grid).items():
        coords[dim] = (dim, values, extra)
    others = {k: v for k, v in (attrs or {}).items() if k != "direction"}
    array = xr.DataArray(data, dims=dims, coords=coords, attrs={**others, **direction_attrs(grid)})
    array.name = name  # the constructor would replace None by the dask array's name
    return array


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
    allow_outside: bool = False,
    coordinate_system: str | None = None,
    series: int | str | None = None,
    shape: Sequence[int] | None = None,
    dtype: Any = None,
    storage_options: dict[str, Any] | None = None,
) -> xr.DataArray:
    """Any source as a lazy, dask-backed DataArray with physical coordinates.

    Dims are z, y, x (y, x in 2D), with t and c in front where they exist; coordinates are
    voxel centres with `attrs["units"]` on each. Only metadata is read. Without a stated
    spacing, voxels are 1 "pixel" apart and the first is at 0.

    Args:
        source: a path or URL of Zarr v2 or v3 (an array, OME-Zarr, xarray's layout; also an array
            inside a store, `store.zarr/group/array`, or in a zip file); a TIFF, HDF5/NeXus
            (`file.h5::/dataset`), NIfTI, NRRD, MetaImage, MRC, NumPy, raw or image file; a folder, a pattern
            (`slices/*.tif`) or a list of such files, of which images become slices and volumes times; or a NumPy, dask
            or Zarr array, a DataArray, a Dataset with one variable. The world of medical formats is ITK's: LPS in mm,
            written z, y, x. Where a volume is turned in it, `attrs["direction"]` says how; a header's shear is in
            `attrs["header_from_world"]`.
        level: of a pyramid; 0 is the finest, -1 the coarsest.
        channel: number, or name, of the one to take; None keeps all.
        time: number of the one to take; None keeps all.
        spacing: replaces that of the file: one number, one for each spatial dim in array order, or
            a mapping by dim. The origin stays where it is in voxels.
        unit: of space, instead of what the file states.
        chunks: of the dask array: "auto" is whole stored chunks or shards, 64 to 128 MiB together.
        recentre: take OME-Zarr levels that state no translation as means of blocks, whose first
            voxel lies (f - 1) / 2 voxels of level 0 inside.
        missing: a chunk that is not stored is read as the fill value ("fill"; `write` counts
            them), or a ChunkReadError ("error").
        corrupt: a chunk that cannot be read or decoded is a ChunkReadError ("error"), or read as
            the fill value ("fill"; `write` counts and names them).
        allow_outside: whether a file or store may refer to files outside its own folder: raw data of a header, external
            links, storage and virtual sources of HDF5, symbolic links in a store. Nothing of it concerns the path
            itself, which may be such a link. Pipes and devices are refused in any case.
        coordinate_system: of OME-Zarr 0.6, the one whose world is meant; None: the intrinsic one of the image.
        series: of a file that holds several: its number, or a name; `series=1` is the path `file::/1`.
        shape, dtype: of a `.raw` file, slowest axis first; the type with its byte order, such as ">u2".
        storage_options: credentials and other options for the object store of a URL (s3://, gs://, az://, https://),
            with obstore's names: access_key_id, secret_access_key, endpoint, region, skip_signature. They stay in
            memory, and the workers of the current client get them. By default those of the environment of each process.

    Raises: NotAVolumeError, OutsideError, UnsupportedDTypeError, EmptyArrayError, InvalidSpacingError,
        GridError, UnitError, ChannelError, OptionError, MissingExtraError.
    """
    check_flags(recentre=recentre, allow_outside=allow_outside)
    for name, value in (("missing", missing), ("corrupt", corrupt)):
        if value not in ("fill", "error"):
            raise OptionError(f"{name}={value!r}: use 'fill' or 'error'")
    use_options(source, storage_options)
    if storage_options is not None and (client := current_client()) is not None:
        share_options(client, [source])
    options = OpenOptions(level, recentre, spacing, unit, allow_outside, coordinate_system, series, shape, dtype)
    if isinstance(source, str | PathLike | zarr.Array | zarr.Group) or is_file_list(source):
        described = describe(source, options).choose(channel, time)
        stored = described.source.with_policy(missing=missing, corrupt=corrupt)
        lazy = _to_lazy(replace(described, source=stored), chunks)
        if not isinstance(source, zarr.Array | zarr.Group):
            secret = None if storage_options is None else ...
            chosen = {"channel": channel, "time": time, "missing": missing, "corrupt": corrupt}
            given = {**vars(options), **chosen, "storage_options": secret}
            remember_opening(lazy.data.name, Opening(source, {k: v for k, v in given.items() if _is_said(k, v)}))
        return lazy
    for what, asked in {"level": level or None, "series": series, "shape": shape, "dtype": dtype}.items():
        if asked is not None:
            raise OptionError(f"{what}={asked!r} was asked for, but an array in memory has no {what} to choose")
    array = _normalised(source)
    opened = _to_lazy(_describe_in_memory(array, options).choose(channel, time), chunks)
    others = {k: v for k, v in array.coords.items() if k not in opened.coords and set(v.dims) <= set(opened.dims)}
    return opened.assign_coords(others)


def _is_said(name: str, value: Any) -> bool:
    """Whether an option of `open` is not the default."""
    default = _parameters()[name].default
    return not (value is default or (isinstance(value, str | int) and bool(value == default)))


@cache
def _parameters() -> Mapping[str, inspect.Parameter]:
    return inspect.signature(open).parameters


def _normalised(value: Any) -> xr.DataArray:
    """The DataArray of a `Volume`: see `volume_of`."""
    if isinstance(value, str | PathLike | zarr.Array | zarr.Group) or is_file_list(value):
        return open(value)
    if isinstance(value, xr.Dataset):
        value = _only_variable(value)
    if not isinstance(value, xr.DataArray):
        if not isinstance(value, da.Array):
            return _array_of(source_of_numpy(_as_numpy(value))[0])
        dims = default_dims(value.ndim)
        dtype = image_dtype(value.dtype)
        _check_shape(dims, value.shape, "the array")
        lead, space = split_dims(dims)
        return to_dataarray(value.astype(dtype, copy=False), Grid(value.shape[len(lead) :], axes=space), lead=lead)
    what = _title(value)
    dtype = image_dtype(value.dtype, what)
    _check_shape(value.dims, value.shape, what)
    value = _with_known_dims(value)
    if not is_loaded(value) and value.chunks is None:
        value = value.chunk()  # a file that xarray opened lazily: asking for its data would load it
    lead, space = split_dims([str(d) for d in value.dims])
    value = value if value.dims == (*lead, *space) else value.transpose(*lead, *space)
    return value if value.dtype == dtype else cast(xr.DataArray, value.astype(dtype))


def _array_of(source: Source) -> xr.DataArray:
    return to_dataarray(source.array, source.grid, lead=source.lead)


def _with_known_dims(array: xr.DataArray) -> xr.DataArray:
    """The array with dims that are texts; those of upper case (T, C, Z, Y, X, as bioio has them) in lower case."""
    taken = {str(d) for d in array.dims}
    names = {d: str(d) for d in array.dims}
    for dim, name in names.items():
        if name in _UPPER and name.lower() not in taken:
            names[dim] = name.lower()
    return array if all(d == name for d, name in names.items()) else array.rename(names)


def _grid_of(array: xr.DataArray) -> Grid:
    """See `grid`."""
    what = _title(array)
    _, space = split_dims([str(d) for d in array.dims])
    _check_shape(array.dims, array.shape, what)
    coords = {d: (array.coords[d].values, array.coords[d].attrs) for d in space if d in array.coords}
    shape = [array.sizes[d] for d in space]
    return grid_from(space, shape, coords, direction=array.attrs.get("direction"), what=what)


def _source_of(array: xr.DataArray, grid: Grid) -> Source:
    """The source of a normalised array on a grid that is known already."""
    dims, data = tuple(str(d) for d in array.dims), array.data
    if isinstance(data, da.Array):
        spec = recall(data.name)
        if isinstance(spec, Source) and (spec.shape, spec.dtype) == (data.shape, data.dtype):
            return spec if (spec.dims, spec.grid) == (dims, grid) else replace(spec, dims=dims, grid=grid)
    else:
        data = np.asarray(data)
    return source_in_memory(data, name=_title(array), dims=dims, grid=grid)


def _describe_in_memory(array: xr.DataArray, options: OpenOptions) -> Description:
    """A normalised array, as the readers describe what is stored."""
    dims = [str(d) for d in array.dims]
    lead, space = split_dims(dims)
    coords: dict[str, Coord] = {d: (array.coords[d].values, array.coords[d].attrs) for d in dims if d in array.coords}
    placed = cf.grid(space, array.shape[len(lead) :], coords, array.attrs, options=options, what=_title(array))
    name = None if array.name is None else str(array.name)
    return Description(_source_of(array, placed), name, array.attrs, {d: coords[d] for d in lead if d in coords})


def _to_lazy(described: Description, chunks: Any) -> xr.DataArray:
    source = described.source
    if source.carries_data:
        data = _lazy_in_memory(source)
        if not (isinstance(chunks, str) and chunks == "auto"):
            sizes = [int(c) for c in data.chunksize]
            data = data.rechunk(sizes_per_axis(chunks, source.dims, source.shape, auto=sizes, whole=True))
    else:
        unit = described.read_unit or source.chunks
        auto = read_block_shape(source.shape, unit, source.dtype.itemsize, len(source.lead))
        data = _lazy(source, sizes_per_axis(chunks, source.dims, source.shape, auto=auto, whole=True))
    return to_dataarray(
        data,
        source.grid,
        lead=source.lead,
        lead_coords=described.lead_coords,
        name=described.name,
        attrs=described.attrs,
    )


def _lazy(source: Source, step: tuple[int, ...]) -> da.Array:
    """One blockwise layer that reads blocks of `step` voxels; remembered under its name."""
    chunks = tuple((c,) * (n // c) + ((n % c,) if n % c else ()) for n, c in zip(source.shape, step, strict=True))
    # An array in memory gets a random name: hashing the values would read them all.
    token = tokenize(source.fingerprint(), source.policy, step) if source.array is None else uuid.uuid4().hex
    name = f"daskreg-open-{token}"
    earlier = recall(name)
    if isinstance(earlier, Source) and earlier == source:
        source = earlier  # so that the entry lives as long as either array does
    meta = np.empty((0,) * source.ndim, source.dtype)
    array: da.Array = da.map_blocks(
        partial(read_block, source, step), chunks=chunks, meta=meta, dtype=source.dtype, name=name
    )
    remember(name, source)
    return array


def _lazy_in_memory(source: Source) -> da.Array:
    """A dask array over pieces of a NumPy array, so that a task carries only its piece; a dask array as it is."""
    data = source.view()
    if source.is_graph:
        return cast(da.Array, data)
    step = read_block_shape(source.shape, (1,) * source.ndim, source.dtype.itemsize)
    array: da.Array = da.from_array(data, chunks=step, name=f"daskreg-open-{uuid.uuid4().hex}")
    remember(array.name, source, keeper=array.dask.layers[array.name])
    return array


def _from_tensor(tensor: Any) -> Any:
    """A tensor as NumPy; torch, which takes long to import, is not imported for it."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _as_numpy(value: Any) -> np.ndarray[Any, Any]:
    try:
        array: np.ndarray[Any, Any] = np.asanyarray(value)  # with its mask
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


def _title(array: xr.DataArray) -> str:
    return "the array" if array.name is None else f"array {str(array.name)!r}"
