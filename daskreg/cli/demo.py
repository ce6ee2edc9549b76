"""daskreg demo: the main workflow on a real volume with a known drift."""

from __future__ import annotations

from pathlib import Path

import click

from daskreg.cli.options import LocalFile, verbosity


@click.command(short_help="The main workflow on a real volume with a known drift.")
@click.option("--out", type=LocalFile(file_okay=False, path_type=Path), default="demo-output", show_default=True,
              help="Folder for the volumes and the report; the output of an earlier demo is replaced.")  # fmt: skip
@click.option("--size", type=click.IntRange(min=64), default=512, show_default=True, help="Pixels along y and x.")
@click.option("--slices", type=click.IntRange(min=5), default=50, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Local worker processes.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the drift and of the noise.")
@verbosity
def command(*, out: Path, size: int, slices: int, workers: int, seed: int, quiet: bool) -> None:
    """Apply a drift to a real volume, align it, warp it out of core, and print the errors.

    \b
    daskreg demo
    daskreg demo --size 4096 --slices 200

    --size and --slices can make the volume larger than memory; the workers' memory does not grow.
    """
    from daskreg.demo import run

    def show(step: str) -> None:
        if not quiet:
            click.echo(step, err=True)

    click.echo(str(run(out, size=size, slices=slices, workers=workers, seed=seed, progress=not quiet, show=show)))
