"""daskreg warm-up: compile what is needed later."""

from __future__ import annotations

import click

from daskreg.cli.options import verbosity


@click.command("warm-up", short_help="Compile for this processor what is needed later.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes at once.  [default: one for each core]")
@click.argument("cases", nargs=-1)
@verbosity
def command(*, jobs: int | None, cases: tuple[str, ...], quiet: bool) -> None:
    """Compile for this processor what is needed later, and keep it.

    \b
    daskreg warm-up register align

    CASES are "warp", "register", "align" and "icp"; all of them by default. What is compiled is kept next to the
    package, or in the folder that NUMBA_CACHE_DIR names; hosts with processors of different types may share it.
    """
    from daskreg.warm_up import warm_up

    for case, seconds in warm_up(cases, jobs=jobs):
        if not quiet:
            click.echo(f"{case}: {seconds:.1f} s")
