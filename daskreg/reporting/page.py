"""`report`: what was done and how well, as JSON and as one HTML page that stands alone.

The page loads nothing: pictures are inside it, and its content security policy forbids
anything else. All text is escaped, and credentials in URLs are taken out. Fits and runs are
known by their attributes only (dataclass fields, `rows()`, `plot()`), so anything with them
can be reported.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import html
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from daskreg.errors import MissingExtraError
from daskreg.runtime.atomic import replace_text
from daskreg.sources.storage.redact import redact

SCHEMA = "daskreg/report"
_MOST_ROWS = 2000  # of a table on the page; the JSON has all
_MOST_VALUES = 9  # of an array written out in a cell; the JSON has all
_MOST_CHARACTERS = 300  # of anything else in a cell
_ANGLES = ("theta", "rx", "ry", "rz")

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse; font-size: 13px } td, th { padding: 2px 10px; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums } tr:nth-child(even) { background: #f4f4f4 }
tr.bad { background: #fbe3d6 } img { max-width: 100% } .scroll { max-height: 30rem; overflow: auto }
.ok { color: #00664b } .failed { color: #b04000 } footer { margin-top: 3rem; color: #777; font-size: 12px }
"""


def report(
    things: Any,
    path: str | os.PathLike[str],
    *,
    title: str = "daskreg report",
    figures: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write `path` (.html) and, beside it, the same facts as JSON (same stem, .report.json, since a
    fit's own file often has the stem too).

    Args:
        things: a fit, a run, a mapping of facts, or a list of them.
        title: heading of the page.
        figures: further pictures by caption: matplotlib figures or the bytes of PNG files.
        facts: further facts by name, listed first.

    Returns: the path of the page.
    """
    entries = list(things) if isinstance(things, Sequence) and not isinstance(things, str) else [things]
    page, data = _paths(Path(path))
    document = {
        "schema": SCHEMA,
        "version": 1,
        "title": title,
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "daskreg": _version(),
        "facts": plain(facts or {}),
        "entries": [{"kind": type(thing).__name__, **plain(as_dict(thing))} for thing in entries],
    }
    sections = [_facts_table(facts)] if facts else []
    for thing in entries:
        sections += _section(thing)
    sections += [_figure(caption, figure) for caption, figure in (figures or {}).items()]
    page.parent.mkdir(parents=True, exist_ok=True)
    replace_text(data, json.dumps(document, indent=1, allow_nan=False))
    replace_text(page, _page(title, sections, str(document["written"])))
    return page


def _paths(path: Path) -> tuple[Path, Path]:
    stem = path.with_suffix("") if path.suffix.lower() in (".html", ".htm", ".json") else path
    return stem.with_name(stem.name + ".html"), stem.with_name(stem.name + ".report.json")


def as_dict(thing: Any) -> dict[str, Any]:
    """What is known about a thing: its own `to_dict()`, or its public dataclass fields."""
    if isinstance(thing, Mapping):
        return dict(thing)
    if hasattr(thing, "to_dict"):
        return dict(thing.to_dict())
    if dataclasses.is_dataclass(thing):
        return {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing) if not f.name.startswith("_")}
    return {"value": thing}


def plain(value: Any) -> Any:
    """The value in JSON's types: NaN and infinity become null, credentials are taken out."""
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


def _section(thing: Any) -> list[str]:
    """The parts of the page about one thing: status, facts, pictures, slices."""
    parts = [f"<h2>{_text(type(thing).__name__)}</h2>", _status(thing)]
    shown = {k: v for k, v in as_dict(thing).items() if k not in ("status", "ok", "schema", "version", "transform")}
    rows = thing.rows() if callable(getattr(thing, "rows", None)) else []
    if rows:
        shown = {k: v for k, v in shown.items() if not _by_row(v, len(rows))}
    parts.append(_facts_table(shown))
    if callable(getattr(thing, "plot", None)):
        parts.append(_plot(thing))
    if rows:
        parts.append(_rows_table(rows))
    return [p for p in parts if p]


def _plot(thing: Any) -> str:
    try:
        return _figure("", thing.plot())
    except MissingExtraError as error:  # the facts are worth a page of their own
        return f"<p>No pictures: {_text(error)}</p>"


def _status(thing: Any) -> str:
    status = getattr(thing, "status", None)
    if status is None:
        return ""
    words = f"{status.name.lower()}: {status.value}" if isinstance(status, Enum) else str(status)
    return f'<p class="{"ok" if getattr(thing, "ok", True) else "failed"}">{_text(words)}</p>'


def _facts_table(facts: Mapping[str, Any] | None) -> str:
    rows = "".join(f"<tr><th>{_text(k)}</th><td>{_text(_cell(k, v))}</td></tr>" for k, v in (facts or {}).items())
    return f"<table>{rows}</table>" if rows else ""


def _rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(rows[0])
    head = "".join(f"<th>{_text(n + ' (deg)' if n in _ANGLES else n)}</th>" for n in names)
    body = []
    for row in rows[:_MOST_ROWS]:
        cells = "".join(f'<td class="n">{_text(_number(n, row[n]))}</td>' for n in names)
        body.append(f'<tr class="bad">{cells}</tr>' if row.get("outlier") else f"<tr>{cells}</tr>")
    more = f"<p>The first {_MOST_ROWS} of {len(rows)} rows; the JSON has all.</p>" if len(rows) > _MOST_ROWS else ""
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(body)}</table></div>{more}'


def _cell(name: str, value: Any) -> str:
    if isinstance(value, Mapping) and value and all(_size(v) == 1 for v in value.values()):
        return ", ".join(f"{k} {_number(k, v)}{' deg' if k in _ANGLES else ''}" for k, v in value.items())
    if callable(getattr(value, "describe", None)):
        return str(value.describe())
    if dataclasses.is_dataclass(value) or isinstance(value, Mapping):
        text = repr(value)
        return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."
    if isinstance(value, str | Path) or _size(value) == 1:
        return _number(name, value)
    items = list(np.asarray(value).reshape(-1) if isinstance(value, np.ndarray) else value)
    words = ", ".join(_number("", v) for v in items[:_MOST_VALUES])
    return words + (f", ... ({len(items)} values)" if len(items) > _MOST_VALUES else "")


def _number(name: str, value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{math.degrees(value) if name in _ANGLES else value:.6g}"
    if isinstance(value, Enum):
        return value.name.lower()
    return redact(str(value))


def _by_row(value: Any, rows: int) -> bool:
    """Whether a value has one entry for each row of the table, or holds such values by name."""
    if isinstance(value, Mapping):
        return bool(value) and all(_by_row(v, rows) for v in value.values())
    return rows > 1 and _size(value) == rows


def _size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return int(value.size) if value.ndim < 2 else int(value.shape[0])
    return len(value) if hasattr(value, "__len__") and not isinstance(value, str) else 1


def _figure(caption: str, figure: Any) -> str:
    from daskreg.reporting import plots

    picture = figure if isinstance(figure, bytes) else plots.png(figure)
    encoded = base64.b64encode(picture).decode("ascii")
    heading = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f'<figure>{heading}<img alt="{_text(caption)}" src="data:image/png;base64,{encoded}"></figure>'


def _page(title: str, sections: Sequence[str], written: str) -> str:
    style = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n<body><h1>{_text(title)}</h1>\n"
        + "\n".join(sections)
        + f"\n<footer>daskreg {_text(_version())}, {_text(written)}</footer></body></html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(redact(str(value)), quote=True)


def _version() -> str:
    try:
        return version("daskreg")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
