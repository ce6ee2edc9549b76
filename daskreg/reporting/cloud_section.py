"""The page's sections about clouds of points, and about pairs of landmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.reporting.planes import Place
from daskreg.reporting.section import Pairs, Section, Verdict, without_empty
from daskreg.reporting.views import Comparison, View, view
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
FEW = 50_000
"""Fewer points than this are drawn larger than a pixel."""
_TARGET, _SOURCE = np.array([0.0, 0.62, 0.45]), np.array([0.86, 0.12, 0.62])


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
        comparisons=(_projections(clouds, axes, caption, size=size),),
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
    caption = "The moving landmarks are green, the fixed ones magenta, before and after the motion."
    good = (
        f"{count(int(np.count_nonzero(fit.inliers)), 'pair')} of landmarks agree to {quantity(fit.rmse, unit)} (rms)."
    )
    return Section(
        heading="Pairs of landmarks",
        verdict=_verdict(fit, good),
        comparisons=(_projections((moving, fixed, fit.moving_from_fixed(fixed)), axes, caption, size=2),),
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
    clouds: tuple[Floats, Floats, Floats], axes: tuple[str, ...], caption: str, *, size: int
) -> Comparison:
    """Points seen along each axis; z, or in 2D y, points up.

    Args:
        clouds: those that stay, and the others before and after.
        size: radius of a point in pixels.
    """
    pairs = [("x", up) for up in "yz"[: len(axes) - 1]] + ([("y", "z")] if len(axes) == 3 else [])
    views: list[View] = []
    for across, up in pairs:
        columns = [axes.index(across), axes.index(up)]
        flat = [np.asarray(points, dtype=np.float64)[:, columns] for points in clouds]
        together = np.concatenate(flat)
        low, high = together.min(axis=0), together.max(axis=0)
        pixel = max(float((high - low).max()) / PIXELS, 1e-300)
        shape = tuple(int(n) for n in np.maximum(1, np.ceil((high - low) / pixel).astype(int) + 1)[::-1])
        green, *magenta = (_density(points, low, pixel, shape, size) for points in flat)
        images = [_inked(green, _TARGET) * _inked(other, _SOURCE) for other in magenta]
        place = Place(up, across, (pixel, pixel), "arbitrary", upward=True)
        views.append(view(place, images, f"Both clouds seen in the plane {across}{up}, before and after."))
    return Comparison(caption, ("before", "after"), tuple(views))


def _inked(density: Floats, colour: Floats) -> Floats:
    """Points in a colour on white paper, which shows through where they are sparse."""
    return np.asarray(1 - density[..., None] * (1 - colour))


def _density(points: Floats, low: Floats, pixel: float, shape: tuple[int, ...], size: int) -> Floats:
    """How dense the points are in each pixel: 0 without one, and from 0.55 to 1 with more. size: radius of a point."""
    index = np.rint((points - low) / pixel).astype(int)
    counts = np.zeros(shape)
    for dy in range(-size, size + 1):
        for dx in range(-size, size + 1):
            rows = np.clip(index[:, 1] + dy, 0, shape[0] - 1)
            columns = np.clip(index[:, 0] + dx, 0, shape[1] - 1)
            np.add.at(counts, (rows, columns), 1.0)
    return np.asarray(np.where(counts > 0, np.minimum(1.0, 0.55 + 0.15 * np.log2(np.maximum(counts, 1))), 0.0))
