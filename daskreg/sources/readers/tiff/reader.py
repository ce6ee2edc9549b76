"""TIFF files, read lazily through tifffile: multi-page stacks, ImageJ hyperstacks, OME-TIFF."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError, NotAVolumeError, OptionError
from daskreg.geometry import Grid
from daskreg.sources.channels import named_colours
from daskreg.sources.coordinates import SPACE, grid_of_level
from daskreg.sources.description import Coord, Description, OpenOptions, check_shape, ordered
from daskreg.sources.dtypes import image_dtype
from daskreg.sources.locate import INSIDE, StoreLocation
from daskreg.sources.reader import Reader, index_text
from daskreg.sources.readers.mapped import MappedArray, check_memory, check_size, map_file
from daskreg.sources.readers.tiff.metadata import Placement, placement
from daskreg.sources.readers.tiff.series import FILE_NAME, check_codec, chosen_series, open_tiff
from daskreg.sources.source import ArrayIndex, Source
from daskreg.sources.stamps import stamp_of
from daskreg.sources.storage.retrying import RetryingStore
from daskreg.sources.stored import stored_source

_PACKINGS = {1: "", 8: "gzip", 32946: "gzip"}  # by TIFF's numbers of compressions

_NAMES = {"T": "t", "C": "c", "S": "s", "Z": "z", "Y": "y", "X": "x"}


class TiffReader(Reader):
    """Reads voxels that lie one after another from their place in the file, others through tifffile's Zarr array."""

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """A series of a TIFF file, the first one by default; pages beyond y, x are z where the file does not say more.

        Spacing and origin come from ImageJ's and OME's metadata; the resolution tags of other files (mostly 72 dpi)
        are not those of the specimen, and are not used.

        Raises: NotAVolumeError for pages of several sizes that alternate, and for a series that is not there;
            MissingExtraError for a compression that needs imagecodecs.
        """
        with open_tiff(location.root) as tiff:
            return _describe_series(tiff, chosen_series(tiff, location), location, options)

    def files(self, path: str) -> tuple[str, ...]:
        """The file, and those of its set, as OME's metadata or tifffile name them."""
        file = path.partition(INSIDE)[0]
        with tifffile.TiffFile(file) as tiff:
            return _files(tiff, file)

    def open(self, path: str) -> zarr.Array[Any] | MappedArray:
        """The pages of a series of a file (series and level are behind "::/") as one array."""
        file, _, inner = path.partition(INSIDE)
        series, level = (int(n) for n in (inner or "0/0").split("/"))
        tiff = open_tiff(file)
        found = tiff.series[series]
        if level == 0 and found.dataoffset is not None:  # uncompressed, without gaps between pages
            dtype = np.dtype(found.dtype).newbyteorder(tiff.byteorder)
            tiff.close()
            return MappedArray(map_file(file, dtype, tuple(found.shape), offset=int(found.dataoffset)))
        store = RetryingStore(tiff.series[series].aszarr(level=level))
        array = zarr.open_array(store, mode="r")
        check_memory(math.prod(array.chunks) * array.dtype.itemsize, f"a strip or tile of {file}")
        weakref.finalize(array, tiff.close)
        return array

    def read(self, handle: zarr.Array[Any] | MappedArray, index: ArrayIndex, source: Source) -> NDArray[Any]:
        if isinstance(handle, MappedArray):
            return handle.read(index, source.dtype)
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


def _describe_series(
    tiff: tifffile.TiffFile, chosen: int, location: StoreLocation, options: OpenOptions
) -> Description:
    finest, what = tiff.series[chosen], str(location)
    count = len(finest.levels)
    if not -count <= options.level < count:
        raise OptionError(f"level={options.level} is not in {what}, which has {count} (0 is the finest)")
    number = options.level % count
    series = finest.levels[number]
    check_codec(series.keyframe, what)
    dims, lead, space = _dims(series.axes, series.shape, what)
    check_shape(dims, series.shape, what)
    stated = placement(tiff, chosen)
    grid = _placed(stated, space, ordered(dims, finest.shape, space), what, options)
    if number:
        grid = grid_of_level(grid, [ordered(dims, one.shape, space) for one in finest.levels[: number + 1]])
    grid = options.apply(grid)
    with finest.aszarr(level=number) as store:
        chunks = zarr.open_array(store, mode="r").chunks
    packing = _PACKINGS.get(int(series.keyframe.compression), "other")
    paths = {page.parent.filehandle.path for page in series.pages if page is not None} or {location.root}
    check_size(math.prod(chunks) * series.dtype.itemsize, sorted(paths), packing, f"a strip or tile of {what}")
    source = stored_source(
        dims,
        series.shape,
        format="tiff",
        path=f"{location.root}{INSIDE}{chosen}/{number}" if chosen or number else location.root,
        dtype=image_dtype(series.dtype, what),
        chunks=chunks,
        lead=lead,
        grid=grid,
        stamp=stamp_of(_files(tiff, location.root)),
    )
    coords: dict[str, Coord] = {}
    channels = source.shape[source.dims.index("c")] if "c" in lead else 0
    if channels and len(stated.channels) == channels:
        coords["c"] = (np.asarray(stated.channels), {})
    elif "C" not in series.axes and series.keyframe.photometric == tifffile.PHOTOMETRIC.RGB:
        coords |= named_colours(channels)
    if "t" in lead and stated.times is not None:
        every, unit = stated.times
        coords["t"] = (every * np.arange(source.shape[source.dims.index("t")]), {"units": unit})
    name = PurePath(location.root).name.rsplit(".ome", 1)[0].removesuffix(".tif").removesuffix(".tiff")
    return Description(source, name, {}, coords, source.chunks)


def _placed(stated: Placement, space: Sequence[str], shape: tuple[int, ...], what: str, options: OpenOptions) -> Grid:
    """The grid of the finest level."""
    units: dict[str, str | None] = {d: stated.units.get(d) for d in space}
    unit, factors = options.units_of_axes(units if any(units.values()) else {"x": None}, what)
    ratio = np.asarray([factors.get(d, 1.0) for d in space])
    spacing = np.asarray([stated.spacing.get(d, 1.0) for d in space]) * ratio
    origin = np.asarray([stated.origin.get(d, 0.0) for d in space]) * ratio
    return Grid(shape, np.abs(spacing), origin, np.diag(np.sign(spacing)), unit, space)


def _files(tiff: tifffile.TiffFile, path: str) -> tuple[str, ...]:
    """The files of a set of which `path` is one, `path` first; OME's metadata also names those that are missing."""
    folder, named = os.path.dirname(path), set()
    if tiff.is_ome and tiff.ome_metadata:
        named = {os.path.join(folder, os.path.basename(name)) for name in FILE_NAME.findall(tiff.ome_metadata) if name}
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
    if "c" not in dims:
        dims = ["c" if d == "s" else d for d in dims]  # colours are channels, as in images of other formats
    if "y" not in dims or "x" not in dims or len(set(dims)) != len(dims):
        raise NotAVolumeError(f"{what} has the axes {axes}, which are not those of an image")
    space = [d for d in SPACE if d in dims]
    lead = [d for d in dims if d not in space]
    lead.sort(key=lambda d: {"t": 0, "c": 2, "s": 3}.get(d, 1))
    return dims, lead, space
