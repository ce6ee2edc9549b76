"""Numbers as people write them: with their uncertainty, a unit, and no more digits than are known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

_SYMBOLS = {
    "pixel": "px", "angstrom": "Å", "nanometer": "nm", "micrometer": "µm", "millimeter": "mm", "centimeter": "cm",
    "meter": "m", "kilometer": "km", "degree": "°", "radian": "rad", "second": "s", "millisecond": "ms",
    "arbitrary": "",
}  # fmt: skip
_ANGLES = ("theta", "rx", "ry", "rz")
_METRICS = {
    "ncc": "correlation (1 is perfect)",
    "mse": "mean squared difference",
    "mae": "mean absolute difference",
    "lncc": "1 - local correlation",
    "mi": "mutual information loss",
}
METRIC_NAMES: Mapping[str, str] = _METRICS


def symbol(unit: str | None) -> str:
    """The sign of a unit: µm for micrometer, px for none, nothing for an arbitrary one."""
    return _SYMBOLS.get(unit or "pixel", unit or "px")


def quantity(value: float, unit: str | None, digits: int = 4) -> str:
    """A number with its unit, such as 12.5 µm."""
    return f"{number(value, digits)} {symbol(unit)}".rstrip()


def number(value: float, digits: int = 4) -> str:
    """A number of a few significant digits; unknown where it is not finite."""
    if value is None or not math.isfinite(value):
        return "unknown"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def agreement(value: float) -> str:
    """A score of images; close to 1 with as many digits as tell it from 1."""
    if not 0.9995 < value < 1:
        return number(value)
    return f"{value:.{min(8, 1 - math.floor(math.log10(1 - value)))}f}"


def with_error(value: float, sigma: float | None, suffix: str = "") -> str:
    """A value with its standard deviation to two digits, and as many decimals as that has: 12.34 ± 0.05 µm."""
    if sigma is None or not math.isfinite(sigma) or sigma <= 0 or not math.isfinite(value):
        return f"{number(value)}{suffix}"
    if sigma < 1e-8:
        return f"{value:.10g} ± {sigma:.1g}{suffix}"
    decimals = max(0, 1 - math.floor(math.log10(sigma)))
    return f"{value:z.{decimals}f} ± {sigma:.{decimals}f}{suffix}"


def parameter(name: str, value: float, sigma: float | None, unit: str | None) -> tuple[str, str]:
    """The name of a parameter of a motion and its value, in words; angles, in radians, as degrees."""
    if name in _ANGLES:
        label = "Rotation" if name == "theta" else f"Rotation about {name[1]}"
        return label, with_error(math.degrees(value), None if sigma is None else math.degrees(sigma), "°")
    if name.startswith("t"):
        return f"Shift along {name[1:]}", with_error(value, sigma, f" {symbol(unit)}".rstrip())
    if name.startswith("sh"):
        return f"Shear {name[2:]}", with_error(value, sigma)
    return ("Scale" if name == "scale" else f"Scale along {name[1:]}"), with_error(value, sigma)


def percent(fraction: float) -> str:
    """A fraction as per cent; small ones are not rounded to nothing."""
    if not math.isfinite(fraction):
        return "unknown"
    if 0 < fraction < 0.001:
        return "less than 0.1 %"
    return f"{100 * fraction:.3g} %"


def duration(seconds: float) -> str:
    """12 ms, 3.4 s, 5 min 12 s, 2 h 5 min."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def count(number: int, one: str, many: str | None = None) -> str:
    """1 slice, 3 slices, 12,000 slices."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(items: Iterable[Any], most: int = 8) -> str:
    """The first items, separated by commas, and how many there are if there are more."""
    values = list(items)
    return ", ".join(map(str, values[:most])) + (f", ... ({len(values)} in all)" if len(values) > most else "")


def sentence_and_remedy(text: str) -> tuple[str, str]:
    """What a status says happened, and what it says to do: the parts before and after its colon, as sentences."""
    said, _, remedy = text.partition(": ")
    return _sentence(said), _sentence(remedy)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text[-1:] in (".", "") else ".")
