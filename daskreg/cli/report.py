"""daskreg report: one HTML page about the file of a fit or about an output."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from daskreg.cli.options import LocalFile, Opening, OutputFile, open_options, verbosity


@click.command(short_help="An HTML page about a fit, a field or an output.")
@click.argument("thing", metavar="FIT_FIELD_OR_RUN", type=LocalFile(exists=True, path_type=Path))
@click.option(
    "-o",
    "--out",
    type=OutputFile(),
    required=True,
    help="The page (.html); the same facts are written next to it as .report.json.",
)
@click.option("--stack", help="Of the fit of a stack: the stack that was aligned, to show it before and after.")
@click.option("--fixed", help="Of the fit of a pair: the fixed image, to show both; with --moving.")
@click.option("--moving", help="Of the fit of a pair: the moving image; with --fixed.")
@click.option("--before", help="Of an output: a volume of the same shape to compare it with, such as the raw stack.")
@open_options
@verbosity
def command(
    thing: Path,
    *,
    out: Path,
    stack: str | None,
    fixed: str | None,
    moving: str | None,
    before: str | None,
    opening: Opening,
    quiet: bool,
) -> None:
    """Write a page about a fit (JSON), a displacement field (Zarr, or a file of another tool) or an output (OME-Zarr
    that daskreg wrote).

    \b
    daskreg report drift.json -o drift.html --stack stack.ome.zarr
    daskreg report fit.json -o fit.html --fixed fixed.tif --moving moving.tif
    daskreg report field.zarr -o field.html
    daskreg report aligned.ome.zarr -o run.html --before stack.ome.zarr

    --spacing, --unit and the like are for the volumes that --stack, --fixed, --moving or --before name. What `align` or
    `register` read is opened as it was then, where nothing else is given.
    """
    facts = _facts(thing)
    kind = _kind(thing, facts)
    if stack is not None and kind not in ("stack", "elastic-stack"):
        raise click.UsageError(f"--stack is for the fit of a stack, as `daskreg align` saves it, and {thing} is none")
    if (fixed or moving) is not None and kind not in ("pair", "deformable"):
        raise click.UsageError(
            f"--fixed and --moving are for the fit of a pair, as `daskreg register` saves it, and {thing} is none"
        )
    if (fixed is None) != (moving is None):
        raise click.UsageError("--fixed and --moving belong together: give both images")
    if before is not None and kind != "output":
        images = ": give the images as --fixed and --moving"
        also = {"stack": ": give the stack as --stack", "pair": images, "deformable": images}
        raise click.UsageError(
            f"--before is for an output, as `daskreg warp` writes it, and {thing} is none{also.get(kind, '')}"
        )
    named = {"stack": stack, "fixed": fixed, "moving": moving, "before": before}
    paths = {name: path for name, path in named.items() if path is not None}
    if not paths and opening != Opening():
        raise click.UsageError(
            "options such as --channel are for the volumes of --stack, --fixed, --moving or --before, and there is none"
        )
    volumes = {}
    for name, path in paths.items():
        like, level = opening.like(_opened(facts, name), path)
        volumes[name] = like.open(path, level=level)
    if kind == "output":
        from daskreg.output_page import report_output

        page = report_output(thing, out, **volumes)
    else:
        page = _of_fit(thing, facts, out, volumes)
    click.echo(f"saved to {page}")


def _kind(path: Path, facts: dict[str, Any]) -> str:
    """Of what a page is made: "output" or "field" of a folder, else the kind of a fit, as its file names it."""
    if not path.is_dir():
        return str(facts.get("kind", ""))
    from daskreg.errors import InputError
    from daskreg.formats.transforms import load

    try:
        load(path)
    except InputError:  # no file of a transform
        return "output"
    return "field"


def _opened(facts: dict[str, Any], name: str) -> Any:
    """How a fit says that one of its images was opened."""
    opened = facts.get("opened")
    return opened.get(name) if isinstance(opened, dict) and name in ("fixed", "moving") else opened


def _facts(path: Path) -> dict[str, Any]:
    """What a file of daskreg says; nothing of other files."""
    from daskreg.formats.transforms import read_json

    return dict(read_json(path)) if path.suffix == ".json" and path.is_file() else {}


def _of_fit(path: Path, facts: dict[str, Any], out: Path, volumes: dict[str, Any]) -> Path:
    """A page about the file of a fit, or of a transform alone."""
    import daskreg
    from daskreg.errors import InvalidTransformError
    from daskreg.fields.transform import FieldTransform
    from daskreg.reporting.page import report

    made = str(facts.get("command", ""))  # what the fit was made by, not its page
    if (kind := _kinds().get(str(facts.get("kind")))) is not None:
        try:
            fit = kind.load(path)
        except InvalidTransformError:  # of an earlier version: its facts can still be listed
            pass
        else:
            if volumes and isinstance(fit, daskreg.DeformableFit):
                return _with_images(fit, out, made, **volumes)
            return Path(fit.report(out, command=made, **volumes))
    transform, title = daskreg.load(path), f"daskreg: {path.name}"
    if isinstance(transform, FieldTransform):
        return transform.report(out, title=title)
    if isinstance(transform, daskreg.SliceAffines):
        return _of_slices(transform, facts, path, out)
    shown = {name: value for name, value in facts.items() if name not in ("schema", "version", "transform", "tables")}
    words = {"transform": transform.describe() if isinstance(transform, daskreg.Affine) else repr(transform)}
    return report({**words, **shown}, out, title=title)


def _with_images(fit: Any, out: Path, command: str, *, fixed: Any, moving: Any) -> Path:
    """A page about a fit with fields, and planes of its images as they are and after the moving one is warped."""
    import daskreg
    from daskreg.reporting.page import report
    from daskreg.reporting.pair_section import deformable_section
    from daskreg.reporting.planes import warped_planes

    still, other = _one_image(fixed, "fixed"), _one_image(moving, "moving")
    grid, pull = daskreg.grid(still), fit.moving_from_fixed
    before, after = (
        daskreg.warp(other, pull=one, like=still, fill=float("nan"), edge="clamp", dtype="float32", allow_empty=True)
        for one in (daskreg.Affine.identity(grid.ndim), pull)
    )
    section = deformable_section(fit, warped_planes(still, before, after, grid), before="before")
    return report(fit, out, title=f"daskreg: {fit.title}", sections=[section], command=command)


def _one_image(volume: Any, what: str) -> Any:
    """The one channel and time of a volume, without axes of length one.

    Raises: ChannelError where there are several.
    """
    from daskreg.volumes import volume_of

    found = volume_of(volume, colour_ndim=3)
    array = found.array.isel(found.only_entries(None, owner=what))
    return array.isel({dim: 0 for dim, size in array.sizes.items() if size == 1})


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
    return report(facts, out, title=f"daskreg: {path.name}", sections=[section])
