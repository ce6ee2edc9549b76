"""Names of units: from many spellings to one UDUNITS name."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from daskreg.errors import PixelUnitWarning, UnitError

PIXEL = "pixel"

_SPELLINGS = {
    PIXEL: ("px", "pixels", "voxel", "voxels", "index", ""),
    "angstrom": ("å", "ang", "angstroms", "\u212b"),
    "nanometer": ("nm", "nanometre", "nanometers", "nanometres"),
    "micrometer": ("um", "µm", "\u03bcm", "micron", "microns", "micrometre", "micrometers", "micrometres"),
    "millimeter": ("mm", "millimetre", "millimeters", "millimetres"),
    "centimeter": ("cm", "centimetre", "centimeters", "centimetres"),
    "meter": ("m", "metre", "meters", "metres"),
    "inch": ("in", "inches"),
    "degree": ("deg", "degrees"),
    "radian": ("rad", "radians"),
    "second": ("s", "sec", "seconds"),
    "millisecond": ("ms", "milliseconds"),
    "arbitrary": ("a.u.", "au"),
}

# The other names of length and time that OME-NGFF allows.
_OTHERS = (
    *(f"{p}meter" for p in ("yocto", "zepto", "atto", "femto", "pico", "deci", "hecto", "kilo", "mega", "giga")),
    *(f"{p}meter" for p in ("tera", "peta", "exa", "zetta", "yotta")),
    *("foot", "yard", "mile", "parsec"),
    *("attosecond", "femtosecond", "picosecond", "nanosecond", "microsecond", "minute", "hour", "day"),
)
_PREFIXES = {"yocto": -24, "zepto": -21, "atto": -18, "femto": -15, "pico": -12, "nano": -9, "micro": -6, "milli": -3,
             "centi": -2, "deci": -1, "": 0, "hecto": 2, "kilo": 3, "mega": 6, "giga": 9, "tera": 12, "peta": 15,
             "exa": 18, "zetta": 21, "yotta": 24}  # fmt: skip
# Lengths as a number and a power of ten of metres, so that ratios of decimal units have no error of rounding.
_METERS: dict[str, tuple[float, int]] = {f"{prefix}meter": (1.0, power) for prefix, power in _PREFIXES.items()}
_METERS |= {"angstrom": (1.0, -10), "inch": (2.54, -2), "foot": (3.048, -1), "yard": (9.144, -1)}
_METERS |= {"mile": (1.609344, 3), "parsec": (3.0856775814913673, 16)}
_CANONICAL = {s: name for name, spellings in _SPELLINGS.items() for s in (name, *spellings)}
_CANONICAL |= {name: name for name in _OTHERS}


def canonical_unit(unit: str | None) -> str:
    """The UDUNITS name of a unit: 'um', 'µm' and 'micron' are 'micrometer'; None is 'pixel'.

    Raises: UnitError for a name that is not known.
    """
    if unit is None:
        return PIXEL
    text = str(unit).strip()
    # "MM" and "Micron" mean the lower case, but "Mm" is not a millimetre.
    folded = text.lower() if len(text) > 2 or text.isupper() else text
    name = _CANONICAL.get(text) or _CANONICAL.get(folded)
    if name is None:
        raise UnitError(f"unknown unit {unit!r}: use one of {', '.join(sorted(_SPELLINGS))}, or pass unit='pixel'")
    return name


def length_ratio(a: str, b: str) -> float | None:
    """How many of the unit `b` one `a` is; None where one of them is not a length.

    Args:
        a, b: canonical names.
    """
    if a not in _METERS or b not in _METERS:
        return None
    (number, power), (other_number, other_power) = _METERS[a], _METERS[b]
    return number / other_number * float(f"1e{power - other_power}")


def units_of_axes(units: Sequence[str], what: str) -> tuple[str, tuple[float, ...]]:
    """One unit for several axes: that of the last one which has a length.

    Args:
        units: canonical names, by axis.

    Returns: the unit, and the factors by which the numbers of the axes are to be multiplied. Pixels take the unit of
        the others, with a warning.

    Raises: UnitError where units cannot be converted into each other.
    """
    physical = [u for u in units if u != PIXEL] or [PIXEL]
    unit = next((u for u in reversed(units) if u in _METERS), physical[-1])
    ratios = [length_ratio(u, unit) for u in units]
    for other in (u for u, ratio in zip(units, ratios, strict=True) if ratio is None):
        common_unit(other, unit, what)
    return unit, tuple(1.0 if ratio is None else ratio for ratio in ratios)


def shared_unit(a: str | None, b: str | None, what: str) -> str | None:
    """The unit that both share; None takes the other's.

    Between two images, pixels are no physical unit: a motion of unknown size in the world would be estimated.

    Raises: UnitError where they differ, also where one side is in pixels.
    """
    if a is not None and b is not None and a != b and PIXEL in (a, b):
        physical = b if a == PIXEL else a
        raise UnitError(
            f"{what}: one side is in pixels, the other in {physical}; give the spacing of both, as in "
            f"daskreg.open(array, spacing=0.5, unit={physical!r}), or of none"
        )
    return common_unit(a, b, what)


def common_unit(a: str | None, b: str | None, what: str = "these") -> str | None:
    """The unit that both share; None takes the other's, pixels take a physical unit with a warning.

    Raises: UnitError where two physical units differ.
    """
    if a is None or b is None or a == b:
        return b if a is None else a
    if PIXEL in (a, b):
        physical = b if a == PIXEL else a
        warnings.warn(
            f"{what}: one side is in pixels, the other in {physical}; pixels are taken as {physical}. "
            f"Where a pixel is not 1 {physical}, open what is in pixels with spacing= and unit=; a transform that was "
            "estimated in pixels, estimate again",
            PixelUnitWarning,
            stacklevel=3,
        )
        return physical
    raise UnitError(f"{what}: units differ ({a} and {b}); convert one side before combining them")
