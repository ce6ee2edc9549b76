"""`FileArray`: a plain array in a file, with named axes, and its description as a volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from daskreg.errors import OptionError
from daskreg.geometry import Grid
from daskreg.sources.coordinates import SPACE, split_dims
from daskreg.sources.description import Coord, Description, OpenOptions, check_shape, ordered
from daskreg.sources.dtypes import image_dtype
from daskreg.sources.stored import stored_source


@dataclass(frozen=True)
class FileArray:
    """An array as it is stored in a file.

    Args:
        format: name of the reader.
        path: as in `Source.path`.
        names: of the stored axes; "" for one of length 1 that is dropped.
        dtype: of the values.
        stamp: changes when the file does.
        chunks: along the stored axes; () where reading a box costs no more than what it holds.
    """

    format: str
    path: str
    names: Sequence[str]
    shape: Sequence[int]
    dtype: np.dtype[Any]
    stamp: str
    chunks: Sequence[int] = ()

    def describe(
        self,
        grid: Grid,
        options: OpenOptions,
        *,
        name: str,
        attrs: Mapping[str, Any] | None = None,
        coords: Mapping[str, Coord] | None = None,
    ) -> Description:
        """The array as a volume on a grid, with the spacing and unit that were asked for.

        Raises: EmptyArrayError, UnsupportedDTypeError; OptionError where a level was asked for.
        """
        if options.level not in (0, -1):
            raise OptionError(f"level={options.level} was asked for, but {self.path} has no levels")
        lead, _ = split_dims([n for n in self.names if n])
        dims = (*lead, *grid.names)
        check_shape(dims, ordered(self.names, self.shape, dims), self.path)
        # Where nothing is chunked, the planes, which are contiguous, are read as a whole.
        planes = [n if axis in SPACE[1:] else 1 for axis, n in zip(self.names, self.shape, strict=True)]
        source = stored_source(
            self.names,
            self.shape,
            format=self.format,
            path=self.path,
            dtype=image_dtype(self.dtype, self.path),
            chunks=self.chunks or planes,
            lead=lead,
            grid=options.apply(grid),
            stamp=self.stamp,
        )
        return Description(source, name or None, attrs or {}, coords or {}, source.chunks)
