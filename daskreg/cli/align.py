"""daskreg align: the drift of a stack's slices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from daskreg.cli.one_volume import volume_argument
from daskreg.cli.options import (
    LocalFile,
    NumberOrWord,
    Numbers,
    Opening,
    OutputFile,
    client_options,
    control_spacing_named,
    device,
    fit_outputs,
    open_options,
    opened_mask,
    save_outputs,
    shown_progress,
    verbosity,
)
from daskreg.cli.planning import planning
from daskreg.errors import DegenerateImageError

_FILE = LocalFile(exists=True, dir_okay=False, path_type=Path)


@click.command(short_help="The drift of a stack's slices.")
@volume_argument("stack")
@fit_outputs
@click.option("--table", type=OutputFile(), help="Write the parameters of each slice as CSV, or as JSON (.json): "
              "radians, world units.")  # fmt: skip
@click.option("--edit", type=_FILE, help="Estimate nothing: read the slices' poses from an edited --table. A slice "
              "without a row, or with empty cells, gets a pose interpolated from its neighbours.")  # fmt: skip
@click.option("--model", default="rigid", show_default=True, help="translation, rigid, similarity, affine, some of "
              "rotation,translation,scale,shear, or bspline.")  # fmt: skip
@click.option("--control-spacing", type=Numbers(float), help="Of the control points of bspline, world units.")
@click.option("--reference", type=NumberOrWord(), default="neighbors", show_default=True,
              help="neighbors, previous, first, mean, or the number of a slice.")  # fmt: skip
@click.option(
    "--neighbors",
    type=int,
    default=2,
    show_default=True,
    help="Number of slices on each side to which a slice is registered.",
)
@click.option("--anchor", "anchors", multiple=True, metavar="SLICE=FILE",
              help="A slice with a known pose, as a transform file; the option can be repeated.")  # fmt: skip
@click.option("--metric", default="ncc", show_default=True, help="ncc or mse.")
@click.option("--trend", type=click.Choice(["remove", "keep"]), default="remove", show_default=True,
              help="keep: leave slow motion in the result.")  # fmt: skip
@click.option(
    "--smooth", type=float, default=15, show_default=True, help="Period in slices above which motion is slow."
)
@click.option("--common-line", metavar="AXIS", help="Estimate shifts along this axis only, from the sums across it: "
              "for projections, the tilt axis. With --model translation.")  # fmt: skip
@click.option("--mask", help="A volume, or an image for every slice, that is positive where voxels count.")
@click.option("--previous", type=_FILE, help="The saved fit of an earlier, shorter version of the stack.")
@click.option(
    "--axis", type=NumberOrWord(), default=0, show_default=True, help="The axis along which the slices are ordered."
)
@click.option("--level", type=int, default=0, show_default=True, help="Pyramid level to use.")
@open_options
@device
@client_options
@verbosity
def command(
    stack: str | list[str],
    *,
    table: Any,
    edit: Path | None,
    model: str,
    control_spacing: float | tuple[float, ...] | None,
    anchors: tuple[str, ...],
    mask: str | None,
    axis: str | int,
    level: int,
    opening: Opening,
    quiet: bool,
    page: Path | None,
    out: Path,
    plot: Path | None,
    as_json: bool,
    keep_failed: bool,
    **options: Any,
) -> int:
    """Estimate where each slice of the aligned STACK lies in the raw one.

    \b
    daskreg align stack.ome.zarr -o drift.json --report drift.html
    daskreg align "slices/*.tif" -o drift.json --spacing 50,4,4 --unit nm --model translation
    daskreg warp stack.ome.zarr aligned.ome.zarr --pull drift.json --workers 4

    `daskreg warp STACK OUT.zarr --pull FIT.json` then aligns it. The same file aligns any other volume of the
    same slices (another channel, another detector). Finished pairs are stored next to
    the fit (FIT.pairs.jsonl) until it is saved, so the same command resumes after an interruption.
    """
    import daskreg
    from daskreg.stacks.align import from_table

    volume = opening.open(stack, level=level)
    groups: Any = tuple(model.split(",")) if "," in model else model
    checkpoint = out.with_name(out.stem + ".pairs.jsonl") if options["reference"] in ("neighbors", "previous") else None
    given = {"model": groups, "spacing": control_spacing, "axis": axis, "mask": opened_mask(mask)}
    given |= {"anchors": _read_anchors(anchors), "checkpoint": checkpoint}
    asked = planning()
    if asked is not None:
        if edit is None:  # else nothing is estimated
            with control_spacing_named():
                asked.of_stack(volume, **given, **options)
        return 0
    if edit is not None:
        fit = from_table(volume, edit, axis=axis)
    else:
        with (
            shown_progress("aligning", quiet=quiet) as progress,
            _removed_if_degenerate(checkpoint),
            control_spacing_named(),
        ):
            fit = daskreg.align_stack(volume, **given, progress=progress, **options)
    outputs = {"out": out, "table": table, "plot": plot, "page": page}
    opened = opening.to_dict(stack, level)
    code = save_outputs(fit, **outputs, keep_failed=keep_failed, as_json=as_json, opened=opened, stack=volume)
    if checkpoint is not None and out.exists() and (fit.ok or keep_failed) and edit is None:
        checkpoint.unlink(missing_ok=True)
    return code


@contextmanager
def _removed_if_degenerate(checkpoint: Path | None) -> Iterator[None]:
    """Remove the checkpoint of a stack that no options can align."""
    try:
        yield
    except DegenerateImageError:
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        raise


def _read_anchors(anchors: tuple[str, ...]) -> dict[int, Any]:
    """SLICE=FILE pairs as transforms by slice."""
    import daskreg

    transforms: dict[int, Any] = {}
    for anchor in anchors:
        number, equals, path = anchor.partition("=")
        if not equals or not number.isdigit():
            raise click.UsageError(f"--anchor {anchor}: write SLICE=FILE, such as 12=pose.json")
        transform = daskreg.load(path)
        if transform.array_ndim > transform.ndim:
            raise click.UsageError(f"--anchor {anchor}: the file has a map for each of many slices, not a single one")
        transforms[int(number)] = transform
    return transforms
