"""Views: pictures of a page with their aspect, scale bar and what they show in words; one, or before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.reporting import composites
from daskreg.reporting.contrast import Window, common_windows
from daskreg.reporting.planes import PairPlane, Place
from daskreg.reporting.png_image import data_uri, encoded
from daskreg.reporting.words import quantity

WIDTH = 600.0
"""Units of the drawing across a view; a browser scales them to the space there is."""

BAR_SHARE = 0.3
"""Share of the picture's width that the scale bar takes at most."""

FLATTEST, TALLEST = 0.36, 1.6
"""Limits of height over width. A stack of few or of very many slices is stretched to them, which is said."""


@dataclass(frozen=True)
class View:
    """One picture, or two that a slider uncovers.

    Args:
        title: names of the axes across and up or down, such as "x → y ↓".
        pictures: addresses of one or two embedded images.
        width, height: of the drawing.
        bar, bar_label: length of the scale bar in the drawing, and its label.
        note: that the aspect is not true, if so.
        alt: what is seen, for those who do not see it.
    """

    title: str
    pictures: tuple[str, ...]
    width: float
    height: float
    bar: float
    bar_label: str
    note: str
    alt: str


@dataclass(frozen=True)
class Comparison:
    """Views side by side, whose pictures one slider uncovers.

    Args:
        names: of the pictures, such as ("before", "after").
    """

    caption: str
    names: tuple[str, ...]
    views: tuple[View, ...]


def view(place: Place, images: Sequence[NDArray[Any]], alt: str) -> View:
    """The view of one or two (H, W, 3) colours of a plane."""
    rows, columns = images[0].shape[:2]
    width, height = columns * place.spacing[1], rows * place.spacing[0]
    true = height / width
    shown = min(max(true, FLATTEST), TALLEST)
    factor = shown / true
    times = _times(factor)
    note = times and f"{place.rows} drawn {times}"
    bar = scale_bar(width, place.unit)
    arrow = "↑" if place.upward else "↓"
    return View(
        f"{place.columns} → {place.rows} {arrow}" + (f", {place.at}" if place.at else ""),
        tuple(data_uri(encoded(place.drawn(image))) for image in images),
        WIDTH,
        round(WIDTH * shown, 1),
        round(bar.length / width * WIDTH, 1),
        bar.label,
        note,
        alt,
    )


def in_greys(
    places: Sequence[Place], planes: Sequence[tuple[NDArray[Any], ...]], caption: str, names: tuple[str, ...]
) -> Comparison:
    """Planes in grey, all with the contrast of the first picture of their view.

    Args:
        planes: for each place, one or two images.
    """
    views = []
    for place, images in zip(places, planes, strict=True):
        window = Window.of(images[0])
        alt = f"Plane {place.name}{' at ' + place.at if place.at else ''}: {' and '.join(names)}, in the same greys."
        views.append(view(place, [composites.grey(image, window) for image in images], alt))
    return Comparison(caption, names, tuple(views))


def overlays(pairs: Sequence[PairPlane], before: str = "before") -> Comparison:
    """Fixed and moving overlaid, before and after.

    Args:
        before: what the moving image before is called.
    """
    views = []
    for pair in pairs:
        alt = (
            f"Plane {pair.place.name}: fixed in green and moving in magenta, {before} and after the registration. "
            f"{_agreement(pair, before)}"
        )
        views.append(view(pair.place, [composites.overlay(pair.fixed, i) for i in (pair.before, pair.after)], alt))
    caption = (
        "Fixed in green, moving in magenta: what agrees is grey. Where only one image has data, it is dim, and nothing "
        "can be compared."
    )
    return Comparison(caption, (before, "after"), tuple(views))


def overlay_views(place: Place, pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], caption: str) -> Comparison:
    """Two images of one plane overlaid, before and after."""
    shown = view(place, [composites.overlay(a, b) for a, b in pairs], f"{caption}, overlaid before and after.")
    return Comparison(caption, ("before", "after"), (shown,))


def swiped(pairs: Sequence[PairPlane]) -> Comparison:
    """The fixed and the registered image, uncovered by the slider: edges should continue across it."""
    views = []
    for pair in pairs:
        windows = common_windows(pair.fixed, pair.after)
        images = [composites.grey(i, w) for i, w in zip((pair.fixed, pair.after), windows, strict=True)]
        views.append(view(pair.place, images, f"Plane {pair.place.name}: the fixed image and the registered one."))
    caption = "The fixed image and the registered one: edges should continue across the line."
    return Comparison(caption, ("fixed", "registered"), tuple(views))


def differences(pairs: Sequence[PairPlane], before: str = "before") -> Comparison:
    """What is left of one image when the other is subtracted, before and after.

    Args:
        before: what the moving image before is called.
    """
    views = []
    for pair in pairs:
        images = [composites.difference(pair.fixed, i) for i in (pair.before, pair.after)]
        alt = f"Plane {pair.place.name}: the difference of the images, {before} and after."
        views.append(view(pair.place, images, alt))
    caption = (
        "Moving minus fixed, each in its own contrast: orange where moving is brighter, blue where it is darker, white "
        f"where they agree; full colour is {composites.FULL_DIFFERENCE:.0%} of the contrast."
    )
    return Comparison(caption, (before, "after"), tuple(views))


def _agreement(pair: PairPlane, before: str) -> str:
    values = [_correlation(pair.fixed, image) for image in (pair.before, pair.after)]
    return f"In this plane they correlate by {values[0]} {before} and by {values[1]} after."


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> str:
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 3 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return "nothing that is known"
    return f"{np.corrcoef(a[both], b[both])[0, 1]:.3f}"


def _times(factor: float) -> str:
    """By how much something is drawn higher than it is, in words; nothing where that rounds to once."""
    times = f"{max(factor, 1 / factor):.2g}"
    return "" if times == "1" else f"{times} times as {'high' if factor > 1 else 'flat'}"


@dataclass(frozen=True)
class ScaleBar:
    """length: in the world. label: with its unit."""

    length: float
    label: str


def scale_bar(width: float, unit: str) -> ScaleBar:
    """The longest bar of 1, 2 or 5 times a power of ten that takes at most 30 % of a picture so wide in the world."""
    length = round_down(BAR_SHARE * width)
    return ScaleBar(length, quantity(length, unit))


def round_down(value: float) -> float:
    """The greatest of 1, 2 and 5 times a power of ten that is not greater."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in (1, 2, 5) if step * power <= value * (1 + 1e-9))
