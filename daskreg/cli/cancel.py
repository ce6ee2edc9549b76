"""daskreg cancel: stop the run of an output."""

from __future__ import annotations

import click


@click.command(short_help="Stop the run of an output.")
@click.argument("output")
@click.option("--no-wait", is_flag=True, help="Ask the run to stop, and do not wait until it has.")
@click.option("--scheduler", metavar="ADDRESS|FILE", help="Ask this scheduler too; needed where it has certificates.")
def command(output: str, *, no_wait: bool, scheduler: str | None) -> int:
    """Stop the run of OUTPUT, wherever it runs: on a cluster, in another terminal, or in several parts.

    \b
    daskreg cancel aligned.ome.zarr

    Blocks that are being made are finished; the same command as before resumes the run. The exit code is 1 if no run
    is going on.
    """
    from daskreg.cli.options import scheduler_client
    from daskreg.runs.run import summary, whereabouts
    from daskreg.runs.status import cancel_run

    with scheduler_client(scheduler) as client:
        ended = cancel_run(output, client=client, timeout=0 if no_wait else None)
    if not ended:
        click.echo(f"daskreg: no run of {output} is going on", err=True)
        return 1
    for record in ended:
        click.echo(f"{output}: {'asked to stop' if no_wait else summary(record)}; {whereabouts(record)}")
    return 0
