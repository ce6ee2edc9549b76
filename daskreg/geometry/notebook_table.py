"""Tables of values for notebooks, as HTML in which all text is escaped; the colours are those of the notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_CELL = 'style="text-align: left; padding: 2px 12px 2px 0"'


def table(caption: str, rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """A table with a caption above; the first cell of each row is its name."""
    head = "".join(f"<th {_CELL}>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td {_CELL}>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div><b>{escape(caption)}</b><table>{f'<tr>{head}</tr>' if head else ''}{body}</table></div>"


def lines_table(text: str) -> str:
    """The table of a text of which the first line is a caption, and each other line a name and a value."""
    caption, *lines = text.splitlines()
    return table(caption, [line.strip().split(None, 1) for line in lines if line.strip()])
