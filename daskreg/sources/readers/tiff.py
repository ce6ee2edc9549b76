"""TIFF files, read lazily through tifffile: multi-page stacks, ImageJ hyperstacks, OME-TIFF."""

from __future__ import annotations

import math
import os
import re
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError, MetadataWarning, NotAVolumeError, OptionError
from daskreg.geometry import Grid
from daskreg.runtime.messages import reason
from daskreg.runtime.regular_files import check_beside
from daskreg.sources.coordinates import SPACE
from daskreg.sources.description import Coord, Description, OpenOptions, check_shape, ordered
from daskreg.sources.dtypes import image_dtype
from daskreg.sources.locate import INSIDE, StoreLocation
from daskreg.sources.reader import Reader, index_text
from daskreg.sources.readers.mapped import check_memory, check_size
from daskreg.sources.source import ArrayIndex, Source
from daskreg.sources.stamps import stamp_of
from daskreg.sources.storage.retrying import RetryingStore
from daskreg.sources.stored import stored_source

_FILE_NAME = re.compile(r"""\bFileName\s*=\s*["']([^"'<>]*)["']""")
_PACKINGS = {1: "", 8: "gzip", 32946: "gzip"}  # by TIFF's numbers of compressions

_NAMES = {"T": "t", "C": "c", "S": "s", "Z": "z", "Y": "y", "X": "x"}


class TiffReader(Reader):
    """Reads pages through tifffile, which presents them as a Zarr array."""

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """The first series of a TIFF file; pages beyond y, x are z where the file does not say more.

        Spacing comes from ImageJ's and OME's metadata; the resolution tags of other files (mostly 72 dpi)
        are not those of the specimen, and are not used.
        """
        with _open(location.root) as tiff:
            if not tiff.series:
                raise NotAVolumeError(f"{location} is a TIFF file without an image")
            if len(tiff.series) > 1:
                names = ", ".join(f"{s.name or k}" for k, s in enumerate(tiff.series[:6]))
                message = f"{location} holds {len(tiff.series)} image series ({names}); the first is taken"
                warnings.warn(message, MetadataWarning, stacklevel=2)
            return _describe_series(tiff, location, options)

    def files(self, path: str) -> tuple[str, ...]:
        """The file, and those of its set, as OME's metadata or tifffile name them."""
        file = path.partition(INSIDE)[0]
        with tifffile.TiffFile(file) as tiff:
            return _files(tiff, file)

    def open_handle(self, path: str) -> zarr.Array[Any]:
        """The pages of a file (at the level behind "::/") as one Zarr array."""
        file, _, level = path.partition(INSIDE)
        tiff = _open(file)
        store = RetryingStore(tiff.series[0].aszarr(level=int(level or 0)))
        array = zarr.open_array(store, mode="r")
        check_memory(math.prod(array.chunks) * array.dtype.itemsize, f"a strip or tile of {file}")
        weakref.finalize(array, tiff.close)
        return array

    def read(self, handle: zarr.Array[Any], index: ArrayIndex, source: Source) -> NDArray[Any]:
        try:
            return np.asarray(handle[index])
        except MemoryError:
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise ChunkReadError(
                f"cannot read [{index_text(index)}] of {source.path}, a TIFF of shape {handle.shape}: {reason}"
            ) from error


READER = TiffReader()


def _open(path: str) -> tifffile.TiffFile:
    """The file, with those of its set, which OME's metadata name and which have to lie in its folder.

    Raises: NotAVolumeError; OutsideError.
    """
    try:
        tiff = tifffile.TiffFile(path)
    except Exception as error:
        raise NotAVolumeError(f"{path} cannot be read as TIFF: {reason(error)}") from error
    try:
        for name in _FILE_NAME.findall(tiff.ome_metadata or "" if tiff.is_ome else ""):
            check_beside(os.path.join(os.path.dirname(path), name), path)
        for series in tiff.series:
            for file in {page.parent.filehandle.path for page in series.pages if page is not None}:
                check_beside(file, path)
    except BaseException:
        tiff.close()
        raise
    return tiff


