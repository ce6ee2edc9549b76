"""The page's sections about clouds of points, and about pairs of landmarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.reporting.planes import Place
from daskreg.reporting.section import Pairs, Section, Verdict, without_empty
from daskreg.reporting.views import FLATTEST, TALLEST, Comparison, view
from daskreg.reporting.words import (
    count,
    duration,
    listed,
    parameter,
    percent,
    quantity,
    sentence_and_remedy,
)

Floats = NDArray[np.float64]

PIXELS = 420
"""Along the longer side of a picture of points."""
PIXELS_OF_FEW = 640
"""The same, of landmarks."""
FEW = 50_000
"""Fewer points than this are drawn larger than a pixel."""
_TARGET, _SOURCE = np.array([0.0, 0.62, 0.45]), np.array([0.86, 0.12, 0.62])
_LINE, _OUTLIER = np.array([0.7, 0.7, 0.7]), np.array([0.84, 0.37, 0.0])


def cloud_section(fit: Any, target: Floats, source: Floats) -> Section:
    """Of a CloudFit and its points, in the order of columns that `fit.target_from_source.axes` names."""
    axes = fit.target_from_source.axes or tuple("zyx"[3 - target.shape[1] :])
    caption = "The target is green, the source magenta, and where both lie it is dark; every point is drawn."
    unit = fit.target_from_source.unit or "arbitrary"
    good = (
        f"The source lies on the target: {percent(fit.fitness)} of its points have a counterpart, "
        f"{quantity(fit.rmse, unit)} away (rms)."
    )
    size = int(max(len(target), len(source)) < FEW)
    clouds = (target, source, fit.target_from_source(source))
    return Section(
        heading="Two clouds of points",
        verdict=_verdict(fit, good),
        comparisons=(_projections(clouds, axes, unit, caption, size=size),),
        numbers=_cloud_numbers(fit),
        settings=(
            ("Method", fit.method.replace("_", " ")),
            ("Points", f"{len(target):,} of the target, {len(source):,} of the source"),
        ),
        calls=without_empty([("Python", getattr(fit, "recipe", ""))]),
    )


def points_section(fit: Any, fixed: Floats, moving: Floats) -> Section:
    """Of a PointsFit and its landmarks, array order."""
    axes = tuple("zyx"[3 - fixed.shape[1] :])
    unit = fit.moving_from_fixed.unit
    sigma = fit.sigma
    rows: list[tuple[str, str | None]] = [
        parameter(name, value, sigma.get(name), unit) for name, value in fit.parameters.items()
    ]
    rows += [
        ("Residual of the pairs, rms", quantity(fit.rmse, unit)),
        ("Pairs", f"{np.count_nonzero(fit.inliers)} of {len(fit.inliers)} used"),
        ("Pairs that contradict the others", listed(fit.outliers.tolist())),
        ("Motions that the points do not determine", "; ".join(fit.free)),
    ]
    outliers = np.asarray(fit.outliers, dtype=np.intp)
    caption = "The moving landmarks are green, the fixed ones magenta; a line joins those of a pair" + (
        ", which is orange where it contradicts the others." if len(outliers) else "."
    )
    good = (
        f"{count(int(np.count_nonzero(fit.inliers)), 'pair')} of landmarks agree to {quantity(fit.rmse, unit)} (rms)."
    )
    return Section(
        heading="Pairs of landmarks",
        verdict=_verdict(fit, good),
        comparisons=(_joined((moving, fixed, fit.moving_from_fixed(fixed)), outliers, axes, unit or "pixel", caption),),
        numbers=without_empty(rows),
        settings=(("Model", fit.model),),
        calls=without_empty([("Python", getattr(fit, "recipe", ""))]),
    )


def _verdict(fit: Any, good: str) -> Verdict:
    if fit.ok:
        return Verdict(True, good)
    said, remedy = sentence_and_remedy(fit.status.value)
    said = said.replace("(fit.free names the free ones)", "(below)")
    for name in ("fit.free", "fit.rivals", "fit.outliers"):
        said, remedy = (text.replace(f"({name})", "(below)") for text in (said, remedy))
    return Verdict(False, f"Do not use this result as it is. {said}", remedy)


def _cloud_numbers(fit: Any) -> Pairs:
    unit = fit.target_from_source.unit or "arbitrary"
    sigma = fit.sigma
    rows: list[tuple[str, str | None]] = [
        parameter(name, value, sigma.get(name), unit) for name, value in fit.parameters.items()
    ]
    rows += [
        ("Distance to the target, rms", quantity(fit.rmse, unit)),
        ("Points with a counterpart", percent(fit.fitness)),
        ("Motions that the points do not determine", "; ".join(fit.free)),
        ("Other poses that fit as well", "; ".join(r.describe() for r in fit.rivals[:4])),
        ("Time", f"{duration(fit.seconds)}, {count(fit.iterations, 'iteration')}"),
    ]
    return without_empty(rows)


def _projections(
    clouds: tuple[Floats, Floats, Floats], axes: tuple[str, ...], unit: str, caption: str, *, size: int
) -> Comparison:
    """Clouds seen along each axis; z, or in 2D y, points up.

    Args:
        clouds: those that stay, and the others before and after.
        size: radius of a point in pixels.
    """
    views = []
    for plane in _planes(axes, clouds, size):
        green, *magenta = (_density(plane.pixels(points), plane.shape, size) for points in clouds)
        images = [_inked(green, _TARGET) * _inked(other, _SOURCE) for other in magenta]
        views.append(view(plane.place(unit), images, f"Both clouds seen in the plane {plane.name}, before and after."))
    return Comparison(caption, ("before", "after"), tuple(views))


def _joined(
    marks: tuple[Floats, Floats, Floats], outliers: NDArray[np.intp], axes: tuple[str, ...], unit: str, caption: str
) -> Comparison:
    """Pairs of landmarks joined by lines; y points down, as in images, and z up.

    Args:
        marks: (N, D) those that stay, and the others before and after.
        outliers: pairs whose lines have a colour.
    """
    views = []
    for plane in _planes(axes, marks, 3, PIXELS_OF_FEW, y_up=False):
        still, *moved = (plane.pixels(points) for points in marks)
        images = []
        for others in moved:
            steps = np.linspace(0, 1, PIXELS_OF_FEW)[:, None, None]
            lines = still * (1 - steps) + others * steps
            paper = np.ones((*plane.shape, 3))
            for chosen, colour in ((np.delete(lines, outliers, axis=1), _LINE), (lines[:, outliers], _OUTLIER)):
                paper *= 1 - (_density(chosen.reshape(-1, 2), plane.shape, 1) > 0)[..., None] * (1 - colour)
            for points, colour in ((still, _TARGET), (others, _SOURCE)):
                paper[_density(points, plane.shape, 4) > 0] = colour
            images.append(paper)
        views.append(view(plane.place(unit), images, f"Both sets of landmarks in the plane {plane.name}, joined."))
    return Comparison(caption, ("before", "after"), tuple(views))


@dataclass(frozen=True)
class _Plane:
    """Two axes of points, drawn on (height, width) pixels of a size in the world, from the lowest corner on."""

    across: str
    up: str
    columns: tuple[int, int]
    low: Floats
    pixel: float
    shape: tuple[int, int]
    upward: bool

    @property
    def name(self) -> str:
        return self.across + self.up

    def pixels(self, points: Floats) -> Floats:
        """(N, 2) places of points in pixels, across and up."""
        return np.asarray((np.asarray(points, dtype=np.float64)[:, list(self.columns)] - self.low) / self.pixel)

    def place(self, unit: str) -> Place:
        return Place(self.up, self.across, (self.pixel, self.pixel), unit, upward=self.upward)


def _planes(
    axes: tuple[str, ...], clouds: Sequence[Floats], margin: int, most: int = PIXELS, *, y_up: bool = True
) -> Iterator[_Plane]:
    """The planes in which points are seen, with room around them: as much as keeps lengths along both axes alike."""
    pairs = [("x", up) for up in "yz"[: len(axes) - 1]] + ([("y", "z")] if len(axes) == 3 else [])
    for across, up in pairs:
        columns = (axes.index(across), axes.index(up))
        together = np.concatenate([np.asarray(points, dtype=np.float64)[:, list(columns)] for points in clouds])
        low, high = together.min(axis=0), together.max(axis=0)
        size = np.maximum(high - low, 1e-300)
        pixel = float(size.max()) / most
        size = size + 2 * (margin + 2) * pixel
        size = np.maximum(size, (size[1] / TALLEST, size[0] * FLATTEST))
        width, height = (int(n) for n in np.ceil(size / pixel))
        low = (low + high - np.array([width - 1, height - 1]) * pixel) / 2
        yield _Plane(across, up, columns, low, pixel, (height, width), y_up or up == "z")


def _inked(density: Floats, colour: Floats) -> Floats:
    """Points in a colour on white paper, which shows through where they are sparse."""
    return np.asarray(1 - density[..., None] * (1 - colour))


def _density(places: Floats, shape: tuple[int, ...], size: int) -> Floats:
    """How dense points are in each pixel: 0 without one, and from 0.55 to 1 with more. size: radius of a point."""
    index = np.rint(places).astype(int)
    counts = np.zeros(shape)
    for dy in range(-size, size + 1):
        for dx in range(-size, size + 1):
            rows = np.clip(index[:, 1] + dy, 0, shape[0] - 1)
            columns = np.clip(index[:, 0] + dx, 0, shape[1] - 1)
            np.add.at(counts, (rows, columns), 1.0)
    return np.asarray(np.where(counts > 0, np.minimum(1.0, 0.55 + 0.15 * np.log2(np.maximum(counts, 1))), 0.0))
