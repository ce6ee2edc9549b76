"""A sequence of files as one volume: images are slices (z), volumes are times (t). See `sources.sequences`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError, MetadataWarning, NotAVolumeError, OptionError
from daskreg.geometry import PIXEL, Grid
from daskreg.runtime.regular_files import allowing_outside
from daskreg.sources.coordinates import SPACE
from daskreg.sources.description import Description, OpenOptions
from daskreg.sources.file_formats import SEQUENCE
from daskreg.sources.locate import INSIDE, StoreLocation, locate
from daskreg.sources.reader import Reader, box_of, reader_of
from daskreg.sources.sequences import files_of
from daskreg.sources.source import ArrayIndex, Source
from daskreg.sources.stamps import stamp_of
from daskreg.sources.stored import StoredSource, stored_source

_MOST_KEPT = 1024


@dataclass
class SequenceFiles:
    """The files of a sequence.

    Args:
        shape: of the sequence: files, then the axes of one.
        first: the first file. Where its path alone leads to its voxels, the others are not described again: they are
            alike, and a file that is not any more is noticed when it is read.
    """

    files: list[str]
    shape: tuple[int, ...]
    first: Source
    _sources: dict[int, Source] = field(default_factory=dict)
    _lock: Any = field(default_factory=Lock)

    def source(self, number: int, allow_outside: bool) -> Source:
        """The voxels of one file."""
        with self._lock:
            if number in self._sources:
                return self._sources[number]
        if isinstance(self.first, StoredSource) and self.first.path == self.files[0]:
            file = self.files[number]
            return replace(self.first, path=file, stamp=stamp_of((file,)), allow_outside=allow_outside)
        with allowing_outside(allow_outside):
            found = _described(self.files[number], OpenOptions()).source
        if allow_outside and isinstance(found, StoredSource):
            found = replace(found, allow_outside=True)
        if found.shape != self.shape[1:]:
            raise ChunkReadError(f"{self.files[number]} has the shape {found.shape} now, not {self.shape[1:]}")
        with self._lock:
            while len(self._sources) >= _MOST_KEPT:
                self._sources.pop(next(iter(self._sources)))
            self._sources[number] = found
        return found


class SequenceReader(Reader):
    """Reads each file by the reader of its format."""

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """The files of a folder as one volume.

        Raises: NotAVolumeError naming the first file whose shape or type is not that of the others; OptionError for a
            level.
        """
        if options.level not in (0, -1):
            raise OptionError(f"level={options.level} was asked for, but a sequence of files has no levels")
        files = files_of(location.root, location.inner)
        plain = replace(options, level=0, spacing=None, unit=None)
        descriptions = [_described(file, plain) for file in files]
        first = descriptions[0]
        _check_alike(files, descriptions)
        one = first.source
        space = one.grid.names
        if len(space) not in (2, 3) or (len(space) == 3 and "t" in one.dims):
            raise NotAVolumeError(f"{files[0]} has the axes {one.dims}; files of a sequence are images or volumes")
        axis = "z" if len(space) == 2 else "t"
        if axis == "z" and one.grid.unit != PIXEL and "z" not in options.spacings(SPACE):
            message = f"the distance of the slices is not stated: 1 {one.grid.unit} is taken; pass spacing={{'z': ...}}"
            warnings.warn(f"{location.root}: {message}", MetadataWarning, stacklevel=2)
        names = (axis, *one.dims)
        shape = (len(files), *one.shape)
        source = stored_source(
            names,
            shape,
            format=SEQUENCE,
            path=f"{location.root}{INSIDE}{location.inner}",
            dtype=one.dtype,
            chunks=(1, *one.chunks),
            lead=one.lead if axis == "z" else ("t", *one.lead),
            grid=options.apply(_stacked(one.grid, len(files)) if axis == "z" else one.grid),
            stamp=stamp_of(files),
        )
        unit = dict(zip(one.dims, first.read_unit or one.chunks, strict=True))
        return replace(first, source=source, name=None, read_unit=tuple(unit.get(d, 1) for d in source.dims))

    def open(self, path: str) -> SequenceFiles:
        folder, _, inner = path.partition(INSIDE)
        files = files_of(folder, inner)
        first = _described(files[0], OpenOptions()).source
        return SequenceFiles(files, (len(files), *first.shape), first)

    def files(self, path: str) -> tuple[str, ...]:
        folder, _, inner = path.partition(INSIDE)
        return tuple(files_of(folder, inner))

    def read(self, handle: SequenceFiles, index: ArrayIndex, source: Source) -> NDArray[Any]:
        box = box_of(index)
        inside = type(box)(box.start[1:], box.stop[1:])
        outside = isinstance(source, StoredSource) and source.allow_outside
        images = [handle.source(number, outside).read(inside) for number in range(box.start[0], box.stop[0])]
        voxels = np.stack(images) if len(images) != 1 else images[0][None]
        return voxels[tuple(slice(None) if isinstance(s, slice) else 0 for s in index)]


READER = SequenceReader()


def _described(file: str, options: OpenOptions) -> Description:
    name, location = locate(file)
    return reader_of(name).describe(location, options)


def _check_alike(files: list[str], descriptions: list[Description]) -> None:
    kinds = [(d.source.dims, d.source.shape, d.source.dtype) for d in descriptions]
    usual = max(set(kinds), key=kinds.count)
    for file, kind in zip(files, kinds, strict=True):
        if kind != usual:
            told = [f"{dict(zip(dims, shape, strict=True))} of {dtype}" for dims, shape, dtype in (kind, usual)]
            raise NotAVolumeError(f"{file} has {told[0]}, and the others of the sequence {told[1]}: take it out")


def _stacked(plane: Grid, count: int) -> Grid:
    """The grid of slices, which are as far apart as pixels of the unit; their distance is stated nowhere."""
    direction = np.eye(3)
    direction[1:, 1:] = plane.direction_matrix
    return Grid((count, *plane.shape), (1.0, *plane.spacing), (0.0, *plane.origin), direction, plane.unit)
