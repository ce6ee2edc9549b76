"""Options that several commands share, and what the commands do with them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import Any

import click

from daskreg.cli.words import check_there, meant, suggested_paths

Command = Callable[..., Any]


class LocalFile(click.Path):
    """A path on a disk: of a URL, the reason why it cannot be used is said, and not that there is no such file."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from daskreg.runtime.paths import shown, unusable

        if reason := unusable(value):
            self.fail(f"{shown(value)}: {reason}", param, ctx)
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            alike = meant(suggested_paths(str(value))) if self.exists else ""
            raise click.BadParameter(error.message.rstrip(".") + alike, ctx, param) from error


class TransformPath(LocalFile):
    """What holds a transform: a file, a Zarr group, or the prefix of the files of ANTs."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if Path(f"{value}1Warp.nii.gz").is_file() or (Path(value) / "zarr.json").is_file():
            return Path(value)
        return super().convert(value, param, ctx)


TRANSFORM = TransformPath()


class OutputFile(LocalFile):
    """A file to write, in a folder that exists. This is checked before hours of work, not after."""

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


class FigureFile(OutputFile):
    """A figure to write, which matplotlib can: that it is installed and knows the suffix is also checked beforehand."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from daskreg.reporting.plots import figure_suffixes

        path = super().convert(value, param, ctx)
        known = figure_suffixes()
        if path.suffix.lower() not in known:
            self.fail(f"{path} is no figure: it must end in one of {' '.join(known)}", param, ctx)
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


