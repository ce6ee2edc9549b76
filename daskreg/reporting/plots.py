"""Figures of fits and volumes, drawn with matplotlib (the `report` extra).

Figures are made without pyplot, so they need no window and no global state, and any thread can make
them. A notebook shows them, and `png(figure)` returns the bytes of a PNG file. Fits are known by
their attributes only, so this module imports none of their classes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.ndimage
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import MissingExtraError, ShapeMismatchError
from daskreg.geometry import Grid, as_transform, index_matrix
from daskreg.geometry.parameters import parameters_from_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

# Distinguishable also for people with red-green colour blindness (Okabe and Ito).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
_LINES = (BLUE, ORANGE, GREEN)
_MOST_PIXELS = 1000
_MOST_POINTS = 20_000


def png(figure: Figure, *, dpi: int = 110) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def figure_suffixes() -> tuple[str, ...]:
    """The suffixes of files in which a figure can be saved, such as ".png".

    Raises: MissingExtraError where matplotlib is not installed.
    """
    return tuple(f".{kind}" for kind in sorted(_figure_class()().canvas.get_supported_filetypes()))


def pair(
    fit: Any,
    fixed: Any = None,
    moving: Any = None,
    *,
    fixed_grid: Grid | None = None,
    moving_grid: Grid | None = None,
) -> Figure:
    """A pair before and after: fixed, moving, both overlaid, a checkerboard, and the losses.

    In the overlays, fixed is green and moving is magenta; where they agree, the overlay is grey. For 3D
    images, the three middle planes are shown.

    Args:
        fit: with `moving_from_fixed`, and `losses` if there are any.
        fixed, moving: images in memory, 2D or 3D, array order; without them only the
            losses are drawn.
        fixed_grid, moving_grid: of the images; by default voxels of spacing one.
    """
    planes = [] if fixed is None or moving is None else _pair_planes(fit, fixed, moving, fixed_grid, moving_grid)
    figure = _figure(15, 3.2 * len(planes) + 2.8)
    heads = ("fixed", "moving", "before", "after", "after, checkerboard")
    rows = figure.subplots(len(planes) + 1, len(heads), squeeze=False)
    for row, (name, target, before, after, aspect) in zip(rows, planes, strict=False):
        shown = (target, before, _overlay(target, before), _overlay(target, after), _checkerboard(target, after))
        for ax, image, head in zip(row, shown, heads, strict=True):
            _image(ax, image, f"{head} ({name})", aspect)
    losses = _merged(figure, rows[-1])
    _losses(losses, getattr(fit, "losses", ()))
    figure.suptitle(_headline(fit))
    return figure


def drift(fit: Any, *, truth: Any = None) -> Figure:
    """The trajectory of a stack: shift, angle, score and cycle error of each slice.

    Args:
        fit: with `raw_from_aligned`, `centre`, and if there are any `sigma` (parameter name ->
            one number for each slice), `outliers` (indices), `kinds` (index -> kind of outlier), `scores` and
            `cycles` (one for each slice).
        truth: raw_from_clean, a SliceAffines or (N, D+1, D+1) matrices; drawn dashed, in the frame in
            which its first slice has the pose of the fit.
    """
    matrices = np.asarray(fit.raw_from_aligned.matrices)
    centre = np.asarray(fit.centre, dtype=np.float64)
    start = int(getattr(fit.raw_from_aligned, "start", 0))
    index = np.arange(start, start + len(matrices))
    estimated = _trajectories(matrices, centre)
    true = None if truth is None else _trajectories(_in_frame_of(matrices, truth), centre)
    panels = _panels(estimated)
    last = [n for n in ("scores", "cycles") if _has_values(getattr(fit, n, ()), len(index))]
    count = len(panels) + len(last)
    figure = _figure(11, 2.4 * count + 0.6)
    axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    unit = str(getattr(fit.raw_from_aligned, "unit", None) or "pixel")
    for ax, names in zip(axes, panels, strict=False):
        _trajectory_panel(ax, index, names, estimated=estimated, true=true, sigma=getattr(fit, "sigma", None) or {})
        ax.set_ylabel(_axis_label(names[0], unit))
    for ax, name in zip(axes[len(panels) :], last, strict=True):
        ax.plot(index, np.asarray(getattr(fit, name), dtype=np.float64), color=BLUE, lw=1)
        ax.set_ylabel("score" if name == "scores" else f"cycle error\n({unit})")
        ax.ticklabel_format(axis="y", useOffset=False)
    kinds = {int(i): str(kind) for i, kind in (getattr(fit, "kinds", None) or {}).items()}
    for ax in axes:
        for bad in getattr(fit, "outliers", ()):
            ax.axvline(bad, color=RED, lw=0.8, alpha=0.6)
    for bad, kind in kinds.items():
        axes[0].annotate(kind, (bad, 1), xycoords=("data", "axes fraction"), rotation=90, fontsize=7, color=RED,
                         ha="right", va="top")  # fmt: skip
    axes[-1].set_xlabel(f"slice (along {fit.raw_from_aligned.axis}; red lines: outliers; bands: one sigma)")
    figure.suptitle(_headline(fit))
    return figure


def overlays(pairs: Sequence[tuple[str, ArrayLike, ArrayLike, ArrayLike, ArrayLike]], *, aspect: float = 1.0) -> Figure:
    """Pairs of images as overlays, before and after, and as a checkerboard after.

    Args:
        pairs: (name, first before, second before, first after, second after), 2D.
        aspect: height of a pixel over its width.
    """
    figure = _figure(11, 3.4 * max(1, len(pairs)) + 0.4)
    rows = figure.subplots(max(1, len(pairs)), 3, squeeze=False)
    for row, (name, *images) in zip(rows, pairs, strict=False):
        first, second, first_after, second_after = (np.asarray(i, dtype=np.float64) for i in images)
        _image(row[0], _overlay(first, second), f"{name}, before", aspect)
        _image(row[1], _overlay(first_after, second_after), "after", aspect)
        _image(row[2], _checkerboard(first_after, second_after), "after, checkerboard", aspect)
    figure.suptitle("first green, second magenta; grey where they agree")
    return figure


def sides(
    before: Any,
    after: Any = None,
    *,
    spacing: Sequence[float] | None = None,
    names: Sequence[str] = ("before", "after"),
) -> Figure:
    """The middle slice and the side views (xz, yz) of volumes before and after.

    Args:
        before, after: (z, y, x) volumes, NumPy or lazy (only the planes shown are read); the
            second may be left out.
        spacing: along z, y, x; sets the aspect of the side views.
        names: titles of the two rows.
    """
    step = np.asarray(spacing if spacing is not None else (1.0, 1.0, 1.0), dtype=np.float64)
    volumes = (before,) if after is None else (before, after)
    figure = _figure(13, 4 * len(volumes))
    axes = figure.subplots(len(volumes), 3, squeeze=False)
    for row, volume, name in zip(axes, volumes, names, strict=False):
        if len(volume.shape) != 3:
            raise ShapeMismatchError(f"side views need a volume (z, y, x), not shape {tuple(volume.shape)}")
        for k, ax in enumerate(row):
            rows, columns = (a for a in range(3) if a != k)
            title = f"{name}: {'zyx'[rows]}{'zyx'[columns]}"
            _image(ax, _plane(volume, k), title, float(step[rows] / step[columns]), thin=True)
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
    figure = _figure(4.2 * len(projections) + 5, 7.5)
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
        row[-1].hist(distance, bins=60, color=BLUE)
        row[-1].set(
            title=f"{name}: median {np.median(distance):.4g}", xlabel="distance to the nearest", ylabel="points"
        )
    figure.suptitle(_headline(fit))
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
    figure = _figure(4.2 * across + 5, 7.5)
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
    histogram.hist(length[np.asarray(fit.inliers)], bins=30, color=BLUE)
    histogram.set(title="residuals", xlabel="distance", ylabel="pairs")
    figure.suptitle(_headline(fit))
    return figure


@cache
def _figure_class() -> Callable[..., Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error

    class NotebookFigure(Figure):
        """A figure that notebooks show even if pyplot was never imported."""

        def _repr_png_(self) -> bytes:
            return png(self)

    return NotebookFigure


def _figure(width: float, height: float) -> Figure:
    return _figure_class()(figsize=(width, height), layout="constrained")


def _merged(figure: Figure, row: NDArray[Any]) -> Axes:
    """One matplotlib Axes over a whole row of the figure's grid."""
    spec = row[0].get_subplotspec().get_gridspec()[row[0].get_subplotspec().rowspan.start, :]
    for ax in row:
        ax.remove()
    merged: Axes = figure.add_subplot(spec)
    return merged


