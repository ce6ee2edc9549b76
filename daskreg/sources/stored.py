"""`Stored`: a plain array in a file with named axes; and what `open` makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from daskreg.errors import OptionError
from daskreg.geometry import Grid
from daskreg.sources.coordinates import SPACE, split_dims
from daskreg.sources.dtypes import image_dtype
from daskreg.sources.found import Coord, Found, Wish, check_shape
from daskreg.sources.source import Source


@dataclass(frozen=True)
class Stored:
    """An array as it lies in a file.

    Args:
        kind: of the reader; path: as `Source.path` has it.
        names: of the stored axes; "" for one of length 1 that is dropped.
        dtype: of the values.
        stamp: changes when the file does.
        chunks: along the stored axes; () where any box costs what it holds.
    """

    kind: str
    path: str
    names: Sequence[str]
    shape: Sequence[int]
    dtype: np.dtype[Any]
    stamp: str
    chunks: Sequence[int] = ()


def found_of(
    stored: Stored,
    grid: Grid,
    wish: Wish,
    *,
    name: str,
    attrs: Mapping[str, Any] | None = None,
    coords: Mapping[str, Coord] | None = None,
) -> Found:
    """The source of a stored array on a grid, with the spacing and unit that were asked for.

    Raises: EmptyArrayError, UnsupportedDTypeError; OptionError where a level was asked for.
    """
    if wish.level not in (0, -1):
        raise OptionError(f"level={wish.level} was asked for, but {stored.path} has no levels")
    kept = [n for n in stored.names if n]
    dims = (*split_dims(kept)[0], *grid.names)
    sizes = dict(zip(stored.names, stored.shape, strict=True))
    shape = tuple(sizes[d] for d in dims)
    check_shape(dims, shape, stored.path)
    # Contiguous planes are the natural pieces of what is not chunked.
    chunked = dict(zip(stored.names, stored.chunks, strict=True)) if stored.chunks else {}
    chunks = tuple(chunked.get(d, sizes[d] if d in SPACE[1:] else 1) for d in dims)
    order = tuple(kept.index(d) for d in dims)
    source = Source(
        stored.kind,
        stored.path,
        None,
        () if len(kept) == len(stored.names) else tuple(slice(None) if n else 0 for n in stored.names),
        dims,
        shape,
        image_dtype(stored.dtype, stored.path),
        chunks,
        wish.apply(grid),
        order=() if order == tuple(range(len(order))) else order,
        stamp=stored.stamp,
    )
    return Found(source, name or None, attrs or {}, coords or {}, chunks)
