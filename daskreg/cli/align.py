"""daskreg align: the drift of a stack's slices."""

from __future__ import annotations

from typing import Any

import click

from daskreg.cli.options import NumberOrWord, OutputFile, counting, deliver, device, fit_outputs, loudness, reading


@click.command(short_help="The drift of a stack's slices.")
@click.argument("stack")
@fit_outputs
@click.option("--table", type=OutputFile(), help="Write the parameters of each slice as CSV.")
@click.option("--model", default="rigid", show_default=True, help="translation, rigid, similarity, affine, or groups "
              "out of rotation,translation,scale,shear.")  # fmt: skip
@click.option("--reference", type=NumberOrWord(), help="previous, first, mean, or the number of a slice.")
@click.option("--metric", default="ncc", show_default=True, help="ncc or mse.")
@click.option("--trend", type=click.Choice(["remove", "keep"]), default="remove", show_default=True,
              help="keep: leave the slow course of the slices as it is.")  # fmt: skip
@click.option("--smooth", type=float, default=15, show_default=True, help="Slices; what is slower counts as slow.")
@click.option("--axis", type=NumberOrWord(), default=0, show_default=True, help="The axis along which slices follow.")
@click.option("--level", type=int, default=0, show_default=True, help="Pyramid level to work on.")
@reading
@device
@loudness
def command(
    stack: str,
    *,
    table: Any,
    model: str,
    reference: str | int | None,
    metric: str,
    trend: str,
    smooth: float,
    axis: str | int,
    level: int,
    channel: str | int | None,
    spacing: float | None,
    unit: str | None,
    device: str,
    quiet: bool,
    **outputs: Any,
) -> int:
    """Estimate where each slice of the aligned STACK is found in the raw one.

    `daskreg warp STACK OUT.zarr --pull FIT.json` then aligns it, and any other volume of the
    same slices (another channel, another detector) with the same file.
    """
    import daskreg

    volume = daskreg.open(stack, level=level, channel=channel, spacing=spacing, unit=unit)
    options: dict[str, Any] = {} if reference is None else {"reference": reference}
    groups: Any = tuple(model.split(",")) if "," in model else model
    with counting("aligning", quiet=quiet) as progress:
        fit = daskreg.align_stack(
            volume,
            model=groups,
            metric=metric,
            trend=trend,
            smooth=smooth,
            axis=axis,
            device=device,
            progress=progress,
            **options,
        )
    if table is not None:
        fit.to_dataframe().to_csv(table)
    return deliver(fit, **outputs)