def _describe_series(tiff: tifffile.TiffFile, location: StoreLocation, options: OpenOptions) -> Description:
    finest = tiff.series[0]
    count = len(finest.levels)
    if not -count <= options.level < count:
        raise OptionError(f"level={options.level} is not in {location}, which has {count} (0 is the finest)")
    number = options.level % count
    series = finest.levels[number]
    dims, lead, space = _dims(series.axes, series.shape, str(location))
    check_shape(dims, series.shape, str(location))
    spacings, units, labels = _metadata(tiff)
    unit = options.common_unit({d: units.get(d) for d in space} if any(units.values()) else {"x": None}, str(location))
    shape = ordered(dims, series.shape, space)
    # Levels of a TIFF pyramid are means of blocks of the finest: all cover the same part of the world.
    factor = np.asarray(ordered(dims, finest.shape, space)) / np.asarray(shape)
    fine = np.asarray([spacings.get(d, 1.0) for d in space])
    grid = options.apply(Grid(shape, fine * factor, fine * (factor - 1) / 2, unit=unit, axes=space))
    with series.aszarr() as store:
        chunks = zarr.open_array(store, mode="r").chunks
    packing = _PACKINGS.get(int(series.keyframe.compression), "other")
    paths = {page.parent.filehandle.path for page in series.pages if page is not None} or {location.root}
    check_size(math.prod(chunks) * series.dtype.itemsize, sorted(paths), packing, f"a strip or tile of {location}")
    source = stored_source(
        dims,
        series.shape,
        format="tiff",
        path=f"{location.root}{INSIDE}{number}" if number else location.root,
        dtype=image_dtype(series.dtype, str(location)),
        chunks=chunks,
        lead=lead,
        grid=grid,
        stamp=stamp_of(_files(tiff, location.root)),
    )
    coords: dict[str, Coord] = {}
    if "c" in lead and len(labels) == source.shape[source.dims.index("c")]:
        coords["c"] = (np.asarray(labels), {})
    name = location.name.rsplit(".ome", 1)[0].removesuffix(".tif").removesuffix(".tiff")
    return Description(source, name, {}, coords, source.chunks)


def _files(tiff: tifffile.TiffFile, path: str) -> tuple[str, ...]:
    """The files of a set of which `path` is one, `path` first; OME's metadata also names those that are missing."""
    folder, named = os.path.dirname(path), set()
    if tiff.is_ome and tiff.ome_metadata:
        named = {os.path.join(folder, os.path.basename(name)) for name in _FILE_NAME.findall(tiff.ome_metadata) if name}
    elif tiff.is_mmstack:
        named = {page.parent.filehandle.path for page in tiff.series[0].pages if page is not None}
    return (path, *sorted(named - {path}))


def _dims(axes: str, shape: Sequence[int], what: str) -> tuple[list[str], list[str], list[str]]:
    """Names of the stored axes, the lead ones, the spatial ones."""
    codes = list(axes)
    if "Z" not in codes:
        # Pages of an unknown kind ('I', 'Q', ...) are slices; where there are several such axes, the longest is.
        unknown = [k for k, a in enumerate(codes) if a not in _NAMES]
        if unknown:
            codes[max(unknown, key=lambda k: shape[k])] = "Z"
    dims = [_NAMES.get(a, f"{a.lower()}{k}") for k, a in enumerate(codes)]
    if "y" not in dims or "x" not in dims or len(set(dims)) != len(dims):
        raise NotAVolumeError(f"{what} has the axes {axes}, which are not those of an image")
    space = [d for d in SPACE if d in dims]
    lead = [d for d in dims if d not in space]
    lead.sort(key=lambda d: {"t": 0, "c": 2, "s": 3}.get(d, 1))
    return dims, lead, space


def _metadata(tiff: tifffile.TiffFile) -> tuple[dict[str, float], dict[str, str | None], list[str]]:
    """Spacing and unit of each axis, and the channels' names, as far as the file states them."""
    if tiff.is_ome:
        return _ome(tiff)
    if tiff.is_imagej:
        return _imagej(tiff)
    return {}, {}, []


def _ome(tiff: tifffile.TiffFile) -> tuple[dict[str, float], dict[str, str | None], list[str]]:
    image = tifffile.xml2dict(tiff.ome_metadata or "").get("OME", {}).get("Image", {})
    pixels = (image[0] if isinstance(image, list) else image).get("Pixels", {})
    spacings: dict[str, float] = {}
    units: dict[str, str | None] = {}
    for axis in "ZYX":
        value = pixels.get(f"PhysicalSize{axis}")
        if isinstance(value, int | float) and value > 0:
            spacings[axis.lower()] = float(value)
            units[axis.lower()] = str(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    channels = pixels.get("Channel", [])
    channels = channels if isinstance(channels, list) else [channels]
    labels = [str(c["Name"]) for c in channels if isinstance(c, Mapping) and "Name" in c]
    return spacings, units, labels


def _imagej(tiff: tifffile.TiffFile) -> tuple[dict[str, float], dict[str, str | None], list[str]]:
    metadata: Mapping[str, Any] = tiff.imagej_metadata or {}
    unit = str(metadata.get("unit") or "").replace("\\u00B5", "µ").replace("\\u00b5", "µ") or None
    spacings: dict[str, float] = {}
    for axis, tag in (("y", "YResolution"), ("x", "XResolution")):
        value = tiff.pages.first.tags.valueof(tag)
        if value and value[0] and value[1]:
            spacings[axis] = value[1] / value[0]
    if unit is None and set(spacings.values()) == {1.0}:
        spacings.clear()
    depth = metadata.get("spacing")
    if isinstance(depth, int | float) and depth > 0:
        spacings["z"] = float(depth)
    return spacings, dict.fromkeys("zyx", unit), []
