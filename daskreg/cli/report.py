"""daskreg report: one HTML page about the file of a fit or about an output."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from daskreg.cli.info import level_grids
from daskreg.cli.options import LocalFile, OutputFile, verbosity
from daskreg.errors import InputError

MOST_PIXELS = 512


@click.command(short_help="An HTML page about a fit or an output.")
@click.argument("thing", metavar="RUN_OR_FIT", type=LocalFile(exists=True, path_type=Path))
@click.option(
    "--out",
    type=OutputFile(),
    required=True,
    help="The page (.html); the same facts are written next to it as .report.json.",
)
@verbosity
def command(thing: Path, *, out: Path, quiet: bool) -> None:
    """Write a page about a fit (JSON) or an output (OME-Zarr that daskreg wrote)."""
    from daskreg.reporting.page import report

    facts, figures = _of_run(thing) if thing.is_dir() else _of_fit(thing)
    page = report(facts, out, title=f"daskreg: {thing.name}", figures=figures)
    click.echo(f"saved to {page}")


def _of_fit(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts from the file of a fit, and the trajectory if it is the fit of a stack."""
    import daskreg
    from daskreg.formats.transforms import read_json
    from daskreg.reporting import plots

    transform = daskreg.load(path)
    facts = dict(read_json(path)) if path.suffix == ".json" else {}
    shown = {name: value for name, value in facts.items() if name not in ("schema", "version", "transform", "tables")}
    if transform.array_ndim == transform.ndim:  # no map for each slice
        return {"transform": transform.describe(), **shown}, {}
    centre = shown.get("centre", [0.0] * transform.ndim)
    fit = SimpleNamespace(**{**shown, "raw_from_aligned": transform, "centre": centre})
    return {"transform": repr(transform), **shown}, {"Trajectory of the slices": plots.drift(fit)}


def _of_run(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts from the ledger next to an output, and a figure of the output."""
    from dask.utils import format_bytes

    import daskreg
    from daskreg.blocks.record.ledger import Ledger
    from daskreg.reporting import plots

    ledger = Ledger(path.resolve())
    if not ledger.exists:
        raise InputError(f"{path} has no ledger {ledger.folder.name} next to it: daskreg did not write it")
    entries = list(ledger.entries().values())
    counts = [
        sum(entry.level == level for entry in entries)
        for level in range(1 + max((e.level for e in entries), default=0))
    ]
    facts: dict[str, Any] = {
        "output": str(path),
        "finished blocks of each level": counts,
        "stored": format_bytes(sum(size for entry in entries for _, _, size in entry.files)),
        "voxels clipped": sum(entry.clipped for entry in entries),
        "missing chunks read as fill": sum(entry.lost.missing for entry in entries if entry.level == 0),
        "damaged chunks read as fill": sorted({name for entry in entries for name in entry.lost.damaged}),
        **{f"level {number}": repr(grid) for number, grid in enumerate(level_grids(str(path)))},
    }
    volume = daskreg.open(path, level=-1)
    if volume.ndim != 3 or max(volume.shape) > 4 * MOST_PIXELS:
        return facts, {}
    figure = plots.sides(volume, spacing=daskreg.grid(volume).spacing, names=("output",))
    return facts, {"The coarsest level: a slice, and side views": figure}
