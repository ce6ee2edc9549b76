"""daskreg icp: the motion between two point clouds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from daskreg.cli.options import LocalFile, device, fit_outputs, save_outputs, shown_progress, verbosity

POINTS = LocalFile(exists=True, dir_okay=False, path_type=Path)


@click.command(short_help="The motion between two point clouds.")
@click.argument("target", type=POINTS)
@click.argument("source", type=POINTS)
@fit_outputs
@click.option(
    "--method", type=click.Choice(["auto", "point_to_point", "point_to_plane", "generalized"]), default="auto"
)
@click.option("--init", default="auto", show_default=True, help="auto, identity, global, or a transform file.")
@click.option("--max-distance", type=float, help="Ignore pairs that are farther apart.")
@click.option("--trim", type=float, help="Fraction of the source points without a correspondence, 0 to 1.")
@click.option("--with-scale", is_flag=True, help="Also estimate one common scale.")
@click.option("--axes", help="Names of the columns in their order, such as zyx; without it xyz, in 2D xy.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the samples of large clouds.")
@device
@verbosity
def command(
    target: Path,
    source: Path,
    *,
    method: str,
    init: str,
    max_distance: float | None,
    trim: float | None,
    with_scale: bool,
    axes: str | None,
    seed: int,
    device: str,
    quiet: bool,
    **outputs: Any,
) -> int:
    """Estimate the motion that aligns the points of SOURCE with those of TARGET.

    \b
    daskreg icp target.ply source.ply -o fit.json --report fit.html
    daskreg icp scan1.csv scan2.csv -o fit.json --init identity --max-distance 0.5

    Files are .npy, .ply, .pcd, .las, .laz, or text (.csv, .xyz, .txt). The transform acts on x, y, z; --axes names
    another order, in which named columns are taken, and which columns without names have.
    """
    import daskreg
    from daskreg.formats.points import read_points

    start: Any = init if init in ("auto", "identity", "global") else daskreg.load(init)
    with shown_progress("registering points", quiet=quiet) as progress:
        fit = daskreg.icp(
            read_points(target, axes=axes),
            read_points(source, axes=axes),
            method=method,
            init=start,
            max_distance=max_distance,
            trim=trim,
            with_scale=with_scale,
            axes=axes,
            seed=seed,
            device=device,
            progress=progress,
        )
    return save_outputs(fit, **outputs)
