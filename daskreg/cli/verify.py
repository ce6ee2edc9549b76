"""daskreg verify: whether an output is whole, and its bytes are the ones that were written."""

from __future__ import annotations

import click

from daskreg.cli.options import loudness


@click.command(short_help="Re-read every file of an output.")
@click.argument("output")
@loudness
def command(output: str, *, quiet: bool) -> int:
    """Check that every block of an OME-Zarr image that daskreg wrote is finished, and that each
    of its files is there with the bytes that were written, and decodes. Exits 1 where something is wrong."""
    from daskreg.writing import verify

    problems = verify(output, progress=not quiet)
    for problem in problems:
        click.echo(problem)
    if not problems and not quiet:
        click.echo(f"{output} is whole")
    return 1 if problems else 0
