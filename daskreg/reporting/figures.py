"""matplotlib figures (the `report` extra): made without pyplot, so they need no window and no global state.

A notebook shows them, and `png(figure)` returns the bytes of a PNG file.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from daskreg.errors import MissingExtraError
from daskreg.reporting import composites
from daskreg.reporting.contrast import Window
from daskreg.reporting.planes import Place
from daskreg.reporting.views import FLATTEST, TALLEST, scale_bar
from daskreg.reporting.words import sentence_and_remedy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Distinguishable also for people with red-green colour blindness (Okabe and Ito).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"


def png(figure: Figure, *, dpi: int = 110) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def figure_suffixes() -> tuple[str, ...]:
    """The suffixes of files in which a figure can be saved, such as ".png".

    Raises: MissingExtraError where matplotlib is not installed.
    """
    return tuple(f".{kind}" for kind in sorted(figure_class()().canvas.get_supported_filetypes()))


@cache
def figure_class() -> Callable[..., Figure]:
    """A matplotlib Figure that notebooks show even if pyplot was never imported.

    Raises: MissingExtraError where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            return png(self)

    return NotebookFigure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    return figure_class()(figsize=(width, height), layout="constrained")


def headline(fit: Any) -> str:
    """What was estimated and, unless all is well, how it ended, in words."""
    title = str(getattr(fit, "title", type(fit).__name__))
    status = getattr(fit, "status", None)
    said = ""
    if isinstance(status, Enum) and status.name not in ("CONVERGED", "DETERMINED"):
        said, _ = sentence_and_remedy(str(status.value))
    return f"{title[:1].upper()}{title[1:]}" + (f"\n{said}" if said else "")


def draw_plane(ax: Axes, image: NDArray[Any], place: Place, title: str, window: Window | None = None) -> None:
    """A plane in greys, or in the (H, W, 3) colours it has, with its scale bar, and with the directions of its axes."""
    colours = image if image.ndim == 3 else composites.grey(image, window)
    aspect = place.spacing[0] / place.spacing[1]
    rows, columns = colours.shape[:2]
    shown = min(max(rows * aspect / columns, FLATTEST), TALLEST) * columns / rows
    smooth = None if max(rows, columns) >= 200 else "nearest"
    ax.imshow(colours, aspect=shown, origin="lower" if place.upward else "upper", interpolation=smooth)
    stretched = "" if abs(shown / aspect - 1) < 0.01 else f" ({place.rows} x {shown / aspect:.2g})"
    ax.set_title(title, fontsize=10)
    ax.set_xlabel(f"{place.columns} →, {place.rows} {'↑' if place.upward else '↓'}{stretched}", fontsize=8)
    ax.set(xticks=[], yticks=[])
    bar = scale_bar(columns * place.spacing[1], place.unit)
    length = bar.length / place.spacing[1] / columns
    for colour, width in (("black", 5), ("white", 3)):
        ax.plot(
            (0.04, 0.04 + length), (0.05, 0.05), color=colour, lw=width, transform=ax.transAxes, solid_capstyle="butt"
        )
    ax.text(0.04, 0.075, bar.label, color="white", fontsize=8, transform=ax.transAxes, weight="bold",
            bbox={"facecolor": "black", "alpha": 0.4, "lw": 0, "pad": 1})  # fmt: skip


def whole_ticks(ax: Axes) -> None:
    """Ticks along the horizontal axis at whole numbers, since there is no slice between two slices."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
