"""daskreg report: one HTML page about the file of a fit or about an output."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from daskreg.cli.options import LocalFile, OutputFile, command_line, verbosity


@click.command(short_help="An HTML page about a fit or an output.")
@click.argument("thing", metavar="RUN_OR_FIT", type=LocalFile(exists=True, path_type=Path))
@click.option(
    "-o",
    "--out",
    type=OutputFile(),
    required=True,
    help="The page (.html); the same facts are written next to it as .report.json.",
)
@click.option("--stack", help="Of the fit of a stack: the stack that was aligned, to show it before and after.")
@click.option("--before", help="Of an output: a volume of the same shape to compare it with, such as the raw stack.")
@verbosity
def command(thing: Path, *, out: Path, stack: str | None, before: str | None, quiet: bool) -> None:
    """Write a page about a fit (JSON) or an output (OME-Zarr that daskreg wrote).

    \b
    daskreg report fit.json -o fit.html --stack stack.ome.zarr
    daskreg report aligned.ome.zarr -o run.html --before stack.ome.zarr
    """
    import daskreg

    if thing.is_dir():
        from daskreg.output_page import report_output

        page = report_output(
            thing, out, before=None if before is None else daskreg.open(before), command=command_line()
        )
    else:
        page = _of_fit(thing, out, stack)
    click.echo(f"saved to {page}")


def _of_fit(path: Path, out: Path, stack: str | None) -> Path:
    """A page about the file of a fit, or of a transform alone."""
    import daskreg
    from daskreg.errors import InvalidTransformError
    from daskreg.formats.transforms import read_json
    from daskreg.reporting.page import report

    facts: dict[str, Any] = dict(read_json(path)) if path.suffix == ".json" else {}
    if facts.get("kind") == "stack":
        volume = None if stack is None else daskreg.open(stack)
        return daskreg.StackFit.load(path).report(out, stack=volume, command=command_line())
    if facts.get("kind") == "pair":
        try:
            return daskreg.PairFit.load(path).report(out, command=command_line())
        except InvalidTransformError:  # of an earlier version: its facts can still be listed
            pass
    transform = daskreg.load(path)
    if isinstance(transform, daskreg.SliceAffines):
        return _of_slices(transform, facts, path, out)
    shown = {name: value for name, value in facts.items() if name not in ("schema", "version", "transform", "tables")}
    words = {"transform": transform.describe() if isinstance(transform, daskreg.Affine) else repr(transform)}
    return report({**words, **shown}, out, title=f"daskreg: {path.name}", command=command_line())


def _of_slices(transform: Any, facts: dict[str, Any], path: Path, out: Path) -> Path:
    """A page about the maps of slices: their parameters along the stack."""
    from daskreg.reporting.page import report
    from daskreg.reporting.section import Section, Verdict
    from daskreg.reporting.stack_section import drift_charts

    maps = SimpleNamespace(raw_from_aligned=transform, centre=[0.0] * transform.ndim)
    section = Section(
        "Maps of slices", Verdict(None, repr(transform)), charts=drift_charts(maps),
        missing="Only maps are in this file: whether they are good is not said.",
    )  # fmt: skip
    return report(facts, out, title=f"daskreg: {path.name}", sections=[section], command=command_line())
