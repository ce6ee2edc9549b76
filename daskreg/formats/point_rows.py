"""Tables as text: what separates their cells, and which columns are the coordinates of points."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence

from daskreg.errors import InputError
from daskreg.geometry import default_axes

_COMMENTS = ("#", "%", "//")
_NUMBERED = r"(?:axis|centroid)[-_ ](\d)"
_COORDINATES = (
    r"(?:points?[:_ ]?)?([xyz012])(?:[\W_].*)?",
    r"([xyz])(?:nm|um|µm|mm)",
    r"(?:position|pos|location|centroid|center|centre|coord)[-_ .]([xyz])(?:[\W_].*)?",
    r".*[-_ ](?:center|location|position)[-_ ]([xyz])(?:[\W_].*)?",
)
"""How columns of coordinates are named, in the order in which the ways are tried."""

_AXES = {"0": "x", "1": "y", "2": "z"}


def read_rows(text: str) -> tuple[list[list[str]], str]:
    """The cells of a text, and what separates them: a comma, semicolon, tab or blanks (one blank).

    Lines that begin with #, % or // are comments. Where commas do not separate cells, they are decimal commas.

    Raises: InputError where there are no rows.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(_COMMENTS)]
    if not lines:
        raise InputError("it has no rows")
    separator = _separator(lines[-1])
    if separator == " ":
        return [line.split() for line in lines], separator
    return [[cell.strip(' \t"') for cell in row] for row in csv.reader(lines, delimiter=separator)], separator


def _separator(line: str) -> str:
    words = line.split()
    numbers = len(words) > 1 and all(is_number(w.replace(",", ".")) and not w.endswith(",") for w in words)
    if ";" in line:
        return ";"
    if "\t" in line:
        return "\t"
    return "," if "," in line and not numbers else " "


def number(cell: str, separator: str) -> float:
    """The number in a cell; NaN for an empty one. Raises: ValueError."""
    return float((cell if separator == "," else cell.replace(",", ".")) or "nan")


def is_number(word: str) -> bool:
    """Whether a cell holds a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def has_names(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row holds names, none of which is a number."""
    return bool(rows[0]) and not any(is_number(cell.replace(",", ".")) for cell in rows[0])


def axis_columns(names: Sequence[str]) -> dict[str, int]:
    """Columns by axis, x, y and maybe z.

    They are named so, with a unit (`x [nm]`, `xnm`) or what they are of (`POSITION_X` of TrackMate, `Location_Center_X`
    of CellProfiler, `Points:0` of ParaView); or numbered in array order (`axis-0` of napari and `centroid-0` of
    scikit-image are z in 3D, y in 2D).

    Raises: InputError where no columns are known as x and y, or two are of one axis.
    """
    numbered = [(re.fullmatch(_NUMBERED, name.strip().lower()), k) for k, name in enumerate(names)]
    ranked = sorted((int(match[1]), column) for match, column in numbered if match)
    if len(ranked) in (2, 3):
        return dict(zip(default_axes(len(ranked)), (column for _, column in ranked), strict=True))
    for pattern in _COORDINATES:
        matches = [(re.fullmatch(pattern, name.strip().lower()), k) for k, name in enumerate(names)]
        columns = {_AXES.get(match[1], match[1]): k for match, k in reversed(matches) if match}
        if {"x", "y"} <= columns.keys():
            return columns
    found: dict[str, int] = {}
    for column, name in enumerate(names):
        for axis in {"x", "y", "z"} & set(re.split(r"[^a-z0-9]+", name.lower())):
            if axis in found:
                raise InputError(f"columns {names[found[axis]]!r} and {name!r} are both of {axis}")
            found[axis] = column
    if found.keys() not in ({"x", "y"}, {"x", "y", "z"}):
        raise InputError(f"its columns {', '.join(names)[:200]} name no x and y, nor axis-0, axis-1, ...")
    return found
