"""`report`: what was done and how well, as one self-contained HTML page, and the same facts as JSON beside it.

The page loads nothing: its pictures are embedded, and its content security policy allows only its own style and its own
script, by their hashes. All text is escaped, and credentials in URLs are replaced. The layout is in `templates`.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskreg.reporting.generic_section import fact_cells, generic_section
from daskreg.reporting.plain import as_dict, plain, shortened
from daskreg.reporting.png_image import data_uri
from daskreg.reporting.section import Pairs, Picture, Section, Verdict
from daskreg.runtime.atomic import replace_text
from daskreg.runtime.messages import redact_command
from daskreg.runtime.paths import local_path
from daskreg.sources.storage.redact import redact

if TYPE_CHECKING:
    from jinja2 import Template

SCHEMA = "daskreg/report"

_LIBRARIES = ("daskreg", "numpy", "dask", "distributed", "zarr", "xarray", "torch", "numba", "scipy")
_UNSAID = Verdict(None, "")


def report(
    things: Any,
    path: str | os.PathLike[str],
    *,
    title: str = "daskreg report",
    figures: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    sections: Sequence[Section | Callable[[], Section]] | None = None,
    command: str = "",
) -> Path:
    """Write `path` (.html) and, next to it, the same facts as JSON.

    The JSON file has the same stem and the suffix .report.json, because the saved fit often has the
    same stem and the suffix .json.

    Args:
        things: a fit, a run, a mapping of facts, or a list of them.
        title: heading of the page.
        figures: further figures by caption: matplotlib figures or the bytes of PNG files.
        facts: further facts by name, listed first.
        sections: what to show of the things, or what makes that; by default their own `section()`, or tables of facts.
        command: the line of a terminal that made it.

    Returns: the path of the page.
    """
    entries = list(things) if isinstance(things, Sequence) and not isinstance(things, str) else [things]
    page, data = _paths(local_path(path))
    written = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    document = {
        "schema": SCHEMA,
        "version": 1,
        "title": plain(title),
        "written": written,
        "daskreg": library_version("daskreg"),
        "facts": plain(facts or {}),
        "entries": [{"kind": type(entry).__name__, **plain(as_dict(entry))} for entry in entries],
    }
    if command := redact_command(command):
        document["command"] = command
    page.parent.mkdir(parents=True, exist_ok=True)
    replace_text(data, json.dumps(document, indent=1, allow_nan=False))  # kept, if a figure cannot be drawn
    shown = (
        [section_of(entry) for entry in entries] if sections is None else [s() if callable(s) else s for s in sections]
    )
    pictures = tuple(Picture(caption, _uri(figure)) for caption, figure in (figures or {}).items())
    last = Section("", _UNSAID, pictures=pictures, calls=(("Command", command),) if command else ())
    html = render(
        title=title,
        facts=fact_cells(facts or {}),
        sections=[*shown, last] if pictures or command else shown,
        written=written,
        raw=json.dumps(shortened(document), indent=1, ensure_ascii=False),
        data_name=data.name,
    )
    replace_text(page, html)
    return page


def _paths(path: Path) -> tuple[Path, Path]:
    stem = path.with_suffix("") if path.suffix.lower() in (".html", ".htm", ".json") else path
    return stem.with_name(stem.name + ".html"), stem.with_name(stem.name + ".report.json")


def section_of(thing: Any) -> Section:
    """What the page shows of an object: what the object says itself, or its facts."""
    own = getattr(thing, "section", None)
    found = own() if callable(own) else generic_section(thing)
    return found if isinstance(found, Section) else generic_section(thing)


def render(
    *, title: str, facts: Pairs, sections: Sequence[Section], written: str, raw: str = "", data_name: str = ""
) -> str:
    """The page as text that can be stored: bytes of names that are no UTF-8 are escaped, as in messages."""
    from markupsafe import Markup

    style, script = (_resource(name) for name in ("page.css", "page.js"))
    allowed = {"img-src": "data:", "style-src": _hash_of(style), "script-src": _hash_of(script)}
    policy = "; ".join(
        ["default-src 'none'", *(f"{k} {v}" for k, v in allowed.items()), "base-uri 'none'", "form-action 'none'"]
    )
    html = _template().render(
        title=title,
        policy=policy,
        style=Markup(style),  # noqa: S704 - files of this package, which their hashes in the policy describe
        script=Markup(script),  # noqa: S704
        facts=facts,
        sections=sections,
        versions=versions(),
        version=library_version("daskreg"),
        written=written,
        raw=raw,
        data_name=data_name,
    )
    return html.encode("utf-8", "backslashreplace").decode()


def versions() -> Pairs:
    """Python, the system, and the libraries that results depend on."""
    found = [(name, library_version(name)) for name in _LIBRARIES]
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return (*found, ("Python", platform.python_version()), ("System", system))


def library_version(name: str) -> str:
    """The version that is installed, or "unknown"."""
    try:
        return version(name)
    except PackageNotFoundError:  # run from a source tree
        return "unknown"


def _resource(name: str) -> str:
    return files("daskreg.reporting").joinpath("templates", name).read_text(encoding="utf-8")


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


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
        finalize=lambda value: value if isinstance(value, Markup) else _inert(str(value)),
    )
    return environment.get_template("page.html")


def _inert(text: str) -> str:
    return text if text.startswith("data:image/png;base64,") else redact(text)


def _uri(figure: Any) -> str:
    """The address of a matplotlib figure, or of the bytes of a PNG file."""
    from daskreg.reporting import plots

    return data_uri(figure if isinstance(figure, bytes) else plots.png(figure))
