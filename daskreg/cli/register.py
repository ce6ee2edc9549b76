"""daskreg register: the motion between two images."""

from __future__ import annotations

from typing import Any

import click

from daskreg.cli.options import (
    Opening,
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
@click.option("--model", default="affine", show_default=True, help="translation, rigid, similarity, affine, or some of "
              "rotation,translation,scale,shear.")  # fmt: skip
@click.option("--metric", default="ncc", show_default=True, help="ncc, mse, mae, lncc or mi.")
@click.option(
    "--init", default="auto", show_default=True, help="auto, identity, moments, phase, search, or the file of a fit."
)
@click.option("--level", type=int, default=0, show_default=True, help="Pyramid level of both images to use.")
@click.option("--fixed-mask", "--mask", "fixed_mask", help="A volume that is positive where voxels of FIXED count.")
@click.option("--moving-mask", help="A volume that is positive where voxels of MOVING count.")
@open_options
@device
@verbosity
def command(
    fixed: str,
    moving: str,
    *,
    model: str,
    metric: str,
    init: str,
    level: int,
    fixed_mask: str | None,
    moving_mask: str | None,
    opening: Opening,
    device: str,
    quiet: bool,
    **outputs: Any,
) -> int:
    """Estimate where each point of FIXED lies in MOVING.

    \b
    daskreg register fixed.tif moving.tif -o fit.json --model rigid --report fit.html
    daskreg register a.zarr b.zarr -o fit.json --channel DAPI --level 1
    daskreg register ct.nii mr.nii -o fit.json --metric mi --mask brain.nii

    `daskreg warp MOVING OUT.zarr --pull FIT.json --like FIXED` then warps MOVING onto FIXED.
    """
    import daskreg

    images = [opening.open(path, level=level) for path in (fixed, moving)]
    start: Any = daskreg.load(init) if init.endswith(".json") else init
    groups: Any = tuple(model.split(",")) if "," in model else model
    with shown_progress("registering", quiet=quiet) as progress:
        masks = {"fixed_mask": opened_mask(fixed_mask), "moving_mask": opened_mask(moving_mask)}
        fit = daskreg.register(
            *images, **masks, model=groups, metric=metric, init=start, device=device, progress=progress
        )
    return save_outputs(fit, **outputs)
