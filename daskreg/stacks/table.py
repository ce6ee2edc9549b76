"""Fits as tables that can be edited, and poses from such tables.

In files, the header of a column says its unit, as in "theta (rad)" and "tx (micrometer)". Files without units, which
earlier versions wrote, are in radians and in the unit of the stack.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InputError
from daskreg.formats.transforms import read_bytes, read_json, write_text
from daskreg.geometry import Affine
from daskreg.geometry.parameters import identity_parameters
from daskreg.runtime.messages import reason

Floats = NDArray[np.float64]
Row = Mapping[str, Any]

_COMMON_SCALE = "scale"
_OF_FIELDS = "least_determinant"
"""A column of the tables of fits with fields alone."""
_ANGLES, _LENGTHS = ("theta", "rx", "ry", "rz"), ("tx", "ty", "tz", "cycle")
_HEADER = re.compile(r"(.+?) \((.+)\)")


def write(rows: Sequence[Row], path: str | os.PathLike[str], *, unit: str = "pixel") -> None:
    """CSV, or JSON (a list of rows) by suffix; NaN is an empty cell, or null.

    Args:
        unit: of lengths.
    """
    rows = [{_with_unit(name, unit): value for name, value in row.items()} for row in rows]
    if Path(path).suffix.lower() == ".json":
        plain = [{k: None if _unknown(v) else v for k, v in row.items()} for row in rows]
        write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", path)
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if _unknown(v) else v for k, v in row.items()} for row in rows)
    write_text(text.getvalue(), path)


def _with_unit(name: str, unit: str) -> str:
    plain = name.removeprefix("sigma_")
    return f"{name} (rad)" if plain in _ANGLES else f"{name} ({unit})" if plain in _LENGTHS else name


def poses(rows: Any, shape: Sequence[int], centre: Floats, *, unit: str = "pixel") -> tuple[Floats, tuple[int, ...]]:
    """Poses of slices from a table of their parameters.

    Columns: "slice"; any parameters (radians, world units, about `centre`; parameters without a
    column have their identity values; "scale" sets all scales); others, which are ignored. The pose of a
    slice is interpolated from its neighbours where the slice has no row, or an empty cell among its
    parameters. So wrong rows can simply be deleted.

    Args:
        rows: path of a CSV or JSON file, a pandas table (indexed by slice), or a list of mappings.
        shape: of the matrices, (N, D+1, D+1).
        unit: of the lengths of the stack.

    Returns: the matrices, and the slices whose poses are interpolated.

    Raises: InputError naming the row and the column that cannot be used, and for the table of a fit with fields, which
        are not in it.
    """
    matrices, known = np.full((*shape,), np.nan), np.zeros(shape[0], bool)
    ndim = shape[-1] - 1
    names = identity_parameters(ndim)
    listed = _rows(rows)
    if any(_OF_FIELDS in row for row in listed):
        raise InputError(
            f"the table is of a fit with model='bspline' and does not hold its displacement fields: remove the column "
            f"{_OF_FIELDS} to use its affine maps alone, or align again with corrected poses as anchors="
        )
    for number, row in enumerate(_without_units(row, unit) for row in listed):
        values = {k: v for k, v in row.items() if k in names or k == _COMMON_SCALE}
        index = _index(row, shape[0], number)
        if known[index]:
            raise InputError(f"row {number + 1}: slice {index} has two rows; leave one")
        if not values:
            raise InputError(f"the table has none of the columns {', '.join(names)}")
        numbers = {k: _number(v, k, index) for k, v in values.items()}
        if any(v is None for v in numbers.values()):
            continue
        whole = {k: v for k, v in numbers.items() if v is not None}
        if _COMMON_SCALE in whole:
            scale = whole.pop(_COMMON_SCALE)
            whole = {n: scale for n in names if n in ("sx", "sy", "sz")} | whole
        matrices[index], known[index] = Affine.from_parameters(whole, ndim=ndim, centre=centre).matrix, True
    if not known.any():
        raise InputError("the table has no row with parameters")
    return _interpolated(matrices, known), tuple(np.flatnonzero(~known).tolist())


def _without_units(row: Row, unit: str) -> Row:
    """The row in radians and world units, under names without units."""
    plain: dict[str, Any] = {}
    for header, value in row.items():
        match = _HEADER.fullmatch(str(header).strip())
        if match is None:
            plain[header] = value
            continue
        name, given = match.groups()
        if name in _ANGLES and given in {"deg", "degree", "degrees"}:
            number = _number(value, name, _index(row, 1 << 62, 0))
            plain[name] = None if number is None else math.radians(number)
        elif name in {*_ANGLES, *_LENGTHS} and given != ("rad" if name in _ANGLES else unit):
            wanted = "rad or deg" if name in _ANGLES else unit
            raise InputError(f"column {header!r}: {name} is in {given}, use {wanted}")
        else:
            plain[name] = value
    return plain


def _interpolated(matrices: Floats, known: NDArray[np.bool_]) -> Floats:
    """The matrices, with those that are not known interpolated linearly, entry by entry."""
    if known.all():
        return matrices
    at, every = np.flatnonzero(known), np.arange(len(matrices))
    flat = matrices.reshape(len(matrices), -1)
    line = np.stack([np.interp(every, at, column[at]) for column in flat.T], axis=1)
    return np.where(known[:, None, None], matrices, line.reshape(matrices.shape))


def _rows(rows: Any) -> list[Row]:
    if hasattr(rows, "reset_index"):  # a pandas table
        table = rows if "slice" in rows.columns else rows.reset_index()
        return [dict(row) for row in table.to_dict("records")]
    if not isinstance(rows, str | os.PathLike):
        return list(rows)
    if Path(rows).suffix.lower() == ".json":
        parsed = read_json(rows)
        if not isinstance(parsed, list) or not all(isinstance(r, dict) for r in parsed):
            raise InputError(f"{rows} holds no list of rows")
        return parsed
    try:
        return list(csv.DictReader(io.StringIO(read_bytes(rows).decode("utf-8-sig"))))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{rows} is no table: {reason(error)}") from error


def _index(row: Row, count: int, number: int) -> int:
    try:
        value = float(row["slice"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"row {number + 1} of the table does not say which slice it is of (column 'slice')") from None
    if not value.is_integer() or not 0 <= value < count:
        raise InputError(f"row {number + 1}: the stack has no slice {row['slice']}, but 0 to {count - 1}")
    return int(value)


def _number(value: Any, name: str, index: int) -> float | None:
    """The value of a cell; None for an empty one."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"slice {index}: {name} is {value!r}, which is no number") from None
    return number if math.isfinite(number) else None


def _unknown(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
