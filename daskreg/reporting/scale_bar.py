"""The length of a scale bar, and its label with a unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from daskreg.reporting.words import quantity

MOST = 0.3
"""Share of the picture's width that the bar takes at most."""


@dataclass(frozen=True)
class ScaleBar:
    """length: in the world. label: with its unit."""

    length: float
    label: str


def scale_bar(width: float, unit: str) -> ScaleBar:
    """The longest bar of 1, 2 or 5 times a power of ten that takes at most 30 % of a picture so wide in the world."""
    length = round_down(MOST * width)
    return ScaleBar(length, quantity(length, unit))


def round_down(value: float) -> float:
    """The greatest of 1, 2 and 5 times a power of ten that is not greater."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in (1, 2, 5) if step * power <= value * (1 + 1e-9))
