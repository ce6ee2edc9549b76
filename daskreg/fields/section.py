"""What a page shows of a transform with displacement fields: where a grid goes, how far, and whether it folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from daskreg.errors import MissingExtraError
from daskreg.geometry import Grid
from daskreg.reporting.field_planes import FieldPlane, field_planes, folded, is_chain
from daskreg.reporting.png_image import data_uri
from daskreg.reporting.section import Picture, Section, Verdict, without_empty
from daskreg.reporting.words import count, number, percent, quantity, symbol

if TYPE_CHECKING:
    from daskreg.fields.transform import FieldTransform


def field_section(transform: FieldTransform, grid: Grid) -> Section:
    """Of a field or a chain with fields, in the planes of a grid that `field_figure` draws."""
    planes = field_planes(transform, grid)
    pictures, missing = _pictures(planes, transform, grid)
    which = f"slices {', '.join(plane.name.removeprefix('slice ') for plane in planes)}" if transform.slices else (
        "the middle planes" if grid.ndim == 3 else "")  # fmt: skip
    lengths = np.concatenate([plane.length.ravel() for plane in planes])
    stretch = np.concatenate([plane.stretch.ravel() for plane in planes])
    folds = folded(stretch)
    less = " from the affine map that fits best" if is_chain(transform) else ""
    factors = f"{number(float(stretch.min()), 3)} to {number(float(stretch.max()), 3)}"
    numbers = [
        (f"Longest displacement{less}", quantity(float(lengths.max()), grid.unit)),
        (f"Median displacement{less}", quantity(float(np.median(lengths)), grid.unit)),
        ("Areas or volumes change by factors of", factors),
        ("Folded", percent(float(np.mean(folds))) if folds.any() else "nothing that was looked at"),
        ("Looked at", f"{count(len(stretch), 'point')}{' of ' + which if which else ''}"),
    ]  # fmt: skip
    return Section(
        heading="A displacement field" if not is_chain(transform) else "A chain with displacement fields",
        verdict=_verdict(float(np.mean(folds)), float(lengths.max()), grid, less),
        pictures=pictures,
        numbers=without_empty(numbers),
        settings=_settings(transform, grid),
        missing=missing,
    )


def _verdict(folds: float, longest: float, grid: Grid, less: str) -> Verdict:
    if folds:
        return Verdict(
            False,
            f"The field folds in {percent(folds)} of what was looked at: there it is no one-to-one map.",
            "Keep to places without folds, or estimate it again with more smoothness; transform.folds(grid) counts "
            "the voxels.",
        )
    said = f"Displacements{less} are up to {quantity(longest, grid.unit)}, and nothing that was looked at folds."
    return Verdict(None, f"{said} Whether they are right is not in this file.")


def _pictures(planes: list[FieldPlane], transform: FieldTransform, grid: Grid) -> tuple[tuple[Picture, ...], str]:
    from daskreg.reporting import field_plots
    from daskreg.reporting.figures import png

    caption = "Where a grid goes; displacements; growth of areas or volumes (hatched where it folds)"
    try:
        figure = field_plots.figure_of(planes, grid, chain=is_chain(transform))
    except MissingExtraError as error:  # the page is useful without a figure
        return (), f"No figures: {error}"
    return (Picture(caption, data_uri(png(figure))),), ""


def _settings(transform: FieldTransform, grid: Grid) -> tuple[tuple[str, str], ...]:
    size = " × ".join(f"{name} {n:,}" for name, n in zip(grid.names, grid.shape, strict=True))
    apart = " × ".join(number(s) for s in grid.spacing)
    rows = [
        ("Transform", repr(transform)),
        ("Drawn on a grid of", f"{size}, {apart} {symbol(grid.unit)} apart".rstrip()),
        ("Slices with a field of their own", f"{transform.slices:,}" if transform.slices else ""),
    ]
    return without_empty(rows)
