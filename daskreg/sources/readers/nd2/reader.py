"""Nikon's ND2 files, through nd2: `file.nd2::/1` is the second position. A frame with its channels is read at once.

Spacing is that of the file's calibration, in micrometres; an image that is not calibrated is in pixels. The position on
the stage is not used, since its axes are those of the stage, which a camera may be turned against.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import MetadataWarning, NotAVolumeError
from daskreg.geometry import Grid
from daskreg.sources.coordinates import split_dims
from daskreg.sources.description import Coord, Description, OpenOptions
from daskreg.sources.locate import INSIDE, StoreLocation
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.frames import FrameReader, Frames, frame_chunks
from daskreg.sources.readers.mapped import check_size

_NAMES = {"T": "t", "Z": "z", "C": "c", "Y": "y", "X": "x", "S": "s"}
_FRAME = ("C", "Y", "X", "S")
_POSITION = "P"


class Nd2Reader(FrameReader):
    """Reads frames by nd2."""

    title, library, extra = "ND2", "nd2", "nd2"

    def open_by(self, library: Any, path: str) -> Any:
        return library.ND2File(path)

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """A position of the file, the first one by default (with a warning where there are several).

        Raises: NotAVolumeError for other axes than times, positions, channels and those of space, and a position that
            is not there; MissingExtraError.
        """
        path = location.root
        with self.opened(path) as file:
            try:
                sizes, dtype = dict(file.sizes), np.dtype(file.dtype)
                names = _names(sizes, str(location))
                grid = _grid(file, names, sizes)
                coords = _coords(file, names, sizes)
                packed = file.attributes.compressionType is not None or file.is_legacy
            except NotAVolumeError:
                raise
            except Exception as error:
                raise self.damaged(path, error) from error
        position = _position(location, sizes.get(_POSITION, 1))
        check_size(math.prod(sizes.values()) * dtype.itemsize, (path,), "other" if packed else "", str(location))
        shape = tuple(n for axis, n in sizes.items() if axis != _POSITION)
        outer = sum(axis not in (*_FRAME, _POSITION) for axis in sizes)
        what = f"{path}{INSIDE}{position}" if _POSITION in sizes else path
        array = FileArray("nd2", what, names, shape, dtype, self.stamp(path), frame_chunks(shape, outer))
        return array.describe(options.apply(grid), options, name=location.name.removesuffix(".nd2"), coords=coords)

    def frames(self, file: Any, path: str, inner: str) -> Frames:
        sizes = dict(file.sizes)
        loops = [axis for axis in sizes if axis not in _FRAME]
        counts = [sizes[axis] for axis in loops]
        at_position = loops.index(_POSITION) if _POSITION in loops else None

        def frame(index: tuple[int, ...]) -> NDArray[Any]:
            at = list(index)
            if at_position is not None:
                at.insert(at_position, int(inner or 0))
            return np.asarray(file.read_frame(int(np.ravel_multi_index(at, counts)) if at else 0))

        shape = tuple(n for axis, n in sizes.items() if axis != _POSITION)
        return Frames(shape, np.dtype(file.dtype), len(loops) - (at_position is not None), frame)


READER = Nd2Reader()


def _names(sizes: Mapping[str, int], what: str) -> list[str]:
    """Names of the stored axes, positions left out.

    Raises: NotAVolumeError.
    """
    unknown = [axis for axis, n in sizes.items() if axis not in (*_NAMES, _POSITION) and n > 1]
    if unknown or not {"Y", "X"} <= set(sizes):
        raise NotAVolumeError(f"{what} has the axes {', '.join(sizes)}, which are not those of an image")
    names = [_NAMES.get(axis, "") for axis in sizes if axis != _POSITION]
    return names if "c" in names else ["c" if name == "s" else name for name in names]


def _position(location: StoreLocation, count: int) -> int:
    """The number of the position that a location names."""
    if location.inner:
        if not (location.inner.isdecimal() and location.inner.isascii() and int(location.inner) < count):
            raise NotAVolumeError(f"{location.root} holds no position {location.inner!r}; it holds {count}, from 0 on")
        return int(location.inner)
    if count > 1:
        message = f"{location} holds {count} positions; the first is taken; series= names another one"
        warnings.warn(message, MetadataWarning, stacklevel=3)
    return 0


def _grid(file: Any, names: Sequence[str], sizes: Mapping[str, int]) -> Grid:
    _, space = split_dims([n for n in names if n])
    shape = [sizes[d.upper()] for d in space]
    size = file.voxel_size()
    spacing = [float(getattr(size, d)) for d in space]
    channels = getattr(file.metadata, "channels", None) or []
    calibrated = bool(channels) and all(channels[0].volume.axesCalibrated[:2])
    if not calibrated or not all(math.isfinite(s) and s > 0 for s in spacing):
        return Grid(shape, axes=space)
    return Grid(shape, spacing, unit="um", axes=space)


def _coords(file: Any, names: Sequence[str], sizes: Mapping[str, int]) -> dict[str, Coord]:
    coords: dict[str, Coord] = {}
    channels = getattr(file.metadata, "channels", None) or []
    labels = [str(channel.channel.name) for channel in channels]
    if "c" in names and "C" in sizes and len(labels) == sizes["C"] == len(set(labels)):
        coords["c"] = (np.asarray(labels), {})
    if "t" in names:
        for loop in file.experiment:
            if loop.type == "TimeLoop":
                mean, stated = loop.parameters.periodDiff.avg, loop.parameters.periodMs
                step = mean if mean > 0 else stated
                if math.isfinite(step) and step > 0:
                    coords["t"] = (step * np.arange(sizes["T"]), {"units": "millisecond"})
    return coords