class PartOfAll(click.ParamType):  # type: ignore[type-arg]
    """One of several parts, as i/n with i from 1 to n."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        number, slash, of = str(value).partition("/")
        if not (slash and number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
            self.fail(f"{value!r} is not like 3/16: parts are counted from 1", param, ctx)
        return int(number), int(of)


class NumberOrWord(click.ParamType):  # type: ignore[type-arg]
    """An integer if the text is one, else the text."""

    name = "number|name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value)
        return int(text) if text.lstrip("-").isdigit() else text


def verbosity(command: Command) -> Command:
    """--quiet, --verbose: messages of the package on stderr. Passes `quiet` on to the command."""

    @click.option("-q", "--quiet", is_flag=True, help="Print only errors and results.")
    @click.option("-v", "--verbose", is_flag=True, help="Print more messages.")
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


def client_options(command: Command) -> Command:
    """--scheduler, --cluster, --workers: the command runs with that client, if any, as the current one."""

    @click.option("--scheduler", metavar="ADDRESS|FILE", help="A running Dask scheduler: address, or its JSON file.")
    @click.option(
        "--cluster",
        type=LocalFile(exists=True, dir_okay=False),
        help="Start the workers that a cluster file describes.",
    )
    @click.option("--workers", type=click.IntRange(min=1), help="Start this many local worker processes.")
    @wraps(command)
    def wrapped(*args: Any, scheduler: str | None, cluster: str | None, workers: int | None, **options: Any) -> Any:
        if scheduler and (cluster or workers):
            raise click.UsageError("--scheduler names a running cluster; leave out --cluster and --workers")
        with _client(scheduler or cluster, workers, options.get("device")):
            return command(*args, **options)

    return wrapped


def device(command: Command) -> Command:
    return click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")(command)


_OF_VOXELS = ("channel", "time", "spacing", "unit", "series", "shape", "dtype")


@dataclass(frozen=True)
class Opening:
    """How a command opens volumes: the options of `open_options`, and of `chunk_policy_options` where it has them."""

    channel: str | int | None = None
    time: int | None = None
    spacing: float | None = None
    unit: str | None = None
    allow_outside: bool = False
    series: str | int | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    missing: str = "fill"
    corrupt: str = "error"

    def to_dict(self, path: str | list[str], level: int) -> dict[str, Any]:
        """How a level of a volume was opened, for the file of a fit: the options that say what its voxels are."""
        given = {name: getattr(self, name) for name in _OF_VOXELS}
        return {"name": _file_name(path), "level": level} | {k: v for k, v in given.items() if v is not None}

    def like(self, stored: Any, path: str) -> tuple[Opening, int]:
        """This with what `to_dict` stored of a file of the same name, where nothing is given here, and its level."""
        if not isinstance(stored, dict) or stored.get("name") != _file_name(path):
            return self, 0
        known = {name: stored[name] for name in _OF_VOXELS if isinstance(stored.get(name), str | int | float | list)}
        found = {name: value for name, value in known.items() if getattr(self, name) is None}
        options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
        level = stored.get("level")
        return replace(self, **options), level if isinstance(level, int) else 0

    def open(self, path: str | list[str], *, level: int = 0) -> Any:
        """The lazy volume at a path, or of the files of a sequence."""
        import daskreg

        if isinstance(path, str):
            check_there(path)
        return daskreg.open(path, level=level, **vars(self))


def _file_name(path: str | list[str]) -> str:
    """The last part of a path, of a URL without user, query and fragment; of the files of a sequence, nothing."""
    from daskreg.runtime.messages import redact_word

    if not isinstance(path, str):
        return ""
    if "://" in path:
        path = re.split(r"[?#]", redact_word(path), maxsplit=1)[0]
    return path.rstrip("/").rpartition("/")[2].removeprefix("***@")


def open_options(command: Command) -> Command:
    """--channel, --time, --spacing, --unit, --series, --raw-shape, --raw-dtype, --allow-outside: as `opening`."""

    @click.option("--channel", type=NumberOrWord(), help="The channel to use, by number or name.")
    @click.option("--time", type=int, help="The time to use, by number, counted from 0.")
    @click.option("--spacing", type=Numbers(float), help="Voxel spacing; replaces the file's.")
    @click.option("--unit", help="Unit of the spacing, such as um; replaces the file's.")
    @click.option("--series", type=NumberOrWord(), help="Of a file that holds several, by number or name; as FILE::/1.")
    @click.option(
        "--raw-shape", type=Numbers(int), help="Shape of a .raw file, slowest axis first, such as 100,200,300."
    )
    @click.option("--raw-dtype", help="Type of a .raw file: uint16, or >u2 for bytes in the opposite order.")
    @click.option("--allow-outside", is_flag=True, help="Read files outside the folder of a file that names them.")
    @wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        raw = {"shape": options.pop("raw_shape"), "dtype": options.pop("raw_dtype")}  # `warp` has a dtype of its own
        names = {field.name for field in fields(Opening)} - set(raw)
        values = {name: options.pop(name) for name in names & set(options)}
        return command(*args, opening=Opening(**values, **raw), **options)

    return wrapped


def opened_mask(path: str | None) -> Any:
    """A mask at a path, or None."""
    if path is None:
        return None
    import daskreg

    check_there(path)
    return daskreg.open(path)


def chunk_policy_options(command: Command) -> Command:
    """--missing, --corrupt: how chunks are treated that are not stored or cannot be decoded."""
    either = click.Choice(["fill", "error"])
    missing = "A chunk that is not stored: fill and count it, or stop with an error."
    corrupt = "A chunk that cannot be decoded: fill and report it, or stop with an error."
    command = click.option("--corrupt", type=either, default="error", show_default=True, help=corrupt)(command)
    return click.option("--missing", type=either, default="fill", show_default=True, help=missing)(command)


command_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def fit_outputs(command: Command) -> Command:
    """--out, --plot, --report, --keep-failed, --json of the commands that estimate a transform."""
    command = command_json(command)
    command = click.option("--keep-failed", is_flag=True, help="Save the fit even if it failed.")(command)
    command = click.option("--report", "page", type=OutputFile(), help="Write an HTML page about the fit.")(command)
    command = click.option("--plot", type=FigureFile(), help="Write a figure of the fit (.png, .pdf, .svg).")(command)
    return click.option("-o", "--out", type=OutputFile(".json"), required=True, help="The fit, as JSON.")(command)


def save_outputs(
    fit: Any,
    *,
    out: Path,
    plot: Path | None,
    page: Path | None,
    keep_failed: bool,
    table: Path | None = None,
    as_json: bool = False,
    opened: dict[str, Any] | None = None,
    **shown: Any,
) -> int:
    """Print a fit, write the requested files, and return the exit code.

    A fit that failed is not saved, so that no later step uses it as if it were good. What took the time is written
    first: the fit and its table, and then what is drawn of them.

    Args:
        opened: how the input was opened (`Opening.to_dict`), for `daskreg report`; so is the command.
        shown: options of `fit.report`.
    """
    from daskreg.cli.show import fit_lines
    from daskreg.formats.transforms import write_json
    from daskreg.reporting.fit import is_fit_file
    from daskreg.runtime.typed_command import typed_command

    command = typed_command()
    if fit.ok or keep_failed:
        if is_fit_file(out):
            made = {"opened": opened, "command": command}
            write_json(fit.stored() | {name: value for name, value in made.items() if value}, out)
        else:
            fit.save(out)
    if as_json:
        click.echo(json.dumps(fit.to_dict(), indent=1))
    for line in () if as_json else fit_lines(fit):
        click.echo(line)
    if (fit.ok or keep_failed) and not as_json:
        click.echo(f"saved to {out}")
    if table is not None:
        fit.save_table(table)
    if plot is not None:
        fit.plot().savefig(plot, dpi=110)
    if page is not None:
        fit.report(page, command=command, **shown)
    for also in (one for one in (table, plot, page) if one is not None and not as_json):
        click.echo(f"saved to {also}")
    if fit.ok:
        return 0
    not_saved = "" if keep_failed else f"; {out} was not written (--keep-failed writes it in any case)"
    click.echo(f"daskreg: failed: {fit.status.value}{not_saved}", err=True)
    return 1


@contextmanager
def control_spacing_named() -> Iterator[None]:
    """Name the option `spacing` of a function as it is typed: `--spacing` is that of the voxels."""
    from daskreg.errors import OptionError

    try:
        yield
    except OptionError as error:
        if not str(error).startswith("spacing="):
            raise
        raise OptionError(f"control_{error}") from error


@contextmanager
def shown_progress(label: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar, as a function of (done, total) that an estimate calls; None with --quiet."""
    if quiet:
        yield None
        return
    from daskreg.runtime.progress import progress_bar

    with progress_bar(label) as show:
        yield lambda done, total: show(done, total, 0)


@contextmanager
def _client(spec: str | None, workers: int | None, device: str | None) -> Iterator[Any]:
    """The client to use: the current one inside the block, closed at its end; None for local threads."""
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


@contextmanager
def scheduler_client(spec: str | None) -> Iterator[Any]:
    """A client of a scheduler that runs already, by address or file; None where none is named."""
    if spec is None:
        yield None
        return
    from daskreg.cluster import connect

    with connect(spec) as client:
        yield client


class _Echo(logging.Handler):
    """Log records as lines on stderr, as it is when a record is written."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        click.echo(f"daskreg: {prefix}{record.getMessage()}", err=True)
        if record.exc_info:
            click.echo(logging.Formatter().formatException(record.exc_info), err=True)
