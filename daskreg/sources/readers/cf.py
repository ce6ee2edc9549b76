"""Groups in xarray's layout: variables with named dims, and coordinate arrays beside them (CF)."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store

from daskreg.errors import GridError, NotAVolumeError
from daskreg.geometry import Grid
from daskreg.sources.coordinates import grid_from, split_dims
from daskreg.sources.description import Coord, Description, OpenOptions, check_shape
from daskreg.sources.dtypes import image_dtype
from daskreg.sources.in_memory import source_in_memory
from daskreg.sources.locate import StoreLocation

# Attributes about how values are stored, not what they are.
_ENCODING = ("_ARRAY_DIMENSIONS", "_FillValue", "missing_value", "scale_factor", "add_offset", "coordinates")

Array = zarr.Array[Any]


def only_variable(group: zarr.Group, what: str) -> str:
    """Name of the one variable of a group that is not a coordinate.

    Raises: NotAVolumeError that names the variables where there is not exactly one.
    """
    try:
        arrays = dict(group.arrays())
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise NotAVolumeError(f"{what} holds something that cannot be read ({reason}); name one array in it") from error
    listed = " ".join(str(a.attrs.get(key, "")) for a in arrays.values() for key in ("coordinates", "bounds"))
    auxiliary = {*listed.split(), *str(group.attrs.get("coordinates", "")).split()}
    names = [n for n, a in arrays.items() if n not in auxiliary and not _is_index(n, a)]
    several = [n for n in names if arrays[n].ndim >= 2]
    for chosen in (names, several):
        if len(chosen) == 1:
            return chosen[0]
    if names:
        raise NotAVolumeError(f"{what} holds the arrays {_some(names)}: name one, such as {what}/{min(names)}")
    groups = sorted(name for name, _ in group.groups())
    hint = f"; it holds the groups {_some(groups)}: name one, such as {what}/{groups[0]}" if groups else ""
    raise NotAVolumeError(f"{what} is a Zarr group without an array{hint}")


def has_coordinates(group: zarr.Group, dims: Sequence[str]) -> bool:
    """Whether a group has coordinate arrays for some of these dims."""
    return any(_coordinate(group, dim) is not None for dim in dims)


def coordinate_arrays(group: zarr.Group, dims: Sequence[str]) -> dict[str, Coord]:
    """Values and attributes of the coordinate arrays that a group has for some dims; the values are read here."""
    coords: dict[str, Coord] = {}
    for dim in dims:
        array = _coordinate(group, dim)
        if array is not None:
            attrs = dict(array.attrs)
            values = np.asarray(array[:])
            if values.dtype.kind in "iuf" and {"scale_factor", "add_offset"} & set(attrs):
                values = values * _number(attrs, "scale_factor", 1.0) + _number(attrs, "add_offset", 0.0)
            coords[dim] = (values, plain_attrs(attrs))
    return coords


def grid(
    space: Sequence[str],
    shape: Sequence[int],
    coords: Mapping[str, Coord],
    attrs: Mapping[str, Any],
    *,
    options: OpenOptions,
    what: str,
) -> Grid:
    """The grid of some coordinates; along axes whose spacing was asked for, irregular coordinates are ignored.

    Raises: GridError naming the axis and the first bad step; UnitError for units that cannot be converted.
    """
    stated = {d: coords[d][1].get("units") if d in coords else None for d in space}
    unit, factors = options.units_of_axes(stated, what)
    plain = {d: _converted(coords[d], factors[d], unit) for d in space if d in coords}
    for dim in options.spacings(space):
        try:
            grid_from([dim], [shape[list(space).index(dim)]], plain)
        except GridError:
            plain.pop(dim)
    for dim in space:
        plain.setdefault(dim, (None, {"units": unit}))
    return options.apply(grid_from(space, shape, plain, direction=attrs.get("direction"), what=what))


def _converted(coord: Coord, factor: float, unit: str) -> Coord:
    """Coordinates in another unit."""
    values, attrs = coord
    if factor != 1.0 and np.asarray(values).dtype.kind in "iuf":
        values = np.asarray(values) * factor
        attrs = {k: v * factor if k == "spacing" and isinstance(v, int | float) else v for k, v in attrs.items()}
    return values, {**attrs, "units": unit}


def plain_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes without those that say how values are encoded."""
    return {k: v for k, v in attrs.items() if k not in _ENCODING}


def is_encoded(array: Array) -> bool:
    """Whether the stored numbers are not the values: packed, or with a number for "missing"."""
    attrs = array.attrs
    if "scale_factor" in attrs or "add_offset" in attrs or "missing_value" in attrs:
        return True
    fill = attrs.get("_FillValue")
    if fill is None and array.metadata.zarr_format == 2 and _names(array):
        # xarray keeps its _FillValue there; 0 is what zarr itself sets.
        fill = array.fill_value
        return fill is not None and bool(fill) and not bool(np.isnan(fill))
    return fill is not None and not _is_nan(fill)


def decoded_by_xarray(
    store: Store, group: str, location: StoreLocation, name: str, options: OpenOptions
) -> Description:
    """An encoded variable, decoded by xarray, through its dask graph."""
    import xarray as xr

    what = str(location)
    dataset = xr.open_zarr(store, group=group or None, consolidated=False, chunks={})
    array = dataset[name]
    dims = [str(d) for d in array.dims]
    lead, space = split_dims(dims)
    check_shape(dims, array.shape, what)
    array = array.transpose(*lead, *space)
    coords: dict[str, Coord] = {
        str(d): (array.coords[d].values, array.coords[d].attrs) for d in dims if d in array.coords
    }
    placed = grid(space, array.shape[len(lead) :], coords, array.attrs, options=options, what=what)
    source = source_in_memory(array.data, name=location.path, dims=(*lead, *space), grid=placed)
    source = replace(source, dtype=image_dtype(array.dtype, what))
    return Description(source, name, plain_attrs(array.attrs), {d: coords[d] for d in lead if d in coords})


def _coordinate(group: zarr.Group, dim: str) -> Array | None:
    try:
        array = group.get(dim)
    except Exception:
        return None
    return array if isinstance(array, zarr.Array) and _is_index(dim, array) else None


def _is_index(name: str, array: Array) -> bool:
    return array.ndim == 1 and _names(array) == {name.rsplit("/", 1)[-1]}


def _names(array: Array) -> set[str]:
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    return {str(n) for n in names} if isinstance(names, list | tuple) else set()


def _number(attrs: Mapping[str, Any], name: str, default: float) -> float:
    return float(attrs.get(name, default))


def _is_nan(value: Any) -> bool:
    """NaN as a number, or as xarray writes it in v3: base64 of a little-endian double."""
    if isinstance(value, str) and value != "NaN":
        try:
            value = struct.unpack("<d", base64.b64decode(value))[0]
        except (ValueError, struct.error):
            return False
    return bool(np.isnan(float(value)))


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(sorted(names)[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
