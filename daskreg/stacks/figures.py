"""Pictures of a stack for a page, from small slices: before and after, its worst slices, and its worst pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ChannelError, ShapeMismatchError
from daskreg.geometry import Box, Grid, SliceAffines, common_unit, index_matrix
from daskreg.reporting import drift
from daskreg.reporting.planes import Place, cut, indices_with_content, places
from daskreg.reporting.views import Comparison, in_greys, overlay_views
from daskreg.reporting.words import number
from daskreg.sampling.sample import sample
from daskreg.sources.source import Source
from daskreg.stacks.inputs import source_along
from daskreg.stacks.slice_reader import SliceReader

if TYPE_CHECKING:
    from daskreg.stacks.elastic.fit import ElasticStackFit
    from daskreg.stacks.fit import StackFit

Singles = NDArray[np.float32]

MOST = 256
"""Voxels along each axis of the small stack that is shown, at most about twice as many."""
MOST_THUMBNAILS = 6
"""Worst slices that are shown."""


@dataclass(frozen=True)
class StackPictures:
    """comparisons: the stack before and after. thumbnails: by caption, the worst slices and the worst pairs."""

    comparisons: tuple[Comparison, ...]
    thumbnails: tuple[tuple[str, tuple[Comparison, ...]], ...]


def stack_pictures(
    fit: StackFit | ElasticStackFit, poses: StackFit, stack: Any, *, channel: int | str | None = None
) -> StackPictures:
    """Pictures of a stack; of the volumes of a series, the middle planes are shown.

    Args:
        poses: the fit itself, or that from which its fields begin.

    Raises: UnitError, ShapeMismatchError where the fit is not of this stack.
    """
    source, position = _source_of(poses, stack, channel)
    reader = SliceReader.of(source, position, most=MOST)
    _check_stack(poses, reader)
    slices = Slices(reader, fit.raw_from_aligned)
    step = max(1, -(-reader.count // MOST))
    shown = range(0, reader.count, step)
    images = [slices.raw_and_aligned(i) for i in shown]
    before, after = (np.stack([image[k] for image in images]) for k in (0, 1))
    inside = position >= len(source.lead)
    across = source.grid.spacing[position - len(source.lead)] if inside else reader.grid.spacing[-1]
    grid = _small_grid(reader.grid, len(images), across * step, str(source.dims[position]))
    found = places(grid, (1, 1, 1), indices_with_content(before, (1, 1, 1)))
    planes = [tuple(cut(v, place, (1, 1, 1)) for v in (before, after)) for place in found]
    # Where the planes lie is said in voxels of the stack, not of the small one.
    larger = (step, *(n // m for n, m in zip(reader.whole.shape[-2:], grid.shape[-2:], strict=True)))
    said = [
        replace(place, at=f"{grid.names[axis]} = {place.index * larger[axis] + (larger[axis] // 2 if axis else 0)}")
        for place in found
        if (axis := place.axis) is not None
    ]
    caption = (
        "The stack before and after, in the same greys. In the side views, a straight vertical edge of the specimen is "
        "ragged before."
    )
    comparison = in_greys(said, planes, caption, ("before", "after"))
    place = Place(grid.names[1], grid.names[2], (grid.spacing[1], grid.spacing[2]), grid.unit)
    thumbnails = [
        ("Slices that stand out", _worst_slices(slices, fit, place)),
        ("Neighbours that agree least", _worst_pairs(slices, poses, place)),
    ]
    return StackPictures((comparison,), tuple((name, thumbs) for name, thumbs in thumbnails if thumbs))


@dataclass(frozen=True)
class Slices:
    """The slices of a small stack, and where their maps lead."""

    reader: SliceReader
    maps: Any

    def raw_and_aligned(self, index: int) -> tuple[Singles, Singles]:
        """A slice as read, and aligned, NaN where there is no data; of a volume, its middle plane."""
        image, box = self.reader.span(index, index + 1)[0], Box.of(self.reader.grid.shape)
        aligned = sample(image, box, self._pull(index), box, fill=np.nan, edge="clamp")
        return _plane(image), _plane(np.asarray(aligned, dtype=np.float32))

    def _pull(self, index: int) -> Any:
        """Of one slice, on indices of its voxels: a matrix, or a path through displacement fields."""
        grid = self.reader.grid
        if isinstance(self.maps, SliceAffines):
            return index_matrix(self.maps.matrices[index], grid, grid)
        start, stop = [0] * grid.ndim, list(grid.shape)
        start.insert(self._fields.stack, index)
        stop.insert(self._fields.stack, index + 1)
        return self._fields.coordinates(Box(tuple(start), tuple(stop)))

    @cached_property
    def _fields(self) -> Any:
        """The index map of all slices."""
        grid, axis = self.reader.grid, self.maps.axis
        dims = [*grid.names]
        dims.insert(axis if isinstance(axis, int) else 0, str(axis))
        return self.maps.index_map(grid, grid, dims)


def _source_of(fit: StackFit, stack: Any, channel: int | str | None) -> tuple[Source, int]:
    """The stack with one channel: what was passed, else that of the fit if the stack still has several."""
    axis = fit.raw_from_aligned.axis
    try:
        return source_along(stack, axis, channel)
    except ChannelError:
        if channel is not None or fit.channel is None:
            raise
        return source_along(stack, axis, fit.channel)


def _check_stack(fit: StackFit, reader: SliceReader) -> None:
    """Raise UnitError or ShapeMismatchError for a stack that is not the one of a fit, at any level of its pyramid."""
    maps, whole = fit.raw_from_aligned, reader.whole
    common_unit(maps.unit, whole.unit, "the fit and the stack")
    if reader.count != len(maps.matrices):
        raise ShapeMismatchError(f"the fit is of {len(maps.matrices)} slices, the stack has {reader.count}")
    if whole.ndim != maps.ndim:
        raise ShapeMismatchError(f"the fit is of {maps.ndim}D slices, those of the stack are {whole.ndim}D")
    if maps.unit not in (None, whole.unit):  # pixels that are taken as a physical unit: there was a warning
        return
    # A coarser level, of which incomplete blocks are left out, ends less than one of its voxels earlier.
    half = (np.asarray(whole.shape) - 1) / 2 * np.asarray(whole.spacing)
    if (np.abs(np.abs(fit.half_extent) - half) > 1.001 * np.asarray(whole.spacing)).any():
        sizes = [" x ".join(f"{2 * h:.6g}" for h in np.abs(extent)) for extent in (fit.half_extent, half)]
        raise ShapeMismatchError(
            f"the fit is of slices with {sizes[0]} {whole.unit} between their outermost voxels, those of the stack "
            f"have {sizes[1]}"
        )


def _small_grid(plane: Grid, count: int, across: float, axis: str) -> Grid:
    """The grid of the small stack, from that of its slices."""
    names = (axis if axis not in plane.names[-2:] else "slice", *plane.names[-2:])
    return Grid((count, *plane.shape[-2:]), (across, *plane.spacing[-2:]), unit=plane.unit, axes=names)


def _worst_slices(slices: Slices, fit: StackFit | ElasticStackFit, place: Place) -> tuple[Comparison, ...]:
    """Outliers, of every kind at first, over the neighbour before them."""
    by_kind = [[(kind, i) for i in slices] for kind, slices in drift.marks(fit).items() if kind != "break"]
    chosen = [row[k] for k in range(max(map(len, by_kind), default=0)) for row in by_kind if k < len(row)]
    thumbs = []
    for kind, index in sorted(chosen[:MOST_THUMBNAILS], key=lambda one: one[1]):
        neighbor = index - 1 if index else min(1, slices.reader.count - 1)
        pair = [slices.raw_and_aligned(i)[1] for i in (neighbor, index)]
        caption = f"Slice {index}: {kind}; beside slice {neighbor}"
        thumbs.append(in_greys([place], [(pair[0], pair[1])], caption, (f"slice {neighbor}", f"slice {index}")))
    return tuple(thumbs)


def _worst_pairs(slices: Slices, fit: StackFit, place: Place) -> tuple[Comparison, ...]:
    thumbs, by = [], "" if isinstance(slices.maps, SliceAffines) else " by their poses alone"
    for a, b, score in fit.worst_pairs():
        (one, one_after), (other, other_after) = (slices.raw_and_aligned(i) for i in (a, b))
        caption = f"Slices {a} (green) and {b} (magenta), {fit.metric} {number(score, 3)}{by}"
        pairs = ((one, other), (one_after, other_after))
        thumbs.append(overlay_views(place, pairs, caption))
    return tuple(thumbs)


def _plane(image: Singles) -> Singles:
    return image if image.ndim == 2 else image[len(image) // 2]
