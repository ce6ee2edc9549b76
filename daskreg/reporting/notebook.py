"""A fit in a notebook: its verdict, a small picture, and its numbers, as HTML without scripts."""

from __future__ import annotations

from html import escape
from typing import Any

from daskreg.geometry.notebook_table import table
from daskreg.reporting.section import Picture, Section

_STYLE = """<style>.daskreg-fit svg { max-width: 46em; background: #fff }
.daskreg-fit text { font: 12px sans-serif; fill: #222 } .daskreg-fit .line { fill: none; stroke-width: 1.6px }
.daskreg-fit .grid { stroke: #ddd } .daskreg-fit .axis { stroke: #888; fill: none } .daskreg-fit .band { opacity: .22 }
.daskreg-fit .line.c0 { stroke: #0072b2 } .daskreg-fit .line.c1 { stroke: #c77700 }
.daskreg-fit .line.c2 { stroke: #009e73 }
.daskreg-fit .band.c0 { fill: #0072b2 } .daskreg-fit .band.c1 { fill: #c77700 } .daskreg-fit .band.c2 { fill: #009e73 }
.daskreg-fit .mark, .daskreg-fit .sign { stroke: #d55e00; fill: none }</style>"""


def fit_html(section: Section) -> str:
    """What a notebook shows of a section: of its pictures the last of the first ones, and its first chart."""
    verdict = section.verdict
    colour = {True: "#00865f", False: "#c44a00", None: "#888"}[verdict.ok]
    parts = [f'<div class="daskreg-fit" style="border-left: 5px solid {colour}; padding-left: 10px">']
    parts.append(f"<b>{escape(verdict.sentence)}</b>")
    if verdict.remedy:
        parts.append(f"<br>What to do: {escape(verdict.remedy)}")
    if section.comparisons:
        first = section.comparisons[0]
        parts.append(f"<div>{escape(first.names[-1])}: {escape(first.caption)}</div>")
        parts += [
            f'<img src="{view.pictures[-1]}" alt="{escape(view.alt, quote=True)}" width="220" '
            f'height="{220 * view.height / view.width:.0f}" style="margin: 4px; image-rendering: pixelated">'
            for view in first.views
        ]
    parts += [_picture(picture) for picture in section.pictures[:1]]
    if section.charts:
        parts += [_STYLE, section.charts[0].svg]
    parts += [table("", section.numbers), "</div>"]
    return "".join(parts)


def plain_html(fit: Any) -> str:
    """What a notebook shows of a field, or a fit without a section: its text, and its figure if it can be drawn."""
    from daskreg.reporting.generic_section import plotted

    pictures, _ = plotted(fit)
    return f"<pre>{escape(repr(fit))}</pre>{''.join(map(_picture, pictures))}"


def _picture(picture: Picture) -> str:
    return f'<div><img src="{picture.uri}" alt="{escape(picture.caption, quote=True)}" style="max-width: 100%"></div>'
