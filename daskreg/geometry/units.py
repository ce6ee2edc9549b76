"""Names of units: from many spellings to one UDUNITS name."""

from __future__ import annotations

import warnings

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
            f"{what}: one side is in pixels, the other in {physical}; pixels are taken as {physical}",
            PixelUnitWarning,
            stacklevel=3,
        )
        return physical
    raise UnitError(f"{what}: units differ ({a} and {b}); convert one side before combining them")
