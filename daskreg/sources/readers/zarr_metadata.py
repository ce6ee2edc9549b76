"""What a Zarr store (v2, v3) holds: a plain array, OME-Zarr, or a group in xarray's layout. Metadata only."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import zarr

from daskreg.errors import InputError, NotAVolumeError, OptionError
from daskreg.formats.ngff_systems import in_scene
from daskreg.formats.ome import OWN_KEYS
from daskreg.formats.omero import OMERO_KEY
from daskreg.geometry import Grid
from daskreg.sources.chunking import LARGE
from daskreg.sources.coordinates import HEADER_FROM_WORLD, default_dims, split_dims
from daskreg.sources.description import LABELS, Coord, Description, OpenOptions, check_shape, ordered, replace_grid
from daskreg.sources.dtypes import image_dtype
from daskreg.sources.file_formats import ZARR
from daskreg.sources.locate import StoreLocation
from daskreg.sources.readers import cf, ome
from daskreg.sources.readers.ome_systems import multiscale_of_systems
from daskreg.sources.storage.stores import open_store
from daskreg.sources.stored import stored_source

Array = zarr.Array[Any]

_MOST_PARAMETERS = 1000


def describe(location: StoreLocation, options: OpenOptions) -> Description:
    """The image at a location: an array, or a group that holds one.

    An array below an OME-Zarr group, or beside coordinate arrays, takes its coordinates from
    there.

    Raises: NotAVolumeError and the other input errors.
    """
    node = location.open()
    if isinstance(node, zarr.Group):
        return _describe_group(location, node, options)
    image_dtype(node.dtype, str(location))
    for up, path in location.parents():
        group = up.group()
        image = None if group is None else _image(up, group, options)
        if image is not None and any(level.path == path for level in image.levels):
            number = [level.path for level in image.levels].index(path)
            return _describe_level(up, image, _without_levels(options, location, number))
        if group is not None and "/" not in path and cf.has_coordinates(group, _dims(node, str(location))):
            return _describe_variable(up, group, path, _without_levels(options, location))
    return _plain(location, node, _without_levels(options, location))


def _describe_group(location: StoreLocation, group: zarr.Group, options: OpenOptions) -> Description:
    image = _image(location, group, options)
    if image is not None:
        return _describe_level(location, image, options)
    options = _without_levels(options, location)
    if isinstance(scene := _block(dict(group.attrs)).get("scene"), Mapping):
        names = sorted(name for name, below in group.groups() if _first_multiscale(dict(below.attrs)) is not None)
        systems = [str(system.get("name")) for system in scene.get("coordinateSystems") or ()]
        raise NotAVolumeError(
            f"{location} is a scene of the images {', '.join(names)}: name one, such as {location.child(names[0])}"
            f" with coordinate_system={systems[0]!r}"
            if names and systems
            else f"{location} is a scene without images"
        )
    if group.attrs.get("bioformats2raw.layout") is not None and "0" in group:
        series = sorted((name for name, _ in group.groups() if name.isdigit()), key=int)
        if len(series) > 1:
            raise NotAVolumeError(f"{location} holds the images {', '.join(series)}: name one, such as {location}/0")
        return describe(location.child("0"), options)
    return _describe_variable(location, group, cf.only_variable(group, str(location)), options)


def _describe_variable(location: StoreLocation, group: zarr.Group, name: str, options: OpenOptions) -> Description:
    """A variable of a group, with the coordinate arrays beside it."""
    below, array = location.child(name), group[name]
    if not isinstance(array, zarr.Array):
        raise NotAVolumeError(f"{below} is a group")
    if cf.is_encoded(array):
        return cf.decoded_by_xarray(location.store or open_store(location.root), location.inner, below, name, options)
    dims = _dims(array, str(below))
    lead, space = split_dims(dims)
    check_shape(dims, array.shape, str(below))
    coords = cf.coordinate_arrays(group, dims)
    shape = ordered(dims, array.shape, space)
    attrs = cf.plain_attrs(dict(array.attrs))
    grid = cf.grid(space, shape, coords, attrs, options=options, what=str(below))
    lead_coords = {d: coords[d] for d in lead if d in coords}
    return replace(_describe_array(below, array, dims, lead, grid), name=name, attrs=attrs, lead_coords=lead_coords)


def _describe_level(location: StoreLocation, image: ome.Multiscale, options: OpenOptions) -> Description:
    number = image.number(options.level, str(location))
    below, array = _level_array(location, image, number)
    if number and not image.levels[number].has_scale:
        shapes = [_level_array(location, image, k)[1].shape for k in range(number)]
        image = image.scaled_by_shapes(number, [*shapes, array.shape])
    level = image.level(number, recentre=options.recentre, what=str(location))
    names = [a.name for a in image.axes]
    check_shape(names, array.shape, str(below))
    lead, space = ome.spatial(image.axes, str(location))
    units = {a.name: a.unit for a in image.axes if a.name in space}
    unit, factors = options.units_of_axes({d: units[d] for d in space}, str(location))
    ratio = np.asarray([factors[d] for d in space])
    spacing, origin = (np.asarray(ordered(names, v.tolist(), space)) * ratio for v in (level.scale, level.origin))
    grid = Grid(ordered(names, array.shape, space), spacing, origin, image.direction, unit, space)
    # The stored origin is along the volume's own axes.
    grid = options.apply(replace_grid(grid, origin=grid.direction_matrix @ origin))
    coords = {
        a.name: _lead_coord(a, k, level, image, array.shape[k]) for k, a in enumerate(image.axes) if a.name in lead
    }
    attrs = {**image.attributes, **cf.plain_attrs(dict(array.attrs))}
    attrs = {k: v for k, v in attrs.items() if k not in OWN_KEYS}
    if image.omero is not None:
        attrs[OMERO_KEY] = image.omero
    if image.is_labels:
        attrs[LABELS] = True
    if image.header_from_world is not None:
        attrs[HEADER_FROM_WORLD] = image.header_from_world
    described = _describe_array(below, array, names, lead, grid)
    return replace(described, name=image.name or location.name, attrs=attrs, lead_coords=coords)


def _level_array(location: StoreLocation, image: ome.Multiscale, number: int) -> tuple[StoreLocation, Array]:
    """The array of a level, and where it is. Raises: NotAVolumeError where it does not have the axes of the image."""
    below = location.child(image.levels[number].path)
    array = below.open()
    if not isinstance(array, zarr.Array) or array.ndim != len(image.axes):
        names = ", ".join(a.name for a in image.axes)
        raise NotAVolumeError(f"{below} is not an array with the axes {names} that {location} states")
    return below, array


def _lead_coord(axis: ome.Axis, k: int, level: ome.MultiscaleLevel, image: ome.Multiscale, count: int) -> Coord:
    if axis.type == "channel" and len(image.labels) == count:
        return np.asarray(image.labels), {}
    values = float(level.origin[k]) + float(level.scale[k]) * np.arange(count)
    return values, {} if axis.unit is None else {"units": axis.unit}


def _plain(location: StoreLocation, array: Array, options: OpenOptions) -> Description:
    dims = _dims(array, str(location))
    lead, space = split_dims(dims)
    check_shape(dims, array.shape, str(location))
    attrs = cf.plain_attrs(dict(array.attrs))
    grid = cf.grid(space, ordered(dims, array.shape, space), {}, attrs, options=options, what=str(location))
    return replace(_describe_array(location, array, dims, lead, grid), name=location.name or None, attrs=attrs)


def _describe_array(
    location: StoreLocation, array: Array, dims: Sequence[str], lead: Sequence[str], grid: Grid
) -> Description:
    """An array whose stored axes are `dims`, without name, attributes and coordinates."""
    # Shards are read whole where they are not too large.
    whole = array.shards is not None and math.prod(array.shards) * array.dtype.itemsize <= LARGE
    unit = array.shards if whole and array.shards else array.chunks
    source = stored_source(
        dims,
        array.shape,
        format=ZARR.name,
        path=location.path,
        dtype=image_dtype(array.dtype, str(location)),
        chunks=array.chunks,
        lead=lead,
        grid=grid,
        stamp=stamp(location, array),
        array=None if location.store is None else array,
    )
    return Description(source, read_unit=ordered(dims, unit, source.dims))


def stamp(location: StoreLocation, array: Array) -> str:
    """A hash of the metadata of an array, and of the time and size of the file that holds them."""
    metadata = json.dumps(array.metadata.to_dict(), sort_keys=True, default=str)
    return hashlib.sha256("\n".join([metadata, *location.stamp_files()]).encode()).hexdigest()[:16]


def _dims(array: Array, what: str) -> tuple[str, ...]:
    """Names of the stored axes: v3's dimension_names, xarray's attribute for v2, or the usual ones."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    usual = default_dims(array.ndim)
    if not isinstance(names, list | tuple) or len(names) != array.ndim or None in names or "" in names:
        return usual
    dims = tuple(map(str, names))
    return dims if len(set(dims)) == len(dims) else usual


