"""Files of Zeiss's microscopes for daskreg, through bioio-czi: `file.czi::/1` is the second scene of a file."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import dask
import numpy as np
from numpy.typing import NDArray

from daskreg.errors import MetadataWarning
from daskreg.readers import (
    ArrayIndex,
    Coord,
    Description,
    FileArray,
    Grid,
    NotAVolumeError,
    OpenOptions,
    Reader,
    Source,
    StoreLocation,
    check_size,
)

INSIDE = "::/"
SPACE = ("z", "y", "x")


class CziReader(Reader):
    """Reads planes of a scene."""

    suffixes = (".czi",)
    has_paths = True

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """A scene, the first one by default (with a warning where there are several).

        Raises: NotAVolumeError for a file that bioio-czi cannot read, and a scene that is not there.
        """
        path = location.root
        file = _opened(path)
        number = _chosen(file.scenes, location)
        image = _image(file, number, path)
        check_size(math.prod(image.shape) * image.dtype.itemsize, (path,), "", str(location))
        sizes = {name.lower(): size for name, size in zip(image.dims, image.shape, strict=True)}
        names = [name if size > 1 or name in "yx" else "" for name, size in sizes.items()]
        array = FileArray(
            "czi", f"{path}{INSIDE}{number}", names, image.shape, image.dtype, self.stamp(path),
            tuple(max(sizes) for sizes in image.chunks),
        )  # fmt: skip
        space = [axis for axis in SPACE if axis in names]
        grid = options.apply(_grid(file.physical_pixel_sizes, space, [sizes[axis] for axis in space]))
        coords: dict[str, Coord] = {}
        channels = [str(name) for name in file.channel_names or []]
        if "c" in names and len(set(channels)) == sizes["c"]:
            coords["c"] = (np.asarray(channels), {})
        return array.describe(grid, options, name=location.name.removesuffix(".czi"), coords=coords)

    def open(self, path: str) -> Any:
        name, _, number = path.partition(INSIDE)
        file = _opened(name)
        image = _image(file, int(number), name)
        if "S" not in image.dims:
            return image.data
        # bioio-czi 3.0 reads the first colour for each where it is lazy. Colours are stored as blue, green, red.
        values = file.xarray_data.values
        return np.concatenate([values[..., 2::-1], values[..., 3:]], axis=-1)

    def read(self, handle: Any, index: ArrayIndex, source: Source) -> NDArray[Any]:
        with dask.config.set(scheduler="synchronous"):
            return np.asarray(handle[index])


READER = CziReader()


def _opened(path: str) -> Any:
    try:
        from bioio_czi import Reader as CziFile
    except ImportError as error:
        raise NotAVolumeError(f"{path} is read by bioio-czi, which is not installed: pip install bioio-czi") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that it does not know
            return CziFile(path, chunk_dims=["Y", "X"])
    except Exception as error:
        raise _unreadable(path, error) from error


def _image(file: Any, number: int, path: str) -> Any:
    """The lazy voxels of a scene. Raises: NotAVolumeError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file.set_scene(number)
            return file.xarray_dask_data
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> NotAVolumeError:
    line = " ".join(str(error).split())[:300]
    return NotAVolumeError(f"{path} cannot be read by bioio-czi ({type(error).__name__}: {line})")


def _chosen(scenes: Sequence[str], location: StoreLocation) -> int:
    """The number of the scene that a location names."""
    told = ", ".join(f"{k} ({name})" for k, name in enumerate(scenes[:8]))
    if location.inner:
        found = [k for k, name in enumerate(scenes) if location.inner in (str(k), name)]
        if not found:
            raise NotAVolumeError(f"{location.root} holds no scene {location.inner!r}; it holds {told}")
        return found[0]
    if len(scenes) > 1:
        message = f"{location} holds {len(scenes)} scenes: {told}; the first is taken; series= names another one"
        warnings.warn(message, MetadataWarning, stacklevel=4)
    return 0


def _grid(pixel: Any, space: Sequence[str], shape: Sequence[int]) -> Grid:
    """The grid in micrometers, or in pixels where a file does not say how large they are."""
    steps = [getattr(pixel, axis.upper()) or 0.0 for axis in space]
    if not all(math.isfinite(step) and step > 0 for step in steps):
        return Grid(shape, axes=space)
    return Grid(shape, steps, unit="micrometer", axes=space)
