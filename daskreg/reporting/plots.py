"""Figures of fits and volumes, drawn with matplotlib.

Fits are known by their attributes only, so this module imports none of their classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import OptionError
from daskreg.geometry import Grid, common_unit
from daskreg.reporting import composites
from daskreg.reporting import drift as drift_of
from daskreg.reporting.contrast import common_windows
from daskreg.reporting.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    draw_plane,
    figure_suffixes,
    headline,
    new_figure,
    png,
    whole_ticks,
)
from daskreg.reporting.planes import PairPlane, pair_planes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

_LINES = (BLUE, ORANGE, GREEN)
_MOST_POINTS = 20_000


def pair(
    fit: Any,
    fixed: Any = None,
    moving: Any = None,
    *,
    fixed_grid: Grid | None = None,
    moving_grid: Grid | None = None,
) -> Figure:
    """A pair before and after: fixed, registered, overlaid before and after, a checkerboard, and the difference.

    In the overlays, fixed is green and moving is magenta; where they agree, the overlay is grey. Where only one image
    has data, it is dim. For 3D images, the three middle planes are shown.

    Args:
        fit: with `moving_from_fixed`.
        fixed, moving: images in memory, 2D or 3D, array order.
        fixed_grid, moving_grid: of the images; by default voxels of spacing one.

    Raises: OptionError without images; UnitError.
    """
    if fixed is None or moving is None:
        raise OptionError("this fit does not hold its images: pass them, plot(fixed, moving)")
    out = fixed_grid or Grid(np.shape(fixed))
    other = moving_grid or Grid(np.shape(moving), unit=out.unit)
    pull = fit.moving_from_fixed
    common_unit(pull.unit, common_unit(out.unit, other.unit, "fixed and moving"), "the fit and the images")
    planes = pair_planes(fixed, moving, np.asarray(pull.matrix), out, other)
    figure = new_figure(17, 3.4 * len(planes) + 0.6)
    rows = figure.subplots(len(planes), 6, squeeze=False)
    for row, plane in zip(rows, planes, strict=True):
        _draw_pair(row, plane)
    figure.suptitle(f"{headline(fit)}\nfixed green, moving magenta: grey where they agree")
    return figure


def _draw_pair(axes: Sequence[Axes], plane: PairPlane) -> None:
    fixed, before, after = plane.fixed, plane.before, plane.after
    windows = common_windows(fixed, after)
    draw_plane(axes[0], fixed, plane.place, f"fixed{', ' + plane.place.at if plane.place.at else ''}", windows[0])
    draw_plane(axes[1], after, plane.place, "registered", windows[1])
    shown = (
        (composites.overlay(fixed, before), "overlaid before"),
        (composites.overlay(fixed, after), "overlaid after"),
        (composites.checkerboard(fixed, after), "checkerboard after"),
        (composites.difference(fixed, after), "difference after"),
    )
    for ax, (image, title) in zip(axes[2:], shown, strict=True):
        draw_plane(ax, image, plane.place, title)


def drift(fit: Any, *, truth: Any = None) -> Figure:
    """The trajectory of a stack: shift, angle, score and cycle error of each slice.

    Args:
        fit: a fit as `reporting.drift` describes it.
        truth: raw_from_clean, a SliceAffines or (N, D+1, D+1) matrices; drawn dashed, in the frame in
            which its first slice has the pose of the fit.
    """
    start = int(getattr(fit.raw_from_aligned, "start", 0))
    index = np.arange(start, start + len(fit.raw_from_aligned.matrices))
    panels = drift_of.panels(fit, truth)
    figure = new_figure(11, 2.4 * len(panels) + 0.6)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, panel in zip(axes, panels, strict=True):
        for k, line in enumerate(panel.lines):
            colour = _LINES[k % len(_LINES)]
            ax.plot(index, line.values, color=colour, lw=1.2, label=line.name)
            if line.truth is not None:
                ax.plot(index, line.truth, "--", color="black", lw=0.8, alpha=0.8, label=f"{line.name}, truth")
            if line.sigma is not None:
                ends = line.values - line.sigma, line.values + line.sigma
                ax.fill_between(index, *ends, color=colour, alpha=0.25, lw=0)
        if len(panel.lines) > 1 or panel.lines[0].truth is not None:
            ax.legend(loc="best", ncols=2, fontsize=8)
        ax.set_ylabel(panel.label.replace(" (", "\n("))
        ax.ticklabel_format(axis="y", useOffset=False)
        ax.grid(alpha=0.3)
    for kind, slices in drift_of.marks(fit).items():
        for bad in slices:
            for ax in axes:
                ax.axvline(bad, color=RED, lw=0.8, alpha=0.6)
            axes[0].annotate(kind, (bad, 1), xycoords=("data", "axes fraction"), rotation=90, fontsize=7, color=RED,
                             ha="right", va="top")  # fmt: skip
    whole_ticks(axes[-1])
    axes[-1].set_xlabel(f"slice (along {fit.raw_from_aligned.axis}; red lines: outliers; bands: one sigma)")
    figure.suptitle(headline(fit))
    return figure


def cloud(fit: Any, target: ArrayLike, source: ArrayLike) -> Figure:
    """Two point clouds before and after: projections, and the distances to the nearest target points.

    Args:
        fit: with `target_from_source`, whose `axes` name the columns (None: array order).
        target, source: (N, D) points, D in 2, 3.
    """
    from scipy.spatial import cKDTree

    fixed, moving = _thinned(target), _thinned(source)
    moved = np.asarray(fit.target_from_source(moving))
    ndim = fixed.shape[1]
    names = fit.target_from_source.axes or tuple("zyx"[3 - ndim :])
    projections = [(names.index("x"), names.index(up)) for up in "yz"[: ndim - 1]]
    figure = new_figure(4.2 * len(projections) + 5, 7.5)
    axes = figure.subplots(2, len(projections) + 1)
    tree = cKDTree(fixed)
    for row, points, name in zip(axes, (moving, moved), ("before", "after"), strict=True):
        for ax, (across, up) in zip(row, projections, strict=False):
            ax.plot(fixed[:, across], fixed[:, up], ".", ms=1, color=GREY, label="target", rasterized=True)
            ax.plot(points[:, across], points[:, up], ".", ms=1, color=RED, label="source", rasterized=True)
            ax.set(xlabel=names[across], ylabel=names[up], title=name)
            ax.set_aspect("equal", adjustable="datalim")
            ax.legend(loc="upper right", markerscale=6)
        distance = tree.query(points)[0]
        _histogram(row[-1], np.asarray(distance), 60)
        row[-1].set(
            title=f"{name}: median {np.median(distance):.4g}", xlabel="distance to the nearest", ylabel="points"
        )
    figure.suptitle(headline(fit))
    return figure


def landmarks(fit: Any, fixed: ArrayLike, moving: ArrayLike) -> Figure:
    """Pairs of landmarks before and after: projections with a line from each point to its partner, and the residuals.

    Args:
        fit: with `moving_from_fixed`, `residuals` (N, D) and `inliers` (N,).
        fixed, moving: (N, D) points, array order.
    """
    start, end = np.asarray(fixed, dtype=np.float64), np.asarray(moving, dtype=np.float64)
    ndim = start.shape[1]
    across = ndim - 1
    figure = new_figure(4.2 * across + 5, 7.5)
    axes = figure.subplots(2, ndim)
    length = np.linalg.norm(np.asarray(fit.residuals), axis=1)
    rows = zip(axes, (start, np.asarray(fit.moving_from_fixed(start))), ("before", "after"), strict=True)
    for row, points, name in rows:
        for ax, up in zip(row, range(across - 1, -1, -1), strict=False):
            for a, b, good in zip(points, end, fit.inliers, strict=True):
                ax.plot((a[-1], b[-1]), (a[up], b[up]), color=BLUE if good else RED, lw=1)
            ax.plot(end[:, -1], end[:, up], ".", color=GREY, label="moving")
            ax.set(xlabel="x", ylabel="zyx"[3 - ndim :][up], title=name)
            ax.set_aspect("equal", adjustable="datalim")
            ax.legend(loc="upper right")
    bars, histogram = axes[:, -1]
    colours = [BLUE if good else RED for good in fit.inliers]
    bars.bar(np.arange(len(length)), length, color=colours)
    bars.set(title="residuals (red: left out)", xlabel="pair", ylabel="distance")
    whole_ticks(bars)
    _histogram(histogram, length[np.asarray(fit.inliers, dtype=bool)], 30)
    histogram.set(title="residuals", xlabel="distance", ylabel="pairs")
    figure.suptitle(headline(fit))
    return figure


def _histogram(ax: Axes, distances: Floats, bins: int) -> None:
    """The numbers of distances, also of equal ones: between those that differ by rounding alone there are no bins."""
    low, high = (float(distances.min()), float(distances.max())) if len(distances) else (0.0, 1.0)
    if high - low <= max(1e-9 * high, 1e-300):
        half = high / 2 if high > 1e-300 else 0.5
        low, high = low - half, high + half
    ax.hist(distances, bins=bins, range=(low, high), color=BLUE)


def _thinned(points: ArrayLike) -> Floats:
    values = np.asarray(points, dtype=np.float64)
    return values[:: max(1, len(values) // _MOST_POINTS)]


__all__ = ["cloud", "drift", "figure_suffixes", "landmarks", "pair", "png"]
