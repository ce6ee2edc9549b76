"""daskreg info: the content of a path, and where its voxels lie."""

from __future__ import annotations

import click

from daskreg.cli.one_volume import Path, named, volume_argument
from daskreg.cli.options import Opening, open_options, verbosity


@click.command(short_help="Axes, spacing, chunks and levels of a volume.")
@volume_argument("path")
@open_options
@verbosity
def command(path: Path, *, opening: Opening, quiet: bool) -> None:
    """Axes, type, spacing, chunks and pyramid levels of a volume. Reads metadata only.

    \b
    daskreg info stack.ome.zarr
    daskreg info slices/*.tif --spacing 50,4,4 --unit nm
    """
    from daskreg.cli.show import volume_lines
    from daskreg.volumes import level_grids, volume_of

    array = opening.open(path)
    source = volume_of(array).source
    click.echo(named(path))
    for line in volume_lines(array, source.grid):
        click.echo(f"  {line}")
    click.echo(f"  stored   {source.kind}, chunks {'x'.join(map(str, source.chunks))}")
    levels = level_grids(path, allow_outside=opening.allow_outside, series=opening.series)
    for number, grid in enumerate(levels if len(levels) > 1 else []):
        size, spacings = ("x".join(f"{v:.6g}" for v in values) for values in (grid.shape, grid.spacing))
        click.echo(f"  level {number}  {size}, spacing {spacings} {grid.unit}")
