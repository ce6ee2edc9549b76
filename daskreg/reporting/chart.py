"""Lines along the slices of a stack, as SVG inside a page: with bands of one standard deviation, and marks.

The colours are classes of the page's style, so that they suit light and dark. Of many slices, the extremes of
each pixel are drawn. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from daskreg.reporting.words import number

Floats = NDArray[np.float64]

WIDTH, HEIGHT = 900, 190
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 22, 34
COLUMNS = 700
"""Of more slices than this, the smallest and the largest value in each of so many columns are drawn."""
MOST_TITLES = 300
"""Marks that say on hovering which slice they are; of more, there are only the marks."""

_SHAPES = ("M-4,4 L4,4 L0,-4 Z", "M-4,-4 L4,-4 L4,4 L-4,4 Z", "M0,-5 L5,0 L0,5 L-5,0 Z", "M-4,-4 L4,4 M-4,4 L4,-4",
           "M0,-5 L0,5 M-5,0 L5,0", "M-4,-4 L4,-4 L0,4 Z")  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One value for each slice; NaN leaves a gap. sigma: half of the width of its band. truth: drawn dashed."""

    name: str
    values: Floats
    sigma: Floats | None = None
    truth: Floats | None = None


def chart(
    lines: Sequence[Line],
    *,
    label: str,
    along: str,
    start: int = 0,
    marks: Mapping[str, Sequence[int]] | None = None,
    alt: str = "",
) -> str:
    """The drawing as text.

    Args:
        label: of the vertical axis, with its unit.
        along: of the horizontal axis.
        start: number of the first slice.
        marks: slices by kind.
    """
    count = len(lines[0].values)
    low, high = _limits(lines)
    across = _Scale(start - 0.5, start + count - 0.5, LEFT, WIDTH - RIGHT)
    up = _Scale(low, high, HEIGHT - BOTTOM, TOP)
    said = escape(alt or label, quote=True)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">',
        *_axes(across, up, label, along),
    ]
    x = np.arange(start, start + count, dtype=np.float64)
    for k, line in enumerate(lines):
        if line.sigma is not None and np.isfinite(line.sigma).any():
            band = _thinned(x, line.values - line.sigma), _thinned(x, line.values + line.sigma)
            parts.append(f'<path class="band c{k % 3}" d="{_band(*band, across, up)}"/>')
        if line.truth is not None:
            parts.append(f'<path class="line truth" d="{_path(*_thinned(x, line.truth)[:2], across, up)}"/>')
        parts.append(f'<path class="line c{k % 3}" d="{_path(*_thinned(x, line.values)[:2], across, up)}"/>')
    parts += _marks(marks or {}, across, along.partition(" ")[0])
    parts += _legend(lines, list(marks or {}))
    return "\n".join([*parts, "</svg>"])


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)


def _limits(lines: Sequence[Line]) -> tuple[float, float]:
    values = [v for line in lines for v in (line.values, line.truth) if v is not None]
    # A band that is much wider than the motion, as at an end of the stack, is cut, and the line stays visible.
    finite = np.concatenate([v[np.isfinite(v)] for v in values])
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    sigmas = [s[np.isfinite(s)] for s in (line.sigma for line in lines) if s is not None]
    widest = max((float(np.percentile(s, 90)) for s in sigmas if s.size), default=0.0)
    room = max(0.06 * (high - low), 1.3 * min(widest, 2 * (high - low) + 1e-12), 1e-9 * max(abs(low), abs(high), 1e-3))
    return low - room, high + room


def ticks(low: float, high: float, most: int = 6, *, whole: bool = False) -> list[float]:
    """Round numbers between two limits; whole ones where slices are counted."""
    step = 10.0 ** math.floor(math.log10(max((high - low) / most, 1e-300)))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= most)
    if whole:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _axes(across: _Scale, up: _Scale, label: str, along: str) -> list[str]:
    parts = []
    levels = ticks(up.low, up.high, 4)
    for value in levels:
        y = up(value)
        parts.append(f'<path class="grid" d="M{LEFT},{y:.1f} H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_told(value, levels)}</text>')
    for value in ticks(across.low, across.high, 10, whole=True):
        x = across(value)
        parts.append(f'<path class="axis" d="M{x:.1f},{HEIGHT - BOTTOM} v4"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:.0f}</text>')
    parts.append(f'<path class="axis" d="M{LEFT},{HEIGHT - BOTTOM} H{WIDTH - RIGHT}"/>')
    parts.append(f'<text x="4" y="13">{escape(label)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(along)}</text>')
    return parts


