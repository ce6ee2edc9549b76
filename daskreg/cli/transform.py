"""daskreg transform: show transform files and make new ones from them."""

from __future__ import annotations

from functools import reduce
from operator import matmul
from pathlib import Path
from typing import Any

import click

from daskreg.cli.options import TRANSFORM, LocalFile, OutputFile

FILE = LocalFile(exists=True, dir_okay=False, path_type=Path)
IMAGE = "PATH"


def grids(command: Any) -> Any:
    """--fixed, --moving, --from, --view: what a file of another tool needs to be read."""
    for option in (
        click.option("--view", help="The view in a file of BigDataViewer: its setup, or timepoint,setup."),
        click.option("--from", "source_format", metavar="TOOL", help="Whose format it is, where this is not certain."),
        click.option("--moving", metavar=IMAGE, help="The moving image, for formats that count in voxels."),
        click.option("--fixed", metavar=IMAGE, help="The fixed image, for formats that count in voxels."),
    ):
        command = option(command)
    return command


def _load(path: Path, *, fixed: str | None, moving: str | None, source_format: str | None, view: str | None) -> Any:
    import daskreg

    numbers = None if view is None else tuple(int(word) for word in view.split(","))
    return daskreg.load(
        path,
        format=source_format,
        fixed=_grid(fixed),
        moving=_grid(moving),
        view=numbers[0] if numbers and len(numbers) == 1 else numbers,  # type: ignore[arg-type]
    )


def _grid(path: str | None) -> Any:
    import daskreg

    return None if path is None else daskreg.grid(daskreg.open(path))


@click.group(name="transform", short_help="Show, invert, compose, convert transform files; move points.")
def command() -> None:
    """Show, invert, compose and convert transform files, and move points with an image.

    Files are daskreg's JSON (also of a fit), and those of ITK, ANTs, elastix, FSL, FreeSurfer, AFNI, IMOD, StackReg,
    BigDataViewer, NGFF, and plain text; displacement fields and chains also as Zarr groups, as images of vectors, and
    by the prefix of the files of ANTs. Formats that count in voxels need --fixed and --moving, and say so.
    """


@command.command()
@click.argument("path", type=TRANSFORM)
@click.option("--matrix", is_flag=True, help="Print the matrix too (array order: z, y, x).")
@grids
def show(path: Path, *, matrix: bool, **reading: Any) -> None:
    """Print the parameters; angles in degrees."""
    import numpy as np

    from daskreg.cli.show import transform_lines

    loaded = _load(path, **reading)
    for line in transform_lines(loaded):
        click.echo(line)
    if matrix:
        click.echo(np.array2string(loaded.to_matrices(), precision=9, suppress_small=True, threshold=10_000))


@command.command()
@click.argument("path", type=TRANSFORM)
@click.option("--out", type=OutputFile(), required=True)
def invert(path: Path, *, out: Path) -> None:
    """Write the inverse map."""
    import daskreg

    _save(daskreg.load(path).inverse(), out)


@command.command()
@click.argument("paths", type=TRANSFORM, nargs=-1, required=True)
@click.option("--out", type=OutputFile(), required=True)
def compose(paths: tuple[Path, ...], *, out: Path) -> None:
    """Write the product A B ..., in which the last one is applied first.

    Inner names cancel: a_from_b.json b_from_c.json gives a_from_c.
    """
    import daskreg

    transforms: list[Any] = [daskreg.load(path) for path in paths]
    _save(reduce(matmul, transforms), out)


@command.command()
@click.argument("path", type=TRANSFORM)
@click.argument("out", type=OutputFile())
@click.option("--to", "target_format", metavar="TOOL", help="The format of OUT, where its suffix does not say it.")
@grids
def convert(path: Path, out: Path, *, target_format: str | None, **reading: Any) -> None:
    """Write the same map, moving from fixed, in the format that the suffix of OUT names.

    \b
    .json daskreg           .tfm .txt .h5 ITK       .mat ANTs or FSL (--to)
    .lta FreeSurfer         .1D AFNI                .xf .xg IMOD
    .npy pystackreg         .xml BigDataViewer      .ngff.json NGFF
    TransformParameters*.txt elastix                .matrix.txt plain text
    TransformationMatrices*.txt MultiStackReg
    Fields and chains: .zarr daskreg, .h5 .tfm ITK, .nii.gz .mha .nrrd (one linear field),
    .ngff.zarr NGFF, *1Warp.nii.gz ANTs (with *0GenericAffine.mat beside it)
    """
    grids = {name: _grid(reading[name]) for name in ("fixed", "moving")}
    _save(_load(path, **reading), out, format=target_format, **grids)


@command.command()
@click.argument("path", metavar="TRANSFORM", type=TRANSFORM)
@click.argument("table", metavar="IN", type=FILE)
@click.argument("out", type=OutputFile())
@click.option("--push", is_flag=True, help="The image is warped with --push TRANSFORM; by default with --pull.")
@click.option("--source", metavar=IMAGE, help="The image on which the points lie.")
@click.option("--like", metavar=IMAGE, help="The image on whose grid the warped one lies; by default that of --source.")
@click.option("--voxels", is_flag=True, help="The coordinates are voxel indices of --source, in OUT those of --like.")
@click.option("--axes", help="Order of the columns of a table without names, such as zyx; by default x, y, z.")
def points(
    path: Path,
    table: Path,
    out: Path,
    *,
    push: bool,
    source: str | None,
    like: str | None,
    voxels: bool,
    axes: str | None,
) -> None:
    """Move the points of a table as `daskreg warp IMAGE --pull TRANSFORM` moves the image.

    IN is a CSV with columns x, y, z or axis-0, axis-1 (napari), landmarks of BigWarp (the moving points of them),
    Slicer's .fcsv or .mrk.json, an elastix point file, or GeoJSON; OUT has the same format, and everything else that
    IN holds.
    """
    import daskreg
    from daskreg.formats.point_tables import read_table
    from daskreg.formats.transforms import write_text
    from daskreg.landmarks.move import move_points

    found = read_table(table, axes=axes, of_pairs=True)
    grids = _grid(source), _grid(like) or _grid(source)
    fixed, moving = grids if push else grids[::-1]
    moved = move_points(
        found.points,
        **{"push" if push else "pull": daskreg.load(path, fixed=fixed, moving=moving)},
        source=grids[0],
        like=grids[1],
        pixels=voxels or found.in_voxels,
    )
    write_text(found.replaced(moved), out)
    click.echo(f"{len(moved)} points saved to {out}")


def _save(transform: Any, out: Path, **writing: Any) -> None:
    from daskreg.cli.show import transform_lines

    transform.save(out, **writing)
    for line in transform_lines(transform):
        click.echo(line)
    click.echo(f"saved to {out}")
