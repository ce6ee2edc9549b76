"""What a page shows of one fit or run, as values; `templates/page.html` lays it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daskreg.reporting.views import Comparison

Pairs = tuple[tuple[str, str], ...]
"""Names and values as text."""


@dataclass(frozen=True)
class Verdict:
    """Whether to trust it, in a sentence, and what to do.

    Args:
        ok: None where there is nothing to judge.
    """

    ok: bool | None
    sentence: str
    remedy: str = ""


@dataclass(frozen=True)
class Chart:
    """A drawing as the text of an SVG element whose texts are escaped (`reporting.chart`)."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Picture:
    """An embedded PNG file: its address, and its size in the drawing if the page must scale it."""

    caption: str
    uri: str


@dataclass(frozen=True)
class Row:
    """One row of a table with a row for each slice. note: of what kind of outlier the slice is; empty if it is none."""

    cells: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """count: rows that there are; the page shows `rows`, which may be fewer."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    count: int


@dataclass(frozen=True)
class Section:
    """The part of a page about one object, in the order in which it is shown.

    Args:
        heading: what it is, in words.
        comparisons: views that a slider uncovers.
        charts: of the drift.
        thumbnails: captions, and small views, of what agrees least.
        pictures: figures.
        numbers, settings: results, and what was asked for.
        calls: (language, text) that make it again.
        missing: why something is not shown, such as a library that is not installed.
    """

    heading: str
    verdict: Verdict
    comparisons: tuple[Comparison, ...] = ()
    charts: tuple[Chart, ...] = ()
    thumbnails: tuple[tuple[str, tuple[Comparison, ...]], ...] = ()
    pictures: tuple[Picture, ...] = ()
    numbers: Pairs = ()
    settings: Pairs = ()
    calls: Pairs = ()
    table: Table | None = None
    missing: str = ""


def without_empty(pairs: Sequence[tuple[str, str | None]]) -> Pairs:
    """The pairs that have a value."""
    return tuple((name, value) for name, value in pairs if value)
