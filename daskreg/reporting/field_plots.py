"""Figures of transforms with displacement fields: the warped grid, displacements, and how much space is stretched.

Figures are made without pyplot, so that they need no window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Grid, Transform
from daskreg.reporting import composites
from daskreg.reporting.field_planes import (
    FieldPlane,
    field_planes,
    folded,
    half_step,
    is_chain,
    unit_name,
)
from daskreg.reporting.figures import BLUE, GREY, new_figure
from daskreg.reporting.views import round_down

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

_ARROWS = 15  # along the longer side
_LINES = 21
# Factors by which areas or volumes change, at the colours of the stretch; the fewer where these are too many.
_FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.5, 2, 5, 10, 20, 50, 100)
_FEWER, _MOST_TICKS = (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 100), 9
_FIELDS = 8  # of a checkerboard, along the longer side
_LEAST_STRETCH = 0.05  # up to which factor the colours of the stretch reach at least, around 1
# Maps of one or two hues that people with any colour vision tell apart; folds are hatched, and need no colour.
_LENGTH_MAP, _STRETCH_MAP = "cividis", "PuOr"


def field_figure(
    transform: Transform,
    grid: Grid,
    *,
    fixed: Any = None,
    moving: Any = None,
    moving_grid: Grid | None = None,
    slices: Sequence[int] | None = None,
) -> Figure:
    """A transform as a warped grid, as arrows, and as a map of how much it stretches space, in some planes.

    Volumes are shown in their three middle planes, and stacks with a field for each slice in the first, the middle and
    the last slice. Lengths are in the unit of the grid. The determinant of the derivative is 1 where areas or volumes
    are kept; where it is 0 or less, or infinite, the transform folds, which is hatched. The arrows and colours of a
    chain show what its best affine map leaves over.

    Args:
        transform: a pull: points of `grid` go to t(point).
        grid: what the planes lie in, 2D or 3D; for fields of slices that of the stack or of a slice.
        fixed, moving: images on `grid` and on `moving_grid`, in array order, NumPy or lazy; a last column is then
            a checkerboard of the fixed image and the moving image, sampled at t(point).
        moving_grid: default `grid`.
        slices: numbers of the slices that are shown.

    Raises: ShapeMismatchError where the grid has another number of axes than the transform, or an image another shape
        than its grid; GridError where the slices run along an axis that the grid does not have; OptionError for
        slices that are not there; UnitError.
    """
    options: dict[str, Any] = {"fixed": fixed, "moving": moving, "moving_grid": moving_grid, "slices": slices}
    return figure_of(field_planes(transform, grid, **options), grid, chain=is_chain(transform))


def figure_of(planes: Sequence[FieldPlane], grid: Grid, *, chain: bool) -> Figure:
    """The figure of planes of a grid. chain: whether the displacements are those from an affine map."""
    columns = 3 if planes[0].images is None else 4
    figure = new_figure(4.4 * columns, 3.6 * len(planes) + 0.6)
    top = max(float(np.max(plane.length)) for plane in planes)
    most = max(_LEAST_STRETCH, *(_stretch_range(plane.stretch) for plane in planes))
    for row, plane in zip(figure.subplots(len(planes), columns, squeeze=False), planes, strict=True):
        _draw_lines(row[0], plane)
        _draw_arrows(row[1], plane, top, unit_name(grid))
        _draw_stretch(row[2], plane, most)
        if plane.images is not None:
            _draw_checkerboard(row[3], plane, plane.images)
    less = " from the affine map that fits best" if chain else ""
    figure.suptitle(f"Displacements{less}: up to {top:.4g} {unit_name(grid)}")
    return figure


def _draw_lines(ax: Axes, plane: FieldPlane) -> None:
    """Lines of the plane, grey where they were and blue where they go."""
    (y, x), moved = plane.along, plane.moved
    for lines, count in ((moved, len(y)), (np.swapaxes(moved, 0, 1), len(x))):
        for k in np.unique(np.linspace(0, count - 1, min(count, _LINES)).round().astype(int)):
            ax.plot(lines[k, :, 1], lines[k, :, 0], color=BLUE, lw=0.8)
    ax.plot([x[0], x[-1], x[-1], x[0], x[0]], [y[0], y[0], y[-1], y[-1], y[0]], color=GREY, lw=0.8, ls="--")
    ax.invert_yaxis()
    _finish(ax, plane, "where a grid goes (dashed: its outline before)")


def _draw_arrows(ax: Axes, plane: FieldPlane, top: float, unit: str) -> None:
    image = ax.imshow(plane.length, extent=plane.extent, cmap=_LENGTH_MAP, vmin=0, vmax=top or 1)
    ax.figure.colorbar(image, ax=ax, label=f"length ({unit})", shrink=0.85)
    y, x = plane.along
    step = max(1, -(-max(len(y), len(x)) // _ARROWS))
    some = (slice(step // 2, None, step), slice(step // 2, None, step))
    way = plane.way[some]
    longest = float(np.max(np.hypot(way[..., 0], way[..., 1]), initial=0.0))
    # The longest arrow in the plane is as long as the arrows are apart, whatever the displacements are.
    apart = step * max(half_step(y), half_step(x)) * 2
    scale = longest / apart if longest > 0 else 1.0
    arrows = ax.quiver(
        x[some[1]], y[some[0]], way[..., 1], way[..., 0], color="white", edgecolor="black", linewidth=0.4,
        angles="xy", scale_units="xy", scale=scale, pivot="tail", width=0.007,
    )  # fmt: skip
    if longest > 0:
        known = round_down(longest)
        text = f"{known:g} {unit}"
        ax.quiverkey(arrows, 0.85, 1.04, known, text, labelpos="W", coordinates="axes", labelsep=0.06,
                     color="black", fontproperties={"size": 8})  # fmt: skip
    _finish(ax, plane, "displacement", loc="left")


def _draw_stretch(ax: Axes, plane: FieldPlane, most: float) -> None:
    folds = folded(plane.stretch)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.ma.masked_array(np.log2(np.where(folds, 1.0, plane.stretch)), folds)
    image = ax.imshow(values, extent=plane.extent, cmap=_STRETCH_MAP, vmin=-most, vmax=most, interpolation="nearest")
    bar = ax.figure.colorbar(image, ax=ax, label="growth of areas or volumes (det J)", shrink=0.85)
    known = [t for t in _FACTORS if abs(np.log2(t)) <= most]
    known = known if len(known) <= _MOST_TICKS else [t for t in known if t in _FEWER]
    bar.set_ticks(list(np.log2(known)), labels=[f"× {t:g}" for t in known])
    y, x = plane.along
    if folds.any() and min(folds.shape) > 1:
        ax.contourf(x, y, folds, levels=(0.5, 1.5), colors="white", hatches=("xxxx",))
        ax.contour(x, y, folds, levels=(0.5,), colors="black", linewidths=1.0)
    found = f"{np.mean(folds):.2g} of it folds (hatched)" if folds.any() else "no folds seen"
    _finish(ax, plane, f"areas or volumes × {np.min(plane.stretch):.3g} to {np.max(plane.stretch):.3g}, {found}")


def _draw_checkerboard(ax: Axes, plane: FieldPlane, images: tuple[Floats, Floats]) -> None:
    board = composites.checkerboard(*images, fields=_FIELDS)[..., 0]
    ax.imshow(board, extent=plane.extent, cmap="gray", vmin=0, vmax=1)
    _finish(ax, plane, "checkerboard: fixed, warped")


def _finish(ax: Axes, plane: FieldPlane, title: str, loc: Any = "center") -> None:
    ax.set_title(title, fontsize=9, loc=loc)
    ax.set(xlabel=plane.labels[1], ylabel=f"{plane.name}\n{plane.labels[0]}" if plane.name else plane.labels[0])
    ax.set_aspect("equal")
    ax.tick_params(labelsize=7)


def _stretch_range(stretch: Floats) -> float:
    """How far from 0 the logarithm (base 2) of determinants reaches, but for folds and a hundredth of the rest."""
    good = stretch[~folded(stretch)]
    return float(np.percentile(np.abs(np.log2(good)), 99)) if good.size else 0.0
