"""`daskreg.plot`: two images or volumes as pictures, before and after a fit: overlay, checkerboard, difference, planes.

    dr.plot.overlay(fixed, moving, fit=fit)

Each returns a matplotlib figure (the `report` extra), which a notebook shows. Volumes may be lazy and of any size: only
planes are read, every k-th voxel of large ones. Scale bars are in the unit of the coordinates, voxels have their
aspect, the contrast leaves out fill, and the colours suit red-green colour blindness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from daskreg.geometry import Affine, Box, Grid
from daskreg.reporting import composites
from daskreg.reporting.contrast import common_windows
from daskreg.reporting.figures import draw_plane, new_figure
from daskreg.reporting.planes import PairPlane, Place, Singles, cut, indices_with_content, places, steps_of
from daskreg.volumes import Volume, volume_of
from daskreg.warping import warp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["checkerboard", "difference", "overlay", "side_views"]


def overlay(fixed: Any, moving: Any, *, fit: Any = None, channel: int | str | None = None) -> Figure:
    """Fixed in green and moving in magenta: grey where they agree, and dim where only one of them has data.

    Args:
        fixed, moving: images or volumes: DataArrays, arrays, or paths; they meet in the world.
        fit: a fit, or the pull from fixed to moving; without it, both are shown where they lie.
        channel: number or label, for images with channels.
    """
    caption = "fixed green, moving magenta: grey where they agree"
    return _composed(fixed, moving, fit, channel, compose=composites.overlay, caption=caption)


def checkerboard(fixed: Any, moving: Any, *, fit: Any = None, channel: int | str | None = None) -> Figure:
    """Fields of fixed and moving in turn: edges continue across the fields where they agree. Arguments as `overlay`."""
    caption = "fields of fixed and moving in turn"
    return _composed(fixed, moving, fit, channel, compose=composites.checkerboard, caption=caption)


def difference(fixed: Any, moving: Any, *, fit: Any = None, channel: int | str | None = None) -> Figure:
    """Moving minus fixed, each in its own contrast: orange is more, blue less, white the same.

    Arguments as `overlay`.
    """
    caption = "moving minus fixed: orange more, blue less"
    return _composed(fixed, moving, fit, channel, compose=composites.difference, caption=caption)


def side_views(fixed: Any, moving: Any = None, *, fit: Any = None, channel: int | str | None = None) -> Figure:
    """A slice and both side views of one volume, or of two below each other: of moving as the fit brings it to fixed.

    Arguments as `overlay`. z points up in side views.
    """
    planes = _planes(fixed, fixed if moving is None else moving, fit, channel)
    names = ("",) if moving is None else ("fixed", "moving" if fit is None else "registered")
    figure = new_figure(4.4 * len(planes), 4 * len(names))
    for row, name in zip(figure.subplots(len(names), len(planes), squeeze=False), names, strict=True):
        for ax, plane in zip(row, planes, strict=True):
            windows = common_windows(plane.fixed, plane.after)
            shown = int(name in ("moving", "registered"))
            title = ": ".join(part for part in (name, plane.place.name + _comma(plane.place.at)) if part)
            draw_plane(ax, (plane.fixed, plane.after)[shown], plane.place, title, windows[shown])
    return figure


def _composed(
    fixed: Any, moving: Any, fit: Any, channel: Any, *, compose: Callable[[Any, Any], Any], caption: str
) -> Figure:
    """A row before and, with a fit, a row after."""
    planes = _planes(fixed, moving, fit, channel)
    names = ("",) if fit is None else ("before", "after")
    figure = new_figure(4.4 * len(planes), 4 * len(names) + 0.4)
    rows = figure.subplots(len(names), len(planes), squeeze=False)
    for row, name in zip(rows, names, strict=True):
        for ax, plane in zip(row, planes, strict=True):
            image = plane.before if name == "before" else plane.after
            title = ": ".join(part for part in (name, plane.place.name + _comma(plane.place.at)) if part)
            draw_plane(ax, compose(plane.fixed, image), plane.place, title)
    figure.suptitle(caption)
    return figure


def _comma(text: str) -> str:
    return f", {text}" if text else ""


def _planes(fixed: Any, moving: Any, fit: Any, channel: int | str | None) -> list[PairPlane]:
    """The planes of fixed, and of moving before and after."""
    still, other = (_one_channel(value, channel, owner) for value, owner in ((fixed, "fixed"), (moving, "moving")))
    steps = steps_of(still.grid.shape)
    pull = getattr(fit, "pull", fit)
    found = []
    voxels = still.array.data
    for place in places(still.grid, steps, indices_with_content(voxels, steps)):
        before = _on_plane(other, None, still.grid, place, steps)
        after = before if pull is None else _on_plane(other, pull, still.grid, place, steps)
        found.append(PairPlane(place, cut(voxels, place, steps), before, after))
    return found


def _one_channel(value: Any, channel: int | str | None, owner: str) -> Volume:
    volume = volume_of(value, colour_ndim=3)
    entries = volume.only_entries(channel, owner=owner)
    return volume_of(volume.array.isel(entries)) if entries else volume


def _on_plane(moving: Volume, pull: Any, grid: Grid, place: Place, steps: Sequence[int]) -> Singles:
    """The moving image on a plane of the fixed grid; NaN outside."""
    options: dict[str, Any] = {"fill": np.nan, "dtype": "float32", "edge": "clamp"}
    if pull is not None and pull.array_ndim > pull.ndim:  # a map for each slice, of which a plane may have only some
        warped = warp(moving.array.chunk(), pull=pull, grid=grid, allow_empty=True, **options)
        return cut(warped.data, place, steps)
    box, factors = Box.of(grid.shape), list(steps)
    if (axis := place.axis) is not None:
        start, stop = [0] * grid.ndim, list(grid.shape)
        start[axis], stop[axis], factors[axis] = place.index, place.index + 1, 1
        box = Box(tuple(start), tuple(stop))
    plane = grid.crop(box).downsample(factors, strided=True)
    used = Affine.identity(grid.ndim) if pull is None else pull
    image = np.asarray(warp(moving.array, pull=used, grid=plane, allow_empty=True, **options).data, dtype=np.float32)
    return image if axis is None else image.squeeze(axis)
