"""daskreg verify: check that an output is complete and that its bytes are those that were written."""

from __future__ import annotations

import click

from daskreg.cli.options import verbosity


@click.command(short_help="Read every file of an output again.")
@click.argument("output")
@verbosity
def command(output: str, *, quiet: bool) -> int:
    """Check an OME-Zarr image that daskreg wrote.

    \b
    daskreg verify aligned.ome.zarr

    Every block must be finished, and each file must exist, have the bytes that were written, and decode. Prints a line
    for each problem, and then exits with 1.
    """
    from daskreg.writing import verify

    problems = verify(output, progress=not quiet)
    for problem in problems:
        click.echo(problem)
    if not problems and not quiet:
        click.echo(f"{output} is complete and undamaged")
    return 1 if problems else 0
