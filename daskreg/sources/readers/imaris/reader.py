"""Imaris 5.5 and later (`.ims`), after the description of the format by Oxford Instruments.

A dataset for each level, time and channel, padded to whole chunks; its true size is `ImageSizeX`, ... of its group.
`ExtMin0`, `ExtMax0`, ... are the outer borders of the first and the last voxel of the finest level along x, y and z. A
level has half as many voxels as the one before, rounded down: what is left over at the end is in none of its means.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidSpacingError, NotAVolumeError, OptionError
from daskreg.geometry import Grid
from daskreg.sources.coordinates import SPACE, grid_of_level
from daskreg.sources.description import Coord, Description, OpenOptions, check_shape
from daskreg.sources.locate import INSIDE, StoreLocation
from daskreg.sources.reader import Reader, box_of
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.hdf5.attributes import attribute, reading_attributes
from daskreg.sources.readers.hdf5.files import open_hdf5
from daskreg.sources.readers.hdf5.links import member
from daskreg.sources.readers.hdf5.stacked import StackedDatasets
from daskreg.sources.readers.mapped import check_memory
from daskreg.sources.source import ArrayIndex, Source

_MOST_LEVELS, _MOST_PARTS = 32, 100_000


class ImarisReader(Reader):
    """Reads boxes by h5py."""

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """A level of the image: t, c, z, y, x, without t and c where there is one time or channel.

        Raises: NotAVolumeError, OptionError, InvalidSpacingError, UnitError; MissingExtraError without h5py.
        """
        path = location.root
        with reading_attributes(), open_hdf5(path) as file:
            count = _count(file, lambda k: f"DataSet/ResolutionLevel {k}", _MOST_LEVELS)
            if not count:
                raise NotAVolumeError(f"{path} holds no image of Imaris")
            if not -count <= options.level < count:
                raise OptionError(f"level={options.level} is not in {path}, which has {count} (0 is the finest)")
            level = options.level % count
            image = _stacked(file, level)
            shapes = [_stacked(file, finer).shape[2:] for finer in range(level)] + [image.shape[2:]]
            grid = options.apply(grid_of_level(_grid(file, shapes[0], options, path), shapes))
            names = ["t" if image.shape[0] > 1 else "", "c" if image.shape[1] > 1 else "", *SPACE]
            chunks = (1, 1, *(member(file, image.name(0, 0)).chunks or (1, *image.shape[3:])))
            labels = [_text(member(file, f"DataSetInfo/Channel {c}"), "Name") for c in range(image.shape[1])]
        coords: dict[str, Coord] = {}
        if "c" in names and len(set(labels)) == len(labels) and all(labels):
            coords["c"] = (np.asarray(labels), {})
        array = FileArray(
            "imaris", f"{path}{INSIDE}{level}", names, image.shape, image.dtype, self.stamp(path),
            tuple(min(a, b) for a, b in zip(chunks, image.shape, strict=True)),
        )  # fmt: skip
        return array.describe(grid, OpenOptions(), name=location.name.removesuffix(".ims"), coords=coords)

    def open(self, path: str) -> StackedDatasets:
        file, _, level = path.partition(INSIDE)
        with reading_attributes():
            return _stacked(open_hdf5(file), int(level))

    def read(self, handle: StackedDatasets, index: ArrayIndex, source: Source) -> NDArray[Any]:
        return handle.read(box_of(index))[tuple(slice(None) if isinstance(s, slice) else 0 for s in index)]


READER = ImarisReader()


def _stacked(file: Any, level: int) -> StackedDatasets:
    """The datasets of a level. Raises: NotAVolumeError."""
    top = f"DataSet/ResolutionLevel {level}"
    times = _count(file, lambda k: f"{top}/TimePoint {k}", _MOST_PARTS)
    channels = _count(file, lambda k: f"{top}/TimePoint 0/Channel {k}", _MOST_PARTS)
    first = member(file, f"{top}/TimePoint 0/Channel 0/Data")
    if getattr(first, "ndim", 0) != 3 or first.dtype.kind not in "iuf":
        raise NotAVolumeError(f"{file.filename} has no voxels at {top}/TimePoint 0/Channel 0/Data")
    group = member(file, f"{top}/TimePoint 0/Channel 0")
    stated = [_text(group, f"ImageSize{axis}") for axis in "ZYX"]
    space = tuple(int(a) if a else n for a, n in zip(stated, first.shape, strict=True))
    if any(a > n for a, n in zip(space, first.shape, strict=True)):
        raise NotAVolumeError(f"{file.filename} states {space} voxels of {first.shape}")
    check_shape(SPACE, space, file.filename)
    if first.chunks:
        check_memory(math.prod(first.chunks) * first.dtype.itemsize, f"a chunk of {file.filename}")

    def name(t: int, c: int) -> str:
        return f"{top}/TimePoint {t}/Channel {c}/Data"

    return StackedDatasets(file, name, (times, channels, *space), first.dtype.newbyteorder("="))


def _grid(file: Any, shape: tuple[int, ...], options: OpenOptions, path: str) -> Grid:
    info = member(file, "DataSetInfo/Image")
    ends = np.array([[float(_text(info, f"Ext{end}{k}") or "nan") for k in (2, 1, 0)] for end in ("Min", "Max")])
    if np.isnan(ends).all():
        return Grid(shape, unit=options.common_unit(None, path))
    spacing = (ends[1] - ends[0]) / shape
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InvalidSpacingError(f"{path} states that it reaches from {ends[0]} to {ends[1]} (z, y, x)")
    return Grid(shape, spacing, ends[0] + spacing / 2, unit=options.common_unit(_text(info, "Unit") or None, path))


def _text(node: Any, name: str) -> str:
    """An attribute, which is written as an array of single characters; "" where there is none."""
    letters: Any = np.ravel(attribute(node, name, b"")) if node is not None else []
    return b"".join(np.asarray(letters, dtype="S").tolist()).decode("utf-8", "replace").strip()


def _count(file: Any, name: Callable[[int], str], most: int) -> int:
    return next((k for k in range(most) if member(file, name(k)) is None), most)
