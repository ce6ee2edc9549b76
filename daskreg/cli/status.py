"""daskreg status: how far the run of an output is, and where it runs."""

from __future__ import annotations

import json

import click


@click.command(short_help="How far the run of an output is.")
@click.argument("output")
@click.option("--json", "as_json", is_flag=True, help="Print the same facts as JSON.")
@click.option("--scheduler", metavar="ADDRESS|FILE", help="Ask this scheduler too; needed where it has certificates.")
def command(output: str, *, as_json: bool, scheduler: str | None) -> None:
    """Print how far the latest run of OUTPUT is: blocks done, rate, time left, failed blocks, retries, where it runs.

    \b
    daskreg status aligned.ome.zarr --json

    OUTPUT is an image that `warp` or `convert` writes, or has begun to write. A run of another machine that was
    killed is only known as such after 20 seconds.
    """
    from daskreg.cli.options import scheduler_client
    from daskreg.runs.status import status

    with scheduler_client(scheduler) as client:
        found = status(output, client=client)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
        return
    for line in found.lines():
        click.echo(line)
