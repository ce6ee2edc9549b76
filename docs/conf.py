"""Sphinx: `make docs` runs the notebooks and writes the pages to build/docs; tests/test_docs.py runs the pages."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import daskreg

project = "daskreg"
author = "the daskreg developers"
version = release = daskreg.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_cache_path = str(Path(__file__).parents[1] / "build" / "notebooks")
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"daskreg {release}"
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["daskreg.css"]
pygments_style, pygments_dark_style = "default", "monokai"
exclude_patterns = ["_build", "*.py"]

# Sphinx reads only what is below this folder.
shutil.copytree(Path(__file__).parents[1] / "notebooks", Path(__file__).parent / "notebooks", dirs_exist_ok=True)

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


def link_notebooks(app: Any, name: str, content: list[str]) -> None:
    """Links to `../notebooks/`, which lead somewhere in the repository, lead to the copies."""
    content[0] = content[0].replace("](../notebooks/", "](notebooks/")


def setup(app: Any) -> None:
    app.connect("source-read", link_notebooks)
    app.connect("autodoc-process-docstring", mark_up, priority=100)
