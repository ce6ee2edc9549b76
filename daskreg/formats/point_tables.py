"""Tables of points that keep what else they hold when the points are moved: CSV, Slicer's, elastix points, GeoJSON.

Points are returned in array order (z, y, x), in the world of the file: Slicer's in LPS, as daskreg's NIfTI.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import DaskregError, InputError, OptionError, UnitError
from daskreg.formats.point_rows import axis_columns, has_names, is_number, number, read_rows
from daskreg.formats.transforms import read_bytes
from daskreg.geometry import canonical_unit, default_axes, length_ratio
from daskreg.runtime.messages import reason
from daskreg.runtime.paths import local_path

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PointTable:
    """Points of a file, and the text of the same file with other points in their places.

    Attributes:
        points: (N, D) in array order.
        replaced: the text with other (N, D) points, in array order.
        labels: names of the points, or ().
        unit: of the points, where the format has one.
        in_voxels: whether the file says that they are voxel indices.
    """

    points: Floats
    replaced: Callable[[Floats], str]
    labels: tuple[str, ...] = ()
    unit: str | None = None
    in_voxels: bool = False


def read_table(path: str | PathLike[str], *, axes: str | None = None, of_pairs: bool = False) -> PointTable:
    """The points of a table with columns named as coordinates (see `point_rows.axis_columns`) or without names, of
    Slicer's fcsv or markups, an elastix point file, a `.swc` skeleton, or GeoJSON.

    Args:
        axes: order of the columns of a table without names, such as "zyx"; by default x, y, z.
        of_pairs: whether landmarks of BigWarp, which are pairs, are taken by their moving points.

    Raises: InputError where there is no such file, or it holds no points that can be read.
    """
    file = local_path(path)
    text = read_bytes(file).decode("utf-8-sig", errors="replace")
    try:
        if of_pairs and _is_pairs(text):
            return _read_pairs(text)
        for claims, read in _READERS:
            if claims(file.name.lower(), text):
                return read(text, axes)
    except (DaskregError, Warning) as error:
        raise type(error)(f"{file}: {error}") from error
    except Exception as error:
        raise InputError(
            f"{file} holds no points that can be read ({type(error).__name__}: {reason(error)})"
        ) from error
    raise InputError(f"{file} holds no points that can be read")


# --- CSV ---------------------------------------------------------------------------------------


def _read_csv(text: str, axes: str | None) -> PointTable:
    rows, separator = read_rows(text)
    header = 1 if rows[0] == [str(len(rows) - 1)] else 0  # the number of points comes first
    if not header and has_names(rows):
        order = _named(rows[0])
        header = next((k for k, row in enumerate(rows) if k and is_number(row[order[0]])), len(rows))  # also of units
    else:
        order = _unnamed(rows[header:], axes)
    if header == len(rows):
        raise InputError("it has no rows of numbers")
    for k, row in enumerate(rows[header:]):
        if len(row) != len(rows[header]):
            raise InputError(f"row {k + 1} has {len(row)} columns, the first {len(rows[header])}")
    body = rows[header:]
    points = np.array([[number(row[column], separator) for column in order] for row in body]).reshape(-1, len(order))
    comments = [line for line in text.splitlines() if line.lstrip().startswith("#")]

    def replaced(moved: Floats) -> str:
        out = io.StringIO()
        out.writelines(f"{line}\n" for line in comments)
        writer = csv.writer(out, delimiter=separator, lineterminator="\n")
        writer.writerows(rows[:header])
        for row, point in zip(body, moved.tolist(), strict=True):
            cells = list(row)
            for column, value in zip(order, point, strict=True):
                cells[column] = repr(value) if np.isfinite(value) else ""
            writer.writerow(cells)
        return out.getvalue()

    return PointTable(points, replaced)


def _is_pairs(text: str) -> bool:
    """Whether these are landmarks of BigWarp: name, active, the moving point and the target, each x, y, z."""
    row = next(csv.reader(line for line in text.splitlines() if line.strip()), [])
    return len(row) in (6, 8) and row[1].strip().lower() in ("true", "false")


def _read_pairs(text: str) -> PointTable:
    """The moving points of landmarks of BigWarp. Targets stay, and so do points that were not set: those infinite."""
    rows = list(csv.reader(line for line in text.splitlines() if line.strip()))
    ndim = (len(rows[0]) - 2) // 2
    if any(len(row) != len(rows[0]) for row in rows):
        raise InputError(f"not all of its rows have {len(rows[0])} columns")
    values = np.array([[float(cell) for cell in row[2 : 2 + ndim]] for row in rows])
    known = np.isfinite(values).all(axis=1)

    def replaced(moved: Floats) -> str:
        out, places = io.StringIO(), iter(moved[:, ::-1].tolist())
        writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
        for row, good in zip(rows, known, strict=True):
            writer.writerow([*row[:2], *map(repr, next(places)), *row[2 + ndim :]] if good else row)
        return out.getvalue()

    names = tuple(row[0] for row, good in zip(rows, known, strict=True) if good)
    return PointTable(values[known, ::-1], replaced, names)


def _named(names: Sequence[str]) -> list[int]:
    """The columns of coordinates in array order. Two or three columns with unknown names are x, y and z.

    Raises: InputError.
    """
    try:
        columns = axis_columns(names)
    except InputError:
        if len(names) > 3:
            raise
        return list(range(len(names)))[::-1]
    return [columns[axis] for axis in default_axes(len(columns))]


def _unnamed(rows: Sequence[Sequence[str]], axes: str | None) -> list[int]:
    """The first two or three columns, in array order. Raises: InputError, OptionError."""
    if not rows:
        raise InputError("it has no rows of numbers")
    cells = len(rows[0]) - (len(rows[0]) > 1 and not rows[0][-1])  # a separator may end each line
    if cells > 3 and not is_number(rows[0][0].replace(",", ".")):
        raise InputError(f"its rows begin with {rows[0][0]!r}, and no line names the columns of the coordinates")
    ndim = min(cells, 3)
    if ndim < 2:
        raise InputError("its rows hold one number; points have 2 or 3")
    given = axes or "".join(default_axes(ndim))[::-1]
    if sorted(given) != sorted(default_axes(ndim)):
        raise OptionError(f"axes={axes!r} do not name {ndim} columns")
    return [given.index(axis) for axis in default_axes(ndim)]


def _read_swc(text: str, _axes: str | None) -> PointTable:
    """A skeleton: number, type, x, y, z, radius, number of the parent."""
    named = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    table = _read_csv(f"number type x y z radius parent\n{named}", None)
    comments = "".join(f"{line}\n" for line in text.splitlines() if line.lstrip().startswith("#"))
    return PointTable(table.points, lambda moved: comments + table.replaced(moved).partition("\n")[2])


# --- Slicer ------------------------------------------------------------------------------------


def _read_fcsv(text: str, _axes: str | None) -> PointTable:
    """Markups of 3D Slicer: id, x, y, z, ... in RAS, or LPS where the header says so; millimetres."""
    lines = text.splitlines()
    head = "\n".join(line for line in lines if line.startswith("#"))
    stated = re.search(r"CoordinateSystem\s*=\s*(\w+)", head)
    signs = _signs_of_lps(stated[1] if stated else "RAS")
    columns = re.search(r"columns\s*=\s*(.*)", head)
    names = [name.strip() for name in (columns[1] if columns else "id,x,y,z").split(",")]
    order = [names.index(axis) for axis in "zyx"]
    rows = [(k, line.split(",")) for k, line in enumerate(lines) if line.strip() and not line.startswith("#")]
    points = np.array([[float(row[column]) for column in order] for _, row in rows]) * signs
    label = names.index("label") if "label" in names else -1

    def replaced(moved: Floats) -> str:
        changed = list(lines)
        for (at, row), point in zip(rows, (moved * signs).tolist(), strict=True):
            cells = list(row)
            for column, value in zip(order, point, strict=True):
                cells[column] = repr(value)
            changed[at] = ",".join(cells)
        return "\n".join([*changed, ""])

    return PointTable(points, replaced, tuple(row[label] for _, row in rows) if label >= 0 else (), "millimeter")


def _read_markups(text: str, _axes: str | None) -> PointTable:
    """Markups of 3D Slicer from 4.11 on (`.mrk.json`): the control points that were placed, in millimetres."""
    entries = _placed(json.loads(text))
    if not entries:
        raise InputError("none of its control points has been placed")
    factors = np.array([factor for _, factor in entries])
    points = np.array([_position(point)[::-1] for point, _ in entries]) * factors

    def replaced(moved: Floats) -> str:
        again = json.loads(text)
        for markup in again["markups"]:
            if "center" in markup or "orientation" in markup:
                raise InputError(
                    f"a markup of the type {markup.get('type')!s:.80} has a center and an orientation, which cannot be "
                    "moved with its control points: save these as a point list in Slicer"
                )
        for (point, _), place in zip(_placed(again), moved / factors, strict=True):
            point["position"] = place[::-1].tolist()
        return json.dumps(again, indent=4) + "\n"

    return PointTable(points, replaced, tuple(str(point.get("label", "")) for point, _ in entries), "millimeter")


def _placed(whole: dict[str, Any]) -> list[tuple[dict[str, Any], Floats]]:
    """The control points that have a position, and the factors that make it LPS in millimetres, z, y, x."""
    return [
        (point, factors)
        for markup in whole["markups"]
        for factors in [_signs_of_lps(str(markup.get("coordinateSystem", "LPS"))) * _millimetres(markup)]
        for point in markup["controlPoints"]
        if point.get("positionStatus", "defined") == "defined"
    ]


def _millimetres(markup: dict[str, Any]) -> float:
    """How many one of the units of a markup is, which are stated as "um", or as ["um", "UCUM", "micrometer"].

    Raises: InputError.
    """
    stated = markup.get("coordinateUnits") or "mm"
    unit = str(stated[0] if isinstance(stated, list) else stated)
    try:
        ratio = length_ratio(canonical_unit(unit), "millimeter")
    except UnitError:
        ratio = None
    if ratio is None:
        raise InputError(f"its coordinateUnits are {unit[:80]!r}, no known length: state one, such as 'mm' or 'um'")
    return ratio


def _position(point: dict[str, Any]) -> list[float]:
    """The place x, y, z of a control point. Raises: InputError."""
    place = point.get("position")
    if isinstance(place, list) and len(place) == 3 and all(type(v) in (int, float) and math.isfinite(v) for v in place):
        return place
    raise InputError(
        f"the position of its control point {point.get('label', '')!s:.80} is {place!s:.80}, not three finite numbers: "
        "place it again, or delete it"
    )


def _signs_of_lps(system: str) -> Floats:
    """The signs by which places in a coordinate system of Slicer, z, y, x, are LPS. Raises: InputError."""
    if system.upper() not in ("RAS", "0", "LPS", "1"):
        raise InputError(f"its coordinate system is {system[:80]}, not RAS or LPS")
    return np.array([1.0, 1.0, 1.0] if system.upper() in ("LPS", "1") else [1.0, -1.0, -1.0])


# --- elastix -----------------------------------------------------------------------------------


def _read_elastix(text: str, _axes: str | None) -> PointTable:
    """`point` or `index`, their number, and rows of x, y, z."""
    words, count, *lines = [line for line in text.splitlines() if line.strip()]
    rows = [[float(word) for word in line.split()] for line in lines[: int(count)]]
    points = np.array(rows)[:, ::-1]

    def replaced(moved: Floats) -> str:
        return "\n".join([words, count, *(" ".join(map(repr, point)) for point in moved[:, ::-1].tolist()), ""])

    return PointTable(points, replaced, in_voxels=words.strip() == "index")


# --- GeoJSON -----------------------------------------------------------------------------------


def _read_geojson(text: str, _axes: str | None) -> PointTable:
    """Every position of every geometry (x, y, or x, y, z), as QuPath exports annotations."""
    whole = json.loads(text)
    positions: list[list[float]] = []
    _walk(whole, positions.append)
    if not positions or len({min(len(p), 3) for p in positions}) != 1:
        raise InputError("it holds no positions, or such of two and of three dimensions")
    ndim = min(len(positions[0]), 3)
    points = np.array([position[:ndim][::-1] for position in positions], dtype=np.float64)

    def replaced(moved: Floats) -> str:
        again = json.loads(text)
        rest = iter(moved[:, ::-1].tolist())

        def put(position: list[float]) -> None:
            position[:ndim] = next(rest)

        _walk(again, put)
        return json.dumps(again, indent=1) + "\n"

    return PointTable(points, replaced)


def _walk(entry: Any, visit: Callable[[list[float]], None]) -> None:
    """Call `visit` with each position below a GeoJSON object, in the order of the file."""
    if isinstance(entry, dict):
        if "coordinates" in entry:
            _positions(entry["coordinates"], visit)
        for key, value in entry.items():
            if key not in ("coordinates", "properties"):
                _walk(value, visit)
    elif isinstance(entry, list):
        for value in entry:
            _walk(value, visit)


def _positions(value: Any, visit: Callable[[list[float]], None]) -> None:
    if value and isinstance(value[0], int | float):
        visit(value)
    else:
        for part in value:
            _positions(part, visit)


_READERS: tuple[tuple[Callable[[str, str], bool], Callable[[str, str | None], PointTable]], ...] = (
    (lambda name, text: name.endswith(".fcsv") or text.startswith("# Markups fiducial file"), _read_fcsv),
    (
        lambda name, text: text.lstrip().startswith("{") and '"controlPoints"' in text and '"markups"' in text,
        _read_markups,
    ),
    (lambda name, text: text.lstrip().startswith(("{", "[")), _read_geojson),
    (lambda name, text: bool(re.match(r"\s*(point|index)\s+\d+\s", text)), _read_elastix),
    (lambda name, text: name.endswith(".swc"), _read_swc),
    (lambda name, text: True, _read_csv),
)
