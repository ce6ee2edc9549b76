"""daskreg submit: a command as one SLURM job, with workers on all of its nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from daskreg.cli.options import LocalFile
from daskreg.cli.planning import Planning
from daskreg.cli.words import check_there

SUBMITTED = ("align", "convert", "warp")


@click.command(short_help="Run a command as one SLURM job.")
@click.argument("cluster", type=LocalFile(exists=True, dir_okay=False, path_type=Path))
@click.argument("words", metavar="-- COMMAND ...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--nodes", type=click.IntRange(min=1), help="Nodes of the job; default: as many as the plan is worth.")
@click.option("--no-plan", is_flag=True, help="Ask for all that the cluster file has, with no look at the plan.")
@click.option("--requeue", is_flag=True, help="Put the job into the queue again when its time ends before the work.")
@click.option("--dry-run", is_flag=True, help="Print the job script and stop.")
def command(
    cluster: Path, words: tuple[str, ...], *, nodes: int | None, no_plan: bool, requeue: bool, dry_run: bool
) -> None:
    """Submit COMMAND (align, convert, warp) as one job of a SLURM cluster file.

    \b
    daskreg submit slurm.yaml --nodes 4 -- warp in.ome.zarr out.ome.zarr --pull fit.json

    The job starts scheduler and workers on its own nodes, so nothing runs on the login node. It stops in time before
    its walltime, with exit code 75; the same submission goes on.

    Nodes, memory and walltime are what the plan of COMMAND is worth, of which one block is tried here; the values of
    the cluster file are limits. --nodes, and `processes` and `directives` of the file, are not changed.
    """
    from daskreg.cluster.config import SlurmConfig, read_config
    from daskreg.cluster.submission import check_command, sized, submission_script, submit

    config = read_config(cluster)
    if not isinstance(config, SlurmConfig):
        raise click.UsageError(f"{cluster} is not of kind: slurm")
    if words[0] not in SUBMITTED:
        raise click.UsageError(f"{words[0]!r} cannot be submitted: use {', '.join(SUBMITTED)}")
    check_command(words)
    asked = None if no_plan else Planning(config)
    _check(words, asked)
    work = None if asked is None else asked.work
    if work is not None and not work.blocks:
        click.echo("this part has no block to make: nothing is submitted", err=True)
        return
    size = sized(config, work, nodes=nodes)
    script = submission_script(size, words, requeue=requeue)
    if dry_run:
        click.echo(script, nl=False)
        return
    click.echo(size.why, err=True)
    number = submit(script)
    click.echo(f"job {number}: `squeue -j {number}` shows its state, `scancel {number}` ends it")


def _check(words: Sequence[str], asked: Planning | None) -> None:
    """Raise UsageError for a command that would fail as soon as its job begins, which may be in days, and plan it."""
    root = click.get_current_context().find_root()
    if not isinstance(root.command, click.Group):
        return
    command = root.command.get_command(root, words[0])
    if command is None:
        return
    with command.make_context(words[0], list(words[1:]), parent=root, obj=asked) as context:
        volume = context.params.get("source", context.params.get("stack"))
        if isinstance(volume, str):
            check_there(volume)
        if asked is not None:
            command.invoke(context)