def _told(value: float, levels: Sequence[float]) -> str:
    """A level with as many digits as tell it from the next one."""
    step = levels[1] - levels[0] if len(levels) > 1 else abs(value)
    if value == 0 or step == 0:
        return number(value)
    return number(value, max(4, 1 + math.floor(math.log10(abs(value))) - math.floor(math.log10(step) + 1e-9)))


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """All points, or of many the smallest and the largest in each column of the drawing."""
    if len(x) <= 2 * COLUMNS:
        return x, y
    xs, ys = [], []
    for part in np.array_split(np.arange(len(x)), COLUMNS):
        known = part[np.isfinite(y[part])]
        ends = sorted({int(known[np.argmin(y[known])]), int(known[np.argmax(y[known])])}) if len(known) else part[:1]
        xs += [x[k] for k in ends]
        ys += [y[k] for k in ends]
    return np.asarray(xs), np.asarray(ys)


def _path(x: Floats, y: Floats, across: _Scale, up: _Scale) -> str:
    words, pen = [], "M"
    for a, b in zip(x, y, strict=True):
        if not math.isfinite(b):
            pen = "M"
            continue
        words.append(f"{pen}{across(a):.1f},{up(b):.1f}")
        pen = "L"
    return "".join(words)


def _band(lower: tuple[Floats, Floats], upper: tuple[Floats, Floats], across: _Scale, up: _Scale) -> str:
    """The area between two curves, inside the axes; what is not known closes it."""
    ends = []
    for x, y in (upper, lower):
        known = np.isfinite(y)
        ends.append((x[known], np.clip(y[known], up.low, up.high)))
    (ax, ay), (bx, by) = ends
    return _path(np.concatenate([ax, bx[::-1]]), np.concatenate([ay, by[::-1]]), across, up) + "Z" if len(ax) else ""


def _marks(marks: Mapping[str, Sequence[int]], across: _Scale, one: str) -> list[str]:
    parts = []
    titled = sum(map(len, marks.values())) <= MOST_TITLES
    for k, (kind, slices) in enumerate(marks.items()):
        inside = sorted({int(i) for i in slices if across.low <= i <= across.high})
        lines = "".join(f"M{across(i):.1f},{TOP} V{HEIGHT - BOTTOM}" for i in inside)
        parts.append(f'<path class="mark" d="{lines}"/>')
        shape = _SHAPES[k % len(_SHAPES)]
        for i in inside if titled else []:
            title = f"<title>{escape(one)} {i}: {escape(kind)}</title>"
            parts.append(f'<path class="sign" transform="translate({across(i):.1f},{TOP})" d="{shape}">{title}</path>')
    return parts


def _text_width(text: str) -> float:
    """About how wide a text is in the drawing, in a sans-serif font of 12."""
    return sum(3.9 if c in "ijltfr.,:;'() " else 10.5 if c in "mwMW" else 7.3 for c in text)


def _legend(lines: Sequence[Line], kinds: Sequence[str]) -> list[str]:
    """Names of lines and kinds of marks, from the right above the axes."""
    parts, x = [], WIDTH - RIGHT
    entries = [(kind, f'<path class="sign" transform="translate({{x}},9)" d="{_SHAPES[k % len(_SHAPES)]}"/>')
               for k, kind in enumerate(kinds)]  # fmt: skip
    if any(line.truth is not None for line in lines):
        entries.append(("true", '<path class="line truth" d="M{x},9 h-14"/>'))
    entries += [
        (line.name, f'<path class="line c{k % 3}" d="M{{x}},9 h-14"/>') for k, line in reversed([*enumerate(lines)])
    ]
    for name, sign in entries:
        parts.append(f'<text x="{x}" y="13" text-anchor="end">{escape(name)}</text>')
        x -= round(_text_width(name)) + 10
        parts.append(sign.format(x=x))
        x -= 24
    return parts
