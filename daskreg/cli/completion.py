"""daskreg completion: what lets a shell complete commands, options and files."""

from __future__ import annotations

import click

from daskreg.cli.options import verbosity

_VARIABLE = "_DASKREG_COMPLETE"


@click.command(short_help="A script that lets the shell complete commands and options.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@verbosity
def command(shell: str, *, quiet: bool) -> None:
    """Print the script that completes commands, options and files of `daskreg` with the Tab key.

    \b
    daskreg completion bash >> ~/.bashrc
    daskreg completion zsh >> ~/.zshrc
    daskreg completion fish > ~/.config/fish/completions/daskreg.fish
    """
    from click.shell_completion import get_completion_class

    from daskreg.cli import app

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"{shell} is not known to this version of click")
    click.echo(kind(app, {}, "daskreg", _VARIABLE).source())
