"""daskreg landmarks: the motion between paired points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from daskreg.cli.options import LocalFile, fit_outputs, save_outputs, verbosity

POINTS = LocalFile(exists=True, dir_okay=False, path_type=Path)


@click.command(short_help="The motion between paired points.")
@click.argument("pairs", type=POINTS)
@click.argument("moving", type=POINTS, required=False)
@fit_outputs
@click.option("--model", default="rigid", show_default=True, help="translation, rigid, similarity or affine.")
@click.option("--ransac", help="Leave pairs out whose residual is larger; auto: the limit is estimated.")
@click.option("--axes", help="Order of the columns of a table without names, such as zyx; by default x, y, z.")
@click.option("--unit", help="Unit of the points, such as um.")
@verbosity
def command(
    pairs: Path,
    moving: Path | None,
    *,
    model: str,
    ransac: str | None,
    axes: str | None,
    unit: str | None,
    quiet: bool,
    **outputs: Any,
) -> int:
    """Estimate the motion that brings fixed landmarks to moving ones.

    \b
    daskreg landmarks pairs.csv -o fit.json --model similarity
    daskreg landmarks fixed.csv moving.csv -o fit.json --ransac auto

    PAIRS holds both points of each pair (BigWarp, or a CSV with columns fixed_x, moving_x, ...), or only the fixed
    ones, and MOVING the moving ones (CSV with columns x, y, z, napari's CSV, Slicer's .fcsv and .mrk.json, elastix
    points, GeoJSON).
    """
    from daskreg.landmarks import fit_points, read_pairs

    found = read_pairs(pairs, moving, axes=axes)
    try:
        limit: Any = float(ransac) if ransac not in (None, "auto") else ransac
    except ValueError as error:
        raise click.UsageError(f"--ransac must be a distance or auto, not {ransac}") from error
    fit = fit_points(found.fixed, found.moving, model=model, ransac=limit, unit=unit or found.unit)
    return save_outputs(fit, **outputs)
