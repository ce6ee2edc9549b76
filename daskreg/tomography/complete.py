"""Projections as attenuation, without gaps, lazily by blocks of rows.

Gaps are filled before anything is interpolated, which would spread them, and across the axis of rotation, so that each
slice is made of its own pixels. A row without any is interpolated between its neighbours, which are read for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from daskreg.geometry import Box
from daskreg.sources.source import Source
from daskreg.tomography.projections import Beam, without_gaps

Array = NDArray[Any]

_FURTHER = 4  # times as many rows are read, until there is one with values


@dataclass(frozen=True, eq=False)
class Completing:
    """How blocks of (..., angles, rows, columns) are completed.

    Args:
        source: of the projections.
        transposed: whether the rows of the blocks are columns of the source.
        beam: of the blocks, as they are transposed.
    """

    source: Source
    transposed: bool
    beam: Beam | None

    def block(self, values: Array, block_info: Any = None) -> Array:
        """A block as float32."""
        *lead, rows, _ = block_info[0]["array-location"]
        images = self._attenuation(values, *rows)
        if np.isfinite(images).all():
            return images.astype(np.float32, copy=False)
        flat = images.reshape(-1, *images.shape[-2:])
        for at, place in enumerate(product(*(range(*ends) for ends in lead))):
            flat[at] = self._filled(flat[at], place, *rows)
        return flat.reshape(values.shape).astype(np.float32)

    def _attenuation(self, values: Array, first: int, last: int) -> Array:
        return np.array(values) if self.beam is None else self.beam.attenuation(values, slice(first, last))

    def _filled(self, image: Array, place: tuple[int, ...], first: int, last: int) -> Array:
        """The rows from `first` on of an image, filled; more rows are read where the nearest ones with values are not
        among them."""
        count = self.source.shape[-1 if self.transposed else -2]
        start, stop, reach = first, last, last - first
        while not _ends_in_values(image, start == 0, stop == count):
            reach *= _FURTHER
            start, stop = max(0, first - reach), min(count, last + reach)
            image = self._attenuation(self._read(place, start, stop), start, stop)
        return without_gaps(image[None])[0, first - start : last - start]

    def _read(self, place: tuple[int, ...], start: int, stop: int) -> Array:
        *_, rows, columns = self.source.shape
        ends = ((0, rows), (start, stop)) if self.transposed else ((start, stop), (0, columns))
        corners = [*((k, k + 1) for k in place), *ends]
        found = self.source.read(Box(tuple(a for a, _ in corners), tuple(b for _, b in corners)))
        image = np.asarray(found).reshape(found.shape[-2:])
        return image.T if self.transposed else image


def _ends_in_values(image: Array, is_first: bool, is_last: bool) -> bool:
    """Whether rows beyond those of the image would not change how its gaps are filled."""
    above, below = (bool(np.isfinite(image[row]).any()) for row in (0, -1))
    return (above or is_first) and (below or is_last)


def complete(data: Any, source: Source, beam: Beam | None, *, transposed: bool, rows: int) -> Any:
    """(..., angles, rows, columns) attenuation, without gaps, of the data of a source.

    Args:
        data: as those of the source, NumPy or dask; of integers without a beam they stay as they are.
        beam: as it was passed.
        transposed: whether the axis of rotation is along the rows of the detector; else it is along the columns.
        rows: of a block of slices. Blocks have no more, so that what is beside them is not completed for nothing.
    """
    if beam is None and not np.issubdtype(data.dtype, np.floating):
        return data
    along, across = (-1, -2) if transposed else (-2, -1)
    lead = dict.fromkeys(range(data.ndim - 3), 1)
    if isinstance(data, da.Array):
        stored = max(data.chunks[along])
        lazy = data.rechunk({**lead, across: -1, **({along: rows} if stored > rows else {})})
    else:
        chunks = [1] * (data.ndim - 3) + [data.shape[-3], *data.shape[-2:]]
        chunks[along] = rows
        lazy = da.from_array(data, chunks=tuple(chunks))
    completing = Completing(source, transposed, beam if beam is None or not transposed else beam.swapped())
    parts = () if beam is None else (beam.flat, beam.dark)
    made = da.map_blocks(
        completing.block,
        lazy.swapaxes(-1, -2) if transposed else lazy,
        dtype=np.float32,
        meta=np.empty((0,) * data.ndim, np.float32),
        name=f"complete-{tokenize(lazy.name, transposed, *parts)}",
    )
    return made.swapaxes(-1, -2) if transposed else made