def _image(location: StoreLocation, group: zarr.Group, options: OpenOptions) -> ome.Multiscale | None:
    def numbers(path: str) -> Any:
        stored = location.child(path).open()
        if not isinstance(stored, zarr.Array) or stored.size > _MOST_PARAMETERS:
            raise NotAVolumeError(f"{location}: {path} is no array of the numbers of a transformation")
        return stored[...]

    of_systems = partial(multiscale_of_systems, system=options.coordinate_system, parameters=numbers)
    attributes = dict(group.attrs)
    if options.coordinate_system is not None:
        attributes = _placed_by_scene(location, attributes)
    image = ome.multiscale(attributes, str(location), of_systems)
    return None if image is None else replace(image, attributes=attributes)


def _placed_by_scene(location: StoreLocation, attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes of an image with the coordinate systems of the scene in which it lies, if it lies in one."""
    image = _first_multiscale(attributes)
    if image is None or "coordinateSystems" not in image:
        return attributes
    for up, path in location.parents():
        group = up.group()
        scene = None if group is None else _block(dict(group.attrs)).get("scene")
        if isinstance(scene, Mapping):

            def other(place: str, up: StoreLocation = up) -> Mapping[str, Any] | None:
                below = up.child(place).group()
                found = None if below is None else _first_multiscale(dict(below.attrs))
                return found if found is not None and "coordinateSystems" in found else None

            try:
                placed = in_scene(image, scene, path, other)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                if isinstance(error, InputError):
                    raise
                message = f"{up}: the metadata of the scene cannot be read ({type(error).__name__}: {error})"
                raise NotAVolumeError(message) from error
            return attributes | {"ome": {**_block(attributes), "multiscales": [placed]}}
    return attributes


def _block(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    found = attributes.get("ome")
    return found if isinstance(found, Mapping) else {}


def _first_multiscale(attributes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    images = _block(attributes).get("multiscales")
    return images[0] if isinstance(images, list) and images and isinstance(images[0], Mapping) else None


def _without_levels(options: OpenOptions, location: StoreLocation, number: int = 0) -> OpenOptions:
    """The options for a path that names one array, which has no further levels.

    Args:
        number: of the level that the array is.

    Raises: OptionError where another level was asked for.
    """
    if options.level not in (0, number):
        raise OptionError(f"level={options.level} was asked for, but {location} has no levels")
    return replace(options, level=number)
