"""Opening Zarr (v2, v3): plain arrays, OME-Zarr, groups in xarray's layout. Metadata only."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore, MemoryStore, ZipStore

from daskreg.errors import NotAVolumeError, OptionError
from daskreg.geometry import Grid
from daskreg.runtime.private_apis import wrapped_store
from daskreg.sources.chunking import LARGE
from daskreg.sources.coordinates import default_dims, split_dims
from daskreg.sources.dtypes import image_dtype
from daskreg.sources.found import Coord, Found, Wish, check_shape, ordered, replace_grid
from daskreg.sources.locate import Place
from daskreg.sources.readers import cf, ome
from daskreg.sources.source import MEMORY, Source
from daskreg.sources.storage.redact import redact
from daskreg.sources.storage.retrying import open_store

Array = zarr.Array[Any]


def describe(place: Place, wish: Wish) -> Found:
    """The image at a place: an array, or a group that holds one.

    An array below an OME-Zarr group, or beside coordinate arrays, takes its coordinates from
    there.

    Raises: NotAVolumeError and the other input errors.
    """
    node = place.open()
    if isinstance(node, zarr.Group):
        return _describe_group(place, node, wish)
    image_dtype(node.dtype, str(place))
    for up, path in place.parents():
        group = up.group()
        image = None if group is None else _image(up, group)
        if image is not None and any(level.path == path for level in image.levels):
            number = [level.path for level in image.levels].index(path)
            return _describe_level(up, image, _at_most_level_0(wish, place, number))
        if group is not None and "/" not in path and cf.explains(group, _dims(node, str(place))):
            return _describe_variable(up, group, path, _at_most_level_0(wish, place))
    return _plain(place, node, _at_most_level_0(wish, place))


def place_of(node: Array | zarr.Group) -> Place:
    """Where an opened array or group is: a path for stores that have one, else the store itself."""
    store, inner = node.store, node.path
    while (wrapped := wrapped_store(store)) is not None:
        store = wrapped
    if isinstance(store, LocalStore):
        place = Place(str(store.root.absolute()))
        return place.child(inner) if inner else place
    if isinstance(store, ZipStore):
        return Place(str(store.path.absolute()), inner)
    root = MEMORY if isinstance(store, MemoryStore) else redact(str(store))
    return Place(root, inner, node.store)


def _describe_group(place: Place, group: zarr.Group, wish: Wish) -> Found:
    image = _image(place, group)
    if image is not None:
        return _describe_level(place, image, wish)
    wish = _at_most_level_0(wish, place)
    if group.attrs.get("bioformats2raw.layout") is not None and "0" in group:
        series = sorted((name for name, _ in group.groups() if name.isdigit()), key=int)
        if len(series) > 1:
            raise NotAVolumeError(f"{place} holds the images {', '.join(series)}: name one, such as {place}/0")
        return describe(place.child("0"), wish)
    return _describe_variable(place, group, cf.only_variable(group, str(place)), wish)


def _describe_variable(place: Place, group: zarr.Group, name: str, wish: Wish) -> Found:
    """A variable of a group, with the coordinate arrays beside it."""
    below, array = place.child(name), group[name]
    if not isinstance(array, zarr.Array):
        raise NotAVolumeError(f"{below} is a group")
    if cf.is_encoded(array):
        return cf.decoded(place.store or open_store(place.root), place.inner, below, name, wish)
    dims = _dims(array, str(below))
    lead, space = split_dims(dims)
    check_shape(dims, array.shape, str(below))
    coords = cf.coordinate_arrays(group, dims)
    shape = ordered(dims, array.shape, space)
    attrs = cf.plain_attrs(dict(array.attrs))
    grid = cf.grid(space, shape, coords, attrs, wish=wish, where=str(below))
    found = _found(below, array, dims, lead, grid)
    return Found(found.source, name, attrs, {d: coords[d] for d in lead if d in coords}, found.unit_block)


def _describe_level(place: Place, image: ome.Multiscale, wish: Wish) -> Found:
    level = image.level(wish.level, recentre=wish.recentre, where=str(place))
    below = place.child(level.path)
    array = below.open()
    names = [a.name for a in image.axes]
    if not isinstance(array, zarr.Array) or array.ndim != len(names):
        raise NotAVolumeError(f"{below} is not an array with the axes {', '.join(names)} that {place} states")
    check_shape(names, array.shape, str(below))
    lead, space = ome.spatial(image.axes, str(place))
    spacing, origin = (ordered(names, v.tolist(), space) for v in (level.scale, level.origin))
    unit = wish.common({a.name: a.unit for a in image.axes if a.name in space}, str(place))
    grid = Grid(ordered(names, array.shape, space), spacing, origin, image.direction, unit, space)
    # What is stored runs along the volume's own axes.
    grid = wish.apply(replace_grid(grid, origin=grid.direction_matrix @ np.asarray(origin)))
    found = _found(below, array, names, lead, grid)
    coords = {
        a.name: _lead_coord(a, k, level, image, array.shape[k]) for k, a in enumerate(image.axes) if a.name in lead
    }
    attrs = {k: v for k, v in cf.plain_attrs(dict(array.attrs)).items() if k not in ("ome", "multiscales", "omero")}
    return Found(found.source, image.name or place.name, attrs, coords, found.unit_block)


def _lead_coord(axis: ome.Axis, k: int, level: ome.Level, image: ome.Multiscale, count: int) -> Coord:
    if axis.type == "channel" and len(image.labels) == count:
        return np.asarray(image.labels), {}
    values = float(level.origin[k]) + float(level.scale[k]) * np.arange(count)
    return values, {} if axis.unit is None else {"units": axis.unit}


def _plain(place: Place, array: Array, wish: Wish) -> Found:
    dims = _dims(array, str(place))
    lead, space = split_dims(dims)
    check_shape(dims, array.shape, str(place))
    attrs = cf.plain_attrs(dict(array.attrs))
    grid = cf.grid(space, ordered(dims, array.shape, space), {}, attrs, wish=wish, where=str(place))
    found = _found(place, array, dims, lead, grid)
    return Found(found.source, place.name or None, attrs, {}, found.unit_block)


def _found(place: Place, array: Array, dims: Sequence[str], lead: Sequence[str], grid: Grid) -> Found:
    """The source of an array whose stored axes are `dims`; its dims are (*lead, *grid.names)."""
    wanted = (*lead, *grid.names)
    order = tuple(list(dims).index(d) for d in wanted)
    # Shards are read whole where they are not too large.
    whole = array.shards is not None and math.prod(array.shards) * array.dtype.itemsize <= LARGE
    unit = array.shards if whole and array.shards else array.chunks
    source = Source(
        "zarr",
        place.path,
        None if place.store is None else array,
        (),
        wanted,
        ordered(dims, array.shape, wanted),
        image_dtype(array.dtype, str(place)),
        ordered(dims, array.chunks, wanted),
        grid,
        order=() if order == tuple(range(len(order))) else order,
        stamp=_stamp(place, array),
    )
    return Found(source, unit_block=ordered(dims, unit, wanted))


def _stamp(place: Place, array: Array) -> str:
    metadata = json.dumps(array.metadata.to_dict(), sort_keys=True, default=str)
    return hashlib.sha256("\n".join([metadata, *place.stamp_files()]).encode()).hexdigest()[:16]


def _dims(array: Array, where: str) -> tuple[str, ...]:
    """Names of the stored axes: v3's dimension_names, xarray's attribute for v2, or the usual ones."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    usual = default_dims(array.ndim)
    if not isinstance(names, list | tuple) or len(names) != array.ndim or None in names or "" in names:
        return usual
    dims = tuple(map(str, names))
    return dims if len(set(dims)) == len(dims) else usual


def _image(place: Place, group: zarr.Group) -> ome.Multiscale | None:
    return ome.multiscale(dict(group.attrs), str(place))


def _at_most_level_0(wish: Wish, place: Place, number: int = 0) -> Wish:
    """For a path that names one array: `level` has nothing to choose from."""
    if wish.level not in (0, number):
        raise OptionError(f"level={wish.level} was asked for, but {place} has no levels")
    return Wish(number, wish.recentre, wish.spacing, wish.unit)
