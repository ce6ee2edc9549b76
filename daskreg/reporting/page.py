"""`report`: what was done and how well, as JSON and as one self-contained HTML page.

The page loads nothing: its figures are embedded, and its content security policy forbids
anything else. All text is escaped, and credentials in URLs are replaced. This module uses
only attributes of fits and runs (dataclass fields, `rows()`, `plot()`), so any object with them
can be reported. The layout of the page is in `templates/page.html`.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from daskreg.errors import MissingExtraError
from daskreg.runtime.atomic import replace_text
from daskreg.runtime.paths import local_path
from daskreg.sources.storage.redact import redact

if TYPE_CHECKING:
    from jinja2 import Template

SCHEMA = "daskreg/report"
_MOST_ROWS = 2000  # of a table on the page; the JSON has all
_MOST_VALUES = 9  # of an array in one cell; the JSON has all
_MOST_CHARACTERS = 300  # of any other value in one cell
_ANGLES = ("theta", "rx", "ry", "rz")

Facts = Sequence[tuple[str, str]]
"""Names and values as text."""


@dataclass(frozen=True)
class TableRow:
    """One row of a table with a row for each slice."""

    cells: tuple[str, ...]
    outlier: bool


@dataclass(frozen=True)
class Section:
    """What the page shows about one object."""

    heading: str
    status: str
    ok: bool
    facts: Facts
    plot: str
    """A PNG in base64; empty where there is none."""
    plot_missing: str
    """Why there is no figure; empty where there is one, or the object cannot be plotted."""
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    row_count: int
    """Number of rows of the object; the page shows `rows`, which may be fewer."""


def report(
    things: Any,
    path: str | os.PathLike[str],
    *,
    title: str = "daskreg report",
    figures: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write `path` (.html) and, next to it, the same facts as JSON.

    The JSON file has the same stem and the suffix .report.json, because the saved fit often has the
    same stem and the suffix .json.

    Args:
        things: a fit, a run, a mapping of facts, or a list of them.
        title: heading of the page.
        figures: further figures by caption: matplotlib figures or the bytes of PNG files.
        facts: further facts by name, listed first.

    Returns: the path of the page.
    """
    entries = list(things) if isinstance(things, Sequence) and not isinstance(things, str) else [things]
    page, data = _paths(local_path(path))
    written = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    document = {
        "schema": SCHEMA,
        "version": 1,
        "title": title,
        "written": written,
        "daskreg": _version(),
        "facts": plain(facts or {}),
        "entries": [{"kind": type(entry).__name__, **plain(as_dict(entry))} for entry in entries],
    }
    page.parent.mkdir(parents=True, exist_ok=True)
    replace_text(data, json.dumps(document, indent=1, allow_nan=False))  # kept, if a figure cannot be drawn
    html = render(
        title=title,
        facts=_fact_cells(facts or {}),
        sections=[section_of(entry) for entry in entries],
        figures=[(caption, _encoded(figure)) for caption, figure in (figures or {}).items()],
        written=written,
    )
    replace_text(page, html)
    return page


def _paths(path: Path) -> tuple[Path, Path]:
    stem = path.with_suffix("") if path.suffix.lower() in (".html", ".htm", ".json") else path
    return stem.with_name(stem.name + ".html"), stem.with_name(stem.name + ".report.json")


def as_dict(thing: Any) -> dict[str, Any]:
    """The facts of an object by name: its own `to_dict()`, or its public dataclass fields."""
    if isinstance(thing, Mapping):
        return dict(thing)
    if hasattr(thing, "to_dict"):
        return dict(thing.to_dict())
    if dataclasses.is_dataclass(thing):
        return {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing) if not f.name.startswith("_")}
    return {"value": thing}


def plain(value: Any) -> Any:
    """The value in JSON's types: NaN and infinity become null, credentials are replaced."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, bool | int | type(None)):
        return value
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str | os.PathLike):
        return redact(str(value))
    if isinstance(value, Mapping):
        return {redact(str(k)): plain(v) for k, v in value.items()}
    if isinstance(value, np.generic):
        return plain(value.item())
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(v) for v in value]
    if hasattr(value, "to_dict") or dataclasses.is_dataclass(value):
        return plain(as_dict(value))
    return redact(str(value))


def section_of(thing: Any) -> Section:
    """The part of the page about one object: status, facts, figure, and a table with a row for each slice."""
    shown = {k: v for k, v in as_dict(thing).items() if k not in ("status", "ok", "schema", "version", "transform")}
    rows = thing.rows() if callable(getattr(thing, "rows", None)) else []
    if rows:
        shown = {k: v for k, v in shown.items() if not _has_value_per_row(v, len(rows))}
    names = list(rows[0]) if rows else []
    plot, plot_missing = _plot(thing)
    return Section(
        heading=type(thing).__name__,
        status=_status(thing),
        ok=bool(getattr(thing, "ok", True)),
        facts=_fact_cells(shown),
        plot=plot,
        plot_missing=plot_missing,
        columns=tuple(f"{name} (deg)" if _is_angle(name) else name for name in names),
        rows=tuple(
            TableRow(tuple(_number(name, row[name]) for name in names), bool(row.get("outlier")))
            for row in rows[:_MOST_ROWS]
        ),
        row_count=len(rows),
    )


def render(
    *, title: str, facts: Facts, sections: Sequence[Section], figures: Sequence[tuple[str, str]], written: str
) -> str:
    """The page as text. `figures`: caption and PNG in base64."""
    from markupsafe import Markup

    style = files("daskreg.reporting").joinpath("templates", "page.css").read_text(encoding="utf-8")
    style_hash = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; base-uri 'none'; form-action 'none'"
    return _template().render(
        title=title,
        policy=policy,
        style=Markup(style),  # noqa: S704 - a file of this package, which its hash in the policy describes
        facts=facts,
        sections=sections,
        figures=figures,
        version=_version(),
        written=written,
    )


def _template() -> Template:
    """The page's template. Jinja2 is imported here because every fit imports this module to become JSON."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("daskreg.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Markup) else redact(str(value)),
    )
    return environment.get_template("page.html")


def _plot(thing: Any) -> tuple[str, str]:
    """The object's figure in base64, and the reason where there is none."""
    if not callable(getattr(thing, "plot", None)):
        return "", ""
    try:
        return _encoded(thing.plot()), ""
    except MissingExtraError as error:  # the page is useful without a figure
        return "", str(error)


def _encoded(figure: Any) -> str:
    """A matplotlib figure, or the bytes of a PNG file, in base64."""
    from daskreg.reporting import plots

    png = figure if isinstance(figure, bytes) else plots.png(figure)
    return base64.b64encode(png).decode("ascii")


def _status(thing: Any) -> str:
    status = getattr(thing, "status", None)
    if status is None:
        return ""
    return f"{status.name.lower()}: {status.value}" if isinstance(status, Enum) else str(status)


def _fact_cells(facts: Mapping[str, Any]) -> Facts:
    return [(str(name), _cell(name, value)) for name, value in facts.items()]


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


def _version() -> str:
    try:
        return version("daskreg")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