def _headline(fit: Any) -> str:
    status = getattr(fit, "status", None)
    kind = type(fit).__name__
    return kind if status is None else f"{kind}: {str(getattr(status, 'name', status)).lower()}"


def _image(ax: Axes, image: NDArray[Any], title: str, aspect: float = 1.0, *, thin: bool = False) -> None:
    if image.ndim == 3:
        ax.imshow(image, aspect=aspect, interpolation="nearest")
    else:
        values = np.asarray(image, dtype=np.float64)
        low, high = _contrast(values)
        ax.imshow(values, cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="antialiased")
    ax.set_title(title, fontsize=10)
    ax.set_axis_off()
    if thin and image.shape[0] * aspect < image.shape[1] / 6:
        ax.set_aspect("auto")  # a few slices would look like a line


def _contrast(values: Floats) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(finite, (0.5, 99.5)))
    return low, max(high, low + 1e-12)


def _scaled(image: Floats) -> Floats:
    low, high = _contrast(image)
    return np.asarray(np.clip((np.nan_to_num(image) - low) / (high - low), 0, 1))


def _overlay(fixed: Floats, moving: Floats) -> Floats:
    a, b = _scaled(fixed), _scaled(moving)
    return np.stack([b, a, b], axis=-1)


def _checkerboard(fixed: Floats, moving: Floats, fields: int = 8) -> Floats:
    index = [np.arange(n) * fields // max(1, n) for n in fixed.shape]
    return np.where((index[0][:, None] + index[1]) % 2 == 0, _scaled(fixed), _scaled(moving))


def _plane(volume: Any, axis: int) -> NDArray[Any]:
    """The middle plane; every k-th voxel of large ones."""
    index: list[int | slice] = [slice(None, None, max(1, n // _MOST_PIXELS)) for n in volume.shape]
    index[axis] = volume.shape[axis] // 2
    return np.asarray(volume[tuple(index)])


def _pair_planes(
    fit: Any, fixed: Any, moving: Any, fixed_grid: Grid | None, moving_grid: Grid | None
) -> list[tuple[str, Floats, Floats, Floats, float]]:
    """(name, fixed, moving before, moving after, aspect) for each plane shown."""
    target, source = np.asarray(fixed, dtype=np.float64), np.asarray(moving, dtype=np.float64)
    out = fixed_grid or Grid(target.shape)
    grid = moving_grid or Grid(source.shape, unit=out.unit)
    pull = np.asarray(fit.moving_from_fixed.matrix)
    before, after = index_matrix(np.eye(out.ndim + 1), out, grid), index_matrix(pull, out, grid)
    planes = []
    for axis in range(out.ndim) if out.ndim == 3 else (None,):
        keep = [k for k in range(out.ndim) if k != axis]
        at = None if axis is None else (axis, target.shape[axis] // 2)
        shown = target if at is None else np.take(target, at[1], axis=at[0])
        name = "".join(out.names[k] for k in keep)
        aspect = out.spacing[keep[0]] / out.spacing[keep[1]]
        planes.append((name, shown, _sampled(source, before, out, at), _sampled(source, after, out, at), aspect))
    return planes


def _sampled(image: Floats, matrix: Floats, out: Grid, at: tuple[int, int] | None) -> Floats:
    """`image` on the output grid, or on one plane (axis, index) of it."""
    shape, offset = list(out.shape), matrix[:-1, -1].copy()
    if at is not None:
        shape[at[0]] = 1
        offset += matrix[:-1, at[0]] * at[1]
    warped = scipy.ndimage.affine_transform(
        np.nan_to_num(image), matrix[:-1, :-1], offset, output_shape=tuple(shape), order=1, mode="grid-constant"
    )
    return np.asarray(warped if at is None else np.squeeze(warped, axis=at[0]))


def _losses(ax: Axes, losses: Any) -> None:
    """One curve, or one curve for each pyramid level."""
    runs = [losses] if np.ndim(losses[0] if len(losses) else 0.0) == 0 else list(losses)
    step = 0
    for run in runs:
        values = np.asarray(run, dtype=np.float64).reshape(-1)
        ax.plot(np.arange(step, step + len(values)), values, ".-", color=BLUE)
        step += len(values)
        if run is not runs[-1]:
            ax.axvline(step - 0.5, color=GREY, lw=0.6)
    ax.set(xlabel="iteration" + (" (grey lines: next level)" if len(runs) > 1 else ""), ylabel="loss")
    ax.ticklabel_format(axis="y", useOffset=False)


def _trajectories(matrices: Floats, centre: Floats) -> dict[str, Floats]:
    """Parameters by name along the slices; angles in degrees, without jumps of 360 degrees."""
    rows = [parameters_from_matrix(m, centre) for m in matrices]
    trajectories = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    for name in ("theta", "rx", "ry", "rz"):
        if name in trajectories:
            trajectories[name] = np.degrees(np.unwrap(trajectories[name]))
    return trajectories


def _panels(trajectories: Mapping[str, Floats]) -> list[list[str]]:
    """Names that share a panel: shifts, then angles that are not all zero, then scales and shears that vary."""
    varies = {name: np.ptp(values) > 1e-9 for name, values in trajectories.items()}
    angles = [n for n in ("theta", "rx", "ry", "rz") if n in trajectories]
    scales = [n for n in ("sx", "sy", "sz") if n in trajectories]
    groups = (
        [n for n in ("tx", "ty", "tz") if n in trajectories],
        angles if any(np.any(trajectories[n]) for n in angles) else [],
        scales if any(varies[n] for n in scales) else [],
        [n for n in trajectories if n.startswith("sh") and varies[n]],
    )
    return [g for g in groups if g]


def _trajectory_panel(
    ax: Axes,
    index: NDArray[Any],
    names: Sequence[str],
    *,
    estimated: Mapping[str, Floats],
    true: Mapping[str, Floats] | None,
    sigma: Mapping[str, Any],
) -> None:
    for k, name in enumerate(names):
        colour = _LINES[k % len(_LINES)]
        ax.plot(index, estimated[name], color=colour, lw=1.2, label=name)
        if true is not None:
            ax.plot(index, true[name], "--", color="black", lw=0.8, alpha=0.8, label=f"{name}, truth")
        if name in sigma:
            width = np.asarray(sigma[name], dtype=np.float64)
            width = np.degrees(width) if name in ("theta", "rx", "ry", "rz") else width
            ax.fill_between(index, estimated[name] - width, estimated[name] + width, color=colour, alpha=0.25, lw=0)
    ax.legend(loc="best", ncols=2, fontsize=8)
    ax.grid(alpha=0.3)


def _has_values(values: Any, count: int) -> bool:
    """Whether there is one value for each slice, and at least one of them is a number."""
    numbers = np.asarray([np.nan if v is None else v for v in values], dtype=np.float64)
    return numbers.shape == (count,) and bool(np.isfinite(numbers).any())


def _axis_label(name: str, unit: str) -> str:
    if name in ("tx", "ty", "tz"):
        return f"shift ({unit})"
    return {"s": "scale", "t": "angle (deg)", "r": "angle (deg)"}[name[0]] if not name.startswith("sh") else "shear"


def _in_frame_of(estimated: Floats, truth: Any) -> Floats:
    """The true matrices, such that the first one is that of the estimate."""
    true = as_transform(truth).to_matrices()
    if true.shape != estimated.shape:
        raise ShapeMismatchError(f"truth has shape {true.shape}, the fit {estimated.shape}")
    return np.asarray(true @ np.linalg.inv(true[0]) @ estimated[0])


def _thinned(points: ArrayLike) -> Floats:
    values = np.asarray(points, dtype=np.float64)
    return values[:: max(1, len(values) // _MOST_POINTS)]
