"""daskreg report: one HTML page about the file of a fit or about an output."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from daskreg.cli.options import LocalFile, Opening, OutputFile, command_line, open_options, verbosity


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
@open_options
@verbosity
def command(thing: Path, *, out: Path, stack: str | None, before: str | None, opening: Opening, quiet: bool) -> None:
    """Write a page about a fit (JSON) or an output (OME-Zarr that daskreg wrote).

    \b
    daskreg report fit.json -o fit.html --stack stack.ome.zarr
    daskreg report aligned.ome.zarr -o run.html --before stack.ome.zarr

    --spacing, --unit and the like are for the volume that --stack or --before names. A stack is opened as `align`
    opened it, where nothing else is given.
    """
    facts = _facts(thing)
    kind = "output" if thing.is_dir() else str(facts.get("kind", ""))
    if stack is not None and kind != "stack":
        raise click.UsageError(
            f"--stack is for the fit of a stack by poses, as `daskreg align` saves it, and {thing} is none"
        )
    if before is not None and kind != "output":
        also = ": give the stack as --stack" if kind == "stack" else ""
        raise click.UsageError(f"--before is for an output, as `daskreg warp` writes it, and {thing} is none{also}")
    shown = stack or before
    if shown is None and opening != Opening():
        raise click.UsageError("options such as --channel are for the volume of --stack or --before, and there is none")
    volume = None if shown is None else opening.like(facts.get("opened"), shown).open(shown)
    if kind == "output":
        from daskreg.output_page import report_output

        page = report_output(thing, out, before=volume, command=command_line())
    else:
        page = _of_fit(thing, facts, out, volume)
    click.echo(f"saved to {page}")


def _facts(path: Path) -> dict[str, Any]:
    """What a file of daskreg says; nothing of other files."""
    from daskreg.formats.transforms import read_json

    return dict(read_json(path)) if path.suffix == ".json" and path.is_file() else {}


def _of_fit(path: Path, facts: dict[str, Any], out: Path, stack: Any) -> Path:
    """A page about the file of a fit, or of a transform alone."""
    import daskreg
    from daskreg.errors import InvalidTransformError
    from daskreg.reporting.page import report

    if (kind := _kinds().get(str(facts.get("kind")))) is not None:
        try:
            fit = kind.load(path)
        except InvalidTransformError:  # of an earlier version: its facts can still be listed
            pass
        else:
            shown = {} if stack is None else {"stack": stack}
            return Path(fit.report(out, command=command_line(), **shown))
    transform = daskreg.load(path)
    if isinstance(transform, daskreg.SliceAffines):
        return _of_slices(transform, facts, path, out)
    shown = {name: value for name, value in facts.items() if name not in ("schema", "version", "transform", "tables")}
    words = {"transform": transform.describe() if isinstance(transform, daskreg.Affine) else repr(transform)}
    return report({**words, **shown}, out, title=f"daskreg: {path.name}", command=command_line())


def _kinds() -> dict[str, Any]:
    """The fits that can be loaded, by the kind that their files name."""
    import daskreg
    from daskreg.tomography.fit import TiltFit

    fits = (
        daskreg.PairFit, daskreg.DeformableFit, daskreg.StackFit, daskreg.ElasticStackFit, daskreg.CloudFit,
        daskreg.PointsFit, TiltFit,
    )  # fmt: skip
    return {fit.kind: fit for fit in fits}


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
