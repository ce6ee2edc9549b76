"""Options that commands share, and what they lead to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]


class OutputFile(click.Path):
    """A file to be written, whose folder is there already: said before hours of work, not after."""

    def __init__(self, suffix: str = "") -> None:
        super().__init__(dir_okay=False, path_type=Path)
        self.suffix = suffix

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(str(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"there is no folder {path.parent}", param, ctx)
        if self.suffix and path.suffix != self.suffix:
            self.fail(f"{path} must end in {self.suffix}; `daskreg transform convert` makes other files", param, ctx)
        return path


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Comma-separated numbers, one for all axes or one for each (z,y,x)."""

    name = "z,y,x"

    def __init__(self, kind: type[int] | type[float], words: tuple[str, ...] = ()) -> None:
        self.kind, self.words = kind, words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or value in self.words:
            return value
        try:
            numbers = tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            also = f" or {', '.join(self.words)}" if self.words else ""
            self.fail(f"{value!r} is not like 2 or 1,2,2{also}", param, ctx)
        return numbers[0] if len(numbers) == 1 else numbers


class NumberOrWord(click.ParamType):  # type: ignore[type-arg]
    """A number where it reads as one, else the text."""

    name = "number|name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value)
        return int(text) if text.lstrip("-").isdigit() else text


def loudness(command: Command) -> Command:
    """--quiet, --verbose: messages of the package on stderr. The command is given `quiet`."""

    @click.option("-q", "--quiet", is_flag=True, help="Nothing but errors and results.")
    @click.option("-v", "--verbose", is_flag=True, help="Say more about what happens.")
    @wraps(command)
    def wrapped(*args: Any, quiet: bool, verbose: bool, **options: Any) -> Any:
        log = logging.getLogger("daskreg")
        handler = _Echo()
        before = log.level
        log.addHandler(handler)
        log.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
        try:
            return command(*args, quiet=quiet, **options)
        finally:
            log.removeHandler(handler)
            log.setLevel(before)

    return wrapped


def where_it_runs(command: Command) -> Command:
    """--scheduler, --cluster, --workers; the command runs under that client, if any, as the current one."""

    @click.option("--scheduler", metavar="ADDRESS|FILE", help="A running Dask scheduler: address, or its JSON file.")
    @click.option(
        "--cluster", type=click.Path(exists=True, dir_okay=False), help="Start what a cluster file describes."
    )
    @click.option("--workers", type=click.IntRange(min=1), help="Start this many local worker processes.")
    @wraps(command)
    def wrapped(*args: Any, scheduler: str | None, cluster: str | None, workers: int | None, **options: Any) -> Any:
        if scheduler and (cluster or workers):
            raise click.UsageError("--scheduler says where the work runs; leave out --cluster and --workers")
        with _client(scheduler or cluster, workers, options.get("device")):
            return command(*args, **options)

    return wrapped


def device(command: Command) -> Command:
    return click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")(command)


def reading(command: Command) -> Command:
    """--channel, --spacing, --unit: how volumes are opened."""
    command = click.option("--unit", help="Of the spacing, such as um; in place of what the file states.")(command)
    command = click.option("--spacing", type=Numbers(float), help="Voxel spacing in place of the file's.")(command)
    return click.option("--channel", type=NumberOrWord(), help="The channel to use, by number or name.")(command)


def damage(command: Command) -> Command:
    """--missing, --corrupt: what becomes of chunks that are not there or cannot be decoded."""
    either = click.Choice(["fill", "error"])
    missing = "A chunk that is not stored is filled and counted, or ends in an error."
    corrupt = "A chunk that cannot be decoded is filled and reported, or ends in an error."
    command = click.option("--corrupt", type=either, default="error", show_default=True, help=corrupt)(command)
    return click.option("--missing", type=either, default="fill", show_default=True, help=missing)(command)


def fit_outputs(command: Command) -> Command:
    """--out, --plot, --report, --keep-failed of commands that estimate something."""
    command = click.option("--keep-failed", is_flag=True, help="Save the fit even if it failed.")(command)
    command = click.option("--report", "page", type=OutputFile(), help="Write an HTML page about the fit.")(command)
    command = click.option("--plot", type=OutputFile(), help="Write a picture of the fit (.png, .pdf, .svg).")(command)
    return click.option("--out", type=OutputFile(".json"), required=True, help="The fit, as JSON.")(command)


def deliver(fit: Any, *, out: Path, plot: Path | None, page: Path | None, keep_failed: bool) -> int:
    """Print a fit, write what was asked for, and return the exit code.

    A fit that failed is not saved, so that nothing downstream takes it for a good one.
    """
    from daskreg.cli.show import fit_lines

    for line in fit_lines(fit):
        click.echo(line)
    if plot is not None:
        fit.plot().savefig(plot, dpi=110)
    if page is not None:
        fit.report(page)
    if fit.ok or keep_failed:
        fit.save(out)
        click.echo(f"saved to {out}")
    if fit.ok:
        return 0
    kept = "" if keep_failed else f"; {out} was not written (--keep-failed writes it all the same)"
    click.echo(f"daskreg: failed: {fit.status.value}{kept}", err=True)
    return 1


@contextmanager
def counting(label: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """What an estimate calls with (done, total) to show how far it is; None where nobody wants to know."""
    if quiet:
        yield None
        return
    from daskreg.runtime.progress import progress_bar

    with progress_bar(label) as show:
        yield lambda done, total: show(done, total, 0)


@contextmanager
def _client(spec: str | None, workers: int | None, device: str | None) -> Iterator[Any]:
    """The client to work with, current and closed at the end; None for local threads."""
    if spec is None and workers is None:
        yield None
        return
    from daskreg.cluster import connect

    local = spec is None
    with connect(spec, workers=workers, device=device.partition(":")[0] if local and device else None) as client:
        log = logging.getLogger("daskreg")
        log.info("%s, dashboard %s", client, client.dashboard_link)
        client.forward_logging("daskreg", level=log.level)
        yield client


class _Echo(logging.Handler):
    """Log records as lines on the stderr of now."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        click.echo(f"daskreg: {prefix}{record.getMessage()}", err=True)
        if record.exc_info:
            click.echo(logging.Formatter().formatException(record.exc_info), err=True)
