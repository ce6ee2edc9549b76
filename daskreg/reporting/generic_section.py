"""The section about any object: its facts as a table, and its figure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from daskreg.errors import MissingExtraError, OptionError
from daskreg.reporting.plain import as_dict
from daskreg.reporting.png_image import data_uri
from daskreg.reporting.section import Pairs, Picture, Row, Section, Table, Verdict
from daskreg.reporting.words import sentence_and_remedy
from daskreg.sources.storage.redact import redact, without_secret

_MOST_ROWS = 2000  # of a table on the page; the JSON has all
_MOST_VALUES = 9  # of an array in one cell; the JSON has all
_MOST_CHARACTERS = 300  # of any other value in one cell
_ANGLES = ("theta", "rx", "ry", "rz")
_UNSHOWN = ("status", "ok", "schema", "version", "transform")


def generic_section(thing: Any) -> Section:
    """Status, facts, figure, and a table of its `rows()`, as far as it has them."""
    shown = {k: v for k, v in as_dict(thing).items() if k not in _UNSHOWN}
    rows = thing.rows() if callable(getattr(thing, "rows", None)) else []
    if rows:
        shown = {k: v for k, v in shown.items() if not _has_value_per_row(v, len(rows))}
    pictures, missing = plotted(thing)
    return Section(
        heading=type(thing).__name__,
        verdict=_verdict(thing),
        pictures=pictures,
        numbers=fact_cells(shown),
        table=_table(rows) if rows else None,
        missing=missing,
    )


def fact_cells(facts: Mapping[str, Any]) -> Pairs:
    """Facts by name as text."""
    return tuple((str(name), _cell(name, without_secret(name, value))) for name, value in facts.items())


def _verdict(thing: Any) -> Verdict:
    status, ok = getattr(thing, "status", None), getattr(thing, "ok", None)
    if isinstance(status, Enum):
        said, remedy = sentence_and_remedy(str(status.value))
        return Verdict(ok, f"{status.name.capitalize()}: {said[:1].lower()}{said[1:]}", remedy)
    return Verdict(ok, "" if status is None else str(status))


def plotted(thing: Any, caption: str = "Figure") -> tuple[tuple[Picture, ...], str]:
    """The object's figure with its caption, and the reason where there is none."""
    if not callable(getattr(thing, "plot", None)):
        return (), ""
    from daskreg.reporting import plots

    try:
        return (Picture(caption, data_uri(plots.png(thing.plot()))),), ""
    except (MissingExtraError, OptionError) as error:  # the page is useful without a figure
        return (), f"No figures: {error}"


def _table(rows: list[Mapping[str, Any]]) -> Table:
    names = list(rows[0])
    return Table(
        "Every row",
        tuple(f"{name} (deg)" if _is_angle(name) else name for name in names),
        tuple(
            Row(tuple(_number(n, without_secret(n, row[n])) for n in names), "outlier" if row.get("outlier") else "")
            for row in rows[:_MOST_ROWS]
        ),
        len(rows),
    )


def _cell(name: str, value: Any) -> str:
    if isinstance(value, Mapping) and value and all(_size(v) == 1 for v in value.values()):
        return ", ".join(f"{k} {_number(k, v)}{' deg' if _is_angle(k) else ''}" for k, v in value.items())
    if callable(getattr(value, "describe", None)):
        return str(value.describe())
    if dataclasses.is_dataclass(value) or isinstance(value, Mapping):
        text = repr(value)
        return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."
    if isinstance(value, str | Path) or _size(value) == 1:
        return _number(name, value)
    items = list(np.asarray(value).reshape(-1) if isinstance(value, np.ndarray) else value)
    text = ", ".join(_number("", v) for v in items[:_MOST_VALUES])
    return text + (f", ... ({len(items)} values)" if len(items) > _MOST_VALUES else "")


def _number(name: str, value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{math.degrees(value) if _is_angle(name) else value:.6g}"
    if isinstance(value, Enum):
        return value.name.lower()
    return redact(str(value))


def _is_angle(name: str) -> bool:
    """Whether a column is an angle, or the standard deviation of one: both are shown in degrees."""
    return name.removeprefix("sigma_") in _ANGLES


def _has_value_per_row(value: Any, rows: int) -> bool:
    """Whether a value has one entry for each row of the table, or is a mapping of such values."""
    if isinstance(value, Mapping):
        return bool(value) and all(_has_value_per_row(v, rows) for v in value.values())
    return rows > 1 and _size(value) == rows


def _size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return int(value.size) if value.ndim < 2 else int(value.shape[0])
    return len(value) if hasattr(value, "__len__") and not isinstance(value, str) else 1
