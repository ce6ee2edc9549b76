"""Leica's LIF files, through liffile: `file.lif::/1`, or an image by its name. A frame of two axes is read at once.

Positions are those of the coordinates that liffile computes from the file's metadata, in metres, as micrometres.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from daskreg.errors import MetadataWarning, NotAVolumeError
from daskreg.geometry import PIXEL
from daskreg.sources.coordinates import grid_from, split_dims
from daskreg.sources.description import Coord, Description, OpenOptions
from daskreg.sources.locate import INSIDE, StoreLocation
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.frames import FrameReader, Frames, frame_chunks
from daskreg.sources.readers.mapped import check_size

_NAMES = {"T": "t", "C": "c", "Z": "z", "Y": "y", "X": "x", "S": "s", "λ": "wavelength", "Λ": "wavelength"}


class LifReader(FrameReader):
    """Reads frames by liffile."""

    title, library, extra = "LIF", "liffile", "lif"

    def open_by(self, library: Any, path: str) -> Any:
        return library.LifFile(path)

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """An image of the file, the first one by default (with a warning where there are several).

        Raises: NotAVolumeError for lifetimes and tiles, and an image that is not there; MissingExtraError.
        """
        path = location.root
        with self.opened(path) as file:
            number = _chosen(file.images, location)
            image = file.images[number]
            names, frame = _axes(image, path)
            size = math.prod(image.shape) * np.dtype(image.dtype).itemsize
            block = image.memory_block
            if size > block.size:
                raise NotAVolumeError(f"{location} states {size} bytes of {image.name!r}, and {block.size} are stored")
            check_size(block.offset + block.size, (path,), "", str(location))
            coords: dict[str, Coord] = {
                name: (np.asarray(image.coords[code], dtype=np.float64), {})
                for code, name in zip(image.dims, names, strict=True)
                if name and code in image.coords
            }
            shape, dtype, title = tuple(image.shape), np.dtype(image.dtype), str(image.name)
        lead, space = split_dims([n for n in names if n])
        sizes = dict(zip(names, shape, strict=True))
        unit = {"units": options.unit or "micrometer"}
        placed = {d: (coords[d][0] * 1e6, unit) for d in space if d in coords}
        what = f"{path}{INSIDE}{number}"
        missing = {"units": PIXEL} if not placed else unit
        grid = grid_from(
            space,
            [sizes[d] for d in space],
            {d: placed.get(d, (np.arange(sizes[d]), missing)) for d in space},
            what=what,
        )
        chunks = frame_chunks(shape, len(shape) - frame)
        array = FileArray("lif", what, names, shape, dtype, self.stamp(path), chunks)
        leading: dict[str, Coord] = {d: coords[d] for d in lead if d in coords and d == "t"}
        return array.describe(grid, options, name=title, coords=leading)

    def frames(self, file: Any, path: str, inner: str) -> Frames:
        image = file.images[int(inner)]
        outer = len(image.shape) - _axes(image, path)[1]
        codes = tuple(image.dims[:outer])
        return Frames(
            tuple(image.shape),
            np.dtype(image.dtype),
            outer,
            lambda index: np.asarray(image.frame(**dict(zip(codes, index, strict=True)))),
        )


READER = LifReader()


def _chosen(images: Any, location: StoreLocation) -> int:
    """The number of the image that a location names."""
    names = [str(image.name) for image in images]
    told = ", ".join(f"{k} ({name})" for k, name in enumerate(names[:8]))
    if not names:
        raise NotAVolumeError(f"{location} holds no image")
    if location.inner:
        chosen = [k for k, name in enumerate(names) if location.inner in (str(k), name)]
        if not chosen:
            raise NotAVolumeError(f"{location.root} holds no image {location.inner!r}; it holds {told}")
        return chosen[0]
    if len(names) > 1:
        message = f"{location} holds {len(names)} images: {told}; the first is taken; series= names another one"
        warnings.warn(message, MetadataWarning, stacklevel=3)
    return 0


def _axes(image: Any, path: str) -> tuple[list[str], int]:
    """Names of the axes, and how many of the last ones are those of a frame.

    Raises: NotAVolumeError.
    """
    if image.is_flim:
        raise NotAVolumeError(f"{path}: the image {image.name!r} holds lifetimes, which are not read")
    names = [_NAMES.get(code, "" if n == 1 else code) for code, n in zip(image.dims, image.shape, strict=True)]
    unknown = [code for code in names if code and code not in _NAMES.values()]
    if unknown:
        raise NotAVolumeError(f"{path}: the image {image.name!r} has the axes {''.join(image.dims)}; M are tiles")
    if "c" not in names:
        names = ["c" if name == "s" else name for name in names]
    frame = len(image.frames.frame_dims)
    if tuple(image.dims[-frame:]) != tuple(image.frames.frame_dims):
        raise NotAVolumeError(
            f"{path}: the image {image.name!r} has frames of {image.frames.frame_dims} in {image.dims}"
        )
    return names, frame
