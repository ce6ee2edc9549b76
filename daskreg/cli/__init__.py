"""The command line: `daskreg COMMAND ...`. Parse, call one function, print.

Exit codes: 0 done; 1 failed, or some blocks failed (they are listed); 2 wrong usage or
input; 3 done, but chunks of the source were missing or damaged and are shown as fill; 130 interrupted.

info        the content of a path, and where its voxels lie
register    the motion between two images
align       the drift of a stack's slices
tomo        projections: align them, find the centre of rotation, reconstruct
icp         the motion between two point clouds
landmarks   the motion between paired points
transform   transform files: show them, make new ones
warp        apply a transform, Zarr to Zarr
convert     a volume as OME-Zarr
verify      check an output
report      an HTML page about a fit, a field or an output
view        volumes and warps in a browser
submit      a command as one SLURM job
status      how far a run is
cancel      stop a run
demo        the main workflow on a real volume
warm-up     compile what is needed later
doctor      what this machine has, with remedies
completion  commands and options completed by the shell
planning    a command that is planned for a cluster, and not run
options     options that several commands share
show        volumes, transforms and fits as lines of text
words       messages in the words of the command line, and suggestions
"""

from __future__ import annotations

import gc
import importlib
import logging
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import click

import daskreg
from daskreg.cli.one_volume import hint_for
from daskreg.cli.words import as_options, meant, similar
from daskreg.errors import DaskregError, InputError, MemoryBudgetError, MissingExtraError, OutputError
from daskreg.runtime.typed_command import typed

COMMANDS = (
    "info",
    "convert",
    "register",
    "align",
    "warp",
    "verify",
    "icp",
    "landmarks",
    "tomo",
    "transform",
    "report",
    "view",
    "submit",
    "status",
    "cancel",
    "demo",
    "warm-up",
    "doctor",
    "completion",
)
RESUMING = ("convert", "warp", "reconstruct")
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class Commands(click.Group):
    """Imports the module of a command only when the command is used, so that `--help` is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"daskreg.cli.{cmd_name.replace('-', '_')}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}{meant(similar(args[0], COMMANDS))}")
        return super().resolve_command(ctx, args)


def show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """The version, and those of what results depend on."""
    if value and not ctx.resilient_parsing:
        from daskreg.reporting.page import versions

        rest = [f"{name} {number}" for name, number in versions() if name != "daskreg"]
        click.echo(f"daskreg {daskreg.__version__}\n{', '.join(rest)}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-V", "--version", is_flag=True, is_eager=True, expose_value=False, callback=show_version,
              help="Show the version, and those of what results depend on, and exit.")  # fmt: skip
def app() -> None:
    """Align and warp image volumes larger than memory.

    \b
    Estimate a transform, check it, apply it:
      daskreg align stack.ome.zarr --out fit.json --plot drift.png
      daskreg warp stack.ome.zarr aligned.ome.zarr --pull fit.json

    An interrupted command resumes when it is run again. `daskreg doctor` looks at the machine, and `daskreg completion`
    lets the shell complete commands.
    """


def run(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; errors become one line on stderr."""
    words = list(sys.argv[1:] if args is None else args)
    try:
        with warnings.catch_warnings(), typed(words):
            warnings.showwarning = partial(_show_warning, _command_of(words))
            result = app.main(args=words, prog_name="daskreg", standalone_mode=False)
        return result if isinstance(result, int) else DONE
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        context, message = getattr(error, "ctx", None), error.format_message()
        message += hint_for(message, words)
        _print_error(message + (f" (see {context.command_path} --help)" if context else ""))
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        resumes = any(word in RESUMING for word in words)
        _print_error(
            "interrupted: finished blocks are kept, and the same command resumes" if resumes else "interrupted"
        )
        return INTERRUPTED
    except (InputError, OutputError, MissingExtraError, MemoryBudgetError) as error:
        _print_error(as_options(f"{error}", _command_of(words)))
        return USAGE
    except DaskregError as error:
        _print_error(as_options(f"{error}", _command_of(words)))
    except OSError as error:
        logging.getLogger("daskreg").debug("", exc_info=True)
        _print_error(f"{error.filename or ''}{': ' if error.filename else ''}{error.strerror or error}")
    return FAILED


def _command_of(words: Sequence[str]) -> click.Command | None:
    """The command of a line, also one of a group such as `tomo`, or the one that is submitted."""
    if "submit" in words and "--" in words:
        words = words[words.index("--") + 1 :]
    command: click.Command | None = app
    for word in (word for word in words if not word.startswith("-")):
        if not isinstance(command, click.Group):
            break
        command = command.get_command(click.Context(command), word)
    return command


def main() -> None:
    """The program `daskreg`."""
    status = run()
    gc.freeze()  # Python would look through all that was imported once more when it ends, which takes half a second
    sys.exit(status)


def _print_error(message: str) -> None:
    click.echo(f"daskreg: {message}", err=True)


def _show_warning(command: click.Command | None, message: Warning | str, *_: Any, **__: Any) -> None:
    _print_error(f"warning: {as_options(str(message), command)}")
