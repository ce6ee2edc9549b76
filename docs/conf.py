"""Sphinx: `make docs` writes the pages to build/docs. Their code is run by tests/test_docs.py."""

from __future__ import annotations

import re
from typing import Any

import daskreg

project = "daskreg"
author = "the daskreg developers"
version = release = daskreg.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nb_execution_mode = "off"
myst_heading_anchors = 3
html_theme = "alabaster"
html_theme_options = {"description": "Align and warp image volumes larger than memory", "fixed_sidebar": True}
exclude_patterns = ["_build", "pictures.py"]

# Docstrings are Google style, with code in single backticks.
default_role = "code"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_class_signature = "separated"

_INLINE_SECTION = re.compile(r"(Returns|Raises): (.+)")


def mark_up(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:  # noqa: PLR0917 - Sphinx calls it so
    """Make reStructuredText of a docstring: one-line sections, literal blocks of modules, and no accidental markup."""
    result: list[str] = []
    in_section = False  # a section that begins on its heading's line, whose further lines may be indented
    for k, line in enumerate(lines):
        section = _INLINE_SECTION.fullmatch(line)
        if section:
            if result and result[-1]:
                result.append("")
            result.append(f"**{section[1]}:** {_escaped(section[2])}")
            in_section = True
            continue
        in_section = in_section and bool(line)
        literal = what == "module" and line.startswith("    ")
        if literal and (k == 0 or not lines[k - 1]) and not _in_literal(result):
            result += ["::", ""]
        result.append(line if literal else _escaped(line.strip() if in_section else line))
    lines[:] = result


def _in_literal(lines: list[str]) -> bool:
    """Whether the last line that is not empty belongs to a literal block."""
    filled = [line for line in lines if line]
    return bool(filled) and filled[-1].startswith("    ")


def _escaped(line: str) -> str:
    """`*`, `|` and a final `_` of a word mean themselves, except between backticks."""
    parts = re.split(r"(``.*?``|`[^`]*`)", line)
    return "".join(
        part if part.startswith("`") else re.sub(r"(?<=\w)_(?!\w)", r"\\_", re.sub(r"[*|]", r"\\\g<0>", part))
        for part in parts
    )


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", mark_up, priority=100)
