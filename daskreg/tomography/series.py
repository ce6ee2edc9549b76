"""Projections as the matching needs them: binned, in memory, without background, and which of them cannot be used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import (
    ChannelError,
    DegenerateImageError,
    EmptyMaskError,
    OptionError,
    ShapeMismatchError,
)
from daskreg.geometry import Grid
from daskreg.tomography.angles import LEAST_PROJECTIONS
from daskreg.tomography.options import whole_number
from daskreg.tomography.poses import Level
from daskreg.tomography.projections import Beam, beam_of
from daskreg.volumes import mask_array, volume_of

Floats = NDArray[np.float64]
Array = NDArray[Any]
Bools = NDArray[np.bool_]

_BATCH_BYTES = 64 * 2**20
_MOST_BATCHES = 8  # in which what is read at once is converted
_MOST_VALUES = 2**27
"""Pixels of the finest level that is matched: some ten arrays of this size are in memory."""
_COARSE_COLUMNS = 64
_FEWEST_COLUMNS = 64  # of the finest level that is chosen: fewer hardly show how the axis is turned
_IMAGES = 24  # of the size of the projections, at most, while a step is summed
_VOLUMES = 3
_EDGE = 0.02  # of the columns, on either side, where there is background


@dataclass(frozen=True, eq=False)
class Piece:
    """Some rows of some projections, as stored: (B, R, U)."""

    angles: slice
    rows: slice
    raw: Array


@dataclass(frozen=True, eq=False)
class Projections:
    """Projections as a user passed them, nothing read.

    Args:
        data: (angles, rows, columns) NumPy or dask.
        grid: of the axes of `data`; its last two are the detector.
        dim: name of the axis of the angles.
        transposed: whether rows and columns were exchanged, so that the axis of rotation is along the rows' axis.
        beam: that of the projections, as their data are transposed, or None where they are not transmitted intensity.
        mask: (rows, columns) or (angles, rows, columns), True where pixels count, or None.
        batch_bytes: of the values that are read at once.
    """

    data: Any
    grid: Grid
    dim: str
    transposed: bool
    beam: Beam | None
    mask: Any
    batch_bytes: int = _BATCH_BYTES

    @property
    def shape(self) -> tuple[int, int, int]:
        a, v, u = self.data.shape
        return int(a), int(v), int(u)

    def batches(self) -> Iterator[Iterator[Piece]]:
        """All values, angles after angles; within the pieces of some angles, rows after rows.

        Whole chunks are read, each once, where one fits; of larger ones some angles at once, so that each is decoded
        several times.
        """
        count, rows, columns = self.shape
        most = _MOST_BATCHES * self.batch_bytes
        chunks = self.data.chunks if hasattr(self.data, "chunks") else ((1,) * count, (rows,))
        longest, highest = max(chunks[0]), max(chunks[1])
        row_bytes = columns * self.data.dtype.itemsize
        together = max(longest, self.batch_bytes // (4 * rows * columns))
        heights = [slice(0, rows)]
        if together * rows * row_bytes <= most:
            spans = _spans(chunks[0], together)
        elif longest * highest * row_bytes <= most:
            spans, heights = _spans(chunks[0], longest), _spans(chunks[1], most // (longest * row_bytes))
        else:
            few = max(1, most // (highest * row_bytes))
            spans, heights = _spans(_divided(chunks[0], few), few), _spans(chunks[1], highest)
        for angles in spans:
            yield (Piece(angles, height, np.asarray(self.data[angles, height])) for height in heights)

    def values(self, piece: Piece) -> Iterator[tuple[int, Array]]:
        """The first angle and the values (B, R, U), float32, NaN where pixels do not count, some angles at once."""
        size = max(1, self.batch_bytes // (4 * max(piece.raw[0].size, 1)))
        for first in range(piece.angles.start, piece.angles.stop, size):
            start = first - piece.angles.start
            yield first, self._values(piece.raw[start : start + size], first, piece.rows)

    def _values(self, raw: Array, first: int, rows: slice) -> Array:
        values = np.asarray(raw, dtype=np.float32)
        if self.beam is not None:
            values = self.beam.attenuation(values, rows).astype(np.float32)
        values = np.where(np.isfinite(values), values, np.float32(np.nan))
        if self.mask is not None:
            mask = self.mask if self.mask.ndim == 2 else self.mask[first : first + len(raw)]
            values = np.where(np.asarray(mask[..., rows, :]), values, np.float32(np.nan))
        return values


def _spans(chunks: Sequence[int], most: int) -> list[slice]:
    """Neighbouring chunks together, of at most so many entries, or one alone."""
    spans: list[slice] = []
    start = stop = 0
    for chunk in chunks:
        if stop > start and stop + chunk - start > most:
            spans.append(slice(start, stop))
            start = stop
        stop += chunk
    return [*spans, slice(start, stop)]


def _divided(chunks: Sequence[int], most: int) -> list[int]:
    """Chunks of at most so many entries."""
    return [min(most, chunk - start) for chunk in chunks for start in range(0, chunk, most)]


def projections_of(
    projections: Any,
    *,
    axis: str,
    channel: int | str | None,
    channel_axis: int | None,
    flats: Any,
    darks: Any,
    mask: Any,
) -> Projections:
    """What a user passed; see `align_projections`.

    Raises: ShapeMismatchError, ChannelError, OptionError, EmptyMaskError.
    """
    if axis not in ("y", "x"):
        raise OptionError(f"axis={axis!r}: the axis of rotation is along 'y', down the columns, or 'x', along the rows")
    data, grid, dim = one_channel(projections, channel, channel_axis)
    beam = beam_of(flats, darks, tuple(data.shape[1:]))
    chosen = None if mask is None else mask_array(mask)
    if chosen is not None and chosen.shape not in (tuple(data.shape), tuple(data.shape[1:])):
        raise ShapeMismatchError(f"the mask has shape {chosen.shape}, the projections {tuple(data.shape)}")
    if chosen is not None and not bool(np.asarray(chosen.any())):
        raise EmptyMaskError("the mask leaves no pixel")
    if axis == "x":
        data = data.swapaxes(1, 2)
        beam = None if beam is None else beam.swapped()
        chosen = None if chosen is None else chosen.swapaxes(-1, -2)
    return Projections(data, grid, dim, axis == "x", beam, chosen)


def one_channel(projections: Any, channel: int | str | None, channel_axis: int | None) -> tuple[Any, Grid, str]:
    """(angles, rows, columns) data of one channel, or the sum of all, the grid, and the name of the first axis."""
    if channel_axis is not None:
        projections = channels_first(projections, channel_axis)
    volume = volume_of(projections)
    array = volume.array
    if volume.grid.ndim != 3:
        raise ShapeMismatchError(
            f"projections of shape {array.shape} are not (angles, rows, columns); a sinogram is (angles, 1, columns)"
        )
    if volume.source.lead and channel == "sum":
        array = array.sum(dim=volume.source.lead)
    else:
        try:
            entries = volume.only_entries(channel, owner="the projections")
        except ChannelError as error:
            raise ChannelError(f"{error}; channel='sum' takes the sum of all") from error
        array = array.isel(entries)
    return array.data, volume.grid, str(array.dims[0])


def channels_first(projections: Any, channel_axis: int) -> Any:
    """The projections with their axis of channels, a number, as the first one, named c."""
    import xarray as xr

    channel_axis = whole_number("channel_axis", channel_axis)
    if not -len(projections.shape) <= channel_axis < len(projections.shape) or len(projections.shape) != 4:
        raise OptionError(f"channel_axis={channel_axis}: projections of shape {tuple(projections.shape)} have none")
    if isinstance(projections, xr.DataArray):
        dim = projections.dims[channel_axis]
        return projections.rename({dim: "c"}).transpose("c", ...)
    return xr.DataArray(projections, dims=_dims(channel_axis % 4)).transpose("c", ...)


def _dims(channel_axis: int) -> list[str]:
    dims = ["z", "y", "x"]
    dims.insert(channel_axis, "c")
    return dims


def columns_of_levels(shape: tuple[int, int, int], radians: Floats, level: int | str, most: int | None) -> list[int]:
    """How many columns are averaged on each level, coarse to fine.

    "auto": angles resolve the volume to pi D / A (Crowther et al. 1970), for D columns and A angles of a half turn; in
    what is finer projections do not depend on each other. The finest pixels are half of that, and not so large that
    fewer than _FEWEST_COLUMNS are left.

    Args:
        most: bytes that may be used; where a step on the finest level needs more, a level before it is the finest that
            does not. None: the finest level is one of at most _MOST_VALUES pixels.
    """
    count, rows, columns = shape
    if level == "auto":
        span = min(float(np.ptp(radians)) + 1e-9, np.pi)
        finest = min(int(np.pi * columns / (2 * count * np.pi / span)), columns // _FEWEST_COLUMNS)
    elif isinstance(level, int) and not isinstance(level, bool) and 0 <= level < 16:
        finest = 2**level
    else:
        raise OptionError(f"level={level!r}: use 'auto', or 0 for every pixel, 1 for 2 x 2 means, ...")
    finest = max(min(finest, columns // 16), 1)
    if most is None:
        finest = max(finest, math.isqrt(math.ceil(count * rows * columns / _MOST_VALUES) - 1) + 1)
    coarsest = max(finest, math.ceil(columns / _COARSE_COLUMNS))
    if most is None or fits(shape, finest, most):
        return [coarsest, finest] if coarsest > finest else [finest]
    middle = next((n for n in range(finest + 1, columns // 16 + 1) if fits(shape, n, most)), None)
    if middle is None:
        raise OptionError(f"memory: {most / 2**20:.4g} MiB are not enough for means of {columns // 16} columns")
    return [*([coarsest] if coarsest > middle else []), middle, finest]


def fits(shape: tuple[int, int, int], columns: int, most: int) -> bool:
    """Whether a step on the level of means of so many columns needs no more than `most` bytes."""
    rows, width = _level(shape, columns).binned_shape
    return rows * bytes_of_a_row(shape[0], width) <= most


def bytes_of_a_row(count: int, columns: int) -> int:
    """Memory that a row of a level needs while a step is summed."""
    return 4 * (_IMAGES * count * columns + _VOLUMES * columns**2)


def level_of(projections: Projections, columns: int) -> Level:
    """The level of means of so many columns, and as many rows if there are enough."""
    return _level(projections.shape, columns)


def _level(shape: tuple[int, int, int], columns: int) -> Level:
    _, rows, width = shape
    return Level((rows, width), (columns if rows >= 16 * columns else max(1, min(columns, rows // 16)), columns))


def binned(
    projections: Projections, levels: Sequence[Level], rows: Callable[[int, int, Array], None] | None = None
) -> list[tuple[Array, Array | None, float]]:
    """For each level (A, V, U) float32 means without background, 0 where unknown, where they are known (None:
    everywhere), and the background. All are made in one pass over the projections.

    Args:
        rows: called with the first projection, the first row, and (B, R, U) means with background, NaN where unknown,
            of the last level, which is then not kept.
    """
    count = projections.shape[0]
    kept = levels if rows is None else levels[:-1]
    means = [np.empty((count, *level.binned_shape), np.float32) for level in kept]
    for pieces in projections.batches():
        begun: list[_Row] = []
        for piece in pieces:
            begun = begun or [_Row.empty(piece.angles, level) for level in levels]
            for first, values in projections.values(piece):
                for data, row in zip(means, begun, strict=False):
                    top, found = row.means(first, piece.rows.start, values)
                    data[first : first + len(found), top : top + found.shape[1]] = found
                if rows is not None:
                    rows(first, *begun[-1].means(first, piece.rows.start, values))
    return [_without_background(data) for data in means]


@dataclass(frozen=True, eq=False)
class _Row:
    """The row of a level of which rows are still to come: (B, U) sums of the pixels that count, and their numbers."""

    angles: slice
    level: Level
    total: Floats
    number: NDArray[np.int64]

    @classmethod
    def empty(cls, angles: slice, level: Level) -> _Row:
        shape = (angles.stop - angles.start, level.binned_shape[1])
        return cls(angles, level, np.zeros(shape), np.zeros(shape, np.int64))

    def means(self, first: int, top: int, values: Array) -> tuple[int, Array]:
        """The first row, and the (B, R, U) means of the rows of the level that (B, R, U) values complete.

        NaN where fewer than half of the pixels count. Values come rows after rows.

        Args:
            first, top: numbers of the first projection, and of the first row of the detector.
        """
        (rows, columns), (v, u) = self.level.binned_shape, self.level.factors
        used = values[:, : max(rows * v - top, 0), : columns * u]
        if not used.size:
            return rows, np.empty((len(values), 0, columns), np.float32)
        known = np.isfinite(used)
        across = (*used.shape[:2], columns, u)
        whole = bool(known.all())
        sums = (used if whole else np.where(known, used, 0)).reshape(across).sum(axis=3, dtype=np.float64)
        numbers = np.full(across[:3], u) if whole else known.reshape(across).sum(axis=3)
        # Where a row of the level begins, in the rows that are here.
        starts = np.unique([0, *range(-top % v, used.shape[1], v)])
        total, number = (np.add.reduceat(array, starts, axis=1) for array in (sums, numbers))
        here = slice(first - self.angles.start, first - self.angles.start + len(used))
        if top % v:
            total[:, 0] += self.total[here]
            number[:, 0] += self.number[here]
        if (top + used.shape[1]) % v:
            self.total[here], self.number[here] = total[:, -1], number[:, -1]
            total, number = total[:, :-1], number[:, :-1]
        found = np.where(2 * number >= u * v, total / np.maximum(number, 1), np.nan)
        return top // v, found.astype(np.float32)


def _without_background(data: Array) -> tuple[Array, Array | None, float]:
    valid = np.isfinite(data)
    if not valid.any():
        raise DegenerateImageError("the projections have no finite pixel")
    edge = max(1, int(_EDGE * data.shape[2]))
    sides = [side[np.isfinite(side)] for side in (data[:, :, :edge], data[:, :, -edge:])]
    background = min((float(np.median(side)) for side in sides if side.size), default=0.0)
    data -= np.float32(background)
    if valid.all():
        return data, None, background
    data[~valid] = 0
    return data, valid, background


def unusable(data: Array, valid: Array | None, radians: Floats) -> dict[int, str]:
    """Projections that show nothing, by why: "lost" (not finite), "blank", or "duplicated" (the same as an earlier one,
    at another angle).

    Raises: DegenerateImageError where too few are left.
    """
    known = np.ones(len(data)) if valid is None else valid.mean(axis=(1, 2))
    spread = data.std(axis=(1, 2))
    typical = float(np.median(spread[known > 0])) if (known > 0).any() else 0.0
    kinds: dict[int, str] = {}
    seen: dict[bytes, int] = {}
    for i, image in enumerate(data):
        if known[i] < 0.5:
            kinds[i] = "lost"
        elif spread[i] <= 1e-3 * typical:
            kinds[i] = "blank"
        elif abs(radians[i] - radians[seen.setdefault(image.tobytes(), i)]) > 1e-6:
            kinds[i] = "duplicated"
    if len(data) - len(kinds) < LEAST_PROJECTIONS:
        named = ", ".join(f"{i} {kind}" for i, kind in list(kinds.items())[:8])
        raise DegenerateImageError(f"{len(data) - len(kinds)} of {len(data)} projections can be used ({named})")
    return kinds


def noise_of(data: Array, least: Floats | None = None) -> float:
    """Standard deviation of the noise of a pixel: of second differences (Immerkaer 1996), their median magnitude, where
    the specimen is, since detectors cut off the noise of an empty background: above the mean of a projection, or (A,)
    values."""
    change, bright = np.diff(data, 2, axis=2), data[:, :, 1:-1]
    gain = 6.0
    if data.shape[1] >= 3:
        change, bright, gain = np.diff(change, 2, axis=1), bright[:, 1:-1], 36.0
    above = bright.mean(axis=(1, 2)) if least is None else least
    shown = bright > above[:, None, None]
    medians = [_median(np.abs(c[s])) for c, s in zip(change, shown, strict=True) if s.any()]
    return float(np.sqrt(np.mean(np.square(medians)) / gain)) / 0.6745 if medians else 0.0


def _median(values: Array) -> float:
    """`np.median` of a few finite numbers, in a fifth of the time."""
    low, high = (len(values) - 1) // 2, len(values) // 2
    ordered = np.partition(values, (low, high))
    return float(ordered[low] + ordered[high]) / 2
