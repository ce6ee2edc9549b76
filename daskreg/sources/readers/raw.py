"""Voxels without a header (`.raw`): their shape and type are passed to `open`, or are in a JSON file beside them.

The JSON of `a.raw` is `a.raw.json` or `a.json`:

    {"shape": [100, 200, 300], "dtype": ">u2", "offset": 512, "axes": "zyx", "spacing": [2, 0.5, 0.5], "unit": "um"}

Only `shape` and `dtype` are needed. A `Source.path` holds what a worker needs: `a.raw::/<u2/100x200x300/512`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import NotAVolumeError, OptionError
from daskreg.geometry import PIXEL, Grid
from daskreg.runtime.messages import reason
from daskreg.runtime.regular_files import check_beside, read_small
from daskreg.sources.coordinates import default_dims, split_dims
from daskreg.sources.description import Description, OpenOptions, check_shape, ordered
from daskreg.sources.dtypes import image_dtype
from daskreg.sources.locate import INSIDE, StoreLocation
from daskreg.sources.reader import Reader
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.mapped import check_size, map_file
from daskreg.sources.readers.voxel_file import VoxelFile
from daskreg.sources.source import ArrayIndex, Source

_LARGEST_JSON = 2**16


@dataclass(frozen=True)
class RawLayout:
    """What is in a file without a header.

    Args:
        shape: slowest axis first.
        dtype: as stored, with its byte order.
        offset: of the first voxel, in bytes.
        axes: names of the axes; () for those of an array in memory.
        spacing, unit: of space; None where they are not stated.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int = 0
    axes: tuple[str, ...] = ()
    spacing: Any = None
    unit: str | None = None


class RawReader(Reader):
    """Reads voxels at their positions in the file."""

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """The array of a file.

        Raises: OptionError without a shape and a type, or where they do not make up the file; NotAVolumeError.
        """
        file, what = location.root, str(location)
        layout = _layout(file, options)
        names = layout.axes or default_dims(len(layout.shape))
        if len(names) != len(layout.shape) or len(set(names)) != len(names) or len(names) < 2:
            raise OptionError(f"the shape {layout.shape} of {what} needs as many axes, two or more, not {names}")
        check_shape(names, layout.shape, what)
        size = math.prod(layout.shape) * layout.dtype.itemsize
        check_size(layout.offset + size, (file,), "", what)
        left = os.stat(file).st_size - layout.offset - size
        if left:
            raise OptionError(
                f"{what} has {left} bytes more than {layout.shape} voxels of {layout.dtype} from byte {layout.offset} "
                "on: correct the shape, or state the offset in a JSON file beside it"
            )
        _, space = split_dims(names)
        grid = Grid(
            ordered(names, layout.shape, space), unit=options.common_unit(layout.unit or PIXEL, what), axes=space
        )
        if options.spacing is None:
            options = replace(options, spacing=layout.spacing)
        inner = f"{layout.dtype.str}/{'x'.join(map(str, layout.shape))}/{layout.offset}"
        array = FileArray("raw", f"{file}{INSIDE}{inner}", names, layout.shape, layout.dtype, self.stamp(file))
        return array.describe(grid, options, name=location.name.removesuffix(".raw"))

    def open(self, path: str) -> VoxelFile:
        file, _, inner = path.partition(INSIDE)
        dtype, shape, offset = inner.split("/")
        data: Any = map_file(file, np.dtype(dtype), tuple(map(int, shape.split("x"))), offset=int(offset))
        return data  # type: ignore[no-any-return]

    def read(self, handle: VoxelFile, index: ArrayIndex, source: Source) -> NDArray[Any]:
        return handle[index]


READER = RawReader()


def _layout(file: str, options: OpenOptions) -> RawLayout:
    """What the options and the JSON file beside say; options take precedence.

    Raises: OptionError where shape or type are not known; NotAVolumeError for a JSON file that cannot be read.
    """
    beside = next(
        (path for path in (f"{file}.json", str(Path(file).with_suffix(".json"))) if os.path.isfile(path)), None
    )
    stated = _stated(beside, file) if beside else {}
    shape = stated.get("shape") if options.shape is None else options.shape
    dtype = stated.get("dtype") if options.dtype is None else options.dtype
    if shape is None or dtype is None:
        raise OptionError(
            f"{file} has no header: pass shape=(100, 200, 300) and dtype='uint16' (--raw-shape, --raw-dtype; '>u2' for "
            f"bytes in the opposite order), or write them to {file}.json"
        )
    try:
        if isinstance(shape, str | bytes):
            raise ValueError("a shape that is text, not a list of numbers")
        offset, spacing = int(stated.get("offset", 0)), stated.get("spacing")
        layout = RawLayout(
            tuple(int(n) for n in shape), np.dtype(dtype), offset, tuple(stated.get("axes", ())), spacing
        )
        if min((*layout.shape, offset)) < 0:
            raise ValueError("a number below 0")
        unit = stated.get("unit")
        if not (unit is None or isinstance(unit, str)) or not all(isinstance(axis, str) for axis in layout.axes):
            raise ValueError("a unit or an axis that is no text")
    except (TypeError, ValueError, OverflowError) as error:
        told = f"shape {shape!r}, dtype {dtype!r}" if beside is None else beside
        raise OptionError(f"{told} does not describe {file}: {reason(error)}") from error
    image_dtype(layout.dtype, file)
    return replace(layout, unit=unit)


def _stated(beside: str, file: str) -> Mapping[str, Any]:
    check_beside(beside, file)
    try:
        stated = json.loads(read_small(Path(beside), _LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        raise NotAVolumeError(f"{beside}, which describes {file}, cannot be read: {reason(error)}") from error
    if not isinstance(stated, dict):
        raise NotAVolumeError(f"{beside}, which describes {file}, is no mapping of names to values")
    return stated
