"""daskreg register: the motion between two images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from daskreg.cli.options import (
    Numbers,
    Opening,
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


@click.command(short_help="The motion between two images.")
@click.argument("fixed")
@click.argument("moving")
@fit_outputs
@click.option("--model", default="affine", show_default=True, help="translation, rigid, similarity, affine, some of "
              "rotation,translation,scale,shear, or bspline.")  # fmt: skip
@click.option("--metric", default="auto", show_default=True, help="ncc, mse, mae, lncc or mi. auto: ncc; for "
              "bspline lncc where brightness or contrast vary over the images.")  # fmt: skip
@click.option(
    "--init", default="auto", show_default=True, help="auto, identity, moments, phase, search, or the file of a fit."
)
@click.option("--control-spacing", type=Numbers(float), help="Of the finest control points of bspline, world units.")
@click.option("--level", type=int, default=0, show_default=True, help="Pyramid level of both images to use.")
@click.option("--fixed-mask", "--mask", "fixed_mask", help="A volume that is positive where voxels of FIXED count.")
@click.option("--moving-mask", help="A volume that is positive where voxels of MOVING count.")
@click.option("--resolution", type=click.Choice(["auto", "coarse", "full"]), default="auto", show_default=True,
              help="Of images that do not fit the memory. full: every voxel, block by block.")  # fmt: skip
@click.option("--checkpoint", type=Path, help="File of the blocks that are finished with --resolution full; by default "
              "FIT.blocks.jsonl.")  # fmt: skip
@open_options
@device
@client_options
@verbosity
def command(
    fixed: str,
    moving: str,
    *,
    model: str,
    metric: str,
    init: str,
    control_spacing: float | tuple[float, ...] | None,
    level: int,
    fixed_mask: str | None,
    moving_mask: str | None,
    resolution: str,
    checkpoint: Path | None,
    opening: Opening,
    device: str,
    quiet: bool,
    out: Path,
    keep_failed: bool,
    **outputs: Any,
) -> int:
    """Estimate where each point of FIXED lies in MOVING.

    \b
    daskreg register fixed.tif moving.tif -o fit.json --model rigid --report fit.html
    daskreg register a.zarr b.zarr -o fit.json --channel DAPI --level 1
    daskreg register ct.nii mr.nii -o fit.json --metric mi --mask brain.nii

    `daskreg warp MOVING OUT.zarr --pull FIT.json --like FIXED` then warps MOVING onto FIXED.

    Blocks that are finished with --resolution full are stored next to the fit (FIT.blocks.jsonl), or where --checkpoint
    says, until the fit is done, so the same command resumes after an interruption.
    """
    import daskreg

    images = [opening.open(path, level=level) for path in (fixed, moving)]
    start: Any = daskreg.load(init) if init.endswith(".json") else init
    groups: Any = tuple(model.split(",")) if "," in model else model
    file = out.with_name(out.stem + ".blocks.jsonl") if checkpoint is None and resolution == "full" else checkpoint
    with (
        shown_progress("registering", quiet=quiet) as progress,
        control_spacing_named(),
    ):
        masks = {"fixed_mask": opened_mask(fixed_mask), "moving_mask": opened_mask(moving_mask)}
        fit = daskreg.register(
            *images,
            **masks,
            model=groups,
            metric=metric,
            init=start,
            spacing=control_spacing,
            resolution=resolution,
            checkpoint=file,
            device=device,
            progress=progress,
        )
    opened = {name: opening.to_dict(path, level) for name, path in (("fixed", fixed), ("moving", moving))}
    code = save_outputs(fit, out=out, keep_failed=keep_failed, opened=opened, **outputs)
    if file is not None and resolution == "full":
        # Also of a fit that failed: its blocks are of no use to other options.
        file.unlink(missing_ok=True)
    return code
