"""daskreg transform: show transform files and make new ones from them."""

from __future__ import annotations

from functools import reduce
from operator import matmul
from pathlib import Path
from typing import Any

import click

from daskreg.cli.options import OutputFile

TRANSFORM = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(name="transform", short_help="Show, invert, compose, convert transform files.")
def command() -> None:
    """Show, invert, compose and convert transform files.

    Files are daskreg's JSON (also of a fit), ITK .tfm, .txt, .h5, and elastix parameter files.
    """


@command.command()
@click.argument("path", type=TRANSFORM)
@click.option("--matrix", is_flag=True, help="Print the matrix too (array order: z, y, x).")
def show(path: Path, *, matrix: bool) -> None:
    """Print the parameters; angles in degrees."""
    import numpy as np

    import daskreg
    from daskreg.cli.show import transform_lines

    loaded = daskreg.load(path)
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
def convert(path: Path, out: Path) -> None:
    """Write the same map in the format that the suffix of OUT names (.json, .tfm, .txt, .h5)."""
    import daskreg

    _save(daskreg.load(path), out)


def _save(transform: Any, out: Path) -> None:
    from daskreg.cli.show import transform_lines

    transform.save(out)
    for line in transform_lines(transform):
        click.echo(line)
    click.echo(f"saved to {out}")
