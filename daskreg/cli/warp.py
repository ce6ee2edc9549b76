"""daskreg warp: apply a transform to a volume of any size, Zarr to Zarr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from daskreg.cli.options import (
    TRANSFORM,
    NumberOrWord,
    Numbers,
    Opening,
    PartOfAll,
    chunk_policy_options,
    client_options,
    command_json,
    device,
    open_options,
    verbosity,
)
from daskreg.cli.planning import blocks_of_part, planning
from daskreg.cli.words import check_there

FILLED = 3
"""Exit code: done, but not all of the source was there."""

_PULL_OR_PUSH = (
    "give one of --pull T.json, for a fit of `register` or `align`, and --push T.json, which moves the content by T"
)


def storing(command: Any) -> Any:
    """The options for the storage of the output, shared with `convert`."""
    for option in (
        command_json,
        click.option("--dry-run", is_flag=True, help="Print the plan (blocks, bytes, memory, files) and stop."),
        click.option(
            "--part",
            type=PartOfAll(),
            help="Make only this share of the blocks; other processes, such as "
            "those of a job array, make the others with the same command.",
        ),
        click.option("--overwrite", is_flag=True, help="Replace an output that daskreg made."),
        click.option("--memory", help="Memory limit of one process, such as 4GiB."),
        click.option("--levels", type=NumberOrWord(), default="auto", help="Number of pyramid levels."),
        click.option(
            "--ome-version", "version", type=click.Choice(["0.4", "0.5", "0.6"]), default="0.5", show_default=True
        ),
        click.option("--downsample", type=click.Choice(["auto", "mean", "nearest", "mode"]), default="auto"),
        click.option("--shards", type=Numbers(int, ("auto", "none")), default="auto", help="Voxels in one file."),
        click.option("--chunks", type=Numbers(int, ("auto",)), default="auto", help="Voxels that are read at once."),
    ):
        command = option(command)
    return command


@click.command(short_help="Apply a transform, Zarr to Zarr, in bounded memory.")
@click.argument("source")
@click.argument("out")
@click.option(
    "--pull",
    type=TRANSFORM,
    multiple=True,
    help="Sample SOURCE where this transform maps each output point. Several are composed.",
)
@click.option("--push", type=TRANSFORM, multiple=True, help="Move the content by this transform. Several are composed.")
@click.option("--like", help="A volume whose grid the output gets.")
@click.option(
    "--grid",
    type=click.Choice(["union", "intersection"]),
    help="Enlarge or crop the output to the region that is reached.",
)
@click.option(
    "--order",
    type=click.Choice(["0", "1", "3"]),
    default="1",
    show_default=True,
    help="Interpolation order: 0 nearest (for labels), 1 linear, 3 cubic.",
)
@click.option("--fill", type=float, default=0.0, show_default=True, help="Value outside SOURCE.")
@click.option("--edge", type=click.Choice(["fill", "clamp"]), default="fill", show_default=True,
 help="The outer half of the outermost voxels: mixed with the fill, or their own value (as ITK).")  # fmt: skip
@click.option("--dtype", help="Type of the output; default: that of SOURCE.")
@click.option("--level", type=int, default=0, show_default=True, help="Pyramid level of SOURCE.")
@click.option("--resume", type=click.Choice(["unfinished", "changed"]), default="unfinished", show_default=True,
 help="changed: also redo blocks whose source or transform has changed.")  # fmt: skip
@storing
@open_options
@chunk_policy_options
@device
@verbosity
@client_options
def command(
    source: str,
    out: str,
    *,
    pull: tuple[Path, ...],
    push: tuple[Path, ...],
    like: str | None,
    grid: str | None,
    order: str,
    fill: float,
    edge: str,
    dtype: str | None,
    level: int,
    resume: str,
    opening: Opening,
    device: str,
    quiet: bool,
    **storage: Any,
) -> int:
    """Warp SOURCE into the new OUT, block by block, in bounded memory.

    \b
    daskreg warp stack.ome.zarr aligned.ome.zarr --pull drift.json --workers 4
    daskreg warp moving.tif registered.nii --pull fit.json --like fixed.tif
    daskreg warp labels.zarr moved.zarr --push fit.json --order 0 --dry-run

    OUT is OME-Zarr, or where it is named so a single file: .tif, .nii, .nrrd, .mha, .mrc or .h5.

    Give either --pull (a fit of `register` or `align`) or --push. The same command again
    resumes an interrupted run. The exit code is 3 if chunks of SOURCE were missing or damaged and are shown as fill.
    """
    import daskreg

    if like is not None:
        check_there(like)
    if planning() is not None:
        device = "cpu"  # the GPU is one of the nodes, not of this machine
    if bool(pull) == bool(push):
        raise click.UsageError(_PULL_OR_PUSH)
    transforms: Any = [daskreg.load(path) for path in pull or push]
    warped = daskreg.warp(
        opening.open(source, level=level),
        **{"pull" if pull else "push": transforms[0] if len(transforms) == 1 else transforms},
        like=None if like is None else daskreg.open(like, allow_outside=opening.allow_outside),
        grid=grid,
        order=int(order),
        fill=fill,
        edge=edge,
        dtype=dtype,
        device=device,
    )
    return store(warped, out, resume=resume == "unfinished" or resume, quiet=quiet, **storage)


def store(
    array: Any,
    out: str,
    *,
    resume: bool | str,
    quiet: bool,
    dry_run: bool,
    overwrite: bool,
    part: tuple[int, int] | None,
    version: str,
    as_json: bool,
    **layout: Any,
) -> int:
    """Write and print the result; with `dry_run` only print the plan.

    Returns: the exit code: 3 where the output shows chunks that are missing or damaged as the fill value, else 0.
    """
    import daskreg

    if layout["shards"] == "none":
        layout["shards"] = None
    asked = planning()
    if asked is not None:
        asked.of_output(array, out, part=part, **_layout(layout, version))
        return 0
    if dry_run:
        _show_plan(array, out, part=part, version=version, as_json=as_json, **layout)
        return 0
    run: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "part": part, "version": version}
    written = daskreg.write(array, out, progress=not quiet, **run, **layout)
    click.echo(json.dumps(written.to_json(), indent=1) if as_json else repr(written))
    return FILLED if written.missing or written.damaged else 0


def _layout(layout: dict[str, Any], version: str) -> dict[str, Any]:
    """The options of the storage as a plan takes them."""
    from daskreg.formats.ome import V2

    # An older version has no shards.
    return layout | {"shards": None} if version == V2 and layout["shards"] == "auto" else layout


def _show_plan(
    array: Any, out: str, *, part: tuple[int, int] | None, version: str, as_json: bool, **layout: Any
) -> None:
    """What a run with these options would do, and of it the share of a part."""
    from dask.utils import format_time

    import daskreg

    made = daskreg.plan(array, out, probe=True, **_layout(layout, version))
    facts, lines = made.to_json(), [repr(made)]
    if part is not None:
        own = sum(blocks_of_part(made, part, out))
        share = "" if made.seconds is None else f", about {format_time(made.seconds * own / made.block_count)}"
        facts["part"] = {"number": part[0], "of": part[1], "blocks": own}
        lines.append(f"  part     {part[0]}/{part[1]}: {own:,} of {made.block_count:,} blocks{share}")
    click.echo(json.dumps(facts, indent=1) if as_json else "\n".join(lines))
