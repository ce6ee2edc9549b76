"""A series of DICOM files as one volume: z, y, x in LPS, with rescaled values.

A `Source.path` is `folder::/UID/files`, where `files` is a pattern, or names divided by "/".
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError, NotAVolumeError, OptionError
from daskreg.sources.channels import named_colours
from daskreg.sources.coordinates import SPACE
from daskreg.sources.description import Description, OpenOptions
from daskreg.sources.locate import INSIDE, StoreLocation
from daskreg.sources.reader import Reader, box_of
from daskreg.sources.readers.dicom.headers import Slice, pydicom
from daskreg.sources.readers.dicom.series import chosen_series, sorted_slices, world_from_index
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.mapped import check_memory, check_size
from daskreg.sources.readers.physical import grid_of_header
from daskreg.sources.sequences import files_of, is_dicom
from daskreg.sources.source import ArrayIndex, Source


@dataclass(frozen=True)
class DicomSlices:
    """The sorted slices of a series."""

    slices: tuple[Slice, ...]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return (len(self.slices), *self.slices[0].shape)


class DicomReader(Reader):
    """Reads whole slices by pydicom."""

    def claims(self, path: str) -> bool:
        with os.scandir(path) as entries:
            return any(entry.is_file() and is_dicom(entry.path) for entry in entries)

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """A series of a folder or of some files; location.inner is its number or UID, "/", and which files.

        Raises: NotAVolumeError where it is open which series is meant, or a file is not like the others; GridError
            where slices are missing or not evenly spaced, unless their spacing was passed; MissingExtraError without
            pydicom.
        """
        series, _, names = location.inner.partition("/")
        files = files_of(location.root, names or "*")
        slices = sorted_slices(chosen_series(files, series, location.root))
        first = slices[0]
        _check_pixels(slices)
        if options.level not in (0, -1):
            raise OptionError(f"level={options.level} was asked for, but a DICOM series has no levels")
        matrix = world_from_index(slices, even="z" in options.spacings(SPACE))
        unit = options.common_unit("millimeter", location.root)
        shape = (len(slices), *first.shape)
        grid, attrs = grid_of_header(matrix, shape[:3], unit, what=location.root)
        path = f"{location.root}{INSIDE}{first.series}/{names or '*'}"
        colours = ["c"] if len(shape) == 4 else []
        coords = named_colours(shape[-1]) if colours else {}
        array = FileArray(
            "dicom", path, [*SPACE, *colours], shape, _value_dtype(slices), self.stamp(path), (1, *first.shape)
        )
        name = first.title or os.path.basename(location.root)
        return array.describe(grid, options, name=name, attrs=attrs, coords=coords)

    def files(self, path: str) -> tuple[str, ...]:
        folder, _, inner = path.partition(INSIDE)
        return tuple(files_of(folder, inner.partition("/")[2]))

    def open(self, path: str) -> DicomSlices:
        folder, _, inner = path.partition(INSIDE)
        series, _, names = inner.partition("/")
        return DicomSlices(tuple(sorted_slices(chosen_series(files_of(folder, names), series, folder))))

    def read(self, handle: DicomSlices, index: ArrayIndex, source: Source) -> NDArray[Any]:
        box = box_of(index)
        slices = handle.slices[box.start[0] : box.stop[0]]
        planes = [_values(one, source.dtype)[box.slices[1:]] for one in slices]
        return np.stack(planes)[tuple(slice(None) if isinstance(s, slice) else 0 for s in index)]


READER = DicomReader()


def _check_pixels(slices: list[Slice]) -> None:
    """Refuse pixels that a file cannot hold, or that cannot be decoded here.

    Raises: NotAVolumeError naming the packages that decode them; MemoryBudgetError.
    """
    decoders, uids = pydicom().pixels, pydicom().uid
    for one in slices:
        size = math.prod(one.shape) * one.dtype.itemsize
        plain = not uids.UID(one.syntax).is_encapsulated
        check_size(size, (one.file,), "" if plain else "other", one.file)
    check_memory(size, slices[0].file)
    for one in {one.syntax: one for one in slices}.values():
        try:
            decoder = decoders.get_decoder(uids.UID(one.syntax))
        except NotImplementedError as error:
            raise NotAVolumeError(f"{one.file} has a transfer syntax that is not read: {error}") from error
        if not decoder.is_available:
            needed = "; or ".join(decoder.missing_dependencies)
            raise NotAVolumeError(f"{one.file} is compressed as {decoder.UID.name}, which needs a package: {needed}")


def _value_dtype(slices: list[Slice]) -> np.dtype[Any]:
    """Of the rescaled values: the stored type, the smallest integers that hold them, or floats."""
    first = slices[0]
    scales = {(one.slope, one.intercept) for one in slices}
    if scales == {(1.0, 0.0)}:
        return first.dtype
    if not all(slope.is_integer() and intercept.is_integer() for slope, intercept in scales):
        return np.dtype(np.float32 if first.dtype.itemsize <= 2 else np.float64)
    signed = first.dtype.kind == "i"
    ends = (-(2 ** (first.bits - 1)), 2 ** (first.bits - 1) - 1) if signed else (0, 2**first.bits - 1)
    values = [slope * end + intercept for slope, intercept in scales for end in ends]
    least, most = int(min(values)), int(max(values))
    for dtype in (first.dtype, np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.int64)):
        if np.iinfo(dtype).min <= least and most <= np.iinfo(dtype).max:
            return dtype
    return np.dtype(np.float64)


def _values(one: Slice, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The rescaled pixels of a slice.

    Raises: ChunkReadError where the file is not what it was.
    """
    with warnings.catch_warnings(action="ignore"):
        numbers = np.asarray(pydicom().dcmread(one.file).pixel_array)
    if numbers.shape != one.shape or numbers.dtype.newbyteorder("=") != one.dtype:
        raise ChunkReadError(
            f"{one.file} has {numbers.dtype} of shape {numbers.shape} now, not {one.dtype} of {one.shape}"
        )
    unused = one.dtype.itemsize * 8 - one.bits
    if unused:  # bits above the stored ones hold something else, or nothing
        numbers = (numbers << unused) >> unused
    if (one.slope, one.intercept) == (1.0, 0.0):
        return numbers
    return (numbers * np.float64(one.slope) + one.intercept).astype(dtype)
